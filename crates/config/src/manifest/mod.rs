//! `outlast-app.toml`: what an application is called, which requests are its, and what it may use.
//!
//! It stands beside the component that it names. Like `outlast.toml` it becomes a value that is whole and checked, or a
//! list of everything wrong with it. [`condition`] is the condition by which requests are chosen; who weighs a request
//! against it is whoever has one.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub mod condition;
mod operator;
mod parse;
mod size_text;
#[cfg(test)]
mod tests;
mod version;

pub use condition::Condition;
pub use operator::{SettingError, load_settings, settings_text};
pub use parse::{NAME_NEEDS, is_name};
pub use version::Version;

use crate::time_text;
use crate::{ConfigError, Problem};

/// The file's name, beside the component.
pub const FILE_NAME: &str = "outlast-app.toml";

/// An application as its author describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// 1 to 32 of a–z, 0–9 and `-`, beginning with a letter: names it in commands, records and logs.
    pub name: String,
    /// Which one this is; versions live side by side.
    pub version: Version,
    /// File name of the component, in the manifest's directory.
    pub component: String,
    /// Whether its sessions are in the store and outlive their container. `false`: they are in the memory of the container
    /// that began them only. When that ends, however it does, they are gone, and their phones are answered 481. Nobody else
    /// finds them: `outlast sessions` does not list them, requests of one key meet within one container only, and so do signals.
    pub distributable: bool,
    /// Applications of one region are asked in rising order, then by name; the registrar is asked last. −1,000 to 1,000.
    pub order: i32,
    /// How its sessions are replicated.
    pub cluster: ClusterSettings,
    /// Its SIP side.
    pub sip: SipSettings,
    /// Its HTTP side; none: it serves no HTTP.
    pub http: Option<HttpSettings>,
    /// Its sessions.
    pub session: SessionSettings,
    /// Its instances.
    pub instances: InstanceSettings,
    /// What one event may use.
    pub limits: Limits,
    /// What its handlers read by `config.get`. The operator may set other values.
    pub config: BTreeMap<String, String>,
    /// When a new version counts as well.
    pub health: HealthSettings,
}

impl Manifest {
    /// Names this version of the application in records of sessions: `NAME@VERSION`.
    pub fn id(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }
}

/// How sessions are replicated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// Whether they are replicated; `false` is the same as `distributable = false`.
    pub enabled: bool,
    /// The containers among which they are: `"default"`, all of the cluster. Another name is refused by a cluster.
    pub group_name: String,
    /// When messages leave.
    pub replication: Replication,
    /// How many other hosts must hold a write: a cluster that keeps fewer copies refuses the application, one that keeps more
    /// keeps them for it, too. Without effect on a single node, whose store has no copies.
    pub write_quota: u8,
    /// Whether copies may lie on one host; `false` is refused by a cluster that allows it. Without effect on a single node.
    pub allow_colocation: bool,
}

impl Default for ClusterSettings {
    fn default() -> ClusterSettings {
        ClusterSettings {
            enabled: true,
            group_name: "default".to_owned(),
            replication: Replication::BeforeReply,
            write_quota: 0,
            allow_colocation: true,
        }
    }
}

/// When the messages of an event leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replication {
    /// When the session is committed: nothing that anybody heard of is lost.
    BeforeReply,
    /// At once, while the commit is under way; what begins a session waits all the same. Sooner, but what was said since the
    /// last commit is forgotten with a container that dies, though a phone may have heard it: an attribute is as before, a
    /// timer fires again, and a message that comes again is handled again.
    AfterReply,
}

/// The SIP side of an application.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SipSettings {
    /// Which initial requests are its; none: no request from outside begins a session.
    pub condition: Option<Condition>,
    /// Whether callers of our domains are asked for their password before it hears of them, where the registrar asks for
    /// it. `false`: it takes everybody's requests, and what From says is not proven.
    pub authenticate: bool,
    /// For whom it serves, which decides when it is asked.
    pub region: Region,
    /// Whom the calls of its sessions are offered to.
    pub calls: Calls,
    /// Whether handlers hear `created`.
    pub hears_created: bool,
    /// Whether handlers hear `ended`.
    pub hears_ended: bool,
    /// What a request is answered whose handler failed: 400–699.
    pub on_failure: u16,
}

