//! The INVITE server transaction: answers repeated INVITEs, repeats failures until they are acknowledged.
//!
//! ```text
//!     Proceeding ──300–699──▶ Completed ──ACK──▶ Confirmed
//!         │ 2xx                   │ H                │ I
//!         ▼                       ▼                  ▼
//!     Accepted ────────L────▶ Terminated ◀───────────┘
//! ```
//!
//! A transport error changes no state: the transaction stays to absorb the repeated INVITE, which would
//! otherwise look like a new one (RFC 6026 §7.1).
//!
//! Source: RFC 3261 §17.2.1, RFC 6026 §7.1 and §8.7 (state Accepted, Timer L)

use std::time::Instant;

use super::{Reliability, ResponseClass, Retransmission, ServerAction, Timers, due, earliest};

/// Where an INVITE server transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerInviteState {
    /// No final response is sent.
    Proceeding,
    /// A failure is sent and not yet acknowledged.
    Completed,
    /// The failure is acknowledged; repeated ACKs are absorbed.
    Confirmed,
    /// A 2xx is sent; repeated INVITEs are absorbed, and further 2xx let through (RFC 6026).
    Accepted,
    /// It is over.
    Terminated,
}

/// The INVITE server transaction.
///
/// Source: RFC 3261 §17.2.1
#[derive(Debug, Clone)]
pub struct ServerInviteTransaction {
    state: ServerInviteState,
    timers: Timers,
    reliability: Reliability,
    /// Whether a response can be repeated.
    answered: bool,
    /// When 100 is sent unless the transaction user has said something (no letter in the RFC).
    trying_at: Option<Instant>,
    /// Timer G: the failure is sent again, T1 doubling up to T2.
    timer_g: Option<Retransmission>,
    /// The end of the state: Timer H in Completed, I in Confirmed, L in Accepted.
    ending: Option<Instant>,
}

/// What can happen to the machine; the columns of the test's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The INVITE came again.
    Invite,
    Ack,
    /// The transaction user answers.
    Respond(ResponseClass),
    /// Nobody has answered for 200 ms.
    Trying,
    TimerG,
    TimerH,
    TimerI,
    TimerL,
    TransportError,
}

impl ServerInviteTransaction {
    /// Begins a transaction with the first INVITE.
    pub fn start(
        timers: Timers,
        reliability: Reliability,
        now: Instant,
    ) -> ServerInviteTransaction {
        ServerInviteTransaction {
            state: ServerInviteState::Proceeding,
            timers,
            reliability,
            answered: false,
            trying_at: Some(now + timers.trying_to_invite()),
            timer_g: None,
            ending: None,
        }
    }

    /// Goes on with a transaction that was answered 2xx elsewhere: it absorbs what is repeated for as long as one
    /// that was answered now.
    pub fn resume_accepted(
        timers: Timers,
        reliability: Reliability,
        now: Instant,
    ) -> ServerInviteTransaction {
        ServerInviteTransaction {
            state: ServerInviteState::Accepted,
            timers,
            reliability,
            answered: true,
            trying_at: None,
            timer_g: None,
            ending: Some(now + timers.patience()),
        }
    }

    /// Where the transaction stands.
    pub fn state(&self) -> ServerInviteState {
        self.state
    }

    /// When [`timeout`](Self::timeout) wants to be called; None while the transaction user takes its time.
    pub fn next_timeout(&self) -> Option<Instant> {
        let sending = earliest(self.trying_at, self.timer_g.map(|timer| timer.at));
        earliest(sending, self.ending)
    }

    /// The INVITE has come again.
    pub fn request(&mut self, now: Instant, actions: &mut impl Extend<ServerAction>) {
        self.step(Event::Invite, now, actions);
    }

    /// An ACK has come that belongs to this transaction.
    pub fn ack(&mut self, now: Instant, actions: &mut impl Extend<ServerAction>) {
        self.step(Event::Ack, now, actions);
    }

    /// The transaction user answers; a response that comes too late pushes nothing.
    pub fn respond(
        &mut self,
        class: ResponseClass,
        now: Instant,
        actions: &mut impl Extend<ServerAction>,
    ) {
        self.step(Event::Respond(class), now, actions);
    }

    /// The transaction user wants 100 sent now rather than after 200 ms; nothing if it has answered.
    pub fn trying(&mut self, now: Instant, actions: &mut impl Extend<ServerAction>) {
        self.step(Event::Trying, now, actions);
    }

    /// A response could not be sent.
    pub fn transport_failed(&mut self, now: Instant, actions: &mut impl Extend<ServerAction>) {
        self.step(Event::TransportError, now, actions);
    }

