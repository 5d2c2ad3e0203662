//! `outlast topology`: the nodes of the cluster and their processes, and how members find each other.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use config::{Discover, MemberAddress};
use topology::protocol::{Answer, ClusterStatus, NodeStatus, Request};
use topology::{ClockOffset, NodeEntry, ProcessState, TopologyView};

use crate::command_line::{DiscoverWishes, Reader, TopologyCommand};
use crate::control::{ask, unexpected};
use crate::failure::Failure;
use crate::output;
use crate::status::processes;
use crate::stores::must_exist;

/// A clock that is further off is told to be.
const CLOCK_OFFSET_MAX_US: u64 = 500_000;

pub(crate) fn topology(directory: &Path, command: TopologyCommand) -> Result<(), Failure> {
    match command {
        TopologyCommand::Show { json } => show(directory, json.into()),
        TopologyCommand::Discover(wishes) => discover(directory, wishes),
    }
}

fn show(directory: &Path, reader: Reader) -> Result<(), Failure> {
    let status = match ask(directory, Request::Status)? {
        Answer::Status(status) => status,
        other => return Err(unexpected(&other)),
    };
    match reader {
        Reader::Program => output::json_with_lives(&status),
        Reader::Person => {
            show_nodes(&status);
            output::line("");
            processes(&status.view);
            Ok(())
        }
    }
}

fn show_nodes(status: &NodeStatus) {
    let Some(cluster) = &status.cluster else {
        return output::line(&format!("node {}, in no cluster", status.view.node));
    };
    output::line(&format!("cluster {}, as node {} sees it", cluster.cluster, status.view.node));
    let rows: Vec<Vec<String>> =
        status.view.nodes.iter().map(|node| row(node, &status.view, cluster)).collect();
    output::table(&["NODE", "NUMBER", "STATE", "ADDRESS", "CLOCK", "READY"], &rows);
    for (node, clock) in &cluster.clocks {
        if clock.is_off_by(CLOCK_OFFSET_MAX_US) {
            output::remark(&format!(
                "the clock of {node} is {} ms {} this node's: have both set by NTP",
                clock.ahead_us.unsigned_abs() / 1_000,
                if clock.ahead_us > 0 { "ahead of" } else { "behind" },
            ));
        }
    }
}

fn row(node: &NodeEntry, view: &TopologyView, cluster: &ClusterStatus) -> Vec<String> {
    let is_own = node.name == view.node;
    let of_node = view.processes.iter().filter(|process| match process.name.parts() {
        (_, Some(of)) => of == node.name,
        (_, None) => is_own,
    });
    let ready = of_node.clone().filter(|process| process.state == ProcessState::Ready).count();
    vec![
        node.name.clone(),
        node.number.to_string(),
        node.state.to_string(),
        node.address.to_string(),
        match cluster.clocks.get(&node.name) {
            Some(clock) => shown(clock),
            None if is_own => "own".to_owned(),
            None => "-".to_owned(),
        },
        format!("{ready}/{}", of_node.count()),
    ]
}

/// `+0.2 ms ±0.4`.
fn shown(clock: &ClockOffset) -> String {
    let milliseconds = |microseconds: f64| microseconds / 1_000.0;
    let (ahead, error) = (clock.ahead_us as f64, clock.error_us as f64);
    format!("{:+.1} ms ±{:.1}", milliseconds(ahead), milliseconds(error))
}

