//! What could not be stored of a call is tried again: with pauses that grow while the call is held up by it, every second
//! when the call has gone on without.
//!
//! Bounds: one try at a time for a call, and none once nobody needs its record any more.

use std::time::{Duration, Instant};

use state::CommitError;
use tracing::{error, warn};

use super::super::{Shard, ShardEffect};
use super::{Act, InFlight, Step};
use crate::ownership::identity::SetUpId;

/// A commit that fails so often is given up.
const ATTEMPTS_MAX: u32 = 8;

/// The pause before a commit is tried for the second time; each further one is twice as long, 2.5 s together.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// After so long a commit is not tried once more: a store that fails slowly holds a call up no longer than one that fails
/// at once.
const HELD_UP_MAX: Duration = Duration::from_secs(3);

/// A record that lags behind its call is written again after so long.
const CATCH_UP_PAUSE: Duration = Duration::from_secs(1);

impl InFlight {
    /// When it is tried again after a failure; None: no more.
    fn next_try(&self, now: Instant) -> Option<Instant> {
        let is_given_up = self.attempts >= ATTEMPTS_MAX || now > self.begun_at + HELD_UP_MAX;
        (!is_given_up).then(|| now + PAUSE_MIN * 2_u32.pow(self.attempts.saturating_sub(1)))
    }
}

impl Shard {
    pub(super) fn write_again(
        &mut self,
        id: SetUpId,
        error: &CommitError,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) {
        let Some(ledger) = self.set_ups.get_mut(&id) else { return };
        let Some(in_flight) = &mut ledger.in_flight else { return };
        in_flight.attempts += 1;
        let is_removal = in_flight.value.is_none();
        let mut steps = ledger.waiting.iter().take(in_flight.steps);
        // What only says again what has happened holds up nothing: it has its time again.
        let is_wanted_now = is_removal || steps.any(|step| step.event.is_some());
        if is_wanted_now && let Some(at) = in_flight.next_try(now) {
            in_flight.paused_until = Some(at);
            return self.tries.arm(id, &mut ledger.tried_again, Some(at));
        }
        if is_removal {
            warn!(%error, set_up = %id, "the record of a call that is over stays until it expires");
            return self.forget(id, now, effects);
        }
        if is_wanted_now && !ledger.is_behind {
            error!(%error, set_up = %id, "a call goes on before its record: nobody can take it over until that is written");
        }
        (ledger.is_indexed, ledger.is_behind) = (true, true);
        self.tries.arm(id, &mut ledger.tried_again, Some(now + CATCH_UP_PAUSE));
        self.stands(id, now, effects);
    }

    /// Tries again what could not be stored.
    pub(in super::super) fn tries_due(&mut self, now: Instant, effects: &mut Vec<ShardEffect>) {
        while let Some((at, id)) = self.tries.pop_due(now) {
            let Some(ledger) = self.set_ups.get_mut(&id) else { continue };
            if !ledger.tried_again.take(at) {
                continue;
            }
            if let Some(in_flight) = &mut ledger.in_flight {
                match in_flight.paused_until.take_if(|until| *until <= now) {
                    Some(_) => self.write(id, now, effects),
                    None => self.tries.arm(id, &mut ledger.tried_again, in_flight.paused_until),
                }
            } else if ledger.is_behind && !ledger.is_over {
                self.note(id, Step { event: None, act: Act::Refresh }, now, effects);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_go_on_for_as_long_as_a_lost_node_may_take_and_no_longer() {
        let begun = Instant::now();
        let mut in_flight = InFlight::new(None, 0, begun);
        let mut now = begun;
        let mut pauses = Vec::new();
        in_flight.attempts = 1;
        while let Some(at) = in_flight.next_try(now) {
            pauses.push((at - now).as_millis());
            (now, in_flight.attempts) = (at, in_flight.attempts + 1);
        }
        assert_eq!(pauses, [20, 40, 80, 160, 320, 640, 1_280]);
        in_flight.attempts = 2;
        assert!(in_flight.next_try(begun + HELD_UP_MAX).is_some());
        let late = begun + HELD_UP_MAX + Duration::from_millis(1);
        assert_eq!(in_flight.next_try(late), None, "each try has taken long");
    }
}
