//! Calls under loss: what is lost comes again, and nobody rings twice.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use phone::{PhoneError, after_nth};
use sip::{HeaderName, Method};

use crate::relay::{established, pair};

/// Names what the relay loses.
type Lost = Box<dyn Fn(&sip::Message) -> bool + Send>;

fn is_status(status: u16, method: Method<'static>) -> impl Fn(&sip::Message) -> bool + Send {
    move |message| {
        message.status() == Some(status) && message.cseq().is_ok_and(|cseq| cseq.method == method)
    }
}

#[tokio::test]
async fn whatever_is_lost_once_comes_again() {
    let lost: [Lost; 5] = [
        Box::new(|message| message.method() == Some(Method::Invite)),
        Box::new(is_status(200, Method::Invite)),
        Box::new(|message| message.method() == Some(Method::Ack)),
        Box::new(|message| message.method() == Some(Method::Bye)),
        Box::new(is_status(200, Method::Bye)),
    ];
    for lost in lost {
        let (alice, bob, relay) = pair().await;
        relay.loses(1, lost);
        let (calling, answering) = established(&alice, &bob).await;
        let (ended, noticed) = tokio::join!(calling.hang_up(), answering.hung_up());
        ended.unwrap();
        noticed.unwrap();
        assert_eq!((bob.invites(), bob.rang_again()), (1, Vec::new()));
        assert_eq!((alice.violations(), bob.violations()), (Vec::new(), Vec::new()));
    }
}

#[tokio::test]
async fn a_lost_refusal_comes_again_until_it_is_acknowledged() {
    let (alice, bob, relay) = pair().await;
    // The 180 ends the INVITE's own retransmission: only the callee can repair the loss.
    relay.loses(2, is_status(486, Method::Invite));
    let (outcome, refused) =
        tokio::join!(async { alice.call(0, &bob.uri()).await?.answered().await }, async {
            let ringing = bob.incoming().await?;
            ringing.ring().await?;
            ringing.reject(486).await
        });
    refused.unwrap();
    assert!(matches!(outcome, Err(PhoneError::Refused { status: 486, .. })), "{outcome:?}");
}

