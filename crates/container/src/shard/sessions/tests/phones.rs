//! A caller and a callee over UDP: they repeat what is not answered, and note what a phone would trip over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sip::{HeaderName, Message, Method, RequestBuilder, ResponseBuilder};

use super::agent::edge_route;

const REPEAT: Duration = Duration::from_millis(500);
const ANSWER_AFTER: Duration = Duration::from_millis(300);
/// The CSeq number of the one request that ends the call.
const BYE: u32 = 1_000;
const TALK_TIME: Duration = Duration::from_secs(2);

/// Who ends the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hangup {
    Caller,
    Callee,
    Nobody,
}

/// One end of the call.
pub(super) struct Phone {
    name: &'static str,
    hangs_up: bool,
    /// As callee: what it answers arrives, so it says it once.
    pub(super) is_by_stream: bool,
    /// Whom it calls.
    pub(super) calls_whom: &'static str,
    /// The other side counts its requests as it likes.
    pub(super) allows_gaps: bool,
    /// What is sent again and again, until something comes.
    repeats: BTreeMap<&'static str, (Message, Instant)>,
    /// What was answered, by branch and method.
    answered: BTreeMap<String, Message>,
    /// The INVITE as it came or went.
    invite: Option<Message>,
    /// The response that made the dialog, as it came or went.
    answer: Option<Message>,
    /// When to do what next.
    answers_at: Option<Instant>,
    hangs_up_at: Option<Instant>,
    called_at: Option<Instant>,
    /// When 2xx to its INVITE came.
    pub(super) answers: Vec<Instant>,
    /// As if they had not come.
    pub(super) is_deaf_to_answers: bool,
    /// How long its own call took to be answered.
    pub(super) answered_after: Option<Duration>,
    pub(super) is_over: bool,
    /// The highest CSeq number of the other side, and its tag.
    remote: Option<(u32, Vec<u8>)>,
    pub(super) faults: Vec<String>,
}

impl Phone {
    pub(super) fn new(name: &'static str, hangs_up: bool) -> Phone {
        Phone {
            name,
            hangs_up,
            is_by_stream: false,
            calls_whom: "sip:bob@b2b.example.com",
            allows_gaps: false,
            repeats: BTreeMap::new(),
            answered: BTreeMap::new(),
            invite: None,
            answer: None,
            answers_at: None,
            hangs_up_at: None,
            called_at: None,
            answers: Vec::new(),
            is_deaf_to_answers: false,
            answered_after: None,
            is_over: false,
            remote: None,
            faults: Vec::new(),
        }
    }

    /// Requests of that method that came, repetitions not counted.
    pub(super) fn requests(&self, method: &str) -> usize {
        self.answered.keys().filter(|key| key.ends_with(method)).count()
    }

    pub(super) fn rings(&self) -> usize {
        self.requests("INVITE")
    }

    pub(super) fn calls(&mut self, now: Instant) -> Message {
        let invite = super::agent::invite_to(self.calls_whom);
        self.invite = Some(invite.clone());
        self.called_at = Some(now);
        self.repeats.insert("INVITE", (invite.clone(), now + REPEAT));
        invite
    }

    pub(super) fn next(&self) -> Option<Instant> {
        let repeats = self.repeats.values().map(|(_, at)| *at);
        repeats.chain(self.answers_at).chain(self.hangs_up_at).min()
    }

    /// What leaves because of the time.
    pub(super) fn timeout(&mut self, now: Instant) -> Vec<Message> {
        let mut sent = Vec::new();
        for (message, at) in self.repeats.values_mut() {
            if *at <= now {
                *at = now + REPEAT;
                sent.push(message.clone());
            }
        }
        if self.answers_at.take_if(|at| *at <= now).is_some() {
            let invite = self.invite.clone().unwrap();
            let answer = self.respond(&invite, 200);
            self.answer = Some(answer.clone());
            if !self.is_by_stream {
                self.repeats.insert("200", (answer.clone(), now + REPEAT));
            }
            sent.push(answer);
        }
        if self.hangs_up_at.take_if(|at| *at <= now).is_some() {
            let bye = self.hangs_up(now);
            sent.push(bye);
        }
        sent
    }

    /// A message comes; what it is answered with.
    pub(super) fn comes(&mut self, message: Message, now: Instant) -> Vec<Message> {
        match message.status() {
            Some(status) => self.response(status, message, now),
            None => self.request(message, now),
        }
    }

    fn response(&mut self, status: u16, response: Message, now: Instant) -> Vec<Message> {
        let method = response.cseq().unwrap().method;
        match (method, status) {
            (Method::Invite, 100..=199) => {
                self.repeats.remove("INVITE");
                Vec::new()
            }
            (Method::Invite, 200) => {
                self.repeats.remove("INVITE");
                self.answers.push(now);
                if self.is_deaf_to_answers {
                    return Vec::new();
                }
                self.answered_after =
                    self.answered_after.or(self.called_at.map(|called_at| now - called_at));
                let tag = response.to().unwrap().tag().unwrap().to_vec();
                if let Some(answer) = &self.answer {
                    let before = answer.to().unwrap().tag().unwrap();
                    if before != tag {
                        self.faults.push(format!("{}: two tags in answers", self.name));
                    }
                } else if self.hangs_up {
                    self.hangs_up_at = Some(now + TALK_TIME);
                }
                self.answer = Some(response);
                let number = self.invite.as_ref().unwrap().cseq().unwrap().number;
                vec![self.in_dialog(Method::Ack, number, "")]
            }
            (Method::Bye, 200..=699) => {
                self.repeats.remove("BYE");
                // 481: the other side has hung up at the same time.
                self.is_over |= status == 200 || status == 481;
                if !self.is_over {
                    self.faults.push(format!("{}: BYE answered {status}", self.name));
                }
                Vec::new()
            }
            (method, status) => {
                self.repeats.remove("INVITE");
                self.faults.push(format!("{}: {method} answered {status}", self.name));
                Vec::new()
            }
        }
    }

