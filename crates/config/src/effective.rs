//! What a node is configured as, and where each value comes from: a default, its own `outlast.toml`, or the cluster's
//! configuration, which goes before the file wherever it says something.
//!
//! What a node has taken of the cluster's configuration it keeps ([`mod@kept`](crate::kept)), so that every process and command of
//! it has the same one, with the repository or without.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Value;

use crate::document::Document;
use crate::kept::{Kept, taken};
use crate::layers::{Exceptions, Laid, Layers, Place, lay};
use crate::problem::{ConfigError, Problem};
use crate::settings::NodeConfig;
use crate::{FILE_NAME, parse, text_of};

/// What the settings of `[cluster]` that say how servers are spoken with are called in the file.
const ACCESS: [(&str, &str); 2] = [
    ("cluster.store_access.", "cluster.store_"),
    ("cluster.repository_access.", "cluster.repository_"),
];

/// How settings are written that are nothing in a [`NodeConfig`].
const WORDS: [(&str, &str); 2] = [("container.http", "\"off\""), ("edge.workers", "\"auto\"")];

/// A node's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// All of it.
    pub config: NodeConfig,
    /// The same one by one, in the order of the keys.
    pub settings: Vec<Setting>,
}

/// One of its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Dotted, as in `registrar.expires_min`.
    pub key: String,
    /// In TOML.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
    /// What the node's own file says otherwise, without effect.
    pub hidden: Option<Hidden>,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody has set it.
    Default,
    /// The node's `outlast.toml`.
    Node(Written),
    /// The cluster's configuration, for all nodes.
    Cluster(Written),
    /// The same, for this node alone.
    ClusterForNode(Written),
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// What it is called.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
}

/// A value of `outlast.toml` that has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hidden {
    /// Where.
    pub written: Written,
    /// In TOML.
    pub value: String,
}

/// What the node whose own file has the text `own` is configured as with the cluster's configuration, if it is in a cluster.
///
/// # Errors
/// Every problem of both, and of both together.
pub fn effective(own: &str, document: Option<&Document>) -> Result<Effective, Vec<Problem>> {
    let of_document = document.map(|document| (document.name(), document.printed()));
    let over = of_document.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
    let Laid { config, places, hidden } =
        lay(&Layers { own: (FILE_NAME, own), over, exceptions: Exceptions::OfNode })?;
    let cluster_version = document.map_or(0, |document| document.version);
    let config = NodeConfig { cluster_version, ..config };
    let alone = if hidden.is_empty() { BTreeMap::new() } else { values(&parse(own)?) };
    let setting = |(key, value): (String, String)| Setting {
        origin: origin(places.get(&key)),
        hidden: hidden.get(&key).and_then(|place| {
            let said = alone.get(&key).filter(|said| **said != value)?;
            Some(Hidden { written: written(place), value: said.clone() })
        }),
        key,
        value,
    };
    let settings = values(&config).into_iter().map(setting).collect();
    Ok(Effective { config, settings })
}

/// What the node in that directory is configured as with what it has taken of its cluster.
///
/// # Errors
/// [`ConfigError`] when a file cannot be read or is refused.
pub fn of_node(directory: &Path) -> Result<Effective, ConfigError> {
    let path = directory.join(FILE_NAME);
    let own = text_of(&path, FILE_NAME)?;
    let kept = taken(directory)?;
    let document = kept.as_ref().map(|kept| &kept.document);
    let mut effective =
        effective(&own, document).map_err(|problems| ConfigError::Refused { path, problems })?;
    effective.config.cluster_id = kept.map(|Kept { cluster, .. }| cluster).unwrap_or_default();
    Ok(effective)
}

fn origin(place: Option<&Place>) -> Origin {
    match place {
        None => Origin::Default,
        Some(place) if place.file == FILE_NAME => Origin::Node(written(place)),
        Some(place) if place.is_of_node => Origin::ClusterForNode(written(place)),
        Some(place) => Origin::Cluster(written(place)),
    }
}

fn written(place: &Place) -> Written {
    Written { file: place.file.clone(), line: place.line }
}

/// Each setting by its key, in TOML.
fn values(config: &NodeConfig) -> BTreeMap<String, String> {
    let shown = NodeConfig { cluster_version: 0, cluster_id: String::new(), ..config.clone() };
    let table = Value::try_from(&shown).expect("our settings are numbers, texts and lists of them");
    let mut values = BTreeMap::new();
    flatten(&table, "", &mut values);
    for (key, word) in WORDS {
        values.entry(key.to_owned()).or_insert_with(|| word.to_owned());
    }
    values
}

