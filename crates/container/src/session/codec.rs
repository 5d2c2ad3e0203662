//! A session's record: its next owner knows it by nothing else.
//!
//! Numbers and octets in a fixed order behind a format level (`state::codec`). The owner comes first, so that whoever
//! only asks whose it is need not read on. The id is the record's key.

use std::time::Duration;

use bytes::Bytes;
use sip::dialog::{Dialog, DialogState};
use state::UnixMillis;
use state::codec::{Reader, RecordError, Writer};
use topology::Incarnation;
use topology::token::OwnerToken;
use transport::Flow;

use super::identity::USER_BYTES;
use super::proxying::{Forwarding, Proxied};
use super::state::{
    Answer, Bye, IncomingRequest, Leg, OutgoingRequest, Session, Silence, Stage, Timer,
};
use super::{LegDirection, LegName, LegState, RequestId, SessionId, Supervised};
use crate::application::RecordRoute;
use crate::setup::SetUp;

/// Written and read.
const FORMAT_LEVEL: u8 = 2;

/// Who holds the session of a record.
///
/// # Errors
/// [`RecordError`] when it is of another release or damaged.
pub fn owner(record: &Bytes) -> Result<OwnerToken, RecordError> {
    read_owner(&mut Reader::new(record, FORMAT_LEVEL)?)
}

fn read_owner(reader: &mut Reader) -> Result<OwnerToken, RecordError> {
    let incarnation = Incarnation(u64::from_be_bytes(reader.fixed()?));
    Ok(OwnerToken { incarnation, shard: u16::from_be_bytes(reader.fixed()?) })
}

impl Session {
    /// The record.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT_LEVEL, 1_024);
        writer.fixed(&self.owner.incarnation.0.to_be_bytes());
        writer.fixed(&self.owner.shard.to_be_bytes());
        let (is_ending, ends_when_ready) = (self.is_ending, self.ends_when_ready);
        let flags = [u8::from(is_ending), u8::from(ends_when_ready), self.max_forwards, self.depth];
        writer.fixed(&flags);
        writer.octets(self.called.as_ref().map_or(b"", |called| &called[..]));
        writer.octets(self.application.as_bytes());
        // A key has one octet at least.
        writer.octets(self.key.as_deref().unwrap_or_default());
        writer.number(self.created.0);
        writer.number(self.expires.0);
        writer.number(self.last_ordinal);
        list(&mut writer, self.attributes.iter(), |writer, (name, value)| {
            writer.octets(name.as_bytes());
            writer.octets(value);
        });
        list(&mut writer, self.timers.iter(), |writer, (name, timer)| {
            writer.octets(name.as_bytes());
            writer.number(timer.since.0);
            writer.number(timer.due.0);
            writer.number(timer.every.map_or(0, millis));
        });
        list(&mut writer, self.legs.iter(), |writer, leg| leg.encode(writer));
        list(&mut writer, self.incoming.iter(), |writer, request| request.encode(writer));
        list(&mut writer, self.outgoing.iter(), |writer, request| request.encode(writer));
        list(&mut writer, self.failures.iter(), |writer, (leg, method, status)| {
            writer.octets(leg.as_str().as_bytes());
            writer.octets(method);
            writer.number(u64::from(*status));
        });
        list(&mut writer, self.signals_known.iter(), |writer, (sender, ordinal)| {
            writer.fixed(&sender.0);
            writer.number(*ordinal);
        });
        writer.finish()
    }

    /// Reads the record; the session shares its buffer.
    ///
    /// # Errors
    /// [`RecordError`] when it is of another release or damaged.
    pub fn decode(id: SessionId, record: &Bytes) -> Result<Session, RecordError> {
        let mut whole = Reader::new(record, FORMAT_LEVEL)?;
        let reader = &mut whole;
        let owner = read_owner(reader)?;
        let [is_ending, ends_when_ready, max_forwards, depth] = reader.fixed()?;
        let called = reader.octets()?;
        let session = Session {
            id,
            owner,
            application: reader.text()?.into(),
            key: Some(reader.octets()?).filter(|key| !key.is_empty()),
            created: UnixMillis(reader.number()?),
            expires: UnixMillis(reader.number()?),
            last_ordinal: reader.number()?,
            attributes: read_list(reader, |reader| Ok((reader.text()?, reader.octets()?)))?,
            timers: read_list(reader, |reader| {
                let name = reader.text()?;
                let (since, due) = (UnixMillis(reader.number()?), UnixMillis(reader.number()?));
                let every = Some(reader.number()?).filter(|every| *every > 0);
                Ok((name, Timer { since, due, every: every.map(Duration::from_millis) }))
            })?,
            legs: read_list(reader, Leg::decode)?,
            incoming: read_list(reader, IncomingRequest::decode)?,
            outgoing: read_list(reader, OutgoingRequest::decode)?,
            failures: read_list(reader, |reader| {
                Ok((leg_name(reader)?, reader.octets()?, reader.small()?))
            })?,
            signals_known: read_list(reader, |reader| {
                Ok((SessionId(reader.fixed()?), reader.number()?))
            })?,
            max_forwards,
            depth,
            called: called_of(&called)?,
            ends_when_ready: flag(ends_when_ready)?,
            is_ending: flag(is_ending)?,
        };
        whole.finish()?;
        Ok(session)
    }
}

