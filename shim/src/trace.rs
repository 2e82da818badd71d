//! Traces: a span for each call, sent to an OpenTelemetry collector.
//!
//! Traces are configured by the variables of the OpenTelemetry specification (its "Environment Variable Specification"
//! and "OTLP Exporter Configuration"), which containerd passes on to its shims. Without an endpoint, traces cost no
//! task, no memory and no clock read.
//!
//! | variable | effect |
//! |---|---|
//! | OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, or OTEL_EXPORTER_OTLP_ENDPOINT with /v1/traces after it | `http://` only |
//! | OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, or OTEL_EXPORTER_OTLP_PROTOCOL | http/protobuf (the default) and http/json |
//! | OTEL_EXPORTER_OTLP_TRACES_HEADERS, or OTEL_EXPORTER_OTLP_HEADERS | sent along |
//! | OTEL_EXPORTER_OTLP_TRACES_TIMEOUT, or OTEL_EXPORTER_OTLP_TIMEOUT | milliseconds; 10000 without |
//! | OTEL_TRACES_EXPORTER | otlp and none |
//! | OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG | always_on, always_off, traceidratio, each also parentbased_ |
//! | OTEL_RESOURCE_ATTRIBUTES | attributes of the sender; its service.name is containerd-shim-ID, as with Go's shim |
//! | OTEL_SDK_DISABLED | true disables traces |
//!
//! A value that is not supported (grpc, https) disables traces too, with a warning that names the variable.

mod config;
mod encode;
mod http;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use config::{Config, Protocol};

/// The most spans that may be queued. Further spans are counted and dropped.
const MAX_SPANS: usize = 2048;
/// The number of spans in one request.
const BATCH: usize = 512;
/// The longest time that a span waits for others.
const DELAY: Duration = Duration::from_secs(5);
/// The ttrpc metadata key of the caller's span (W3C Trace Context, "traceparent").
const TRACEPARENT: &str = "traceparent";

/// The queue of spans for the collector. Clones share one queue.
#[derive(Clone, Debug)]
pub struct Tracer(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    config: Config,
    queue: Mutex<Queue>,
    /// Notified when a batch is full, or the queue is closed.
    full: Notify,
    /// Notified when the spans of a batch were sent, or are lost.
    sent: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Finished>,
    /// Spans taken from the queue and not yet acknowledged.
    in_flight: usize,
    /// Spans that were dropped because the queue was full or the collector failed.
    lost: u64,
    closed: bool,
}

/// A finished span.
#[derive(Clone, Debug)]
struct Finished {
    trace: [u8; 16],
    id: [u8; 8],
    parent: Option<[u8; 8]>,
    name: String,
    started: SystemTime,
    ended: SystemTime,
    attributes: Vec<(&'static str, String)>,
    /// The error, if the call failed.
    error: Option<String>,
}

/// The span of a call in progress. It finishes when this is dropped; without a tracer it is inactive.
#[derive(Debug)]
pub struct Span(Option<(Arc<Shared>, Finished)>);

/// The caller's span: the content of W3C's traceparent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parent {
    trace: [u8; 16],
    id: [u8; 8],
    sampled: bool,
}

impl Tracer {
    /// Creates a tracer from the environment, for the shim that was started for `id`. With an endpoint, the task that
    /// sends is spawned in the current tokio runtime.
    pub fn from_environment(id: &str) -> Tracer {
        Tracer::start(Config::read(&format!("containerd-shim-{id}"), |name| std::env::var(name).ok()))
    }

    fn start(config: Option<Config>) -> Tracer {
        let Some(config) = config else { return Tracer(None) };
        let shared = Arc::new(Shared { config, queue: Mutex::default(), full: Notify::new(), sent: Notify::new() });
        tokio::spawn(send_all(Arc::clone(&shared)));
        Tracer(Some(shared))
    }

    /// Starts the span of the call `method` of `service`; `metadata` is what its caller sent with it.
    pub fn call(&self, service: &str, method: &str, metadata: &HashMap<String, Vec<String>>) -> Span {
        let Some(shared) = &self.0 else { return Span(None) };
        let parent = metadata.get(TRACEPARENT).and_then(|values| Parent::parse(values.first()?));
        let trace = parent.map_or_else(new_trace, |parent| parent.trace);
        if !shared.config.sampler.takes(trace, parent.map(|parent| parent.sampled)) {
            return Span(None);
        }
        let now = SystemTime::now();
        let attributes = vec![
            ("rpc.system", "ttrpc".to_owned()),
            ("rpc.service", service.to_owned()),
            ("rpc.method", method.to_owned()),
        ];
        let finished = Finished {
            trace,
            id: random(),
            parent: parent.map(|parent| parent.id),
            name: format!("{service}/{method}"),
            started: now,
            ended: now,
            attributes,
            error: None,
        };
        Span(Some((Arc::clone(shared), finished)))
    }

