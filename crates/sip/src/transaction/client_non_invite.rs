//! The non-INVITE client transaction: sends a request until its final response comes.
//!
//! ```text
//!     Trying ──1xx──▶ Proceeding
//!       │  │             │   │
//!       │  └─ 200–699 ───┼───┴──▶ Completed
//!       │ F, transport   │           │ K
//!       ▼ error          ▼           ▼
//!     Terminated ◀───────┴───────────┘
//! ```
//!
//! Source: RFC 3261 §17.1.2

use std::time::Instant;

use super::{ClientAction, Reliability, ResponseClass, Retransmission, Timers, due, earliest};

/// Where a non-INVITE client transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientNonInviteState {
    /// The request is sent; nothing has come back.
    Trying,
    /// A provisional response has come.
    Proceeding,
    /// The final response has come; its repetitions are absorbed.
    Completed,
    /// It is over.
    Terminated,
}

/// The non-INVITE client transaction.
///
/// Source: RFC 3261 §17.1.2
#[derive(Debug, Clone)]
pub struct ClientNonInviteTransaction {
    state: ClientNonInviteState,
    timers: Timers,
    reliability: Reliability,
    /// Timer E: the request is sent again, T1 doubling up to T2.
    timer_e: Option<Retransmission>,
    /// The end: Timer F in Trying and Proceeding, K in Completed.
    ending: Option<Instant>,
}

/// What can happen to the machine; the columns of the test's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Response(ResponseClass),
    TimerE,
    TimerF,
    TimerK,
    TransportError,
}

impl ClientNonInviteTransaction {
    /// Begins a transaction: pushes the first `SendRequest`.
    pub fn start(
        timers: Timers,
        reliability: Reliability,
        now: Instant,
        actions: &mut impl Extend<ClientAction>,
    ) -> ClientNonInviteTransaction {
        actions.extend([ClientAction::SendRequest]);
        ClientNonInviteTransaction {
            state: ClientNonInviteState::Trying,
            timers,
            reliability,
            timer_e: Retransmission::start(reliability, timers.t1, now),
            ending: Some(now + timers.patience()),
        }
    }

    /// Where the transaction stands.
    pub fn state(&self) -> ClientNonInviteState {
        self.state
    }

    /// When [`timeout`](Self::timeout) wants to be called; None when terminated.
    pub fn next_timeout(&self) -> Option<Instant> {
        earliest(self.timer_e.map(|timer| timer.at), self.ending)
    }

    /// A response of this class has come.
    pub fn response(
        &mut self,
        class: ResponseClass,
        now: Instant,
        actions: &mut impl Extend<ClientAction>,
    ) {
        self.step(Event::Response(class), now, actions);
    }

    /// The request could not be sent.
    pub fn transport_failed(&mut self, now: Instant, actions: &mut impl Extend<ClientAction>) {
        self.step(Event::TransportError, now, actions);
    }

    /// Time has passed; does nothing before [`next_timeout`](Self::next_timeout).
    pub fn timeout(&mut self, now: Instant, actions: &mut impl Extend<ClientAction>) {
        if due(self.ending, now) {
            let event = match self.state {
                ClientNonInviteState::Trying | ClientNonInviteState::Proceeding => Event::TimerF,
                ClientNonInviteState::Completed => Event::TimerK,
                ClientNonInviteState::Terminated => return,
            };
            self.step(event, now, actions);
        } else if due(self.timer_e.map(|timer| timer.at), now) {
            self.step(Event::TimerE, now, actions);
        }
    }

    fn step(&mut self, event: Event, now: Instant, actions: &mut impl Extend<ClientAction>) {
        use ClientAction::{Deliver, SendRequest, TimedOut, TransportFailed};
        use ClientNonInviteState as State;
        use ResponseClass::{Failure, Provisional, Success};

        match (self.state, event) {
            (State::Trying | State::Proceeding, Event::Response(Provisional)) => {
                // Timer F runs on: RFC 3261 §17.1.2.2 gives a non-INVITE 64·T1 in all.
                self.state = State::Proceeding;
                actions.extend([Deliver]);
            }
            (State::Trying | State::Proceeding, Event::Response(Success | Failure)) => {
                actions.extend([Deliver]);
                self.timer_e = None;
                match self.reliability {
                    // Timer K is zero: a stream brings the final once.
                    Reliability::Reliable => self.terminate(actions),
                    Reliability::Unreliable => {
                        self.state = State::Completed;
                        self.ending = Some(now + self.timers.t4);
                    }
                }
            }
            (State::Trying, Event::TimerE) => {
                if let Some(timer) = &mut self.timer_e {
                    timer.back_off(self.timers.t2, now);
                }
                actions.extend([SendRequest]);
            }
            (State::Proceeding, Event::TimerE) => {
                if let Some(timer) = &mut self.timer_e {
                    // The server lives: T2 is often enough.
                    timer.interval = self.timers.t2;
                    timer.at = now + self.timers.t2;
                }
                actions.extend([SendRequest]);
            }
            (State::Trying | State::Proceeding, Event::TimerF) => {
                actions.extend([TimedOut]);
                self.terminate(actions);
            }
            (State::Trying | State::Proceeding, Event::TransportError) => {
                actions.extend([TransportFailed]);
                self.terminate(actions);
            }
            (State::Completed, Event::TimerK) => self.terminate(actions),
            (State::Completed, Event::Response(_) | Event::TransportError)
            // Timers that do not run in this state.
            | (State::Trying | State::Proceeding, Event::TimerK)
            | (State::Completed, Event::TimerE | Event::TimerF)
            | (
                State::Terminated,
                Event::Response(_)
                | Event::TimerE
                | Event::TimerF
                | Event::TimerK
                | Event::TransportError,
            ) => {}
        }
    }

