//! The binary: command line and wiring, nothing else.
//!
//! [`command_line`] says which commands there are; each has a module that carries it out with the crates
//! that know how. `outlast up` is the guardian of a node; it starts this same binary again as
//! `outlast process …` ([`process`]) for the manager, and that one for each edge and container.

mod app;
mod cluster;
mod command_line;
mod configuration;
mod control;
mod demo;
mod drain;
mod failure;
mod formats;
mod guest_limits;
mod identity;
mod keys;
mod log_file;
mod logging;
mod outlet;
mod output;
mod process;
mod recovery;
mod registrations;
mod sessions;
mod state_command;
mod status;
mod stores;
mod topology;
mod up;
mod user;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{CommandFactory as _, FromArgMatches as _};
use command_line::{CommandLine, Task};
use failure::Failure;

/// Messages, records and futures are small and short-lived; the C library's allocator takes a sixth of a container's
/// time with them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let matches = CommandLine::command().get_matches();
    let command_line = CommandLine::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    // The demo never touches the node that OUTLAST_DIR or the default stands for.
    let is_dir_given = matches.value_source("dir") == Some(ValueSource::CommandLine);
    let given = is_dir_given.then(|| command_line.dir.clone());
    match carry_out(command_line, given) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::error(&failure);
            failure.exit_code()
        }
    }
}

fn carry_out(command_line: CommandLine, given: Option<PathBuf>) -> Result<(), Failure> {
    let directory = command_line.dir;
    match command_line.task {
        Task::Up(wishes) => up::up(&directory, &wishes),
        Task::Demo { json } => demo::demo(given, json.into()),
        Task::Status { cluster, json } => status::status(&directory, cluster.into(), json.into()),
        Task::Start(which) => control::start(&directory, &which),
        Task::Drain(wishes) => drain::drain(&directory, wishes),
        Task::Stop(which) => control::stop(&directory, &which),
        Task::Restart(which) => control::restart(&directory, &which),
        Task::User(command) => user::user(&directory, command),
        Task::Identity(command) => identity::identity(&directory, command),
        Task::Registrations { json } => registrations::registrations(&directory, json.into()),
        Task::App(command) => app::app(&directory, command),
        Task::Sessions(wishes) => sessions::sessions(&directory, &wishes),
        Task::Config(command) => configuration::configuration(&directory, command),
        Task::Cluster(command) => cluster::cluster(&directory, command),
        Task::State(command) => state_command::state(&directory, command),
        Task::Topology(command) => topology::topology(&directory, command),
        Task::Keys(command) => keys::keys(&directory, command),
        #[cfg(feature = "faults")]
        Task::Fault { name, fault } => control::fault(&directory, name, fault),
        Task::Process(child) => process::run(child),
    }
}
