//! `outlast up`: the node's guardian, in the foreground.

use std::cell::Cell;
use std::env;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use config::{FirstRun, NodeConfig};
use manager::{GuardOptions, Serving};
use rustix::process::{Signal, getpid, kill_process};
use tracing::{info, warn};

use crate::command_line::UpWishes;
use crate::configuration::taking::{self, Taken};
use crate::failure::Failure;
use crate::outlet::Outlet;
use crate::{formats, logging, stores};

/// What was said last waits this long for whoever reads it.
const PATIENCE: Duration = Duration::from_millis(500);

pub(crate) fn up(directory: &Path, wishes: &UpWishes) -> Result<(), Failure> {
    make_directory(directory)?;
    // Before anything of it is looked at: of two that start it at a time one goes on, with what it has found.
    let held = manager::hold(directory)?;
    let path = directory.join(config::FILE_NAME);
    let is_first_run = !path.exists();
    let Taken { mut config, told } = match is_first_run {
        true => Taken { config: first_run(&path, wishes)?, told: Vec::new() },
        false => taking::take(directory)?,
    };
    // Behind that: the node's copy of the repository is as new as it can be.
    formats::check(directory)?;
    let (stdout, stderr) = (Outlet::new(io::stdout()), Outlet::new(io::stderr()));
    // A directory that cannot be used is told by the guardian, with what to do about it.
    let _ = DirBuilder::new().recursive(true).mode(0o700).create(directory.join("log"));
    logging::to_file_and_person(&logging::file(directory, "guardian"), &config, stderr.clone());
    told.iter().for_each(|line| warn!("{line}"));
    if is_first_run {
        info!(file = %path.display(), "first run: wrote the configuration");
    } else {
        override_for_this_run(&mut config, wishes);
    }

    let executable = env::current_exe().context("the path of this program")?;
    let manager = move |socket: &Path| {
        let mut command = Command::new(&executable);
        command.args(["process", "manager", "--socket"]).arg(socket);
        command
    };
    if wishes.while_stdin {
        stop_when_stdin_ends().context("a thread that waits for the end of standard input")?;
    }
    let has_served = Rc::new(Cell::new(false));
    let (serves, ready_to, lines_to) = (Rc::clone(&has_served), stdout.clone(), stderr.clone());
    let options = GuardOptions {
        config,
        manager: Box::new(manager),
        on_serving: Box::new(move |serving| {
            serves.set(true);
            ready_to.line(&ready_line(serving));
        }),
        on_line: Box::new(move |line| lines_to.line(line)),
    };
    let guarded = stores::runtime()?.block_on(manager::guard(held, options));
    if guarded.is_err() && is_first_run && !has_served.get() {
        // Wishes that did not work (a taken port, say) shall not be the configuration from now on.
        match fs::remove_file(&path) {
            Ok(()) => info!(file = %path.display(), "removed it again"),
            Err(error) => warn!(file = %path.display(), %error, "remove it before the next try"),
        }
    }
    stdout.flush(PATIENCE);
    stderr.flush(PATIENCE);
    Ok(guarded?)
}

/// Whoever holds the other end may die without a word; the kernel closes it in any case. It is as if that one had sent
/// a last SIGTERM, which is obeyed whenever it comes: before there is a node, it ends this process.
fn stop_when_stdin_ends() -> io::Result<()> {
    thread::Builder::new().name("stdin".to_owned()).spawn(|| {
        // An error is an end as well.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let sent = kill_process(getpid(), Signal::TERM);
        debug_assert!(sent.is_ok(), "a process may signal itself");
    })?;
    Ok(())
}

/// Makes the node's directory, if there is none.
pub(crate) fn make_directory(directory: &Path) -> anyhow::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(|| {
        format!("{} cannot be created; choose another with --dir", directory.display())
    })
}

/// Writes `outlast.toml` with what was wished.
fn first_run(path: &Path, wishes: &UpWishes) -> Result<NodeConfig, Failure> {
    let default = FirstRun::default();
    let first_run = FirstRun {
        listen: wishes.sip.map_or(default.listen, |sip| vec![sip]),
        domains: if wishes.domain.is_empty() { default.domains } else { wishes.domain.clone() },
    };
    Ok(config::first_run(path, &first_run)?)
}

/// The file stays as it is; the flags hold for this run, and the log says so.
fn override_for_this_run(config: &mut NodeConfig, wishes: &UpWishes) {
    if let Some(sip) = wishes.sip
        && let Some(edge) = config.edge.instances.first_mut()
        && edge.listen != [sip]
    {
        warn!(edge = edge.name, %sip, "--sip overrides edge.instances.listen for this run");
        edge.listen = vec![sip];
    }
    if !wishes.domain.is_empty() && wishes.domain != config.registrar.domains {
        warn!(domains = ?wishes.domain, "--domain overrides registrar.domains for this run");
        config.registrar.domains.clone_from(&wishes.domain);
    }
}

/// `outlast ready sip=udp:ADDR:PORT,tcp:ADDR:PORT node=… pid=…`, each further edge as `sip.NAME=…`.
fn ready_line(serving: &Serving) -> String {
    let mut words = vec!["outlast ready".to_owned()];
    for (number, (name, addresses)) in serving.edges.iter().enumerate() {
        let addresses = addresses.join(",");
        words.push(match number {
            0 => format!("sip={addresses}"),
            _ => format!("sip.{name}={addresses}"),
        });
    }
    words.push(format!("node={}", serving.node));
    words.push(format!("pid={}", std::process::id()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_names_the_first_edge_as_sip_and_the_others_by_name() {
        let edge = |name: &str, port: u16| {
            let addresses = vec![format!("udp:127.0.0.1:{port}"), format!("tcp:127.0.0.1:{port}")];
            (name.to_owned(), addresses)
        };
        let serving = Serving {
            node: "node1".to_owned(),
            edges: vec![edge("edge1", 5060), edge("edge2", 5070)],
        };
        assert_eq!(
            ready_line(&serving),
            format!(
                "outlast ready sip=udp:127.0.0.1:5060,tcp:127.0.0.1:5060 \
                 sip.edge2=udp:127.0.0.1:5070,tcp:127.0.0.1:5070 node=node1 pid={}",
                std::process::id()
            )
        );
    }
}
