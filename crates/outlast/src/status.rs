//! `outlast status`: the node's processes as its manager sees them, and with `--cluster` those of all members.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use topology::protocol::{
    Answer, ClockStatus, NodeApplications, NodeStatus, RepositoryReport, Request, StoresReport,
};
use topology::{EdgeAddress, NodeEntry, ProcessEntry, TopologyView};

use crate::app::show::list;
use crate::command_line::{Reader, Scope};
use crate::configuration::standing;
use crate::control::{ask, unexpected};
use crate::failure::Failure;
use crate::recovery::report::Report;
use crate::{formats, output};

pub(crate) fn status(directory: &Path, scope: Scope, reader: Reader) -> Result<(), Failure> {
    match ask(directory, Request::Status) {
        Ok(Answer::Status(status)) => show(directory, within(status, scope)?, reader),
        Ok(other) => Err(unexpected(&other)),
        Err(Failure::Unmanaged { directory, status }) => {
            show(&directory, (*status).clone(), reader)?;
            Err(Failure::Unmanaged { directory, status })
        }
        Err(failure) => Err(failure),
    }
}

/// The own node's processes by their plain names, or those of all nodes by their full ones.
fn within(mut status: NodeStatus, scope: Scope) -> Result<NodeStatus, Failure> {
    match scope {
        Scope::Node => {
            status.view.processes.retain(|process| !process.name.as_str().contains('@'));
            status.view.nodes.clear();
        }
        Scope::Cluster if status.view.nodes.is_empty() => {
            let told = "this node is in no cluster; see outlast cluster create";
            return Err(anyhow::Error::msg(told).into());
        }
        Scope::Cluster => {
            let names: Vec<_> = status
                .view
                .processes
                .iter()
                .map(|process| status.view.cluster_name(&process.name))
                .collect();
            for (process, name) in status.view.processes.iter_mut().zip(names) {
                process.name = name;
            }
        }
    }
    Ok(status)
}

/// The members, and what concerns all of them.
fn show_cluster(status: &NodeStatus) {
    let Some(cluster) = &status.cluster else { return };
    if cluster.is_removed {
        output::line(
            "removed from its cluster: nobody there speaks with it; outlast cluster leave makes it a single node",
        );
    }
    cluster.waits.iter().for_each(|reason| output::line(reason));
    if status.view.nodes.is_empty() {
        return;
    }
    let refused = match cluster.refused {
        0 => String::new(),
        count => format!("; {count} connections refused"),
    };
    output::line(&format!(
        "cluster {}, coordinated by {}{refused}",
        cluster.cluster, cluster.coordinator
    ));
    let row = |node: &NodeEntry| {
        let (name, number) = (node.name.clone(), node.number.to_string());
        vec![name, number, node.state.to_string(), node.address.to_string()]
    };
    let rows: Vec<Vec<String>> = status.view.nodes.iter().map(row).collect();
    output::table(&["NODE", "NUMBER", "STATE", "ADDRESS"], &rows);
    output::line("");
}

fn show(directory: &Path, status: NodeStatus, reader: Reader) -> Result<(), Failure> {
    let state = Report::read(directory)?;
    match reader {
        Reader::Program => output::json_with_lives(&Shown { status, state }),
        Reader::Person => {
            output::line(&format!("node {}", status.view.node));
            output::line(&managed_by(&status));
            state.iter().flat_map(Report::lines).for_each(|line| output::line(&line));
            status.clock.iter().for_each(|clock| output::line(&clock_line(clock)));
            let stores = status.stores.as_deref();
            stores.into_iter().flat_map(stores_lines).for_each(|line| output::line(&line));
            status.repository.iter().for_each(|report| output::line(&repository_line(report)));
            let configuration = standing::lines(directory, &status);
            configuration.iter().for_each(|line| output::line(line));
            formats::line(&status).iter().for_each(|line| output::line(line));
            show_cluster(&status);
            processes(&status.view);
            if !status.applications.is_empty() {
                output::line("");
                let applications = status.applications.clone();
                let node = NodeApplications { applications, ..NodeApplications::default() };
                list(directory, &[node], Reader::Person)?;
            }
            Ok(())
        }
    }
}

/// A table of them.
pub(crate) fn processes(view: &TopologyView) {
    let rows: Vec<Vec<String>> = view.processes.iter().map(row).collect();
    output::table(&["NAME", "TYPE", "STATE", "PID", "RESTARTS", "ADDRESSES"], &rows);
}