    /// Time has passed; does nothing before [`next_timeout`](Self::next_timeout).
    pub fn timeout(&mut self, now: Instant, actions: &mut impl Extend<ServerAction>) {
        if due(self.ending, now) {
            let event = match self.state {
                ServerInviteState::Completed => Event::TimerH,
                ServerInviteState::Confirmed => Event::TimerI,
                ServerInviteState::Accepted => Event::TimerL,
                ServerInviteState::Proceeding | ServerInviteState::Terminated => return,
            };
            self.step(event, now, actions);
        } else if due(self.trying_at, now) {
            self.step(Event::Trying, now, actions);
        } else if due(self.timer_g.map(|timer| timer.at), now) {
            self.step(Event::TimerG, now, actions);
        }
    }

    fn step(&mut self, event: Event, now: Instant, actions: &mut impl Extend<ServerAction>) {
        use ResponseClass::{Failure, Provisional, Success};
        use ServerAction::{
            DeliverAck, ResendResponse, SendResponse, SendTrying, TimedOut, TransportFailed,
        };
        use ServerInviteState as State;

        match (self.state, event) {
            (State::Proceeding, Event::Invite) if self.answered => {
                actions.extend([ResendResponse]);
            }
            (State::Proceeding, Event::Invite | Event::Trying) => {
                self.trying_at = None;
                // A 100 after a provisional response would be repeated in the place of that one.
                if !self.answered {
                    self.answered = true;
                    actions.extend([SendTrying]);
                }
            }
            (State::Proceeding, Event::Respond(Provisional)) => {
                self.answered = true;
                self.trying_at = None;
                actions.extend([SendResponse]);
            }
            (State::Proceeding, Event::Respond(Success)) => {
                actions.extend([SendResponse]);
                self.enter(State::Accepted, Some(now + self.timers.patience()));
            }
            (State::Proceeding, Event::Respond(Failure)) => {
                actions.extend([SendResponse]);
                self.enter(State::Completed, Some(now + self.timers.patience()));
                self.timer_g = Retransmission::start(self.reliability, self.timers.t1, now);
            }
            (State::Accepted, Event::Respond(Success)) => actions.extend([SendResponse]),
            (State::Accepted, Event::Ack) => actions.extend([DeliverAck]),
            (State::Completed, Event::Invite) => actions.extend([ResendResponse]),
            (State::Completed, Event::TimerG) => {
                if let Some(timer) = &mut self.timer_g {
                    timer.back_off(self.timers.t2, now);
                }
                actions.extend([ResendResponse]);
            }
            (State::Completed, Event::Ack) => match self.reliability {
                // Timer I is zero: a stream brings the ACK once.
                Reliability::Reliable => self.terminate(actions),
                Reliability::Unreliable => {
                    self.enter(State::Confirmed, Some(now + self.timers.t4));
                }
            },
            (State::Completed, Event::TimerH) => {
                actions.extend([TimedOut]);
                self.terminate(actions);
            }
            (State::Confirmed, Event::TimerI) | (State::Accepted, Event::TimerL) => {
                self.terminate(actions);
            }
            // RFC 6026 §7.1: the transaction user hears of it, the state stays.
            (
                State::Proceeding | State::Completed | State::Confirmed | State::Accepted,
                Event::TransportError,
            ) => actions.extend([TransportFailed]),
            // Absorbed: what is repeated after its answer, and answers that come too late.
            (State::Proceeding, Event::Ack)
            | (State::Completed, Event::Respond(_))
            | (State::Confirmed, Event::Invite | Event::Ack | Event::Respond(_))
            | (State::Accepted, Event::Invite | Event::Respond(Provisional | Failure))
            // Timers that do not run in this state.
            | (
                State::Proceeding,
                Event::TimerG | Event::TimerH | Event::TimerI | Event::TimerL,
            )
            | (State::Completed, Event::Trying | Event::TimerI | Event::TimerL)
            | (
                State::Confirmed,
                Event::Trying | Event::TimerG | Event::TimerH | Event::TimerL,
            )
            | (
                State::Accepted,
                Event::Trying | Event::TimerG | Event::TimerH | Event::TimerI,
            )
            | (
                State::Terminated,
                Event::Invite
                | Event::Ack
                | Event::Respond(_)
                | Event::Trying
                | Event::TimerG
                | Event::TimerH
                | Event::TimerI
                | Event::TimerL
                | Event::TransportError,
            ) => {}
        }
    }

    /// Changes state; no 100 and no repetition outside the states that say so.
    fn enter(&mut self, state: ServerInviteState, ending: Option<Instant>) {
        self.state = state;
        self.answered = true;
        self.trying_at = None;
        self.timer_g = None;
        self.ending = ending;
    }

