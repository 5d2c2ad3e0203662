//! The names that a session's messages carry: branches, tags, Call-IDs, Contact, Via.
//!
//! All of them are keyed hashes of what the session is and how far it has come, so that whoever continues it needs no
//! memory of them and repeats them alike.
//!
//! ```text
//! z9hG4bK TOKEN MAC
//!         |     +-- 20 characters, keyed hash of token, application, Call-ID, To tag, CSeq: the client transaction
//!         +-------- 52 characters, session token: who held the session, and which it is
//! ```
//!
//! The hash tells more: whether a request that comes in was sent by a session of ours, and of which application, so
//! that it goes on behind that application ([`super::chain`]) and nobody asks who calls. A request that a session forwards has
//! a proxy's branch; its Via says the same in a parameter, and in another one whether it was known who calls:
//! `;chain=2s-MAC;caller=known`. Request-URI and From are under the MAC of what begins a dialog or is outside of one: whoever
//! gets such a request, and manages to bring it back by an edge, can make no other of it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use sip::{BRANCH_COOKIE, HeaderName, Message, Method, Via};
use topology::token::{
    OWNER_TOKEN_CHARS, OwnerToken, SESSION_TOKEN_CHARS, SessionToken, flow_of_dialog,
};
use topology::{Key, KeyRing};
use transport::Flow;

use super::chain::{self, Chain, Origin, Sender};
use super::{SessionId, name_of};
use crate::application::Caller;
use crate::proxy;
use crate::responder::Responder;

/// 120 bits, 20 characters.
const MAC_BYTES: usize = 15;
/// 72 bits, 12 characters: RFC 3261 §19.3 asks for 32 at least.
const TAG_BYTES: usize = 9;
/// 64 bits: two users of one call are told apart.
pub(super) const USER_BYTES: usize = 8;
/// What the MAC of a forwarded request is for.
const FORWARDED: &[u8] = b"session forwarded";
/// The parameter of a Via that says whether it was known who calls.
const CALLER_PARAMETER: &str = "caller";
const CALLER_KNOWN: &str = "known";
const BRANCH_CHARS: usize = BRANCH_COOKIE.len() + SESSION_TOKEN_CHARS + MAC_BYTES / 3 * 4;

/// Finds the names of sessions by keys: the same in every container of a node, for good.
#[derive(Clone)]
pub struct KeyedNames(Key);

impl KeyedNames {
    /// Of a node with these keys.
    pub fn new(keys: &KeyRing) -> KeyedNames {
        KeyedNames(keys.derive("branch"))
    }

    /// The session that this key leads to, of an application of this name, whatever its version.
    pub fn session(&self, application: &str, key: &[u8]) -> SessionId {
        let name = name_of(application).as_bytes();
        let length = (name.len() as u64).to_be_bytes();
        SessionId(self.0.tag(&[b"session key", &length[..], name, key].concat()))
    }
}

/// Makes the names for the sessions that one life of a container holds.
#[derive(Clone)]
pub struct Identity {
    key: Key,
    names: KeyedNames,
    owner_key: Key,
    dialog_key: Key,
    owner: OwnerToken,
    own_name: Bytes,
    pub(super) responder: Responder,
}

impl Identity {
    /// `own_name` is what Via and Contact say, such as `c1.node1.outlast.invalid`.
    pub fn new(keys: &KeyRing, owner: OwnerToken, own_name: impl Into<Bytes>) -> Identity {
        Identity {
            key: keys.derive("branch"),
            names: KeyedNames::new(keys),
            owner_key: keys.derive("owner"),
            dialog_key: keys.derive("dialog"),
            owner,
            own_name: own_name.into(),
            responder: Responder::new(keys),
        }
    }

    /// Who holds the sessions.
    pub fn owner(&self) -> OwnerToken {
        self.owner
    }

    /// The session that a user part or the middle of a branch names.
    pub fn read_token(&self, text: &[u8]) -> Option<SessionToken> {
        SessionToken::decode(text, &self.owner_key).ok()
    }

