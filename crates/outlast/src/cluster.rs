//! `outlast cluster`: makes a node the first member of a cluster, lets others join, leave, and be removed.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use config::{CLUSTER_PORT, FirstRun, NodeConfig, NodeSettings, edit};
use manager::founding;
use registrar::AccountStore;
use state::UnixMillis;
use topology::credentials::ClusterDirectory;
use topology::protocol::{Answer, Request};
use topology::{MemberFile, NodeState, RunBy};

use crate::command_line::{ClusterCommand, JoinWishes};
use crate::control::{ask, unexpected};
use crate::failure::Failure;
use crate::output;
use crate::state_command::must_be_elsewhere;
use crate::stores::{self, accounts};

mod accounts_along;
mod carrying;
mod containers;
mod leaving;

/// `[cluster]` of `outlast.toml`.
const SECTION: &str = "cluster";

/// How long a node that joins tries to reach a member, and how often.
const REACHED_WITHIN: Duration = Duration::from_secs(5);
const AGAIN_AFTER: Duration = Duration::from_millis(200);

pub(crate) fn cluster(directory: &Path, command: ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::Create { address } => create(directory, address),
        ClusterCommand::Token { valid_for } => token(directory, valid_for),
        ClusterCommand::Join(wishes) => join(directory, &wishes),
        ClusterCommand::Leave { force } => leaving::leave(directory, force),
        ClusterCommand::Remove { node, force } => remove(directory, &node, force),
        ClusterCommand::RotateCertificates => {
            must_be_member(directory)?;
            founding::renew_certificate(directory).map_err(anyhow::Error::from)?;
            output::line("the node has a new certificate; new connections show it within a minute");
            Ok(())
        }
    }
}

fn create(directory: &Path, address: Option<SocketAddr>) -> Result<(), Failure> {
    let is_due =
        || Ok::<_, Failure>(accounts_along::is_due(directory)? || carrying::is_due(directory)?);
    if founding::is_member(directory) && address.is_none() && is_due()? {
        // It was made one, and what comes then came to no end, or could not begin.
        return carry_along(directory);
    }
    let run_by = manager::run_by(stores::cluster::settings(directory).as_ref());
    if run_by == RunBy::Nodes {
        manager::server::etcd()
            .context("the cluster's repository needs etcd; nothing was changed")?;
    }
    let file = ConfigFile::open(directory, &FirstRun::default())?;
    let address = match (address, &file.config.cluster) {
        (Some(address), _) => address,
        (None, Some(cluster)) => cluster.address,
        (None, None) => own_address()?,
    };
    let settings = file.config.cluster.as_ref();
    if settings.is_none_or(|settings| settings.stores.count() > 0) {
        manager::stores_are_installed()
            .context("the cluster's state would have nowhere to lie, and nothing has changed")?;
    }
    let name = &file.config.node.name;
    founding::found_with_repository(directory, name, address, run_by)
        .map_err(anyhow::Error::from)?;
    if let Err(error) = file.write(&file.with_address(address)) {
        // Half a member would come up as one.
        founding::forget(directory).context("DIR/cluster cannot be removed again; remove it")?;
        return Err(error.into());
    }
    let is_up = open(directory)?;
    output::line(&format!("{name} is the first member of a new cluster, at {address}"));
    if is_up {
        carry_along(directory)?;
    } else {
        output::line(&format!(
            "start it: outlast up --dir {dir}; then have it carry what it has along: outlast cluster create --dir {dir}",
            dir = directory.display()
        ));
    }
    output::line("to let other nodes join it, get a token: outlast cluster token");
    Ok(())
}

/// What a node that was alone has: its accounts and names first, then its state.
fn carry_along(directory: &Path) -> Result<(), Failure> {
    if accounts_along::is_due(directory)? {
        accounts_along::carry_along(directory)?;
    }
    carrying::carry_along(directory)
}

/// The address from which this host reaches others.
fn own_address() -> anyhow::Result<SocketAddr> {
    // Nothing is sent: the kernel only says which way it would take to a documentation address.
    let way = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    let ip = way.context("this host's address is not clear; name it with --address")?.ip();
    if ip.is_loopback() || ip.is_unspecified() {
        bail!("this host's address is not clear; name it with --address, for example 192.0.2.11");
    }
    Ok(SocketAddr::new(ip, CLUSTER_PORT))
}

fn token(directory: &Path, valid_for: Duration) -> Result<(), Failure> {
    must_be_member(directory)?;
    let token = founding::join_token(directory, valid_for).map_err(anyhow::Error::from)?;
    output::line(&token.to_string());
    output::remark(&format!(
        "who has this line may join within {}; on the other host: outlast cluster join TOKEN",
        humantime::format_duration(valid_for)
    ));
    Ok(())
}

