//! Outlast as an operator starts it: `outlast up` on a directory of its own, with what `outlast.toml` has by default
//! but for address, domain and whether phones log in. Durability stays as it is.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use registrar::AccountStore;
use registrar::bindings::{self, Bindings, Policy, Updated, update};
use registrar::register::Register;
use serde::Deserialize;
use state::engine::embedded::{Durability, EmbeddedStore, Options, size_of};
use state::{Batch, Expect, Store as _, UnixMillis};

use super::process::{Process, family, memory_bytes};
use super::{Authentication, Bench, DOMAIN, Instances, PASSWORD, Server};
use crate::load::Watch;
use crate::messages;

const START_LIMIT: Duration = Duration::from_secs(60);
const LOG: &str = "outlast";
/// Commits that wait for each other at one time while a store is filled.
const COMMITS_TOGETHER: usize = 2_000;

/// A node that serves.
#[derive(Debug)]
pub struct Node {
    server: Server,
}

/// One process in `outlast status --json`.
#[derive(Debug, Deserialize)]
struct ProcessStatus {
    name: String,
    pid: Option<i32>,
}

#[derive(Debug, Deserialize)]
struct Status {
    processes: Vec<ProcessStatus>,
}

impl Node {
    /// A node with these lines at the end of its configuration's `[registrar]` section.
    ///
    /// # Errors
    /// When it does not serve, with the end of its output.
    pub fn start(
        bench: &Bench,
        authentication: Authentication,
        registrar_settings: &str,
    ) -> anyhow::Result<Node> {
        let directory = bench.directory("outlast")?;
        if authentication == Authentication::Digest {
            let made = accounts(bench)?;
            copy_store(&made, &directory.join("accounts"))?;
        }
        Node::start_in(bench, directory, authentication, registrar_settings)
    }

    /// A node that finds this store of bindings, see [`bindings()`].
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_with_bindings(bench: &Bench, filled: &Path) -> anyhow::Result<Node> {
        let directory = bench.directory("outlast")?;
        fs::rename(filled, directory.join("state"))?;
        Node::start_in(bench, directory, Authentication::Off, "")
    }

    fn start_in(
        bench: &Bench,
        directory: PathBuf,
        authentication: Authentication,
        registrar_settings: &str,
    ) -> anyhow::Result<Node> {
        let authenticate = authentication == Authentication::Digest;
        fs::write(
            directory.join("outlast.toml"),
            format!(
                "[registrar]\ndomains = [\"{DOMAIN}\"]\nauthenticate = {authenticate}\n{registrar_settings}\n\
                 [[edge.instances]]\nname = \"edge1\"\nlisten = [\"127.0.0.1:0\"]\n\
                 [edge.tcp]\nconnections_per_address_max = 20000\n\
                 [container]\nhttp = \"127.0.0.1:0\"\n\
                 [log]\nlevel = \"warn\"\n"
            ),
        )?;
        let mut command = Command::new(bench.binaries.join("outlast"));
        command.arg("up").arg("--dir").arg(&directory);
        let mut process = Process::start(command, LOG, &directory)?;
        let log = directory.join(format!("{LOG}.log"));
        let mut addresses = None;
        process.await_ready(&directory, START_LIMIT, || {
            addresses = fs::read_to_string(&log)?.lines().find_map(ready_addresses);
            Ok(addresses.is_some())
        })?;
        let (udp, tcp) = addresses.context("the ready line has addresses")?;
        let watch = Watch::Node(directory.clone());
        Ok(Node { server: Server { udp, tcp: Some(tcp), watch, directory, process } })
    }

