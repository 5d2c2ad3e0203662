//! `outlast-load`: load for SIP servers, and what it cost them. Command line and wiring; see [`command_line`] for what
//! there is, [`generator`] for what a run is.
//!
//! | part | what it turns into what |
//! |---|---|
//! | [`generator`], [`scenario`], [`pace`], [`transactions`], [`statistics`] | what arrives and what time it is into what is sent, and counts; pure |
//! | [`template`], [`phones`], [`dialog`], [`logins`] | who calls whom into messages; pure |
//! | [`preparation`], [`driver`], [`flows`], [`udp_flows`], [`tcp_flows`] | sockets and clock into the former, in batches, on one thread |
//! | [`process_cost`], [`node_processes`] | processes into CPU time and memory |
//! | [`report`], [`progress`] | counts into one JSON object and some lines |

mod command_line;
mod delays;
mod dialog;
mod driver;
mod echo_server;
mod flows;
mod generator;
mod logins;
mod node_processes;
mod outbox;
mod pace;
mod phones;
mod preparation;
mod process_cost;
mod progress;
mod report;
mod run_id;
mod scenario;
mod statistics;
mod table;
mod tcp_flows;
mod template;
mod transactions;
mod udp_flows;

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};

use crate::command_line::{CommandLine, LoadArgs, ScenarioName, Task};
use crate::preparation::RunError;
use crate::report::Report;

fn main() -> ExitCode {
    let result = match CommandLine::parse().task {
        Task::Register(arguments) => load(ScenarioName::Register, &arguments),
        Task::Options(arguments) => load(ScenarioName::Options, &arguments),
        Task::Call(arguments) => load(ScenarioName::Call, &arguments),
        Task::Dialog(arguments) => load(ScenarioName::Dialog, &arguments),
        Task::Churn(arguments) => load(ScenarioName::Churn, &arguments),
        Task::Idle(arguments) => load(ScenarioName::Idle, &arguments),
        Task::Storm(arguments) => load(ScenarioName::Storm, &arguments),
        Task::Echo(arguments) => load(ScenarioName::Echo, &arguments),
        Task::EchoServer(arguments) => {
            let bound = |address| line(&format!("echo-server ready {address}"));
            echo_server::run(arguments.listen, bound)
                .map(|()| ExitCode::SUCCESS)
                .map_err(|source| RunError::Bind { local: arguments.listen, source })
        }
    };
    result.unwrap_or_else(|error| {
        remark(&format!("{error}"));
        ExitCode::FAILURE
    })
}

fn load(scenario: ScenarioName, arguments: &LoadArgs) -> Result<ExitCode, RunError> {
    if let Err(error) = arguments.check(scenario) {
        CommandLine::command().error(ErrorKind::ValueValidation, error).exit();
    }
    let report = driver::run(scenario, arguments)?;
    remark(report.text().trim_end());
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write_json(path: &Path, report: &Report) -> Result<(), RunError> {
    let json = serde_json::to_string(report).expect("a report has text keys only");
    if path == Path::new("-") {
        line(&json);
        return Ok(());
    }
    std::fs::write(path, json + "\n")
        .map_err(|source| RunError::Report { path: path.to_owned(), source })
}

/// Prints a line on stdout. Who closed the pipe wants no more: that is not an error.
fn line(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// Prints on stderr.
fn remark(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
