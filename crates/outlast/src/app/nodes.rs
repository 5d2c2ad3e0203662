//! What the nodes of a cluster have of applications, as one.

use std::collections::BTreeMap;

use serde::Serialize;
use topology::ProcessName;
use topology::protocol::{ApplicationStatus, NodeApplications, VersionStatus};

/// What one node has of one application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct OnNode {
    pub(crate) node: String,
    /// With which version new sessions begin there.
    pub(crate) current: Option<String>,
    /// All that are kept there.
    pub(crate) versions: Vec<String>,
    /// Why it has not what the others have, or cannot be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

/// All applications that any node has. Of several nodes containers are named with theirs, and counts are sums; what is current is
/// so on the first one that has the application.
pub(crate) fn as_one(nodes: &[NodeApplications]) -> Vec<ApplicationStatus> {
    let [_, _, ..] = nodes else {
        return nodes.iter().flat_map(|node| node.applications.clone()).collect();
    };
    let mut all: BTreeMap<&str, ApplicationStatus> = BTreeMap::new();
    for node in nodes {
        for application in &node.applications {
            let versions = &application.versions;
            let of_node = versions.iter().map(|version| named(version, &node.node));
            let whole = all.entry(&application.name).or_insert_with(|| ApplicationStatus {
                versions: Vec::new(),
                ..application.clone()
            });
            if whole.rolling_to.is_none() {
                whole.rolling_to.clone_from(&application.rolling_to);
            }
            for version in of_node {
                add(&mut whole.versions, version);
            }
        }
    }
    all.into_values().collect()
}

fn named(version: &VersionStatus, node: &str) -> VersionStatus {
    let name = |container: &ProcessName| ProcessName::of_node(container, node);
    let refused = version.refused_by.iter();
    VersionStatus {
        loaded_by: version.loaded_by.iter().map(name).collect(),
        refused_by: refused.map(|(container, why)| (name(container), why.clone())).collect(),
        ..version.clone()
    }
}

fn add(versions: &mut Vec<VersionStatus>, more: VersionStatus) {
    match versions.iter_mut().find(|one| one.version == more.version) {
        None => versions.push(more),
        Some(one) => {
            one.loaded_by.extend(more.loaded_by);
            one.refused_by.extend(more.refused_by);
            one.events += more.events;
            one.failures += more.failures;
        }
    }
}

/// What each node has of an application; none of a single node.
pub(crate) fn on_nodes(nodes: &[NodeApplications], name: &str) -> Vec<OnNode> {
    let [_, _, ..] = nodes else { return Vec::new() };
    let on_node = |node: &NodeApplications| {
        let status = node.applications.iter().find(|status| status.name == name);
        let behind = node.behind.iter().find(|(behind, _)| behind == name);
        let versions = status.iter().flat_map(|status| &status.versions);
        OnNode {
            node: node.node.clone(),
            current: status.and_then(|status| status.current.clone()),
            versions: versions.map(|version| version.version.clone()).collect(),
            reason: node.away.clone().or_else(|| behind.map(|(_, reason)| reason.clone())),
        }
    };
    nodes.iter().map(on_node).collect()
}

/// The nodes on which it is as on the first, in one word if that is all of them.
pub(crate) fn names(on_nodes: &[OnNode]) -> String {
    let Some(first) = on_nodes.iter().find(|one| one.current.is_some()).or(on_nodes.first()) else {
        return "-".to_owned();
    };
    let is_same = |one: &&OnNode| one.current == first.current;
    let same: Vec<&str> = on_nodes.iter().filter(is_same).map(|one| one.node.as_str()).collect();
    if same.len() == on_nodes.len() { format!("all {}", same.len()) } else { same.join(" ") }
}

/// What an operator has to know of the others.
pub(crate) fn remarks(name: &str, on_nodes: &[OnNode]) -> Vec<String> {
    let Some(first) = on_nodes.iter().find(|one| one.current.is_some()) else {
        return Vec::new();
    };
    let mut remarks = Vec::new();
    for one in on_nodes {
        let has = match &one.current {
            current if *current == first.current && one.reason.is_none() => continue,
            Some(version) => format!("has {version} of {name}"),
            None => format!("has no {name}"),
        };
        remarks.push(match &one.reason {
            Some(reason) => format!("{} {has}: {reason}", one.node),
            None if one.current.is_some() => format!("{} {has} still", one.node),
            None => format!("{} {has} yet", one.node),
        });
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, versions: &[&str], current: Option<&str>) -> NodeApplications {
        let version = |version: &&str| VersionStatus {
            version: (*version).to_owned(),
            loaded_by: vec![ProcessName::new("container1")],
            events: 2,
            failures: 1,
            ..VersionStatus::default()
        };
        let application = ApplicationStatus {
            name: "echo".to_owned(),
            current: current.map(str::to_owned),
            rolling_to: None,
            versions: versions.iter().map(version).collect(),
        };
        let applications = if versions.is_empty() { Vec::new() } else { vec![application] };
        NodeApplications { node: name.to_owned(), applications, ..NodeApplications::default() }
    }

    #[test]
    fn a_single_node_is_shown_as_it_is() {
        let one = [node("node1", &["1.0.0"], Some("1.0.0"))];
        assert_eq!(as_one(&one), one[0].applications);
        assert_eq!(on_nodes(&one, "echo"), []);
    }

    #[test]
    fn nodes_are_summed_and_told_apart() {
        let lost = NodeApplications {
            node: "node4".to_owned(),
            away: Some("it is lost".to_owned()),
            ..NodeApplications::default()
        };
        let mut full = node("node3", &["1.0.0"], Some("1.0.0"));
        full.behind = vec![("echo".to_owned(), "disk full".to_owned())];
        let all = [
            node("node1", &["1.0.0", "2.0.0"], Some("2.0.0")),
            node("node2", &["2.0.0"], Some("2.0.0")),
            full,
            lost,
        ];
        let whole = as_one(&all);
        assert_eq!((whole.len(), whole[0].current.as_deref()), (1, Some("2.0.0")));
        let second = &whole[0].versions[1];
        assert_eq!((second.events, second.failures, second.version.as_str()), (4, 2, "2.0.0"));
        let loaded: Vec<&str> = second.loaded_by.iter().map(|name| name.as_str()).collect();
        assert_eq!(loaded, ["container1@node1", "container1@node2"]);
        let on = on_nodes(&all, "echo");
        assert_eq!(names(&on), "node1 node2");
        let expected = ["node3 has 1.0.0 of echo: disk full", "node4 has no echo: it is lost"];
        assert_eq!(remarks("echo", &on), expected);
        assert_eq!(names(&on[..2]), "all 2");
        assert_eq!(remarks("echo", &on[..2]), Vec::<String>::new());
        // Only another node has it.
        let elsewhere = [node("node1", &[], None), node("node2", &["1.0.0"], Some("1.0.0"))];
        assert_eq!(as_one(&elsewhere)[0].name, "echo");
        let on = on_nodes(&elsewhere, "echo");
        assert_eq!(
            (names(&on).as_str(), remarks("echo", &on)),
            ("node2", vec!["node1 has no echo yet".to_owned()])
        );
    }
}
