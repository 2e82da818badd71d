//! The environment variables that configure traces.

use std::time::Duration;

use super::http::Endpoint;

/// The endpoint, the encoding and the sampling of traces.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Config {
    pub endpoint: Endpoint,
    pub protocol: Protocol,
    pub headers: Vec<(String, String)>,
    pub timeout: Duration,
    pub sampler: Sampler,
    /// Attributes of the resource: service.name and more.
    pub resource: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Protobuf,
    Json,
}

/// The sampler: the traces that are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sampler {
    /// The caller's decision takes precedence, if there is one.
    parent_based: bool,
    /// The sampled ratio, from 0 (none) to 1 (all).
    ratio: f64,
}

impl Config {
    /// Reads the variables; `None` when traces are not wanted, or cannot be sent as configured, which is logged as a
    /// warning. `service` names the sender.
    pub(super) fn read(service: &str, variable: impl Fn(&str) -> Option<String>) -> Option<Config> {
        // An empty variable counts as unset (the specification, "Parsing empty value").
        let get = |name: &str| {
            let value = variable(name).filter(|value| !value.trim().is_empty())?;
            Some((name.to_owned(), value))
        };
        let of_traces = |name: &str| {
            get(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}")).or_else(|| get(&format!("OTEL_EXPORTER_OTLP_{name}")))
        };
        let (name, mut url) = of_traces("ENDPOINT")?;
        let is_true = |(_, value): (String, String)| value.trim().eq_ignore_ascii_case("true");
        if get("OTEL_SDK_DISABLED").is_some_and(is_true) {
            return None;
        }
        match get("OTEL_TRACES_EXPORTER") {
            Some((_, value)) if value == "none" => return None,
            Some((name, value)) if value != "otlp" => return off(&name, &value, "otlp or none"),
            _ => {}
        }
        if name == "OTEL_EXPORTER_OTLP_ENDPOINT" {
            url = format!("{}/v1/traces", url.trim_end_matches('/'));
        }
        let protocol = match of_traces("PROTOCOL") {
            None => Protocol::Protobuf,
            Some((_, value)) if value == "http/protobuf" => Protocol::Protobuf,
            Some((_, value)) if value == "http/json" => Protocol::Json,
            Some((name, value)) => return off(&name, &value, "http/protobuf or http/json"),
        };
        let Some(endpoint) = Endpoint::parse(&url) else { return off(&name, &url, "http://HOST[:PORT][/PATH]") };
        let timeout = match of_traces("TIMEOUT").map(|(name, value)| (value.trim().parse(), name, value)) {
            None => Duration::from_secs(10),
            Some((Ok(milliseconds), ..)) => Duration::from_millis(milliseconds),
            Some((Err(_), name, value)) => return off(&name, &value, "milliseconds"),
        };
        let sampler = match get("OTEL_TRACES_SAMPLER") {
            None => Sampler { parent_based: true, ratio: 1.0 },
            Some((name, value)) => match Sampler::new(&value, get("OTEL_TRACES_SAMPLER_ARG").map(|(_, value)| value)) {
                Some(sampler) => sampler,
                None => return off(&name, &value, "always_on, always_off or traceidratio, also after parentbased_"),
            },
        };
        let mut resource = pairs(get("OTEL_RESOURCE_ATTRIBUTES").map(|(_, value)| value).as_deref());
        // OTEL_SERVICE_NAME is the daemon's own: containerd sets it for itself where it is unset.
        resource.retain(|(key, _)| key != "service.name");
        resource.push(("service.name".to_owned(), service.to_owned()));
        let headers = pairs(of_traces("HEADERS").map(|(_, value)| value).as_deref());
        Some(Config { endpoint, protocol, headers, timeout, sampler, resource })
    }
}

fn off(name: &str, value: &str, expected: &str) -> Option<Config> {
    tracing::warn!("no traces are sent: {name} is {value:?}: expected {expected}");
    None
}

