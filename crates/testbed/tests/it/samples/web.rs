//! The samples with HTTP handlers.

use std::net::SocketAddr;

use super::*;
use crate::http::client::{Answer, get, try_ask};

/// A node with a sample deployed, and where its two containers serve HTTP.
fn web_node_with(sample: &str, settings: &[&str]) -> Option<(Node, [SocketAddr; 2])> {
    let node = node_of_with(
        &world::open_config(1, "[container]\nhttp = \"127.0.0.1:0\""),
        sample,
        settings,
    )?;
    let port = |container: &str| {
        wait::until("the address of a container", world::LIMIT, || {
            node.process(container).http.ok_or(())
        })
    };
    let ports = ["container1", "container2"].map(port);
    Some((node, ports))
}

fn text(answer: &Answer) -> &str {
    std::str::from_utf8(&answer.body).unwrap()
}

#[test]
fn counter_and_a_component_by_others_are_served_as_they_are() {
    let Some((node, [one, two])) = web_node_with("counter", &[]) else { return };
    let first = get(one, "/counter", "");
    assert_eq!((first.status, text(&first)), (200, "visit 1\n"));
    let again = get(two, "/counter", &first.cookie().unwrap());
    assert_eq!((again.status, text(&again)), (200, "visit 2\n"));
    assert_eq!(sessions(&node).len(), 0, "it has none");

    let published = built("published-http-proxy").unwrap();
    done(&node, &["app", "deploy", published.to_str().unwrap()]);
    let answer = get(one, "/published", "");
    assert_eq!((answer.status, text(&answer)), (200, "Hello, WASI!"));
    node.stop();
}

/// What the browser asks while phones are busy.
async fn ask(to: SocketAddr, request: &str, cookie: &str) -> Answer {
    let (request, headers) = (request.to_owned(), format!("Cookie: {cookie}\r\n"));
    let asking = tokio::task::spawn_blocking(move || try_ask(to, &request, &headers, b"").unwrap());
    asking.await.unwrap()
}

const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

/// Asks for a call between two, as a browser's form does; its cookie.
async fn dial(to: SocketAddr, first: &Phone, second: &Phone) -> String {
    let form = format!("from={}&to={}", first.uri(), second.uri());
    let asking = tokio::task::spawn_blocking(move || {
        try_ask(to, "POST /click-to-dial", FORM, form.as_bytes()).unwrap()
    });
    let answer = asking.await.unwrap();
    assert_eq!((answer.status, text(&answer)), (202, &*format!("calling {}\n", first.uri())));
    answer.cookie().unwrap()
}

async fn wait_until_shown(at: SocketAddr, cookie: &str, expected: &str) {
    let limit = Instant::now() + world::LIMIT;
    loop {
        let answer = ask(at, "GET /click-to-dial", cookie).await;
        if text(&answer) == format!("{expected}\n") {
            return;
        }
        assert!(Instant::now() < limit, "not {expected:?} but {:?}", text(&answer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn click_to_dial_joins_two_phones_whose_call_outlasts_every_container() {
    let setting = format!("caller=sip:operator@{DOMAIN}");
    let Some((node, [one, two])) = web_node_with("click-to-dial", &[&setting]) else { return };
    let (alice, bob) = (phone(&node, "alice").await, phone(&node, "bob").await);
    let cookie = dial(one, &alice, &bob).await;
    let (first, second) = tokio::join!(async { alice.incoming().await?.answer().await }, async {
        let ringing = bob.incoming().await?;
        wait_until_shown(two, &cookie, &format!("calling {}, {} waits", bob.uri(), alice.uri()))
            .await;
        ringing.answer().await
    });
    let (mut first, mut second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.remote_description(), second.local_description().as_bytes());
    assert_eq!(second.remote_description(), first.local_description().as_bytes());
    let talk = format!("{} and {} talk", alice.uri(), bob.uri());
    wait_until_shown(two, &cookie, &talk).await;

    for (container, at) in [("container1", two), ("container2", one)] {
        node.kill_and_wait_ready(container);
        wait_until_shown(at, &cookie, &talk).await;
        let (refreshed, passed_on) = tokio::join!(first.reinvite(), second.reinvited());
        refreshed.unwrap();
        passed_on.unwrap();
    }
    let hung_up = async { ask(two, "DELETE /click-to-dial", &cookie).await };
    let (answer, ended, noticed) = tokio::join!(hung_up, first.hung_up(), second.hung_up());
    assert_eq!(answer.status, 200, "{}", text(&answer));
    ended.unwrap();
    noticed.unwrap();
    assert!(text(&ask(one, "GET /click-to-dial", &cookie).await).starts_with("over: "));
    assert_in_order(&[&alice, &bob]);
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn click_to_dial_says_why_no_call_came_of_it() {
    let Some((node, [one, two])) = web_node_with("click-to-dial", &[]) else { return };
    let (alice, bob) = (phone(&node, "alice").await, phone(&node, "bob").await);
    let cookie = dial(one, &alice, &bob).await;
    let (first, second) =
        tokio::join!(async { alice.incoming().await?.answer().await?.hung_up().await }, async {
            bob.incoming().await?.reject(486).await
        });
    second.unwrap();
    first.expect("alice is let go");
    wait_until_shown(two, &cookie, &format!("over: {} did not answer (486)", bob.uri())).await;
    let nobody = try_ask(one, "POST /click-to-dial?from=nobody", "", b"").unwrap();
    assert_eq!(nobody.status, 400, "{}", text(&nobody));
    assert_in_order(&[&alice, &bob]);
    node.stop();
}
