//! What is going on while a fault comes: bindings, established calls, calls being set up; and what of it is left.
//!
//! Established calls and set-ups are of each kind in equal numbers: over UDP and TCP, direct, through the back-to-back
//! agent, and through the sample application `b2bua` in WebAssembly where it is built. After the fault each established
//! call invites anew in both directions and is hung up, each set-up is answered and hung up, each phone registers again,
//! and every binding is looked for.

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use phone::{Call, Invitation, LineTransport, Phone, PhoneError, Ringing};
use testbed::crowd;
use testbed::node::Node;
use tokio::task::JoinSet;

use crate::world::{self, DOMAIN, PASSWORD};

/// Bindings beside those of the phones.
pub(super) const BINDINGS: usize = 1_000;
/// Calls of each kind, so many established and so many being set up.
const CALLS_OF_A_KIND: usize = 4;
/// What nobody gets to within this is lost.
const LIMIT: Duration = Duration::from_secs(75);

/// So many of so many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) survived: usize,
    pub(super) of: usize,
    /// What happened to the others.
    pub(super) losses: Vec<String>,
    /// Nothing of it was begun: the application is not built.
    is_left_out: bool,
}

impl Count {
    fn add(&mut self, what: &str, result: Result<(), String>) {
        self.of += 1;
        match result {
            Ok(()) => self.survived += 1,
            Err(error) => self.losses.push(format!("{what}: {error}")),
        }
    }

    /// # Panics
    /// When something is lost, with what happened to it.
    pub(super) fn assert_all(&self, what: &str) {
        assert!(self.of > 0 || self.is_left_out, "no {what} was counted");
        assert!(
            self.losses.is_empty() && self.survived == self.of,
            "{self} {what} survived; lost:\n{}",
            self.losses.join("\n")
        );
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.survived, self.of)
    }
}

/// What is left after a fault.
#[derive(Debug, Clone, Default)]
pub(super) struct Survivors {
    pub(super) bindings: Count,
    /// Direct calls: after set-up they need edges only.
    pub(super) direct_calls: Count,
    /// Calls with a session of a native application.
    pub(super) session_calls: Count,
    /// Calls with a session of a WebAssembly application; none where that is not built.
    pub(super) guest_calls: Count,
    pub(super) set_ups: Count,
}

#[derive(Debug, Clone, Copy)]
struct Kind {
    transport: LineTransport,
    way: Way,
}

/// By which application a call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By none.
    Direct,
    /// By the native back-to-back agent.
    Session,
    /// By the one in WebAssembly.
    Guest,
}

/// Whose calls are those of the WebAssembly application: the phones of [`Way::Guest`] are called so.
pub(super) const GUESTS_CALLS: &str = "{ contains = [\"request.uri.user\", \"guest-\"] }";

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Direct => "direct",
            Way::Session => "session",
            Way::Guest => "guest",
        }
    }
}

/// Two phones and what is between them.
struct Pair<T> {
    kind: Kind,
    name: String,
    phones: [Phone; 2],
    state: T,
}

/// Whether the node has the WebAssembly application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guests {
    AreThere,
    AreNotBuilt,
}

/// All that goes on.
pub(super) struct Workload {
    guests: Guests,
    users: HashSet<String>,
    calls: Vec<Pair<(Call, Call)>>,
    set_ups: Vec<Pair<(Invitation, Ringing)>>,
}

impl Workload {
    /// Brings everything up, with phones of these transports.
    ///
    /// # Panics
    /// When something does not come up without any fault.
    pub(super) async fn begin(
        node: &Node,
        transports: &[LineTransport],
        guests: Guests,
    ) -> Workload {
        let loaded = crowd::register(node.sip("udp"), DOMAIN, 0..BINDINGS, 1, 3_600).await;
        assert_eq!(loaded.registered, BINDINGS, "{loaded:?}");
        let mut users: HashSet<String> =
            (0..BINDINGS).map(|user| format!("sip:user{user}@{DOMAIN}")).collect();
        let (mut calls, mut set_ups) = (Vec::new(), Vec::new());
        let ways: &[Way] = match guests {
            Guests::AreThere => &[Way::Direct, Way::Session, Way::Guest],
            Guests::AreNotBuilt => &[Way::Direct, Way::Session],
        };
        let kinds = transports
            .iter()
            .flat_map(|transport| ways.iter().map(|way| Kind { transport: *transport, way: *way }));
        for kind in kinds {
            for number in 0..2 * CALLS_OF_A_KIND {
                let pair = ring(node, kind, number).await;
                users.extend(pair.phones.iter().map(Phone::uri));
                if number % 2 == 0 {
                    calls.push(establish(pair).await);
                } else {
                    set_ups.push(pair);
                }
            }
        }
        Workload { guests, users, calls, set_ups }
    }

