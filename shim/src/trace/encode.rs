//! ExportTraceServiceRequest in OTLP's two forms (opentelemetry-proto, collector/trace/v1 and trace/v1).
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::Finished;
use super::config::Config;

/// SPAN_KIND_SERVER.
const SERVER: u64 = 2;
/// STATUS_CODE_ERROR.
const ERROR: u64 = 2;
/// The name of the scope, and its version.
const SCOPE: (&str, &str) = ("brig", env!("CARGO_PKG_VERSION"));

fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// The JSON form: ids in hexadecimal, 64-bit numbers as text.
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

/// The binary form.
pub(super) fn protobuf(config: &Config, spans: &[Finished]) -> Vec<u8> {
    let attribute = |key: &str, value: &str| {
        Fields::default().bytes(1, key.as_bytes()).message(2, Fields::default().bytes(1, value.as_bytes()))
    };
    let span = |span: &Finished| {
        let mut fields = Fields::default().bytes(1, &span.trace).bytes(2, &span.id);
        if let Some(parent) = &span.parent {
            fields = fields.bytes(4, parent);
        }
        fields = fields
            .bytes(5, span.name.as_bytes())
            .number(6, SERVER)
            .fixed(7, nanoseconds(span.started))
            .fixed(8, nanoseconds(span.ended));
        for (key, value) in &span.attributes {
            fields = fields.message(9, attribute(key, value));
        }
        match &span.error {
            Some(error) => fields.message(15, Fields::default().bytes(2, error.as_bytes()).number(3, ERROR)),
            None => fields,
        }
    };
    let resource = config.resource.iter();
    let resource = resource.fold(Fields::default(), |fields, (key, value)| fields.message(1, attribute(key, value)));
    let scope = Fields::default().bytes(1, SCOPE.0.as_bytes()).bytes(2, SCOPE.1.as_bytes());
    let of_scope = spans.iter().fold(Fields::default().message(1, scope), |fields, one| fields.message(2, span(one)));
    let of_resource = Fields::default().message(1, resource).message(2, of_scope);
    Fields::default().message(1, of_resource).0
}

/// A message, field by field (protobuf's encoding, "Message Structure").
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn varint(&mut self, mut number: u64) {
        while number > 0x7f {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn number(mut self, field: u64, value: u64) -> Fields {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn fixed(mut self, field: u64, value: u64) -> Fields {
        self.varint(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, bytes: &[u8]) -> Fields {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn message(self, field: u64, message: Fields) -> Fields {
        self.bytes(field, &message.0)
    }
}