fn join(directory: &Path, wishes: &JoinWishes) -> Result<(), Failure> {
    if founding::is_member(directory) {
        let directory = directory.display().to_string();
        return Err(anyhow::Error::from(founding::FoundingError::IsMember { directory }).into());
    }
    let default = FirstRun::default();
    let first_run = FirstRun {
        listen: wishes.sip.map_or(default.listen, |sip| vec![sip]),
        domains: if wishes.domain.is_empty() { default.domains } else { wishes.domain.clone() },
    };
    let is_first_run = !directory.join(config::FILE_NAME).exists();
    let file = ConfigFile::open(directory, &first_run)?;
    let joined = join_with(directory, wishes, &file);
    if joined.is_err() && is_first_run {
        // Wishes that did not work shall not be the configuration of the next try.
        fs::remove_file(&file.path).with_context(|| file.path.display().to_string())?;
    }
    joined
}

fn join_with(directory: &Path, wishes: &JoinWishes, file: &ConfigFile) -> Result<(), Failure> {
    must_be_down(directory)?;
    must_be_empty(directory)?;
    // A name that nobody chose is another node's already.
    let chosen = (file.config.node != NodeSettings::default()).then_some(&file.config.node.name);
    let name = wishes.name.as_ref().or(chosen).cloned();
    let address = wishes.address.or(file.config.cluster.as_ref().map(|cluster| cluster.address));
    let run_by = manager::run_by(file.config.cluster.as_ref());
    let joined = stores::runtime()?.block_on(admitted(&wishes.token, name, address, run_by))?;
    let member = &joined.admission.member;
    let written = joined.write(directory).map_err(anyhow::Error::from).and_then(|()| {
        let named =
            edit::set(&file.with_address(member.address), "node", "name", &quoted(&member.name));
        file.write(&named)
    });
    if let Err(error) = written {
        founding::forget(directory).context("DIR/cluster cannot be removed again; remove it")?;
        let name = &member.name;
        let told = format!(
            "{name} was admitted and cannot be; on a member: outlast cluster remove {name}"
        );
        return Err(error.context(told).into());
    }
    let others = joined.admission.membership.members.iter().filter(|other| *other != member);
    let others: Vec<&str> = others.map(|other| other.name.as_str()).collect();
    output::line(&format!(
        "this node is {} now, at {}, in a cluster with {}",
        member.name,
        member.address,
        others.join(", ")
    ));
    output::line(&format!("start it: outlast up --dir {}", directory.display()));
    Ok(())
}

