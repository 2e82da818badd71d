//! Events to containerd: a queue, and one task that empties it in order.
//!
//! Who publishes never waits. The task forwards the oldest event through containerd's ttrpc socket
//! (containerd.services.events.ttrpc.v1.Events/Forward) until containerd has taken it, and only then goes on to the
//! next, so that the order in which they were published is the order in which they arrive. While containerd is away,
//! being restarted or hanging, the events stay; the task connects anew.
//!
//! An event whose answer is lost with the connection is sent again: each arrives at least once.
//!
//! | what happens | what is done |
//! |---|---|
//! | no connection, or it breaks, or no answer within `ANSWER` | the same event again, for ever, on a new connection |
//! | containerd answers with an error | the same event again, `REFUSALS` times in all; then it is given up, and logged |
//! | more than `LARGEST` bytes wait | the oldest event goes that is not exit, delete or oom; else the oldest. Each is logged |
//!
//! A container without requests produces one exit event per process, so the last case needs thousands of execs and a
//! daemon that is away and yet sends requests.
#![forbid(unsafe_code)]

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

/// How many bytes of events may wait.
const LARGEST: usize = 8 << 20;
/// What an event takes besides its own bytes: its envelope and its place in the queue, about.
const OVERHEAD: usize = 256;
/// How often containerd may answer with an error before an event is given up.
const REFUSALS: u32 = 5;
/// How long containerd may take to answer. One that is slow has the event all the same, and would get it twice; one
/// that has ended, or is stopped for good, closes the connection, which is noticed at once.
const ANSWER: Duration = Duration::from_secs(120);
/// Between two attempts to connect: at first, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// The ttrpc metadata by which containerd knows the namespace of a request (its pkg/namespaces/ttrpc.go).
const NAMESPACE_HEADER: &str = "containerd-namespace-ttrpc";

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident $topic:ident,)*) => {
        /// What happened to a task.
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
            /// The topic that containerd files it under.
            pub fn topic(&self) -> &'static str {
                match self {
                    $(Event::$name(_) => topics::$topic,)*
                }
            }

            /// The container that it is about.
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
    /// It tells of something that containerd could not learn otherwise.
    fn is_an_end(&self) -> bool {
        matches!(self, Event::TaskExit(_) | Event::TaskDelete(_) | Event::TaskOOM(_))
    }

    /// The exec that has this id. Init is named by the container, or not at all.
    fn exec_of<'a>(&self, id: &'a str) -> Option<&'a str> {
        Some(id).filter(|id| !id.is_empty() && *id != self.container_id())
    }

    fn told(&self) -> Told<'_> {
        match self {
            Event::TaskCreate(event) => Told { pid: Some(event.pid), ..Told::default() },
            Event::TaskStart(event) => Told { pid: Some(event.pid), ..Told::default() },
            Event::TaskExecAdded(event) => Told { exec: self.exec_of(&event.exec_id), ..Told::default() },
            Event::TaskExecStarted(event) => {
                Told { exec: self.exec_of(&event.exec_id), pid: Some(event.pid), status: None }
            }
            Event::TaskExit(event) => {
                Told { exec: self.exec_of(&event.id), pid: Some(event.pid), status: Some(event.exit_status) }
            }
            Event::TaskDelete(event) => {
                Told { exec: self.exec_of(&event.id), pid: Some(event.pid), status: Some(event.exit_status) }
            }
            _ => Told::default(),
        }
    }
}

/// What of an event stands in the log beside its topic and container.
#[derive(Default)]
struct Told<'a> {
    exec: Option<&'a str>,
    pid: Option<u32>,
    status: Option<u32>,
}

/// `time` as protobuf has it, for the messages' own times too.
pub fn timestamp(time: SystemTime) -> MessageField<Timestamp> {
    MessageField::some(time.into())
}

struct Waiting {
    number: u64,
    envelope: Envelope,
    size: usize,
    is_an_end: bool,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Of all in it.
    bytes: usize,
    /// The number of the next.
    next: u64,
    /// Given up for want of room.
    lost: u64,
    closed: bool,
}