    /// Brings everything to its end and counts.
    pub(super) async fn finish(self, node: &Node) -> Survivors {
        let mut survivors = Survivors::default();
        survivors.guest_calls.is_left_out = self.guests == Guests::AreNotBuilt;
        let mut ends = JoinSet::new();
        for Pair { kind, name, phones, state: (caller, callee) } in self.calls {
            ends.spawn(async move {
                let result = limited(go_on_and_hang_up(caller, callee)).await;
                (kind, true, name, with_phones(result, &phones).await)
            });
        }
        for Pair { kind, name, phones, state: (invitation, ringing) } in self.set_ups {
            ends.spawn(async move {
                let result = limited(answer_and_hang_up(invitation, ringing)).await;
                (kind, false, name, with_phones(result, &phones).await)
            });
        }
        while let Some(end) = ends.join_next().await {
            let (kind, was_established, name, result) = end.expect("no phone panics");
            let count = match (was_established, kind.way) {
                (true, Way::Direct) => &mut survivors.direct_calls,
                (true, Way::Session) => &mut survivors.session_calls,
                (true, Way::Guest) => &mut survivors.guest_calls,
                (false, _) => &mut survivors.set_ups,
            };
            count.add(&name, result);
        }
        let there: HashSet<String> = node
            .registrations()
            .iter()
            .filter_map(|binding| binding["aor"].as_str().map(str::to_owned))
            .collect();
        for user in self.users {
            let is_there = there.contains(&user);
            let result = if is_there { Ok(()) } else { Err("its binding is gone".to_owned()) };
            survivors.bindings.add(&user, result);
        }
        survivors
    }
}

/// Two registered phones, one of which rings for the other's call.
async fn ring(node: &Node, kind: Kind, number: usize) -> Pair<(Invitation, Ringing)> {
    let Kind { transport, way } = kind;
    let name = format!("{}-{}-{number}", way.name(), transport.name().to_lowercase());
    let edge: SocketAddr = world::address(node, transport);
    let phone = |role: &str| {
        let user = format!("{name}-{role}");
        async move {
            let phone = Phone::new(&user, DOMAIN, PASSWORD, transport, edge).await?;
            phone.register(3_600).await?;
            Ok::<Phone, PhoneError>(phone)
        }
    };
    let caller = phone("caller").await.expect("a phone registers");
    let callee = phone("callee").await.expect("a phone registers");
    let domain = match way {
        Way::Direct | Way::Guest => DOMAIN.to_owned(),
        Way::Session => format!("b2b.{DOMAIN}"),
    };
    let uri = format!("sip:{name}-callee@{domain}");
    let mut invitation = caller.call(0, &uri).await.expect("the call goes out");
    let ringing = callee.incoming().await.expect("the call comes in");
    ringing.ring().await.expect("the callee rings");
    invitation.ringing().await.expect("the caller hears it ring");
    Pair { kind, name, phones: [caller, callee], state: (invitation, ringing) }
}

async fn establish(pair: Pair<(Invitation, Ringing)>) -> Pair<(Call, Call)> {
    let Pair { kind, name, phones, state: (invitation, ringing) } = pair;
    let state =
        tokio::try_join!(invitation.answered(), ringing.answer()).expect("the call is answered");
    Pair { kind, name, phones, state }
}

async fn answer_and_hang_up(invitation: Invitation, ringing: Ringing) -> Result<(), PhoneError> {
    let (caller, callee) = tokio::try_join!(invitation.answered(), ringing.answer())?;
    go_on_and_hang_up(caller, callee).await
}

async fn go_on_and_hang_up(mut caller: Call, mut callee: Call) -> Result<(), PhoneError> {
    tokio::try_join!(caller.reinvite(), callee.reinvited())?;
    tokio::try_join!(callee.reinvite(), caller.reinvited())?;
    tokio::try_join!(callee.hang_up(), caller.hung_up())?;
    Ok(())
}

async fn limited(end: impl Future<Output = Result<(), PhoneError>>) -> Result<(), String> {
    match tokio::time::timeout(LIMIT, end).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("not over after {LIMIT:?}")),
    }
}

/// Adds what the phones saw of broken order, and whether they can register again.
async fn with_phones(result: Result<(), String>, phones: &[Phone; 2]) -> Result<(), String> {
    let mut seen: Vec<String> = result.err().into_iter().collect();
    for phone in phones {
        seen.extend(phone.rang_again());
        seen.extend(phone.violations());
        if let Err(error) = phone.register(3_600).await {
            seen.push(format!("{} cannot register again: {error}", phone.uri()));
        }
    }
    if seen.is_empty() { Ok(()) } else { Err(seen.join("; ")) }
}
