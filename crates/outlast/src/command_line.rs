//! Every command, option and help text, in one place.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use config::Listen;
use config::manifest::{NAME_NEEDS, is_name};
use topology::credentials::TOKEN_VALIDITY_MAX;

const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   not done; stderr says why and what to do next
  2   the command line is wrong
  64  the configuration is refused
  65  the application is refused
  69  the node is not up
  70  nobody looks after the node, whose processes live on: outlast up takes them over
  71  the version of an application did not come in, and all is as it was before";

/// Calls and sessions outlast the servers they run on: SIP edge, registrar and application platform.
#[derive(Debug, Parser)]
#[command(name = "outlast", version, after_help = EXIT_CODES)]
pub(crate) struct CommandLine {
    /// Directory of the node
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "OUTLAST_DIR",
        default_value = "outlast-node"
    )]
    pub(crate) dir: PathBuf,

    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Run a node in the foreground; the first run writes a working outlast.toml
    #[command(after_help = EXIT_CODES)]
    Up(UpWishes),
    /// See it work: phones, calls, processes that are killed, upgrades, and a table of what survived
    ///
    /// Runs a node of its own on free ports of this machine; --dir keeps its files in a
    /// new directory. Takes some seconds; exit code 1 if anything was lost.
    #[command(after_help = EXIT_CODES, verbatim_doc_comment)]
    Demo {
        #[command(flatten)]
        json: Json,
    },
    /// Show the node's processes
    #[command(after_help = EXIT_CODES)]
    Status {
        /// The members of the cluster, and the processes of all of them
        #[arg(long)]
        cluster: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Start a process that is down, and wait until it serves
    #[command(after_help = EXIT_CODES)]
    Start(Which),
    /// Let a process finish what it has, show what is left, and leave it down
    ///
    /// A container that drains takes no new calls, an edge no new connections. It ends when nothing is left, or at the
    /// deadline. Ctrl-C ends the command and leaves the drain going.
    #[command(after_help = EXIT_CODES)]
    Drain(DrainWishes),
    /// Drain a process for the configured time, and leave it down
    #[command(after_help = EXIT_CODES)]
    Stop(Which),
    /// Drain a process for the configured time, start it, and wait until it serves again
    #[command(after_help = EXIT_CODES)]
    Restart(Which),
    /// Accounts: who may register and call (works with the node up or down)
    #[command(subcommand, after_help = EXIT_CODES)]
    User(UserCommand),
    /// Further identities of an account
    #[command(subcommand, after_help = EXIT_CODES)]
    Identity(IdentityCommand),
    /// List who is registered, and where
    #[command(after_help = EXIT_CODES)]
    Registrations {
        #[command(flatten)]
        json: Json,
    },
    /// Applications: deploy, look at, upgrade, remove
    #[command(subcommand, after_help = EXIT_CODES)]
    App(AppCommand),
    /// List the sessions of applications that live (works with the node up or down)
    #[command(after_help = EXIT_CODES)]
    Sessions(SessionsWishes),
    /// What this node is configured as; and the configuration of all nodes of its cluster: show, change, go back
    #[command(subcommand, after_help = EXIT_CODES)]
    Config(ConfigCommand),
    /// Several nodes as one system: create, join, leave, remove
    #[command(subcommand, after_help = EXIT_CODES)]
    Cluster(ClusterCommand),
    /// The nodes of the cluster and their processes, and how members find each other
    #[command(subcommand, after_help = EXIT_CODES)]
    Topology(TopologyCommand),
    /// Where the state lies, and how many copies there are
    #[command(subcommand, after_help = EXIT_CODES)]
    State(StateCommand),
    /// The node's keys, behind tokens and nonces
    #[command(subcommand, after_help = EXIT_CODES)]
    Keys(KeysCommand),
    /// Make a container behave as if something were wrong with it
    #[cfg(feature = "faults")]
    #[command(hide = true)]
    Fault {
        /// The process, for example container1
        name: String,
        /// What
        #[arg(value_enum)]
        fault: FaultName,
    },
    /// What guardian and manager start
    #[command(subcommand, hide = true)]
    Process(Child),
}

