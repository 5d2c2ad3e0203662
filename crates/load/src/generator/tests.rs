//! Whole runs in virtual time, against a small proxy and registrar in memory, over a network that loses.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::BytesMut;
use sip::digest::{Algorithm, Challenge};
use sip::{Edits, HeaderName, Method, ResponseBuilder};
use transport::Transport;

use super::*;
use crate::logins::{Habit, Logins};
use crate::outbox::{FlowIndex, Output};
use crate::phones::{Outbound, PhoneSettings, Phones};
use crate::run_id::RunId;
use crate::scenario::{
    AskedInDialog, CallTimes, Calling, Echoing, FlowUse, Idling, InDialog, Pinging, Registering,
    Repetition,
};
use crate::statistics::Failure;
use crate::transactions::{Reliability, Transactions};

const USERS: u32 = 6;
const FLOWS: u32 = 3;
const FLIGHT: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn target() -> SocketAddr {
    "127.0.0.1:5060".parse().unwrap()
}

fn address(flow: FlowIndex) -> SocketAddr {
    SocketAddr::new(target().ip(), 4_000 + u16::try_from(flow.0).unwrap())
}

/// What the server does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    /// Registers everybody, and relays.
    Well,
    /// Asks for a password first.
    Challenges,
    /// Answers the first REGISTER of each user 503.
    Overloaded,
    /// Refuses everything with this status.
    Refuses(u16),
    /// Relays requests within dialogs to nobody.
    ForgetsDialogs,
    /// Relays the first ACK of each call to nobody.
    LosesFirstAck,
    /// Says nothing.
    Silent,
}

/// Generator, server and what is on its way between them.
struct World {
    generator: Generator,
    server: Server,
    now: Instant,
    /// By when it arrives; the first is the number of what was sent.
    on_its_way: BTreeMap<(Instant, u64), (SocketAddr, Bytes)>,
    sent: u64,
    seed: u64,
    lost_percent: u64,
    /// Call-IDs that were seen, for servers that treat the first request of each otherwise.
    seen: Vec<Vec<u8>>,
    /// Requests from callees.
    of_callees: u64,
    connected: Vec<FlowIndex>,
    methods: BTreeMap<String, u64>,
}

impl World {
    fn new(scenario: Box<dyn Scenario>, pace: PaceSetting, server: Server) -> World {
        let run = RunId::new(7);
        let settings = PhoneSettings {
            run,
            domain: "example.org".to_owned(),
            transport: Transport::Udp,
            expires: 600,
            first_user: 0,
            outbound: Outbound::No,
            echo_bytes: 400,
        };
        let mut phones = Phones::new(settings, FLOWS as usize);
        for flow in (0..FLOWS).map(FlowIndex) {
            phones.set_address(flow, address(flow));
        }
        let now = Instant::now();
        let context = Context {
            target: target(),
            phones,
            logins: Logins::new(Some("secret".to_owned()), Habit::Remember, 0, USERS),
            transactions: Transactions::new(run, Reliability::Unreliable),
            statistics: Statistics::new(now, None),
            outbox: Vec::new(),
            in_flight: 0,
        };
        let plan = Plan { pace, warmup: SECOND, duration: Some(5 * SECOND), drain: 40 * SECOND };
        World {
            generator: Generator::new(plan, scenario, context, now),
            server,
            now,
            on_its_way: BTreeMap::new(),
            sent: 0,
            seed: 1,
            lost_percent: 0,
            seen: Vec::new(),
            of_callees: 0,
            connected: Vec::new(),
            methods: BTreeMap::new(),
        }
    }

    fn losing(mut self, percent: u64, seed: u64) -> World {
        (self.lost_percent, self.seed) = (percent, seed);
        self
    }

