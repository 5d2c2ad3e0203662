//! A REGISTER request, read once and completely, so that deciding about it cannot fail for its form.
//!
//! Turns a message and the flow it came by into a [`Register`]. Source: RFC 3261 §10.3(6)–(7), RFC 3327 §5.3 (Path),
//! RFC 5626 §4.1, §6 (instance id, reg-id, `ob`). Deliberately absent: To and the Request-URI (domains.rs), and
//! credentials (authentication.rs).

use std::net::SocketAddr;

use bytes::Bytes;
use sip::{Contact, HeaderName, Host, Message, NameAddr, QValue, Uri};
use smallvec::SmallVec;
use transport::Flow;

/// Bounds of what one binding may hold. A request beyond one of them is answered 400 and changes nothing.
mod limit {
    pub(super) const CONTACT_BYTES: usize = 1_024;
    pub(super) const CALL_ID_BYTES: usize = 512;
    pub(super) const INSTANCE_BYTES: usize = 256;
    pub(super) const PATH_VALUES: usize = 8;
    pub(super) const PATH_BYTES: usize = 2_048;
    /// Contacts in one request, before the limit per address-of-record is looked at.
    pub(super) const CONTACTS: usize = 64;
    /// Of User-Agent only the beginning is kept.
    pub(super) const USER_AGENT_BYTES: usize = 40;
}

/// What a REGISTER asks for; what routing and authentication look at is not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// Call-ID.
    pub call_id: Bytes,
    /// Number of the CSeq.
    pub cseq: u32,
    /// The same for a request and its retries (Call-ID, CSeq, contacts and lifetimes), another for all else.
    pub fingerprint: u64,
    /// What it is about.
    pub contacts: Contacts,
    /// Expires header field in seconds; `None` when absent or malformed, which asks for the default.
    pub expires: Option<u32>,
    /// Path values, topmost first.
    pub path: Vec<Bytes>,
    /// The edge nearest to the phone offers outbound (RFC 5626 §5.1: its Path URI has `ob`).
    pub first_hop_supports_outbound: bool,
    /// Where it came from, as the edge saw it.
    pub received: SocketAddr,
    /// Beginning of User-Agent; empty when there is none.
    pub user_agent: Bytes,
}

/// What a REGISTER is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contacts {
    /// No Contact: the bindings are asked for, nothing changes.
    Fetch,
    /// `Contact: *`: all bindings.
    All,
    /// These; never empty.
    These(Vec<RequestedContact>),
}

/// A contact that a REGISTER adds, refreshes or removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedContact {
    /// The URI, octet by octet.
    pub uri: Bytes,
    /// Preference.
    pub q: QValue,
    /// Its own lifetime in seconds; 0 removes it.
    pub expires: Option<u32>,
    /// `+sip.instance` without quotes.
    pub instance: Option<Bytes>,
    /// reg-id, when the phone uses outbound: it supports it and gave instance and reg-id (RFC 5626 §6).
    pub reg_id: Option<u32>,
    /// Reached over UDP through a NAT that the phone does not keep open itself.
    pub keep_alive: bool,
}

/// Why a REGISTER is answered 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadRegister(pub &'static str);

impl Register {
    /// Reads a REGISTER that came by `flow`.
    ///
    /// # Errors
    /// [`BadRegister`] with a reason phrase for the 400.
    pub fn read(message: &Message, flow: &Flow) -> Result<Register, BadRegister> {
        let call_id = message.call_id().map_err(|error| BadRegister(error.fault))?;
        if call_id.len() > limit::CALL_ID_BYTES {
            return Err(BadRegister("Call-ID too long to register with"));
        }
        let cseq = message.cseq().map_err(|error| BadRegister(error.fault))?;
        let path = read_path(message)?;
        let first_hop_supports_outbound = path.last().is_some_and(|value| has_ob(value));
        let outbound = lists(message, HeaderName::Supported, b"outbound")
            || lists(message, HeaderName::Require, b"outbound");
        let surroundings = Surroundings { flow, outbound, has_path: !path.is_empty() };
        let contacts = read_contacts(message, &surroundings)?;
        let user_agent = message.field(HeaderName::UserAgent).unwrap_or_default();
        Ok(Register {
            call_id: shared(message, call_id),
            cseq: cseq.number,
            fingerprint: fingerprint(message, call_id, cseq.number),
            contacts,
            expires: message.expires(),
            path,
            first_hop_supports_outbound,
            received: flow.remote,
            user_agent: shared(
                message,
                &user_agent[..user_agent.len().min(limit::USER_AGENT_BYTES)],
            ),
        })
    }

    /// Whether it asks for a flow of RFC 5626.
    pub fn uses_outbound(&self) -> bool {
        match &self.contacts {
            Contacts::These(contacts) => contacts.iter().any(|contact| contact.reg_id.is_some()),
            Contacts::Fetch | Contacts::All => false,
        }
    }
}

/// What beside a contact itself decides what it becomes.
struct Surroundings<'a> {
    flow: &'a Flow,
    outbound: bool,
    has_path: bool,
}

