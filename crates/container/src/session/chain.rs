//! The chain of applications that a call goes through, and where in it a request of ours stands.
//!
//! A request from outside is offered to the applications in their order: those of the originating region, then the neutral
//! ones, then those of the terminating region; the first that accepts it has it. A request that a session sent says in
//! its Via how far its call has come, under a MAC ([`Identity::sender`](super::identity::Identity::sender)); so the call goes
//! on behind that application, through every later one that accepts it, to the registrar.
//!
//! ```text
//! Via: SIP/2.0/TCP c1.n1.outlast.invalid;branch=z9hG4bK…;chain=2s
//!      depth: applications before it ─────────────────────────┘└ s: for the same user  r: for another one  o: a call of its own
//! ```
//!
//! The same MAC says whose word From is, so that nobody is asked twice who calls ([`Sender::caller`]).
//!
//! Of JSR 289's application router (§15) this keeps the directives CONTINUE and NEW ([`Directive`]) and the regions
//! ([`Region`]): a request that a terminating application sends to another user begins the terminating chain of that user.
//! Who the subscriber is, the conditions say: on From for the caller, on the Request-URI for the callee. Deliberately absent:
//! REVERSE (NEW asks the originating applications, whose conditions look at From) and routes that the router pushes (an
//! application names where its request goes).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sip::{HeaderName, Message, Uri, Via};

use super::SessionApplication;
use crate::application::Caller;

/// A call goes through so many applications at most, whichever of them send it round; then it is answered 482.
pub const APPLICATIONS_MAX: u8 = 20;

/// The parameter of a Via that carries a [`Chain`].
pub(super) const PARAMETER: &str = "chain";

/// For whom an application serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Region {
    /// For the caller: asked before all others.
    Originating,
    /// For neither.
    #[default]
    Neutral,
    /// For the callee: asked behind all others, and again, all of them, about each further user that one of them
    /// sends the call to.
    Terminating,
}

/// Whom the calls of an application's sessions are offered to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Directive {
    /// Calls of a session that a request began: the applications behind it. Those of a session that began by something
    /// else: all others.
    #[default]
    Continue,
    /// Each is a call like one from outside: all applications, itself too.
    New,
}

/// Where a request of ours stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// How many applications its call came through.
    pub depth: u8,
    /// How it follows from what came to its session.
    pub origin: Origin,
}

/// How a request of ours follows from what came to its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The call that came goes on, to the same user.
    Same,
    /// It goes on, to another user.
    Retargeted,
    /// No request began the session.
    Own,
}

impl Chain {
    /// Of a request without the parameter: such as one in a dialog.
    pub(super) const NONE: Chain = Chain { depth: 0, origin: Origin::Same };
}

impl FromStr for Chain {
    type Err = ();

    fn from_str(text: &str) -> Result<Chain, ()> {
        let (depth, origin) = text.split_at_checked(text.len().saturating_sub(1)).ok_or(())?;
        let origin = match origin {
            "s" => Origin::Same,
            "r" => Origin::Retargeted,
            "o" => Origin::Own,
            _ => return Err(()),
        };
        Ok(Chain { depth: depth.parse().map_err(|_| ())?, origin })
    }
}

impl fmt::Display for Chain {
    /// The parameter's value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = match self.origin {
            Origin::Same => 's',
            Origin::Retargeted => 'r',
            Origin::Own => 'o',
        };
        write!(f, "{}{origin}", self.depth)
    }
}

/// Whose request it is: of which of our applications, and how far its call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Its place among the applications.
    pub application: usize,
    /// What its Via says.
    pub chain: Chain,
    /// What is known of whom From names: of a request that goes on, what was known when it came.
    pub caller: Caller,
}

/// The application that has an initial request, which a session of `sender` has sent: the first one that it is offered to
/// and that accepts it.
pub(crate) fn next<'a>(
    applications: &'a [Arc<dyn SessionApplication>],
    sender: Option<Sender>,
    request: &Message,
) -> Option<&'a Arc<dyn SessionApplication>> {
    let is_offered = |at: usize, to: &dyn SessionApplication| {
        let Some(Sender { application: by, chain, .. }) = sender else { return true };
        match (applications[by].directive(), chain.origin) {
            (Directive::New, _) => true,
            (Directive::Continue, Origin::Own) => at != by,
            (Directive::Continue, Origin::Retargeted) => {
                let begins_anew = applications[by].region() == Region::Terminating;
                at > by || (begins_anew && to.region() == Region::Terminating)
            }
            (Directive::Continue, Origin::Same) => at > by,
        }
    };
    let mut offered =
        applications.iter().enumerate().filter(|(at, to)| is_offered(*at, to.as_ref()));
    offered.find(|(_, to)| to.accepts(request)).map(|(_, to)| to)
}

/// Through how many applications a request came, as it says itself: good for a bound and for nothing else.
pub(crate) fn depth_of(request: &Message) -> u8 {
    let vias = request.values(HeaderName::Via).filter_map(|value| Via::parse(value).ok());
    let chains = vias.filter_map(|via| of_via(&via));
    chains.map(|(chain, _)| chain.depth).max().unwrap_or(0)
}

/// What a Via says, and the MAC for it if that is not in the branch. None if it makes no sense.
pub(super) fn of_via<'a>(via: &Via<'a>) -> Option<(Chain, Option<&'a str>)> {
    let Some(value) = via.param(PARAMETER.as_bytes()).flatten() else {
        return Some((Chain::NONE, None));
    };
    let value = std::str::from_utf8(value).ok()?;
    let (chain, mac) = match value.split_once('-') {
        Some((chain, mac)) => (chain, Some(mac)),
        None => (value, None),
    };
    Some((chain.parse().ok()?, mac))
}

/// What makes two Request-URIs those of one user.
pub(super) fn user_of(uri: &[u8]) -> Vec<u8> {
    match Uri::parse(uri) {
        Ok(Uri::Sip(sip)) => {
            let host = sip.host.to_string().to_ascii_lowercase();
            [sip.user.unwrap_or_default(), b"@", host.as_bytes()].concat()
        }
        Ok(_) | Err(_) => uri.to_vec(),
    }
}