    fn is_lost(&mut self) -> bool {
        // Knuth's MMIX generator: any will do, if it is the same each time.
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.seed >> 33) % 100 < self.lost_percent
    }

    fn send(&mut self, to: SocketAddr, message: Bytes) {
        self.sent += 1;
        if !self.is_lost() {
            self.on_its_way.insert((self.now + FLIGHT, self.sent), (to, message));
        }
    }

    /// Lets the run go on to its end.
    fn run(mut self) -> World {
        let limit = self.now + 300 * SECOND;
        while self.generator.phase() != Phase::Over {
            while let Some(entry) = self.on_its_way.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                let (to, message) = entry.remove();
                self.deliver(to, message);
            }
            self.generator.turn(self.now, Room::Some);
            self.carry_out();
            let arrival = self.on_its_way.keys().next().map(|(at, _)| *at);
            let has_more = self.generator.has_more(self.now);
            let due = self.generator.next_due(self.now);
            let next = [arrival, due].into_iter().flatten().min().filter(|_| !has_more);
            // A turn costs time, or a pace that is always due would stand still.
            self.now = next.unwrap_or(self.now).max(self.now + Duration::from_micros(100));
            assert!(self.now < limit, "the run ends: {:?}", self.generator);
        }
        self
    }

    fn carry_out(&mut self) {
        for output in std::mem::take(&mut self.generator.context.outbox) {
            match output {
                Output::Send { to, message, .. } => {
                    self.generator.context.statistics.sent(self.now);
                    self.send(to, message);
                }
                Output::Connect(flow) => {
                    self.connected.push(flow);
                    let local = address(flow);
                    self.generator.handle(FlowEvent::Up { flow, local }, self.now);
                }
                Output::Close(flow) => self.connected.retain(|open| *open != flow),
            }
        }
    }

    fn deliver(&mut self, to: SocketAddr, bytes: Bytes) {
        if to == target() {
            return self.serve(&Message::parse(bytes).unwrap());
        }
        let flow = FlowIndex(u32::from(to.port()) - 4_000);
        let event = FlowEvent::Message { flow, from: target(), bytes };
        self.generator.handle(event, self.now);
    }

    fn serve(&mut self, message: &Message) {
        let Some(method) = message.method() else {
            return self.relay_response(message);
        };
        let name = String::from_utf8_lossy(method.as_bytes()).into_owned();
        *self.methods.entry(name).or_default() += 1;
        let is_callees = message.from().unwrap().tag().is_some_and(|tag| tag.starts_with(b"b"));
        self.of_callees += u64::from(is_callees);
        let is_in_dialog = message.to().unwrap().tag().is_some();
        let is_mine = matches!(method, Method::Register | Method::Options);
        let is_new = || message.field(HeaderName::Authorization).is_none();
        let server = self.server;
        match server {
            Server::Silent => {}
            Server::Refuses(status) if method != Method::Ack => self.answer(message, status),
            Server::Challenges if is_mine && is_new() => self.answer(message, 401),
            Server::Overloaded if is_mine && self.is_first(message) => self.answer(message, 503),
            Server::ForgetsDialogs if is_in_dialog && method != Method::Ack => {
                self.answer(message, 481);
            }
            Server::LosesFirstAck if method == Method::Ack && self.is_first(message) => {}
            _ if is_mine => self.answer(message, 200),
            _ => self.relay_request(message),
        }
    }

    fn is_first(&mut self, message: &Message) -> bool {
        let call_id = message.call_id().unwrap().to_vec();
        let is_first = !self.seen.contains(&call_id);
        self.seen.push(call_id);
        is_first
    }

    fn answer(&mut self, request: &Message, status: u16) {
        let (nonce, realm) = (&b"nonce"[..], &b"example.org"[..]);
        let challenge = Challenge { realm, nonce, algorithm: Algorithm::Sha256, stale: false };
        let mut answer = ResponseBuilder::new(request, status).to_tag(b"server");
        match status {
            401 => answer = answer.header(HeaderName::WwwAuthenticate, &challenge.render()),
            503 => answer = answer.header(HeaderName::RetryAfter, b"2 (busy)"),
            _ => {}
        }
        let port = request.top_via().unwrap().port.unwrap();
        self.send(SocketAddr::new(target().ip(), port), answer.build());
    }

    /// To the flow that the Request-URI names: a contact, or an address-of-record whose user has one.
    fn relay_request(&mut self, request: &Message) {
        let uri = sip::Uri::parse(request.request_uri().unwrap()).unwrap();
        let uri = uri.as_sip().unwrap();
        let user = String::from_utf8_lossy(uri.user.unwrap()).into_owned();
        let number: u32 = user.trim_start_matches("user").parse().unwrap();
        let to = address(FlowIndex(number % FLOWS));
        assert!(uri.port.is_none_or(|port| port == to.port()), "contacts are where their user is");
        let mut edits = Edits::new();
        edits.push_front(HeaderName::Via, b"SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKserver");
        edits.push_front(HeaderName::RecordRoute, b"<sip:127.0.0.1:5060;lr>");
        let mut out = BytesMut::new();
        edits.render(request, &mut out);
        self.send(to, out.freeze());
    }

    fn relay_response(&mut self, response: &Message) {
        if response.values(HeaderName::Via).nth(1).is_none() {
            // An echo's datagram.
            let port = response.top_via().unwrap().port.unwrap();
            return self.send(SocketAddr::new(target().ip(), port), response.buffer().clone());
        }
        let mut edits = Edits::new();
        edits.remove_first_value(HeaderName::Via);
        let mut out = BytesMut::new();
        edits.render(response, &mut out);
        let bytes = out.freeze();
        let port = Message::parse(bytes.clone()).unwrap().top_via().unwrap().port.unwrap();
        self.send(SocketAddr::new(target().ip(), port), bytes);
    }

    fn count(&self, method: &str) -> u64 {
        self.methods.get(method).copied().unwrap_or_default()
    }
}

