//! `outlast registrations`.

use std::net::UdpSocket;
use std::time::Duration;

use testbed::node::{Node, NodeOptions};
use testbed::wait;

use crate::command::done_json;
use crate::{LIMIT, directory};

#[test]
fn a_phone_that_registers_is_listed_also_when_the_node_is_down() {
    let directory = directory();
    let config = "[registrar]\ndomains = [\"example.com\"]\nauthenticate = false\n\
                  [[edge.instances]]\nname = \"edge1\"\nlisten = [\"127.0.0.1:0\"]\n";
    let options = NodeOptions { config: Some(config.to_owned()), arguments: Vec::new() };
    let node = Node::start_in(directory, &options);
    let command = ["registrations", "--json"];
    assert_eq!(done_json(node.directory(), &command), serde_json::json!([]));
    let phone = UdpSocket::bind("127.0.0.1:0").unwrap();
    phone.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    phone.connect(node.sip("udp")).unwrap();
    let local = phone.local_addr().unwrap();
    let register = format!(
        "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bKfirst;rport\r\n\
         Max-Forwards: 70\r\nFrom: <sip:alice@example.com>;tag=1\r\nTo: <sip:alice@example.com>\r\n\
         Call-ID: one@{local}\r\nCSeq: 1 REGISTER\r\nContact: <sip:alice@{local}>\r\nExpires: 600\r\n\
         Content-Length: 0\r\n\r\n"
    );
    let mut answer = [0; 2000];
    // UDP, so the phone repeats itself.
    let length = wait::until("an answer to REGISTER", LIMIT, || {
        phone.send(register.as_bytes()).unwrap();
        phone.recv(&mut answer)
    });
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.starts_with("SIP/2.0 200"), "{answer}");
    let check = |listed: &serde_json::Value| {
        let registration = &listed[0];
        assert_eq!(registration["aor"], "sip:alice@example.com");
        assert_eq!(registration["contact"], format!("sip:alice@{local}"));
        assert!(
            registration["expires_s"].as_u64().is_some_and(|seconds| (1..=600).contains(&seconds))
        );
        assert!(registration["path"].is_array());
    };
    check(&done_json(node.directory(), &command));
    let directory = node.stop();
    check(&done_json(directory.path(), &command));
}
