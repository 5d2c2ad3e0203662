//! What a REGISTER does to the bindings of an address-of-record.
//!
//! Source: RFC 3261 §10.3(6)–(8), RFC 3327 §5.3, RFC 5626 §6. Either every contact of the request is taken or the
//! record stays as it was. A request that was taken before and comes again (its answer was lost, or its container
//! died between commit and answer) is known by its fingerprint and changes nothing.
//!
//! Deliberately absent: who may register what (authentication.rs), and the response (application.rs).

use std::time::Duration;

use sip::Uri;
use state::UnixMillis;

use super::{Binding, Bindings};
use crate::register::{Contacts, Register, RequestedContact};

/// The registrar's limits.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Shortest lifetime granted; a shorter wish (but 0) is refused with 423.
    pub expires_min: Duration,
    /// Lifetime of a contact that asks for none.
    pub expires_default: Duration,
    /// Longest lifetime granted; a longer wish is cut to it.
    pub expires_max: Duration,
    /// Most bindings of one address-of-record; a REGISTER that would exceed it is refused with 403.
    pub contacts_max: usize,
}

/// The outcome of a REGISTER that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Updated {
    /// The bindings are others now; store them.
    Changed(Bindings),
    /// A fetch, a retry, or a removal of what was not there; nothing to store.
    Unchanged,
}

/// Why a REGISTER changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `Contact: *` with a lifetime (RFC 3261 §10.3(6)).
    #[error("Contact: * needs Expires: 0")]
    WildcardWithLifetime,
    /// Not newer than what the same Call-ID registered before (RFC 3261 §10.3(7)).
    #[error("CSeq is not higher than that of the binding it would change")]
    OutOfOrder,
    /// A contact asks for less than the minimum (RFC 3261 §21.4.17).
    #[error("a contact asks for less than {} seconds", minimum.as_secs())]
    IntervalTooBrief {
        /// For Min-Expires.
        minimum: Duration,
    },
    /// The request would leave more bindings than one address-of-record may have.
    #[error("an address has at most {limit} contacts; remove one first")]
    TooManyContacts {
        /// The limit.
        limit: usize,
    },
    /// The phone asks for outbound and the edge it came through does not do it (RFC 5626 §6).
    #[error("the first hop does not support outbound")]
    FirstHopLacksOutbound,
}

/// Decides what `register` makes of `record` at `now`.
///
/// # Errors
/// [`Refusal`]: the record stays as it is.
pub fn update(
    record: &Bindings,
    register: &Register,
    policy: &Policy,
    now: UnixMillis,
) -> Result<Updated, Refusal> {
    match &register.contacts {
        Contacts::Fetch => Ok(Updated::Unchanged),
        Contacts::All => remove_all(record, register, now),
        Contacts::These(contacts) => update_these(record, register, contacts, policy, now),
    }
}

fn remove_all(record: &Bindings, register: &Register, now: UnixMillis) -> Result<Updated, Refusal> {
    if register.expires != Some(0) {
        return Err(Refusal::WildcardWithLifetime);
    }
    for binding in record.living(now) {
        if order(binding, register) != Order::Newer {
            return Err(Refusal::OutOfOrder);
        }
    }
    Ok(if record.is_empty() { Updated::Unchanged } else { Updated::Changed(Bindings::default()) })
}