#[tokio::test]
async fn both_sides_invite_anew_with_a_new_offer() {
    let (alice, bob, _relay) = pair().await;
    let (mut calling, mut answering) = established(&alice, &bob).await;
    assert_eq!(calling.remote_description(), answering.local_description().as_bytes());
    let before = calling.local_description();
    let (invited, answered) = tokio::join!(calling.reinvite(), answering.reinvited());
    answered.unwrap();
    assert!(!invited.unwrap().body().is_empty());
    assert_ne!(calling.local_description(), before);
    let (invited, answered) = tokio::join!(answering.reinvite(), calling.reinvited());
    invited.unwrap();
    answered.unwrap();
    assert_eq!(calling.remote_description(), answering.local_description().as_bytes());
    assert_eq!(answering.remote_description(), calling.local_description().as_bytes());
    let (ended, noticed) = tokio::join!(answering.hang_up(), calling.hung_up());
    ended.unwrap();
    noticed.unwrap();
    assert_eq!((alice.violations(), bob.violations()), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn both_sides_may_hang_up_at_once() {
    let (alice, bob, _relay) = pair().await;
    let (calling, answering) = established(&alice, &bob).await;
    let (one, other) = tokio::join!(calling.hang_up(), answering.hang_up());
    // Whoever is asked last may have left the call: 481, and the call is over all the same (RFC 3261 §15.1.2).
    for outcome in [one, other] {
        match outcome {
            Ok(()) | Err(PhoneError::Refused { status: 481, .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_call_given_up_ends_with_487_on_both_sides() {
    let (alice, bob, _relay) = pair().await;
    let (outcome, cancelled) = tokio::join!(
        async {
            let mut invitation = alice.call(0, &bob.uri()).await?;
            invitation.ringing().await?;
            assert_eq!(invitation.provisionals(), [183, 180]);
            invitation.cancel().await
        },
        async {
            let ringing = bob.incoming().await?;
            ringing.progress(183).await?;
            ringing.ring().await?;
            ringing.canceled().await
        }
    );
    cancelled.unwrap();
    assert_eq!(outcome.unwrap().status(), Some(487));
}

#[tokio::test]
async fn an_answer_that_crosses_the_cancel_is_acknowledged_and_hung_up() {
    let (alice, bob, relay) = pair().await;
    let (answer, wait) = tokio::sync::oneshot::channel();
    let answer = Mutex::new(Some(answer));
    relay.does(move |message, octets| {
        // The callee answers while the CANCEL is on its way.
        if message.method() == Some(Method::Cancel)
            && let Some(answer) = answer.lock().unwrap().take()
        {
            answer.send(()).unwrap();
            return Vec::new();
        }
        vec![octets.clone()]
    });
    let (outcome, hung_up) = tokio::join!(
        async {
            let mut invitation = alice.call(0, &bob.uri()).await?;
            invitation.ringing().await?;
            invitation.cancel().await
        },
        async {
            let ringing = bob.incoming().await?;
            ringing.ring().await?;
            wait.await.unwrap();
            ringing.answer().await?.hung_up().await
        }
    );
    assert_eq!(outcome.unwrap().status(), Some(200));
    hung_up.unwrap();
    assert_eq!((alice.violations(), bob.violations()), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn a_call_that_was_given_up_is_not_answered() {
    let (alice, bob, _relay) = pair().await;
    let (given_up, wait) = tokio::sync::oneshot::channel();
    let given_up = Mutex::new(Some(given_up));
    bob.watch(Arc::new(move |passed| {
        if passed.to_string() == "bob > 200 CANCEL" {
            given_up.lock().unwrap().take().unwrap().send(()).unwrap();
        }
    }));
    let (outcome, answered) = tokio::join!(
        async {
            let mut invitation = alice.call(0, &bob.uri()).await?;
            invitation.ringing().await?;
            invitation.cancel().await
        },
        async {
            let ringing = bob.incoming().await?;
            ringing.ring().await?;
            wait.await.unwrap();
            ringing.answer().await.map(drop)
        }
    );
    assert!(matches!(answered, Err(PhoneError::Cancelled)), "{answered:?}");
    assert_eq!(outcome.unwrap().status(), Some(487));
}

#[tokio::test]
async fn a_test_acts_after_the_nth_message_of_both_phones() {
    let (alice, bob, _relay) = pair().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let at_four = Arc::new(AtomicUsize::new(0));
    let nth = {
        let (at_four, seen) = (Arc::clone(&at_four), Arc::clone(&seen));
        after_nth(4, move || at_four.store(seen.lock().unwrap().len(), Ordering::SeqCst))
    };
    let watcher: phone::Watcher = {
        let seen = Arc::clone(&seen);
        Arc::new(move |passed| {
            seen.lock().unwrap().push(passed.to_string());
            nth(passed);
        })
    };
    alice.watch(Arc::clone(&watcher));
    bob.watch(watcher);
    let (calling, answering) = established(&alice, &bob).await;
    let (ended, noticed) = tokio::join!(calling.hang_up(), answering.hung_up());
    ended.unwrap();
    noticed.unwrap();
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen[..2], ["alice > INVITE", "bob < INVITE"]);
    for message in ["bob > 180 INVITE", "alice < 200 INVITE", "bob < ACK", "alice < 200 BYE"] {
        assert!(seen.iter().any(|seen| seen == message), "{message} in {seen:?}");
    }
    assert_eq!(at_four.load(Ordering::SeqCst), 4, "{seen:?}");
}

#[tokio::test]
async fn an_invite_by_another_branch_rings_again_and_is_refused() {
    let (alice, bob, relay) = pair().await;
    relay.does(|message, octets| {
        let mut onward = vec![octets.clone()];
        if message.method() == Some(Method::Invite) {
            let branch = message.top_via().unwrap().branch().unwrap().to_vec();
            let text = String::from_utf8_lossy(octets);
            let branch = String::from_utf8_lossy(&branch).into_owned();
            onward.push(text.replace(&branch, &format!("{branch}-again")).into_bytes().into());
        }
        onward
    });
    let (calling, answering) = established(&alice, &bob).await;
    assert_eq!(bob.invites(), 2);
    let again = bob.rang_again();
    assert_eq!(again.len(), 1, "{again:?}");
    assert!(again[0].contains("rang 2 times"), "{again:?}");
    let (ended, noticed) = tokio::join!(calling.hang_up(), answering.hung_up());
    ended.unwrap();
    noticed.unwrap();
}

#[tokio::test]
async fn a_request_in_a_call_that_is_over_is_answered_481() {
    let (alice, bob, _relay) = pair().await;
    let (calling, answering) = established(&alice, &bob).await;
    let call_id = calling.call_id().to_owned();
    let (ended, noticed) = tokio::join!(calling.hang_up(), answering.hung_up());
    ended.unwrap();
    noticed.unwrap();
    let late = alice
        .request(0, Method::Info, &bob.uri())
        .call_id(&call_id)
        .to(&format!("<{}>;tag=gone", bob.uri()));
    let answer = late.send().await.unwrap().final_response().await.unwrap();
    assert_eq!(answer.status(), Some(481));
    // Out of a dialog it is answered as any phone would.
    let options = alice.request(0, Method::Options, &bob.uri());
    let answer = options.send().await.unwrap().final_response().await.unwrap();
    assert_eq!(answer.status(), Some(200));
    assert!(answer.field(HeaderName::To).is_some_and(|to| to.ends_with(b"tag=phone")));
}
