//! Two calls that are to become one: what to do when something happens to one of them.

/// One of the two calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    First,
    Second,
}

/// How far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The first phone rings.
    CallingFirst,
    /// The first one has answered and waits, the second one rings. With the offer of the first one.
    CallingSecond(Vec<u8>),
    /// Both talk.
    Talking,
    /// Over: why.
    Over(String),
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// Somebody wants to talk.
    Asked,
    /// A phone was picked up; with its session description.
    Answered(Leg, Vec<u8>),
    /// A phone was not: the status.
    Refused(Leg, u16),
    /// Whoever talked on that phone has hung up.
    Left(Leg),
    /// A phone rang too long.
    RangTooLong,
    /// The browser wants no more of it.
    HungUp,
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Call the phone, with that offer or with none.
    Call(Leg, Option<Vec<u8>>),
    /// Acknowledge its answer, with that session description or with none.
    Acknowledge(Leg, Option<Vec<u8>>),
    /// Acknowledge its offer by an answer without media.
    AcknowledgeHeld(Leg, Vec<u8>),
    /// From now on what one says goes to the other.
    Link,
    /// Let it ring no longer.
    Cancel(Leg),
    /// Hang up.
    Bye(Leg),
    /// Nothing rings any more.
    StopRinging,
}

const IN_TIME: &str = "nobody answered in time";
const BY_REQUEST: &str = "ended by request";

/// The two calls of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// How far they have come.
    pub state: State,
    /// Which attempt of the same browser it is, from 1.
    pub attempt: u32,
    from: String,
    to: String,
}

impl Dial {
    /// Two calls that nothing has been done about yet.
    pub fn new(attempt: u32, from: String, to: String) -> Dial {
        Dial { state: State::CallingFirst, attempt, from, to }
    }

