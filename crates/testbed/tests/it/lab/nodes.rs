//! Nodes and phones on hosts of their own.

use std::time::{Duration, Instant};

use phone::{LineTransport, Phone};
use sip::Method;
use testbed::clock::Clock;
use testbed::lab::{self, Host, Traffic};
use testbed::node::{Node, NodeOptions};
use testbed::ports;
use testbed::sipp::{Scenario, Sipp, SippTransport};
use testbed::wait;

use super::LIMIT;
use crate::sipp_peer::credentials;
use crate::world::{self, DOMAIN, PASSWORD};

/// A node without authentication whose edge listens at its host's address.
pub(crate) fn options(host: &Host) -> NodeOptions {
    let config = world::open_config(1, "").replace("127.0.0.1:0", &format!("{}:5060", host.ipv4()));
    NodeOptions { config: Some(config), arguments: Vec::new() }
}

fn node(host: &Host) -> Node {
    host.enter(|| Node::start(&options(host)))
}

/// A phone on a host, registered with a node.
async fn registered(node: &Node, user: &str, transport: LineTransport) -> Phone {
    world::registered_openly(node, user, transport).await
}

/// A call that stands.
async fn established(caller: &Phone, callee: &Phone) -> (phone::Call, phone::Call) {
    let uri = callee.uri();
    let calling = async {
        let mut invitation = caller.call(0, &uri).await?;
        invitation.ringing().await?;
        invitation.answered().await
    };
    let answering = async {
        let ringing = callee.incoming().await?;
        ringing.ring().await?;
        ringing.answer().await
    };
    let (calling, answering) = tokio::join!(calling, answering);
    (calling.expect("the call is answered"), answering.expect("the answer is acknowledged"))
}

async fn hang_up(calling: phone::Call, answering: phone::Call) {
    let (ended, noticed) = tokio::join!(calling.hang_up(), answering.hung_up());
    ended.expect("a 200 to the BYE");
    noticed.expect("a BYE");
}

#[test]
fn phones_on_two_hosts_call_each_other_through_a_node_on_a_third() {
    lab::run(&["node1", "here", "there"], |lab| {
        let node = node(lab.host("node1"));
        for (number, transport) in [LineTransport::Udp, LineTransport::Tcp].into_iter().enumerate()
        {
            let phone = |host: &str, user: &str| {
                let user = format!("{user}{number}");
                lab.host(host).block_on(registered(&node, &user, transport))
            };
            let (caller, callee) = (phone("here", "caller"), phone("there", "callee"));
            assert_eq!(caller.lines()[0].local().ip(), lab.host("here").ipv4());
            lab.host("here").block_on(async {
                let (calling, answering) = established(&caller, &callee).await;
                hang_up(calling, answering).await;
            });
            assert_eq!(callee.invites(), 1);
        }
        // What the phones say of themselves was not corrected by the edge: they see the addresses that it sees.
        for registration in node.registrations() {
            let contact = registration.to_string();
            assert!(
                contact.contains("192.0.2.12:") || contact.contains("192.0.2.13:"),
                "{contact}"
            );
        }
    });
}

/// The request and its first repetition are lost, the second may be.
const CUT: Duration = Duration::from_millis(1_200);

#[test]
fn a_call_outlasts_that_its_node_is_cut_off_for_a_while() {
    lab::run(&["node1", "phones"], |lab| {
        let phones = lab.host("phones");
        let node = node(lab.host("node1"));
        phones.block_on(async {
            let alice = registered(&node, "alice", LineTransport::Udp).await;
            let bob = registered(&node, "bob", LineTransport::Udp).await;
            let (mut calling, answering) = established(&alice, &bob).await;
            let cut = lab.cut("node1");
            let began = Instant::now();
            let request = async {
                let ok = calling.request_by(0, Method::Info).await.expect("an answer");
                assert_eq!(ok.status(), Some(200));
                assert!(began.elapsed() >= CUT, "answered while the node was cut off");
                calling.hang_up().await.expect("a 200 to the BYE");
            };
            let healing = async {
                tokio::time::sleep(CUT).await;
                cut.heal();
            };
            let (noticed, ..) = tokio::join!(answering.hung_up(), request, healing);
            noticed.expect("a BYE");
        });
    });
}