/// Parses `key=value,key=value` with percent-encoded values, as in W3C Baggage.
fn pairs(text: Option<&str>) -> Vec<(String, String)> {
    let pair = |pair: &str| pair.split_once('=').map(|(key, value)| (key.trim().to_owned(), decoded(value.trim())));
    // A line break in a header would start another header.
    let broken = |text: &String| text.contains(['\r', '\n']);
    let harmless = |(key, value): &(String, String)| !key.is_empty() && !broken(key) && !broken(value);
    text.unwrap_or_default().split(',').filter_map(pair).filter(harmless).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match (first, code.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Sampler {
    fn new(name: &str, argument: Option<String>) -> Option<Sampler> {
        let (parent_based, name) = match name.strip_prefix("parentbased_") {
            Some(name) => (true, name),
            None => (false, name),
        };
        let ratio = match name {
            "always_on" => 1.0,
            "always_off" => 0.0,
            // Without an argument the ratio is 1 (the specification, "OTEL_TRACES_SAMPLER_ARG").
            "traceidratio" => argument.map_or(Ok(1.0), |text| text.trim().parse::<f64>()).ok()?,
            _ => return None,
        };
        (0.0..=1.0).contains(&ratio).then_some(Sampler { parent_based, ratio })
    }

    /// Whether a trace is recorded. `parent` is its caller's decision.
    pub(super) fn takes(&self, trace: [u8; 16], parent: Option<bool>) -> bool {
        if let (true, Some(sampled)) = (self.parent_based, parent) {
            return sampled;
        }
        // The last 63 bits are random in every trace id: the share of ids below the bound is the ratio.
        let low = trace[8..].iter().fold(0_u64, |low, byte| low << 8 | u64::from(*byte));
        ((low >> 1) as f64) < self.ratio * (1_u64 << 63) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> Option<Config> {
        Config::read("shim", |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn without_an_endpoint_or_when_turned_off_there_is_nothing() {
        assert_eq!(config(&[]), None);
        assert_eq!(config(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]), None);
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h");
        assert_eq!(config(&[endpoint, ("OTEL_SDK_DISABLED", "True")]), None);
        assert_eq!(config(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]), None);
        assert_eq!(config(&[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]), None);
        assert_eq!(config(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://h")]), None);
        let ratio = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")];
        assert_eq!(config(&[endpoint, ratio[0], ratio[1]]), None);
    }

    #[test]
    fn the_variable_for_traces_wins_and_is_taken_as_it_is() {
        let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:4318/");
        assert_eq!(config(&[general]).unwrap().endpoint.to_string(), "http://h:4318/v1/traces");
        let both = config(&[general, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t/x")]).unwrap();
        assert_eq!(both.endpoint.to_string(), "http://t:80/x");
        assert_eq!((both.protocol, both.timeout), (Protocol::Protobuf, Duration::from_secs(10)));
    }

    #[test]
    fn headers_and_resources_are_decoded() {
        let found = config(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, x = y,bad=%0d%0aHost: z,nonsense"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,host=n1"),
            ("OTEL_SERVICE_NAME", "containerd"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
        ])
        .unwrap();
        let owned = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(found.headers, owned(&[("api-key", "a b"), ("x", "y")]));
        assert_eq!(found.resource, owned(&[("host", "n1"), ("service.name", "shim")]));
        assert_eq!(found.timeout, Duration::from_millis(250));
    }

    #[test]
    fn samplers_decide_by_parent_or_by_id() {
        let trace = |first: u8| {
            let mut trace = [0; 16];
            trace[8] = first;
            trace
        };
        let half = Sampler::new("traceidratio", Some("0.5".into())).unwrap();
        assert!(half.takes(trace(0x7f), Some(false)) && !half.takes(trace(0x80), Some(true)));
        let by_parent = Sampler::new("parentbased_always_off", None).unwrap();
        assert!(by_parent.takes(trace(0), Some(true)) && !by_parent.takes(trace(0), None));
        assert!(Sampler::new("always_on", None).unwrap().takes(trace(0xff), Some(false)));
        assert!(!Sampler::new("always_off", None).unwrap().takes(trace(0), Some(true)));
        assert_eq!(Sampler::new("jaeger_remote", None), None);
    }
}