const CLOSED: PaceSetting = PaceSetting::Closed { concurrency: 4 };
const OPEN: PaceSetting = PaceSetting::Open { rate: 100.0, in_flight_max: 50 };

fn registering(repetition: Repetition) -> Box<dyn Scenario> {
    Box::new(Registering::new(USERS, 1, repetition, FlowUse::Shared))
}

fn calling() -> Box<dyn Scenario> {
    let times = CallTimes { ring: SECOND / 10, hold: SECOND / 5 };
    Box::new(Calling::new(USERS, times))
}

fn in_dialog(asked: AskedInDialog) -> Box<dyn Scenario> {
    Box::new(InDialog::new(USERS, 5, asked))
}

fn all() -> [Box<dyn Scenario>; 7] {
    [
        registering(Repetition::InTurn),
        registering(Repetition::Once),
        calling(),
        in_dialog(AskedInDialog::Info),
        in_dialog(AskedInDialog::Invite),
        Box::new(Pinging::new(USERS)),
        Box::new(Echoing::new()),
    ]
}

#[test]
fn every_scenario_ends_well_with_a_server_that_does() {
    for pace in [CLOSED, OPEN] {
        for scenario in all() {
            let name = format!("{pace:?} {scenario:?}");
            let mut world = World::new(scenario, pace, Server::Well).run();
            assert_eq!(world.generator.not_prepared(), None, "{name}");
            let statistics = world.generator.statistics();
            // Who registers once may be done within the warm-up.
            assert!(statistics.begun > 0 || name.contains("Once"), "{name}");
            assert_eq!((statistics.ok, statistics.lost_and_failed()), (statistics.begun, 0));
            assert_eq!((statistics.retransmissions, statistics.strays), (0, 0), "{name}");
            assert_eq!(world.generator.context.in_flight, 0, "{name}");
        }
    }
}

#[test]
fn what_the_network_loses_is_sent_again() {
    for seed in 1..=4 {
        for scenario in all() {
            let name = format!("seed {seed}: {scenario:?}");
            let mut world = World::new(scenario, CLOSED, Server::Well).losing(10, seed).run();
            assert_eq!(world.generator.not_prepared(), None, "{name}");
            let statistics = world.generator.statistics();
            assert_eq!(
                (statistics.ok, statistics.lost_and_failed()),
                (statistics.begun, 0),
                "{name}"
            );
            assert!(statistics.retransmissions > 0 || name.contains("Once"), "{name}");
        }
    }
}

#[test]
fn a_call_is_thirteen_messages_and_takes_as_long_as_the_phones_do() {
    let mut world = World::new(calling(), OPEN, Server::Well).run();
    let statistics = world.generator.statistics();
    assert_eq!((statistics.begun, statistics.invite_to_180.len()), (500, 500));
    // 0.1 s of ringing, 0.2 s of talk, and the flights.
    let (least, most) =
        (statistics.latency.min() / 1_000_000, statistics.latency.max() / 1_000_000);
    assert!((304..=312).contains(&least) && most <= 320, "{least} to {most} ms");
    assert!(statistics.invite_to_180.max() < 10_000_000);
    // INVITE, ACK, BYE and their answers 180, 200, 200, each sent and received: 100 is the server's, and not of this one.
    let messages = statistics.sent + statistics.received;
    assert!(messages.abs_diff(500 * 12) < 500, "{messages}");
    assert_eq!(world.count("INVITE"), world.count("BYE"));
}