#[test]
fn calls_come_up_and_end_while_one_packet_in_twenty_is_lost() {
    lab::run(&["node1", "phones"], |lab| {
        let phones = lab.host("phones");
        let node = node(lab.host("node1"));
        phones.block_on(async {
            let alice = registered(&node, "alice", LineTransport::Udp).await;
            let bob = registered(&node, "bob", LineTransport::Udp).await;
            let _loss = lab.lose_some(Traffic::any(), 5);
            for _ in 0..4 {
                let (calling, answering) = established(&alice, &bob).await;
                hang_up(calling, answering).await;
            }
            assert_eq!(bob.rang_again(), [""; 0]);
        });
    });
}

#[test]
fn nodes_on_two_hosts_have_clocks_of_their_own() {
    lab::run(&["node1", "node2"], |lab| {
        let home = tempfile::tempdir().expect("a temporary directory");
        let Some(clock) = Clock::in_directory(home.path()) else { return };
        let one = node(lab.host("node1"));
        let host = lab.host("node2");
        let other =
            host.enter(|| Node::start_with_environment(&options(host), &clock.environment()));
        let stepped = |node: &Node| {
            let status = node.outlast(&["status", "--json"]);
            let status: serde_json::Value =
                serde_json::from_slice(&status.stdout).expect("status --json is JSON");
            status["clock"]["stepped_by_ms"].as_i64().unwrap_or(0)
        };
        clock.set("+20m");
        wait::until("the step of one clock to be told", LIMIT, || match stepped(&other) {
            by if (by - 1_200_000).abs() < 2_000 => Ok(()),
            by => Err(by),
        });
        assert!(stepped(&one).abs() < 2_000, "the other clock: {}", stepped(&one));
    });
}

#[test]
fn sipp_calls_from_one_host_to_another() {
    lab::run(&["node1", "here", "there"], |lab| {
        let host = lab.host("node1");
        let mut options = options(host);
        options.config = options.config.map(|config| config.replace("= false", "= true"));
        let node = host.enter(|| Node::start(&options));
        for user in ["caller", "callee"] {
            node.add_user(&format!("{user}@{DOMAIN}"), PASSWORD);
        }
        let scenario = |name, local_port, fields: &[&str], calls| Scenario {
            name,
            server: node.sip("udp"),
            transport: SippTransport::Udp,
            local_port,
            fields: fields.iter().map(|line| (*line).to_owned()).collect(),
            calls,
            rate: 10,
        };
        let (here, there) = (lab.host("here"), lab.host("there"));
        let port = there.enter(|| ports::free(1));
        let callee = format!("callee;{DOMAIN};{}", credentials("callee"));
        there.enter(|| {
            Sipp::start(&scenario("register", port, &[&callee], 1)).finish();
        });
        let answering = there.enter(|| Sipp::start(&scenario("answer", port, &[], 10)));
        let caller = format!("caller;{DOMAIN};{};callee", credentials("caller"));
        let calling = here.enter(|| Sipp::start(&scenario("call", ports::free(1), &[&caller], 10)));
        calling.finish();
        answering.finish();
    });
}

#[test]
fn a_node_whose_host_lost_power_comes_back_with_its_directory_or_an_empty_one() {
    lab::run(&["node1", "phones"], |lab| {
        let (host, phones) = (lab.host("node1"), lab.host("phones"));
        let node = node(host);
        let alice = phones.block_on(registered(&node, "alice", LineTransport::Udp));
        let began = Instant::now();
        host.power_off(lab);
        assert!(began.elapsed() < LIMIT);
        let directory = node.kill_everything();
        host.power_on(lab);
        let same = host.enter(|| Node::start_in(directory, &NodeOptions::arguments(&[])));
        let contacts = phones.block_on(alice.registered_contacts(0)).expect("an answer");
        assert_eq!(contacts.len(), 1, "the binding is in the directory");

        host.power_off(lab);
        drop(same);
        host.power_on(lab);
        let empty = super::nodes::node(host);
        let contacts = phones.block_on(alice.registered_contacts(0)).expect("an answer");
        assert_eq!(contacts, [""; 0]);
        drop(empty);
    });
}
