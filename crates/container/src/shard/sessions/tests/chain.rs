//! A call through several applications on it: in which order, and that it stands whoever dies.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use sip::{Message, Method};

use super::SECOND;
use super::phones::Hangup;
use super::world::{Fate, World};
use crate::application::Response;
use crate::session::{
    CALLER, Directive, HttpRequest, HttpResponse, LegName, LegState, Region, SessionApplication,
    SessionEffect, SessionEvent, SessionView, name_of,
};
use crate::shard::SessionChoice;
use crate::shard::sessions::SessionApplications;

const PHONE: &str = "sip:bob@198.51.100.9";

/// Who was asked about whom, in order.
type Asked = Arc<Mutex<Vec<String>>>;

/// A back-to-back agent that takes calls for some users, and sends them to another one.
struct Station {
    name: &'static str,
    region: Region,
    directive: Directive,
    /// Whose calls it takes: users of `example.com`; none: everybody's.
    of: &'static [&'static str],
    /// To whom it sends them; none: to the same user of `example.com`.
    to: Option<&'static str>,
    asked: Asked,
}

impl Station {
    fn new(name: &'static str, asked: &Asked) -> Station {
        let (region, directive) = (Region::Neutral, Directive::Continue);
        Station { name, region, directive, of: &[], to: None, asked: Arc::clone(asked) }
    }

    fn sends(self, of: &'static [&'static str], to: &'static str) -> Station {
        Station { of, to: Some(to), ..self }
    }

    fn call(target: &str) -> SessionEffect {
        SessionEffect::Call {
            leg: LegName::new("callee"),
            target: target.to_owned().into(),
            from: "<sip:alice@example.com>".into(),
            to: "<sip:bob@example.com>".into(),
            headers: Vec::new(),
            body: None,
        }
    }

    fn decide(&self, session: &SessionView, event: &SessionEvent) -> Vec<SessionEffect> {
        let other = |leg: &LegName| session.legs.iter().find(|other| other.name != *leg);
        match event {
            SessionEvent::Http(_) => {
                let answered = SessionEffect::HttpRespond(HttpResponse::new(200));
                vec![answered, Station::call(self.to.unwrap())]
            }
            SessionEvent::Request { leg, message, .. } => match message.method().unwrap() {
                Method::Invite => {
                    let same = format!("sip:{}@example.com", called(message));
                    vec![Station::call(self.to.unwrap_or(&same))]
                }
                Method::Bye => {
                    let bye = |leg: &LegName| SessionEffect::Send {
                        leg: leg.clone(),
                        method: "BYE".into(),
                        headers: Vec::new(),
                        body: None,
                    };
                    let other = other(leg).filter(|other| other.state == LegState::Confirmed);
                    other.map(|other| bye(&other.name)).into_iter().collect()
                }
                _ => Vec::new(),
            },
            SessionEvent::Response { message, leg } => {
                let caller = session.leg(CALLER).and_then(|leg| leg.unanswered.first());
                let is_invite = message.cseq().unwrap().method == Method::Invite;
                let status = message.status().unwrap();
                let mut effects = Vec::new();
                if let Some((request, _)) = caller.filter(|_| is_invite) {
                    let (request, response) = (*request, Response::new(status));
                    effects.push(SessionEffect::Respond { request, response });
                }
                if status == 200 && is_invite {
                    let (headers, body) = (Vec::new(), None);
                    effects.push(SessionEffect::Acknowledge { leg: leg.clone(), headers, body });
                }
                effects
            }
            _ => Vec::new(),
        }
    }
}

impl SessionApplication for Station {
    fn name(&self) -> &str {
        self.name
    }

    fn accepts(&self, request: &Message) -> bool {
        let is_of = self.of.is_empty() || self.of.contains(&called(request));
        request.method() == Some(Method::Invite) && is_of
    }

    fn region(&self) -> Region {
        self.region
    }

    fn directive(&self) -> Directive {
        self.directive
    }

    fn on_event<'a>(
        &'a self,
        session: &'a SessionView,
        event: &'a SessionEvent,
    ) -> BoxFuture<'a, Vec<SessionEffect>> {
        if let SessionEvent::Request { message, .. } = event
            && message.method() == Some(Method::Invite)
        {
            let told = format!("{} {}", name_of(self.name), called(message));
            self.asked.lock().unwrap().push(told);
        }
        Box::pin(async move { self.decide(session, event) })
    }
}

/// The user part of the Request-URI.
fn called(request: &Message) -> &str {
    let uri = std::str::from_utf8(request.request_uri().unwrap()).unwrap();
    uri.split([':', '@']).nth(1).unwrap()
}

fn get() -> HttpRequest {
    HttpRequest {
        method: "GET".to_owned(),
        path_with_query: "/".to_owned(),
        headers: Vec::new(),
        body: Bytes::new(),
    }
}

/// A world with these applications, in this order.
fn world_of(stations: Vec<Station>, fate: Fate) -> World {
    let mut world = World::new(Hangup::Caller, fate);
    world.opens();
    let hosted = stations.into_iter().map(|station| Arc::new(station) as _).collect();
    world.hosts(SessionApplications::new(hosted));
    world
}

