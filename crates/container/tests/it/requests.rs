//! What becomes of requests: answered, proxied, absorbed, committed.

use state::engine::fake::CommitFault;
use transport::Transport;
use transport::link::{Destination, SendError};

use crate::Container;
use crate::fake_edge::{answer, request};

const EDGE: &str = "127.0.0.1:5060";

#[tokio::test]
async fn request_is_answered_and_taken() {
    let container = Container::start();
    let mut edge = container.edge(EDGE).await;
    edge.offer(request("OPTIONS", "answer@x", "a")).await;
    let sent = edge.sent().await;
    assert_eq!(sent.what(), "200");
    assert_eq!(sent.destination, Destination::Via);
    edge.all_taken().await;
}

#[tokio::test]
async fn repeated_request_is_answered_again_without_its_handler() {
    let container = Container::start();
    let mut edge = container.edge(EDGE).await;
    for _ in 0..3 {
        edge.offer(request("REGISTER", "answer@x", "a")).await;
        assert_eq!(edge.sent().await.what(), "200");
    }
    edge.all_taken().await;
    assert_eq!(container.application.runs(), 1);
}

#[tokio::test]
async fn invite_is_proxied_and_its_responses_come_back() {
    let container = Container::start();
    let mut edge = container.edge(EDGE).await;
    edge.offer(request("INVITE", "proxy@x", "a")).await;
    assert_eq!(edge.sent().await.what(), "100");
    let invite = edge.sent().await;
    assert_eq!(invite.what(), "INVITE");
    assert_eq!(
        invite.destination,
        Destination::Address {
            transport: Transport::Udp,
            address: "198.51.100.8:5070".parse().unwrap()
        }
    );
    for status in [180, 200] {
        edge.offer(answer(&invite.message, status)).await;
        let relayed = edge.sent().await;
        assert_eq!(relayed.what(), status.to_string());
        let top = relayed.message.top_via().unwrap();
        assert_eq!(top.branch(), Some(&b"z9hG4bKa"[..]), "the container's Via is popped");
    }
    edge.all_taken().await;
}

#[tokio::test]
async fn cancelled_invite_ends_with_487_on_both_sides() {
    let container = Container::start();
    let mut edge = container.edge(EDGE).await;
    edge.offer(request("INVITE", "proxy@x", "a")).await;
    assert_eq!(edge.sent().await.what(), "100");
    let invite = edge.sent().await;
    edge.offer(answer(&invite.message, 180)).await;
    assert_eq!(edge.sent().await.what(), "180");
    edge.offer(request("CANCEL", "proxy@x", "a")).await;
    assert_eq!(edge.sent().await.what(), "200");
    let cancel = edge.sent().await;
    assert_eq!(cancel.what(), "CANCEL");
    edge.offer(answer(&cancel.message, 200)).await;
    edge.offer(answer(&invite.message, 487)).await;
    assert_eq!(edge.sent().await.what(), "ACK");
    assert_eq!(edge.sent().await.what(), "487");
    edge.offer(request("ACK", "proxy@x", "a")).await;
    edge.all_taken().await;
}

#[tokio::test]
async fn conflicting_commit_runs_the_handler_again() {
    let container = Container::start();
    let mut edge = container.edge(EDGE).await;
    container.store.inject_commit_fault(CommitFault::Conflicts);
    container.store.inject_commit_fault(CommitFault::LostAndUnknown);
    edge.offer(request("REGISTER", "store@x", "a")).await;
    assert_eq!(edge.sent().await.what(), "200");
    assert_eq!(container.application.runs(), 3);
    assert_eq!(container.store.commits(), 1);
}

#[tokio::test]
async fn request_is_neither_answered_nor_taken_before_its_commit() {
    let container = Container::start();
    let mut edge = container.edge(EDGE).await;
    let commit = container.store.hold_next_commit();
    edge.offer(request("REGISTER", "store@x", "a")).await;
    // Another one overtakes it, but the acknowledgement is cumulative.
    edge.offer(request("OPTIONS", "answer@x", "b")).await;
    assert_eq!(edge.sent().await.what(), "200");
    edge.heartbeats(3).await;
    assert_eq!(edge.untaken(), 2);
    drop(commit);
    assert_eq!(edge.sent_final().await, "200");
    edge.all_taken().await;
}