/// Stored even when the phone does not say `Supported: path`: RFC 3327 §5.3 leaves that to the registrar, most phones
/// do not say it, and without the edge's Path they could not be reached through their NAT.
fn read_path(message: &Message) -> Result<Vec<Bytes>, BadRegister> {
    let path: Vec<Bytes> =
        message.values(HeaderName::Path).map(|value| shared(message, value)).collect();
    if path.len() > limit::PATH_VALUES
        || path.iter().map(Bytes::len).sum::<usize>() > limit::PATH_BYTES
    {
        return Err(BadRegister("Path too long"));
    }
    if path.iter().any(|value| NameAddr::parse(value).is_err()) {
        return Err(BadRegister("Malformed Path"));
    }
    Ok(path)
}

/// RFC 5626 §5.1: the first hop marks its Path URI with `ob`.
fn has_ob(path_value: &[u8]) -> bool {
    NameAddr::parse(path_value).is_ok_and(|address| {
        Uri::parse(address.uri())
            .is_ok_and(|uri| uri.as_sip().is_some_and(|uri| uri.param(b"ob").is_some()))
    })
}

fn read_contacts(
    message: &Message,
    surroundings: &Surroundings<'_>,
) -> Result<Contacts, BadRegister> {
    let list = match message.contacts().map_err(|error| BadRegister(error.fault))? {
        sip::Contacts::Star => return Ok(Contacts::All),
        sip::Contacts::List(list) if list.is_empty() => return Ok(Contacts::Fetch),
        sip::Contacts::List(list) => list,
    };
    if list.len() > limit::CONTACTS {
        return Err(BadRegister("Too many Contact values"));
    }
    let contacts = list
        .iter()
        .map(|contact| read_contact(message, contact, surroundings))
        .collect::<Result<Vec<_>, _>>()?;
    // RFC 5626 §6: a phone registers one flow at a time.
    let flows = contacts.iter().filter(|contact| {
        contact.reg_id.is_some() && contact.expires.or(message.expires()) != Some(0)
    });
    if flows.count() > 1 {
        return Err(BadRegister("More than one Contact with reg-id"));
    }
    Ok(Contacts::These(contacts))
}

fn read_contact(
    message: &Message,
    contact: &Contact<'_>,
    surroundings: &Surroundings<'_>,
) -> Result<RequestedContact, BadRegister> {
    let uri = contact.uri();
    let Ok(Uri::Sip(sip_uri)) = Uri::parse(uri) else {
        return Err(BadRegister("Contact is not a SIP URI"));
    };
    let instance = contact.instance();
    let too_long = instance.as_ref().is_some_and(|id| id.len() > limit::INSTANCE_BYTES);
    if uri.len() > limit::CONTACT_BYTES || too_long {
        return Err(BadRegister("Contact too long"));
    }
    let reg_id = contact.reg_id().filter(|_| surroundings.outbound && instance.is_some());
    let natted = surroundings.has_path
        && !surroundings.flow.transport.is_stream()
        && is_behind_nat(&sip_uri, surroundings.flow);
    Ok(RequestedContact {
        uri: shared(message, uri),
        q: contact.q().map_err(|error| BadRegister(error.fault))?.unwrap_or_default(),
        expires: contact.expires(),
        instance: instance.map(|id| Bytes::copy_from_slice(&id)),
        // RFC 5626 §4.4: a phone that registers flows keeps them alive itself.
        keep_alive: natted && reg_id.is_none(),
        reg_id,
    })
}

/// Whether the address a contact names is not the one its packets come from.
fn is_behind_nat(contact: &sip::SipUri<'_>, flow: &Flow) -> bool {
    match (contact.host, contact.host.ip()) {
        (_, Some(ip)) => {
            ip != flow.remote.ip() || contact.port.unwrap_or(5060) != flow.remote.port()
        }
        // RFC 7118 §5: a phone that has no address of its own to offer. Any other name is a public one.
        (Host::Name(name), None) => name.to_ascii_lowercase().ends_with(b".invalid"),
        (Host::Ipv4(_) | Host::Ipv6(_), None) => false,
    }
}

/// Whether a header that lists option tags has this one.
pub(crate) fn lists(message: &Message, header: HeaderName, option_tag: &[u8]) -> bool {
    message.values(header).any(|value| value.eq_ignore_ascii_case(option_tag))
}

fn fingerprint(message: &Message, call_id: &[u8], cseq: u32) -> u64 {
    let mut parts = FingerprintParts::new();
    parts.add(call_id);
    parts.add(&cseq.to_be_bytes());
    for contact in message.fields(HeaderName::Contact) {
        parts.add(contact);
    }
    parts.add(message.field(HeaderName::Expires).unwrap_or_default());
    parts.finish()
}

/// Hashes the parts of a request that make it what it is.
pub(crate) struct FingerprintParts(SmallVec<[u8; 512]>);

impl FingerprintParts {
    pub(crate) fn new() -> FingerprintParts {
        FingerprintParts(SmallVec::new())
    }

    pub(crate) fn add(&mut self, part: &[u8]) {
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        self.0.extend_from_slice(&(part.len() as u64).to_be_bytes());
        self.0.extend_from_slice(part);
    }

    pub(crate) fn finish(self) -> u64 {
        let hash = blake3::hash(&self.0);
        u64::from_be_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 octets"))
    }
}

/// A part of a message that shares its buffer.
fn shared(message: &Message, part: &[u8]) -> Bytes {
    if part.is_empty() { Bytes::new() } else { message.buffer().slice_ref(part) }
}