    fn terminate(&mut self, actions: &mut impl Extend<ServerAction>) {
        self.enter(ServerInviteState::Terminated, None);
        actions.extend([ServerAction::Terminated]);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::ServerAction::*;
    use super::ServerInviteState as State;
    use super::*;

    const PROVISIONAL: Event = Event::Respond(ResponseClass::Provisional);
    const SUCCESS: Event = Event::Respond(ResponseClass::Success);
    const FAILURE: Event = Event::Respond(ResponseClass::Failure);

    /// State, event, next state, actions: every cell of the machine, over UDP.
    type Cell = (State, Event, State, &'static [ServerAction]);
    #[rustfmt::skip]
    const TABLE: &[Cell] = &[
        // Nothing has been answered in Proceeding; see `proceeding_repeats_the_latest_provisional`.
        (State::Proceeding, Event::Invite, State::Proceeding, &[SendTrying]),
        (State::Proceeding, Event::Ack, State::Proceeding, &[]),
        (State::Proceeding, PROVISIONAL, State::Proceeding, &[SendResponse]),
        (State::Proceeding, SUCCESS, State::Accepted, &[SendResponse]),
        (State::Proceeding, FAILURE, State::Completed, &[SendResponse]),
        (State::Proceeding, Event::Trying, State::Proceeding, &[SendTrying]),
        (State::Proceeding, Event::TimerG, State::Proceeding, &[]),
        (State::Proceeding, Event::TimerH, State::Proceeding, &[]),
        (State::Proceeding, Event::TimerI, State::Proceeding, &[]),
        (State::Proceeding, Event::TimerL, State::Proceeding, &[]),
        (State::Proceeding, Event::TransportError, State::Proceeding, &[TransportFailed]),
        (State::Completed, Event::Invite, State::Completed, &[ResendResponse]),
        (State::Completed, Event::Ack, State::Confirmed, &[]),
        (State::Completed, PROVISIONAL, State::Completed, &[]),
        (State::Completed, SUCCESS, State::Completed, &[]),
        (State::Completed, FAILURE, State::Completed, &[]),
        (State::Completed, Event::Trying, State::Completed, &[]),
        (State::Completed, Event::TimerG, State::Completed, &[ResendResponse]),
        (State::Completed, Event::TimerH, State::Terminated, &[TimedOut, Terminated]),
        (State::Completed, Event::TimerI, State::Completed, &[]),
        (State::Completed, Event::TimerL, State::Completed, &[]),
        (State::Completed, Event::TransportError, State::Completed, &[TransportFailed]),
        (State::Confirmed, Event::Invite, State::Confirmed, &[]),
        (State::Confirmed, Event::Ack, State::Confirmed, &[]),
        (State::Confirmed, PROVISIONAL, State::Confirmed, &[]),
        (State::Confirmed, SUCCESS, State::Confirmed, &[]),
        (State::Confirmed, FAILURE, State::Confirmed, &[]),
        (State::Confirmed, Event::Trying, State::Confirmed, &[]),
        (State::Confirmed, Event::TimerG, State::Confirmed, &[]),
        (State::Confirmed, Event::TimerH, State::Confirmed, &[]),
        (State::Confirmed, Event::TimerI, State::Terminated, &[Terminated]),
        (State::Confirmed, Event::TimerL, State::Confirmed, &[]),
        (State::Confirmed, Event::TransportError, State::Confirmed, &[TransportFailed]),
        (State::Accepted, Event::Invite, State::Accepted, &[]),
        (State::Accepted, Event::Ack, State::Accepted, &[DeliverAck]),
        (State::Accepted, PROVISIONAL, State::Accepted, &[]),
        (State::Accepted, SUCCESS, State::Accepted, &[SendResponse]),
        (State::Accepted, FAILURE, State::Accepted, &[]),
        (State::Accepted, Event::Trying, State::Accepted, &[]),
        (State::Accepted, Event::TimerG, State::Accepted, &[]),
        (State::Accepted, Event::TimerH, State::Accepted, &[]),
        (State::Accepted, Event::TimerI, State::Accepted, &[]),
        (State::Accepted, Event::TimerL, State::Terminated, &[Terminated]),
        (State::Accepted, Event::TransportError, State::Accepted, &[TransportFailed]),
        (State::Terminated, Event::Invite, State::Terminated, &[]),
        (State::Terminated, Event::Ack, State::Terminated, &[]),
        (State::Terminated, PROVISIONAL, State::Terminated, &[]),
        (State::Terminated, SUCCESS, State::Terminated, &[]),
        (State::Terminated, FAILURE, State::Terminated, &[]),
        (State::Terminated, Event::Trying, State::Terminated, &[]),
        (State::Terminated, Event::TimerG, State::Terminated, &[]),
        (State::Terminated, Event::TimerH, State::Terminated, &[]),
        (State::Terminated, Event::TimerI, State::Terminated, &[]),
        (State::Terminated, Event::TimerL, State::Terminated, &[]),
        (State::Terminated, Event::TransportError, State::Terminated, &[]),
    ];

    /// A machine over `reliability` that has come to `state` by events.
    fn machine(state: State, reliability: Reliability, now: Instant) -> ServerInviteTransaction {
        let mut ignored = Vec::new();
        let mut machine = ServerInviteTransaction::start(Timers::default(), reliability, now);
        match state {
            State::Proceeding => {}
            State::Completed => machine.step(FAILURE, now, &mut ignored),
            State::Confirmed => {
                machine.step(FAILURE, now, &mut ignored);
                machine.step(Event::Ack, now, &mut ignored);
            }
            State::Accepted => machine.step(SUCCESS, now, &mut ignored),
            State::Terminated => {
                machine.step(FAILURE, now, &mut ignored);
                machine.step(Event::TimerH, now, &mut ignored);
            }
        }
        assert_eq!(machine.state(), state);
        machine
    }

    #[test]
    fn every_state_meets_every_event() {
        let now = Instant::now();
        for (row, &(state, event, next, expected)) in TABLE.iter().enumerate() {
            let mut machine = machine(state, Reliability::Unreliable, now);
            let mut actions = Vec::new();
            machine.step(event, now, &mut actions);
            assert_eq!(machine.state(), next, "{state:?} × {event:?}");
            assert_eq!(actions, expected, "{state:?} × {event:?}");
            assert!(
                TABLE[..row].iter().all(|cell| (cell.0, cell.1) != (state, event)),
                "{state:?} × {event:?} stands in the table twice"
            );
        }
        assert_eq!(TABLE.len(), 5 * 11, "states × events");
    }

    /// Runs the machine by its own deadlines; the times (ms) at which it acted.
    fn run(machine: &mut ServerInviteTransaction, start: Instant) -> Vec<(u128, ServerAction)> {
        let mut log = Vec::new();
        while let Some(at) = machine.next_timeout() {
            assert!(at - start < Duration::from_secs(60), "runs for ever");
            let mut actions = Vec::new();
            machine.timeout(at, &mut actions);
            log.extend(actions.into_iter().map(|action| ((at - start).as_millis(), action)));
        }
        log
    }

    #[test]
    fn silence_of_200_ms_is_answered_100_once() {
        let start = Instant::now();
        let mut machine = machine(State::Proceeding, Reliability::Unreliable, start);
        assert_eq!(run(&mut machine, start), [(200, SendTrying)]);
        let mut actions = Vec::new();
        machine.trying(start, &mut actions);
        assert_eq!(actions, []);
    }

    #[test]
    fn proceeding_repeats_the_latest_provisional() {
        let start = Instant::now();
        let mut machine = machine(State::Proceeding, Reliability::Unreliable, start);
        let mut actions = Vec::new();
        machine.respond(ResponseClass::Provisional, start, &mut actions);
        machine.request(start, &mut actions);
        machine.trying(start, &mut actions);
        assert_eq!(actions, [SendResponse, ResendResponse]);
        assert_eq!(machine.next_timeout(), None);
    }

    #[test]
    fn failure_is_repeated_at_intervals_up_to_t2_until_timer_h() {
        let start = Instant::now();
        let mut machine = machine(State::Completed, Reliability::Unreliable, start);
        let log = run(&mut machine, start);
        let sent: Vec<u128> =
            log.iter().filter(|(_, action)| *action == ResendResponse).map(|(at, _)| *at).collect();
        assert_eq!(sent, [500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500]);
        assert_eq!(log[log.len() - 2..], [(32000, TimedOut), (32000, Terminated)]);
    }

    #[test]
    fn reliable_transport_sends_the_failure_once_and_ends_with_the_ack() {
        let start = Instant::now();
        let mut silent = machine(State::Completed, Reliability::Reliable, start);
        assert_eq!(run(&mut silent, start), [(32000, TimedOut), (32000, Terminated)]);

        let mut acknowledged = machine(State::Completed, Reliability::Reliable, start);
        let mut actions = Vec::new();
        acknowledged.ack(start, &mut actions);
        assert_eq!(actions, [Terminated]);
    }

    #[test]
    fn confirmed_lasts_t4_and_accepted_64_t1() {
        let start = Instant::now();
        for (state, lasts) in [(State::Confirmed, 5000), (State::Accepted, 32000)] {
            let mut machine = machine(state, Reliability::Unreliable, start);
            assert_eq!(run(&mut machine, start), [(lasts, Terminated)], "{state:?}");
        }
    }
}