/// What a test can ask to be wrong.
#[cfg(feature = "faults")]
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum FaultName {
    /// SIP stands still, heartbeats go on
    WedgeSip,
}

/// A process of this node or of another.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The process, for example container1, or container1@node2 for one of another node
    #[arg(value_name = "NAME[@NODE]")]
    pub(crate) name: String,
    /// The process of that name on every node, one after the other
    #[arg(long)]
    pub(crate) cluster: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DrainWishes {
    #[command(flatten)]
    pub(crate) which: Which,
    /// How long it may take, at most 24h; not given: drain_timeout of outlast.toml
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) deadline: Option<Duration>,
    #[command(flatten)]
    pub(crate) json: Json,
}

/// Output for programs.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Json {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Of which nodes a command speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Node,
    Cluster,
}

impl From<bool> for Scope {
    fn from(is_cluster: bool) -> Scope {
        if is_cluster { Scope::Cluster } else { Scope::Node }
    }
}

/// Who reads the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    Person,
    Program,
}

impl From<Json> for Reader {
    fn from(json: Json) -> Reader {
        if json.json { Reader::Program } else { Reader::Person }
    }
}

#[derive(Debug, Default, Args)]
pub(crate) struct UpWishes {
    /// Where SIP listens, UDP and TCP; port 0 takes any free one
    ///
    /// The first run writes it into outlast.toml (not given: 0.0.0.0:5060). Later it
    /// overrides the first edge's addresses for this run.
    #[arg(long, value_name = "ADDR:PORT", verbatim_doc_comment)]
    pub(crate) sip: Option<Listen>,
    /// A domain to serve; may be repeated
    ///
    /// The first run writes it into outlast.toml (not given: localhost). Later it
    /// overrides the configured domains for this run.
    #[arg(long, value_name = "DOMAIN", value_parser = config::domain_name, verbatim_doc_comment)]
    pub(crate) domain: Vec<String>,
    /// Stop the node in order when standard input ends: for a program that runs a node of its own
    #[arg(long, hide = true)]
    pub(crate) while_stdin: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Add an account with one private and one public identity of its name
    Add {
        /// For example alice@example.com
        #[arg(value_name = "NAME@DOMAIN")]
        name: String,
        /// May be repeated; not given: user
        #[arg(long = "role", value_name = "ROLE", value_parser = role)]
        roles: Vec<String>,
        #[command(flatten)]
        password: PasswordStdin,
    },
    /// List the accounts
    List {
        #[command(flatten)]
        json: Json,
    },
    /// Show one account
    Show {
        /// For example alice@example.com
        #[arg(value_name = "NAME@DOMAIN")]
        name: String,
        #[command(flatten)]
        json: Json,
    },
    /// Change an account's password
    Passwd {
        /// For example alice@example.com
        #[arg(value_name = "NAME@DOMAIN")]
        name: String,
        #[command(flatten)]
        password: PasswordStdin,
    },
    /// Remove an account and its identities
    Remove {
        /// For example alice@example.com
        #[arg(value_name = "NAME@DOMAIN")]
        name: String,
    },
}

