//! REGISTER: credentials, retries, conflicts, and what the 200 says.

use super::*;

const CONTACT: &str = "Contact: <sip:bob@10.0.0.7:5060>;expires=600\n";

/// Bob's challenge for his next REGISTER.
fn bobs_challenge(node: &Node) -> ReceivedChallenge {
    challenge(&node.answer(&register("first", 1, CONTACT)))
}

/// A REGISTER of Bob's with good credentials.
fn signed(challenge: &ReceivedChallenge, nonce_count: u32, cseq: u32, fields: &str) -> Message {
    register("c", cseq, &(answered(challenge, "REGISTER", nonce_count) + fields))
}

// RFC 8760 §2.4
#[test]
fn there_is_one_challenge_per_algorithm_strongest_first_and_each_can_be_answered() {
    let node = Node::new(true);
    let response = node.answer(&register("c", 1, CONTACT));
    let offered: Vec<ReceivedChallenge> = values(&response, HeaderName::WwwAuthenticate)
        .iter()
        .map(|value| ReceivedChallenge::parse(value.as_bytes()).unwrap())
        .collect();
    let algorithms: Vec<Algorithm> = offered.iter().map(|challenge| challenge.algorithm).collect();
    assert_eq!(algorithms, Algorithm::STRONGEST_FIRST);
    for (index, challenge) in offered.iter().enumerate() {
        assert_eq!((challenge.realm.as_slice(), challenge.stale), (&b"example.com"[..], false));
        let count = index as u32 + 1;
        assert_eq!(node.status(&signed(challenge, count, 1 + count, CONTACT)), 200);
    }
    assert_eq!(node.contacts(), ["sip:bob@10.0.0.7:5060"]);
}

// RFC 3261 §22: cluster check
#[test]
fn a_nonce_of_one_container_is_taken_by_another_and_its_count_only_once() {
    let node = Node::new(true);
    let (one, other) = (node.container(), node.container());
    let Action::Respond(response) = node.run(&one, &register("c", 1, CONTACT)) else { panic!() };
    let challenge = challenge(&response);
    let Action::Respond(taken) = node.run(&other, &signed(&challenge, 1, 2, CONTACT)) else {
        panic!()
    };
    assert_eq!(taken.status, 200);
    let stolen = signed(&challenge, 1, 3, "Contact: <sip:thief@203.0.113.9>\n");
    let Action::Respond(refused) = node.run(&one, &stolen) else { panic!() };
    assert_eq!(refused.status, 401);
    assert!(super::challenge(&refused).stale);
    assert_eq!(node.contacts(), ["sip:bob@10.0.0.7:5060"]);
}

#[test]
fn a_retransmission_that_reaches_another_container_gets_the_same_200() {
    let node = Node::new(true);
    let request = signed(&bobs_challenge(&node), 1, 2, CONTACT);
    let first = node.answer(&request);
    let commits = node.bindings.commits();
    assert_eq!(node.answer(&request), first);
    assert_eq!(node.bindings.commits(), commits);
    node.pass(Duration::from_secs(33));
    assert_eq!(node.status(&request), 401);
}

#[test]
fn a_retransmission_of_a_refused_request_is_refused_again_and_lends_its_credentials_to_nobody() {
    let node = Node::new(true);
    let challenge = bobs_challenge(&node);
    let brief = signed(&challenge, 1, 2, "Contact: <sip:bob@10.0.0.7>;expires=5\n");
    assert_eq!(node.status(&brief), 423);
    assert_eq!(node.status(&brief), 423);
    let thief = signed(&challenge, 1, 2, "Contact: <sip:thief@203.0.113.9>\n");
    assert_eq!(node.status(&thief), 401);
    assert_eq!(node.contacts(), Vec::<String>::new());
}

#[test]
fn a_commit_of_unknown_outcome_ends_in_one_binding_and_a_200() {
    for fault in
        [CommitFault::AppliedButUnknown, CommitFault::LostAndUnknown, CommitFault::Conflicts]
    {
        for authenticate in [true, false] {
            let node = Node::new(authenticate);
            let request = if authenticate {
                signed(&bobs_challenge(&node), 1, 2, CONTACT)
            } else {
                register("c", 2, CONTACT)
            };
            let again = match fault {
                CommitFault::AppliedButUnknown => CommitFault::AppliedButUnknown,
                CommitFault::LostAndUnknown => CommitFault::LostAndUnknown,
                _ => CommitFault::Conflicts,
            };
            node.bindings.inject_commit_fault(again);
            assert_eq!(node.status(&request), 200, "{fault:?}");
            assert_eq!(node.contacts(), ["sip:bob@10.0.0.7:5060"], "{fault:?}");
        }
    }
}

#[test]
fn of_two_concurrent_registers_none_is_lost() {
    let node = Node::new(false);
    let (one, other) = (node.container(), node.container());
    let slow = register("c", 1, "Contact: <sip:slow@10.0.0.1>\n");
    let effects = block_on(one.handle(&node.incoming(&slow)));
    let quick = register("d", 1, "Contact: <sip:quick@10.0.0.2>\n");
    node.run(&other, &quick);
    let refused = block_on(node.bindings.commit(effects.batch));
    assert!(matches!(refused, Err(CommitError::Conflict { .. })), "{refused:?}");
    node.run(&one, &slow);
    assert_eq!(node.contacts(), ["sip:quick@10.0.0.2", "sip:slow@10.0.0.1"]);
}