    /// Whether there is nothing left of them.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over(_))
    }

    /// Whom a leg calls.
    pub fn target(&self, leg: Leg) -> &str {
        match leg {
            Leg::First => &self.from,
            Leg::Second => &self.to,
        }
    }

    /// The leg's name in the session.
    pub fn leg_name(&self, leg: Leg) -> String {
        match leg {
            Leg::First => format!("first-{}", self.attempt),
            Leg::Second => format!("second-{}", self.attempt),
        }
    }

    /// The leg of that name, if it is one of this attempt.
    pub fn leg(&self, name: &str) -> Option<Leg> {
        [Leg::First, Leg::Second].into_iter().find(|leg| self.leg_name(*leg) == name)
    }

    /// For people.
    pub fn shown(&self) -> String {
        match &self.state {
            State::CallingFirst => format!("calling {}", self.from),
            State::CallingSecond(_) => format!("calling {}, {} waits", self.to, self.from),
            State::Talking => format!("{} and {} talk", self.from, self.to),
            State::Over(why) => format!("over: {why}"),
        }
    }

    /// What becomes of them, and what is to be done.
    pub fn after(self, happened: Happened) -> (Dial, Vec<Step>) {
        use Leg::{First, Second};
        let Dial { state, attempt, from, to } = self;
        let over = |why: &str| State::Over(why.to_owned());
        // The first phone has answered with an offer, which must not stay without answer (RFC 3725 §6).
        let give_up = |offer: Vec<u8>| {
            vec![Step::AcknowledgeHeld(First, offer), Step::Bye(First), Step::StopRinging]
        };
        let (state, steps) = match (state, happened) {
            (State::CallingFirst, Happened::Asked) => {
                (State::CallingFirst, vec![Step::Call(First, None)])
            }
            (State::CallingFirst, Happened::Answered(First, offer)) => {
                let call = Step::Call(Second, Some(offer.clone()));
                (State::CallingSecond(offer), vec![call])
            }
            (State::CallingFirst, Happened::Refused(First, status)) => {
                (over(&format!("{from} did not answer ({status})")), vec![Step::StopRinging])
            }
            (State::CallingFirst, Happened::RangTooLong) => {
                (over(IN_TIME), vec![Step::Cancel(First), Step::StopRinging])
            }
            (State::CallingFirst, Happened::HungUp) => {
                (over(BY_REQUEST), vec![Step::Cancel(First), Step::StopRinging])
            }
            (State::CallingSecond(_), Happened::Answered(Second, answer)) => {
                let acknowledge = [
                    Step::Acknowledge(Second, None),
                    Step::Acknowledge(First, Some(answer)),
                    Step::Link,
                    Step::StopRinging,
                ];
                (State::Talking, acknowledge.into())
            }
            (State::CallingSecond(offer), Happened::Refused(Second, status)) => {
                (over(&format!("{to} did not answer ({status})")), give_up(offer))
            }
            (State::CallingSecond(offer), Happened::RangTooLong) => {
                (over(IN_TIME), [vec![Step::Cancel(Second)], give_up(offer)].concat())
            }
            (State::CallingSecond(offer), Happened::HungUp) => {
                (over(BY_REQUEST), [vec![Step::Cancel(Second)], give_up(offer)].concat())
            }
            (State::CallingSecond(_), Happened::Left(First) | Happened::Refused(First, _)) => {
                let steps = vec![Step::Cancel(Second), Step::StopRinging];
                (over(&format!("{from} hung up")), steps)
            }
            (State::Talking, Happened::Left(leg)) => {
                let (who, other) = match leg {
                    First => (&from, Second),
                    Second => (&to, First),
                };
                (over(&format!("{who} hung up")), vec![Step::Bye(other)])
            }
            (State::Talking, Happened::HungUp) => {
                (over(BY_REQUEST), vec![Step::Bye(First), Step::Bye(Second)])
            }
            // A phone was picked up at the moment when it was to ring no longer.
            (State::Over(why), Happened::Answered(leg, _)) => {
                (State::Over(why), vec![Step::Acknowledge(leg, None), Step::Bye(leg)])
            }
            (state, _) => (state, Vec::new()),
        };
        (Dial { state, attempt, from, to }, steps)
    }

    /// As it is remembered.
    pub fn written(&self) -> Vec<u8> {
        let (state, rest): (&str, &[u8]) = match &self.state {
            State::CallingFirst => ("calling-first", b""),
            State::CallingSecond(offer) => ("calling-second", offer),
            State::Talking => ("talking", b""),
            State::Over(why) => ("over", why.as_bytes()),
        };
        let head = format!("{}\n{}\n{}\n{state}\n", self.attempt, self.from, self.to);
        [head.as_bytes(), rest].concat()
    }

    /// What [`Dial::written`] wrote.
    pub fn read(written: &[u8]) -> Option<Dial> {
        let mut lines = written.splitn(5, |octet| *octet == b'\n');
        let mut text = || std::str::from_utf8(lines.next()?).ok();
        let attempt = text()?.parse().ok()?;
        let (from, to) = (text()?.to_owned(), text()?.to_owned());
        let state = text()?.to_owned();
        let rest = lines.next()?.to_vec();
        let state = match &*state {
            "calling-first" => State::CallingFirst,
            "calling-second" => State::CallingSecond(rest),
            "talking" => State::Talking,
            "over" => State::Over(String::from_utf8(rest).ok()?),
            _ => return None,
        };
        Some(Dial { state, attempt, from, to })
    }
}