    /// The flow that this user part stands for, if an edge of ours wrote it into the Record-Route of the dialog with that
    /// Call-ID.
    pub fn flow_of_dialog(&self, user: &[u8], call_id: &[u8]) -> Option<Flow> {
        Flow::from_bytes(&flow_of_dialog(user, &self.dialog_key, call_id)?).ok()
    }

    /// The session whose request a response answers, by the branch of its top Via.
    pub fn session_of_response(&self, response: &Message) -> Option<SessionToken> {
        let via = response.top_via().ok()?;
        let (token, _) = split(via.branch()?)?;
        self.read_token(token)
    }

    /// The session that has let the request go on which a response answers, by the branch of its top Via.
    pub fn session_of_forwarded(&self, response: &Message) -> Option<SessionToken> {
        let via = response.top_via().ok()?;
        self.read_token(proxy::forwarder_token(via.branch()?)?)
    }

    /// The token of a session as it was in the hands of `owner`, so that whoever goes on writes the same branches.
    pub fn token_of(
        &self,
        session: SessionId,
        owner: &[u8; OWNER_TOKEN_CHARS],
    ) -> [u8; SESSION_TOKEN_CHARS] {
        let owner = OwnerToken::decode(owner, &self.owner_key).unwrap_or(self.owner);
        SessionToken { owner, session: session.0 }.encode(&self.owner_key)
    }

    /// The Contact value of a session: leads the other side's requests here, or to whoever holds it then.
    pub(super) fn contact(&self, session: SessionId) -> Vec<u8> {
        [b"<sip:", &self.token(session)[..], b"@", &self.own_name, b">"].concat()
    }

    /// The Record-Route value of a session: leads the requests of a dialog that it has let go on here.
    pub(super) fn record_route(&self, session: SessionId) -> Vec<u8> {
        [b"<sip:", &self.token(session)[..], b"@", &self.own_name, b";lr>"].concat()
    }

    /// What the branches and the Vias of requests that go on say of who let them.
    pub(super) fn forwarder(&self) -> ([u8; OWNER_TOKEN_CHARS], Bytes) {
        (self.owner.encode(&self.owner_key), self.own_name.clone())
    }

    /// The branch of a request, and the Via value with it.
    pub(super) fn via(&self, session: SessionId, request: &RequestName<'_>) -> (Bytes, Vec<u8>) {
        let token = self.token(session);
        let mac = self.mac(&token, request);
        let branch = [BRANCH_COOKIE, &token, &mac].concat();
        // The link to the edge is a stream, so the transport of this hop is named as one.
        let mut via = [b"SIP/2.0/TCP ", &self.own_name[..], b";branch=", &branch].concat();
        if request.chain != Chain::NONE {
            via.extend_from_slice(format!(";{}={}", chain::PARAMETER, request.chain).as_bytes());
        }
        (branch.into(), via)
    }

    /// What the Via of a request says that a session forwards: parameters, with the semicolon before them.
    pub fn forwarded(&self, request: &ForwardedName<'_>) -> String {
        let mac = self.mac_of(FORWARDED, &request.octets());
        let caller = match request.caller {
            Caller::Known => format!(";{CALLER_PARAMETER}={CALLER_KNOWN}"),
            Caller::Claimed => String::new(),
        };
        format!(";{}={}-{mac}{caller}", chain::PARAMETER, request.chain)
    }

    /// A From tag of a session's `ordinal`-th leg.
    pub(super) fn tag(&self, session: SessionId, ordinal: u64) -> String {
        self.hash::<TAG_BYTES>(b"session tag", session, ordinal)
    }

    /// The Call-ID of a session's `ordinal`-th leg.
    pub(super) fn call_id(&self, session: SessionId, ordinal: u64) -> String {
        self.hash::<MAC_BYTES>(b"session call", session, ordinal)
    }

