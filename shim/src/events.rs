//! Events to containerd: a queue, and one task that empties it in order.
//!
//! Publishing never blocks. The task forwards the oldest event through containerd's ttrpc socket
//! (containerd.services.events.ttrpc.v1.Events/Forward) until containerd has taken it, and only then continues with the
//! next one, so events arrive in the order in which they were published. While containerd is stopped, restarting or
//! hanging, the events stay queued; the task reconnects.
//!
//! An event whose answer is lost with the connection is sent again: each event arrives at least once.
//!
//! | condition | action |
//! |---|---|
//! | no connection, or it breaks, or no answer within `ANSWER_TIMEOUT` | the same event again, without limit, on a new connection |
//! | containerd answers with an error | the same event again, `MAX_ATTEMPTS` times in all; then it is dropped, and logged |
//! | more than `MAX_QUEUED_BYTES` are queued | the oldest event that is not exit, delete or oom is dropped; else the oldest. Each is logged |
//!
//! A container without requests produces one exit event per process, so the last case needs thousands of execs and a
//! daemon that does not answer and yet sends requests.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use containerd_shim_protos::events::task;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::EventsClient;
use containerd_shim_protos::topics;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField};
use tokio::sync::watch;
use ttrpc::asynchronous::Client;

/// The size of the queued events, in bytes.
const MAX_QUEUED_BYTES: usize = 8 << 20;
/// The approximate size of an event beside its own bytes: its envelope and its slot in the queue.
const OVERHEAD: usize = 256;
/// The number of attempts of an event that containerd answers with an error.
const MAX_ATTEMPTS: u32 = 5;
/// The time that containerd may take to answer. A slow daemon has the event all the same, and would get it twice; one
/// that has exited, or is stopped for good, closes the connection, which is noticed at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// The delays between two attempts to connect: the first and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// The ttrpc metadata key of a request's namespace (containerd's pkg/namespaces/ttrpc.go).
const NAMESPACE_HEADER: &str = "containerd-namespace-ttrpc";

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident $topic:ident,)*) => {
        /// An event of a task.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "the names of containerd's own messages (api/events/task.proto)")]
        pub enum Event {
            $($(#[$doc])* $name(task::$name),)*
        }

        $(impl From<task::$name> for Event {
            fn from(message: task::$name) -> Event {
                Event::$name(message)
            }
        })*

        impl Event {
            /// The topic under which containerd publishes it.
            pub fn topic(&self) -> &'static str {
                match self {
                    $(Event::$name(_) => topics::$topic,)*
                }
            }

            /// The container of the event.
            pub fn container_id(&self) -> &str {
                match self {
                    $(Event::$name(message) => &message.container_id,)*
                }
            }

            fn any(&self) -> protobuf::Result<Any> {
                let (name, value) = match self {
                    $(Event::$name(message) => (stringify!($name), message.write_to_bytes()?),)*
                };
                Ok(Any { type_url: format!("containerd.events.{name}"), value, ..Any::default() })
            }
        }
    };
}

events! {
    TaskCreate TASK_CREATE_EVENT_TOPIC,
    TaskStart TASK_START_EVENT_TOPIC,
    TaskExit TASK_EXIT_EVENT_TOPIC,
    TaskDelete TASK_DELETE_EVENT_TOPIC,
    TaskOOM TASK_OOM_EVENT_TOPIC,
    TaskExecAdded TASK_EXEC_ADDED_EVENT_TOPIC,
    TaskExecStarted TASK_EXEC_STARTED_EVENT_TOPIC,
    TaskPaused TASK_PAUSED_EVENT_TOPIC,
    TaskResumed TASK_RESUMED_EVENT_TOPIC,
    TaskCheckpointed TASK_CHECKPOINTED_EVENT_TOPIC,
}

impl Event {
    /// Whether the event reports something that containerd could not learn otherwise.
    fn is_essential(&self) -> bool {
        matches!(self, Event::TaskExit(_) | Event::TaskDelete(_) | Event::TaskOOM(_))
    }

    /// The exec of this id. Init is identified by the container's id, or by an empty one.
    fn exec_of<'a>(&self, id: &'a str) -> Option<&'a str> {
        Some(id).filter(|id| !id.is_empty() && *id != self.container_id())
    }

    fn log_fields(&self) -> LogFields<'_> {
        match self {
            Event::TaskCreate(event) => LogFields { pid: Some(event.pid), ..LogFields::default() },
            Event::TaskStart(event) => LogFields { pid: Some(event.pid), ..LogFields::default() },
            Event::TaskExecAdded(event) => LogFields { exec: self.exec_of(&event.exec_id), ..LogFields::default() },
            Event::TaskExecStarted(event) => {
                LogFields { exec: self.exec_of(&event.exec_id), pid: Some(event.pid), status: None }
            }
            Event::TaskExit(event) => {
                LogFields { exec: self.exec_of(&event.id), pid: Some(event.pid), status: Some(event.exit_status) }
            }
            Event::TaskDelete(event) => {
                LogFields { exec: self.exec_of(&event.id), pid: Some(event.pid), status: Some(event.exit_status) }
            }
            _ => LogFields::default(),
        }
    }
}