// RFC 3261 §22, RFC 7616 §3.3
#[test]
fn only_good_credentials_with_an_old_nonce_are_called_stale() {
    let node = Node::new(true);
    let challenge = bobs_challenge(&node);
    node.pass(node.settings.nonce_age_max + Duration::from_secs(1));
    for (username, password, stale) in [
        (&b"bob"[..], PASSWORD, true),
        (b"bob@example.com", PASSWORD, true),
        (b"bob", b"wrong", false),
        (b"nobody", PASSWORD, false),
        (b"alice", b"wrong", false),
    ] {
        let credentials = answered_as(&challenge, "REGISTER", 1, username, password);
        let response = node.answer(&register("c", 2, &(credentials + CONTACT)));
        assert_eq!(super::challenge(&response).stale, stale, "{}", username.escape_ascii());
    }
}

#[test]
fn an_unknown_user_gets_what_a_wrong_password_gets() {
    let node = Node::new(true);
    let challenge = bobs_challenge(&node);
    let answer = |username: &[u8], password: &[u8]| {
        let credentials = answered_as(&challenge, "REGISTER", 1, username, password);
        let mut response = node.answer(&register("c", 2, &(credentials + CONTACT)));
        // The nonces differ by time and random octets only.
        for header in &mut response.headers {
            let text = String::from_utf8(header.value.to_vec()).unwrap();
            let (before, after) = text.split_once("nonce=\"").unwrap();
            let nonce_length = after.find('"').unwrap();
            header.value = format!("{before}{nonce_length}{}", &after[nonce_length..]).into();
        }
        response
    };
    assert_eq!(answer(b"nobody", b"x"), answer(b"bob", b"x"));
}

// RFC 4475 §3.3.7
#[test]
fn credentials_of_other_schemes_and_realms_are_passed_over() {
    let node = Node::new(true);
    let good = answered(&bobs_challenge(&node), "REGISTER", 1);
    let foreign = good.replace("realm=\"example.com\"", "realm=\"example.org\"");
    let unknown = "Authorization: NoOneKnowsThisScheme opaque-data=here\n";
    let nothing_for_us = format!("{unknown}{foreign}{CONTACT}");
    assert_eq!(node.status(&register("c", 2, &nothing_for_us)), 401);
    let all = format!("{unknown}{foreign}{good}{CONTACT}");
    assert_eq!(node.status(&register("c", 3, &all)), 200);
}

// RFC 3261 §10.3(4)
#[test]
fn an_account_registers_its_own_addresses_only() {
    let node = Node::new(true);
    let challenge = bobs_challenge(&node);
    let as_alice = answered_as(&challenge, "REGISTER", 1, b"alice", PASSWORD);
    assert_eq!(node.status(&register("c", 2, &(as_alice + CONTACT))), 403);
    assert_eq!(node.contacts(), Vec::<String>::new());
}

#[test]
fn a_200_lists_every_binding_and_what_the_way_back_is() {
    let mut node = Node::new(false);
    node.settings.service_route = vec!["<sip:edge.example.com;lr>".into()];
    node.status(&register("c", 1, "Contact: <sip:a@10.0.0.1>;expires=100\n"));
    node.pass(Duration::from_secs(10));
    let fields = "Path: <sip:t@192.0.2.1;lr>\nContact: <sip:b@10.0.0.2>;q=0.5\nExpires: 200\n";
    let response = node.answer(&register("d", 1, fields));
    let listed = ["<sip:a@10.0.0.1>;expires=90", "<sip:b@10.0.0.2>;expires=200;q=0.5"];
    assert_eq!(values(&response, HeaderName::Contact), listed);
    assert_eq!(values(&response, HeaderName::Path), ["<sip:t@192.0.2.1;lr>"]);
    assert_eq!(values(&response, HeaderName::ServiceRoute), ["<sip:edge.example.com;lr>"]);
    assert_eq!(values(&response, HeaderName::Date), ["Tue, 14 Nov 2023 22:13:30 GMT"]);
    // RFC 3261 §10.3(8): a fetch changes nothing.
    let commits = node.bindings.commits();
    assert_eq!(values(&node.answer(&register("e", 1, "")), HeaderName::Contact), listed);
    assert_eq!(node.bindings.commits(), commits);
    node.pass(Duration::from_secs(90));
    assert_eq!(node.contacts(), ["sip:b@10.0.0.2"]);
}

