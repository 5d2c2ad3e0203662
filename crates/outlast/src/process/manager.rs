//! The manager: welcomed by the guardian, it runs the node's edges and containers.

use std::env;
use std::path::Path;
use std::process::{Command, abort};
use std::sync::Arc;

use anyhow::Context as _;
use config::NodeConfig;
use manager::{ChildStart, Guarded, OperatorLines, Options};

use crate::failure::{Failure, with_causes};
use crate::{logging, recovery, stores};

/// An option of the allocator. Transparent huge pages are off for edges and containers, unless the operator says
/// otherwise: while a process grows, each is cleared in one go in the middle of a turn (a tenth of a container's time).
const ALLOW_HUGE_PAGES: &str = "MIMALLOC_ALLOW_THP";

/// Runs the manager whose guardian listens on `socket`, until the node's end.
pub(super) fn run(socket: &Path) -> Result<(), Failure> {
    stores::runtime()?.block_on(run_guarded(socket))
}

async fn run_guarded(socket: &Path) -> Result<(), Failure> {
    let guarded = Guarded::connect(socket).await.context("a manager is started by outlast up")?;
    let config: NodeConfig =
        serde_json::from_value(guarded.settings().clone()).context("the guardian's settings")?;
    let lines = OperatorLines::new();
    logging::to_file_and_person(
        &logging::file(guarded.directory(), "manager"),
        &config,
        lines.writer(),
    );
    // A task less would make a manager that beats and does not manage. The guardian has the next one up at once.
    logging::log_panics(|| abort());

    let executable = env::current_exe().context("the path of this program")?;
    let child = move |start: &ChildStart| {
        let mut command = Command::new(&executable);
        command
            .args(["process", start.process_type.as_str(), "--name"])
            .arg(start.name.as_str())
            .arg("--socket")
            .arg(&start.socket);
        if env::var_os(ALLOW_HUGE_PAGES).is_none() {
            command.env(ALLOW_HUGE_PAGES, "0");
        }
        command
    };
    let executable = env::current_exe().context("the path of this program")?;
    let prepare = move |at: &Path| {
        let mut command = Command::new(&executable);
        command.args(["process", "prepare", "--at"]).arg(at);
        command
    };
    let options = Options {
        child: Box::new(child),
        prepare: Arc::new(prepare),
        // The whole chain of causes as one text.
        before_start: Box::new(|node| {
            recovery::before_start(node).map_err(|error| with_causes(&error).into())
        }),
        after_stop: Box::new(|node| {
            recovery::after_stop(node).map_err(|error| with_causes(&error).into())
        }),
        lines,
    };
    Ok(manager::run(guarded, options).await?)
}
