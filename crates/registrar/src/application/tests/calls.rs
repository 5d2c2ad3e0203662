//! Everything but REGISTER: who may call whom, and where it goes.

use super::*;

/// A node where Bob has registered two contacts.
fn with_bob(authenticate: bool) -> Node {
    let mut node = Node::new(false);
    let fields = "Path: <sip:p2;lr>, <sip:p1;lr>\nContact: <sip:desk@10.0.0.1?a=b>;q=0.5, <sip:mobile@10.0.0.2>\n";
    assert_eq!(node.status(&register("c", 1, fields)), 200);
    node.settings.authenticate = authenticate;
    node
}

fn call(from: &str, uri: &str, fields: &str) -> Message {
    with_addresses("INVITE", uri, from, uri, "call", 1, fields)
}

// RFC 3261 §16.5, RFC 3327 §5.4
#[test]
fn a_call_goes_to_all_bindings_by_their_paths_without_record_route() {
    let plan = with_bob(true).plan(&call("sip:carol@example.org", "sip:bob@example.com", ""));
    assert_eq!(plan.record_route, RecordRoute::No);
    let mut targets: Vec<_> =
        plan.targets.iter().map(|target| (&target.uri[..], target.q.thousandths())).collect();
    targets.sort();
    assert_eq!(targets, [(&b"sip:desk@10.0.0.1"[..], 500), (b"sip:mobile@10.0.0.2", 1000)]);
    for target in &plan.targets {
        assert_eq!(target.route, ["<sip:p2;lr>", "<sip:p1;lr>"]);
        assert_eq!(target.instance, None);
    }
}

#[test]
fn each_caller_and_callee_gets_what_is_due_to_it() {
    let ours = "sip:alice@example.com";
    let foreign = "sip:carol@example.org";
    // authenticate, from, request-uri, status or 0 for proxied
    for (authenticate, from, uri, status) in [
        (true, foreign, "sip:bob@example.com", 0),
        (true, foreign, "sip:alice@example.com", 480),
        (true, foreign, "sip:nobody@example.com", 404),
        (true, foreign, "sip:dave@example.net", 403),
        (true, foreign, "tel:+1234", 404),
        (true, foreign, "urn:service:sos", 416),
        (true, foreign, "sip:bob@192.0.2.1", 404),
        (true, foreign, "sips:bob@example.com", 480),
        (true, ours, "sip:bob@example.com", 407),
        (true, ours, "sip:nobody@example.com", 407),
        (true, ours, "sip:dave@example.net", 407),
        (true, "sip:example.com", "sip:bob@example.com", 403),
        (true, "isbn:1", "sip:bob@example.com", 0),
        (false, ours, "sip:bob@example.com", 0),
        (false, ours, "sip:dave@example.net", 0),
        (false, ours, "sip:alice@example.com", 480),
        (false, foreign, "sip:nobody@example.com", 404),
        (false, foreign, "sip:dave@example.net", 403),
    ] {
        let node = with_bob(authenticate);
        let found = match node.run(&node.container(), &call(from, uri, "")) {
            Action::Respond(response) => response.status,
            Action::Proxy(_) => 0,
            Action::Drop => panic!("{from} to {uri} dropped"),
        };
        assert_eq!(found, status, "{from} calls {uri}, authenticate = {authenticate}");
    }
}

// RFC 3261 §22.3
#[test]
fn a_caller_of_ours_proves_it_once_per_request() {
    let node = with_bob(true);
    let challenge =
        challenge(&node.answer(&call("sip:alice@example.com", "sip:bob@example.com", "")));
    let credentials = answered_as(&challenge, "INVITE", 1, b"alice", PASSWORD);
    let from = |aor: &str, uri: &str| call(aor, uri, &credentials);
    let proven = from("sip:alice@example.com", "sip:bob@example.com");
    assert_eq!(node.plan(&proven).targets.len(), 2);
    // Its retransmission, after the container died between commit and forwarding.
    assert_eq!(node.plan(&proven).targets.len(), 2);
    // The same credentials in another request.
    let replayed = node.answer(&from("sip:alice@example.com", "sip:dave@example.net"));
    assert!(super::challenge(&replayed).stale);
    // Somebody else's address.
    let as_bob = answered_as(&challenge, "INVITE", 2, b"alice", PASSWORD);
    let forged = call("sip:bob@example.com", "sip:bob@example.com", &as_bob);
    assert_eq!(node.status(&forged), 403);
}

impl Node {
    /// As a container that admits a request to an application: what is answered in its place.
    fn refused(&self, message: &Message) -> Option<Response> {
        let container = self.container();
        assert!(container.is_gatekeeper());
        let admitted = block_on(container.admit(&self.incoming(message)));
        let (batch, refusal) = match admitted {
            Ok(batch) => (batch, None),
            Err(Effects { batch, action: Action::Respond(response) }) => (batch, Some(response)),
            Err(other) => panic!("not answered: {other:?}"),
        };
        block_on(self.bindings.commit(batch)).unwrap();
        refusal
    }
}