/// Passwords come by no other way: a command line is seen by every user of the machine.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct PasswordStdin {
    /// Read the password from standard input, one line
    #[arg(long, required = true)]
    pub(crate) password_stdin: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum IdentityCommand {
    /// Add an address to register and be called by, or with --private a name to log in with
    Add {
        /// For example alice@example.com
        #[arg(value_name = "ACCOUNT")]
        account: String,
        /// For example sales@example.com
        #[arg(value_name = "NAME@DOMAIN")]
        identity: String,
        /// A private identity: a further name to log in with
        #[arg(long, requires = "password_stdin")]
        private: bool,
        /// Read the private identity's password from standard input, one line
        #[arg(long, requires = "private")]
        password_stdin: bool,
    },
    /// Remove an identity from an account
    Remove {
        /// For example alice@example.com
        #[arg(value_name = "ACCOUNT")]
        account: String,
        /// For example sales@example.com
        #[arg(value_name = "NAME@DOMAIN")]
        identity: String,
        /// A private identity
        #[arg(long)]
        private: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AppCommand {
    /// Write a new application in Rust, ready to be built and deployed
    ///
    /// It answers calls to sip:NAME@..., holds them, and hangs up after a while: change it from there. The crate that it is
    /// written with and the interface come with it, so that it can lie anywhere.
    New {
        /// For example greeter
        #[arg(value_parser = application_name)]
        name: String,
        /// Where; there must be nothing yet. Not given: a directory of its name, here
        #[arg(value_name = "PATH")]
        path: Option<PathBuf>,
    },
    /// Deploy an application: new sessions of all containers begin with it
    ///
    /// Its manifest, outlast-app.toml, stands beside the component. Everything is checked before anything changes, and
    /// every container has loaded it before any uses it. Sessions of a version before it go on with that one.
    Deploy {
        /// A directory with outlast-app.toml, or the component in it
        #[arg(value_name = "FILE|DIR")]
        path: PathBuf,
        /// A value in place of the one under [config] of the manifest; may be repeated. What was set for the version
        /// before it stays set
        #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
        set: Vec<(String, String)>,
        #[command(flatten)]
        json: Json,
    },
    /// List the deployed applications
    List {
        #[command(flatten)]
        json: Json,
    },
    /// Show one application: its versions, its settings, who has loaded it
    Show {
        /// For example click-to-dial
        name: String,
        #[command(flatten)]
        json: Json,
    },
    /// Bring in a new version, one container after the other
    ///
    /// Each container is watched for the time that the manifest says (health.watch) before the next one follows. When handlers of
    /// the new version fail there more often than the manifest allows, the container ends, or does not answer 2xx to
    /// http_path of the manifest, new sessions begin with the version before it again, everywhere; exit code 71. Ctrl-C ends
    /// the command and leaves the upgrade going.
    Upgrade {
        /// As for deploy; or a version that is kept, for example click-to-dial@1.0.0, to go back to it
        #[arg(value_name = "FILE|DIR|NAME@VERSION")]
        what: String,
        /// As for deploy
        #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
        set: Vec<(String, String)>,
        #[command(flatten)]
        json: Json,
    },
    /// Remove an application, or a version that no new session begins with
    ///
    /// Refused while sessions of it live. A version that no new session begins with goes by itself when none lives any
    /// more, after the time old_versions_kept of outlast.toml.
    Remove {
        /// For example click-to-dial, or click-to-dial@1.0.0
        #[arg(value_name = "NAME[@VERSION]")]
        what: String,
        /// Begin no new session of the application, let those that live end in peace, and remove it then
        #[arg(long)]
        drain: bool,
        /// Although sessions of it live: their messages are answered 503 until it is deployed again
        #[arg(long, conflicts_with = "drain")]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SessionsWishes {
    /// Of this application only, for example click-to-dial or click-to-dial@1.0.0
    #[arg(long, value_name = "NAME[@VERSION]")]
    pub(crate) application: Option<String>,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check outlast.toml: every error with its line; exit code 64 when it is refused
    ///
    /// In a cluster, also together with what the node has taken of the cluster's configuration; lines that are without effect
    /// are told.
    Check,
    /// Show what this node is configured as; with --cluster the document that all nodes of its cluster have in common
    ///
    /// To change that: outlast config show --cluster > FILE, edit FILE, outlast config diff FILE, outlast config apply FILE. What
    /// it says goes before outlast.toml of every node; [on.NAME.TABLE] in it says what one node is to have otherwise.
    Show {
        /// And where each value comes from
        #[arg(long)]
        origin: bool,
        /// The cluster's document
        #[arg(long, conflicts_with = "origin")]
        cluster: bool,
        /// As it was in an earlier version
        #[arg(long, value_name = "VERSION", requires = "cluster")]
        version: Option<u64>,
        #[command(flatten)]
        json: Json,
    },
    /// Check a file as the cluster's document, and show what it sets otherwise; exit code 64 when it is refused
    Diff {
        /// What outlast config show --cluster printed, changed
        file: PathBuf,
        #[command(flatten)]
        json: Json,
    },
    /// Make a file the cluster's document; each node takes it when it is stopped and started
    ///
    /// Refused when somebody else has changed it since the version that the first line of FILE names; a file without that line is
    /// made of the version that holds.
    Apply {
        /// What outlast config show --cluster printed, changed
        file: PathBuf,
        /// For the history
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
    },
    /// List the last 100 changes of the cluster's document: who, when, on which node, which keys
    History {
        #[command(flatten)]
        json: Json,
    },
    /// Have the cluster's document as it was in an earlier version; that is a change like any
    Rollback {
        /// As in outlast config history
        version: u64,
        /// For the history
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
    },
}

/// Whether it is said where values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origins {
    Shown,
    Hidden,
}

impl From<bool> for Origins {
    fn from(are_shown: bool) -> Origins {
        if are_shown { Origins::Shown } else { Origins::Hidden }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Make this node the first member of a new cluster (works with the node up or down)
    ///
    /// It keeps what it has: accounts, registrations, calls, applications. Nothing is restarted.
    Create {
        /// Where other members reach this node, by UDP and TCP; not given: this host's address, port 6200
        #[arg(long, value_name = "ADDR[:PORT]", value_parser = config::cluster_address)]
        address: Option<SocketAddr>,
    },
    /// Print a token with which other nodes may join
    Token {
        /// How long it is good, at most 7days
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = token_validity)]
        valid_for: Duration,
    },
    /// Make this node, which is down and holds nothing yet, a member of a cluster
    Join(JoinWishes),
    /// Take this node out of its cluster
    ///
    /// Refused while its own stores hold what the cluster would lose.
    Leave {
        /// Leave all the same, and keep that for this node alone
        #[arg(long)]
        force: bool,
    },
    /// Take out a node that is lost and will not come back; its number is never given again
    ///
    /// It is refused where only that node has a part of the state, and says how much.
    Remove {
        /// For example node3
        node: String,
        /// Also where records are lost with it: the cluster serves that part again, without them
        #[arg(long)]
        force: bool,
    },
    /// Give this node a new certificate now; it is renewed by itself, too, when a third of its year is left
    RotateCertificates,
}

#[derive(Debug, Args)]
pub(crate) struct JoinWishes {
    /// What outlast cluster token printed on a member
    pub(crate) token: String,
    /// Where other members reach this node, by UDP and TCP; not given: the address that it reaches them from, port 6200
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = config::cluster_address)]
    pub(crate) address: Option<SocketAddr>,
    /// The node's name in the cluster; not given: that of outlast.toml, or a free one
    #[arg(long, value_parser = node_name)]
    pub(crate) name: Option<String>,
    /// Where SIP listens, if there is no outlast.toml yet; as for outlast up
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) sip: Option<Listen>,
    /// A domain to serve, if there is no outlast.toml yet; as for outlast up
    #[arg(long, value_name = "DOMAIN", value_parser = config::domain_name)]
    pub(crate) domain: Vec<String>,
}

