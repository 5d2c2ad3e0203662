//! The non-INVITE server transaction: answers repeated requests with the one response.
//!
//! ```text
//!     Trying ──100──▶ Proceeding
//!       │ 200–699         │
//!       ▼                 │
//!     Completed ◀─────────┘──transport error, 64·T1──┐
//!       │ J                                          ▼
//!       └──────────────────────────────────────▶ Terminated
//! ```
//!
//! RFC 4320 §4.1: no provisional response but 100, and that one only when the client's Timer E has grown to
//! T2; so the machine sends it by itself. RFC 4320 §4.2: once the client's Timer F has fired nobody waits for
//! a final, so none is sent.
//!
//! Source: RFC 3261 §17.2.2, RFC 4320

use std::time::Instant;

use super::{Reliability, ResponseClass, ServerAction, Timers, due, earliest};

/// Where a non-INVITE server transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerNonInviteState {
    /// Nothing is sent.
    Trying,
    /// 100 is sent.
    Proceeding,
    /// The final response is sent; repeated requests get it again.
    Completed,
    /// It is over.
    Terminated,
}

/// The non-INVITE server transaction.
///
/// Source: RFC 3261 §17.2.2
#[derive(Debug, Clone)]
pub struct ServerNonInviteTransaction {
    state: ServerNonInviteState,
    timers: Timers,
    reliability: Reliability,
    /// When 100 is sent unless there was a final (RFC 4320 §4.1).
    trying_at: Option<Instant>,
    /// The end: the client's Timer F in Trying and Proceeding, Timer J in Completed.
    ending: Option<Instant>,
}

/// What can happen to the machine; the columns of the test's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The request came again.
    Request,
    /// The transaction user answers.
    Respond(ResponseClass),
    /// The client's Timer E has grown to T2.
    Trying,
    /// The client's Timer F has fired.
    TimerF,
    TimerJ,
    TransportError,
}

impl ServerNonInviteTransaction {
    /// Begins a transaction with the first request.
    pub fn start(
        timers: Timers,
        reliability: Reliability,
        now: Instant,
    ) -> ServerNonInviteTransaction {
        ServerNonInviteTransaction {
            state: ServerNonInviteState::Trying,
            timers,
            reliability,
            trying_at: Some(now + timers.trying_to_non_invite()),
            ending: Some(now + timers.patience()),
        }
    }

    /// Where the transaction stands.
    pub fn state(&self) -> ServerNonInviteState {
        self.state
    }

    /// When [`timeout`](Self::timeout) wants to be called; None when terminated.
    pub fn next_timeout(&self) -> Option<Instant> {
        earliest(self.trying_at, self.ending)
    }

    /// The request has come again.
    pub fn request(&mut self, now: Instant, actions: &mut impl Extend<ServerAction>) {
        self.step(Event::Request, now, actions);
    }

    /// The transaction user answers; a provisional response, or one that comes too late, pushes nothing.
    pub fn respond(
        &mut self,
        class: ResponseClass,
        now: Instant,
        actions: &mut impl Extend<ServerAction>,
    ) {
        self.step(Event::Respond(class), now, actions);
    }

    /// A response could not be sent.
    pub fn transport_failed(&mut self, now: Instant, actions: &mut impl Extend<ServerAction>) {
        self.step(Event::TransportError, now, actions);
    }

    /// Time has passed; does nothing before [`next_timeout`](Self::next_timeout).
    pub fn timeout(&mut self, now: Instant, actions: &mut impl Extend<ServerAction>) {
        if due(self.ending, now) {
            let event = match self.state {
                ServerNonInviteState::Trying | ServerNonInviteState::Proceeding => Event::TimerF,
                ServerNonInviteState::Completed => Event::TimerJ,
                ServerNonInviteState::Terminated => return,
            };
            self.step(event, now, actions);
        } else if due(self.trying_at, now) {
            self.step(Event::Trying, now, actions);
        }
    }

    fn step(&mut self, event: Event, now: Instant, actions: &mut impl Extend<ServerAction>) {
        use ResponseClass::{Failure, Provisional, Success};
        use ServerAction::{ResendResponse, SendResponse, SendTrying, TimedOut, TransportFailed};
        use ServerNonInviteState as State;

        match (self.state, event) {
            (State::Trying, Event::Trying) => {
                self.state = State::Proceeding;
                self.trying_at = None;
                actions.extend([SendTrying]);
            }
            (State::Proceeding | State::Completed, Event::Request) => {
                actions.extend([ResendResponse]);
            }
            (State::Trying | State::Proceeding, Event::Respond(Success | Failure)) => {
                actions.extend([SendResponse]);
                self.trying_at = None;
                match self.reliability {
                    // Timer J is zero: a stream brings the request once.
                    Reliability::Reliable => self.terminate(actions),
                    Reliability::Unreliable => {
                        self.state = State::Completed;
                        self.ending = Some(now + self.timers.patience());
                    }
                }
            }
            (State::Trying | State::Proceeding, Event::TimerF) => {
                actions.extend([TimedOut]);
                self.terminate(actions);
            }
            // In Trying nothing was sent that could have failed; a late report is as good as a true one.
            (
                State::Trying | State::Proceeding | State::Completed,
                Event::TransportError,
            ) => {
                actions.extend([TransportFailed]);
                self.terminate(actions);
            }
            (State::Completed, Event::TimerJ) => self.terminate(actions),
            // RFC 3261 §17.2.2: nothing to repeat yet.
            (State::Trying, Event::Request)
            // RFC 4320 §4.1: 100 is the machine's, others are forbidden.
            | (State::Trying | State::Proceeding, Event::Respond(Provisional))
            // The first final counts.
            | (State::Completed, Event::Respond(_))
            // Timers that do not run in this state.
            | (State::Trying, Event::TimerJ)
            | (State::Proceeding, Event::Trying | Event::TimerJ)
            | (State::Completed, Event::Trying | Event::TimerF)
            | (
                State::Terminated,
                Event::Request
                | Event::Respond(_)
                | Event::Trying
                | Event::TimerF
                | Event::TimerJ
                | Event::TransportError,
            ) => {}
        }
    }

