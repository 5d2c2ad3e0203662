//! The octets of a set-up record.
//!
//! A format level, then the fields in the order of [`SetUp`], big-endian; octet strings carry their length before
//! them in four octets, lists their count in two. Reading slices the record's own buffer and copies nothing.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use topology::token::OWNER_TOKEN_CHARS;
use topology::{ChoiceHash, Incarnation};
use transport::Flow;

use super::{Event, SetUp};
use crate::application::{ProxyPlan, QValue, RecordRoute, TARGETS_MAX, Target};

/// The level that this release writes and reads.
pub const FORMAT_LEVEL: u8 = 1;

/// No Path is longer.
const ROUTES_MAX: usize = 256;
/// Each branch ends once and may have its Timer C once; the call is cancelled once and answered once. More branches
/// than targets there are not.
const EVENTS_MAX: usize = 2 * TARGETS_MAX + 2;

/// A set-up record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Another release wrote it.
    #[error("set-up record of format level {0}; this release reads level {FORMAT_LEVEL}")]
    FormatLevel(u8),
    /// It ends early, holds more than it should, or a value is out of its range.
    #[error(
        "malformed set-up record; the call cannot be taken over, and its record expires by itself"
    )]
    Malformed,
}

mod event {
    pub(super) const ENDED: u8 = 1;
    pub(super) const FAILED: u8 = 2;
    pub(super) const TIMER_C: u8 = 3;
    pub(super) const CANCELLED: u8 = 4;
    pub(super) const ANSWERED: u8 = 5;
}

/// Where the owner stands, eight octets.
const OWNER_AT: usize = 1;

/// A record as it was stored, but for its owner.
pub(super) fn in_the_hands_of(owner: Incarnation, value: &[u8]) -> Bytes {
    let mut value = value.to_vec();
    value[OWNER_AT..OWNER_AT + 8].copy_from_slice(&owner.0.to_be_bytes());
    value.into()
}

pub(super) fn encode(set_up: &SetUp) -> Bytes {
    let mut out = BytesMut::with_capacity(set_up.request.len() + 512);
    out.put_u8(FORMAT_LEVEL);
    out.put_u64(set_up.owner.0);
    out.put_slice(&set_up.token);
    put_octets(&mut out, &set_up.sent_by);
    set_up.flow.encode(&mut out);
    out.put_u64(set_up.choice.0);
    put_octets(&mut out, &set_up.request);
    put_plan(&mut out, &set_up.plan);
    put_count(&mut out, set_up.events.len());
    for event in &set_up.events {
        put_event(&mut out, event);
    }
    out.freeze()
}

fn put_plan(out: &mut BytesMut, plan: &ProxyPlan) {
    out.put_u8(match plan.record_route {
        RecordRoute::No => 0,
        RecordRoute::Yes => 1,
    });
    out.put_u64(u64::try_from(plan.timer_c.as_millis()).unwrap_or(u64::MAX));
    put_count(out, plan.targets.len());
    for target in &plan.targets {
        put_octets(out, &target.uri);
        put_count(out, target.route.len());
        for route in &target.route {
            put_octets(out, route);
        }
        out.put_u16(target.q.thousandths());
        out.put_u8(u8::from(target.instance.is_some()));
        if let Some(instance) = &target.instance {
            put_octets(out, instance);
        }
    }
}

fn put_event(out: &mut BytesMut, event: &Event) {
    match event {
        Event::Ended { branch, progressed, response } => {
            out.put_u8(event::ENDED);
            put_count(out, *branch);
            out.put_u8(u8::from(*progressed));
            put_octets(out, response);
        }
        Event::Failed { branch, progressed, status } => {
            out.put_u8(event::FAILED);
            put_count(out, *branch);
            out.put_u8(u8::from(*progressed));
            out.put_u16(*status);
        }
        Event::TimerC { branch } => {
            out.put_u8(event::TIMER_C);
            put_count(out, *branch);
        }
        Event::Cancelled => out.put_u8(event::CANCELLED),
        Event::Answered { branch } => {
            out.put_u8(event::ANSWERED);
            put_count(out, *branch);
        }
    }
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u16(u16::try_from(count).expect("targets, routes and branches are far fewer"));
}

