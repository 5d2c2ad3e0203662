//! What is asked of etcd and what it answers, as the gateway writes it: 64-bit numbers as text, octets in base64, and
//! what is zero or empty left out. Source: etcd's `rpc.proto`, 3.4.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// gRPC: the request is wrong in itself.
pub const CODE_INVALID: u32 = 3;
/// gRPC: there is no such lease or member.
pub const CODE_NOT_FOUND: u32 = 5;
/// gRPC: too much is asked, or there is no room.
pub const CODE_RESOURCE_EXHAUSTED: u32 = 8;
/// gRPC: the revision was compacted.
pub const CODE_OUT_OF_RANGE: u32 = 11;

/// Who answers, and how far the store was then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Header {
    /// Which etcd.
    #[serde(default, with = "decimal")]
    pub cluster_id: u64,
    /// The number of its last change.
    #[serde(default, with = "decimal")]
    pub revision: i64,
}

/// A record of etcd's.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct KeyValue {
    /// Its name.
    #[serde(with = "octets")]
    pub key: Bytes,
    /// The number of the change that wrote it.
    #[serde(default, with = "decimal")]
    pub mod_revision: i64,
    /// What it holds.
    #[serde(default, with = "octets")]
    pub value: Bytes,
}

/// Which keys.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Range {
    /// The one, or the first.
    #[serde(with = "octets")]
    pub key: Bytes,
    /// The first that is not meant any more; empty: `key` alone is meant.
    #[serde(with = "octets", skip_serializing_if = "Bytes::is_empty")]
    pub range_end: Bytes,
    /// At most so many; zero: all.
    #[serde(with = "decimal", skip_serializing_if = "is_zero")]
    pub limit: i64,
    /// As it was then; zero: as it is.
    #[serde(with = "decimal", skip_serializing_if = "is_zero")]
    pub revision: i64,
    /// Without what they hold.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keys_only: bool,
}

/// What a range holds, in the order of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct RangeResponse {
    /// As of when.
    #[serde(default)]
    pub header: Header,
    /// The records.
    #[serde(default)]
    pub kvs: Vec<KeyValue>,
    /// There are more behind them.
    #[serde(default)]
    pub more: bool,
}

/// Writes one key.
#[derive(Clone, Debug, Serialize)]
pub struct Put {
    /// Which.
    #[serde(with = "octets")]
    pub key: Bytes,
    /// What it holds from now on.
    #[serde(with = "octets")]
    pub value: Bytes,
    /// The lease that it ends with; zero: none.
    #[serde(with = "decimal", skip_serializing_if = "is_zero")]
    pub lease: i64,
}

/// Removes one key.
#[derive(Clone, Debug, Serialize)]
pub struct Delete {
    /// Which.
    #[serde(with = "octets")]
    pub key: Bytes,
}

/// One step of a transaction.
#[derive(Clone, Debug, Serialize)]
pub enum Operation {
    /// Looks.
    #[serde(rename = "request_range")]
    Range(Range),
    /// Writes.
    #[serde(rename = "request_put")]
    Put(Put),
    /// Removes.
    #[serde(rename = "request_delete_range")]
    Delete(Delete),
}

/// A condition: the key was last changed by that revision (zero: it is not there).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Compare {
    /// Which key.
    #[serde(with = "octets")]
    pub key: Bytes,
    target: &'static str,
    result: &'static str,
    #[serde(with = "decimal")]
    mod_revision: i64,
}

impl Compare {
    /// Holds when the key was last changed by that revision; zero: when there is none.
    pub fn unchanged_since(key: Bytes, mod_revision: i64) -> Compare {
        Compare { key, target: "MOD", result: "EQUAL", mod_revision }
    }
}

/// All of `success` if every condition holds, else all of `failure`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Txn {
    /// The conditions.
    pub compare: Vec<Compare>,
    /// If they hold.
    pub success: Vec<Operation>,
    /// If not.
    pub failure: Vec<Operation>,
}

/// How a transaction went.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TxnResponse {
    /// Its revision, if it changed anything.
    pub header: Header,
    /// Whether the conditions held.
    #[serde(default)]
    pub succeeded: bool,
    /// Of each operation.
    #[serde(default)]
    pub responses: Vec<OperationResponse>,
}

/// What came of one step.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct OperationResponse {
    /// Of a look.
    #[serde(default)]
    pub response_range: Option<RangeResponse>,
}

