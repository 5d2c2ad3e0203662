//! Two nodes of a cluster, each on a loopback address of its own: what comes to the edge of one is served by containers
//! of the other, over TLS.

use std::path::Path;
use std::time::{Duration, Instant};

use phone::{LineTransport, Phone};
use rustix::process::Signal;
use sip::Method;
use testbed::loopback::Loopback;
use testbed::node::{Node, NodeOptions, outlast_in};
use testbed::wait;

use crate::world::{DOMAIN, LIMIT, PASSWORD, address, has_etcd};

const CONTAINERS: [&str; 2] = ["container1", "container2"];

/// Two nodes of one cluster, each at an address of its own.
struct Pair {
    one: Node,
    two: Node,
}

impl Pair {
    fn start() -> Pair {
        let [one, two] = [1, 2].map(|number| {
            let directory = tempfile::tempdir().unwrap();
            let config = format!(
                "[node]\nname = \"node{number}\"\n[registrar]\nauthenticate = false\ndomains = [\"{DOMAIN}\"]\n\
                 [container]\nhttp = \"off\"\n\
                 [[edge.instances]]\nname = \"edge1\"\nlisten = [\"127.0.0.{number}:0\"]\n"
            );
            std::fs::write(directory.path().join("outlast.toml"), config).unwrap();
            directory
        });
        let options = NodeOptions { config: None, arguments: Vec::new() };
        let hosts = Loopback::new();
        let host = |number| hosts.host(number).to_string();
        done(one.path(), &["cluster", "create", "--address", &host(1)]);
        let one = Node::start_in(one, &options);
        done(one.directory(), &["cluster", "create"]);
        let token = done(one.directory(), &["cluster", "token"]);
        done(two.path(), &["cluster", "join", &token, "--address", &host(2)]);
        Pair { one, two: Node::start_in(two, &options) }
    }

    /// Either way round.
    fn ways(&self) -> [(&Node, &Node); 2] {
        [(&self.one, &self.two), (&self.two, &self.one)]
    }
}

/// What a command says that succeeds.
fn done(directory: &Path, arguments: &[&str]) -> String {
    let output = outlast_in(directory, arguments, b"");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The containers of a node are stopped or started.
fn all(node: &Node, command: &str) {
    for container in CONTAINERS {
        done(node.directory(), &[command, container]);
    }
}

async fn phone(node: &Node, user: &str, transport: LineTransport) -> Phone {
    Phone::new(user, DOMAIN, PASSWORD, transport, address(node, transport)).await.unwrap()
}

/// As soon as somebody serves; 503 until then.
async fn registered(node: &Node, user: &str, transport: LineTransport) -> Phone {
    let phone = phone(node, user, transport).await;
    let began = Instant::now();
    while let Err(error) = phone.register(600).await {
        assert!(began.elapsed() < LIMIT, "{user} cannot register: {error}\n{}", node.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    phone
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_another_node_serve_phones_and_their_calls() {
    if !has_etcd() {
        return;
    }
    let pair = Pair::start();
    for (near, far) in pair.ways() {
        all(near, "stop");
        let here = registered(near, "here", LineTransport::Udp).await;
        let streams = registered(near, "streams", LineTransport::Tcp).await;
        let there = registered(far, "there", LineTransport::Udp).await;
        assert_eq!(far.registrations().len(), 3, "the registrations are the cluster's");
        for n in 0..20 {
            let options = here.request(0, Method::Options, &format!("sip:{DOMAIN}"));
            let answer = options.call_id(&format!("options{n}")).send().await.unwrap();
            let mut answer = answer;
            assert_eq!(answer.final_response().await.unwrap().status(), Some(200));
        }
        // By edges of both nodes, in both directions, and back to the edge and the flow that the callee registered by.
        for (caller, callee) in
            [(&here, &there), (&there, &here), (&there, &streams), (&streams, &here)]
        {
            let uri = callee.uri();
            let (call, answered) =
                tokio::join!(async { caller.call(0, &uri).await?.answered().await }, async {
                    callee.incoming().await?.answer().await
                });
            let (mut call, answered) = (call.unwrap(), answered.unwrap());
            let calling = async {
                let info = call.request_by(0, Method::Info).await.unwrap();
                assert_eq!(info.status(), Some(200), "INFO to {uri}");
                call.hang_up().await
            };
            let (hung_up, heard) = tokio::join!(calling, answered.hung_up());
            hung_up.unwrap();
            heard.unwrap();
        }
        for phone in [&here, &streams, &there] {
            assert_eq!(phone.violations(), Vec::<String>::new());
            phone.register(0).await.unwrap();
        }
        all(near, "start");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_killed_containers_would_have_answered_those_of_the_other_node_answer() {
    if !has_etcd() {
        return;
    }
    let pair = Pair::start();
    for (near, far) in pair.ways() {
        let phone = phone(near, "anybody", LineTransport::Udp).await;
        for killed in [near, far] {
            let mut slowest = Duration::ZERO;
            for n in 0..60 {
                if n == 20 {
                    for container in CONTAINERS {
                        killed.signal(container, Signal::KILL);
                    }
                }
                let asked = Instant::now();
                let mut answer = phone
                    .request(0, Method::Options, &format!("sip:{DOMAIN}"))
                    .send()
                    .await
                    .unwrap();
                let answer = answer.final_response().await;
                slowest = slowest.max(asked.elapsed());
                let status = answer.as_ref().ok().and_then(sip::Message::status);
                assert_eq!(status, Some(200), "OPTIONS {n}: {answer:?}\n{}", near.log());
            }
            // One repetition, at 500 ms, may meet the dead one's socket as well.
            assert!(slowest < Duration::from_secs(5), "an answer took {slowest:?}");
            wait::until("its containers to be back", LIMIT, || {
                let state = |name| killed.process(name).state;
                let states = CONTAINERS.map(state);
                if states.iter().all(|state| state == "ready") { Ok(()) } else { Err(states) }
            });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_is_killed_parts_its_edge_from_no_container_of_the_other_node() {
    if !has_etcd() {
        return;
    }
    let pair = Pair::start();
    let near = &pair.one;
    all(near, "stop");
    let phone = registered(near, "anybody", LineTransport::Udp).await;
    for round in 0..2 {
        let killed = near.kill_manager();
        let revived = async { tokio::task::block_in_place(|| near.wait_for_manager_after(killed)) };
        tokio::join!(revived, all_answered(&phone, 100));
        // By now it has heard from the other node itself.
        all_answered(&phone, 20).await;
        let log = near.process_log("edge1");
        let is_parting = |line: &&str| line.contains("serves no more") && line.contains("@node2");
        let parted: Vec<_> = log.lines().filter(is_parting).collect();
        assert_eq!(parted, Vec::<&str>::new(), "round {round}");
    }
}

async fn all_answered(phone: &Phone, count: usize) {
    for n in 0..count {
        let options = phone.request(0, Method::Options, &format!("sip:{DOMAIN}"));
        let answer = options.send().await.unwrap().final_response().await;
        let status = answer.as_ref().ok().and_then(sip::Message::status);
        assert_eq!(status, Some(200), "OPTIONS {n}: {answer:?}");
    }
}