    fn request(&mut self, request: Message, now: Instant) -> Vec<Message> {
        let method = request.method().unwrap();
        if method == Method::Ack {
            self.repeats.remove("200");
            if self.hangs_up && self.hangs_up_at.is_none() && !self.repeats.contains_key("BYE") {
                self.hangs_up_at = Some(now + TALK_TIME).filter(|_| !self.is_over);
            }
            return Vec::new();
        }
        let key =
            format!("{} {method}", request.top_via().unwrap().branch().unwrap().escape_ascii());
        if let Some(answer) = self.answered.get(&key) {
            return vec![answer.clone()];
        }
        self.check(&request);
        let status = match method {
            Method::Invite => {
                self.invite = Some(request.clone());
                self.answers_at = Some(now + ANSWER_AFTER);
                180
            }
            Method::Bye => {
                self.is_over = true;
                self.hangs_up_at = None;
                self.repeats.clear();
                200
            }
            _ => 200,
        };
        let answer = self.respond(&request, status);
        self.answered.insert(key, answer.clone());
        vec![answer]
    }

    /// CSeq grows by one, the tags stay.
    fn check(&mut self, request: &Message) {
        let number = request.cseq().unwrap().number;
        let tag = request.from().unwrap().tag().unwrap().to_vec();
        if let Some((last, before)) = &self.remote {
            if number != last + 1 && !(self.allows_gaps && number > *last) {
                self.faults.push(format!("{}: CSeq {number} after {last}", self.name));
            }
            if *before != tag {
                self.faults.push(format!("{}: another From tag", self.name));
            }
        }
        self.remote = Some((number, tag));
    }

    fn respond(&mut self, request: &Message, status: u16) -> Message {
        let contact = format!("<sip:{}@198.51.100.9>", self.name);
        let mut response = ResponseBuilder::new(request, status)
            .to_tag(self.name.as_bytes())
            .header(HeaderName::Contact, contact.as_bytes());
        // Else its edge has put that into the request already.
        response = match request.field(HeaderName::RecordRoute) {
            Some(_) => response.record_route(),
            None => response.header(HeaderName::RecordRoute, edge_route(2, "c1").as_bytes()),
        };
        let response = Message::parse(response.build()).unwrap();
        if status == 200 && request.method() == Some(Method::Invite) {
            let branch = request.top_via().unwrap().branch().unwrap().escape_ascii().to_string();
            self.answered.insert(format!("{branch} INVITE"), response.clone());
        }
        response
    }

    /// Where the other side of its call wants its requests.
    pub(super) fn remote_target(&self) -> String {
        let answer = self.answer.as_ref().unwrap();
        let contact = answer.values(HeaderName::Contact).next().unwrap();
        sip::NameAddr::parse(contact).unwrap().uri().escape_ascii().to_string()
    }

    /// Its BYE, repeated until it is answered.
    pub(super) fn hangs_up(&mut self, now: Instant) -> Message {
        let bye = self.in_dialog(Method::Bye, BYE, "");
        self.repeats.insert("BYE", (bye.clone(), now + REPEAT));
        bye
    }

    /// An INFO in the dialog, of so many octets at least.
    pub(super) fn info(&self, number: u32, octets: usize) -> Message {
        let method = Method::parse(b"INFO").unwrap();
        self.in_dialog(method, number, &format!(";padding=x{}", "x".repeat(octets)))
    }

    /// A request in the dialog, as the edge passes it on.
    fn in_dialog(&self, method: Method<'_>, number: u32, padding: &str) -> Message {
        let (invite, answer) = (self.invite.as_ref().unwrap(), self.answer.as_ref().unwrap());
        let is_caller = self.name == "caller";
        let (contact, from, to) = match is_caller {
            true => (answer, answer.field(HeaderName::From), answer.field(HeaderName::To)),
            false => (invite, answer.field(HeaderName::To), answer.field(HeaderName::From)),
        };
        let contact = contact.values(HeaderName::Contact).next().unwrap();
        let uri = sip::NameAddr::parse(contact).unwrap().uri();
        let branch = format!("z9hG4bK{}{method}{number}", self.name);
        let via = format!("SIP/2.0/UDP 192.0.2.1;branch={branch}{padding}");
        let cseq = format!("{number} {method}");
        // The first one is the phone's own edge, which has taken itself out.
        let mut routes: Vec<&[u8]> = match is_caller {
            true => answer.values(HeaderName::RecordRoute).collect(),
            false => invite.values(HeaderName::RecordRoute).collect(),
        };
        if is_caller {
            routes.reverse();
        }
        let mut request = RequestBuilder::new(method, uri);
        // So do those between containers, wherever they stand.
        let routes = routes.into_iter().filter(|route| !route.starts_with(b"<sip:chain@"));
        for route in routes.skip(1) {
            request = request.header(HeaderName::Route, route);
        }
        let request = request
            .header(HeaderName::Via, via.as_bytes())
            .header(HeaderName::From, from.unwrap())
            .header(HeaderName::To, to.unwrap())
            .header(HeaderName::CallId, invite.call_id().unwrap())
            .header(HeaderName::CSeq, cseq.as_bytes());
        Message::parse(request.build()).unwrap()
    }
}
