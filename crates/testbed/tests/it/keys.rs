//! Keys that rotate under registrations and calls: what was made under the keys before goes on, what is older is
//! refused clearly, and the next REGISTER heals it. A call goes on whatever rotates.

use phone::{LineTransport, Phone};
use sip::digest::{Login, answer};
use sip::{HeaderName, Message, Method};
use testbed::node::Node;
use testbed::wait;

use crate::world::{self, DOMAIN, PASSWORD};

const PROCESSES: [&str; 3] = ["edge1", "container1", "container2"];

/// Rotates the keys by the command, and waits until every process has taken them over.
fn rotate(node: &Node) {
    let taken_over =
        || PROCESSES.map(|name| node.process_log(name).matches("took over keys").count());
    let before = taken_over();
    let output = node.outlast(&["keys", "rotate"]);
    assert!(output.status.success(), "{output:?}");
    wait::until("every process to have the keys", std::time::Duration::from_secs(10), || {
        let now = taken_over();
        // Told twice: to accept, and to sign.
        if now.iter().zip(before).all(|(now, before)| *now >= before + 2) {
            Ok(())
        } else {
            Err(now)
        }
    });
}

/// A REGISTER that answers a challenge, which may be an old one.
async fn register_with(phone: &Phone, challenged: &Message, count: u32) -> Message {
    let registrar = format!("sip:{DOMAIN}");
    let login = Login { username: phone.user().as_bytes(), password: PASSWORD.as_bytes() };
    let challenges = challenged.fields(HeaderName::WwwAuthenticate);
    let (_, credentials) =
        answer(challenges, login, b"REGISTER", registrar.as_bytes(), b"cnonce", count).unwrap();
    let credentials = String::from_utf8(credentials).unwrap();
    let request = phone
        .request(0, Method::Register, &registrar)
        .to(&format!("<{}>", phone.uri()))
        .header("Contact", &phone.contact(0))
        .header("Authorization", &credentials);
    request.send().await.unwrap().final_response().await.unwrap()
}

