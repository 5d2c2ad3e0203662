//! What is deployed, as tables and JSON.

use std::path::Path;

use config::manifest::{self, Calls, ClusterSettings, Manifest, Region};
use manager::{ApplicationsDirectory, applications_directory};
use serde::Serialize;
use topology::protocol::{ApplicationStatus, NodeApplications, VersionStatus};

use super::nodes::{self, OnNode};
use crate::command_line::Reader;
use crate::failure::Failure;
use crate::output;

/// One in a list.
#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    status: &'a ApplicationStatus,
    /// Absent: no call is offered to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    asked: Option<Asked>,
    /// Of a cluster: what each node has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<OnNode>,
}

/// When an application is asked whether it takes a call: in this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Asked {
    region: Region,
    order: i32,
}

/// All of them, one a line, in the order in which they are asked.
pub(crate) fn list(
    directory: &Path,
    nodes: &[NodeApplications],
    reader: Reader,
) -> Result<(), Failure> {
    let all = nodes::as_one(nodes);
    let asked = |status: &ApplicationStatus| {
        // One that cannot be read is told by `show`.
        let manifest = current_manifest(directory, status)?.ok()?;
        let asked = Asked { region: manifest.sip.region, order: manifest.order };
        manifest.sip.condition.is_some().then_some(asked)
    };
    let on_nodes = |name: &str| nodes::on_nodes(nodes, name);
    let listed = all.iter().map(|status| Listed {
        status,
        asked: asked(status),
        nodes: on_nodes(&status.name),
    });
    let mut listed: Vec<Listed<'_>> = listed.collect();
    listed.sort_by(|one, other| {
        let key = |listed: &Listed<'_>| (listed.asked.is_none(), listed.asked.clone());
        key(one).cmp(&key(other)).then_with(|| one.status.name.cmp(&other.status.name))
    });
    match reader {
        Reader::Program => output::json(&listed),
        Reader::Person => {
            let mut rows: Vec<Vec<String>> = listed.iter().map(row).collect();
            let mut head = vec!["NAME", "ASKED", "CURRENT", "OTHERS", "EVENTS", "FAILED", "STATE"];
            if nodes.len() > 1 {
                head.push("NODES");
                for (row, listed) in rows.iter_mut().zip(&listed) {
                    row.push(nodes::names(&listed.nodes));
                }
            }
            output::table(&head, &rows);
            for Listed { status, nodes, .. } in &listed {
                nodes::remarks(&status.name, nodes).iter().for_each(|line| output::line(line));
            }
            Ok(())
        }
    }
}

/// The manifest of the version that begins sessions, with what the operator set; None: no version does.
fn current_manifest(
    directory: &Path,
    status: &ApplicationStatus,
) -> Option<Result<Manifest, Failure>> {
    Some(manifest_of(directory, &status.name, status.current.as_ref()?))
}

fn manifest_of(directory: &Path, name: &str, version: &str) -> Result<Manifest, Failure> {
    let files = ApplicationsDirectory::of_node(directory).version(name, version);
    let mut manifest = manifest::load(&files.join(manifest::FILE_NAME))?;
    let settings = files.join(applications_directory::SETTINGS);
    for (key, value) in manifest::load_settings(&settings)? {
        // One that the manifest has not is told when it is loaded.
        let _ = manifest.set(&key, &value);
    }
    Ok(manifest)
}

/// Whether all sessions of an application, or of one version of it, are in the store. What has no manifest has no sessions
/// that are elsewhere: it was never loaded.
pub(super) fn are_sessions_stored(
    directory: &Path,
    status: &ApplicationStatus,
    version: Option<&str>,
) -> bool {
    let wanted = |one: &&VersionStatus| version.is_none_or(|version| one.version == version);
    status.versions.iter().filter(wanted).all(|one| {
        let manifest = manifest_of(directory, &status.name, &one.version);
        manifest.map_or(true, |manifest| manifest.distributable && manifest.cluster.enabled)
    })
}

