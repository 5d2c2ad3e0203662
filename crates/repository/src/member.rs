//! A member that is run on this node: where it lies, how etcd is started for it. Pure but for its own note.
//!
//! etcd reads what it is started with from its command line, and from nothing else: [`MemberSettings::program`] clears
//! the environment, whose `ETCD_…` would override or stop it. Which member of which etcd a directory's data is stands in
//! a note beside it ([`MemberNote`]): written before etcd is first started there, so that a crash in between leaves
//! nothing that nobody knows of; data without a note is nobody's.
//!
//! | in `DIR/repository` | what |
//! |---|---|
//! | `member.json` | the note |
//! | `data/` | etcd's |
//! | `copy/` | the node's copy, of nodes without a member too |

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

/// A leader's sign of life, and how long its silence lasts until another one is chosen; in milliseconds.
const HEARTBEAT_MS: &str = "50";
const ELECTION_MS: &str = "500";

/// Operations of a transaction: of the greatest batch, and what goes with it.
const TXN_OPERATIONS_MAX: &str = "1100";
/// The longest request, in octets: a batch of the greatest size, or a piece of an application.
const REQUEST_BYTES_MAX: &str = "4194304";
/// The greatest size of etcd's file, in octets: what all current versions of applications take (512 MiB), the last changes, each of
/// which may be a piece of 1 MiB, and those of the five minutes until the next compaction.
const BACKEND_BYTES_MAX: &str = "8589934592";
/// How many changes are kept for those who were away; who was away for longer reads everything.
const REVISIONS_KEPT: &str = "1000";

/// The node's directory for all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryDirectory(PathBuf);

impl RepositoryDirectory {
    /// Of the node whose directory this is.
    #[must_use]
    pub fn of_node(directory: &Path) -> RepositoryDirectory {
        RepositoryDirectory(directory.join("repository"))
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Takes all of it away, the note first.
    ///
    /// # Errors
    /// The system's.
    pub fn remove(&self) -> io::Result<()> {
        self.forget_member()?;
        absent_is_fine(fs::remove_dir_all(&self.0))
    }

    /// Where the copy lies.
    #[must_use]
    pub fn copy(&self) -> PathBuf {
        self.0.join("copy")
    }

    /// Where etcd's data lies.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    fn note(&self) -> PathBuf {
        self.0.join("member.json")
    }

    /// What is known of the data; `None`: nothing, and what lies there is nobody's.
    ///
    /// # Errors
    /// The system's, and a note that cannot be read.
    pub fn read_note(&self) -> io::Result<Option<MemberNote>> {
        match fs::read(self.note()) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the note: whole, and on the disk, or not at all.
    ///
    /// # Errors
    /// The system's.
    pub fn write_note(&self, note: &MemberNote) -> io::Result<()> {
        self.make()?;
        replace(&self.note(), &serde_json::to_vec_pretty(note)?)
    }

    /// Makes way for a new member: data of which no note is known goes.
    ///
    /// # Errors
    /// The system's.
    pub fn clear_data(&self) -> io::Result<()> {
        absent_is_fine(fs::remove_dir_all(self.data()))
    }

    /// Nothing of the member stays: the note first, so that a crash in between leaves data that is nobody's.
    ///
    /// # Errors
    /// The system's.
    pub fn forget_member(&self) -> io::Result<()> {
        absent_is_fine(fs::remove_file(self.note()))?;
        self.clear_data()
    }

    /// Makes the directory, for the node's user alone.
    ///
    /// # Errors
    /// The system's.
    pub fn make(&self) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }
}

fn absent_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Written beside and renamed.
fn replace(path: &Path, octets: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let beside = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(octets)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Which member the data of a directory is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberNote {
    /// By etcd's number; `None`: the first of a new etcd, which gives itself one.
    pub id: Option<u64>,
    /// By which others reach it.
    pub peer: SocketAddr,
    /// By which clients reach it.
    pub client: SocketAddr,
    /// All members at its start, it among them: `NAME=URL`. Of use until it has data.
    pub members: Vec<String>,
}

/// How a member is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSettings {
    /// In which cluster: two whose members meet by mistake do not mix.
    pub token: String,
    /// Its name.
    pub name: String,
    /// Where its data lies.
    pub data: PathBuf,
    /// What is known of it.
    pub note: MemberNote,
    /// The authority whose certificates are believed, PEM.
    pub authority: PathBuf,
    /// Its certificate, PEM: good as a server's and as a client's, at its address.
    pub certificate: PathBuf,
    /// The certificate's key, PEM.
    pub key: PathBuf,
}

impl MemberSettings {
    /// `NAME=URL` of a member.
    #[must_use]
    pub fn described(name: &str, peer: SocketAddr) -> String {
        format!("{name}={}", url(peer))
    }

