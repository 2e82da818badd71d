//! ExportTraceServiceRequest in OTLP's two encodings (opentelemetry-proto, collector/trace/v1 and trace/v1).

use brig_wire::protobuf::Message;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::Finished;
use super::config::Config;

/// SPAN_KIND_SERVER of opentelemetry-proto, trace/v1.
const SERVER: i64 = 2;
/// STATUS_CODE_ERROR of opentelemetry-proto, trace/v1.
const ERROR: i64 = 2;
/// The name and the version of the instrumentation scope.
const SCOPE: (&str, &str) = ("brig", env!("CARGO_PKG_VERSION"));

fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Encodes as JSON: ids in hexadecimal, 64-bit numbers as text.
pub(super) fn json(config: &Config, spans: &[Finished]) -> Vec<u8> {
    let attribute = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let span = |span: &Finished| {
        let attributes: Vec<Value> = span.attributes.iter().map(|(key, value)| attribute(key, value)).collect();
        let mut shown = json!({
            "traceId": hexadecimal(&span.trace),
            "spanId": hexadecimal(&span.id),
            "name": span.name,
            "kind": SERVER,
            "startTimeUnixNano": nanoseconds(span.started).to_string(),
            "endTimeUnixNano": nanoseconds(span.ended).to_string(),
            "attributes": attributes,
        });
        if let Some(parent) = &span.parent {
            shown["parentSpanId"] = hexadecimal(parent).into();
        }
        if let Some(error) = &span.error {
            shown["status"] = json!({"code": ERROR, "message": error});
        }
        shown
    };
    let resource: Vec<Value> = config.resource.iter().map(|(key, value)| attribute(key, value)).collect();
    let spans: Vec<Value> = spans.iter().map(span).collect();
    let request = json!({"resourceSpans": [{
        "resource": {"attributes": resource},
        "scopeSpans": [{"scope": {"name": SCOPE.0, "version": SCOPE.1}, "spans": spans}],
    }]});
    request.to_string().into_bytes()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Encodes as binary protobuf.
pub(super) fn protobuf(config: &Config, spans: &[Finished]) -> Vec<u8> {
    let attribute = |key: &str, value: &str| {
        Message::default().text(1, key.as_bytes()).message(2, &Message::default().text(1, value.as_bytes()))
    };
    let span = |span: &Finished| {
        let mut fields = Message::default().text(1, span.trace).text(2, span.id);
        if let Some(parent) = &span.parent {
            fields = fields.text(4, parent);
        }
        fields = fields
            .text(5, span.name.as_bytes())
            .number(6, SERVER)
            .fixed64(7, nanoseconds(span.started))
            .fixed64(8, nanoseconds(span.ended));
        for (key, value) in &span.attributes {
            fields = fields.message(9, &attribute(key, value));
        }
        match &span.error {
            Some(error) => fields.message(15, &Message::default().text(2, error.as_bytes()).number(3, ERROR)),
            None => fields,
        }
    };
    let resource = config.resource.iter();
    let resource = resource.fold(Message::default(), |fields, (key, value)| fields.message(1, &attribute(key, value)));
    let scope = Message::default().text(1, SCOPE.0.as_bytes()).text(2, SCOPE.1.as_bytes());
    let of_scope =
        spans.iter().fold(Message::default().message(1, &scope), |fields, one| fields.message(2, &span(one)));
    let of_resource = Message::default().message(1, &resource).message(2, &of_scope);
    Message::default().message(1, &of_resource).bytes().to_vec()
}
