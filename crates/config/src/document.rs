//! The configuration of all nodes of a cluster: one document of the same tables and keys as `outlast.toml`.
//!
//! It may say everything but what is about one node alone ([`OF_ONE_NODE`]: its name, its addresses, ports and files, what it runs
//! for others), and under `[on.NAME.…]` what a single node is to have otherwise. Printed, it begins with a line that says which
//! version it is, so that whoever changes it is told when it was changed meanwhile. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use toml::de::{DeTable, DeValue};

use crate::FILE_NAME;
use crate::effective::flatten;
use crate::layers::{self, Exceptions, Layers};
use crate::parse::process_name;
use crate::problem::Problem;
use crate::reader::Reader;

/// The table of what single nodes are to have otherwise.
pub(crate) const ON: &str = "on";

/// A longer document is none.
pub const DOCUMENT_BYTES_MAX: usize = 64 << 10;

/// Nodes that a document names: as many as a cluster has.
const NODES_MAX: usize = 64;

/// The first line of a printed document, before its version.
pub(crate) const HEAD: &str = "# The cluster's configuration, version ";

/// For `on.NAME`, as an example.
const EXAMPLE: &str = "[on.node2.container]";

/// Keys, and whole tables, that belong into `outlast.toml` of each node; and why.
pub const OF_ONE_NODE: &[(&str, &str)] = &[
    ("node", "is about one node"),
    ("cluster.address", ADDRESS),
    ("cluster.discover", ADDRESS),
    ("cluster.nodes", ADDRESS),
    ("cluster.link_ports", ADDRESS),
    ("cluster.stores", RUNS),
    ("cluster.store_ports", ADDRESS),
    ("cluster.store_user", RUNS),
    ("cluster.store_password_file", PATH),
    ("cluster.store_authority", PATH),
    ("cluster.store_certificate", PATH),
    ("cluster.store_key", PATH),
    ("cluster.repository", RUNS),
    ("cluster.repository_ports", ADDRESS),
    ("cluster.repository_user", RUNS),
    ("cluster.repository_password_file", PATH),
    ("cluster.repository_authority", PATH),
    ("cluster.repository_certificate", PATH),
    ("cluster.repository_key", PATH),
    ("container.http", ADDRESS),
    ("edge.public", ADDRESS),
    ("edge.instances", ADDRESS),
];

const ADDRESS: &str = "names addresses or ports of one node";
const PATH: &str = "names a file on one host";
const RUNS: &str = "says what one node runs, or whom it needs before it can have this document";

/// Keys, and whole tables, that the document may set for all nodes, and for none of them otherwise; and why.
pub const ALIKE: &[(&str, &str)] = &[
    ("heartbeat", "nodes with different ones take each other for lost"),
    ("cluster.write_quota", COPIES),
    ("cluster.below_quota", COPIES),
    ("cluster.allow_colocation", COPIES),
];

const COPIES: &str = "what counts as written would depend on the node that is asked";

/// The cluster's configuration as of one change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// Grows by one with each change. 0: the empty one that a cluster begins with.
    pub version: u64,
    /// TOML, without the line that says the version.
    pub text: String,
}

impl Document {
    /// With the line that says the version; what problems and origins count lines in.
    #[must_use]
    pub fn printed(&self) -> String {
        format!("{HEAD}{}\n{}", self.version, self.text)
    }

    /// The version that a text says it was made from, and the text without that line; no version: it has no such line.
    ///
    /// # Errors
    /// The line, from 1, that looks like that one and is none, or stands elsewhere; and what to do about it. Whoever took the text
    /// for one of no version would have it take the place of whatever holds.
    pub fn read(printed: &str) -> Result<(Option<u64>, &str), (usize, String)> {
        let (head, text) = printed.split_once('\n').unwrap_or((printed, ""));
        let version = head.strip_prefix(HEAD).and_then(|version| version.trim().parse().ok());
        let (read, first) = match version {
            Some(version) => ((Some(version), text), 2),
            None => ((None, printed), 1),
        };
        let Some(stray) = read.1.lines().position(says_version) else { return Ok(read) };
        let advice = match version {
            Some(_) => "says the version again; remove the line",
            None => {
                "looks like the line that says the version, which needs to be the first one, as outlast config show --cluster prints it; \
                 put it there, or remove it, and the text takes the place of whatever holds"
            }
        };
        Err((first + stray, advice.to_owned()))
    }

    /// What problems of it are told with.
    #[must_use]
    pub fn name(&self) -> String {
        format!("the cluster's configuration (version {})", self.version)
    }
}