fn put_octets(out: &mut BytesMut, octets: &[u8]) {
    out.put_u32(u32::try_from(octets.len()).expect("a message has at most 65,535 octets"));
    out.put_slice(octets);
}

pub(super) fn decode(value: &Bytes) -> Result<SetUp, RecordError> {
    let mut reader = Reader(value.clone());
    match reader.u8()? {
        FORMAT_LEVEL => {}
        level => return Err(RecordError::FormatLevel(level)),
    }
    let set_up = SetUp {
        owner: Incarnation(reader.u64()?),
        token: reader.token()?,
        sent_by: reader.octets()?,
        flow: reader.flow()?,
        choice: ChoiceHash(reader.u64()?),
        request: reader.octets()?,
        plan: reader.plan()?,
        events: reader.list(EVENTS_MAX, Reader::event)?,
    };
    if reader.0.has_remaining() { Err(RecordError::Malformed) } else { Ok(set_up) }
}

struct Reader(Bytes);

impl Reader {
    fn take(&mut self, length: usize) -> Result<Bytes, RecordError> {
        if length > self.0.len() {
            return Err(RecordError::Malformed);
        }
        Ok(self.0.split_to(length))
    }

    fn u8(&mut self) -> Result<u8, RecordError> {
        self.take(1).map(|mut octets| octets.get_u8())
    }

    fn u16(&mut self) -> Result<u16, RecordError> {
        self.take(2).map(|mut octets| octets.get_u16())
    }

    fn u64(&mut self) -> Result<u64, RecordError> {
        self.take(8).map(|mut octets| octets.get_u64())
    }

    fn flag(&mut self) -> Result<bool, RecordError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(RecordError::Malformed),
        }
    }

    fn octets(&mut self) -> Result<Bytes, RecordError> {
        let length = self.take(4)?.get_u32();
        self.take(length as usize)
    }

    fn list<T>(
        &mut self,
        max: usize,
        read: impl Fn(&mut Reader) -> Result<T, RecordError>,
    ) -> Result<Vec<T>, RecordError> {
        let count = usize::from(self.u16()?);
        if count > max {
            return Err(RecordError::Malformed);
        }
        (0..count).map(|_| read(self)).collect()
    }

    fn token(&mut self) -> Result<[u8; OWNER_TOKEN_CHARS], RecordError> {
        let token = self.take(OWNER_TOKEN_CHARS)?;
        token.as_ref().try_into().map_err(|_| RecordError::Malformed)
    }

    fn flow(&mut self) -> Result<Flow, RecordError> {
        let (flow, length) = Flow::decode(&self.0).map_err(|_| RecordError::Malformed)?;
        self.0.advance(length);
        Ok(flow)
    }

    fn plan(&mut self) -> Result<ProxyPlan, RecordError> {
        Ok(ProxyPlan {
            record_route: if self.flag()? { RecordRoute::Yes } else { RecordRoute::No },
            timer_c: Duration::from_millis(self.u64()?),
            targets: self.list(usize::from(u16::MAX), Reader::target)?,
        })
    }

    fn target(&mut self) -> Result<Target, RecordError> {
        Ok(Target {
            uri: self.octets()?,
            route: self.list(ROUTES_MAX, Reader::octets)?,
            q: match self.u16()? {
                q @ 0..=1_000 => QValue::from_thousandths(q),
                _ => return Err(RecordError::Malformed),
            },
            instance: if self.flag()? { Some(self.octets()?) } else { None },
        })
    }

    fn event(&mut self) -> Result<Event, RecordError> {
        Ok(match self.u8()? {
            event::ENDED => Event::Ended {
                branch: self.branch()?,
                progressed: self.flag()?,
                response: self.octets()?,
            },
            event::FAILED => Event::Failed {
                branch: self.branch()?,
                progressed: self.flag()?,
                status: match self.u16()? {
                    status @ 300..=699 => status,
                    _ => return Err(RecordError::Malformed),
                },
            },
            event::TIMER_C => Event::TimerC { branch: self.branch()? },
            event::CANCELLED => Event::Cancelled,
            event::ANSWERED => Event::Answered { branch: self.branch()? },
            _ => return Err(RecordError::Malformed),
        })
    }

    fn branch(&mut self) -> Result<usize, RecordError> {
        self.u16().map(usize::from)
    }
}