/// Whether an address may be called: a `sip:` URI that can stand between `<` and `>`. The rest is the host's to judge.
pub fn is_target(uri: &str) -> bool {
    let is_plain = |char: char| char.is_ascii_graphic() && !"<>\"".contains(char);
    uri.len() <= 255 && uri.starts_with("sip:") && uri.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dial(state: State) -> Dial {
        Dial { state, ..Dial::new(2, "sip:a@x".to_owned(), "sip:b@x".to_owned()) }
    }

    #[track_caller]
    fn check(state: State, happened: Happened, expected: State, steps: &[Step]) {
        let (after, done) = dial(state).after(happened);
        assert_eq!((after.state, &*done), (expected, steps));
    }

    fn offer() -> Vec<u8> {
        b"v=0\no=first".to_vec()
    }

    fn over(why: &str) -> State {
        State::Over(why.to_owned())
    }

    #[test]
    fn the_first_one_s_offer_reaches_the_second_and_the_answer_comes_back() {
        let first = Step::Call(Leg::First, None);
        check(State::CallingFirst, Happened::Asked, State::CallingFirst, &[first]);
        check(
            State::CallingFirst,
            Happened::Answered(Leg::First, offer()),
            State::CallingSecond(offer()),
            &[Step::Call(Leg::Second, Some(offer()))],
        );
        check(
            State::CallingSecond(offer()),
            Happened::Answered(Leg::Second, b"answer".to_vec()),
            State::Talking,
            &[
                Step::Acknowledge(Leg::Second, None),
                Step::Acknowledge(Leg::First, Some(b"answer".to_vec())),
                Step::Link,
                Step::StopRinging,
            ],
        );
    }

    #[test]
    fn who_waits_is_let_go_when_the_other_cannot_be_reached() {
        let let_go =
            [Step::AcknowledgeHeld(Leg::First, offer()), Step::Bye(Leg::First), Step::StopRinging];
        check(
            State::CallingSecond(offer()),
            Happened::Refused(Leg::Second, 486),
            over("sip:b@x did not answer (486)"),
            &let_go,
        );
        let mut steps = vec![Step::Cancel(Leg::Second)];
        steps.extend(let_go);
        let calling = State::CallingSecond(offer());
        check(calling, Happened::RangTooLong, over(IN_TIME), &steps);
        check(State::CallingSecond(offer()), Happened::HungUp, over(BY_REQUEST), &steps);
    }

    #[test]
    fn one_hangs_up_and_the_other_is_hung_up_on() {
        let bye = [Step::Bye(Leg::Second)];
        check(State::Talking, Happened::Left(Leg::First), over("sip:a@x hung up"), &bye);
        let bye = [Step::Bye(Leg::First)];
        check(State::Talking, Happened::Left(Leg::Second), over("sip:b@x hung up"), &bye);
        let byes = [Step::Bye(Leg::First), Step::Bye(Leg::Second)];
        check(State::Talking, Happened::HungUp, over(BY_REQUEST), &byes);
    }

    #[test]
    fn a_phone_that_is_picked_up_too_late_is_put_down() {
        check(
            over("nobody answered in time"),
            Happened::Answered(Leg::First, offer()),
            over("nobody answered in time"),
            &[Step::Acknowledge(Leg::First, None), Step::Bye(Leg::First)],
        );
    }

    #[test]
    fn what_comes_late_changes_nothing_else() {
        for happened in [Happened::RangTooLong, Happened::Left(Leg::First), Happened::HungUp] {
            check(over("x"), happened, over("x"), &[]);
        }
        check(State::Talking, Happened::RangTooLong, State::Talking, &[]);
    }

    #[test]
    fn it_is_remembered_as_it_is() {
        for state in [
            State::CallingFirst,
            State::CallingSecond(b"v=0\r\no=-\r\n\xff".to_vec()),
            State::Talking,
            over("sip:a@x hung up"),
        ] {
            let dial = dial(state);
            assert_eq!(Dial::read(&dial.written()), Some(dial));
        }
        assert_eq!(Dial::read(b"1\nsip:a@x"), None);
    }

    #[test]
    fn legs_of_an_earlier_attempt_are_nobody_s() {
        let dial = dial(State::CallingFirst);
        assert_eq!(dial.leg("first-2"), Some(Leg::First));
        assert_eq!(dial.leg("first-1"), None);
    }

    #[test]
    fn only_plain_sip_addresses_are_called() {
        assert!(is_target("sip:alice@example.com;transport=tcp"));
        for uri in ["", "tel:+491234", "sips:a@x", "sip:a@x>", "sip:a@x\r\nVia: x", "sip:ä@x"] {
            assert!(!is_target(uri), "{uri}");
        }
    }
}
