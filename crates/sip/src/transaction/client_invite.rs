//! The INVITE client transaction: sends INVITE until something comes back, acknowledges failures itself.
//!
//! ```text
//!            INVITE sent                 1xx
//!               ▼                 ┌────────────────▶ Proceeding ──┐
//!            Calling ─────────────┤                    │          │
//!               │                 │ 2xx                │ 2xx      │ 300–699 (ACK)
//!               │ B, transport    ├────▶ Accepted ◀────┘          │
//!               │ error           │ 300–699 │                     │
//!               │                 └─────────┼──────▶ Completed ◀──┘
//!               ▼                         M ▼            │ D, transport error
//!            Terminated ◀───────────────────┴────────────┘
//! ```
//!
//! Source: RFC 3261 §17.1.1, RFC 6026 §7.2 and §8.4 (state Accepted, Timer M)

use std::time::Instant;

use super::{ClientAction, Reliability, ResponseClass, Retransmission, Timers, due, earliest};

/// Where an INVITE client transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientInviteState {
    /// The INVITE is sent; nothing has come back.
    Calling,
    /// A provisional response has come.
    Proceeding,
    /// A failure has come and is acknowledged; its repetitions are, too.
    Completed,
    /// A 2xx has come; those of other forks are let through (RFC 6026).
    Accepted,
    /// It is over.
    Terminated,
}

/// The INVITE client transaction.
///
/// Source: RFC 3261 §17.1.1
#[derive(Debug, Clone)]
pub struct ClientInviteTransaction {
    state: ClientInviteState,
    timers: Timers,
    reliability: Reliability,
    /// Timer A: INVITE is sent again, T1 doubling.
    timer_a: Option<Retransmission>,
    /// The end of the state: Timer B in Calling, D in Completed, M in Accepted.
    ending: Option<Instant>,
}

/// What can happen to the machine; the columns of the test's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Response(ResponseClass),
    TimerA,
    TimerB,
    TimerD,
    TimerM,
    TransportError,
}

impl ClientInviteTransaction {
    /// Begins a transaction: pushes the first `SendRequest`.
    pub fn start(
        timers: Timers,
        reliability: Reliability,
        now: Instant,
        actions: &mut impl Extend<ClientAction>,
    ) -> ClientInviteTransaction {
        actions.extend([ClientAction::SendRequest]);
        ClientInviteTransaction {
            state: ClientInviteState::Calling,
            timers,
            reliability,
            timer_a: Retransmission::start(reliability, timers.t1, now),
            ending: Some(now + timers.patience()),
        }
    }

    /// Goes on with a transaction that was begun elsewhere, in the state that it had come to; what was sent before
    /// is not sent again. The timer that ends the state runs anew.
    pub fn resume(
        state: ClientInviteState,
        timers: Timers,
        reliability: Reliability,
        now: Instant,
    ) -> ClientInviteTransaction {
        let ending = match state {
            // Timer C, which watches over this state, is the proxy's.
            ClientInviteState::Proceeding => None,
            ClientInviteState::Calling
            | ClientInviteState::Completed
            | ClientInviteState::Accepted
            | ClientInviteState::Terminated => Some(now + timers.patience()),
        };
        ClientInviteTransaction { state, timers, reliability, timer_a: None, ending }
    }

    /// Where the transaction stands.
    pub fn state(&self) -> ClientInviteState {
        self.state
    }