fn update_these(
    record: &Bindings,
    register: &Register,
    contacts: &[RequestedContact],
    policy: &Policy,
    now: UnixMillis,
) -> Result<Updated, Refusal> {
    // Judged before anything else: the retry of a request that was taken must not fail for what it did itself.
    for binding in touched(record, contacts, now) {
        match order(binding, register) {
            Order::Newer => {}
            Order::Retry => return Ok(Updated::Unchanged),
            Order::Older => return Err(Refusal::OutOfOrder),
        }
    }
    let mut bindings: Vec<Binding> = record.living(now).cloned().collect();
    let mut changed = false;
    for contact in contacts {
        let lifetime = granted(contact, register, policy)?;
        // RFC 5626 §6: whoever removes a flow need not prove that it could be used.
        if contact.reg_id.is_some() && !lifetime.is_zero() && !register.first_hop_supports_outbound
        {
            return Err(Refusal::FirstHopLacksOutbound);
        }
        let place = bindings.iter().position(|binding| contact.names(binding));
        if lifetime.is_zero() {
            if let Some(place) = place {
                bindings.remove(place);
                changed = true;
            }
            continue;
        }
        let binding = contact.to_binding(register, now.saturating_add(lifetime));
        match place {
            Some(place) => bindings[place] = binding,
            None => bindings.push(binding),
        }
        changed = true;
    }
    if bindings.len() > policy.contacts_max {
        return Err(Refusal::TooManyContacts { limit: policy.contacts_max });
    }
    Ok(if changed { Updated::Changed(Bindings { bindings }) } else { Updated::Unchanged })
}

/// The bindings that the contacts of a request name.
fn touched<'a>(
    record: &'a Bindings,
    contacts: &'a [RequestedContact],
    now: UnixMillis,
) -> impl Iterator<Item = &'a Binding> {
    record.living(now).filter(|binding| contacts.iter().any(|contact| contact.names(binding)))
}

#[derive(PartialEq, Eq)]
enum Order {
    Newer,
    Retry,
    Older,
}

/// RFC 3261 §10.3(7): another Call-ID (a phone that restarted) always wins, the same one only with a higher CSeq.
fn order(binding: &Binding, register: &Register) -> Order {
    if binding.call_id != register.call_id || register.cseq > binding.cseq {
        Order::Newer
    } else if register.cseq == binding.cseq && register.fingerprint == binding.fingerprint {
        Order::Retry
    } else {
        Order::Older
    }
}

/// The lifetime a contact gets; zero means removal.
fn granted(
    contact: &RequestedContact,
    register: &Register,
    policy: &Policy,
) -> Result<Duration, Refusal> {
    // RFC 3261 §10.3(7): the contact's own parameter, else the Expires header field, else our default.
    let Some(seconds) = contact.expires.or(register.expires) else {
        return Ok(policy.expires_default);
    };
    let wish = Duration::from_secs(u64::from(seconds));
    // RFC 3261 §10.3(7): never refuse an hour or more as too brief.
    if !wish.is_zero() && wish < policy.expires_min && seconds < 3600 {
        return Err(Refusal::IntervalTooBrief { minimum: policy.expires_min });
    }
    Ok(wish.min(policy.expires_max))
}

impl RequestedContact {
    /// Whether this contact and the binding are the same one.
    ///
    /// A flow is named by instance and reg-id, whatever its URI has become (RFC 5626 §6); everything else by its
    /// URI (RFC 3261 §10.3(7), §19.1.4).
    pub(crate) fn names(&self, binding: &Binding) -> bool {
        match (self.reg_id, binding.reg_id) {
            (Some(reg_id), Some(other)) => reg_id == other && self.instance == binding.instance,
            (None, None) => same_uri(&self.uri, &binding.contact),
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    fn to_binding(&self, register: &Register, expires_at: UnixMillis) -> Binding {
        Binding {
            contact: self.uri.clone(),
            path: register.path.clone(),
            q: self.q,
            expires_at,
            call_id: register.call_id.clone(),
            cseq: register.cseq,
            fingerprint: register.fingerprint,
            instance: self.instance.clone(),
            reg_id: self.reg_id,
            received: register.received,
            user_agent: register.user_agent.clone(),
            keep_alive: self.keep_alive,
        }
    }
}

fn same_uri(one: &[u8], other: &[u8]) -> bool {
    if one == other {
        return true; // a phone that registers again
    }
    match (Uri::parse(one), Uri::parse(other)) {
        (Ok(one), Ok(other)) => one.equivalent(&other),
        (Err(_), _) | (_, Err(_)) => one == other,
    }
}