/// What is no table in it, by dotted keys, in TOML.
pub(crate) fn flatten(value: &Value, path: &str, values: &mut BTreeMap<String, String>) {
    let Value::Table(table) = value else {
        let renamed = ACCESS.iter().find_map(|(from, to)| Some((path.strip_prefix(from)?, to)));
        let key = renamed.map_or_else(|| path.to_owned(), |(key, to)| format!("{to}{key}"));
        values.insert(key, value.to_string());
        return;
    };
    for (name, value) in table {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        flatten(value, &path, values);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::FirstRun;

    const DOCUMENT: &str = "[container]\ncount = 4\n[registrar]\nexpires_min = \"2m\"\n\
                            [on.node2.container]\ncount = 1\n[on.node2.edge.tcp]\nconnections_max = 9\n";

    fn version(version: u64, text: &str) -> Document {
        Document { version, text: text.to_owned() }
    }

    fn setting<'a>(effective: &'a Effective, key: &str) -> &'a Setting {
        effective.settings.iter().find(|setting| setting.key == key).unwrap()
    }

    fn at(file: &str, line: usize) -> Written {
        Written { file: file.to_owned(), line }
    }

    #[test]
    fn the_cluster_goes_before_the_file_and_what_it_says_of_a_node_before_both() {
        let document = version(3, DOCUMENT);
        let name = "the cluster's configuration (version 3)";
        let own = |node: &str| {
            format!("[node]\nname = \"{node}\"\n[container]\ncount = 2\ndrain_timeout = \"9s\"\n")
        };
        let one = effective(&own("node1"), Some(&document)).unwrap();
        assert_eq!((one.config.container.count, one.config.cluster_version), (4, 3));
        assert_eq!(one.config.container.drain_timeout.as_secs(), 9, "the cluster says nothing");
        assert_eq!(one.config.registrar.expires_min.as_secs(), 120);
        // Lines are those of the document as it is printed.
        let count = setting(&one, "container.count");
        assert_eq!((count.value.as_str(), &count.origin), ("4", &Origin::Cluster(at(name, 3))));
        let hidden = Hidden { written: at("outlast.toml", 4), value: "2".to_owned() };
        assert_eq!(count.hidden, Some(hidden));
        assert_eq!(
            setting(&one, "container.drain_timeout").origin,
            Origin::Node(at("outlast.toml", 5))
        );
        assert_eq!(setting(&one, "edge.tcp.connections_max").origin, Origin::Default);

        let two = effective(&own("node2"), Some(&document)).unwrap();
        assert_eq!((two.config.container.count, two.config.edge.tcp.connections_max), (1, 9));
        assert_eq!(setting(&two, "container.count").origin, Origin::ClusterForNode(at(name, 7)));
        assert!(setting(&two, "container.count").hidden.is_some());
        assert_eq!(two.config.registrar, one.config.registrar);
    }

    #[test]
    fn a_line_of_the_file_that_says_the_same_surprises_nobody() {
        let effective = effective("[container]\ncount = 4\n", Some(&version(1, DOCUMENT))).unwrap();
        assert_eq!(setting(&effective, "container.count").hidden, None);
        assert!(matches!(setting(&effective, "container.count").origin, Origin::Cluster(_)));
    }

    #[test]
    fn a_single_node_has_its_file_and_the_defaults() {
        let text = FirstRun::default().text();
        let effective = effective(&text, None).unwrap();
        assert_eq!(effective.config, parse(&text).unwrap());
        assert!(effective.settings.iter().all(|setting| setting.hidden.is_none()));
    }

    #[test]
    fn what_is_shown_is_a_configuration_of_the_same_meaning() {
        let all = "[node]\nname = \"node2\"\n[cluster]\naddress = \"192.0.2.1:6200\"\nstores = [\"192.0.2.9:6379\"]\n\
                   store_user = \"outlast\"\nnodes = [\"node1:6200\"]\nlink_ports = \"6210-6219\"\n\
                   [container]\nhttp = \"off\"\n[edge]\nworkers = 3\npublic = \"sip.example.com\"\n\
                   [[edge.instances]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:0\", \"[::1]:5060\"]\n\
                   [[peer]]\nname = \"pbx\"\naddress = \"192.0.2.1:5060\"\n";
        for (own, document) in [(all, Some(version(2, DOCUMENT))), ("", None), (all, None)] {
            let effective = effective(own, document.as_ref()).unwrap();
            let shown: Vec<String> = effective
                .settings
                .iter()
                .map(|setting| format!("{} = {}\n", setting.key, setting.value))
                .collect();
            let again = NodeConfig {
                cluster_version: effective.config.cluster_version,
                ..parse(&shown.concat()).unwrap()
            };
            assert_eq!(again, effective.config, "{shown:?}");
        }
    }

    #[test]
    fn what_file_and_cluster_cannot_be_together_is_told_with_both_places() {
        let own = "[[edge.instances]]\nname = \"pbx\"\nlisten = [\"127.0.0.1:0\"]\n";
        let document = version(5, "[[peer]]\nname = \"pbx\"\naddress = \"192.0.2.1:5060\"\n");
        let problems = effective(own, Some(&document)).unwrap_err();
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "the cluster's configuration (version 5):3 peer.name: \"pbx\" is the name of another process already \
              (edge.instances.name); needs a name of its own"
            ]
        );
        let newer = version(6, "[container]\ncount = 4\nshards = 2\n");
        let told = effective(own, Some(&newer)).unwrap_err()[0].to_string();
        assert!(
            told.starts_with("the cluster's configuration (version 6):4 container.shards: unknown"),
            "{told}"
        );
    }
}