#[test]
fn refusals_carry_what_the_phone_needs_to_do_better() {
    let mut node = Node::new(false);
    node.settings.flow_timer = Some(Duration::from_secs(90));
    let brief = node.answer(&register("c", 1, "Contact: <sip:a@h>;expires=5\n"));
    assert_eq!((brief.status, values(&brief, HeaderName::MinExpires)), (423, vec!["60".into()]));
    let required = node.answer(&register("c", 1, "Require: path, gruu, x\n"));
    let unsupported = values(&required, HeaderName::Unsupported);
    assert_eq!((required.status, unsupported), (420, vec!["gruu, x".into()]));
    let flow = "Supported: outbound\nContact: <sip:a@h>;+sip.instance=\"<i>\";reg-id=1\n";
    assert_eq!(node.status(&register("c", 1, flow)), 439);
    let outbound = node.answer(&register("c", 1, &format!("Path: <sip:t@h;ob;lr>\n{flow}")));
    let required = values(&outbound, HeaderName::Require);
    assert_eq!((outbound.status, required), (200, vec!["outbound".into()]));
    assert_eq!(values(&outbound, HeaderName::FlowTimer), ["90"]);
    node.status(&register("d", 5, CONTACT));
    assert_eq!(node.status(&register("d", 4, CONTACT)), 500);
    assert_eq!(node.status(&register("d", 6, "Contact: *\n")), 400);
    assert_eq!(node.status(&register("d", 7, "Contact: *\nExpires: 0\n")), 200);
    assert_eq!(node.contacts(), Vec::<String>::new());
    assert_eq!(node.bindings.records(), 0);
}

#[test]
fn only_addresses_of_served_domains_can_be_registered() {
    let node = Node::new(true);
    for (to, status) in [
        ("sip:bob@example.org", 404),
        ("sip:example.com", 404),
        ("isbn:2983792873", 400),
        ("tel:+1234", 400),
        ("sip:bob@EXAMPLE.com:5080", 401),
        ("sips:bob@example.com", 401),
    ] {
        let uri = "sip:example.com";
        let message = with_addresses("REGISTER", uri, "sip:bob@example.com", to, "c", 1, CONTACT);
        assert_eq!(node.status(&message), status, "{to}");
    }
}

#[test]
fn a_store_that_fails_is_answered_503_when_a_retry_may_help() {
    let node = Node::new(false);
    node.bindings.inject_read_fault(StoreError::Busy { waiting: 9 });
    let busy = node.answer(&register("c", 1, CONTACT));
    assert_eq!((busy.status, values(&busy, HeaderName::RetryAfter).len()), (503, 1));
    node.bindings.inject_read_fault(StoreError::Closed);
    assert_eq!(node.status(&register("c", 1, CONTACT)), 500);
}

#[test]
fn nats_are_kept_open_for_owned_buckets_once_per_interval() {
    let node = Node::new(false);
    let container = node.container();
    node.status(&register("c", 1, &format!("Path: <sip:t@192.0.2.1;lr>\n{CONTACT}")));
    let round = |seconds: u64, ownership| {
        node.pass(Duration::from_secs(seconds));
        block_on(container.tick(&Tick::new(node.now(), ownership)))
    };
    let duty = Duty::KeepAlive { path: "<sip:t@192.0.2.1;lr>".into() };
    assert_eq!(round(1, Ownership::Everything), std::slice::from_ref(&duty));
    assert_eq!(round(1, Ownership::Nothing), []);
    let in_one_interval: Vec<Duty> = (0..5).flat_map(|_| round(5, Ownership::Everything)).collect();
    assert_eq!(in_one_interval, [duty]);
    node.status(&register("c", 2, "Contact: *\nExpires: 0\n"));
    assert_eq!(round(30, Ownership::Everything), []);
}

#[test]
fn looking_after_nats_lets_requests_go_first() {
    let node = Node::new(false);
    let container = node.container();
    let tick = Tick::new(node.now(), Ownership::Everything);
    let mut round = container.tick(&tick);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let pauses =
        std::iter::from_fn(|| round.as_mut().poll(&mut context).is_pending().then_some(()));
    assert_eq!(pauses.count() as u64, crate::keep_alive::BUCKETS);
}

#[test]
fn a_clock_set_forward_ends_no_binding_while_time_stands_still_and_dates_new_ones_right() {
    let node = Node::new(false);
    let container = node.container();
    let hour = Duration::from_secs(3_600);
    assert_eq!(node.status(&register("c", 1, CONTACT)), 200);
    let at = |request: &Message, now, expiry_now| {
        let request = IncomingRequest { now, expiry_now, ..node.incoming(request) };
        let effects = block_on(container.handle(&request));
        block_on(node.bindings.commit(effects.batch)).unwrap();
        let Action::Respond(response) = effects.action else { panic!() };
        values(&response, HeaderName::Contact)
    };
    let (frozen, stepped) = (node.now(), node.now().saturating_add(hour));
    let other = "Contact: <sip:bob@10.0.0.8:5060>;expires=600\n";
    let listed = at(&register("d", 1, other), stepped, frozen);
    assert_eq!(
        listed,
        ["<sip:bob@10.0.0.7:5060>;expires=60", "<sip:bob@10.0.0.8:5060>;expires=600"],
        "one is kept while time stands still, the other has its whole time"
    );
    node.pass(hour + Duration::from_secs(61));
    let thawed = node.now();
    let listed = at(&register("e", 1, ""), thawed, thawed);
    assert_eq!(listed, ["<sip:bob@10.0.0.8:5060>;expires=539"]);
}