fn row(Listed { status: application, asked, .. }: &Listed<'_>) -> Vec<String> {
    let asked = asked.as_ref();
    let versions = &application.versions;
    let is_current = |one: &&VersionStatus| Some(&one.version) == application.current.as_ref();
    let others: Vec<&str> =
        versions.iter().filter(|one| !is_current(one)).map(|one| one.version.as_str()).collect();
    let sum = |of: fn(&VersionStatus) -> u64| versions.iter().map(of).sum::<u64>().to_string();
    vec![
        application.name.clone(),
        asked.map_or_else(|| "-".to_owned(), |asked| format!("{} {}", asked.region, asked.order)),
        application.current.clone().unwrap_or_else(|| "-".to_owned()),
        if others.is_empty() { "-".to_owned() } else { others.join(" ") },
        sum(|one| one.events),
        sum(|one| one.failures),
        state(application),
    ]
}

/// What an operator would ask next.
fn state(application: &ApplicationStatus) -> String {
    if let Some(to) = &application.rolling_to {
        return format!("{to} comes in");
    }
    if application.current.is_none() {
        return "goes behind its last session".to_owned();
    }
    let refused = application.versions.iter().flat_map(|one| {
        one.refused_by
            .iter()
            .map(move |(container, _)| format!("{container} cannot load {}", one.version))
    });
    let refused: Vec<String> = refused.collect();
    if refused.is_empty() { "ok".to_owned() } else { refused.join(", ") }
}

/// What programs read of one.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    status: &'a ApplicationStatus,
    /// Of the current version.
    manifest: Option<Manifest>,
    /// Of a cluster: what each node has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<OnNode>,
}

/// One, with what its manifest and its operator say.
pub(super) fn show(
    directory: &Path,
    status: &ApplicationStatus,
    nodes: &[NodeApplications],
    reader: Reader,
) -> Result<(), Failure> {
    // What only other nodes have is read there.
    let has = |node: &NodeApplications| node.applications.iter().any(|it| it.name == status.name);
    let here = nodes.first().filter(|node| has(node));
    let manifest = here.and_then(|_| current_manifest(directory, status)).transpose()?;
    let nodes = nodes::on_nodes(nodes, &status.name);
    match reader {
        Reader::Program => output::json(&Shown { status, manifest, nodes }),
        Reader::Person => {
            manifest.iter().flat_map(lines).for_each(|line| output::line(&line));
            let rows: Vec<Vec<String>> =
                status.versions.iter().map(|one| version_row(status, one)).collect();
            output::table(&["VERSION", "NEW SESSIONS", "LOADED BY", "EVENTS", "FAILED"], &rows);
            for version in &status.versions {
                for (container, reason) in &version.refused_by {
                    output::line(&format!("{container} cannot load {}: {reason}", version.version));
                }
            }
            nodes::remarks(&status.name, &nodes).iter().for_each(|line| output::line(line));
            Ok(())
        }
    }
}

fn version_row(status: &ApplicationStatus, one: &VersionStatus) -> Vec<String> {
    let begins = match () {
        () if status.rolling_to.as_ref() == Some(&one.version) => "coming in",
        () if status.current.as_ref() == Some(&one.version) => "yes",
        () => "no",
    };
    let loaded: Vec<&str> = one.loaded_by.iter().map(|name| name.as_str()).collect();
    vec![
        one.version.clone(),
        begins.to_owned(),
        if loaded.is_empty() { "-".to_owned() } else { loaded.join(" ") },
        one.events.to_string(),
        one.failures.to_string(),
    ]
}

/// When it is asked, and who is asked about its calls.
fn asked(Manifest { sip, order, .. }: &Manifest) -> String {
    let calls = match sip.calls {
        Calls::Continue => "its calls go on behind it",
        Calls::New => "its calls are offered to all applications",
    };
    let callers = match sip.authenticate {
        true => "callers of our domains prove who they are where the registrar wants it",
        false => "takes everybody's requests, whoever From names",
    };
    match sip.condition {
        Some(_) => {
            format!("asked in the {} region in order {order}; {callers}; {calls}", sip.region)
        }
        None => format!("takes no calls; {calls}"),
    }
}

