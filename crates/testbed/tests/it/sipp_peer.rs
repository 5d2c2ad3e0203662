//! SIPp, a peer that we did not write, registers and calls through the edge: UDP and TCP, both ways.

use phone::LineTransport;
use testbed::node::Node;
use testbed::ports;
use testbed::sipp::{Scenario, Sipp, SippTransport};

use crate::world::{self, DOMAIN, PASSWORD};

const CALLS: u32 = 20;

pub(crate) fn credentials(user: &str) -> String {
    format!("[authentication username={user} password={PASSWORD}]")
}

fn name(transport: SippTransport) -> &'static str {
    match transport {
        SippTransport::Udp => "udp",
        SippTransport::Tcp => "tcp",
    }
}

fn scenario<'a>(
    node: &Node,
    name_of_scenario: &'a str,
    transport: SippTransport,
    local_port: u16,
    fields: Vec<String>,
    calls: u32,
) -> Scenario<'a> {
    Scenario {
        name: name_of_scenario,
        server: node.sip(name(transport)),
        transport,
        local_port,
        fields,
        calls,
        rate: 10,
    }
}

/// SIPp registers `callee`, then answers calls on the same port, and another SIPp calls.
fn register_and_call(node: &Node, transport: SippTransport) {
    for user in ["caller", "callee"] {
        node.add_user(&format!("{user}@{DOMAIN}"), PASSWORD);
    }
    let answering_port = ports::free(1);
    let fields = vec![format!("callee;{DOMAIN};{}", credentials("callee"))];
    Sipp::start(&scenario(node, "register", transport, answering_port, fields, 1)).finish();
    assert_eq!(node.registrations().len(), 1);

    let answering =
        Sipp::start(&scenario(node, "answer", transport, answering_port, Vec::new(), CALLS));
    let fields = vec![format!("caller;{DOMAIN};{};callee", credentials("caller"))];
    let calling = Sipp::start(&scenario(node, "call", transport, ports::free(1), fields, CALLS));
    calling.finish();
    answering.finish();
}

#[test]
fn sipp_registers_with_digest_and_calls_over_udp() {
    register_and_call(&world::node(), SippTransport::Udp);
}

#[test]
fn sipp_registers_with_digest_and_calls_over_tcp() {
    // SIPp ends its connection between registering and answering, so the edge must open one to the
    // registered contact: without NAT traversal there is no flow that it must use instead.
    let config = format!(
        "[registrar]\ndomains = [\"{DOMAIN}\"]\n\n[edge]\nnat_traversal = false\n\n\
         [[edge.instances]]\nname = \"edge1\"\nlisten = [\"127.0.0.1:0\"]\n"
    );
    register_and_call(&world::node_of(&config), SippTransport::Tcp);
}

#[tokio::test(flavor = "multi_thread")]
async fn our_phone_is_called_by_sipp_over_tcp() {
    let node = world::node();
    node.add_user(&format!("caller@{DOMAIN}"), PASSWORD);
    let callee = world::registered(&node, "callee", LineTransport::Tcp).await;
    let fields = vec![format!("caller;{DOMAIN};{};callee", credentials("caller"))];
    let calling =
        Sipp::start(&scenario(&node, "call", SippTransport::Tcp, ports::free(1), fields, 1));
    let call = callee.incoming().await.unwrap().answer().await.unwrap();
    call.hung_up().await.unwrap();
    tokio::task::spawn_blocking(move || calling.finish()).await.unwrap();
}
