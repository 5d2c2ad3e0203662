//! One identity, several phones: parallel forking, order by q, and the winner takes it (RFC 3261 §16.7).

use phone::{LineTransport, PhoneError};

use crate::world;

#[tokio::test(flavor = "multi_thread")]
async fn the_first_answer_wins_and_the_others_are_cancelled() {
    let node = world::node_of(&world::open_config(1, ""));
    let caller = world::registered_openly(&node, "alice", LineTransport::Udp).await;
    let desk = world::registered_openly(&node, "bob", LineTransport::Udp).await;
    let mobile = world::registered_openly(&node, "bob", LineTransport::Tcp).await;
    assert_eq!(node.registrations().len(), 3, "the caller's and two of the callee");
    let uri = desk.uri();
    let (ringing_sender, ringing_receiver) = tokio::sync::oneshot::channel();
    let at_desk = async {
        let ringing = desk.incoming().await?;
        ringing.ring().await?;
        // Answer only when the mobile rings too, so that its branch must be cancelled.
        ringing_receiver.await.expect("the mobile rings");
        ringing.answer().await
    };
    let at_mobile = async {
        let ringing = mobile.incoming().await?;
        ringing.ring().await?;
        ringing_sender.send(()).expect("the desk phone waits");
        ringing.canceled().await
    };
    let calling = async { caller.call(0, &uri).await?.answered().await };
    let (answered, cancelled, call) = tokio::join!(at_desk, at_mobile, calling);
    cancelled.expect("the other branch is cancelled");
    let (answered, call) = (answered.unwrap(), call.unwrap());
    let (ended, noticed) = tokio::join!(call.hang_up(), answered.hung_up());
    ended.unwrap();
    noticed.unwrap();
    assert_eq!((desk.invites(), mobile.invites()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_q_is_tried_after_the_higher_one_refused() {
    let node = world::node_of(&world::open_config(1, ""));
    let caller = world::registered_openly(&node, "alice", LineTransport::Udp).await;
    let first = world::phone(&node, "bob", LineTransport::Udp).await;
    let contact = format!("{};q=0.9", first.contact(0));
    first.register_contact(0, &contact, 600).await.unwrap();
    let second = world::phone(&node, "bob", LineTransport::Udp).await;
    let contact = format!("{};q=0.1", second.contact(0));
    second.register_contact(0, &contact, 600).await.unwrap();
    let uri = first.uri();
    let (refused, answered, call) = tokio::join!(
        async { first.incoming().await?.reject(486).await },
        async { second.incoming().await?.answer().await },
        async { caller.call(0, &uri).await?.answered().await }
    );
    refused.unwrap();
    let (answered, call) = (answered.unwrap(), call.unwrap());
    let (ended, noticed) = tokio::join!(answered.hang_up(), call.hung_up());
    ended.unwrap();
    noticed.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_global_refusal_ends_the_call_at_once() {
    let node = world::node_of(&world::open_config(1, ""));
    let caller = world::registered_openly(&node, "alice", LineTransport::Udp).await;
    let desk = world::registered_openly(&node, "bob", LineTransport::Udp).await;
    let mobile = world::registered_openly(&node, "bob", LineTransport::Udp).await;
    let uri = desk.uri();
    let (declined, cancelled, outcome) = tokio::join!(
        async { desk.incoming().await?.reject(603).await },
        async {
            let ringing = mobile.incoming().await?;
            ringing.ring().await?;
            ringing.canceled().await
        },
        async { caller.call(0, &uri).await?.answered().await.map(drop) }
    );
    declined.unwrap();
    cancelled.expect("RFC 3261 §16.7(5): a 6xx cancels the rest");
    assert!(matches!(outcome, Err(PhoneError::Refused { status: 603, .. })), "{outcome:?}");
}