    /// How it is started; to be run in the foreground, with its log on its standard error.
    #[must_use]
    pub fn program(&self, etcd: &Path) -> Command {
        let MemberNote { id, peer, client, members } = &self.note;
        let mut command = Command::new(etcd);
        command.env_clear();
        let mut option = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
            command.arg(format!("--{name}")).arg(value);
        };
        option("name", &self.name);
        option("data-dir", &self.data);
        option("listen-client-urls", &url(*client));
        option("advertise-client-urls", &url(*client));
        option("listen-peer-urls", &url(*peer));
        option("initial-advertise-peer-urls", &url(*peer));
        option("initial-cluster", &members.join(","));
        option("initial-cluster-token", &self.token);
        option("initial-cluster-state", &if id.is_some() { "existing" } else { "new" });
        for kind in ["", "peer-"] {
            option(&format!("{kind}trusted-ca-file"), &self.authority);
            option(&format!("{kind}cert-file"), &self.certificate);
            option(&format!("{kind}key-file"), &self.key);
        }
        option("heartbeat-interval", &HEARTBEAT_MS);
        option("election-timeout", &ELECTION_MS);
        option("max-txn-ops", &TXN_OPERATIONS_MAX);
        option("max-request-bytes", &REQUEST_BYTES_MAX);
        option("quota-backend-bytes", &BACKEND_BYTES_MAX);
        option("auto-compaction-mode", &"revision");
        option("auto-compaction-retention", &REVISIONS_KEPT);
        option("logger", &"zap");
        option("log-outputs", &"stderr");
        // A member that was cut off does not unseat the leader when it is back.
        command.args(["--pre-vote", "--client-cert-auth", "--peer-client-cert-auth"]);
        // The authority certifies members only. From which of a host's addresses one of them connects says nothing.
        command.arg("--experimental-peer-skip-client-san-verification");
        command
    }
}

fn url(address: SocketAddr) -> String {
    format!("https://{address}")
}

/// The address in a URL as [`MemberSettings`] writes it.
#[must_use]
pub fn address_in(url: &str) -> Option<SocketAddr> {
    url.strip_prefix("https://")?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn note(id: Option<u64>) -> MemberNote {
        let (peer, client) =
            ("192.0.2.11:6231".parse().unwrap(), "192.0.2.11:6230".parse().unwrap());
        MemberNote { id, peer, client, members: vec![MemberSettings::described("n0", peer)] }
    }

    fn arguments(id: Option<u64>) -> String {
        let settings = MemberSettings {
            token: "c".to_owned(),
            name: "n0".to_owned(),
            data: "/d/data".into(),
            note: note(id),
            authority: "/d/ca.pem".into(),
            certificate: "/d/node.pem".into(),
            key: "/d/node.key".into(),
        };
        let program = settings.program(Path::new("etcd"));
        let arguments: Vec<_> =
            program.get_args().map(|argument| argument.to_string_lossy()).collect();
        arguments.join(" ")
    }

    #[test]
    fn only_a_member_of_a_new_etcd_begins_one() {
        assert!(arguments(None).contains("--initial-cluster-state new "));
        assert!(arguments(Some(7)).contains("--initial-cluster-state existing "));
    }

    #[test]
    fn members_speak_tls_only_and_ask_for_certificates() {
        let arguments = arguments(None);
        assert!(!arguments.contains("http://"), "{arguments}");
        for kind in ["", "peer-"] {
            for what in ["trusted-ca-file", "cert-file", "key-file", "client-cert-auth"] {
                assert!(
                    arguments.contains(&format!("--{kind}{what}")),
                    "{kind}{what}: {arguments}"
                );
            }
        }
        assert!(arguments.contains("--listen-client-urls https://192.0.2.11:6230 "), "{arguments}");
        assert!(arguments.contains("--initial-cluster n0=https://192.0.2.11:6231 "), "{arguments}");
    }

    #[test]
    fn a_note_comes_back_and_goes_before_the_data() {
        let node = tempfile::tempdir().unwrap();
        let directory = RepositoryDirectory::of_node(node.path());
        assert_eq!(directory.read_note().unwrap(), None);
        directory.write_note(&note(Some(u64::MAX))).unwrap();
        assert_eq!(directory.read_note().unwrap(), Some(note(Some(u64::MAX))));
        fs::create_dir(directory.data()).unwrap();
        directory.forget_member().unwrap();
        assert!(directory.read_note().unwrap().is_none() && !directory.data().exists());
        directory.forget_member().unwrap();
    }

    #[test]
    fn addresses_come_back_from_urls() {
        let address = "[2001:db8::1]:6231".parse().unwrap();
        assert_eq!(address_in(&url(address)), Some(address));
        assert_eq!(address_in("http://192.0.2.1:1"), None);
    }
}
