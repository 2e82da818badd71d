//! Tests of spans against a small collector.

use super::*;
use protobuf::CodedInputStream;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const TIMEOUT: Duration = Duration::from_secs(20);

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(TIMEOUT, test).await.unwrap() })
}

/// Accepts one request, answers it with `status`, and returns its head and its body.
async fn collect(listener: &TcpListener, status: &str) -> (String, Vec<u8>) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut bytes = Vec::new();
    let (head, length) = loop {
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(bytes.drain(..end + 4).collect()).unwrap();
        let line = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
        let length: usize = line.parse().unwrap();
        break (head, length);
    };
    while bytes.len() < length {
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
    }
    stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await.unwrap();
    (head, bytes)
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

fn tracer(url: &str, more: &[(&str, &str)]) -> Tracer {
    let known = |name: &str| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(url.to_owned()),
        _ => more.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()),
    };
    Tracer::start(Config::read("containerd-shim-one", known))
}

fn metadata(traceparent: &str) -> HashMap<String, Vec<String>> {
    HashMap::from([(TRACEPARENT.to_owned(), vec![traceparent.to_owned()])])
}

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[test]
fn calls_arrive_as_spans_of_their_callers_trace() {
    run(async {
        let (listener, url) = listen().await;
        let more = [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"), ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret")];
        let tracer = tracer(&url, &more);
        let mut good = tracer.call("containerd.task.v3.Task", "Start", &metadata(PARENT));
        good.attribute("container.id", "box");
        drop(good);
        let mut bad = tracer.call("containerd.task.v3.Task", "Kill", &HashMap::new());
        bad.fail("not found");
        drop(bad);
        let (answered, ()) = tokio::join!(collect(&listener, "200 OK"), tracer.close(TIMEOUT));
        let (head, body) = answered;
        assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("\r\nContent-Type: application/json\r\n") && head.contains("\r\napi-key: secret\r\n"));
        let body: Value = serde_json::from_slice(&body).unwrap();
        let resource = &body["resourceSpans"][0];
        assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "containerd-shim-one");
        let spans = resource["scopeSpans"][0]["spans"].as_array().unwrap();
        assert_eq!(spans.len(), 2);
        assert_eq!(spans[0]["name"], "containerd.task.v3.Task/Start");
        assert_eq!(spans[0]["traceId"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(spans[0]["parentSpanId"], "b7ad6b7169203331");
        assert_eq!(spans[0]["attributes"][3]["key"], "container.id");
        let time = |key: &str| spans[0][key].as_str().unwrap().parse::<u64>().unwrap();
        assert!(time("startTimeUnixNano") <= time("endTimeUnixNano") && time("startTimeUnixNano") > 0);
        assert_eq!(spans[0].get("status"), None);
        assert_eq!((&spans[1]["status"]["code"], &spans[1]["status"]["message"]), (&2.into(), &"not found".into()));
        assert_eq!(spans[1].get("parentSpanId"), None);
        assert_ne!(spans[1]["traceId"], spans[0]["traceId"]);
    });
}

/// The contents of a message's length-delimited fields of one number, in order.
fn fields(message: &[u8], number: u32) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut stream = CodedInputStream::from_bytes(message);
    while let Some(tag) = stream.read_raw_tag_or_eof().unwrap() {
        match (tag >> 3 == number, tag & 7) {
            (true, 2) => found.push(stream.read_bytes().unwrap()),
            (true, 1) => found.push(stream.read_fixed64().unwrap().to_le_bytes().to_vec()),
            (true, 0) => found.push(stream.read_uint64().unwrap().to_le_bytes().to_vec()),
            _ => {
                protobuf::rt::skip_field_for_tag(tag, &mut stream).unwrap();
            }
        }
    }
    found
}