    fn terminate(&mut self, actions: &mut impl Extend<ServerAction>) {
        self.state = ServerNonInviteState::Terminated;
        self.trying_at = None;
        self.ending = None;
        actions.extend([ServerAction::Terminated]);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::ServerAction::*;
    use super::ServerNonInviteState as State;
    use super::*;

    const PROVISIONAL: Event = Event::Respond(ResponseClass::Provisional);
    const SUCCESS: Event = Event::Respond(ResponseClass::Success);
    const FAILURE: Event = Event::Respond(ResponseClass::Failure);

    /// State, event, next state, actions: every cell of the machine, over UDP.
    type Cell = (State, Event, State, &'static [ServerAction]);
    #[rustfmt::skip]
    const TABLE: &[Cell] = &[
        (State::Trying, Event::Request, State::Trying, &[]),
        (State::Trying, PROVISIONAL, State::Trying, &[]),
        (State::Trying, SUCCESS, State::Completed, &[SendResponse]),
        (State::Trying, FAILURE, State::Completed, &[SendResponse]),
        (State::Trying, Event::Trying, State::Proceeding, &[SendTrying]),
        (State::Trying, Event::TimerF, State::Terminated, &[TimedOut, Terminated]),
        (State::Trying, Event::TimerJ, State::Trying, &[]),
        (State::Trying, Event::TransportError, State::Terminated, &[TransportFailed, Terminated]),
        (State::Proceeding, Event::Request, State::Proceeding, &[ResendResponse]),
        (State::Proceeding, PROVISIONAL, State::Proceeding, &[]),
        (State::Proceeding, SUCCESS, State::Completed, &[SendResponse]),
        (State::Proceeding, FAILURE, State::Completed, &[SendResponse]),
        (State::Proceeding, Event::Trying, State::Proceeding, &[]),
        (State::Proceeding, Event::TimerF, State::Terminated, &[TimedOut, Terminated]),
        (State::Proceeding, Event::TimerJ, State::Proceeding, &[]),
        (State::Proceeding, Event::TransportError, State::Terminated, &[TransportFailed, Terminated]),
        (State::Completed, Event::Request, State::Completed, &[ResendResponse]),
        (State::Completed, PROVISIONAL, State::Completed, &[]),
        (State::Completed, SUCCESS, State::Completed, &[]),
        (State::Completed, FAILURE, State::Completed, &[]),
        (State::Completed, Event::Trying, State::Completed, &[]),
        (State::Completed, Event::TimerF, State::Completed, &[]),
        (State::Completed, Event::TimerJ, State::Terminated, &[Terminated]),
        (State::Completed, Event::TransportError, State::Terminated, &[TransportFailed, Terminated]),
        (State::Terminated, Event::Request, State::Terminated, &[]),
        (State::Terminated, PROVISIONAL, State::Terminated, &[]),
        (State::Terminated, SUCCESS, State::Terminated, &[]),
        (State::Terminated, FAILURE, State::Terminated, &[]),
        (State::Terminated, Event::Trying, State::Terminated, &[]),
        (State::Terminated, Event::TimerF, State::Terminated, &[]),
        (State::Terminated, Event::TimerJ, State::Terminated, &[]),
        (State::Terminated, Event::TransportError, State::Terminated, &[]),
    ];

    /// A machine over `reliability` that has come to `state` by events.
    fn machine(state: State, reliability: Reliability, now: Instant) -> ServerNonInviteTransaction {
        let mut ignored = Vec::new();
        let mut machine = ServerNonInviteTransaction::start(Timers::default(), reliability, now);
        match state {
            State::Trying => {}
            State::Proceeding => machine.step(Event::Trying, now, &mut ignored),
            State::Completed => machine.step(SUCCESS, now, &mut ignored),
            State::Terminated => machine.step(Event::TimerF, now, &mut ignored),
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
        assert_eq!(TABLE.len(), 4 * 8, "states × events");
    }

    /// Runs the machine by its own deadlines; the times (ms) at which it acted.
    fn run(machine: &mut ServerNonInviteTransaction, start: Instant) -> Vec<(u128, ServerAction)> {
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
    fn silence_is_answered_100_when_timer_e_is_t2_and_given_up_at_timer_f() {
        let start = Instant::now();
        for reliability in [Reliability::Reliable, Reliability::Unreliable] {
            let mut machine = machine(State::Trying, reliability, start);
            assert_eq!(
                run(&mut machine, start),
                [(3500, SendTrying), (32000, TimedOut), (32000, Terminated)]
            );
        }
    }

    #[test]
    fn completed_lasts_64_t1_over_udp_and_not_at_all_over_a_stream() {
        let start = Instant::now();
        let mut lingering = machine(State::Completed, Reliability::Unreliable, start);
        assert_eq!(run(&mut lingering, start), [(32000, Terminated)]);

        let mut answered = machine(State::Trying, Reliability::Reliable, start);
        let mut actions = Vec::new();
        answered.respond(ResponseClass::Success, start, &mut actions);
        assert_eq!(actions, [SendResponse, Terminated]);
    }
}
