//! `outlast config show`: what a node is configured as and where each value comes from; or the cluster's document, to be changed.

use std::collections::BTreeMap;
use std::path::Path;

use config::{Document, NodeConfig, Origin, Setting};
use serde::Serialize;

use super::{current, version_of, with_repository};
use crate::command_line::{Origins, Reader};
use crate::failure::Failure;
use crate::output;
use crate::stores::must_exist;

/// What programs read of a node.
#[derive(Serialize)]
struct Shown<'a> {
    configuration: &'a NodeConfig,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    origins: BTreeMap<&'a str, Place<'a>>,
}

/// Where a value comes from, for programs.
#[derive(Serialize)]
struct Place<'a> {
    /// `default`, `node`, `cluster` or `cluster-for-node`.
    from: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    /// What `outlast.toml` says otherwise, in TOML, and in which line.
    #[serde(skip_serializing_if = "Option::is_none")]
    without_effect: Option<(usize, &'a str)>,
}

pub(super) fn effective(directory: &Path, origins: Origins, reader: Reader) -> Result<(), Failure> {
    must_exist(directory)?;
    let effective = config::of_node(directory)?;
    if reader == Reader::Program {
        let of = |setting: &Setting| origins == Origins::Shown && !setting.key.is_empty();
        let shown = effective.settings.iter().filter(|setting| of(setting));
        return output::json(&Shown {
            configuration: &effective.config,
            origins: shown.map(|setting| (setting.key.as_str(), place(setting))).collect(),
        });
    }
    for setting in &effective.settings {
        let line = format!("{} = {}", setting.key, setting.value);
        output::line(&match origins {
            Origins::Hidden => line,
            Origins::Shown => format!("{line}  # {}", told(setting)),
        });
    }
    Ok(())
}

pub(super) fn document(
    directory: &Path,
    version: Option<u64>,
    reader: Reader,
) -> Result<(), Failure> {
    let document = with_repository(directory, async |store| match version {
        Some(version) => version_of(store, version).await,
        None => current(store).await.map(Some),
    })?;
    let Some(Document { version, text }) = document else {
        return Err(anyhow::anyhow!(
            "there is no version {} of the cluster's configuration; outlast config history lists those that are remembered",
            version.unwrap_or_default()
        )
        .into());
    };
    match reader {
        Reader::Program => output::json(&serde_json::json!({ "version": version, "text": text })),
        Reader::Person => {
            let printed = Document { version, text }.printed();
            output::line(printed.strip_suffix('\n').unwrap_or(&printed));
            Ok(())
        }
    }
}

/// Where a value comes from, and what is without effect therefore.
fn told(setting: &Setting) -> String {
    let origin = match &setting.origin {
        Origin::Default => "default".to_owned(),
        Origin::Node(written) | Origin::Cluster(written) => {
            format!("{}:{}", written.file, written.line)
        }
        Origin::ClusterForNode(written) => {
            format!("{}:{}, for this node", written.file, written.line)
        }
    };
    match &setting.hidden {
        None => origin,
        Some(hidden) => format!(
            "{origin}; {}:{} has {}, without effect",
            hidden.written.file, hidden.written.line, hidden.value
        ),
    }
}

fn place(setting: &Setting) -> Place<'_> {
    let (from, written) = match &setting.origin {
        Origin::Default => ("default", None),
        Origin::Node(written) => ("node", Some(written)),
        Origin::Cluster(written) => ("cluster", Some(written)),
        Origin::ClusterForNode(written) => ("cluster-for-node", Some(written)),
    };
    let hidden = setting.hidden.as_ref();
    Place {
        from,
        file: written.map(|written| written.file.as_str()),
        line: written.map(|written| written.line),
        without_effect: hidden.map(|hidden| (hidden.written.line, hidden.value.as_str())),
    }
}