async fn challenge(phone: &Phone) -> Message {
    let request = phone
        .request(0, Method::Register, &format!("sip:{DOMAIN}"))
        .to(&format!("<{}>", phone.uri()))
        .header("Contact", &phone.contact(0));
    let response = request.send().await.unwrap().final_response().await.unwrap();
    assert_eq!(response.status(), Some(401));
    response
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_is_good_over_one_rotation_and_stale_after_two() {
    let node = world::node();
    node.add_user(&format!("alice@{DOMAIN}"), PASSWORD);
    let phone = world::phone(&node, "alice", LineTransport::Udp).await;
    let challenged = challenge(&phone).await;
    rotate(&node);
    assert_eq!(register_with(&phone, &challenged, 1).await.status(), Some(200));
    rotate(&node);
    let refused = register_with(&phone, &challenged, 2).await;
    assert_eq!(refused.status(), Some(401));
    let again = refused.fields(HeaderName::WwwAuthenticate).next().unwrap();
    let again = String::from_utf8_lossy(again).into_owned();
    assert!(again.contains("stale=true"), "the phone need not ask its user: {again}");
    assert_eq!(register_with(&phone, &refused, 1).await.status(), Some(200));
    let shown = node.outlast(&["keys", "show"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("those before are accepted"), "{shown}");
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_set_up_and_one_that_stands_go_on_over_a_rotation() {
    for transport in [LineTransport::Udp, LineTransport::Tcp] {
        let node = world::node_of(&world::open_config(1, ""));
        let caller = world::registered_openly(&node, "alice", transport).await;
        let callee = world::registered_openly(&node, "bob", transport).await;
        // Registered before the rotation, called after it: the flow token of the Path is accepted.
        rotate(&node);
        let uri = callee.uri();
        let (mut invitation, ringing) = (caller.call(0, &uri).await.unwrap(), callee.incoming());
        let ringing = ringing.await.unwrap();
        ringing.ring().await.unwrap();
        invitation.ringing().await.unwrap();
        callee.register(600).await.unwrap();
        rotate(&node);
        // The same branch as before: the container knows it, and the callee rings once.
        let octets = invitation.invite().buffer().clone();
        caller.lines()[0].send(octets).await.unwrap();
        let (calling, answering) = tokio::join!(invitation.answered(), ringing.answer());
        let (calling, answering) = (calling.unwrap(), answering.unwrap());
        assert_eq!(callee.invites(), 1, "the callee rings once over {transport:?}");
        // What was recorded as its route before the rotation leads there after it.
        let (ended, noticed) = tokio::join!(calling.hang_up(), answering.hung_up());
        ended.unwrap();
        noticed.unwrap();
        for phone in [&caller, &callee] {
            assert_eq!(phone.violations(), Vec::<String>::new());
        }
        node.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_outlasts_every_rotation_direct_and_through_the_agent() {
    let applications = "[container]\napplications = [\"registrar\", \"back-to-back\"]\n";
    let node = world::node_of(&world::open_config(1, applications));
    let caller = world::registered_openly(&node, "alice", LineTransport::Udp).await;
    let callee = world::registered_openly(&node, "bob", LineTransport::Tcp).await;
    let mut calls = Vec::new();
    for uri in [callee.uri(), format!("sip:bob@b2b.{DOMAIN}")] {
        let (calling, answering) =
            tokio::join!(async { caller.call(0, &uri).await?.answered().await }, async {
                callee.incoming().await?.answer().await
            });
        calls.push((calling.unwrap(), answering.unwrap()));
    }
    for _ in 0..3 {
        rotate(&node);
    }
    for (mut calling, mut answering) in calls {
        let (asked, answered) = tokio::join!(answering.reinvite(), calling.reinvited());
        asked.expect("the callee's re-INVITE finds its way");
        answered.expect("so does its ACK");
        let (ended, noticed) = tokio::join!(calling.hang_up(), answering.hung_up());
        ended.expect("the BYE finds its way");
        noticed.expect("the callee hears it");
    }
    for phone in [&caller, &callee] {
        assert_eq!(phone.violations(), Vec::<String>::new());
    }
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_after_a_rotation_finds_its_invite() {
    let node = world::node_of(&world::open_config(1, ""));
    let caller = world::registered_openly(&node, "alice", LineTransport::Udp).await;
    let callee = world::registered_openly(&node, "bob", LineTransport::Udp).await;
    let uri = callee.uri();
    let (mut invitation, ringing) = (caller.call(0, &uri).await.unwrap(), callee.incoming());
    let ringing = ringing.await.unwrap();
    ringing.ring().await.unwrap();
    invitation.ringing().await.unwrap();
    rotate(&node);
    let (outcome, canceled) = tokio::join!(invitation.cancel(), ringing.canceled());
    canceled.expect("the CANCEL finds its INVITE");
    assert_eq!(outcome.unwrap().status(), Some(487));
    assert_eq!(callee.invites(), 1);
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_registered_before_two_rotations_is_unavailable_until_it_registers_again() {
    let node = world::node_of(&world::open_config(1, ""));
    let caller = world::registered_openly(&node, "alice", LineTransport::Udp).await;
    let callee = world::registered_openly(&node, "bob", LineTransport::Udp).await;
    rotate(&node);
    rotate(&node);
    let uri = callee.uri();
    let refused = caller.call(0, &uri).await.unwrap().final_response().await.unwrap();
    assert_eq!(refused.status(), Some(480), "as of a phone that cannot be reached");
    callee.register(600).await.unwrap();
    let (calling, answering) =
        tokio::join!(async { caller.call(0, &uri).await?.answered().await }, async {
            callee.incoming().await?.answer().await
        });
    let (ended, noticed) = tokio::join!(calling.unwrap().hang_up(), answering.unwrap().hung_up());
    ended.unwrap();
    noticed.unwrap();
    node.stop();
}
