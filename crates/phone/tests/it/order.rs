//! What breaks the order of a dialog is answered as the RFC says and told to the test.

use phone::PhoneError;
use sip::{HeaderName, Message, Method};

use crate::relay::{established, pair};

/// The tags in a BYE of the caller are turned round, or its CSeq goes back: the callee tells.
async fn told(change: impl Fn(String) -> String + Send + 'static, status: u16) -> Vec<String> {
    let (alice, bob, relay) = pair().await;
    let (calling, answering) = established(&alice, &bob).await;
    relay.does(move |message, octets| {
        if message.method() == Some(Method::Bye) {
            let text = String::from_utf8_lossy(octets).into_owned();
            return vec![change(text).into_bytes().into()];
        }
        vec![octets.clone()]
    });
    let (ended, noticed) = tokio::join!(calling.hang_up(), answering.hung_up());
    assert!(matches!(noticed, Err(PhoneError::Violation(_))), "{noticed:?}");
    // The relay changes no response, so the caller sees one that does not belong to its request, or a refusal.
    match ended {
        Err(PhoneError::Refused { status: refused, .. }) => assert_eq!(refused, status),
        Err(PhoneError::Violation(_)) => assert_eq!(alice.violations().len(), 1),
        other => panic!("{other:?}"),
    }
    bob.violations()
}

/// The value of a header as text.
fn value(text: &str, name: HeaderName) -> String {
    let message = Message::parse(text.to_owned().into_bytes().into()).unwrap();
    String::from_utf8_lossy(message.field(name).unwrap()).into_owned()
}

#[tokio::test]
async fn tags_turned_round_are_told() {
    let turned = |text: String| {
        let (from, to) = (value(&text, HeaderName::From), value(&text, HeaderName::To));
        text.replace(&format!("From: {from}"), "From: X")
            .replace(&format!("To: {to}"), &format!("To: {from}"))
            .replace("From: X", &format!("From: {to}"))
    };
    let violations = told(turned, 481).await;
    assert!(violations[0].contains("turned round"), "{violations:?}");
}

#[tokio::test]
async fn a_cseq_that_goes_back_is_told() {
    let back = |text: String| text.replace("CSeq: 2 BYE", "CSeq: 1 BYE");
    let violations = told(back, 500).await;
    assert!(violations[0].contains("CSeq 1 after 1"), "{violations:?}");
}