    fn terminate(&mut self, actions: &mut impl Extend<ClientAction>) {
        self.state = ClientNonInviteState::Terminated;
        self.timer_e = None;
        self.ending = None;
        actions.extend([ClientAction::Terminated]);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::ClientAction::*;
    use super::ClientNonInviteState as State;
    use super::*;

    const PROVISIONAL: Event = Event::Response(ResponseClass::Provisional);
    const SUCCESS: Event = Event::Response(ResponseClass::Success);
    const FAILURE: Event = Event::Response(ResponseClass::Failure);

    /// State, event, next state, actions: every cell of the machine, over UDP.
    type Cell = (State, Event, State, &'static [ClientAction]);
    #[rustfmt::skip]
    const TABLE: &[Cell] = &[
        (State::Trying, PROVISIONAL, State::Proceeding, &[Deliver]),
        (State::Trying, SUCCESS, State::Completed, &[Deliver]),
        (State::Trying, FAILURE, State::Completed, &[Deliver]),
        (State::Trying, Event::TimerE, State::Trying, &[SendRequest]),
        (State::Trying, Event::TimerF, State::Terminated, &[TimedOut, Terminated]),
        (State::Trying, Event::TimerK, State::Trying, &[]),
        (State::Trying, Event::TransportError, State::Terminated, &[TransportFailed, Terminated]),
        (State::Proceeding, PROVISIONAL, State::Proceeding, &[Deliver]),
        (State::Proceeding, SUCCESS, State::Completed, &[Deliver]),
        (State::Proceeding, FAILURE, State::Completed, &[Deliver]),
        (State::Proceeding, Event::TimerE, State::Proceeding, &[SendRequest]),
        (State::Proceeding, Event::TimerF, State::Terminated, &[TimedOut, Terminated]),
        (State::Proceeding, Event::TimerK, State::Proceeding, &[]),
        (State::Proceeding, Event::TransportError, State::Terminated, &[TransportFailed, Terminated]),
        (State::Completed, PROVISIONAL, State::Completed, &[]),
        (State::Completed, SUCCESS, State::Completed, &[]),
        (State::Completed, FAILURE, State::Completed, &[]),
        (State::Completed, Event::TimerE, State::Completed, &[]),
        (State::Completed, Event::TimerF, State::Completed, &[]),
        (State::Completed, Event::TimerK, State::Terminated, &[Terminated]),
        (State::Completed, Event::TransportError, State::Completed, &[]),
        (State::Terminated, PROVISIONAL, State::Terminated, &[]),
        (State::Terminated, SUCCESS, State::Terminated, &[]),
        (State::Terminated, FAILURE, State::Terminated, &[]),
        (State::Terminated, Event::TimerE, State::Terminated, &[]),
        (State::Terminated, Event::TimerF, State::Terminated, &[]),
        (State::Terminated, Event::TimerK, State::Terminated, &[]),
        (State::Terminated, Event::TransportError, State::Terminated, &[]),
    ];

    /// A machine over `reliability` that has come to `state` by events.
    fn machine(state: State, reliability: Reliability, now: Instant) -> ClientNonInviteTransaction {
        let mut ignored = Vec::new();
        let timers = Timers::default();
        let mut machine = ClientNonInviteTransaction::start(timers, reliability, now, &mut ignored);
        assert_eq!(ignored, [SendRequest]);
        match state {
            State::Trying => {}
            State::Proceeding => machine.step(PROVISIONAL, now, &mut ignored),
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
        assert_eq!(TABLE.len(), 4 * 7, "states × events");
    }

    /// Runs the machine by its own deadlines; the times (ms) at which it acted.
    fn run(machine: &mut ClientNonInviteTransaction, start: Instant) -> Vec<(u128, ClientAction)> {
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
    fn request_is_repeated_at_intervals_up_to_t2_until_timer_f() {
        let start = Instant::now();
        let mut machine = machine(State::Trying, Reliability::Unreliable, start);
        let sent: Vec<u128> = run(&mut machine, start)
            .into_iter()
            .filter(|(_, action)| *action == SendRequest)
            .map(|(at, _)| at)
            .collect();
        assert_eq!(sent, [500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500]);
    }

    #[test]
    fn proceeding_repeats_every_t2_and_keeps_timer_f() {
        let start = Instant::now();
        let mut machine = machine(State::Proceeding, Reliability::Unreliable, start);
        let log = run(&mut machine, start);
        assert_eq!(log[..2], [(500, SendRequest), (4500, SendRequest)]);
        assert_eq!(log[log.len() - 2..], [(32000, TimedOut), (32000, Terminated)]);
    }

    #[test]
    fn reliable_transport_sends_once_and_ends_with_the_final() {
        let start = Instant::now();
        let mut waiting = machine(State::Trying, Reliability::Reliable, start);
        assert_eq!(run(&mut waiting, start), [(32000, TimedOut), (32000, Terminated)]);

        let mut answered = machine(State::Trying, Reliability::Reliable, start);
        let mut actions = Vec::new();
        answered.response(ResponseClass::Success, start, &mut actions);
        assert_eq!(actions, [Deliver, Terminated]);
    }

    #[test]
    fn completed_lasts_t4() {
        let start = Instant::now();
        let mut machine = machine(State::Completed, Reliability::Unreliable, start);
        assert_eq!(run(&mut machine, start), [(5000, Terminated)]);
    }
}
