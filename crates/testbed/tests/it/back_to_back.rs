//! Calls through the back-to-back agent: two dialogs that are one call, held by a container that may die.

use phone::{Call, LineTransport, Phone, PhoneError};
use sip::{HeaderName, NameAddr};
use testbed::node::Node;
use testbed::wait;

use crate::world::{self, DOMAIN};

const BOTH: [LineTransport; 2] = [LineTransport::Udp, LineTransport::Tcp];

fn node() -> Node {
    let applications = "[container]\napplications = [\"registrar\", \"back-to-back\"]\n";
    world::node_of(&world::open_config(1, applications))
}

fn agent(callee: &Phone) -> String {
    format!("sip:{}@b2b.{DOMAIN}", callee.user())
}

async fn pair(node: &Node, name: &str, from: LineTransport, to: LineTransport) -> (Phone, Phone) {
    let caller = world::registered_openly(node, &format!("caller-{name}"), from).await;
    let callee = world::registered_openly(node, &format!("callee-{name}"), to).await;
    (caller, callee)
}

/// Runs a call through the agent to its established state and gives both ends.
async fn established(caller: &Phone, callee: &Phone) -> (Call, Call) {
    let calling = async {
        let mut invitation = caller.call(0, &agent(callee)).await?;
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

/// Each side invites anew, then one hangs up; session descriptions pass as they are.
pub(crate) async fn go_on_and_end(mut calling: Call, mut answering: Call, caller_ends: bool) {
    for caller_asks in [true, false] {
        let (asks, answers) = if caller_asks {
            (&mut calling, &mut answering)
        } else {
            (&mut answering, &mut calling)
        };
        let (asked, answered) = tokio::join!(asks.reinvite(), answers.reinvited());
        asked.expect("the re-INVITE is answered");
        answered.expect("the answer to it is acknowledged");
        assert_eq!(asks.remote_description(), answers.local_description().as_bytes());
        assert_eq!(answers.remote_description(), asks.local_description().as_bytes());
    }
    let (ends, notices) = if caller_ends { (calling, answering) } else { (answering, calling) };
    let (ended, noticed) = tokio::join!(ends.hang_up(), notices.hung_up());
    ended.expect("the BYE is answered");
    noticed.expect("the other side hears it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sessions_of_calls_are_listed_with_their_legs_as_long_as_they_live() {
    let node = node();
    let (caller, callee) = pair(&node, "listed", LineTransport::Udp, LineTransport::Udp).await;
    let sessions = |more: &[&str]| -> Vec<serde_json::Value> {
        let output = node.outlast(&[&["sessions", "--json"], more].concat());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert_eq!(sessions(&[]), Vec::<serde_json::Value>::new());
    let (calling, answering) = established(&caller, &callee).await;
    let listed = sessions(&["--application", "back-to-back"]);
    assert_eq!(listed.len(), 1, "{listed:?}");
    let container = listed[0]["container"].as_str().unwrap_or_default();
    assert!(container.starts_with("container"), "{listed:?}");
    let legs = listed[0]["legs"].as_array().unwrap();
    let leg = |at: usize, name: &str| legs[at][name].as_str().unwrap().to_owned();
    assert_eq!((leg(0, "name"), leg(0, "direction")), ("caller".into(), "incoming".into()));
    assert_eq!((leg(1, "direction"), leg(1, "state")), ("outgoing".into(), "confirmed".into()));
    assert_eq!(sessions(&["--application", "other"]).len(), 0);
    let shown = node.outlast(&["sessions"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("caller confirmed"), "{shown:?}");
    let (ended, noticed) = tokio::join!(calling.hang_up(), answering.hung_up());
    ended.and(noticed).expect("the call ends");
    wait::until("the session to be over", world::LIMIT, || match sessions(&[]) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
    node.stop();
}

pub(crate) fn assert_in_order(phones: &[&Phone]) {
    for phone in phones {
        let user = phone.user();
        assert_eq!(phone.rang_again(), Vec::<String>::new(), "{user} rang once a call");
        assert_eq!(phone.violations(), Vec::<String>::new(), "at {user}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_through_the_agent_come_up_go_on_and_end_over_every_pair_of_transports() {
    let node = node();
    for (number, (from, to)) in
        BOTH.into_iter().flat_map(|from| BOTH.map(|to| (from, to))).enumerate()
    {
        let (caller, callee) = pair(&node, &number.to_string(), from, to).await;
        let (calling, answering) = established(&caller, &callee).await;
        assert_ne!(calling.call_id(), answering.call_id(), "two dialogs");
        assert_eq!(calling.remote_description(), answering.local_description().as_bytes());
        assert_eq!(answering.remote_description(), calling.local_description().as_bytes());
        go_on_and_end(calling, answering, number % 2 == 0).await;
        assert_in_order(&[&caller, &callee]);
        assert_eq!(callee.invites(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callee_sees_the_caller_by_the_agent_and_may_call_back() {
    let node = node();
    let (caller, callee) = pair(&node, "a", LineTransport::Udp, LineTransport::Udp).await;
    let (refused, back) = tokio::join!(
        async { caller.call(0, &agent(&callee)).await?.answered().await.map(drop) },
        async {
            let ringing = callee.incoming().await?;
            let from = ringing.invite().field(HeaderName::From).unwrap_or_default().to_vec();
            ringing.reject(486).await?;
            Ok::<Vec<u8>, PhoneError>(from)
        }
    );
    assert!(matches!(refused, Err(PhoneError::Refused { status: 486, .. })), "{refused:?}");
    let back = back.unwrap();
    let back = String::from_utf8_lossy(NameAddr::parse(&back).unwrap().uri()).into_owned();
    assert_eq!(back, format!("sip:caller-a@b2b.{DOMAIN}"));
    let (call, answered) =
        tokio::join!(async { callee.call(0, &back).await?.answered().await }, async {
            caller.incoming().await?.answer().await
        });
    go_on_and_end(call.unwrap(), answered.unwrap(), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_through_the_agent_that_is_given_up_stops_ringing() {
    let node = node();
    for transport in BOTH {
        let name = transport.name().to_lowercase();
        let (caller, callee) = pair(&node, &name, transport, transport).await;
        let (calling, answering) = tokio::join!(
            async {
                let mut invitation = caller.call(0, &agent(&callee)).await?;
                invitation.ringing().await?;
                invitation.cancel().await
            },
            async {
                let ringing = callee.incoming().await?;
                ringing.ring().await?;
                ringing.canceled().await
            }
        );
        answering.expect("the CANCEL reaches the callee");
        assert_eq!(calling.expect("the INVITE ends").status(), Some(487));
        assert_in_order(&[&caller, &callee]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_tells_why_a_call_does_not_come_up() {
    let node = node();
    let (caller, callee) = pair(&node, "a", LineTransport::Udp, LineTransport::Tcp).await;
    for status in [486, 603, 404] {
        let (outcome, rejected) = tokio::join!(
            async { caller.call(0, &agent(&callee)).await?.final_response().await },
            async { callee.incoming().await?.reject(status).await }
        );
        rejected.unwrap();
        assert_eq!(outcome.unwrap().status(), Some(status));
    }
    let nobody = format!("sip:nobody@b2b.{DOMAIN}");
    let outcome = caller.call(0, &nobody).await.unwrap().final_response().await.unwrap();
    assert_eq!(outcome.status(), Some(404));
    assert_in_order(&[&caller, &callee]);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_through_the_agent_outlast_every_container() {
    const CALLS: usize = 8;
    let node = node();
    let mut phones = Vec::new();
    let mut up = Vec::new();
    for number in 0..CALLS {
        let [from, to] = [BOTH[number % 2], BOTH[number / 2 % 2]];
        let (caller, callee) = pair(&node, &number.to_string(), from, to).await;
        up.push(established(&caller, &callee).await);
        phones.push((caller, callee));
    }
    // Between them they hold every session, and the second finds what the first one had.
    for container in ["container1", "container2"] {
        node.kill_and_wait_ready(container);
    }
    for (number, (calling, answering)) in up.into_iter().enumerate() {
        go_on_and_end(calling, answering, number % 2 == 0).await;
    }
    for (caller, callee) in &phones {
        assert_in_order(&[caller, callee]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_through_the_agent_goes_on_ringing_while_its_containers_die() {
    for transport in BOTH {
        let node = node();
        let (caller, callee) = pair(&node, "a", transport, transport).await;
        let mut invitation = caller.call(0, &agent(&callee)).await.unwrap();
        let (heard, ringing) = tokio::join!(invitation.ringing(), async {
            let ringing = callee.incoming().await?;
            ringing.ring().await?;
            Ok::<_, PhoneError>(ringing)
        });
        heard.unwrap();
        for container in ["container1", "container2"] {
            node.kill_and_wait_ready(container);
        }
        let (calling, answering) = tokio::join!(invitation.answered(), ringing.unwrap().answer());
        let (calling, answering) = (calling.unwrap(), answering.unwrap());
        go_on_and_end(calling, answering, true).await;
        assert_in_order(&[&caller, &callee]);
        assert_eq!(callee.invites(), 1, "it rings once");
    }
}