fn called_of(octets: &[u8]) -> Result<Option<[u8; USER_BYTES]>, RecordError> {
    match octets {
        [] => Ok(None),
        called => called.try_into().map(Some).map_err(|_| RecordError::Malformed),
    }
}

impl Leg {
    fn encode(&self, writer: &mut Writer) {
        writer.octets(self.name.as_str().as_bytes());
        let direction = match self.direction {
            LegDirection::Incoming => 0,
            LegDirection::Outgoing => 1,
        };
        let state = match self.state {
            LegState::Early => 0,
            LegState::Confirmed => 1,
            LegState::Ended => 2,
        };
        let bye = match self.bye {
            Bye::None => 0,
            Bye::Wanted(Silence::Told) => 1,
            Bye::Wanted(Silence::Silent) => 2,
            Bye::Done => 3,
        };
        let dialog = match self.dialog.as_ref().map(|dialog| dialog.state) {
            None => 0,
            Some(DialogState::Early) => 1,
            Some(DialogState::Confirmed) => 2,
        };
        let proxied = match self.proxied {
            None => 0,
            Some(Proxied { record_route, supervised }) => {
                let record_route = u8::from(record_route == RecordRoute::Yes);
                1 | record_route << 1 | u8::from(supervised == Supervised::Yes) << 2
            }
        };
        writer.fixed(&[direction, state, bye, dialog, proxied]);
        writer.octets(&self.call_id);
        // A leg has a name of one octet at least.
        writer.octets(self.linked.as_ref().map_or(b"", |leg| leg.as_str().as_bytes()));
        let Some(dialog) = &self.dialog else { return };
        writer.octets(&dialog.local);
        writer.octets(&dialog.remote);
        writer.number(u64::from(dialog.local_cseq));
        // 0: none yet.
        writer.number(dialog.remote_cseq.map_or(0, |number| u64::from(number) + 1));
        list(writer, dialog.route_set.iter(), |writer, route| writer.octets(route));
        writer.octets(&dialog.remote_target);
    }

    fn decode(reader: &mut Reader) -> Result<Leg, RecordError> {
        let name = leg_name(reader)?;
        let [direction, state, bye, dialog, proxied] = reader.fixed()?;
        let call_id = reader.octets()?;
        let linked = Some(reader.text()?).filter(|leg| !leg.is_empty());
        let dialog = match dialog {
            0 => None,
            1 => Some(read_dialog(reader, &call_id, DialogState::Early)?),
            2 => Some(read_dialog(reader, &call_id, DialogState::Confirmed)?),
            _ => return Err(RecordError::Malformed),
        };
        Ok(Leg {
            name,
            direction: match direction {
                0 => LegDirection::Incoming,
                1 => LegDirection::Outgoing,
                _ => return Err(RecordError::Malformed),
            },
            state: match state {
                0 => LegState::Early,
                1 => LegState::Confirmed,
                2 => LegState::Ended,
                _ => return Err(RecordError::Malformed),
            },
            call_id,
            dialog,
            bye: match bye {
                0 => Bye::None,
                1 => Bye::Wanted(Silence::Told),
                2 => Bye::Wanted(Silence::Silent),
                3 => Bye::Done,
                _ => return Err(RecordError::Malformed),
            },
            put_off: None,
            linked: linked.map(|leg| LegName::new(&leg)),
            proxied: match proxied {
                0 => None,
                1 | 3 | 5 | 7 => Some(Proxied {
                    record_route: if proxied & 2 != 0 { RecordRoute::Yes } else { RecordRoute::No },
                    supervised: if proxied & 4 != 0 { Supervised::Yes } else { Supervised::No },
                }),
                _ => return Err(RecordError::Malformed),
            },
        })
    }
}

fn read_dialog(
    reader: &mut Reader,
    call_id: &Bytes,
    state: DialogState,
) -> Result<Dialog, RecordError> {
    Ok(Dialog {
        call_id: call_id.clone(),
        local: reader.octets()?,
        remote: reader.octets()?,
        local_cseq: reader.small()?,
        remote_cseq: match reader.number()?.checked_sub(1) {
            None => None,
            Some(number) => Some(u32::try_from(number).map_err(|_| RecordError::Malformed)?),
        },
        route_set: read_list(reader, Reader::octets)?,
        remote_target: reader.octets()?,
        state,
    })
}