    /// Sends the queued spans, within `limit`, and ends the task.
    pub async fn close(&self, limit: Duration) {
        let Some(shared) = &self.0 else { return };
        shared.queue().closed = true;
        shared.full.notify_one();
        let all_sent = async {
            loop {
                let sent = shared.sent.notified();
                if shared.is_idle() {
                    return;
                }
                sent.await;
            }
        };
        if tokio::time::timeout(limit, all_sent).await.is_err() {
            tracing::warn!("{} spans are lost: the collector did not take them in time", shared.queue().waiting.len());
        }
    }
}

impl Span {
    /// Adds an attribute of the call.
    pub fn attribute(&mut self, key: &'static str, value: &str) {
        if let Some((_, span)) = &mut self.0 {
            span.attributes.push((key, value.to_owned()));
        }
    }

    /// Marks the call as failed.
    pub fn fail(&mut self, error: &str) {
        if let Some((_, span)) = &mut self.0 {
            span.error = Some(error.to_owned());
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some((shared, mut span)) = self.0.take() {
            span.ended = SystemTime::now();
            shared.put(span);
        }
    }
}

impl Shared {
    /// Locks the queue, and ignores poisoning: each change of it is complete.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_idle(&self) -> bool {
        let queue = self.queue();
        queue.waiting.is_empty() && queue.in_flight == 0
    }

    fn put(&self, span: Finished) {
        let mut queue = self.queue();
        if queue.waiting.len() >= MAX_SPANS || queue.closed {
            queue.lost += 1;
            return;
        }
        queue.waiting.push_back(span);
        // The first span starts the clock; a full batch does not wait for it.
        if matches!(queue.waiting.len(), 1 | BATCH) {
            self.full.notify_one();
        }
    }

    fn take(&self) -> Vec<Finished> {
        let mut queue = self.queue();
        let count = queue.waiting.len().min(BATCH);
        queue.in_flight = count;
        queue.waiting.drain(..count).collect()
    }
}

/// Runs the sender: it sends a batch when it is full, when its first span has waited for [`DELAY`], or at close.
async fn send_all(shared: Arc<Shared>) {
    let mut failing = false;
    loop {
        let (length, closed) = {
            let queue = shared.queue();
            (queue.waiting.len(), queue.closed)
        };
        match (length, closed) {
            (0, true) => return,
            (0, false) => {
                shared.full.notified().await;
                continue;
            }
            (1..BATCH, false) => {
                let full = async {
                    while shared.queue().waiting.len() < BATCH && !shared.queue().closed {
                        shared.full.notified().await;
                    }
                };
                // A full batch and an expired delay both end the wait.
                let _ = tokio::time::timeout(DELAY, full).await;
            }
            _ => {}
        }
        let spans = shared.take();
        let config = &shared.config;
        let (kind, body) = match config.protocol {
            Protocol::Protobuf => ("application/x-protobuf", encode::protobuf(config, &spans)),
            Protocol::Json => ("application/json", encode::json(config, &spans)),
        };
        let sending = http::post(&config.endpoint, kind, &config.headers, &body);
        let result = match tokio::time::timeout(config.timeout, sending).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {:?}", config.timeout)),
        };
        match result {
            Ok(()) => failing = false,
            Err(error) => {
                // Logged once, not for each batch.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!("traces are lost: {}: {error}", config.endpoint);
                }
                shared.queue().lost += spans.len() as u64;
            }
        }
        shared.queue().in_flight = 0;
        shared.sent.notify_waiters();
    }
}

impl Parent {
    /// Parses `00-TRACE-SPAN-FLAGS` (W3C Trace Context, "traceparent Header Field Values").
    fn parse(text: &str) -> Option<Parent> {
        let mut fields = text.split('-');
        let (version, trace, id, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let known = version.len() == 2 && version != "ff" && (version != "00" || fields.next().is_none());
        let (trace, id, [flags]) = (bytes(trace)?, bytes(id)?, bytes(flags)?);
        (known && trace != [0; 16] && id != [0; 8]).then_some(Parent { trace, id, sampled: flags & 1 != 0 })
    }
}

/// Decodes lower-case hexadecimal digits.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|letter| matches!(letter, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// Generates numbers that no other shim generates: the standard library's hash keys come from the kernel's random
/// numbers.
fn random() -> [u8; 8] {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u8(0);
    // All zeroes is not a valid id.
    (hasher.finish() | 1).to_be_bytes()
}

fn new_trace() -> [u8; 16] {
    let mut trace = [0; 16];
    trace[..8].copy_from_slice(&random());
    trace[8..].copy_from_slice(&random());
    trace
}

#[cfg(test)]
mod tests;