#[derive(Serialize)]
pub(super) struct LeaseGrant {
    #[serde(rename = "TTL", with = "decimal")]
    pub(super) seconds: u64,
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LeaseGranted {
    /// Its number.
    #[serde(rename = "ID", with = "decimal")]
    pub lease: i64,
    /// How long it lasts.
    #[serde(rename = "TTL", with = "decimal")]
    pub seconds: u64,
}

#[derive(Serialize)]
pub(super) struct LeaseId {
    #[serde(rename = "ID", with = "decimal")]
    pub(super) lease: i64,
}

#[derive(Deserialize)]
pub(super) struct LeaseKept {
    #[serde(rename = "TTL", default, with = "decimal")]
    pub(super) seconds: u64,
}

/// A member of the cluster, started or not.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// Its number.
    #[serde(rename = "ID", default, with = "decimal")]
    pub id: u64,
    /// Its name; empty: it was not started yet.
    #[serde(default)]
    pub name: String,
    /// Where other members reach it.
    #[serde(rename = "peerURLs", default)]
    pub peer_urls: Vec<String>,
    /// Where clients do.
    #[serde(rename = "clientURLs", default)]
    pub client_urls: Vec<String>,
    /// It does not count yet.
    #[serde(rename = "isLearner", default)]
    pub is_learner: bool,
}

/// Who is a member.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct MemberList {
    /// The one that was added, if one was.
    #[serde(default)]
    pub member: Option<Member>,
    /// All.
    #[serde(default)]
    pub members: Vec<Member>,
}

#[derive(Serialize)]
pub(super) struct MemberAdd {
    #[serde(rename = "peerURLs")]
    pub(super) peer_urls: Vec<String>,
    #[serde(rename = "isLearner")]
    pub(super) is_learner: bool,
}

#[derive(Serialize)]
pub(super) struct MemberId {
    #[serde(rename = "ID", with = "decimal")]
    pub(super) id: u64,
}

/// What a member says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// Its release.
    #[serde(default)]
    pub version: String,
    /// Octets of its file.
    #[serde(rename = "dbSize", default, with = "decimal")]
    pub file_bytes: u64,
    /// Who leads, as it sees it; zero: nobody.
    #[serde(default, with = "decimal")]
    pub leader: u64,
    /// How far it is.
    #[serde(default)]
    pub header: StatusHeader,
}

/// Who says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct StatusHeader {
    /// The member's number.
    #[serde(default, with = "decimal")]
    pub member_id: u64,
    /// Its last change.
    #[serde(default, with = "decimal")]
    pub revision: i64,
}

#[derive(Serialize)]
pub(super) struct WatchRequest {
    #[serde(rename = "create_request")]
    pub(super) create: WatchCreate,
}

/// Which changes.
#[derive(Clone, Debug, Serialize)]
pub struct WatchCreate {
    /// The first key.
    #[serde(with = "octets")]
    pub key: Bytes,
    /// The first that is not meant any more.
    #[serde(with = "octets")]
    pub range_end: Bytes,
    /// The first revision.
    #[serde(with = "decimal")]
    pub start_revision: i64,
}

/// News of a watch: whole revisions, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct WatchResponse {
    /// As of when.
    #[serde(default)]
    pub header: Header,
    /// It has begun.
    #[serde(default)]
    pub created: bool,
    /// It is over.
    #[serde(default)]
    pub canceled: bool,
    /// Why it is over.
    #[serde(default)]
    pub cancel_reason: String,
    /// Not zero: what was asked for is not kept any more; from here on it is.
    #[serde(default, with = "decimal")]
    pub compact_revision: i64,
    /// What changed.
    #[serde(default)]
    pub events: Vec<WatchEvent>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct WatchEvent {
    /// What kind.
    #[serde(rename = "type", default)]
    pub kind: EventKind,
    /// The record; of a removed one the key and the revision.
    pub kv: KeyValue,
}

/// What happened to a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum EventKind {
    /// It was written.
    #[default]
    #[serde(rename = "PUT")]
    Put,
    /// It was removed.
    #[serde(rename = "DELETE")]
    Delete,
}

/// An empty request, an answer of no interest.
#[derive(Serialize, Deserialize)]
pub(super) struct Nothing {}

/// An item of a stream.
#[derive(Deserialize)]
pub(super) struct Streamed<T> {
    pub(super) result: T,
}

/// An error, whose text 3.4 writes twice and later ones do once.
#[derive(Deserialize)]
pub(super) struct Wrong {
    pub(super) code: u32,
    #[serde(default)]
    error: String,
    #[serde(default)]
    message: String,
}

impl Wrong {
    pub(super) fn text(self) -> String {
        if self.error.is_empty() { self.message } else { self.error }
    }
}

/// Who wants a token.
#[derive(Serialize)]
pub(super) struct Authenticate<'a> {
    pub(super) name: &'a str,
    pub(super) password: &'a str,
}

/// What it gets.
#[derive(Deserialize)]
pub(super) struct Authenticated {
    pub(super) token: String,
}

/// An error in a stream, which ends by it.
#[derive(Deserialize)]
pub(super) struct BrokenOff {
    pub(super) error: BrokenOffBy,
}

#[derive(Deserialize)]
pub(super) struct BrokenOffBy {
    pub(super) message: String,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// 64-bit numbers are text in JSON.
mod decimal {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        number: &impl Display,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(number)
    }

    pub(super) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

mod octets {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(octets: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(octets))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        let octets = STANDARD.decode(text.as_bytes());
        octets.map(Bytes::from).map_err(serde::de::Error::custom)
    }
}