#[tokio::test]
async fn response_goes_by_the_other_edge_when_the_link_dies() {
    let container = Container::start();
    let mut first = container.edge(EDGE).await;
    let mut second = container.edge("127.0.0.2:5060").await;
    let commit = container.store.hold_next_commit();
    first.offer(request("REGISTER", "store@x", "a")).await;
    // The request is with the application before the link dies.
    while container.application.runs() == 0 {
        first.heartbeats(1).await;
    }
    drop(first);
    // What the container does for the second edge now, it does after it has seen the first one go.
    second.offer(request("OPTIONS", "answer@x", "b")).await;
    assert_eq!(second.sent_final().await, "200");
    drop(commit);
    assert_eq!(second.sent_final().await, "200");
}

#[tokio::test]
async fn request_to_a_dead_flow_is_answered_480() {
    let container = Container::start();
    let mut edge = container.edge(EDGE).await;
    edge.offer(request("MESSAGE", "proxy@x", "a")).await;
    let message = edge.sent().await;
    edge.report(message.id, SendError::FlowGone).await;
    assert_eq!(edge.sent().await.what(), "480");
}

#[tokio::test]
async fn unanswered_request_is_repeated_and_never_answered_408() {
    // RFC 4320 §4.2: the caller of a non-INVITE has given up by then.
    let container = Container::start();
    let mut edge = container.edge(EDGE).await;
    edge.offer(request("MESSAGE", "proxy@x", "a")).await;
    let mut sent = Vec::new();
    for _ in 0..4 {
        sent.push(edge.sent().await.what());
    }
    // 100 for the caller once Timer E has grown to T2, between the repetitions.
    assert!(sent.iter().all(|what| what == "MESSAGE" || what == "100"), "{sent:?}");
}

#[tokio::test]
async fn host_name_of_a_target_is_resolved() {
    let container = Container::start();
    let mut edge = container.edge(EDGE).await;
    for branch in ["a", "b"] {
        edge.offer(request("INVITE", "name@x", branch)).await;
        assert_eq!(edge.sent().await.what(), "100");
        let invite = edge.sent().await;
        let Destination::Address { address, .. } = invite.destination else {
            panic!("{:?}", invite.destination);
        };
        assert_eq!(address, "127.0.0.1:5070".parse().unwrap());
        edge.offer(answer(&invite.message, 486)).await;
        assert_eq!(edge.sent().await.what(), "ACK");
        assert_eq!(edge.sent().await.what(), "486");
        edge.offer(request("ACK", "name@x", branch)).await;
    }
}

#[tokio::test]
async fn application_that_panics_or_hangs_costs_its_own_request_only() {
    let container = Container::start();
    let mut edge = container.edge(EDGE).await;
    edge.offer(request("MESSAGE", "hang@x", "a")).await;
    edge.offer(request("MESSAGE", "panic@x", "b")).await;
    edge.offer(request("MESSAGE", "answer@x", "c")).await;
    let mut sent = Vec::new();
    for _ in 0..3 {
        sent.push(edge.sent_final().await);
    }
    assert_eq!(sent, ["500", "200", "503"]);
    edge.all_taken().await;
}

#[tokio::test]
async fn commit_that_hangs_costs_its_own_request_only() {
    let container = Container::start();
    let mut edge = container.edge(EDGE).await;
    // Once the handler looks again what has become of it, then it is given up.
    let commits = [container.store.hold_next_commit(), container.store.hold_next_commit()];
    edge.offer(request("REGISTER", "store@x", "a")).await;
    edge.offer(request("MESSAGE", "answer@x", "b")).await;
    assert_eq!(edge.sent_final().await, "200");
    assert_eq!(edge.sent_final().await, "503");
    edge.all_taken().await;
    drop(commits);
}

#[tokio::test]
async fn call_left_in_a_link_that_was_closed_rings_nobody() {
    let container = Container::start();
    let mut gone = container.edge(EDGE).await;
    let mut other = container.edge("192.0.2.2:5060").await;
    // Both are there when the container looks, as after it was stopped for a while.
    gone.offer(request("INVITE", "proxy@x", "a")).await;
    drop(gone);
    other.heartbeats(5).await;
    assert_eq!(container.application.runs(), 1);
}