/// A call that an agent sends on to somebody whom only the registrar could know.
pub(super) fn to_the_registrar(is_guarded: bool) -> World {
    let agent = Station::new("agent", &Asked::default()).sends(&["bob"], "sip:carol@example.com");
    let mut world = World::new(Hangup::Caller, Fate::Lives);
    world.is_guarded = is_guarded;
    world.opens();
    world.hosts(SessionApplications::new(vec![Arc::new(agent)]));
    world.calls();
    world.runs(5 * SECOND);
    world
}

/// Three agents on one call, the last of which sends it to a phone.
fn through_three(fate: Fate) -> usize {
    let asked = Asked::default();
    let stations = ["first@1", "second@1", "third@1"].map(|name| Station::new(name, &asked));
    let [first, second, third] = stations;
    let mut world = world_of(vec![first, second, third.sends(&[], PHONE)], fate);
    world.calls();
    world.runs_until_hung_up(60 * SECOND);
    let told = format!("{fate:?}:\n{}", world.log.join("\n"));
    assert!(world.is_hung_up(), "the call did not end: {told}");
    assert_eq!(world.callee.rings(), 1, "{told}");
    for phone in [&world.caller, &world.callee] {
        assert_eq!(phone.faults, Vec::<String>::new(), "{told}");
    }
    let mut asked = asked.lock().unwrap().clone();
    asked.sort();
    asked.dedup();
    assert_eq!(asked, ["first bob", "second bob", "third bob"], "{told}");
    world.check_indexes();
    world.runs(60 * SECOND);
    assert_eq!((world.store.records(), world.sessions()), (0, 0), "{told}");
    world.steps
}

#[test]
fn call_through_three_applications_outlives_its_container_wherever_it_is_killed() {
    let steps = through_three(Fate::Lives);
    assert!(steps > 100, "{steps}");
    for at in 0..steps {
        through_three(Fate::DiesAfter(at));
    }
}

/// Who is asked about whom, when alice calls `bob`.
fn asked_by_a_call(stations: impl FnOnce(&Asked) -> Vec<Station>) -> (Vec<String>, World) {
    let asked = Asked::default();
    let mut world = world_of(stations(&asked), Fate::Lives);
    world.calls();
    world.runs(5 * SECOND);
    let asked = asked.lock().unwrap().clone();
    (asked, world)
}

#[test]
fn what_no_application_takes_any_more_goes_to_the_registrar() {
    let (asked, world) = asked_by_a_call(|asked| {
        let second = Station::new("second", asked).sends(&["bob"], "sip:carol@example.com");
        vec![Station::new("first", asked).sends(&["carol"], PHONE), second]
    });
    assert_eq!(asked, ["second bob"], "nobody before an application is asked again");
    assert_eq!(world.registrar, ["sip:carol@example.com"]);
}

// JSR 289 §15.2: originating services before terminating ones; a new subscriber's terminating services for a request that a
// terminating one sends elsewhere.
#[test]
fn call_that_is_forwarded_begins_the_terminating_chain_of_its_new_callee() {
    let chain = |region: Region| {
        move |asked: &Asked| {
            let of_region = |station: Station| Station { region, ..station };
            let caller = Station { region: Region::Originating, ..Station::new("dial", asked) };
            let screen = of_region(Station::new("screen", asked));
            let forward = Station::new("forward", asked);
            let forward = of_region(forward.sends(&["bob"], "sip:carol@example.com"));
            vec![caller, screen, forward]
        }
    };
    let (asked, world) = asked_by_a_call(chain(Region::Terminating));
    assert_eq!(asked, ["dial bob", "screen bob", "forward bob", "screen carol"]);
    assert_eq!(world.registrar, ["sip:carol@example.com"]);
    let (asked, world) = asked_by_a_call(chain(Region::Neutral));
    assert_eq!(asked, ["dial bob", "screen bob", "forward bob"]);
    assert_eq!(world.registrar, ["sip:carol@example.com"]);
}

#[test]
fn applications_that_send_a_call_round_are_stopped() {
    let (asked, world) = asked_by_a_call(|asked| {
        let forward = |name, of, to| {
            let station = Station::new(name, asked).sends(of, to);
            Station { region: Region::Terminating, ..station }
        };
        vec![
            forward("one", &["bob"], "sip:carol@example.com"),
            forward("two", &["carol"], "sip:bob@example.com"),
        ]
    });
    assert_eq!(asked.len(), 20);
    let refused = "caller: INVITE answered 482".to_owned();
    assert!(world.caller.faults.contains(&refused), "{:?}", world.caller.faults);
    assert_eq!(world.registrar, Vec::<String>::new());
}

#[test]
fn call_that_an_application_begins_goes_to_all_others_and_to_itself_if_it_wants_that() {
    let asked_by = |directive| {
        let asked = Asked::default();
        let [first, web] = ["first", "web"]
            .map(|name| Station::new(name, &asked).sends(&["bob"], "sip:bob@example.com"));
        let first = Station { to: Some("sip:carol@example.com"), ..first };
        let web = Station { directive, ..web };
        // Where it may be asked itself, it is asked first.
        let stations = match directive {
            Directive::Continue => vec![first, web],
            Directive::New => vec![web, first],
        };
        let mut world = world_of(stations, Fate::Lives);
        world.asks(0, SessionChoice::New, get());
        world.runs(5 * SECOND);
        asked.lock().unwrap().clone()
    };
    assert_eq!(asked_by(Directive::Continue), ["first bob"]);
    let own = asked_by(Directive::New);
    // It calls the same user again and again, and is stopped.
    assert_eq!(own, ["web bob"; 19]);
}
