//! Tests of the publisher against a server that starts, stops and refuses.

use super::*;
use async_trait::async_trait;
use containerd_shim_protos::shim_async::{Events, create_events};
use protobuf::well_known_types::empty::Empty;
use std::path::Path;
use ttrpc::asynchronous::{Server, TtrpcContext};

const TIMEOUT: Duration = Duration::from_secs(20);

/// containerd's side: records the events that it took, and refuses those it is configured to.
#[derive(Default)]
struct Daemon {
    taken: Mutex<Vec<(String, Envelope)>>,
    refuse: Option<&'static str>,
    asked: Mutex<usize>,
}

#[async_trait]
impl Events for Daemon {
    async fn forward(&self, context: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = request.envelope.unwrap();
        *self.asked.lock().unwrap() += 1;
        if self.refuse == Some(envelope.topic.as_str()) {
            return Err(ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::INVALID_ARGUMENT, "no".to_string())));
        }
        let namespace = context.metadata[NAMESPACE_HEADER][0].clone();
        self.taken.lock().unwrap().push((namespace, envelope));
        Ok(Empty::default())
    }
}

impl Daemon {
    async fn serve(self: &Arc<Self>, socket: &Path) -> Server {
        let _ = std::fs::remove_file(socket);
        let mut server = Server::new()
            .bind(&format!("unix://{}", socket.display()))
            .unwrap()
            .register_service(create_events(self.clone()));
        server.start().await.unwrap();
        server
    }

    fn ids(&self) -> Vec<String> {
        let taken = self.taken.lock().unwrap();
        taken.iter().map(|(_, envelope)| task::TaskExit::parse_from_bytes(&envelope.event.value).unwrap().id).collect()
    }
}

fn exit(number: u32) -> task::TaskExit {
    task::TaskExit { container_id: "box".into(), id: number.to_string(), ..task::TaskExit::default() }
}

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(TIMEOUT, test).await.unwrap() })
}

async fn until(publisher: &Publisher, waiting: usize) {
    let mut length = publisher.0.length.subscribe();
    length.wait_for(|length| *length <= waiting).await.unwrap();
}

#[test]
fn an_event_arrives_as_containerd_wants_it() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let daemon = Arc::new(Daemon::default());
    run(async {
        let mut server = daemon.serve(&socket).await;
        // A plain path, as TTRPC_ADDRESS has it.
        let publisher = Publisher::start(socket.to_str(), "k8s.io");
        publisher.publish(task::TaskOOM { container_id: "box".into(), ..task::TaskOOM::default() });
        assert_eq!(publisher.close(TIMEOUT).await, 0);
        server.shutdown().await.unwrap();
    });
    let taken = daemon.taken.lock().unwrap();
    let (namespace, envelope) = &taken[0];
    assert_eq!((taken.len(), namespace.as_str(), envelope.namespace.as_str()), (1, "k8s.io", "k8s.io"));
    assert_eq!(envelope.topic, "/tasks/oom");
    assert_eq!(envelope.event.type_url, "containerd.events.TaskOOM");
    assert_eq!(task::TaskOOM::parse_from_bytes(&envelope.event.value).unwrap().container_id, "box");
    assert!(envelope.timestamp.seconds > 1_700_000_000);
}