/// Whether somebody may take the line for the one that says the version, however it was edited.
fn says_version(line: &str) -> bool {
    let plain = |text: &str| text.trim_start_matches(['\u{feff}', '#', ' ', '\t']).to_lowercase();
    plain(line).starts_with(plain(HEAD).trim_end())
}

/// Checks a text as the cluster's configuration, by itself and for every node that it names; `name` is what problems call it.
/// What single nodes cannot have together with their own files, they say themselves. The result is that of [`Document::read`].
///
/// # Errors
/// Every problem of the text, in the order of its lines.
pub fn check<'t>(name: &str, text: &'t str) -> Result<(Option<u64>, &'t str), Vec<Problem>> {
    if text.len() > DOCUMENT_BYTES_MAX {
        let message = format!("needs at most {DOCUMENT_BYTES_MAX} octets, and has {}", text.len());
        return Err(vec![Problem::of_file(name, 1, message)]);
    }
    let mut reader = Reader::new(vec![(0, name.to_owned())], text);
    let Some(table) = reader.table(text) else { return Err(reader.into_problems()) };
    let nodes = nodes(&mut reader, table.get_ref());
    let mut problems = reader.into_problems();
    let read = Document::read(text);
    if let Err((line, advice)) = &read {
        problems.push(Problem::of_file(name, *line, advice.clone()));
    }
    for node in std::iter::once(None).chain(nodes.iter().map(Some)) {
        let own = any_node(node);
        // What the document makes good for one node may be wrong for all others.
        let exceptions = node.map_or(Exceptions::Nobodys, |_| Exceptions::OfNode);
        let layers = Layers { own: (FILE_NAME, &own), over: Some((name, text)), exceptions };
        problems.extend(layers::config(&layers).err().into_iter().flatten());
    }
    // What is wrong for all nodes is so for each of them.
    let mut told = BTreeSet::new();
    problems.retain(|it| told.insert((it.line, it.key.clone(), it.message.clone())));
    problems.sort_by_key(|problem| problem.line);
    match read {
        Ok(read) if problems.is_empty() => Ok(read),
        Ok(_) | Err(_) => Err(problems),
    }
}

/// The nodes that a text names, if it can be read at all.
#[must_use]
pub fn nodes_named(text: &str) -> BTreeSet<String> {
    let mut reader = Reader::new(vec![(0, String::new())], text);
    reader.table(text).map(|table| nodes(&mut reader, table.get_ref())).unwrap_or_default()
}

/// What one document sets otherwise than another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// Dotted, as in `on.node2.container.count`.
    pub key: String,
    /// In TOML; none: it was not set.
    pub from: Option<String>,
    /// In TOML; none: it is set no more.
    pub to: Option<String>,
}

/// What differs between two documents, in the order of the keys; comments and the order of lines do not count.
#[must_use]
pub fn changes(from: &str, to: &str) -> Vec<Changed> {
    let (from, to) = (values_of(from), values_of(to));
    let keys: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let changed = |key: &String| {
        let (from, to) = (from.get(key).cloned(), to.get(key).cloned());
        (from != to).then(|| Changed { key: key.clone(), from, to })
    };
    keys.into_iter().filter_map(changed).collect()
}

/// Of a text that was checked.
fn values_of(text: &str) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    if let Ok(table) = text.parse::<toml::Table>() {
        flatten(&toml::Value::Table(table), "", &mut values);
    }
    values
}

/// The file of a member of which nothing is said; without a name it has the default one.
fn any_node(name: Option<&String>) -> String {
    let name = name.map(|name| format!("[node]\nname = \"{name}\"\n")).unwrap_or_default();
    format!("{name}[cluster]\naddress = \"127.0.0.1:6200\"\n")
}

