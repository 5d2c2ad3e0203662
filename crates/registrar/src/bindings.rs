//! The record of an address-of-record: its bindings, how they are stored, and how a REGISTER changes them.
//!
//! One record holds all bindings of an address-of-record, so that a REGISTER with several contacts is one
//! compare-and-set (RFC 3261 §10.3: all or nothing). The decision is in [`mod@update`]; this file has the data and their
//! compact form: about 250 octets for a binding with Path and instance id.
//!
//! Deliberately absent: GRUUs (RFC 5627), which a later issue brings.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use sip::QValue;
use state::{Key, Space, UnixMillis};

use state::codec::{Reader, RecordError, Writer};

pub mod update;

pub use update::{Policy, Refusal, Updated, update};

/// The space of the records; their tag is the address-of-record, their id is empty. What has another id is the mark of a
/// nonce (authentication.rs).
pub const SPACE: Space = Space::named("bindings");

/// The key of an address-of-record's record.
pub fn key(aor: &str) -> Key {
    Key::new(SPACE, aor.as_bytes().to_vec(), Bytes::new())
}

const FORMAT_LEVEL: u8 = 1;

/// A contact registered for an address-of-record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The contact's URI, as it was registered, octet by octet.
    pub contact: Bytes,
    /// The Path of its REGISTER, topmost value first: the Route of requests to it (RFC 3327 §5.3).
    pub path: Vec<Bytes>,
    /// Preference among the bindings.
    pub q: QValue,
    /// When it ends.
    pub expires_at: UnixMillis,
    /// Call-ID of the REGISTER that made or refreshed it last.
    pub call_id: Bytes,
    /// CSeq of that REGISTER.
    pub cseq: u32,
    /// Fingerprint of that REGISTER, by which its retry is known.
    pub fingerprint: u64,
    /// `+sip.instance`, without quotes (RFC 5626 §4.1).
    pub instance: Option<Bytes>,
    /// `reg-id` of a flow that the phone keeps alive itself (RFC 5626); `None`: a plain binding.
    pub reg_id: Option<u32>,
    /// Where the REGISTER came from, as the edge saw it.
    pub received: SocketAddr,
    /// Beginning of the phone's User-Agent; empty when it has none.
    pub user_agent: Bytes,
    /// The phone is behind a NAT whose UDP mapping a container must keep open.
    pub keep_alive: bool,
}

impl Binding {
    /// Whether it has ended.
    pub fn is_expired(&self, now: UnixMillis) -> bool {
        self.expires_at <= now
    }

    /// Seconds that it has left, rounded up, so that a binding that still exists never shows 0.
    pub fn expires_seconds(&self, now: UnixMillis) -> u64 {
        self.expires_at.0.saturating_sub(now.0).div_ceil(1000)
    }

    /// The value of a Contact header field that describes it. Source: RFC 3261 §10.3(8), RFC 5626 §6.
    pub fn contact_value(&self, now: UnixMillis) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.contact.len() + 48);
        out.push(b'<');
        out.extend_from_slice(&self.contact);
        put(&mut out, format_args!(">;expires={}", self.expires_seconds(now)));
        if self.q != QValue::ONE {
            put(&mut out, format_args!(";q={}", self.q));
        }
        if let Some(instance) = &self.instance {
            out.extend_from_slice(b";+sip.instance=\"");
            for &octet in instance {
                if matches!(octet, b'"' | b'\\') {
                    out.push(b'\\');
                }
                out.push(octet);
            }
            out.push(b'"');
        }
        if let Some(reg_id) = self.reg_id {
            put(&mut out, format_args!(";reg-id={reg_id}"));
        }
        out
    }
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    std::io::Write::write_fmt(out, text).expect("memory takes all");
}

/// All bindings of an address-of-record, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bindings {
    bindings: Vec<Binding>,
}

impl Bindings {
    /// The bindings that have not ended.
    pub fn living(&self, now: UnixMillis) -> impl Iterator<Item = &Binding> {
        self.bindings.iter().filter(move |binding| !binding.is_expired(now))
    }

    /// As they are while lifetimes end by `expiry_now` although what begins is dated by `now`, as after the clock was set
    /// forward: what would have ended by `now` only lasts for a minute more, until the two agree again.
    #[must_use]
    pub fn kept_by(mut self, expiry_now: UnixMillis, now: UnixMillis) -> Bindings {
        const KEPT_FOR: Duration = Duration::from_secs(60);
        if expiry_now < now {
            self.bindings.retain(|binding| !binding.is_expired(expiry_now));
            for binding in &mut self.bindings {
                binding.expires_at = binding.expires_at.max(now.saturating_add(KEPT_FOR));
            }
        }
        self
    }

    /// Whether there is none at all.
    pub fn is_empty(&self) -> bool {
        self.bindings.is_empty()
    }