#[test]
fn the_order_holds_over_restarts_of_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let daemon = Arc::new(Daemon::default());
    run(async {
        let publisher = Publisher::start(socket.to_str(), "n");
        let mut number = 0;
        // The first batch waits for a daemon that has never run; each next batch finds it stopped.
        for _ in 0..3 {
            for _ in 0..50 {
                publisher.publish(exit(number));
                number += 1;
            }
            assert!(publisher.waiting() > 0);
            let mut server = daemon.serve(&socket).await;
            until(&publisher, 20).await;
            server.shutdown().await.unwrap();
            std::fs::remove_file(&socket).unwrap();
        }
        let mut server = daemon.serve(&socket).await;
        assert_eq!(publisher.close(TIMEOUT).await, 0);
        server.shutdown().await.unwrap();
        assert_eq!(publisher.dropped(), 0);
    });
    // An event whose answer was lost comes twice in a row, never out of order.
    let mut ids = daemon.ids();
    ids.dedup();
    assert_eq!(ids, (0..150).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn an_event_that_is_refused_does_not_hold_up_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let daemon = Arc::new(Daemon { refuse: Some("/tasks/paused"), ..Daemon::default() });
    run(async {
        let mut server = daemon.serve(&socket).await;
        let publisher = Publisher::start(Some(&format!("unix://{}", socket.display())), "n");
        publisher.publish(exit(1));
        publisher.publish(task::TaskPaused::default());
        publisher.publish(exit(2));
        assert_eq!(publisher.close(TIMEOUT).await, 0);
        server.shutdown().await.unwrap();
    });
    assert_eq!(daemon.ids(), ["1", "2"]);
    assert_eq!(*daemon.asked.lock().unwrap(), 2 + MAX_ATTEMPTS as usize);
}

#[test]
fn an_end_that_no_daemon_takes_is_counted_within_the_deadline() {
    run(async {
        let publisher = Publisher::start(Some("/nonexistent/socket"), "n");
        publisher.publish(exit(1));
        publisher.publish(exit(2));
        assert_eq!(publisher.close(Duration::from_millis(50)).await, 2);
        // The task has ended: only this publisher holds the queue.
        while Arc::strong_count(&publisher.0) > 1 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn without_an_address_nothing_waits() {
    run(async {
        let publisher = Publisher::start(None, "n");
        publisher.publish(exit(1));
        assert_eq!(publisher.waiting(), 0);
        assert_eq!(publisher.close(TIMEOUT).await, 0);
    });
}

#[test]
fn past_the_bound_ends_stay_longest() {
    let envelope = |topic: &str| Envelope { topic: topic.into(), ..Envelope::default() };
    let mut queue = Queue::default();
    let largest = 5 * OVERHEAD;
    for (topic, is_essential) in [("on its way", false), ("e1", true), ("s1", false), ("e2", true), ("s2", false)] {
        queue.push(envelope(topic), is_essential, largest);
    }
    assert_eq!(queue.dropped, 0);
    queue.push(envelope("e3"), true, largest);
    queue.push(envelope("e4"), true, largest);
    let topics = |queue: &Queue| queue.waiting.iter().map(|it| it.envelope.topic.clone()).collect::<Vec<_>>();
    assert_eq!(topics(&queue), ["on its way", "e1", "e2", "e3", "e4"]);
    queue.push(envelope("e5"), true, largest);
    assert_eq!(topics(&queue), ["on its way", "e2", "e3", "e4", "e5"]);
    assert_eq!((queue.dropped, queue.bytes), (3, largest));
    // The answer for an event that was dropped meanwhile removes no other event.
    queue.done(7);
    assert_eq!(queue.waiting.len(), 5);
    queue.done(0);
    assert_eq!(topics(&queue), ["e2", "e3", "e4", "e5"]);
}

#[test]
fn topics_are_containerds() {
    let topics = [
        (Event::from(task::TaskCreate::default()), "/tasks/create"),
        (task::TaskStart::default().into(), "/tasks/start"),
        (task::TaskExit::default().into(), "/tasks/exit"),
        (task::TaskDelete::default().into(), "/tasks/delete"),
        (task::TaskOOM::default().into(), "/tasks/oom"),
        (task::TaskExecAdded::default().into(), "/tasks/exec-added"),
        (task::TaskExecStarted::default().into(), "/tasks/exec-started"),
        (task::TaskPaused::default().into(), "/tasks/paused"),
        (task::TaskResumed::default().into(), "/tasks/resumed"),
        (task::TaskCheckpointed::default().into(), "/tasks/checkpointed"),
    ];
    for (event, topic) in topics {
        assert_eq!(event.topic(), topic);
    }
}
