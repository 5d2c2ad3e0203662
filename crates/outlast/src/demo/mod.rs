//! `outlast demo`: phones, calls, processes that die and versions that change in the middle, and a table of what survived.
//!
//! The story itself is told by the crate `demo`; here it gets a real node of its own ([`node`]) and somebody who
//! listens ([`progress`]). Nothing stays behind, however it ends, unless it is asked for or needed to see what went
//! wrong.

mod node;
mod progress;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use ::demo::report::Report;
use ::demo::story::{self, Rollout, Stage};
use ::demo::webassembly::{COMPONENT, Version};
use anyhow::{Context as _, anyhow};
use config::manifest;
use tokio::signal::unix::{SignalKind, signal};
use topology::TopologyView;
use topology::protocol::{Answer, Request, RolloutPace};

use crate::command_line::Reader;
use crate::control::{ask, unexpected};
use crate::failure::Failure;
use crate::{app, output, stores};
use node::{Home, Node};
use progress::Progress;

/// How telling the story ended.
enum End {
    Told(Report),
    Failed(Failure),
    Interrupted,
}

/// `directory` is where the node's files stay afterwards; without one they are removed.
pub(crate) fn demo(directory: Option<PathBuf>, reader: Reader) -> Result<(), Failure> {
    let mut home = Home::make(directory)?;
    let mut progress = Progress::new(reader);
    progress.headline(
        "Phones and calls on a node of their own, processes that die and versions that change under them.",
    );
    let began = Instant::now();
    let runtime = stores::runtime()?;
    let end = runtime.block_on(async {
        let node = Node::start(&home)?;
        let end = tokio::select! {
            told = tell(&node, &mut progress) => told.map_or_else(End::Failed, End::Told),
            interrupted = interrupted() => {
                interrupted.map_or_else(End::Failed, |()| End::Interrupted)
            }
        };
        progress.newline();
        Ok::<End, Failure>(end)
    });
    // Somebody may still be watching for a process that will not come back.
    runtime.shutdown_background();
    let end = end?;
    match end {
        End::Told(report) => {
            show(&report, reader, began)?;
            if report.survived {
                return Ok(());
            }
            for loss in &report.losses {
                output::remark(&format!("lost: {loss}"));
            }
            home.keep();
            Err(anyhow!("not everything survived").into())
        }
        End::Failed(failure) => {
            home.keep();
            Err(failure)
        }
        End::Interrupted => Err(anyhow!("interrupted; the node is stopped").into()),
    }
}

async fn tell(node: &Node, progress: &mut Progress) -> Result<Report, Failure> {
    node.ready().await?;
    let directory = node.directory().to_owned();
    let look = Arc::new(move || look(&directory).map_err(|failure| failure.to_string()));
    let directory = node.directory().to_owned();
    let bring_in = Arc::new(move |version| bring_in(&directory, version));
    let stage = Stage { look, bring_in };
    story::run(&stage, progress).await.map_err(|error| anyhow::Error::from(error).into())
}

/// The processes of the node in that directory.
fn look(directory: &Path) -> Result<TopologyView, Failure> {
    match ask(directory, Request::Status)? {
        Answer::Status(status) => Ok(status.view),
        other => Err(unexpected(&other)),
    }
}

/// Writes a version of the agent into a directory as its developer would have it, and deploys that; another version than the
/// first as `outlast app upgrade` does.
fn bring_in(node: &Path, version: Version) -> Result<Rollout, String> {
    let directory = node.join(format!("demo-agent-{version}"));
    let written = fs::create_dir(&directory)
        .and_then(|()| fs::write(directory.join(manifest::FILE_NAME), version.manifest()))
        .and_then(|()| fs::write(directory.join(COMPONENT), version.module()))
        .with_context(|| format!("{} cannot be written", directory.display()));
    written.map_err(|error| format!("{error:#}"))?;
    let pace = match version {
        Version::First => RolloutPace::AtOnce,
        Version::Second | Version::Broken => RolloutPace::OneByOne,
    };
    match app::deploy(node, &directory, &[], pace, None) {
        Ok(()) => Ok(Rollout::In),
        Err(Failure::RolledBack { reason, .. }) => Ok(Rollout::TakenBack { reason }),
        Err(failure) => Err(failure.to_string()),
    }
}

/// Ctrl-C, an orderly end asked for, or a terminal that was closed: the node has nobody else to end it.
async fn interrupted() -> Result<(), Failure> {
    let cannot = |error: std::io::Error| Failure::Other(error.into());
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(cannot)?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
    Ok(())
}

fn show(report: &Report, reader: Reader, began: Instant) -> Result<(), Failure> {
    if reader == Reader::Program {
        return output::json(report);
    }
    output::line("");
    output::table(&Report::HEAD, &report.rows());
    output::line("");
    output::line(
        "SLOWEST: the longest that anybody waited. NOTICED, BACK: how long after the fault the node",
    );
    output::line("knew of it, and another life of the process served.");
    output::line("");
    if report.survived {
        let took = began.elapsed().as_secs_f32();
        output::line(&match report.refused() {
            0 => format!("Nothing was lost. ({took:.1} s)"),
            refused => format!(
                "Nothing that was up was lost. New calls that {} refused before it was taken back: {refused}. ({took:.1} s)",
                Version::Broken
            ),
        });
    }
    Ok(())
}