impl Queue {
    fn push(&mut self, envelope: Envelope, is_an_end: bool, largest: usize) {
        let size = OVERHEAD + envelope.event.value.len();
        self.waiting.push_back(Waiting { number: self.next, envelope, size, is_an_end });
        self.next += 1;
        self.bytes += size;
        // The first one is on its way, and the one that has just come is not old.
        while self.bytes > largest && self.waiting.len() > 2 {
            let last = self.waiting.len() - 1;
            let victim = (1..last).find(|at| !self.waiting[*at].is_an_end).unwrap_or(1);
            if let Some(gone) = self.waiting.remove(victim) {
                self.bytes -= gone.size;
                self.lost += 1;
                tracing::error!(
                    "containerd is away and {} events wait: {} is given up, the {}th so far",
                    self.waiting.len(),
                    gone.envelope.topic,
                    self.lost
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
    /// How many wait. Its receivers are woken by every change.
    length: watch::Sender<usize>,
    namespace: String,
    /// No address: events go nowhere.
    address: Option<String>,
}

impl Shared {
    /// The queue, whatever happened to its last holder: no method of it leaves it half changed.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_length(&self) {
        // Sent for every change, the same length again included: it is also what wakes the task.
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
    /// Without an address, events are not wanted, and are dropped.
    ///
    /// Must be called inside a tokio runtime, which the task lives in until [`Publisher::close`].
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
            None => tracing::warn!("no TTRPC_ADDRESS: containerd gets no events from this shim"),
        }
        Publisher(shared)
    }

    /// Puts an event in the queue. It never blocks, and may be called from any thread.
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
        let Told { exec, pid, status } = event.told();
        tracing::debug!(id = event.container_id(), exec, pid, status, "event {}", event.topic());
        let envelope = Envelope {
            timestamp: timestamp(SystemTime::now()),
            namespace: self.0.namespace.clone(),
            topic: event.topic().to_owned(),
            event: MessageField::some(any),
            ..Envelope::default()
        };
        self.0.queue().push(envelope, event.is_an_end(), LARGEST);
        self.0.tell_length();
    }

    /// How many events wait.
    pub fn waiting(&self) -> usize {
        self.0.queue().waiting.len()
    }

    /// How many events were given up for want of room.
    pub fn lost(&self) -> u64 {
        self.0.queue().lost
    }

    /// Waits until containerd has taken all events, `limit` long at the most, and ends the task. What is left then is
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
        self.0.tell_length();
        if left > 0 {
            tracing::error!("{left} events are lost: containerd did not take them within {limit:?}");
        }
        left
    }
}

/// Why an event was not taken.
enum Failure {
    /// No connection, or one that broke.
    Away(String),
    /// containerd said no.
    Refused(String),
}

/// The task.
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
        let mut away = false;
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
                    if std::mem::take(&mut away) {
                        tracing::info!("containerd takes events again");
                    }
                    (backoff, refusals) = (BACKOFF.0, 0);
                    self.done(number);
                }
                Err(Failure::Away(reason)) => {
                    self.client = None;
                    if !std::mem::replace(&mut away, true) {
                        tracing::warn!("containerd takes no events, which wait meanwhile: {reason}");
                    }
                    self.pause(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF.1);
                }
                Err(Failure::Refused(reason)) => {
                    refusals += 1;
                    if refusals < REFUSALS {
                        self.pause(BACKOFF.0).await;
                        continue;
                    }
                    tracing::error!("containerd refused {topic} {refusals} times, it is given up: {reason}");
                    refusals = 0;
                    self.done(number);
                }
            }
        }
    }

    fn done(&self, number: u64) {
        self.shared.queue().done(number);
        self.shared.tell_length();
    }

    /// Waits for `time`, or until the queue is closed.
    async fn pause(&mut self, time: Duration) {
        let shared = self.shared.clone();
        // Too late is what was waited for; and there is a sender as long as there is `shared`.
        let _ = tokio::time::timeout(time, self.changed.wait_for(|_| shared.queue().closed)).await;
    }

    async fn forward(&mut self, envelope: Envelope) -> Result<(), Failure> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let client = Client::connect(&self.address).await.map_err(|error| Failure::Away(error.to_string()))?;
                self.client.insert(client).clone()
            }
        };
        let namespace = (NAMESPACE_HEADER.to_owned(), vec![self.shared.namespace.clone()]);
        let mut context = ttrpc::context::with_metadata(HashMap::from([namespace]));
        // An i64 of nanoseconds has room for 292 years.
        context.timeout_nano = ANSWER.as_nanos() as i64;
        let request = ForwardRequest { envelope: MessageField::some(envelope), ..ForwardRequest::default() };
        match EventsClient::new(client).forward(context, &request).await {
            Ok(_) => Ok(()),
            // The client's own deadline has this code too; a server that took so long is no better.
            Err(ttrpc::Error::RpcStatus(status)) if status.code() == ttrpc::Code::DEADLINE_EXCEEDED => {
                Err(Failure::Away(status.message))
            }
            Err(ttrpc::Error::RpcStatus(status)) if status.code() == ttrpc::Code::UNAVAILABLE => {
                Err(Failure::Away(status.message))
            }
            Err(ttrpc::Error::RpcStatus(status)) => Err(Failure::Refused(status.message)),
            Err(error) => Err(Failure::Away(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests;
