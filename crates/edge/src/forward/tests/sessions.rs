//! Messages of sessions, whose tokens stand in Request-URI, Route and the branches of their requests: to the owner while
//! it serves, else by session id.

use super::*;

fn three() -> Rig {
    let mut rig = Rig::new();
    rig.open("container3", 13);
    rig
}

/// The messages of one session that name container1's first life, each in its place.
fn messages(rig: &Rig, session: u8) -> [(&'static str, String); 3] {
    let token = rig.session_token(11, session);
    let uri = format!("sip:{token}@container1.node1.outlast.invalid");
    [
        ("Request-URI", request("BYE", &uri, "")),
        ("Route", request("BYE", "sip:bob@203.0.113.9", &format!("Route: <{uri};lr>"))),
        (
            "branch",
            format!(
                "SIP/2.0 200 OK
                Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKedge
                Via: SIP/2.0/TCP container1.node1.outlast.invalid;branch=z9hG4bK{token}mac
                From: <sip:alice@example.com>;tag=a
                To: <sip:bob@example.com>;tag=b
                Call-ID: leg-b
                CSeq: 1 INVITE
                Content-Length: 0"
            ),
        ),
    ]
}

#[test]
fn a_sessions_messages_go_to_its_owner_while_it_serves() {
    let rig = three();
    for session in 0..20 {
        for (place, text) in messages(&rig, session) {
            assert_eq!(rig.offered(rig.receive(&text, PHONE)).0, "container1", "{place}");
        }
    }
}

#[test]
fn a_dead_owners_messages_go_by_session_id_whatever_their_call_id() {
    let mut rig = three();
    rig.close("container1", 11);
    rig.open("container1", 14); // restarted: it may be the heir of some
    let heirs: std::collections::BTreeSet<_> = (0..40)
        .map(|session| {
            let heir = rig.heir(session);
            for (place, text) in messages(&rig, session) {
                assert_eq!(rig.offered(rig.receive(&text, PHONE)).0, heir, "{place}");
            }
            heir
        })
        .collect();
    assert_eq!(heirs.len(), 3, "the sessions are spread: {heirs:?}");
}

#[test]
fn what_a_dead_owner_did_not_take_goes_by_session_id_too() {
    let mut rig = three();
    let sessions = 0..40;
    let offered: Vec<_> = sessions
        .clone()
        .flat_map(|session| messages(&rig, session))
        .map(|(_, text)| rig.offered(rig.receive(&text, PHONE)).1)
        .collect();
    rig.close("container1", 11);
    for (session, messages) in sessions.zip(offered.chunks(3)) {
        for message in messages {
            let again = offer_again(message, Attempt::First, 1, &rig.view(), &mut BytesMut::new());
            assert_eq!(rig.offered(again).0, rig.heir(session));
        }
    }
}

#[test]
fn what_was_not_taken_goes_back_to_an_owner_that_serves_again() {
    let rig = three();
    for (place, text) in messages(&rig, 5) {
        let (_, message) = rig.offered(rig.receive(&text, PHONE));
        let again = offer_again(&message, Attempt::First, 1, &rig.view(), &mut BytesMut::new());
        assert_eq!(rig.offered(again).0, "container1", "{place}");
    }
}

#[test]
fn a_forged_session_token_names_nobody() {
    let rig = three();
    for (place, text) in messages(&rig, 5) {
        let token = rig.session_token(11, 5);
        let forged = rig.session_token(11, 6).replace(&token[..40], "");
        let text =
            text.replace(&token, &format!("{}{}", &token[..40], &forged[forged.len() - 12..]));
        match place {
            "branch" => assert_eq!(
                rig.receive(&text, PHONE),
                Decision::Drop(DropReason::ForgedVia),
                "a response that we asked for has our token"
            ),
            // Nobody is named, so the Call-ID chooses, as for any request of a stranger.
            _ => {
                let chosen = rig.routing.choose(ChoiceKey::CallId(b"c1@10.0.0.1")).first.unwrap();
                let expected = rig.routing.routes()[chosen].name.to_string();
                assert_eq!(rig.offered(rig.receive(&text, PHONE)).0, expected, "{place}");
            }
        }
    }
}