#[test]
fn caller_of_an_application_proves_who_calls_as_the_caller_of_a_phone_does() {
    let node = with_bob(true);
    let alice = "sip:alice@example.com";
    let called = |from: &str, fields: &str| call(from, "sip:room@apps.example.org", fields);
    assert_eq!(node.refused(&called("sip:carol@example.org", "")), None);
    assert_eq!(node.refused(&called("sip:example.com", "")).unwrap().status, 403);
    let refused = node.refused(&called(alice, "")).unwrap();
    let by_phone = node.answer(&call(alice, "sip:bob@example.com", ""));
    let algorithms = |response: &Response| {
        let challenges = values(response, HeaderName::ProxyAuthenticate);
        let challenges = challenges.iter().map(|one| ReceivedChallenge::parse(one.as_bytes()));
        challenges.map(|one| one.unwrap().algorithm).collect::<Vec<_>>()
    };
    assert_eq!(refused.status, 407);
    assert_eq!(algorithms(&refused), algorithms(&by_phone));
    assert_eq!(algorithms(&refused).len(), 3);
    let first = challenge(&refused);
    let proven = called(alice, &answered_as(&first, "INVITE", 1, b"alice", PASSWORD));
    assert_eq!(node.refused(&proven), None);
    assert_eq!(node.refused(&proven), None, "its repetition, perhaps in another container");
    let wrong = called(alice, &answered_as(&first, "INVITE", 2, b"alice", b"guess"));
    assert_eq!(node.refused(&wrong).unwrap().status, 407);
    // One nonce for both: what was used for an application is used.
    let credentials = answered_as(&first, "INVITE", 1, b"alice", PASSWORD);
    let replayed = node.answer(&with_addresses(
        "INVITE",
        "sip:bob@example.com",
        alice,
        "sip:bob@example.com",
        "other",
        1,
        &credentials,
    ));
    assert!(challenge(&replayed).stale);
    let not_hers = answered_as(&first, "INVITE", 3, b"alice", PASSWORD);
    assert_eq!(node.refused(&called("sip:bob@example.com", &not_hers)).unwrap().status, 403);
    assert!(!with_bob(false).container().is_gatekeeper());
}

#[test]
fn caller_who_is_known_already_is_not_challenged_and_may_no_more_than_others() {
    let node = with_bob(true);
    let known = |from: &str, uri: &str| {
        let caller = container::application::Caller::Known;
        let request = IncomingRequest { caller, ..node.incoming(&call(from, uri, "")) };
        block_on(node.container().handle(&request)).action
    };
    assert!(matches!(known("sip:alice@example.com", "sip:bob@example.com"), Action::Proxy(_)));
    let Action::Respond(relayed) = known("sip:carol@example.org", "sip:dave@example.net") else {
        panic!("it is proxied")
    };
    assert_eq!(relayed.status, 403);
}

#[test]
fn requests_within_a_dialog_and_acks_are_not_asked_for_credentials() {
    let node = with_bob(true);
    let (from, bob) = ("sip:alice@example.com", "sip:bob@example.com");
    let ack = with_addresses("ACK", bob, from, bob, "call", 1, "");
    assert!(matches!(node.run(&node.container(), &ack), Action::Proxy(_)));
    let nobody = with_addresses("ACK", "sip:x@example.com", from, bob, "call", 1, "");
    assert!(matches!(node.run(&node.container(), &nobody), Action::Drop));
    let text = String::from_utf8(call(from, bob, "").buffer().to_vec()).unwrap();
    let within = text.replace("To: <sip:bob@example.com>", "To: <sip:bob@example.com>;tag=x");
    let message = Message::parse(within.into()).unwrap();
    assert!(matches!(node.run(&node.container(), &message), Action::Proxy(_)));
}