/// The fields of an event in the log, besides its topic and container.
#[derive(Default)]
struct LogFields<'a> {
    exec: Option<&'a str>,
    pid: Option<u32>,
    status: Option<u32>,
}

/// Converts `time` to protobuf's form, for the messages' own times too.
pub fn timestamp(time: SystemTime) -> MessageField<Timestamp> {
    MessageField::some(time.into())
}

struct QueuedEvent {
    number: u64,
    envelope: Envelope,
    size: usize,
    is_essential: bool,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<QueuedEvent>,
    /// The size of all queued events.
    bytes: usize,
    /// The number of the next event.
    next: u64,
    /// Events dropped because the queue was full.
    dropped: u64,
    closed: bool,
}

impl Queue {
    fn push(&mut self, envelope: Envelope, is_essential: bool, largest: usize) {
        let size = OVERHEAD + envelope.event.value.len();
        self.waiting.push_back(QueuedEvent { number: self.next, envelope, size, is_essential });
        self.next += 1;
        self.bytes += size;
        // The first event is being sent, and the last one has just been queued: neither is dropped.
        while self.bytes > largest && self.waiting.len() > 2 {
            let last = self.waiting.len() - 1;
            let victim = (1..last).find(|at| !self.waiting[*at].is_essential).unwrap_or(1);
            if let Some(gone) = self.waiting.remove(victim) {
                self.bytes -= gone.size;
                self.dropped += 1;
                tracing::error!(
                    "containerd does not take events and {} are queued: dropping {}, the {}th event dropped",
                    self.waiting.len(),
                    gone.envelope.topic,
                    self.dropped
                );
            }
        }
    }

    fn done(&mut self, number: u64) {
        if self.waiting.front().is_some_and(|first| first.number == number) {
            self.bytes -= self.waiting.pop_front().map_or(0, |gone| gone.size);
        }
    }
}

struct Shared {
    queue: Mutex<Queue>,
    /// The number of queued events. Every change wakes its receivers.
    length: watch::Sender<usize>,
    namespace: String,
    /// Without an address, events are dropped.
    address: Option<String>,
}

impl Shared {
    /// Locks the queue, and ignores poisoning: no method of it leaves it half changed.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report_length(&self) {
        // Sent for every change, even to the same length: it is also what wakes the task.
        let length = self.queue().waiting.len();
        self.length.send_replace(length);
    }
}

/// Publishes events. Clones share one queue.
#[derive(Clone)]
pub struct Publisher(Arc<Shared>);

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Publisher({:?}, {} waiting)", self.0.address, self.waiting())
    }
}

impl Publisher {
    /// Starts the task that forwards events to `address`, the value of TTRPC_ADDRESS: a path, or `unix://` before one.
    /// Without an address, events are dropped.
    ///
    /// Must be called inside a tokio runtime, in which the task runs until [`Publisher::close`].
    pub fn start(address: Option<&str>, namespace: &str) -> Publisher {
        let address = address.filter(|address| !address.is_empty()).map(|address| match address.contains("://") {
            true => address.to_owned(),
            false => format!("unix://{address}"),
        });
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            length: watch::Sender::new(0),
            namespace: namespace.to_owned(),
            address,
        });
        match &shared.address {
            Some(address) => {
                tokio::spawn(Forwarder::new(shared.clone(), address.clone()).run());
            }
            None => tracing::warn!("TTRPC_ADDRESS is not set: containerd gets no events from this shim"),
        }
        Publisher(shared)
    }

    /// Queues an event. Never blocks, and may be called from any thread.
    pub fn publish(&self, event: impl Into<Event>) {
        let event = event.into();
        if self.0.address.is_none() {
            return;
        }
        let any = match event.any() {
            Ok(any) => any,
            Err(error) => {
                tracing::error!("{} cannot be encoded: {error}", event.topic());
                return;
            }
        };
        let LogFields { exec, pid, status } = event.log_fields();
        tracing::debug!(id = event.container_id(), exec, pid, status, "event {}", event.topic());
        let envelope = Envelope {
            timestamp: timestamp(SystemTime::now()),
            namespace: self.0.namespace.clone(),
            topic: event.topic().to_owned(),
            event: MessageField::some(any),
            ..Envelope::default()
        };
        self.0.queue().push(envelope, event.is_essential(), MAX_QUEUED_BYTES);
        self.0.report_length();
    }

    /// The number of queued events.
    pub fn waiting(&self) -> usize {
        self.0.queue().waiting.len()
    }

    /// The number of events dropped because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.0.queue().dropped
    }

    /// Waits until containerd has taken all events, at most for `limit`, and ends the task. The remaining events are
    /// lost; their number is returned.
    pub async fn close(&self, limit: Duration) -> usize {
        let mut length = self.0.length.subscribe();
        // An error means that there is no sender any more, and this value holds one.
        let _ = tokio::time::timeout(limit, length.wait_for(|length| *length == 0)).await;
        let left = {
            let mut queue = self.0.queue();
            queue.closed = true;
            queue.waiting.len()
        };
        self.0.report_length();
        if left > 0 {
            tracing::error!("{left} events are lost: containerd did not take them within {limit:?}");
        }
        left
    }
}