/// What an operator wants to know of a manifest.
fn lines(manifest: &Manifest) -> Vec<String> {
    let cluster = &manifest.cluster;
    let replicated = manifest.distributable && cluster.enabled;
    let mut lines = vec![
        format!("application {} {}, {}", manifest.name, manifest.version, asked(manifest)),
        match replicated {
            true => format!(
                "sessions are replicated, {}; they live {}",
                cluster.replication,
                humantime::format_duration(manifest.session.expires)
            ),
            false => "sessions are not replicated: they end with their container".to_owned(),
        },
    ];
    let default = ClusterSettings::default();
    let ClusterSettings { group_name, write_quota, allow_colocation, .. } = cluster;
    if (group_name, write_quota, allow_colocation)
        != (&default.group_name, &default.write_quota, &default.allow_colocation)
    {
        lines.push(format!(
            "group_name = {group_name:?}, write_quota = {write_quota}, allow_colocation = {allow_colocation}: without effect on \
             one host"
        ));
    }
    lines.extend(manifest.http.iter().map(|http| {
        let host = http.host.as_ref().map(|host| format!(" of {host}")).unwrap_or_default();
        format!("HTTP at {}{host}, sessions by the cookie {}", http.path, http.session_cookie)
    }));
    lines.extend(manifest.config.iter().map(|(key, value)| format!("{key} = {value:?}")));
    lines
}

#[cfg(test)]
mod tests {
    use topology::ProcessName;

    use super::*;

    #[test]
    fn a_manifest_is_shown_with_what_it_does_on_one_host() {
        let of = |more: &str| {
            let text = "name = \"echo\"\nversion = \"1.0.0\"\ncomponent = \"echo.wasm\"\n";
            lines(&manifest::parse(&format!("{text}{more}")).expect("a manifest")).join("\n")
        };
        assert!(!of("").contains("group"), "{}", of(""));
        let sip = |more: &str| {
            of(&format!("[sip]\nmatch = {{ equal = [\"request.method\", \"INVITE\"] }}\n{more}"))
        };
        assert!(sip("").contains("callers of our domains prove who they are"), "{}", sip(""));
        let open = sip("authenticate = false\n");
        assert!(open.contains("takes everybody's requests"), "{open}");
        let shown = of("[cluster]\ngroup_name = \"voice\"\n");
        let expected = "group_name = \"voice\", write_quota = 0, allow_colocation = true: without effect on one host";
        assert!(shown.contains(expected), "{shown}");
    }

    #[test]
    fn the_list_tells_what_an_operator_would_ask_next() {
        let version = |version: &str| VersionStatus {
            version: version.to_owned(),
            events: 10,
            failures: 1,
            ..VersionStatus::default()
        };
        let mut application = ApplicationStatus {
            name: "echo".to_owned(),
            current: Some("1.1.0".to_owned()),
            rolling_to: None,
            versions: vec![version("1.0.0"), version("1.1.0")],
        };
        let asked = Some(Asked { region: Region::Terminating, order: 7 });
        let listed = Listed { status: &application, asked, nodes: Vec::new() };
        let expected = ["echo", "terminating 7", "1.1.0", "1.0.0", "20", "2", "ok"];
        assert_eq!(row(&listed), expected);
        let refused = (ProcessName::new("container2"), "no file".to_owned());
        application.versions[1].refused_by.push(refused);
        assert_eq!(state(&application), "container2 cannot load 1.1.0");
        application.rolling_to = Some("1.0.0".to_owned());
        assert_eq!(state(&application), "1.0.0 comes in");
        (application.rolling_to, application.current) = (None, None);
        assert_eq!(state(&application), "goes behind its last session");
    }
}