    /// The application of ours, of whatever version, a session of which sent or forwarded `request`: its place in
    /// `applications`, and how far the call has come. `request` has come from an edge of ours to an edge of ours.
    ///
    /// Only the Via below those of the two edges counts: whoever gets a request can write all Vias of it below its own.
    pub fn sender<'a>(
        &self,
        request: &Message,
        mut applications: impl Iterator<Item = &'a str>,
    ) -> Option<Sender> {
        let (call_id, cseq) = (request.call_id().ok()?, request.cseq().ok()?);
        let to = request.to().ok()?;
        let remote_tag = to.tag().unwrap_or_default();
        let mut vias = request.values(HeaderName::Via).skip(1).map(|value| Via::parse(value).ok());
        // It says by which flow a request came to that edge, unless a container sent it.
        if vias.next()??.param(b"flow").is_some() {
            return None;
        }
        let via = vias.next()??;
        let (branch, (chain, mac)) = (via.branch()?, chain::of_via(&via)?);
        let own = split(branch).filter(|(token, _)| self.read_token(token).is_some());
        let is_known =
            via.param(CALLER_PARAMETER.as_bytes()) == Some(Some(CALLER_KNOWN.as_bytes()));
        let caller = match mac {
            Some(_) if !is_known => Caller::Claimed,
            // A session answers for what it writes itself.
            Some(_) | None => Caller::Known,
        };
        let opening = Opening::of(request);
        let is_by = |application: &str| match (mac, own) {
            (Some(mac), _) => {
                let name = ForwardedName { application, chain, caller, call_id, branch, opening };
                self.is_mac_of(FORWARDED, &name.octets(), mac)
            }
            (None, Some((token, mac))) => {
                let (cseq, method) = (cseq.number, cseq.method);
                let name =
                    RequestName { application, call_id, remote_tag, cseq, method, chain, opening };
                self.mac(token, &name) == mac
            }
            (None, None) => false,
        };
        let application = applications.position(is_by)?;
        Some(Sender { application, chain, caller })
    }

    /// How far a call has come that goes on to `target`, from a session that it came to through `depth` applications, for
    /// the user `called` if any.
    pub(super) fn chain_to(
        &self,
        depth: u8,
        called: Option<[u8; USER_BYTES]>,
        target: &[u8],
    ) -> Chain {
        let origin = match called {
            None => Origin::Own,
            Some(called) if called == self.user(target) => Origin::Same,
            Some(_) => Origin::Retargeted,
        };
        Chain { depth: depth.saturating_add(1), origin }
    }

    /// Different for the Request-URIs of any two users.
    pub(super) fn user(&self, uri: &[u8]) -> [u8; USER_BYTES] {
        self.key.tag(&[b"session user", &chain::user_of(uri)[..]].concat())
    }

    /// A MAC of ours.
    pub(super) fn mac_of(&self, purpose: &[u8], octets: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(self.key.tag::<MAC_BYTES>(&[purpose, octets].concat()))
    }

    /// Whether it is the MAC of that.
    pub(super) fn is_mac_of(&self, purpose: &[u8], octets: &[u8], mac: &str) -> bool {
        let mac = URL_SAFE_NO_PAD.decode(mac).ok().filter(|mac| mac.len() == MAC_BYTES);
        mac.is_some_and(|mac| self.key.verify(&[purpose, octets].concat(), &mac))
    }

    /// The session that this key leads to, of an application of this name, whatever its version.
    pub fn keyed(&self, application: &str, key: &[u8]) -> SessionId {
        self.names.session(application, key)
    }

    /// A name for a session that nothing names; `ordinal` is not given twice in the life of a container.
    pub fn fresh(&self, ordinal: u64) -> SessionId {
        let life = self.owner.incarnation.0.to_be_bytes();
        let parts =
            [b"session new", &life[..], &self.owner.shard.to_be_bytes(), &ordinal.to_be_bytes()];
        SessionId(self.key.tag(&parts.concat()))
    }

    fn token(&self, session: SessionId) -> [u8; SESSION_TOKEN_CHARS] {
        SessionToken { owner: self.owner, session: session.0 }.encode(&self.owner_key)
    }

    fn mac(&self, token: &[u8], request: &RequestName<'_>) -> Vec<u8> {
        let mut hash = blake3::Hasher::new_keyed(self.key.current());
        let cseq = request.cseq.to_be_bytes();
        // Whatever its version: what one has sent is not offered to the next one.
        let application = name_of(request.application).as_bytes();
        let parts = [
            b"session branch",
            token,
            application,
            request.call_id,
            request.remote_tag,
            &cseq,
            request.method.as_bytes(),
            request.opening.target,
            request.opening.from,
        ];
        let chain = request.chain.to_string();
        for part in parts.into_iter().chain([chain.as_bytes()]) {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        URL_SAFE_NO_PAD.encode(&hash.finalize().as_bytes()[..MAC_BYTES]).into_bytes()
    }

    fn hash<const N: usize>(&self, purpose: &[u8], session: SessionId, ordinal: u64) -> String {
        let data = [purpose, &session.0, &ordinal.to_be_bytes()].concat();
        URL_SAFE_NO_PAD.encode(self.key.tag::<N>(&data))
    }
}