fn nodes(reader: &mut Reader<'_>, table: &DeTable<'_>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let Some((at, on)) = table.get_key_value(ON) else { return names };
    let DeValue::Table(on) = on.get_ref() else {
        let message = format!("needs the name of a node, for example {EXAMPLE}");
        reader.report(at.span().start, ON.to_owned(), message);
        return names;
    };
    for (name, tables) in on {
        let (at, key) = (name.span().start, format!("{ON}.{}", name.get_ref()));
        match (process_name(name.get_ref()), tables.get_ref()) {
            (Some(name), DeValue::Table(_)) => drop(names.insert(name)),
            (Some(_), _) => {
                let message = format!("needs tables of the document, for example {EXAMPLE}");
                reader.report(at, key, message);
            }
            (None, _) => {
                reader.report(at, key, format!("is no name of a node; for example {EXAMPLE}"));
            }
        }
    }
    if names.len() > NODES_MAX {
        let message = format!("names {} nodes; needs at most {NODES_MAX}", names.len());
        reader.report(at.span().start, ON.to_owned(), message);
        names.clear();
    }
    names
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Asserts the exact lines that an operator reads.
    fn refused(text: &str, expected: &[&str]) {
        let lines: Vec<String> =
            check("new.toml", text).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_all_nodes_may_have_in_common_is_taken() {
        let text = "[registrar]\ndomains = [\"example.com\"]\nauthenticate = false\nexpires_min = \"2m\"\n\
                    [heartbeat]\ninterval = \"200ms\"\n[restart]\ndelay_max = \"5s\"\n\
                    [container]\ncount = 4\ndrain_timeout = \"1m\"\napplications = [\"registrar\"]\n\
                    [cluster]\nwrite_quota = 2\nbelow_quota = \"continue\"\ncopy_after = \"1m\"\n\
                    [edge]\nnat_traversal = false\nworkers = 2\n[edge.tcp]\nconnections_max = 7\n\
                    [[peer]]\nname = \"pbx\"\naddress = \"192.0.2.1:5060\"\n\
                    [keys]\nrotate_every = \"2days\"\n[state]\ndurability = \"power\"\n[log]\nlevel = \"debug\"\n\
                    [on.node2.container]\ncount = 1\n[on.node3.log]\nlevel = \"warn\"\n";
        assert_eq!(check("new.toml", text), Ok((None, text)));
        assert_eq!(check("new.toml", ""), Ok((None, "")));
        assert_eq!(nodes_named(text), ["node2", "node3"].map(str::to_owned).into());
    }

    #[test]
    fn what_is_about_one_node_is_refused_with_line_and_reason() {
        refused(
            "[node]\nname = \"node1\"\n[cluster]\naddress = \"192.0.2.1:6200\"\nwrite_quota = 1\n\
             [container]\nhttp = \"off\"\n[[edge.instances]]\nname = \"edge1\"\nlisten = [\"0.0.0.0:5060\"]\n\
             [on.node2.edge]\npublic = \"sip.example.com\"\n",
            &[
                "new.toml:1 node: is about one node; it belongs into outlast.toml of each node",
                "new.toml:4 cluster.address: names addresses or ports of one node; it belongs into outlast.toml of each node",
                "new.toml:7 container.http: names addresses or ports of one node; it belongs into outlast.toml of each node",
                "new.toml:8 edge.instances: names addresses or ports of one node; it belongs into outlast.toml of each node",
                "new.toml:12 on.node2.edge.public: names addresses or ports of one node; it belongs into outlast.toml of each node",
            ],
        );
    }

    #[test]
    fn all_problems_are_told_at_once_and_each_once() {
        refused(
            "[container]\ncuont = 3\n[registrar]\nexpires_min = \"2h\"\n[on.node2.container]\ncount = \"many\"\n\
             [on.Node3.log]\nlevel = \"info\"\n[on.node4]\nlog = 5\ncolour = 1\n[colour]\n",
            &[
                "new.toml:2 container.cuont: unknown; did you mean count?",
                "new.toml:3 registrar.expires_default: expires_min = \"2h\", expires_default = \"1h\", expires_max = \"1day\" need to be in rising order",
                "new.toml:6 container.count: \"many\" needs a whole number from 0 to 64, for example 2",
                "new.toml:7 on.Node3: is no name of a node; for example [on.node2.container]",
                "new.toml:10 log: needs a section, for example [log]",
                "new.toml:11 colour: unknown; known here: node, cluster, registrar, heartbeat, restart, container, edge, peer, keys, state, log",
                "new.toml:12 colour: unknown; known here: node, cluster, registrar, heartbeat, restart, container, edge, peer, keys, state, log",
            ],
        );
        refused(
            "on = 1\n",
            &["new.toml:1 on: needs the name of a node, for example [on.node2.container]"],
        );
        let long = "#".repeat(DOCUMENT_BYTES_MAX + 1);
        refused(&long, &["new.toml:1 needs at most 65536 octets, and has 65537"]);
        let many: String = (0..65).map(|n| format!("[on.n{n}.log]\n")).collect();
        refused(&many, &["new.toml:1 on: names 65 nodes; needs at most 64"]);
    }

    #[test]
    fn a_value_that_only_an_override_makes_wrong_is_told_at_its_line() {
        refused(
            "[registrar]\nexpires_max = \"2h\"\n[on.node2.registrar]\nexpires_default = \"3h\"\n",
            &[
                "new.toml:4 registrar.expires_default: expires_min = \"1m\", expires_default = \"3h\", expires_max = \"2h\" need to be in rising order",
            ],
        );
    }

    #[test]
    fn what_differs_is_told_by_keys() {
        let from = "[container]\ncount = 2 # two\n[log]\nlevel = \"warn\"\n";
        let to = "[log]\nlevel = \"warn\"\n# more\n[container]\ncount = 4\n[on.node2.container]\ncount = 1\n";
        let text = |text: &str| Some(text.to_owned());
        let changed = |key: &str, from, to| Changed { key: key.to_owned(), from, to };
        let expected = [
            changed("container.count", text("2"), text("4")),
            changed("on.node2.container.count", None, text("1")),
        ];
        assert_eq!(changes(from, to), expected);
        assert_eq!(changes(to, "").len(), 3);
        assert_eq!(changes(from, "[log]\nlevel = \"warn\"\n[container]\ncount = 2\n"), []);
    }

    #[test]
    fn a_printed_document_says_its_version_and_reads_back() {
        let document = Document { version: 7, text: "[log]\nlevel = \"warn\"\n".to_owned() };
        let printed = document.printed();
        assert_eq!(Document::read(&printed), Ok((Some(7), document.text.as_str())));
        assert_eq!(Document::read("[log]\n"), Ok((None, "[log]\n")));
        assert_eq!(Document::read(""), Ok((None, "")));
        let empty = Document::default().printed();
        assert_eq!(Document::read(empty.trim_end()), Ok((Some(0), "")));
        assert_eq!(check("new.toml", &printed), Ok((Some(7), document.text.as_str())));
    }

    #[test]
    fn a_line_that_may_be_meant_to_say_the_version_and_does_not_is_refused() {
        let moved = "new.toml:LINE looks like the line that says the version, which needs to be the first one, as outlast config show \
                     --cluster prints it; put it there, or remove it, and the text takes the place of whatever holds";
        for (text, line) in [
            ("\n# The cluster's configuration, version 3\n[log]\nlevel = \"warn\"\n", 2),
            ("[log]\nlevel = \"warn\"\n  # The cluster's configuration, version 3", 3),
            ("# The cluster's configuration, version three\n", 1),
            ("# The cluster's configuration, version 3, of alice\n", 1),
            ("# The cluster's configuration, version -1\n", 1),
            ("#The Cluster's configuration, version 3\n", 1),
            ("# The cluster's configuration, version\n", 1),
        ] {
            refused(text, &[&moved.replace("LINE", &line.to_string())]);
        }
        // Whether or not an editor's mark is refused as TOML, it is not taken for a text of no version.
        assert!(check("new.toml", "\u{feff}# The cluster's configuration, version 3\n").is_err());
        let twice = "# The cluster's configuration, version 3\n[log]\n# The cluster's configuration, version 4\n";
        refused(twice, &["new.toml:3 says the version again; remove the line"]);
        check("new.toml", "# The configuration of our cluster, version 3\n").unwrap();
    }

    #[test]
    fn what_is_wrong_for_most_nodes_is_not_hidden_by_what_one_has_otherwise() {
        let wrong = "[registrar]\nexpires_max = \"30m\"\n";
        let told = "new.toml:1 registrar.expires_default: expires_min = \"1m\", expires_default = \"1h\", expires_max = \"30m\" need to \
                    be in rising order";
        refused(wrong, &[told]);
        refused(&format!("{wrong}[on.node1.registrar]\nexpires_max = \"2h\"\n"), &[told]);
        refused(&format!("{wrong}[on.node2.registrar]\nexpires_max = \"2h\"\n"), &[told]);
    }

    #[test]
    fn what_all_nodes_need_alike_is_refused_for_one() {
        refused(
            "[cluster]\nwrite_quota = 2\nbelow_quota = \"continue\"\nallow_colocation = true\n[heartbeat]\ninterval = \"200ms\"\n\
             [on.node2.heartbeat]\ninterval = \"1s\"\n[on.node3.cluster]\nwrite_quota = 1\nbelow_quota = \"refuse\"\n\
             allow_colocation = false\ncopy_after = \"1m\"\n",
            &[
                "new.toml:7 on.node2.heartbeat: needs to be alike on all nodes, for nodes with different ones take each other for lost; set \
                 it outside [on.NAME]",
                "new.toml:10 on.node3.cluster.write_quota: needs to be alike on all nodes, for what counts as written would depend on the \
                 node that is asked; set it outside [on.NAME]",
                "new.toml:11 on.node3.cluster.below_quota: needs to be alike on all nodes, for what counts as written would depend on the \
                 node that is asked; set it outside [on.NAME]",
                "new.toml:12 on.node3.cluster.allow_colocation: needs to be alike on all nodes, for what counts as written would depend on \
                 the node that is asked; set it outside [on.NAME]",
            ],
        );
    }
}