    /// When [`timeout`](Self::timeout) wants to be called; None when terminated or waiting for the callee.
    pub fn next_timeout(&self) -> Option<Instant> {
        earliest(self.timer_a.map(|timer| timer.at), self.ending)
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

    /// The request or the ACK could not be sent.
    pub fn transport_failed(&mut self, now: Instant, actions: &mut impl Extend<ClientAction>) {
        self.step(Event::TransportError, now, actions);
    }

    /// Time has passed; does nothing before [`next_timeout`](Self::next_timeout).
    pub fn timeout(&mut self, now: Instant, actions: &mut impl Extend<ClientAction>) {
        if due(self.ending, now) {
            let event = match self.state {
                ClientInviteState::Calling => Event::TimerB,
                ClientInviteState::Completed => Event::TimerD,
                ClientInviteState::Accepted => Event::TimerM,
                // Timer C, which watches over this state, is the proxy's.
                ClientInviteState::Proceeding | ClientInviteState::Terminated => return,
            };
            self.step(event, now, actions);
        } else if due(self.timer_a.map(|timer| timer.at), now) {
            self.step(Event::TimerA, now, actions);
        }
    }

    fn step(&mut self, event: Event, now: Instant, actions: &mut impl Extend<ClientAction>) {
        use ClientAction::{Deliver, SendAck, SendRequest, Terminated, TimedOut, TransportFailed};
        use ClientInviteState as State;
        use ResponseClass::{Failure, Provisional, Success};

        match (self.state, event) {
            (State::Calling | State::Proceeding, Event::Response(Provisional)) => {
                self.enter(State::Proceeding, None);
                actions.extend([Deliver]);
            }
            (State::Calling | State::Proceeding, Event::Response(Success)) => {
                // Timer M: the 2xx of other forks come by this transaction, too.
                self.enter(State::Accepted, Some(now + self.timers.patience()));
                actions.extend([Deliver]);
            }
            (State::Accepted, Event::Response(Success)) => actions.extend([Deliver]),
            (State::Calling | State::Proceeding, Event::Response(Failure)) => {
                actions.extend([SendAck, Deliver]);
                match self.reliability {
                    // Timer D is zero: a stream brings the final once.
                    Reliability::Reliable => {
                        self.enter(State::Terminated, None);
                        actions.extend([Terminated]);
                    }
                    Reliability::Unreliable => {
                        self.enter(State::Completed, Some(now + self.timers.patience()));
                    }
                }
            }
            (State::Completed, Event::Response(Failure)) => actions.extend([SendAck]),
            (State::Calling, Event::TimerA) => {
                if let Some(timer) = &mut self.timer_a {
                    // RFC 3261 §17.1.1.2: Timer A doubles without the limit T2; B ends it.
                    timer.back_off(self.timers.patience(), now);
                }
                actions.extend([SendRequest]);
            }
            (State::Calling, Event::TimerB) => {
                self.enter(State::Terminated, None);
                actions.extend([TimedOut, Terminated]);
            }
            (State::Calling | State::Completed, Event::TransportError) => {
                self.enter(State::Terminated, None);
                actions.extend([TransportFailed, Terminated]);
            }
            (State::Completed, Event::TimerD) | (State::Accepted, Event::TimerM) => {
                self.enter(State::Terminated, None);
                actions.extend([Terminated]);
            }
            // A provisional response after the final, a success after a failure: late, of no use.
            (State::Completed, Event::Response(Provisional | Success))
            | (State::Accepted, Event::Response(Provisional | Failure))
            // Something came back, so the INVITE went out; a transport error now is about a repetition.
            | (State::Proceeding | State::Accepted, Event::TransportError)
            // Timers that do not run in this state.
            | (State::Calling, Event::TimerD | Event::TimerM)
            | (
                State::Proceeding,
                Event::TimerA | Event::TimerB | Event::TimerD | Event::TimerM,
            )
            | (State::Completed, Event::TimerA | Event::TimerB | Event::TimerM)
            | (State::Accepted, Event::TimerA | Event::TimerB | Event::TimerD)
            | (
                State::Terminated,
                Event::Response(_)
                | Event::TimerA
                | Event::TimerB
                | Event::TimerD
                | Event::TimerM
                | Event::TransportError,
            ) => {}
        }
    }

    /// Changes state; nothing is repeated outside Calling.
    fn enter(&mut self, state: ClientInviteState, ending: Option<Instant>) {
        self.state = state;
        self.timer_a = None;
        self.ending = ending;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::ClientAction::*;
    use super::ClientInviteState as State;
    use super::*;

    const PROVISIONAL: Event = Event::Response(ResponseClass::Provisional);
    const SUCCESS: Event = Event::Response(ResponseClass::Success);
    const FAILURE: Event = Event::Response(ResponseClass::Failure);

    /// State, event, next state, actions: every cell of the machine, over UDP.
    type Cell = (State, Event, State, &'static [ClientAction]);
    #[rustfmt::skip]
    const TABLE: &[Cell] = &[
        (State::Calling, PROVISIONAL, State::Proceeding, &[Deliver]),
        (State::Calling, SUCCESS, State::Accepted, &[Deliver]),
        (State::Calling, FAILURE, State::Completed, &[SendAck, Deliver]),
        (State::Calling, Event::TimerA, State::Calling, &[SendRequest]),
        (State::Calling, Event::TimerB, State::Terminated, &[TimedOut, Terminated]),
        (State::Calling, Event::TimerD, State::Calling, &[]),
        (State::Calling, Event::TimerM, State::Calling, &[]),
        (State::Calling, Event::TransportError, State::Terminated, &[TransportFailed, Terminated]),
        (State::Proceeding, PROVISIONAL, State::Proceeding, &[Deliver]),
        (State::Proceeding, SUCCESS, State::Accepted, &[Deliver]),
        (State::Proceeding, FAILURE, State::Completed, &[SendAck, Deliver]),
        (State::Proceeding, Event::TimerA, State::Proceeding, &[]),
        (State::Proceeding, Event::TimerB, State::Proceeding, &[]),
        (State::Proceeding, Event::TimerD, State::Proceeding, &[]),
        (State::Proceeding, Event::TimerM, State::Proceeding, &[]),
        (State::Proceeding, Event::TransportError, State::Proceeding, &[]),
        (State::Completed, PROVISIONAL, State::Completed, &[]),
        (State::Completed, SUCCESS, State::Completed, &[]),
        (State::Completed, FAILURE, State::Completed, &[SendAck]),
        (State::Completed, Event::TimerA, State::Completed, &[]),
        (State::Completed, Event::TimerB, State::Completed, &[]),
        (State::Completed, Event::TimerD, State::Terminated, &[Terminated]),
        (State::Completed, Event::TimerM, State::Completed, &[]),
        (State::Completed, Event::TransportError, State::Terminated, &[TransportFailed, Terminated]),
        (State::Accepted, PROVISIONAL, State::Accepted, &[]),
        (State::Accepted, SUCCESS, State::Accepted, &[Deliver]),
        (State::Accepted, FAILURE, State::Accepted, &[]),
        (State::Accepted, Event::TimerA, State::Accepted, &[]),
        (State::Accepted, Event::TimerB, State::Accepted, &[]),
        (State::Accepted, Event::TimerD, State::Accepted, &[]),
        (State::Accepted, Event::TimerM, State::Terminated, &[Terminated]),
        (State::Accepted, Event::TransportError, State::Accepted, &[]),
        (State::Terminated, PROVISIONAL, State::Terminated, &[]),
        (State::Terminated, SUCCESS, State::Terminated, &[]),
        (State::Terminated, FAILURE, State::Terminated, &[]),
        (State::Terminated, Event::TimerA, State::Terminated, &[]),
        (State::Terminated, Event::TimerB, State::Terminated, &[]),
        (State::Terminated, Event::TimerD, State::Terminated, &[]),
        (State::Terminated, Event::TimerM, State::Terminated, &[]),
        (State::Terminated, Event::TransportError, State::Terminated, &[]),
    ];

    #[test]
    fn resumed_transaction_sends_nothing_by_itself_and_behaves_as_its_state_says() {
        let now = Instant::now();
        let resumed = |state| {
            ClientInviteTransaction::resume(state, Timers::default(), Reliability::Unreliable, now)
        };
        let mut actions = Vec::new();
        let mut ringing = resumed(State::Proceeding);
        assert_eq!(ringing.next_timeout(), None);
        ringing.response(ResponseClass::Failure, now, &mut actions);
        assert_eq!(actions, [SendAck, Deliver]);
        assert_eq!(ringing.state(), State::Completed);

        actions.clear();
        let mut answered = resumed(State::Accepted);
        answered.response(ResponseClass::Success, now, &mut actions);
        assert_eq!(actions, [Deliver]);
        answered.timeout(now + Timers::default().patience(), &mut actions);
        assert_eq!(actions, [Deliver, Terminated]);
    }

    /// A machine over `reliability` that has come to `state` by events.
    fn machine(state: State, reliability: Reliability, now: Instant) -> ClientInviteTransaction {
        let mut ignored = Vec::new();
        let timers = Timers::default();
        let mut machine = ClientInviteTransaction::start(timers, reliability, now, &mut ignored);
        assert_eq!(ignored, [SendRequest]);
        match state {
            State::Calling => {}
            State::Proceeding => machine.step(PROVISIONAL, now, &mut ignored),
            State::Completed => machine.step(FAILURE, now, &mut ignored),
            State::Accepted => machine.step(SUCCESS, now, &mut ignored),
            State::Terminated => machine.step(Event::TimerB, now, &mut ignored),
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
        assert_eq!(TABLE.len(), 5 * 8, "states × events");
    }

    /// Runs the machine by its own deadlines for `limit`; the times (ms) at which it acted.
    fn run(
        machine: &mut ClientInviteTransaction,
        start: Instant,
        limit: Duration,
    ) -> Vec<(u128, ClientAction)> {
        let mut log = Vec::new();
        while let Some(at) = machine.next_timeout().filter(|at| *at <= start + limit) {
            let mut actions = Vec::new();
            machine.timeout(at, &mut actions);
            log.extend(actions.into_iter().map(|action| ((at - start).as_millis(), action)));
        }
        log
    }

    #[test]
    fn invite_is_repeated_at_doubling_intervals_until_timer_b() {
        let start = Instant::now();
        let mut machine = machine(State::Calling, Reliability::Unreliable, start);
        let log = run(&mut machine, start, Duration::from_secs(60));
        assert_eq!(
            log,
            [
                (500, SendRequest),
                (1500, SendRequest),
                (3500, SendRequest),
                (7500, SendRequest),
                (15500, SendRequest),
                (31500, SendRequest),
                (32000, TimedOut),
                (32000, Terminated),
            ]
        );
        assert_eq!(machine.next_timeout(), None);
    }

    #[test]
    fn reliable_transport_sends_invite_once() {
        let start = Instant::now();
        let mut machine = machine(State::Calling, Reliability::Reliable, start);
        let log = run(&mut machine, start, Duration::from_secs(60));
        assert_eq!(log, [(32000, TimedOut), (32000, Terminated)]);
    }

    #[test]
    fn reliable_transport_ends_with_the_failure() {
        let now = Instant::now();
        let mut machine = machine(State::Proceeding, Reliability::Reliable, now);
        let mut actions = Vec::new();
        machine.response(ResponseClass::Failure, now, &mut actions);
        assert_eq!(actions, [SendAck, Deliver, Terminated]);
        assert_eq!(machine.state(), State::Terminated);
    }

    #[test]
    fn completed_and_accepted_last_64_t1() {
        let start = Instant::now();
        for state in [State::Completed, State::Accepted] {
            let mut machine = machine(state, Reliability::Unreliable, start);
            let log = run(&mut machine, start, Duration::from_secs(60));
            assert_eq!(log, [(32000, Terminated)], "{state:?}");
        }
    }

    #[test]
    fn proceeding_waits_without_a_deadline() {
        let now = Instant::now();
        let machine = machine(State::Proceeding, Reliability::Unreliable, now);
        assert_eq!(machine.next_timeout(), None);
    }
}