/// What tells a session's requests apart.
pub(super) struct RequestName<'a> {
    pub(super) application: &'a str,
    pub(super) call_id: &'a [u8],
    /// Forks of one INVITE differ in nothing else; empty before there is one.
    pub(super) remote_tag: &'a [u8],
    pub(super) cseq: u32,
    pub(super) method: Method<'a>,
    /// How far its call has come.
    pub(super) chain: Chain,
    pub(super) opening: Opening<'a>,
}

/// What a request outside of dialogs asks for, and in whose name.
#[derive(Clone, Copy)]
pub struct Opening<'a> {
    target: &'a [u8],
    from: &'a [u8],
}

impl<'a> Opening<'a> {
    /// Of a request in a dialog: what it asks for is the dialog's.
    pub const NONE: Opening<'static> = Opening { target: b"", from: b"" };

    /// Of a request to this Request-URI with this value of From.
    pub fn new(target: &'a [u8], from: &'a [u8]) -> Opening<'a> {
        Opening { target, from: from.trim_ascii() }
    }

    /// Of this request.
    pub fn of(request: &'a Message) -> Opening<'a> {
        if request.to().is_ok_and(|to| to.tag().is_some()) {
            return Opening::NONE;
        }
        let from = request.field(HeaderName::From).unwrap_or_default();
        Opening::new(request.request_uri().unwrap_or_default(), from)
    }

    /// The same in a request that goes on to another target.
    pub fn to(self, target: &'a [u8]) -> Opening<'a> {
        if self.from.is_empty() { self } else { Opening { target, ..self } }
    }
}

/// What tells the requests apart that sessions forward.
pub struct ForwardedName<'a> {
    /// Whose session it is.
    pub application: &'a str,
    /// How far its call has come.
    pub chain: Chain,
    /// What is known of whom From names.
    pub caller: Caller,
    /// Its Call-ID.
    pub call_id: &'a [u8],
    /// The proxy's branch.
    pub branch: &'a [u8],
    /// As it leaves.
    pub opening: Opening<'a>,
}

impl ForwardedName<'_> {
    /// What its MAC is made of.
    fn octets(&self) -> Vec<u8> {
        let (chain, is_known) = (self.chain.to_string(), self.caller == Caller::Known);
        let parts = [
            name_of(self.application).as_bytes(),
            chain.as_bytes(),
            self.call_id,
            self.branch,
            self.opening.target,
            self.opening.from,
            &[u8::from(is_known)],
        ];
        let with_length = |part: &[u8]| [&(part.len() as u64).to_be_bytes(), part].concat();
        parts.into_iter().flat_map(with_length).collect()
    }
}

/// Token and MAC of a session's branch; None if it has another form.
fn split(branch: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = branch.strip_prefix(BRANCH_COOKIE).filter(|_| branch.len() == BRANCH_CHARS)?;
    Some(rest.split_at(SESSION_TOKEN_CHARS))
}