#[test]
fn both_sides_of_a_dialog_ask_and_every_call_is_hung_up() {
    for (asked, method) in [(AskedInDialog::Info, "INFO"), (AskedInDialog::Invite, "INVITE")] {
        let mut world = World::new(in_dialog(asked), OPEN, Server::Well).run();
        let statistics = world.generator.statistics();
        assert_eq!((statistics.begun, statistics.ok), (500, 500));
        // A second of warm-up as well; re-INVITEs beside the five that began the calls.
        let begun = if method == "INVITE" { 5 } else { 0 };
        assert!(world.count(method).abs_diff(600 + begun) <= 2, "{:?}", world.methods);
        assert_eq!(world.count("BYE"), 5, "{:?}", world.methods);
        // The sides take turns; ACKs of INVITEs come on top.
        let share = world.of_callees as f64 / (world.count(method) + world.count("ACK")) as f64;
        assert!((0.45..0.55).contains(&share), "{share}");
        // Each INVITE has its ACK.
        assert_eq!(world.count("ACK"), world.count("INVITE"), "{:?}", world.methods);
    }
}

#[test]
fn an_answer_that_is_repeated_is_acknowledged_again() {
    let times = CallTimes { ring: Duration::ZERO, hold: 20 * SECOND };
    let scenario = Box::new(Calling::new(USERS, times));
    let mut world = World::new(scenario, CLOSED, Server::LosesFirstAck).run();
    let statistics = world.generator.context.statistics.retransmissions
        + world.generator.statistics().retransmissions;
    // Four calls, begun in the warm-up like their first repetitions; a callee without its ACK would go on repeating.
    assert_eq!((world.count("INVITE"), world.count("ACK"), statistics), (4, 8, 0));
    assert_eq!(world.count("BYE"), 4);
}

#[test]
fn challenges_are_answered_once_and_then_logged_in_with() {
    let mut world = World::new(registering(Repetition::InTurn), CLOSED, Server::Challenges).run();
    let statistics = world.generator.statistics();
    assert_eq!((statistics.ok, statistics.lost_and_failed()), (statistics.begun, 0));
    assert_eq!(statistics.challenges, 0, "they were all in the warm-up");
    let mut world = World::new(calling(), CLOSED, Server::Challenges).run();
    assert_eq!(
        world.generator.not_prepared(),
        None,
        "registrations before calls are challenged too"
    );
    let statistics = world.generator.statistics();
    assert_eq!((statistics.ok, statistics.lost_and_failed()), (statistics.begun, 0));
}

#[test]
fn who_registers_once_comes_again_when_a_503_says_when() {
    let scenario = registering(Repetition::Once);
    let mut world = World::new(scenario, CLOSED, Server::Overloaded);
    (world.generator.plan.warmup, world.generator.plan.duration) = (Duration::ZERO, None);
    let mut world = world.run();
    let statistics = world.generator.statistics();
    let users = u64::from(USERS);
    assert_eq!((statistics.ok, statistics.put_off, statistics.begun), (users, users, users));
    // Two seconds later, and over when the last one is.
    assert!(statistics.latency.min() > 2_000_000_000, "{:?}", statistics.latency.min());
    assert!(statistics.window() < 10 * SECOND, "{:?}", statistics.window());
}

#[test]
fn wrong_answers_fail_by_their_status() {
    let scenarios: [Box<dyn Scenario>; 2] =
        [registering(Repetition::InTurn), Box::new(Pinging::new(USERS))];
    for scenario in scenarios {
        let mut world = World::new(scenario, OPEN, Server::Refuses(403)).run();
        let statistics = world.generator.statistics();
        assert_eq!((statistics.ok, statistics.begun), (0, 500));
        assert_eq!(statistics.failed, BTreeMap::from([(Failure::Status(403), 500)]));
    }
}

