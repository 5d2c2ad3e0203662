//! The calls of the matrix: what each party does, and what must have happened in the end.
//!
//! A script says nothing of faults: it is the same call that a user would make, and it fails when the call does not
//! come to the end it describes.

use std::future::Future;
use std::pin::Pin;

use phone::{Call, Phone, PhoneError};

/// Who takes part in a call.
pub(crate) struct Parties {
    /// Calls `uri`.
    pub(crate) caller: Phone,
    /// All registered under the address-of-record behind `uri`, in the order of [`Script::callees`].
    pub(crate) callees: Vec<Phone>,
    /// What the caller calls.
    pub(crate) uri: String,
    /// Under which Call-ID.
    pub(crate) call_id: String,
}

type Played<'a> = Pin<Box<dyn Future<Output = Result<(), PhoneError>> + Send + 'a>>;

/// A call, from beginning to end.
#[derive(Clone, Copy)]
pub(crate) struct Script {
    /// Short, for a cell's name.
    pub(crate) name: &'static str,
    /// The q of each callee's contact.
    pub(crate) callees: &'static [&'static str],
    /// Plays it.
    pub(crate) play: for<'a> fn(&'a mut Parties) -> Played<'a>,
}

/// Every script.
pub(crate) const SCRIPTS: &[Script] = &[
    Script { name: "call", callees: &["1.0"], play: |parties| Box::pin(call(parties)) },
    Script { name: "reject", callees: &["1.0"], play: |parties| Box::pin(reject(parties)) },
    Script { name: "cancel", callees: &["1.0"], play: |parties| Box::pin(cancel(parties)) },
    Script { name: "fork", callees: &["1.0", "1.0"], play: |parties| Box::pin(fork(parties)) },
    Script { name: "one-busy", callees: &["1.0", "1.0"], play: |p| Box::pin(one_busy(p)) },
    Script { name: "sequence", callees: &["0.9", "0.1"], play: |p| Box::pin(sequence(p)) },
    Script { name: "decline", callees: &["1.0", "1.0"], play: |p| Box::pin(decline(p)) },
    Script { name: "cancel-fork", callees: &["1.0", "1.0"], play: |p| Box::pin(cancel_fork(p)) },
];

/// Rings, is answered, both sides invite anew, the caller hangs up.
async fn call(parties: &mut Parties) -> Result<(), PhoneError> {
    let Parties { caller, callees, uri, call_id } = parties;
    let calling = async {
        let mut invitation = caller.call_as(0, uri, call_id).await?;
        invitation.ringing().await?;
        let mut call = invitation.answered().await?;
        call.reinvite().await?;
        call.reinvited().await?;
        call.hang_up().await
    };
    let answering = async {
        let ringing = callees[0].incoming().await?;
        ringing.ring().await?;
        let mut call = ringing.answer().await?;
        call.reinvited().await?;
        call.reinvite().await?;
        call.hung_up().await
    };
    both(calling, answering).await
}

/// Rings and is refused.
async fn reject(parties: &mut Parties) -> Result<(), PhoneError> {
    let Parties { caller, callees, uri, call_id } = parties;
    let calling = async {
        let mut invitation = caller.call_as(0, uri, call_id).await?;
        refused(486, invitation.final_response().await?.status())
    };
    let answering = async {
        let ringing = callees[0].incoming().await?;
        ringing.ring().await?;
        ringing.reject(486).await
    };
    both(calling, answering).await
}

/// Rings and is given up.
async fn cancel(parties: &mut Parties) -> Result<(), PhoneError> {
    let Parties { caller, callees, uri, call_id } = parties;
    let calling = async {
        let mut invitation = caller.call_as(0, uri, call_id).await?;
        invitation.ringing().await?;
        refused(487, invitation.cancel().await?.status())
    };
    let answering = async {
        let ringing = callees[0].incoming().await?;
        ringing.ring().await?;
        ringing.canceled().await
    };
    both(calling, answering).await
}

/// Both phones of the callee ring, the first one answers, the other one is cancelled.
async fn fork(parties: &mut Parties) -> Result<(), PhoneError> {
    let Parties { caller, callees, uri, call_id } = parties;
    let [desk, mobile] = &mut callees[..] else { unreachable!("two callees") };
    let (rings, other_rings) = tokio::sync::oneshot::channel();
    let calling = async {
        let invitation = caller.call_as(0, uri, call_id).await?;
        invitation.answered().await?.hang_up().await
    };
    let answering = async {
        let ringing = desk.incoming().await?;
        ringing.ring().await?;
        let _ = other_rings.await;
        ringing.answer().await?.hung_up().await
    };
    let cancelled = async {
        let ringing = mobile.incoming().await?;
        ringing.ring().await?;
        let _ = rings.send(());
        ringing.canceled().await
    };
    both(calling, both(answering, cancelled)).await
}