// The flow that its dialog began on is gone: an edge asks us for another one.
#[test]
fn a_request_within_a_dialog_goes_to_what_its_contact_is_registered_as() {
    let mut node = with_bob(true);
    let (alice, bob) = ("sip:alice@example.com", "sip:bob@example.com");
    let within = |method: &str, uri: &str, to: &str| {
        let message = with_addresses(method, uri, alice, to, "call", 1, "");
        let text = String::from_utf8(message.buffer().to_vec()).unwrap();
        let tagged = text.replace(&format!("To: <{to}>"), &format!("To: <{to}>;tag=x"));
        Message::parse(tagged.into()).unwrap()
    };
    for method in ["BYE", "ACK"] {
        for (contact, target) in [
            ("sip:mobile@10.0.0.2", "sip:mobile@10.0.0.2"),
            ("sip:desk@10.0.0.1", "sip:desk@10.0.0.1"),
            ("sip:mobile@10.0.0.2:49152;transport=tcp", "sip:mobile@10.0.0.2"),
        ] {
            let targets = node.plan(&within(method, contact, bob)).targets;
            let uris: Vec<_> = targets.iter().map(|target| &target.uri[..]).collect();
            assert_eq!(uris, [target.as_bytes()], "{method} {contact}");
            assert_eq!(targets[0].route, ["<sip:p2;lr>", "<sip:p1;lr>"]);
        }
    }
    // It connected anew and registered another port; what it registered before has not expired.
    node.settings.authenticate = false;
    assert_eq!(
        node.status(&register("d", 1, "Path: <sip:p3;lr>\nContact: <sip:mobile@10.0.0.2:7>\n")),
        200
    );
    let targets = node.plan(&within("BYE", "sip:mobile@10.0.0.2", bob)).targets;
    let routes: Vec<_> = targets.iter().map(|target| &target.route[0][..]).collect();
    assert_eq!(routes, [&b"<sip:p2;lr>"[..], b"<sip:p3;lr>"], "the one it names first");
    assert!(targets[0].instance.is_some() && targets[0].instance == targets[1].instance);
    node.settings.authenticate = true;
    // Nobody registered these: as any request for elsewhere, of one of ours.
    for (uri, to) in [
        ("sip:mobile@10.0.0.3", bob),
        ("sip:other@10.0.0.2", bob),
        ("sip:mobile@10.0.0.2", alice),
        ("sip:mobile@10.0.0.2", "sip:bob@example.org"),
    ] {
        assert_eq!(node.status(&within("BYE", uri, to)), 407, "{uri} of {to}");
    }
    assert_eq!(
        node.status(&with_addresses("BYE", "sip:mobile@10.0.0.2", alice, bob, "c", 1, "")),
        407
    );
}

#[test]
fn an_account_that_was_removed_is_not_called_any_more() {
    let node = with_bob(true);
    block_on(node.account_store().remove("bob@example.com")).unwrap();
    assert_eq!(node.status(&call("sip:carol@example.org", "sip:bob@example.com", "")), 404);
}

// RFC 5626 §7
#[test]
fn flows_of_one_instance_are_named_as_such_newest_first() {
    let node = Node::new(false);
    for reg_id in [1, 2] {
        let fields = format!(
            "Supported: outbound\nPath: <sip:t{reg_id}@h;lr;ob>\n\
             Contact: <sip:bob@10.0.0.7>;+sip.instance=\"<urn:uuid:1>\";reg-id={reg_id}\n"
        );
        assert_eq!(node.status(&register(&format!("c{reg_id}"), 1, &fields)), 200);
    }
    let plan = node.plan(&call("sip:carol@example.org", "sip:bob@example.com", ""));
    let routes: Vec<_> = plan.targets.iter().map(|target| target.route[0].clone()).collect();
    assert_eq!(routes, ["<sip:t2@h;lr;ob>", "<sip:t1@h;lr;ob>"]);
    for target in &plan.targets {
        assert_eq!(target.instance.as_deref(), Some(&b"<urn:uuid:1>"[..]));
    }
}

// RFC 3261 §11.2, §21.4.6, §21.5.2, §8.2.2.3
#[test]
fn requests_to_the_server_itself_are_answered_by_it() {
    let node = Node::new(true);
    let server = |method: &str, fields: &str| {
        node.answer(&request(method, "sip:example.com", "c", 1, fields))
    };
    let options = server("OPTIONS", "");
    assert_eq!(options.status, 200);
    for name in [HeaderName::Allow, HeaderName::Supported, HeaderName::Accept] {
        assert_eq!(values(&options, name).len(), 1, "{name}");
    }
    for (method, fields, status) in [
        ("INVITE", "", 405),
        ("SUBSCRIBE", "", 405),
        ("RE%47ISTER", "", 501),
        ("OPTIONS", "Require: x\n", 420),
    ] {
        let response = server(method, fields);
        assert_eq!(response.status, status, "{method}");
        let allows = values(&response, HeaderName::Allow).len();
        assert_eq!(allows, usize::from(status != 420), "{method}");
    }
    let ack = request("ACK", "sip:example.com", "c", 1, "");
    assert!(matches!(node.run(&node.container(), &ack), Action::Drop));
}

#[test]
fn what_is_required_of_the_proxy_is_refused() {
    let node = with_bob(false);
    let fields = "Proxy-Require: a, path\n";
    let response = node.answer(&call("sip:carol@example.org", "sip:bob@example.com", fields));
    assert_eq!(
        (response.status, values(&response, HeaderName::Unsupported)),
        (420, vec!["a, path".into()])
    );
    let require = call("sip:carol@example.org", "sip:bob@example.com", "Require: 100rel\n");
    assert_eq!(node.plan(&require).targets.len(), 2);
}
