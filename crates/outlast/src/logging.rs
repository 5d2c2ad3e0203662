//! Where the lines of a process go: to its own bounded file, and for the guardian and the manager to whoever looks at
//! `outlast up` as well.

use std::backtrace::Backtrace;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::Context as _;
use config::NodeConfig;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::log_file::LogFile;

/// The log file of a process of that name.
pub(crate) fn file(directory: &Path, name: &str) -> PathBuf {
    directory.join("log").join(format!("{name}.log"))
}

/// From now on, to the file.
pub(crate) fn to_file(path: &Path, config: &NodeConfig) -> anyhow::Result<()> {
    let log = LogFile::open(path).with_context(|| path.display().to_string())?;
    tracing_subscriber::registry()
        .with(level(config))
        .with(fmt::layer().with_ansi(false).with_writer(Mutex::new(log)))
        .init();
    Ok(())
}

/// From now on, to the file if that can be, and line by line to a person.
pub(crate) fn to_file_and_person<W>(path: &Path, config: &NodeConfig, person: W)
where
    W: Write + Clone + Send + Sync + 'static,
{
    let log = LogFile::open(path).ok();
    let to_file = log.map(|log| fmt::layer().with_ansi(false).with_writer(Mutex::new(log)));
    let to_person = fmt::layer().with_ansi(false).with_target(false);
    tracing_subscriber::registry()
        .with(level(config))
        .with(to_file)
        .with(to_person.with_writer(move || person.clone()))
        .init();
}

/// A bug of ours leaves its trace in the log, with where it happened; then `and_then` is done.
pub(crate) fn log_panics(and_then: impl Fn() + Send + Sync + 'static) {
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!(backtrace = %Backtrace::force_capture(), "{panic}");
        and_then();
    }));
}

/// The configured level as tracing's.
fn level(config: &NodeConfig) -> LevelFilter {
    match config.log.level {
        config::LogLevel::Error => LevelFilter::ERROR,
        config::LogLevel::Warn => LevelFilter::WARN,
        config::LogLevel::Info => LevelFilter::INFO,
        config::LogLevel::Debug => LevelFilter::DEBUG,
        config::LogLevel::Trace => LevelFilter::TRACE,
    }
}
