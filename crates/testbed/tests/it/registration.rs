//! Registration through edge, link, container and registrar into the store, and back.

use phone::{LineTransport, Phone, PhoneError};
use serde_json::json;
use sip::HeaderName;
use testbed::node::{Node, NodeOptions};

use crate::world::{self, DOMAIN, PASSWORD};

fn refusal(result: Result<sip::Message, PhoneError>) -> u16 {
    match result {
        Err(PhoneError::Refused { status, .. }) => status,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_registers_with_digest_over_udp_and_tcp() {
    let node = world::node();
    for (user, transport) in [("alice", LineTransport::Udp), ("bob", LineTransport::Tcp)] {
        node.add_user(&format!("{user}@{DOMAIN}"), PASSWORD);
        let phone = world::phone(&node, user, transport).await;
        let ok = phone.register(600).await.unwrap();
        let contacts: Vec<_> = ok.values(HeaderName::Contact).collect();
        assert_eq!(contacts.len(), 1, "RFC 3261 §10.3(8): every binding is listed");
        assert!(ok.field(HeaderName::Path).is_some(), "RFC 3327 §5.3: Path is returned");

        let registrations = node.registrations();
        let binding = registrations
            .iter()
            .find(|binding| binding["aor"] == json!(format!("sip:{user}@{DOMAIN}")))
            .unwrap_or_else(|| panic!("no binding of {user} in {registrations:?}"));
        let expires = binding["expires_s"].as_u64().unwrap();
        assert!((590..=600).contains(&expires), "{binding}");
        assert_eq!(binding["path"].as_array().map(Vec::len), Some(1), "{binding}");
        let received = binding["received"].as_str().unwrap();
        assert!(received.contains(&phone.lines()[0].local().to_string()), "{binding}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_an_unknown_user_look_the_same() {
    let node = world::node();
    node.add_user(&format!("alice@{DOMAIN}"), PASSWORD);
    let edge = node.sip("udp");
    for (user, password) in [("alice", "wrong"), ("nobody", PASSWORD)] {
        let phone = Phone::new(user, DOMAIN, password, LineTransport::Udp, edge).await.unwrap();
        let outcome = phone.register(600).await;
        assert!(matches!(outcome, Err(PhoneError::Challenge(_))), "{user}: {outcome:?}");
    }
    assert_eq!(node.registrations(), Vec::<serde_json::Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_registers_anothers_identity() {
    let node = world::node();
    node.add_user(&format!("alice@{DOMAIN}"), PASSWORD);
    node.add_user(&format!("bob@{DOMAIN}"), PASSWORD);
    let phone = world::phone(&node, "alice", LineTransport::Udp).await;
    let result = phone.register_as(&format!("sip:bob@{DOMAIN}"), 600).await;
    assert_eq!(refusal(result), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_too_short_expiry_is_refused_with_the_minimum() {
    let node = world::node_of(&world::open_config(1, ""));
    let phone = world::phone(&node, "alice", LineTransport::Udp).await;
    assert_eq!(refusal(phone.register(1).await), 423, "RFC 3261 §21.4.17");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wildcard_with_expires_zero_removes_all_bindings() {
    let node = world::node_of(&world::open_config(1, ""));
    let phone = world::registered_openly(&node, "alice", LineTransport::Udp).await;
    assert_eq!(node.registrations().len(), 1);
    assert_eq!(refusal(phone.register_contact(0, "*", 600).await), 400, "RFC 3261 §10.3(6)");
    phone.register_contact(0, "*", 0).await.unwrap();
    assert_eq!(node.registrations(), Vec::<serde_json::Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_and_accounts_outlast_an_orderly_restart() {
    let node = world::node();
    let phone = world::registered(&node, "alice", LineTransport::Udp).await;
    let before = node.registrations();
    drop(phone);
    let directory = node.stop();
    let node = Node::start_in(directory, &NodeOptions::default());
    let after = node.registrations();
    assert_eq!(after.len(), 1);
    assert_eq!(after[0]["contact"], before[0]["contact"]);
    let phone = world::phone(&node, "alice", LineTransport::Udp).await;
    phone.register(600).await.unwrap();
}