/// Both phones ring, one is busy, the other one answers later.
async fn one_busy(parties: &mut Parties) -> Result<(), PhoneError> {
    let Parties { caller, callees, uri, call_id } = parties;
    let [desk, mobile] = &mut callees[..] else { unreachable!("two callees") };
    let (refuses, other_refuses) = tokio::sync::oneshot::channel();
    let calling = async {
        let invitation = caller.call_as(0, uri, call_id).await?;
        invitation.answered().await?.hang_up().await
    };
    let answering = async {
        let ringing = desk.incoming().await?;
        ringing.ring().await?;
        let _ = other_refuses.await;
        ringing.answer().await?.hung_up().await
    };
    let busy = async {
        let ringing = mobile.incoming().await?;
        ringing.ring().await?;
        let rejected = ringing.reject(486).await;
        let _ = refuses.send(());
        rejected
    };
    both(calling, both(answering, busy)).await
}

/// The phone of higher q refuses, then the other one rings and answers; the callee hangs up.
async fn sequence(parties: &mut Parties) -> Result<(), PhoneError> {
    let Parties { caller, callees, uri, call_id } = parties;
    let [first, second] = &mut callees[..] else { unreachable!("two callees") };
    let calling = async {
        let invitation = caller.call_as(0, uri, call_id).await?;
        invitation.answered().await?.hung_up().await
    };
    let refusing = async { first.incoming().await?.reject(480).await };
    let answering = async {
        let ringing = second.incoming().await?;
        ringing.ring().await?;
        let call: Call = ringing.answer().await?;
        call.hang_up().await
    };
    both(calling, both(refusing, answering)).await
}

/// One phone declines for all of them (6xx), the other one is cancelled.
async fn decline(parties: &mut Parties) -> Result<(), PhoneError> {
    let Parties { caller, callees, uri, call_id } = parties;
    let [desk, mobile] = &mut callees[..] else { unreachable!("two callees") };
    let (rings, other_rings) = tokio::sync::oneshot::channel();
    let calling = async {
        let mut invitation = caller.call_as(0, uri, call_id).await?;
        refused(603, invitation.final_response().await?.status())
    };
    let declining = async {
        let ringing = desk.incoming().await?;
        let _ = other_rings.await;
        ringing.reject(603).await
    };
    let cancelled = async {
        let ringing = mobile.incoming().await?;
        ringing.ring().await?;
        let _ = rings.send(());
        ringing.canceled().await
    };
    both(calling, both(declining, cancelled)).await
}

/// Both phones ring, the caller gives up.
async fn cancel_fork(parties: &mut Parties) -> Result<(), PhoneError> {
    let Parties { caller, callees, uri, call_id } = parties;
    let [desk, mobile] = &mut callees[..] else { unreachable!("two callees") };
    let (rings, other_rings) = tokio::sync::oneshot::channel();
    let calling = async {
        let mut invitation = caller.call_as(0, uri, call_id).await?;
        invitation.ringing().await?;
        let _ = other_rings.await;
        refused(487, invitation.cancel().await?.status())
    };
    let at_desk = async {
        let ringing = desk.incoming().await?;
        ringing.ring().await?;
        ringing.canceled().await
    };
    let at_mobile = async {
        let ringing = mobile.incoming().await?;
        ringing.ring().await?;
        let _ = rings.send(());
        ringing.canceled().await
    };
    both(calling, both(at_desk, at_mobile)).await
}

/// Both to their ends; the first failure is the result.
async fn both(
    one: impl Future<Output = Result<(), PhoneError>>,
    other: impl Future<Output = Result<(), PhoneError>>,
) -> Result<(), PhoneError> {
    tokio::try_join!(one, other).map(|((), ())| ())
}

fn refused(expected: u16, status: Option<u16>) -> Result<(), PhoneError> {
    match status {
        Some(status) if status == expected => Ok(()),
        other => Err(PhoneError::Violation(format!("answered {other:?} in place of {expected}"))),
    }
}
