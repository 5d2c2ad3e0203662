//! Kamailio, with the configurations of `bench/peers/kamailio`, in the foreground.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use sip::digest::Algorithm;

use super::process::Process;
use super::{
    Allocator, Authentication, Bench, DOMAIN, PASSWORD, Server, answers_options,
    answers_options_by_stream, free_port, path_text,
};
use crate::load::Watch;

const BINARY: &str = "kamailio";
/// Shared memory, all of which is touched at the start: room for the calls of some seconds, 42 kB each.
const SHARED_MEGABYTES: &str = "2560";
/// The same for a large table.
const SHARED_MEGABYTES_LARGE: &str = "4096";
/// Slots of a table that is not large.
const SLOTS_LOG2: u32 = 14;
const PRIVATE_MEGABYTES: &str = "64";
const START_LIMIT: Duration = Duration::from_secs(60);
const CONTROL: &str = "control.sock";

/// Registrar and stateful proxy; its table has `2^slots_log2` slots.
pub(super) fn registrar(
    bench: &Bench,
    authentication: Authentication,
    allocator: Allocator,
    slots_log2: u32,
) -> anyhow::Result<Server> {
    start(bench, "registrar.cfg", authentication, allocator, slots_log2)
}

/// Forwards without state.
pub(super) fn stateless(bench: &Bench, allocator: Allocator) -> anyhow::Result<Server> {
    start(bench, "stateless.cfg", Authentication::Off, allocator, SLOTS_LOG2)
}

fn start(
    bench: &Bench,
    configuration: &str,
    authentication: Authentication,
    allocator: Allocator,
    slots_log2: u32,
) -> anyhow::Result<Server> {
    let directory = bench.directory(BINARY)?;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let workers = std::thread::available_parallelism()?.to_string();
    let mut command = Command::new(BINARY);
    command.current_dir(&directory).args(["-DD", "-E", "-f"]);
    command.arg(bench.peers.join("kamailio").join(configuration));
    command.arg("-Y").arg(&directory).arg("-w").arg(&directory);
    let shared = if slots_log2 > SLOTS_LOG2 { SHARED_MEGABYTES_LARGE } else { SHARED_MEGABYTES };
    command.args(["-m", shared, "-M", PRIVATE_MEGABYTES]);
    if allocator == Allocator::Fast {
        command.args(["-x", "fm", "-X", "fm"]);
    }
    command.args(["-n", &workers, "-N", &workers]);
    command.args(["-l", &format!("udp:{address}"), "-l", &format!("tcp:{address}")]);
    command.args(["-A", &format!("DOMAIN={DOMAIN}"), "-A", &format!("HASH_SIZE={slots_log2}")]);
    command.args(["-A", &format!("CONTROL=\"unix:{}\"", path_text(&directory, CONTROL))]);
    if authentication == Authentication::Digest {
        write_accounts(&directory, bench.users)?;
        command.args(["-A", "WITH_AUTH"]);
        command.args(["-A", &format!("ACCOUNTS=\"text://{}\"", path_text(&directory, ""))]);
    }
    let mut process = Process::start(command, BINARY, &directory)?;
    // Its workers for TCP start last, and CPU is that of all processes there are when the load begins.
    process.await_ready(&directory, START_LIMIT, || {
        Ok(answers_options(address)? && answers_options_by_stream(address))
    })?;
    let watch = Watch::Processes(vec![process.pid()]);
    Ok(Server { udp: address, tcp: Some(address), watch, directory, process })
}

/// The table that the hash table of accounts is filled from, in the form of the module `db_text`.
fn write_accounts(directory: &Path, users: u32) -> anyhow::Result<()> {
    std::fs::write(
        directory.join("version"),
        "id(int,auto) table_name(string) table_version(int)\n1:htable:2\n",
    )?;
    Ok(std::fs::write(directory.join("htable"), accounts_table(users))?)
}

fn accounts_table(users: u32) -> String {
    let mut table = String::from(
        "id(int,auto) key_name(string) key_type(int) value_type(int) key_value(string) expires(int)\n",
    );
    for number in 0..users {
        let text = format!("user{number}:{DOMAIN}:{PASSWORD}");
        let hash = Algorithm::Md5.hash_joined(&[text.as_bytes()]).to_hex();
        writeln!(table, "{}:user{number}:0:0:{}:0", number + 1, hash.as_str())
            .expect("a text takes all");
    }
    table
}

/// `kamcmd core.shmmem`: octets that its allocator has given out.
pub(super) fn shared_memory_used(directory: &Path) -> anyhow::Result<u64> {
    let control = format!("unix:{}", path_text(directory, CONTROL));
    let output = Command::new("kamcmd")
        .args(["-s", &control, "core.shmmem"])
        .output()
        .context("kamcmd cannot be started: it comes with Debian's package kamailio")?;
    let text = String::from_utf8_lossy(&output.stdout);
    match used_bytes(&text) {
        Some(bytes) => Ok(bytes),
        None => bail!(
            "kamcmd core.shmmem says {text:?} and {:?}",
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

fn used_bytes(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("used:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_written_as_db_text_reads_them() {
        // MD5 of user1:example.org:secret, by another program.
        let table = accounts_table(2);
        assert_eq!(table.lines().last(), Some("2:user1:0:0:d3e352aa5b45dd0c75e503ef317b3fe7:0"),);
    }

    #[test]
    fn used_memory_is_read_from_what_kamcmd_prints() {
        let text = "{\n\ttotal: 134217728\n\tused: 5413904\n\treal_used: 5504408\n}\n";
        assert_eq!(used_bytes(text), Some(5_413_904));
        assert_eq!(used_bytes("error: 500"), None);
    }
}