/// Asks to be admitted, for a while: the member that was asked for the token may just be coming up.
async fn admitted(
    token: &str,
    name: Option<String>,
    address: Option<SocketAddr>,
    repository: RunBy,
) -> anyhow::Result<manager::Joined> {
    let until = Instant::now() + REACHED_WITHIN;
    loop {
        match manager::join(token, name.clone(), address, CLUSTER_PORT, repository).await {
            Err(manager::JoinError::OutOfReach { .. }) if Instant::now() < until => {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            joined => return Ok(joined?),
        }
    }
}

/// What a node has of its own would be out of reach for the cluster, and its lives would be others'.
fn must_be_empty(directory: &Path) -> Result<(), Failure> {
    let mut holds = held(directory)?;
    let applications = fs::read_dir(directory.join("apps")).into_iter().flatten().flatten();
    let is_one = |entry: &fs::DirEntry| {
        !entry.file_name().to_string_lossy().starts_with('.') && entry.path().is_dir()
    };
    let applications = applications.filter(is_one).count();
    if applications > 0 {
        holds.push(format!("{applications} applications"));
    }
    if holds.is_empty() {
        return Ok(());
    }
    let told = format!(
        "{} holds {}, which nobody in the cluster would find; join with an empty directory (--dir NEW), or make this node \
         the first of a cluster (outlast cluster create) and let the others join it",
        directory.display(),
        holds.join(", ")
    );
    Err(anyhow::Error::msg(told).into())
}

/// What lies in the node's own stores, by kinds. Its applications are the cluster's, if it is a member.
fn held(directory: &Path) -> Result<Vec<String>, Failure> {
    let mut held = Vec::new();
    let mut count = |count: usize, what: &str| {
        if count > 0 {
            held.push(format!("{count} {what}"));
        }
    };
    let runtime = stores::runtime()?;
    if directory.join("accounts").exists() && !accounts::are_shared(directory)? {
        let accounts = AccountStore::new(Arc::new(accounts::open_own(directory)?));
        count(runtime.block_on(accounts.list()).map_err(anyhow::Error::from)?.len(), "accounts");
    }
    if stores::state(directory).exists() {
        let store = stores::open_own_state(directory)?;
        let now = UnixMillis::from(std::time::SystemTime::now());
        let listed = runtime.block_on(registrar::registrations(&store, now));
        count(listed.map_err(anyhow::Error::from)?.len(), "registrations");
        drop(store);
        count(crate::sessions::count_all(directory)?, "sessions");
    }
    Ok(held)
}

fn must_be_down(directory: &Path) -> Result<(), Failure> {
    match ask(directory, Request::Status) {
        Err(Failure::NotUp { .. }) => Ok(()),
        Ok(_) | Err(Failure::ComingUp { .. } | Failure::Unmanaged { .. }) => {
            let told = format!(
                "the node in {} runs; stop it before it joins: it comes up under another name and number",
                directory.display()
            );
            Err(anyhow::Error::msg(told).into())
        }
        Err(failure) => Err(failure),
    }
}

fn remove(directory: &Path, node: &str, force: bool) -> Result<(), Failure> {
    must_be_member(directory)?;
    let files = ClusterDirectory::of_node(directory);
    let file = MemberFile::load(&files.members()).map_err(anyhow::Error::from)?;
    if let Some(member) = file.membership.named(node)
        && is_lost(directory, node)?
    {
        must_be_elsewhere(directory, node, member.address.ip(), force)?;
    }
    let request = Request::ClusterRemove { node: node.to_owned(), is_leaving: false };
    match ask(directory, request)? {
        Answer::Done => {
            output::line(&format!("{node} is no member any more; its number does not come back"));
            Ok(())
        }
        Answer::Refused { reason } => Err(anyhow::Error::msg(reason).into()),
        other => Err(unexpected(&other)),
    }
}

fn is_lost(directory: &Path, node: &str) -> Result<bool, Failure> {
    let view = containers::view(directory)?;
    let node = view.nodes.iter().find(|entry| entry.name == node);
    Ok(node.is_some_and(|entry| entry.state == NodeState::Lost))
}

fn must_be_member(directory: &Path) -> Result<(), Failure> {
    stores::must_exist(directory)?;
    if founding::is_member(directory) {
        return Ok(());
    }
    let told = format!(
        "{} is in no cluster; make one: outlast cluster create, or join one: outlast cluster join TOKEN",
        directory.display()
    );
    Err(anyhow::Error::msg(told).into())
}

/// Has the manager look at `DIR/cluster/` again. Whether there is one.
fn open(directory: &Path) -> Result<bool, Failure> {
    match ask(directory, Request::ClusterOpen) {
        Ok(Answer::Done) => Ok(true),
        Ok(Answer::Refused { reason }) => {
            output::remark(&format!("the running node does not follow: {reason}"));
            Ok(true)
        }
        Ok(other) => Err(unexpected(&other)),
        Err(Failure::NotUp { .. }) => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// `outlast.toml`, of which single lines are changed.
struct ConfigFile {
    path: PathBuf,
    text: String,
    config: NodeConfig,
}

impl ConfigFile {
    /// Reads it, or writes that of a first run.
    fn open(directory: &Path, first_run: &FirstRun) -> Result<ConfigFile, Failure> {
        let path = directory.join(config::FILE_NAME);
        let config = if path.exists() {
            config::load(&path)?
        } else {
            crate::up::make_directory(directory)?;
            config::first_run(&path, first_run)?
        };
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(ConfigFile { path, text, config })
    }

    fn with_address(&self, address: SocketAddr) -> String {
        edit::set(&self.text, SECTION, "address", &quoted(&address.to_string()))
    }

    /// Replaces it, whole or not at all; a text that would be refused is not written.
    fn write(&self, text: &str) -> anyhow::Result<()> {
        let path = self.path.display();
        if let Err(problems) = config::parse(text) {
            let first = problems.first().map(ToString::to_string).unwrap_or_default();
            bail!(
                "{path} cannot be changed by itself ({first}); write [{SECTION}] into it by hand"
            );
        }
        let mode = fs::metadata(&self.path).map_or(0o644, |metadata| metadata.permissions().mode());
        let beside = self.path.with_extension("new");
        let replace = || {
            let mut options = OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(mode & 0o777).open(&beside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&beside, &self.path)
        };
        replace().with_context(|| format!("{path} cannot be written"))
    }
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}