/// Writes into outlast.toml what was wished, and has the manager read it.
fn discover(directory: &Path, wishes: DiscoverWishes) -> Result<(), Failure> {
    must_exist(directory)?;
    let path = directory.join(config::FILE_NAME);
    let before = config::load(&path)?;
    let Some(cluster) = before.cluster else {
        return Err(anyhow::anyhow!(
            "the node is in no cluster; outlast cluster create or join makes it a member"
        )
        .into());
    };
    if wishes.addresses.is_empty() && !wishes.known {
        output::line(&told(cluster.discover.as_ref(), &cluster.nodes));
        return Ok(());
    }
    let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    let changed = changed(&text, &wishes).map_err(anyhow::Error::msg)?;
    config::parse(&changed).map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}; nothing was changed", problems.join("; "))
    })?;
    // In its place, so that owner, mode and links stay.
    fs::write(&path, changed).with_context(|| format!("{}", path.display()))?;
    match ask(directory, Request::ClusterDiscover) {
        Ok(Answer::Done) => Ok(()),
        Ok(Answer::Refused { reason }) => Err(anyhow::Error::msg(reason).into()),
        Ok(other) => Err(unexpected(&other)),
        Err(Failure::NotUp { .. }) => {
            output::remark("the node is not up: this holds from its next start on");
            Ok(())
        }
        Err(failure) => Err(failure),
    }
}

/// The file with what was wished.
fn changed(text: &str, wishes: &DiscoverWishes) -> Result<String, String> {
    const SECTION: &str = "cluster";
    let list = || {
        let quoted: Vec<String> =
            wishes.addresses.iter().map(|address| format!("\"{address}\"")).collect();
        format!("[{}]", quoted.join(", "))
    };
    let without = |key| config::edit::unset(text, SECTION, key);
    let with = |text: &str, key, value: &str| config::edit::set(text, SECTION, key, value);
    match wishes.addresses.as_slice() {
        [] => Ok(config::edit::unset(&without("discover"), SECTION, "nodes")),
        [group] if group.starts_with('*') => {
            let group: config::MulticastAddress =
                group.parse().map_err(|error| format!("{group} {error}"))?;
            Ok(with(&without("nodes"), "discover", &format!("\"{group}\"")))
        }
        addresses => {
            for address in addresses {
                address.parse::<MemberAddress>().map_err(|error| format!("{address} {error}"))?;
            }
            Ok(match wishes.nodes {
                true => with(&without("discover"), "nodes", &list()),
                false => with(&without("nodes"), "discover", &list()),
            })
        }
    }
}

fn told(discover: Option<&Discover>, nodes: &[MemberAddress]) -> String {
    let list = |all: &[MemberAddress]| {
        let all: Vec<&str> = all.iter().map(MemberAddress::as_str).collect();
        all.join(", ")
    };
    match discover {
        Some(Discover::Multicast(group)) => format!("by multicast: {group}"),
        Some(Discover::Servers(servers)) => format!("by asking: {}", list(servers)),
        None if nodes.is_empty() => "by the list of members that each keeps".to_owned(),
        None => format!("by a list of nodes: {}", list(nodes)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FILE: &str = "[cluster]\naddress = \"192.0.2.11:6200\"\n";

    fn wishes(addresses: &[&str], nodes: bool) -> DiscoverWishes {
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        DiscoverWishes { addresses, nodes, known: false }
    }

    #[test]
    fn one_way_takes_the_place_of_another_and_the_file_stays_right() {
        let mut text = FILE.to_owned();
        for (addresses, nodes, expected) in [
            (vec!["*225.0.0.20:6200"], false, "by multicast: *225.0.0.20:6200"),
            (vec!["node1:6200", "node2:6200"], false, "by asking: node1:6200, node2:6200"),
            (vec!["192.0.2.12:6200"], true, "by a list of nodes: 192.0.2.12:6200"),
            (vec!["node3:6200"], false, "by asking: node3:6200"),
            (vec![], false, "by the list of members that each keeps"),
        ] {
            text = changed(&text, &wishes(&addresses, nodes)).unwrap();
            let cluster = config::parse(&text).unwrap().cluster.unwrap();
            assert_eq!(told(cluster.discover.as_ref(), &cluster.nodes), expected);
        }
        assert_eq!(text, FILE);
    }

    #[test]
    fn what_is_no_address_is_refused_with_an_example() {
        for (address, example) in [("*224.0.0.7:6200", "225.0.0.20:6200"), ("node1", "node1:6200")]
        {
            let error = changed(FILE, &wishes(&[address], false)).unwrap_err();
            assert!(error.starts_with(address) && error.contains(example), "{error}");
        }
    }
}