    /// When the last of them ends, and the record with it; `None` when there is none.
    pub fn expires_at(&self) -> Option<UnixMillis> {
        self.bindings.iter().map(|binding| binding.expires_at).max()
    }

    /// The record.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT_LEVEL, 300 * self.bindings.len());
        writer.number(self.bindings.len() as u64);
        for binding in &self.bindings {
            binding.encode(&mut writer);
        }
        writer.finish()
    }

    /// Reads the record; the bindings share its buffer.
    ///
    /// # Errors
    /// [`RecordError`] when it is of another release or damaged.
    pub fn decode(record: &Bytes) -> Result<Bindings, RecordError> {
        let mut reader = Reader::new(record, FORMAT_LEVEL)?;
        let count: usize = reader.small()?;
        // Not reserved ahead: the count of a damaged record could be anything.
        let mut bindings = Vec::new();
        for _ in 0..count {
            bindings.push(Binding::decode(&mut reader)?);
        }
        reader.finish()?;
        Ok(Bindings { bindings })
    }
}

/// Bits of the octet that says which optional fields a stored binding has.
mod flag {
    pub(super) const INSTANCE: u8 = 1;
    pub(super) const REG_ID: u8 = 2;
    pub(super) const KEEP_ALIVE: u8 = 4;
    pub(super) const IPV6: u8 = 8;
    pub(super) const Q: u8 = 16;
    pub(super) const ALL: u8 = INSTANCE | REG_ID | KEEP_ALIVE | IPV6 | Q;
}

impl Binding {
    fn encode(&self, writer: &mut Writer) {
        let flags = [
            (self.instance.is_some(), flag::INSTANCE),
            (self.reg_id.is_some(), flag::REG_ID),
            (self.keep_alive, flag::KEEP_ALIVE),
            (self.received.is_ipv6(), flag::IPV6),
            (self.q != QValue::ONE, flag::Q),
        ]
        .into_iter()
        .fold(0, |flags, (set, bit)| if set { flags | bit } else { flags });
        writer.fixed(&[flags]);
        writer.octets(&self.contact);
        writer.number(self.path.len() as u64);
        for value in &self.path {
            writer.octets(value);
        }
        writer.number(self.expires_at.0);
        writer.octets(&self.call_id);
        writer.number(u64::from(self.cseq));
        writer.fixed(&self.fingerprint.to_be_bytes());
        match self.received {
            SocketAddr::V4(address) => writer.fixed(&address.ip().octets()),
            SocketAddr::V6(address) => writer.fixed(&address.ip().octets()),
        }
        writer.fixed(&self.received.port().to_be_bytes());
        writer.octets(&self.user_agent);
        if self.q != QValue::ONE {
            writer.number(u64::from(self.q.thousandths()));
        }
        if let Some(instance) = &self.instance {
            writer.octets(instance);
        }
        if let Some(reg_id) = self.reg_id {
            writer.number(u64::from(reg_id));
        }
    }

    fn decode(reader: &mut Reader) -> Result<Binding, RecordError> {
        let [flags] = reader.fixed()?;
        if flags & !flag::ALL != 0 {
            return Err(RecordError::Malformed);
        }
        let has = |bit| flags & bit != 0;
        let contact = reader.octets()?;
        let path_values: usize = reader.small()?;
        let mut path = Vec::new();
        for _ in 0..path_values {
            path.push(reader.octets()?);
        }
        let expires_at = UnixMillis(reader.number()?);
        let call_id = reader.octets()?;
        let cseq = reader.small()?;
        let fingerprint = u64::from_be_bytes(reader.fixed()?);
        let received = decode_address(reader, has(flag::IPV6))?;
        let user_agent = reader.octets()?;
        let q = if has(flag::Q) { QValue::from_thousandths(reader.small()?) } else { QValue::ONE };
        let instance = if has(flag::INSTANCE) { Some(reader.octets()?) } else { None };
        let reg_id = if has(flag::REG_ID) { Some(reader.small()?) } else { None };
        Ok(Binding {
            contact,
            path,
            q,
            expires_at,
            call_id,
            cseq,
            fingerprint,
            instance,
            reg_id,
            received,
            user_agent,
            keep_alive: has(flag::KEEP_ALIVE),
        })
    }
}

fn decode_address(reader: &mut Reader, is_ipv6: bool) -> Result<SocketAddr, RecordError> {
    let ip = if is_ipv6 {
        std::net::IpAddr::from(reader.fixed::<16>()?)
    } else {
        std::net::IpAddr::from(reader.fixed::<4>()?)
    };
    Ok(SocketAddr::new(ip, u16::from_be_bytes(reader.fixed()?)))
}

#[cfg(test)]
mod tests;