/// What programs read.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    status: NodeStatus,
    /// Once the state was verified after a loss of power.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<Report>,
}

/// What is amiss with the cluster's stores.
fn stores_lines(report: &StoresReport) -> Vec<String> {
    let mut lines = Vec::new();
    if report.unserved_per_mille > 0 || !report.silent.is_empty() {
        let silent: Vec<String> = report.silent.iter().map(ToString::to_string).collect();
        let who =
            if silent.is_empty() { String::new() } else { format!(" ({})", silent.join(", ")) };
        lines.push(match report.unserved_per_mille {
            0 => format!("stores: some do not answer{who}; see outlast state status"),
            unserved => format!(
                "stores: {unserved} of 1000 records are served by nobody{who}: what needs them is told to try again; see outlast state status"
            ),
        });
    }
    for shard in &report.below {
        let what = if report.continues_below {
            "writes go on, and a second fault may lose them"
        } else {
            "writes are refused"
        };
        lines.push(format!(
            "stores: below the write quota at {}: {} of {} {}; {what}",
            shard.primary,
            shard.found,
            report.copies,
            if report.copies == 1 { "copy" } else { "copies" }
        ));
    }
    lines
}

/// How the operator's own etcd is.
fn repository_line(report: &RepositoryReport) -> String {
    let place = format!("repository: your own etcd at {}", report.endpoints.join(", "));
    match &report.amiss {
        None => place,
        Some(reason) => format!(
            "{place}: changes of accounts, names and applications are refused, and what is known is served on: {reason}"
        ),
    }
}

fn clock_line(clock: &ClockStatus) -> String {
    let by = Duration::from_millis(clock.stepped_by_ms.unsigned_abs());
    let until = UNIX_EPOCH + Duration::from_millis(clock.frozen_until_ms);
    format!(
        "clock set {} by {}: no lifetime ends before {}",
        if clock.stepped_by_ms < 0 { "back" } else { "forward" },
        humantime::format_duration(by),
        humantime::format_rfc3339_seconds(until),
    )
}

/// `manager 4711, replaced once; guardian 4710`, or how to get one.
fn managed_by(status: &NodeStatus) -> String {
    let manager = status.manager.map_or_else(String::new, |manager| {
        let replaced = match manager.restarts {
            0 => String::new(),
            1 => ", replaced once".to_owned(),
            times => format!(", replaced {times} times"),
        };
        format!("manager {}{replaced}; ", manager.pid)
    });
    match status.guardian {
        Some(guardian) => format!("{manager}guardian {}", guardian.pid),
        None if status.manager.is_none() => "without guardian and manager".to_owned(),
        None => format!("{manager}without guardian: outlast up takes over what runs"),
    }
}

fn row(process: &ProcessEntry) -> Vec<String> {
    vec![
        process.name.to_string(),
        process.process_type.to_string(),
        process.state.to_string(),
        process.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        process.restarts.to_string(),
        match (process.http, process.link_address) {
            (Some(http), _) => format!("http:{http}"),
            (None, Some(address)) if process.process_type.is_server() => format!("tls:{address}"),
            (None, _) => addresses(&process.addresses),
        },
    ]
}

/// Each address once, with its transports: `udp+tcp:192.0.2.1:5060`.
fn addresses(all: &[EdgeAddress]) -> String {
    let mut grouped: Vec<(SocketAddr, Vec<String>)> = Vec::new();
    for address in all {
        let transport = address.transport.to_string();
        match grouped.iter_mut().find(|(own, _)| *own == address.own) {
            Some((_, transports)) => transports.push(transport),
            None => grouped.push((address.own, vec![transport])),
        }
    }
    let shown: Vec<String> = grouped
        .into_iter()
        .map(|(own, transports)| format!("{}:{own}", transports.join("+")))
        .collect();
    shown.join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use topology::ListenerTransport::{Tcp, Udp};

    use super::*;

    #[test]
    fn an_address_is_shown_once_with_its_transports() {
        let address = |transport, own: &str| EdgeAddress {
            transport,
            own: own.parse().unwrap(),
            public: own.to_owned(),
        };
        let all = [
            address(Udp, "127.0.0.1:5060"),
            address(Tcp, "127.0.0.1:5060"),
            address(Tcp, "[::1]:5070"),
        ];
        assert_eq!(addresses(&all), "udp+tcp:127.0.0.1:5060 tcp:[::1]:5070");
    }
}