#[test]
fn the_binary_form_says_the_same() {
    run(async {
        let (listener, url) = listen().await;
        let tracer = tracer(&url, &[]);
        let mut span = tracer.call("S", "M", &metadata(PARENT));
        span.fail("why");
        drop(span);
        let ((head, body), ()) = tokio::join!(collect(&listener, "200 OK"), tracer.close(TIMEOUT));
        assert!(head.contains("\r\nContent-Type: application/x-protobuf\r\n"));
        let one = |message: &[u8], number| fields(message, number).into_iter().next().unwrap();
        let of_resource = one(&body, 1);
        let attribute = one(&one(&of_resource, 1), 1);
        assert_eq!(one(&attribute, 1), b"service.name");
        assert_eq!(one(&one(&attribute, 2), 1), b"containerd-shim-one");
        let span = one(&one(&of_resource, 2), 2);
        assert_eq!(one(&span, 1), bytes::<16>("0af7651916cd43dd8448eb211c80319c").unwrap());
        assert_eq!(one(&span, 4), bytes::<8>("b7ad6b7169203331").unwrap());
        assert_eq!((one(&span, 5), one(&span, 6)[0]), (b"S/M".to_vec(), 2));
        let time = |number| u64::from_le_bytes(one(&span, number).try_into().unwrap());
        assert!(time(7) > 0 && time(7) <= time(8));
        assert_eq!(fields(&span, 9).len(), 3);
        let status = one(&span, 15);
        assert_eq!((one(&status, 2), one(&status, 3)[0]), (b"why".to_vec(), 2));
    });
}

#[test]
fn a_full_batch_is_sent_at_once_and_an_error_loses_it_alone() {
    run(async {
        let (listener, url) = listen().await;
        let tracer = tracer(&url, &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]);
        let spans = |count: usize| (0..count).for_each(|_| drop(tracer.call("S", "M", &HashMap::new())));
        let count = |body: &[u8]| {
            let body: Value = serde_json::from_slice(body).unwrap();
            body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().len()
        };
        spans(BATCH + 1);
        let (_, first) = collect(&listener, "503 Service Unavailable").await;
        assert_eq!(count(&first), BATCH);
        let ((_, second), ()) = tokio::join!(collect(&listener, "202 Accepted"), tracer.close(TIMEOUT));
        assert_eq!(count(&second), 1);
        assert_eq!(tracer.0.as_ref().unwrap().queue().lost, BATCH as u64);
        // After close, no span is queued.
        spans(1);
        assert!(tracer.0.as_ref().unwrap().queue().waiting.is_empty());
    });
}

#[test]
fn close_without_a_collector_keeps_its_limit_and_the_queue_is_bounded() {
    run(async {
        // The listener accepts nothing: connections stay in the backlog.
        let (_listener, url) = listen().await;
        let tracer = tracer(&url, &[]);
        for _ in 0..MAX_SPANS + 5 {
            drop(tracer.call("S", "M", &HashMap::new()));
        }
        assert_eq!(tracer.0.as_ref().unwrap().queue().waiting.len(), MAX_SPANS);
        assert_eq!(tracer.0.as_ref().unwrap().queue().lost, 5);
        tracer.close(Duration::from_millis(50)).await;
    });
}

#[test]
fn nothing_is_made_when_nothing_is_wanted() {
    let tracer = Tracer::start(Config::read("shim", |_| None));
    assert!(tracer.0.is_none() && tracer.call("S", "M", &metadata(PARENT)).0.is_none());
    run(async {
        let (_listener, url) = listen().await;
        let not_sampled = PARENT.replace("-01", "-00");
        assert!(tracer_of(&url).call("S", "M", &metadata(&not_sampled)).0.is_none());
        assert!(tracer_of(&url).call("S", "M", &metadata(PARENT)).0.is_some());
    });
}

fn tracer_of(url: &str) -> Tracer {
    tracer(url, &[])
}

#[test]
fn a_parent_is_read_as_w3c_says() {
    let parent = Parent::parse(PARENT).unwrap();
    assert_eq!((parent.id, parent.sampled), ([0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31], true));
    // A later version of the header may carry more.
    assert_eq!(Parent::parse(&format!("cc{}-more", &PARENT[2..])), Some(parent));
    for wrong in [
        "",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
    ] {
        assert_eq!(Parent::parse(wrong), None, "{wrong}");
    }
}