impl Default for SipSettings {
    fn default() -> SipSettings {
        SipSettings {
            condition: None,
            authenticate: true,
            region: Region::Neutral,
            calls: Calls::Continue,
            hears_created: false,
            hears_ended: false,
            on_failure: 500,
        }
    }
}

/// For whom an application serves (JSR 289 §15.2). Who that is, its condition says: `request.from` is the caller,
/// `request.uri` the callee.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Region {
    /// For the caller: asked before all others.
    Originating,
    /// For neither.
    Neutral,
    /// For the callee: asked behind all others. When one of these sends a call to another user, all of them are asked
    /// about that user.
    Terminating,
}

impl fmt::Display for Region {
    /// As the manifest spells it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Region::Originating => "originating",
            Region::Neutral => "neutral",
            Region::Terminating => "terminating",
        })
    }
}

/// Whom the calls of an application's sessions, and their other requests outside of dialogs, are offered to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Calls {
    /// Those of a session that a request began go on behind the application; those of others go to all others.
    Continue,
    /// Each is a call of its own: all applications are asked, this one too.
    New,
}

/// The HTTP side of an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpSettings {
    /// Requests whose path is this, or begins with it and a `/`, are its. Begins with `/`; the longest path wins.
    pub path: String,
    /// Requests for this host only; none: for any.
    pub host: Option<String>,
    /// Name of the cookie that carries the session.
    pub session_cookie: String,
}

/// The sessions of an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSettings {
    /// How long one lives unless its handler says otherwise, and how much longer it may be told to live.
    #[serde(with = "time_text")]
    pub expires: Duration,
}

impl Default for SessionSettings {
    fn default() -> SessionSettings {
        SessionSettings { expires: Duration::from_secs(24 * 3600) }
    }
}

/// The instances of an application.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSettings {
    /// Whether an instance serves many events, one after the other, and so sees what earlier ones left in its memory;
    /// else each event has a fresh one.
    pub reuse: bool,
}

/// What one event may use. What a session may hold stands beside the functions that fill it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Linear memory of an instance, in octets.
    pub memory: u64,
    /// CPU time of a handler.
    #[serde(with = "time_text")]
    pub time: Duration,
    /// Octets of the body of an HTTP request that comes with a session.
    pub http_body: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { memory: 64 << 20, time: Duration::from_millis(50), http_body: 1 << 20 }
    }
}

/// When a new version counts as well, during an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSettings {
    /// An HTTP path below `http.path` that must answer 2xx; none: a trial instantiation must succeed.
    pub http_path: Option<String>,
    /// How many of a hundred events of the new version may fail while it is watched.
    pub failures_percent_max: u8,
    /// How long each container is watched before the next one follows.
    #[serde(with = "time_text")]
    pub watch: Duration,
}

impl Default for HealthSettings {
    fn default() -> HealthSettings {
        HealthSettings { http_path: None, failures_percent_max: 5, watch: Duration::from_secs(2) }
    }
}

/// Reads and checks a manifest.
///
/// # Errors
/// [`ConfigError::Unreadable`], or [`ConfigError::Refused`] with every problem of the file.
pub fn load(path: &Path) -> Result<Manifest, ConfigError> {
    let text = crate::text_of(path, FILE_NAME)?;
    parse(&text).map_err(|problems| ConfigError::Refused { path: path.to_owned(), problems })
}

/// Checks the text of a manifest.
///
/// # Errors
/// Every problem of the text, in the order of its lines.
pub fn parse(text: &str) -> Result<Manifest, Vec<Problem>> {
    parse::parse(text)
}

impl fmt::Display for Replication {
    /// As the manifest spells it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Replication::BeforeReply => "before-reply",
            Replication::AfterReply => "after-reply",
        })
    }
}