/// The reason why an event was not taken.
enum Failure {
    /// There is no connection, or it broke.
    Unreachable(String),
    /// containerd answered with an error.
    Refused(String),
}

/// The task that forwards events.
struct Forwarder {
    shared: Arc<Shared>,
    address: String,
    client: Option<Client>,
    changed: watch::Receiver<usize>,
}

impl Forwarder {
    fn new(shared: Arc<Shared>, address: String) -> Forwarder {
        let changed = shared.length.subscribe();
        Forwarder { shared, address, client: None, changed }
    }

    async fn run(mut self) {
        let mut backoff = BACKOFF.0;
        let mut unreachable = false;
        let mut refusals = 0;
        loop {
            let next = {
                let queue = self.shared.queue();
                if queue.closed {
                    return;
                }
                queue.waiting.front().map(|first| (first.number, first.envelope.clone()))
            };
            let Some((number, envelope)) = next else {
                // The sender is in `shared`, which this task holds: the wait does not fail.
                if self.changed.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let topic = envelope.topic.clone();
            match self.forward(envelope).await {
                Ok(()) => {
                    if std::mem::take(&mut unreachable) {
                        tracing::info!("containerd takes events again");
                    }
                    (backoff, refusals) = (BACKOFF.0, 0);
                    self.done(number);
                }
                Err(Failure::Unreachable(reason)) => {
                    self.client = None;
                    if !std::mem::replace(&mut unreachable, true) {
                        tracing::warn!("forwarding events to containerd failed, they stay queued: {reason}");
                    }
                    self.pause(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF.1);
                }
                Err(Failure::Refused(reason)) => {
                    refusals += 1;
                    if refusals < MAX_ATTEMPTS {
                        self.pause(BACKOFF.0).await;
                        continue;
                    }
                    tracing::error!("dropping event {topic}: containerd refused it {refusals} times: {reason}");
                    refusals = 0;
                    self.done(number);
                }
            }
        }
    }

    fn done(&self, number: u64) {
        self.shared.queue().done(number);
        self.shared.report_length();
    }

    /// Waits for `time`, or until the queue is closed.
    async fn pause(&mut self, time: Duration) {
        let shared = self.shared.clone();
        // An expired wait is the expected outcome, and a sender exists as long as `shared`.
        let _ = tokio::time::timeout(time, self.changed.wait_for(|_| shared.queue().closed)).await;
    }

    async fn forward(&mut self, envelope: Envelope) -> Result<(), Failure> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let client =
                    Client::connect(&self.address).await.map_err(|error| Failure::Unreachable(error.to_string()))?;
                self.client.insert(client).clone()
            }
        };
        let namespace = (NAMESPACE_HEADER.to_owned(), vec![self.shared.namespace.clone()]);
        let mut context = ttrpc::context::with_metadata(HashMap::from([namespace]));
        context.timeout_nano = i64::try_from(ANSWER_TIMEOUT.as_nanos()).unwrap_or(i64::MAX);
        let request = ForwardRequest { envelope: MessageField::some(envelope), ..ForwardRequest::default() };
        match EventsClient::new(client).forward(context, &request).await {
            Ok(_) => Ok(()),
            // The client's own deadline has this code too; a server that took so long is treated alike.
            Err(ttrpc::Error::RpcStatus(status)) if status.code() == ttrpc::Code::DEADLINE_EXCEEDED => {
                Err(Failure::Unreachable(status.message))
            }
            Err(ttrpc::Error::RpcStatus(status)) if status.code() == ttrpc::Code::UNAVAILABLE => {
                Err(Failure::Unreachable(status.message))
            }
            Err(ttrpc::Error::RpcStatus(status)) => Err(Failure::Refused(status.message)),
            Err(error) => Err(Failure::Unreachable(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests;