impl IncomingRequest {
    fn encode(&self, writer: &mut Writer) {
        writer.number(self.id.0);
        writer.octets(self.leg.as_str().as_bytes());
        writer.octets(&self.method);
        writer.octets(&self.key);
        writer.octets(self.flow.to_bytes().as_ref());
        writer.octets(&self.head);
        match &self.forwarding {
            None => writer.number(0),
            Some(forwarding) => {
                writer.number(if forwarding.is_sought { 1 } else { 2 });
                writer.octets(&forwarding.set_up.encode());
            }
        }
        let Some(answer) = &self.answer else { return writer.number(0) };
        writer.number(u64::from(answer.status));
        writer.octets(&answer.response);
        writer.number(answer.at.0);
        writer.fixed(&[u8::from(answer.awaits_ack)]);
    }

    fn decode(reader: &mut Reader) -> Result<IncomingRequest, RecordError> {
        Ok(IncomingRequest {
            id: RequestId(reader.number()?),
            leg: leg_name(reader)?,
            method: reader.octets()?,
            key: reader.octets()?,
            flow: Flow::from_bytes(&reader.octets()?).map_err(|_| RecordError::Malformed)?,
            head: reader.octets()?,
            forwarding: match reader.small()? {
                0_u8 => None,
                is_sought @ (1 | 2) => {
                    let set_up = SetUp::decode(&reader.octets()?);
                    let set_up = set_up.map_err(|_| RecordError::Malformed)?;
                    Some(Box::new(Forwarding { set_up, is_sought: is_sought == 1 }))
                }
                _ => return Err(RecordError::Malformed),
            },
            whole: Bytes::new(),
            answer: match reader.small()? {
                0 => None,
                status => Some(Answer {
                    status,
                    response: reader.octets()?,
                    at: UnixMillis(reader.number()?),
                    awaits_ack: reader.fixed().and_then(|[octet]| flag(octet))?,
                }),
            },
        })
    }
}

impl OutgoingRequest {
    fn encode(&self, writer: &mut Writer) {
        // A leg has a name of one octet at least.
        writer.octets(self.leg.as_ref().map_or(b"", |leg| leg.as_str().as_bytes()));
        writer.octets(&self.method);
        writer.octets(&self.branch);
        writer.octets(&self.request);
        let silence = match self.silence {
            Silence::Told => 0,
            Silence::Silent => 1,
        };
        match &self.stage {
            Stage::Waiting { since } => {
                writer.fixed(&[silence, 0]);
                writer.number(since.0);
            }
            Stage::Cancelled { at } => {
                writer.fixed(&[silence, 1]);
                writer.number(at.0);
            }
            Stage::Over { at, kept, tag, acks } => {
                writer.fixed(&[silence, if tag.is_some() { 2 } else { 3 }]);
                writer.number(at.0);
                writer.number(millis(*kept));
                writer.octets(tag.as_deref().unwrap_or_default());
                list(writer, acks.iter(), |writer, (tag, ack)| {
                    writer.octets(tag);
                    writer.octets(ack);
                });
            }
        }
    }

    fn decode(reader: &mut Reader) -> Result<OutgoingRequest, RecordError> {
        let leg = reader.text()?;
        let method = reader.octets()?;
        let branch = reader.octets()?;
        let request = reader.octets()?;
        let [silence, stage] = reader.fixed()?;
        Ok(OutgoingRequest {
            leg: (!leg.is_empty()).then(|| LegName::new(&leg)),
            method,
            branch,
            request,
            stage: match stage {
                0 => Stage::Waiting { since: UnixMillis(reader.number()?) },
                1 => Stage::Cancelled { at: UnixMillis(reader.number()?) },
                2 | 3 => Stage::Over {
                    at: UnixMillis(reader.number()?),
                    kept: Duration::from_millis(reader.number()?),
                    tag: Some(reader.octets()?).filter(|_| stage == 2),
                    acks: read_list(reader, |reader| Ok((reader.octets()?, reader.octets()?)))?,
                },
                _ => return Err(RecordError::Malformed),
            },
            silence: if flag(silence)? { Silence::Silent } else { Silence::Told },
            is_proceeding: false,
            renewed: UnixMillis(0),
        })
    }
}

fn list<T>(
    writer: &mut Writer,
    items: impl ExactSizeIterator<Item = T>,
    mut write: impl FnMut(&mut Writer, T),
) {
    writer.number(items.len() as u64);
    for item in items {
        write(writer, item);
    }
}

fn read_list<T, C: FromIterator<T>>(
    reader: &mut Reader,
    mut read: impl FnMut(&mut Reader) -> Result<T, RecordError>,
) -> Result<C, RecordError> {
    // Not reserved ahead: the count of a damaged record could be anything; each item takes an octet at least.
    let count: usize = reader.small()?;
    (0..count).map(|_| read(reader)).collect()
}

fn leg_name(reader: &mut Reader) -> Result<LegName, RecordError> {
    Ok(LegName::new(&reader.text()?))
}

fn flag(octet: u8) -> Result<bool, RecordError> {
    match octet {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(RecordError::Malformed),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