#[test]
fn calls_whose_users_cannot_register_are_not_begun() {
    let mut world = World::new(calling(), CLOSED, Server::Refuses(403)).run();
    let told = world.generator.not_prepared().unwrap().to_string();
    assert!(told.contains("6 did not") && told.contains("403: 6"), "{told}");
    assert_eq!(world.count("INVITE"), 0);
}

#[test]
fn a_call_whose_bye_is_refused_has_failed_and_a_dialog_that_is_not_known_is_over() {
    let mut world = World::new(calling(), OPEN, Server::ForgetsDialogs).run();
    let statistics = world.generator.statistics();
    assert_eq!(statistics.failed, BTreeMap::from([(Failure::Status(481), 500)]));
    let mut world = World::new(in_dialog(AskedInDialog::Info), OPEN, Server::ForgetsDialogs).run();
    assert_eq!(world.generator.statistics().ok, 0);
    assert_eq!(world.count("INFO"), 5, "nobody asks again in a dialog that is over");
}

#[test]
fn what_is_never_answered_is_lost() {
    let mut world = World::new(Box::new(Pinging::new(USERS)), OPEN, Server::Silent).run();
    let missed = world.generator.missed();
    let statistics = world.generator.statistics();
    // 50 may be in flight, and they are until long after the end: those of the warm-up.
    assert_eq!((statistics.ok, statistics.begun, missed), (0, 0, 550));
    let pace = PaceSetting::Open { rate: 100.0, in_flight_max: 1_000 };
    let mut world = World::new(Box::new(Pinging::new(USERS)), pace, Server::Silent).run();
    let statistics = world.generator.statistics();
    assert_eq!((statistics.ok, statistics.begun, statistics.lost), (0, 500, 500));
}

#[test]
fn an_open_loop_that_is_held_up_counts_from_the_intended_time() {
    let mut world = World::new(Box::new(Pinging::new(USERS)), OPEN, Server::Well);
    while world.generator.phase() != Phase::Measuring {
        world.generator.turn(world.now, Room::Some);
        world.carry_out();
        world.now += Duration::from_millis(10);
    }
    // This process stood still for a second.
    world.now += SECOND;
    let mut world = world.run();
    let statistics = world.generator.statistics();
    assert_eq!((statistics.begun, statistics.ok), (500, 500), "none is left out");
    assert!(statistics.lag_max >= SECOND - Duration::from_millis(30), "{:?}", statistics.lag_max);
    let above = statistics.latency.count_between(500_000_000, u64::MAX);
    assert!(
        (40..=60).contains(&above),
        "half of a second's operations waited for half of it: {above}"
    );
}

#[test]
fn idle_flows_that_end_before_their_time_have_failed() {
    let scenario = Box::new(Idling::new(FLOWS));
    let pace = PaceSetting::Closed { concurrency: FLOWS as usize };
    let mut world = World::new(scenario, pace, Server::Well);
    world.generator.plan.warmup = Duration::ZERO;
    while world.generator.phase() != Phase::Measuring {
        world.generator.turn(world.now, Room::Some);
        world.carry_out();
        world.now += FLIGHT;
        while let Some((_, (to, message))) = world.on_its_way.pop_first() {
            world.deliver(to, message);
        }
    }
    world.generator.turn(world.now, Room::Some);
    assert_eq!(world.connected.len(), FLOWS as usize);
    let (failure, why) = (Failure::Closed, "closed by the peer".to_owned());
    world.generator.handle(FlowEvent::Down { flow: FlowIndex(1), failure, why }, world.now);
    let mut world = world.run();
    assert_eq!(world.generator.first_down(), Some("closed by the peer"));
    let statistics = world.generator.statistics();
    assert_eq!((statistics.begun, statistics.ok), (3, 2));
    assert_eq!(statistics.failed, BTreeMap::from([(Failure::Closed, 1)]));
}

#[test]
fn each_operation_of_a_churn_has_a_connection_of_its_own() {
    let churn = Registering::new(FLOWS, 1, Repetition::InTurn, FlowUse::OwnClosed);
    let pace = PaceSetting::Open { rate: 10.0, in_flight_max: 2 };
    let mut world = World::new(Box::new(churn), pace, Server::Well).run();
    let statistics = world.generator.statistics();
    assert_eq!((statistics.begun, statistics.ok), (50, 50));
    assert_eq!(world.connected, [], "all are closed");
}
