//! The written file against the defaults that it claims.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::settings::NodeConfig;

/// Settings shown as examples, which have no value by default.
const EXAMPLES: [&str; 8] = [
    "#public",
    "#[[peer]]",
    "#name = \"pbx\"",
    "#address",
    "#transport",
    "#weight",
    "#discover",
    "#link_ports",
];

fn uncommented(text: &str) -> String {
    let setting = |line: &str| {
        let rest = line.strip_prefix('#')?;
        let is_key =
            rest.starts_with(|first: char| first.is_ascii_lowercase()) && rest.contains(" = ");
        let is_example = EXAMPLES.iter().any(|example| line.starts_with(example));
        (is_key && !is_example).then(|| rest.to_owned())
    };
    let lines: Vec<String> =
        text.lines().map(|line| setting(line).unwrap_or_else(|| line.to_owned())).collect();
    lines.join("\n")
}

#[test]
fn the_written_file_means_exactly_the_defaults() {
    let text = FirstRun::default().text();
    assert_eq!(crate::parse(&text).unwrap(), NodeConfig::default());
}

#[test]
fn an_empty_file_means_the_defaults_too() {
    assert_eq!(crate::parse("").unwrap(), NodeConfig::default());
}

#[test]
fn the_values_behind_the_comments_are_the_defaults() {
    let text = uncommented(&FirstRun::default().text());
    assert!(text.contains("\nworkers = \"auto\""), "{text}");
    assert_eq!(crate::parse(&text).unwrap(), NodeConfig::default());
}

#[test]
fn the_examples_behind_the_comments_are_accepted() {
    let text: String = FirstRun::default()
        .text()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest)
                if rest.starts_with(['[', 'a', 'n', 't', 'w', 'p', 'r', 'd', 's', 'l'])
                    && rest.contains(['=', '[']) =>
            {
                format!("{rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let config = crate::parse(&text).unwrap();
    assert_eq!(config.peer.len(), 1);
    let cluster = config.cluster.unwrap();
    assert!(cluster.discover.is_some() && cluster.link_ports.is_some());
    assert!(config.edge.public.is_some());
    assert!(config.edge.instances[0].public.is_some());
}

/// Every key of the JSON form stands in the template: nothing is configurable but undocumented.
#[test]
fn every_setting_is_documented() {
    let text = FirstRun::default().text();
    let mut config = NodeConfig::default();
    config.peer.push(crate::PeerSettings {
        name: "pbx".to_owned(),
        address: "192.0.2.1:5060".parse().unwrap(),
        transport: crate::PeerTransport::Udp,
        weight: 100,
    });
    let written = toml::Value::try_from(&config).unwrap();
    let mut keys = Vec::new();
    collect_keys(&written, &mut keys);
    assert!(keys.len() > 20, "{keys:?}");
    for key in keys {
        let documented = text.lines().any(|line| {
            line.trim_start_matches('#').trim_matches(['[', ']']).rsplit('.').next() == Some(&key)
                || line.trim_start_matches('#').starts_with(&format!("{key} = "))
        });
        assert!(documented, "{key} is not in the first-run file");
    }
}

fn collect_keys(value: &toml::Value, keys: &mut Vec<String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                keys.push(key.clone());
                collect_keys(value, keys);
            }
        }
        toml::Value::Array(array) => array.iter().for_each(|value| collect_keys(value, keys)),
        _ => {}
    }
}

#[test]
fn wishes_are_written_and_a_file_that_is_there_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(crate::FILE_NAME);
    let wishes = FirstRun {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        domains: vec!["example.com".to_owned(), "example.org".to_owned()],
    };
    let config = first_run(&path, &wishes).unwrap();
    assert_eq!(config.registrar.domains, wishes.domains);
    assert_eq!(config.edge.instances[0].listen, wishes.listen);
    assert_eq!(crate::load(&path).unwrap(), config);
    assert!(first_run(&path, &FirstRun::default()).is_err());
    assert_eq!(crate::load(&path).unwrap(), config);
}

#[test]
fn a_bad_domain_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(crate::FILE_NAME);
    let wishes = FirstRun { domains: vec!["not a domain\"".to_owned()], ..FirstRun::default() };
    assert!(first_run(&path, &wishes).is_err());
    assert!(!path.exists());
}