    /// Deploys `apps/answer` so that it answers every call.
    ///
    /// # Errors
    /// When it is not built, or the node does not take it.
    pub fn deploy_answer(&self, bench: &Bench, instances: Instances) -> anyhow::Result<()> {
        const COMPONENT: &str = "answer.wasm";
        let directory = bench.directory("answer")?;
        let built = bench.applications.join("answer").join(COMPONENT);
        fs::copy(&built, directory.join(COMPONENT))
            .with_context(|| format!("{} is missing; apps/build makes it", built.display()))?;
        let reuse = instances == Instances::Reused;
        fs::write(
            directory.join("outlast-app.toml"),
            format!(
                "name = \"answer\"\nversion = \"1.0.0\"\ncomponent = \"{COMPONENT}\"\n\
                 [sip]\nmatch = {{ equal = [\"request.method\", \"INVITE\"] }}\n\
                 [instances]\nreuse = {reuse}\n"
            ),
        )?;
        let output = Command::new(bench.binaries.join("outlast"))
            .args(["app", "deploy"])
            .arg(&directory)
            .arg("--dir")
            .arg(&self.server.directory)
            .output()?;
        if !output.status.success() {
            bail!("not deployed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// As any other server.
    pub fn into_server(self) -> Server {
        self.server
    }

    /// As any other server, while it stays a node.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Process id of the process of that name.
    ///
    /// # Errors
    /// When the node does not say.
    pub fn pid_of(&self, bench: &Bench, name: &str) -> anyhow::Result<i32> {
        let output = Command::new(bench.binaries.join("outlast"))
            .args(["status", "--json", "--dir"])
            .arg(&self.server.directory)
            .output()?;
        let status: Status = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let found = status.processes.into_iter().find(|process| process.name == name);
        found.and_then(|process| process.pid).with_context(|| format!("{name} does not run"))
    }

    /// Octets of anonymous memory of all its processes: what it allocated, without the store's shared pages.
    pub fn private_memory_bytes(&self) -> u64 {
        memory_bytes(&self.pids())
    }

    /// All its processes. None is a child of the guardian for sure, so they are found by the directory in their
    /// command lines.
    fn pids(&self) -> Vec<i32> {
        let directory = self.server.directory.as_os_str().as_encoded_bytes();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let of_this_node = pids.filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.split(|octet| *octet == 0).any(|word| word == directory))
        });
        let mut pids: Vec<i32> = of_this_node.chain(family(self.server.process.pid())).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// What the store of bindings and calls holds.
    ///
    /// # Errors
    /// The store's.
    pub fn state_size(&self) -> anyhow::Result<state::engine::embedded::StoreSize> {
        // Not opened as the node's processes open it: that would sweep and sync beside them.
        Ok(size_of(&self.server.directory.join("state"))?)
    }
}

/// `outlast ready sip=udp:ADDR:PORT,tcp:ADDR:PORT …`
fn ready_addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let list = line.strip_prefix("outlast ready ")?.split_whitespace();
    let list: Vec<&str> =
        list.into_iter().find_map(|word| word.strip_prefix("sip="))?.split(',').collect();
    let of = |transport: &str| {
        list.iter().find_map(|entry| entry.strip_prefix(transport)?.strip_prefix(':')?.parse().ok())
    };
    Some((of("udp")?, of("tcp")?))
}

/// The store of accounts of all users, made once. It is written without waiting for the disk; a node opens it as its own.
///
/// # Errors
/// The store's.
pub fn accounts(bench: &Bench) -> anyhow::Result<PathBuf> {
    let directory = bench.scratch.join("accounts");
    if directory.exists() {
        return Ok(directory);
    }
    let store = Arc::new(EmbeddedStore::open(&directory, relaxed())?);
    let accounts = AccountStore::new(store.clone());
    let runtime = runtime()?;
    runtime.block_on(async {
        for number in 0..bench.users {
            accounts.add(&format!("user{number}@{DOMAIN}"), PASSWORD.as_bytes(), &[]).await?;
        }
        anyhow::Ok(())
    })?;
    store.sync()?;
    Ok(directory)
}

/// A store with a binding of each of `users` users, all of which end at one time: as if they had registered at once.
///
/// # Errors
/// The store's.
pub fn bindings(bench: &Bench, users: u32, end: SystemTime) -> anyhow::Result<PathBuf> {
    let directory = bench.directory("bindings")?;
    let store = EmbeddedStore::open(&directory, relaxed())?;
    let (now, expires_at) = (UnixMillis::from(SystemTime::now()), UnixMillis::from(end));
    let lifetime = end.duration_since(SystemTime::now()).unwrap_or_default();
    // Whatever the REGISTER asks for, it gets what is left until then.
    let policy = Policy {
        expires_min: Duration::ZERO,
        expires_default: lifetime,
        expires_max: lifetime,
        contacts_max: 1,
    };
    let numbers: Vec<u32> = (0..users).collect();
    runtime()?.block_on(async {
        for together in numbers.chunks(COMMITS_TOGETHER) {
            let commits = together.iter().map(|number| {
                let (key, value) = binding(*number, now, &policy)?;
                anyhow::Ok(store.commit(Batch::new().put(
                    key,
                    Expect::Any,
                    value,
                    Some(expires_at),
                )))
            });
            for commit in commits.collect::<Result<Vec<_>, _>>()? {
                commit.await?;
            }
        }
        anyhow::Ok(())
    })?;
    store.sync()?;
    Ok(directory)
}

/// The record that a REGISTER over UDP leaves.
fn binding(number: u32, now: UnixMillis, policy: &Policy) -> anyhow::Result<(state::Key, Bytes)> {
    let message = messages::parsed(messages::register_behind_edge(number, 1));
    let register = Register::read(&message, &messages::phone_flow())?;
    match update(&Bindings::default(), &register, policy, now)? {
        Updated::Changed(bindings) => {
            Ok((bindings::key(&format!("sip:user{number}@{DOMAIN}")), bindings.encode()))
        }
        Updated::Unchanged => bail!("a first REGISTER leaves a binding"),
    }
}

fn relaxed() -> Options {
    Options { durability: Durability::Relaxed, ..Options::default() }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Copies a store that nobody has open.
fn copy_store(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir(to)?;
    let file = "data.mdb";
    if fs::copy(from.join(file), to.join(file))? == 0 {
        bail!("{} is empty", from.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_the_ready_line() {
        let line = "outlast ready sip=udp:127.0.0.1:5060,tcp:127.0.0.1:5061 node=n";
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(ready_addresses(line), Some((local(5060), local(5061))));
        assert_eq!(ready_addresses("outlast is not ready"), None);
    }
}