fn token_validity(text: &str) -> Result<Duration, String> {
    let validity = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if validity <= TOKEN_VALIDITY_MAX { Ok(validity) } else { Err("at most 7days".to_owned()) }
}

fn node_name(text: &str) -> Result<String, &'static str> {
    config::node_name(text)
        .ok_or("needs 1 to 32 of a-z, 0-9 and - that begin with a letter, for example node2")
}

#[derive(Debug, Subcommand)]
pub(crate) enum StateCommand {
    /// Make a copy of a part of the state anew: a store that is a copy forgets what it has, and gets everything again
    ///
    /// The managers make copies by themselves wherever one is missing: at a node that joins, on other hosts when a node is lost
    /// (cluster.copy_after), at a node that is back. So this is for a copy that is not trusted. It is refused for a store that
    /// serves, and where it would lose records or could: while nobody else has a copy, or who serves it does not answer.
    #[command(after_help = EXIT_CODES)]
    Duplicate {
        /// The store that shall be a copy anew: a name as in outlast state status, store2@node1, or its address
        store: String,
        /// Also if it is the only copy: until it is made, the loss of one host loses records
        #[arg(long)]
        force: bool,
    },
    /// Have copies serve what nobody serves any more, because the nodes that did will not come back
    ///
    /// The managers do so by themselves wherever they can know it. Of two nodes the second cannot know that it alone is
    /// left: when the first is lost for good, say so with this command on the second, and take it out of the cluster after that.
    /// It is refused where it would lose writes, and says which.
    #[command(after_help = EXIT_CODES)]
    Recover {
        /// Also where records are lost: the last writes of a copy, or all of a part that has none
        #[arg(long)]
        force: bool,
    },
    /// Every shard of the cluster's state: who serves it, its copies and how far they are behind, and the write quota
    ///
    /// Exit code 1 if a part of the state answers nobody, or has fewer copies than the quota asks for.
    #[command(after_help = EXIT_CODES)]
    Status {
        #[command(flatten)]
        json: Json,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TopologyCommand {
    /// Show all nodes and processes, as this node sees them
    Show {
        #[command(flatten)]
        json: Json,
    },
    /// Say how this node finds the other members, from now on; without arguments: show it
    Discover(DiscoverWishes),
}

#[derive(Debug, Args)]
pub(crate) struct DiscoverWishes {
    /// '*225.0.0.20:6200': a multicast address of 224.0.1.0 to 239.255.255.255; or discovery servers, of which any one
    /// that answers is enough
    #[arg(value_name = "*ADDR:PORT|HOST:PORT")]
    pub(crate) addresses: Vec<String>,
    /// The addresses are a list of all nodes
    #[arg(long, requires = "addresses")]
    pub(crate) nodes: bool,
    /// By nothing but the list of members that each node keeps
    #[arg(long, conflicts_with = "addresses")]
    pub(crate) known: bool,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum KeysCommand {
    /// Show how old the keys are, and when they are rotated; no secret
    Show {
        #[command(flatten)]
        json: Json,
    },
    /// Rotate the keys now
    ///
    /// Those before are accepted until the next rotation. Rotated twice, phones must register
    /// again to be reached, and calls set up before cannot be ended or changed through the node.
    #[command(verbatim_doc_comment)]
    Rotate {
        #[command(flatten)]
        json: Json,
    },
}

/// A process of a node; everything else it gets from the manager.
#[derive(Debug, Subcommand)]
pub(crate) enum Child {
    /// Talks to phones
    Edge(ChildArguments),
    /// Runs the registrar
    Container(ChildArguments),
    /// Runs the other processes
    Manager {
        /// The guardian's socket
        #[arg(long)]
        socket: PathBuf,
    },
    /// Compiles the component of an application for this machine
    Prepare {
        /// Where its files lie
        #[arg(long)]
        at: PathBuf,
    },
    /// Looks at every record of a store that is not in use
    Verify {
        #[arg(long)]
        store: PathBuf,
    },
}

/// A key never has an equals sign in it, a value may.
fn setting(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("needs KEY=VALUE, for example greeting=hello")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn application_name(text: &str) -> Result<String, String> {
    if is_name(text) {
        Ok(text.to_owned())
    } else {
        Err(format!("needs {NAME_NEEDS}, for example greeter"))
    }
}

/// A role is a plain word: lists of them are shown with spaces between.
fn role(text: &str) -> Result<String, &'static str> {
    let fits = (1..=32).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if fits {
        Ok(text.to_owned())
    } else {
        Err("needs 1 to 32 letters, digits, '-', '_' or '.', for example \"admin\"")
    }
}

#[derive(Debug, Args)]
pub(crate) struct ChildArguments {
    #[arg(long)]
    pub(crate) name: String,
    /// The manager's socket
    #[arg(long)]
    pub(crate) socket: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn faults_can_be_asked_for_in_a_build_for_tests_only() {
        let parsed = CommandLine::try_parse_from(["outlast", "fault", "container1", "wedge-sip"]);
        assert_eq!(parsed.is_ok(), cfg!(feature = "faults"));
    }
}
