//! The BYE of a leg: when it may leave, and that it leaves again when it has found no way to the other side.
//!
//! RFC 3261 §15.1.1 has a dialog end with its BYE, however that is answered. Here that is so for the session; but of the phone
//! it is not true while its edge, or the store that knows its flow, has just been lost, and nobody else would ever tell it.

use std::time::Duration;

use sip::Method;
use state::UnixMillis;

use super::state::{Action, Bye, Context, Leg, PutOff, Session, Silence};
use super::{LegName, LegState, limits};

impl Session {
    /// Sends the BYEs that are wanted and may leave: a callee's not before the ACK to its 2xx, a caller's behind its
    /// own ACK (RFC 3261 §15).
    pub(super) fn hang_up(&mut self, context: Context<'_>, actions: &mut Vec<Action>) {
        let may_leave = |leg: &&Leg| self.hangs_up_at(leg).is_some_and(|at| at <= context.guarded);
        let wanted: Vec<(LegName, Silence)> = self
            .legs
            .iter()
            .filter(may_leave)
            .filter_map(|leg| match leg.bye {
                Bye::Wanted(silence) => Some((leg.name.clone(), silence)),
                Bye::None | Bye::Done => None,
            })
            .collect();
        for (name, silence) in wanted {
            self.acknowledge(&name, &[], None, context, actions);
            let Some(leg) = self.leg(&name) else { continue };
            leg.bye = Bye::Done;
            let Some(dialog) = &mut leg.dialog else { continue };
            let cseq = dialog.take_cseq();
            let dialog = dialog.clone();
            let (branch, bye) = self.in_dialog(&dialog, Method::Bye, cseq, context);
            self.send(Some(name), (Method::Bye, branch, bye.build()), silence, context, actions);
        }
    }

    /// From when on a BYE that is wanted may leave; none while an ACK is waited for.
    pub(super) fn hangs_up_at(&self, leg: &Leg) -> Option<UnixMillis> {
        let awaits_ack = self.incoming.iter().any(|request| {
            request.leg == leg.name
                && request.answer.as_ref().is_some_and(|answer| answer.awaits_ack)
        });
        let is_wanted = matches!(leg.bye, Bye::Wanted(_)) && !awaits_ack;
        is_wanted.then(|| leg.put_off.map_or(UnixMillis(0), |put_off| put_off.until))
    }

    /// Whether a BYE so answered is sent again: none of these answers is the other side's, which may stand in the dialog
    /// still. It gets a number and a branch of its own, and is given up with its answer when it would leave later than 64·T1
    /// after the first one failed.
    pub(super) fn puts_bye_off(
        &mut self,
        name: &LegName,
        method: &[u8],
        (status, retry_after): (u16, Option<Duration>),
        silence: Silence,
        context: Context<'_>,
    ) -> bool {
        let has_hung_up = self.incoming.iter().any(|request| {
            request.leg == *name && Method::parse(&request.method) == Some(Method::Bye)
        });
        let Some(leg) = self.leg(name) else { return false };
        let is_its_end = Method::parse(method) == Some(Method::Bye)
            && (leg.state, leg.bye) == (LegState::Ended, Bye::Done);
        if !is_its_end || has_hung_up || !found_no_way(status) {
            return false;
        }
        let since = leg.put_off.map_or(context.now, |put_off| put_off.since);
        let until = context.now.saturating_add(retry_after.unwrap_or(limits::BYE_PUT_OFF));
        if until > since.saturating_add(context.kept()) {
            return false;
        }
        leg.bye = Bye::Wanted(silence);
        leg.put_off = Some(PutOff { since, until });
        true
    }
}

/// What is answered on the way, for now: by an edge whose flow is gone, for a phone that is about to register again, by
/// whoever cannot read its store, or knows no next hop.
fn found_no_way(status: u16) -> bool {
    matches!(status, 430 | 480 | 500 | 502 | 503 | 504)
}
