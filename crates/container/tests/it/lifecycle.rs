//! Links that come and go, heartbeats, duties, stopping.

use std::sync::Arc;
use std::time::{Duration, Instant};

use container::application::Duty;
use container::server::{Server, ServerError};
use state::engine::fake::FakeStore;
use transport::link::{Accepting, LinkFrame};

use crate::fake_edge::request;
use crate::toy_application::ToyApplication;
use crate::{Container, settings};

const EDGE: &str = "127.0.0.1:5060";
/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

fn accepting(frame: &LinkFrame) -> Option<Accepting> {
    match frame {
        LinkFrame::Heartbeat { incarnation: 7, accepting, .. } => Some(*accepting),
        _ => None,
    }
}

#[tokio::test]
async fn every_edge_gets_heartbeats_and_hears_of_draining() {
    let container = Container::start();
    let mut first = container.edge(EDGE).await;
    let mut second = container.edge("127.0.0.2:5060").await;
    for edge in [&mut first, &mut second] {
        for _ in 0..3 {
            assert_eq!(edge.until(accepting).await, Accepting::Accepting);
        }
    }
    let commit = container.store.hold_next_commit();
    first.offer(request("REGISTER", "store@x", "a")).await;
    while container.application.runs() == 0 {
        first.heartbeats(1).await;
    }
    container.handle.drain(LONG).await;
    for edge in [&mut first, &mut second] {
        edge.until(|frame| accepting(frame).filter(|it| *it == Accepting::Draining)).await;
    }
    // What still comes is served, as long as something is left.
    first.offer(request("OPTIONS", "answer@x", "b")).await;
    assert_eq!(first.sent_final().await, "200");
    drop(commit);
}

#[tokio::test]
async fn edge_that_breaks_the_protocol_loses_its_link_and_others_keep_theirs() {
    let container = Container::start();
    let mut good = container.edge(EDGE).await;
    let mut bad = container.edge("127.0.0.2:5060").await;
    bad.send_garbage().await;
    bad.closed().await;
    good.offer(request("OPTIONS", "answer@x", "a")).await;
    assert_eq!(good.sent().await.what(), "200");
}

#[tokio::test]
async fn duty_reaches_the_edge_of_its_path() {
    let container = Container::start();
    let mut edge = container.edge(EDGE).await;
    let path = format!("<sip:token@{EDGE};lr>").into();
    container.application.duties.lock().unwrap().push(Duty::KeepAlive { path });
    let token = edge
        .until(|frame| match frame {
            LinkFrame::KeepAlive { flow_token } => Some(flow_token.clone()),
            _ => None,
        })
        .await;
    assert_eq!(token, "token");
}

#[tokio::test]
async fn draining_container_answers_what_it_has_begun_and_ends() {
    let container = Container::start();
    let mut edge = container.edge(EDGE).await;
    let commit = container.store.hold_next_commit();
    edge.offer(request("REGISTER", "store@x", "a")).await;
    while container.application.runs() == 0 {
        edge.heartbeats(1).await;
    }
    container.handle.drain(LONG).await;
    edge.until(|frame| accepting(frame).filter(|it| *it == Accepting::Draining)).await;
    edge.heartbeats(2).await;
    assert!(!container.task.is_finished(), "a request is still open");
    assert_eq!(container.handle.left(), 1);
    drop(commit);
    assert_eq!(edge.sent_final().await, "200");
    edge.all_taken().await;
    edge.closed().await;
    let link_path = container.link_path();
    tokio::time::timeout(Duration::from_secs(20), container.task).await.unwrap().unwrap();
    assert!(!link_path.exists(), "the socket is removed");
}

#[tokio::test]
async fn drain_ends_at_its_deadline_and_a_stop_at_once_whatever_is_left() {
    for is_told_to_stop in [false, true] {
        let container = Container::start();
        let mut edge = container.edge(EDGE).await;
        let _held = container.store.hold_next_commit();
        edge.offer(request("REGISTER", "store@x", "a")).await;
        while container.application.runs() == 0 {
            edge.heartbeats(1).await;
        }
        let deadline_in = Duration::from_millis(300);
        let told = Instant::now();
        if is_told_to_stop {
            container.handle.drain(LONG).await;
            container.handle.stop().await;
        } else {
            // The last deadline holds.
            container.handle.drain(LONG).await;
            container.handle.drain(deadline_in).await;
        }
        tokio::time::timeout(LONG, container.task).await.unwrap().unwrap();
        let took = told.elapsed();
        // The commit itself is given up after two seconds.
        assert!(took < Duration::from_millis(1_500), "{took:?}");
        assert!(is_told_to_stop || took >= deadline_in, "{took:?}");
    }
}

#[tokio::test]
async fn the_loop_goes_round_and_says_so() {
    let container = Container::start();
    let pulse = container.handle.pulse();
    let mut last = pulse.rounds();
    for _ in 0..5 {
        tokio::time::timeout(LONG, async {
            while pulse.rounds() == last {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("a round");
        last = pulse.rounds();
    }
}

#[tokio::test]
async fn second_container_on_one_socket_is_refused_and_a_stale_socket_replaced() {
    let bind = |container: &Container| {
        Server::bind(
            settings(container.link_path()),
            Arc::new(FakeStore::default()),
            Arc::new(ToyApplication::default()),
        )
    };
    let container = Container::start();
    assert!(matches!(bind(&container), Err(ServerError::InUse(_))));
    // Killed: nobody removes the socket.
    container.task.abort();
    while !container.task.is_finished() {
        tokio::task::yield_now().await;
    }
    assert!(container.link_path().exists());
    assert!(bind(&container).is_ok());
    std::fs::remove_file(container.link_path()).unwrap();
    std::fs::write(container.link_path(), "text").unwrap();
    assert!(matches!(bind(&container), Err(ServerError::NotASocket(_))));
}
