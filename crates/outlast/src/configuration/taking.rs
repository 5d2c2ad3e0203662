//! The configuration that a node begins with: its own file, and the cluster's document as the repository has it, or as this node
//! knew it last. What it cannot take keeps it from nothing: it begins with the latest version that it can.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use config::{Document, Effective, NodeConfig, Problem};
use manager::founding;
use manager::server::{guardian_of, left_behind};
use topology::credentials::ClusterDirectory;
use topology::{MemberFile, RepositoryList};

use super::document;
use crate::failure::Failure;
use crate::stores::{self, accounts};

/// How long a node that comes up waits for the repository's word; it has a copy of what was known last.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a node begins with.
pub(crate) struct Taken {
    pub(crate) config: NodeConfig,
    /// What the operator shall read.
    pub(crate) told: Vec<String>,
}

/// Takes the cluster's configuration, if the node is a member and nothing of it runs: what runs keeps what it began with.
///
/// # Errors
/// The node's own file cannot be read or is refused.
pub(crate) fn take(directory: &Path) -> Result<Taken, Failure> {
    let path = directory.join(config::FILE_NAME);
    let alone = config::load(&path)?;
    if !founding::is_member(directory) {
        return Ok(Taken { config: alone, told: Vec::new() });
    }
    let own = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut told = Vec::new();
    let known = config::taken(directory).unwrap_or_else(|error| {
        told.push(error.to_string());
        None
    });
    let runs = guardian_of(directory).is_some() || left_behind(directory).is_some();
    let found = if runs { Ok(Vec::new()) } else { versions(directory, known.as_ref()) };
    let mut candidates = found.unwrap_or_else(|error| {
        told.push(format!(
            "the cluster's configuration cannot be read ({error:#}): the node begins with what it knows"
        ));
        Vec::new()
    });
    candidates.extend(known.clone());
    let Some((document, effective)) = first_that_fits(&own, candidates, &mut told) else {
        if !told.is_empty() {
            told.push(format!("the node begins with {} alone", config::FILE_NAME));
        }
        return Ok(Taken { config: alone, told });
    };
    if known.as_ref() != Some(&document)
        && let Err(error) = config::keep_taken(directory, &document)
    {
        told.push(format!(
            "{} cannot be kept ({error}): other commands on this node do not know it",
            document.name()
        ));
    }
    told.extend(super::hidden(&effective));
    Ok(Taken { config: effective.config, told })
}

/// The first of these that the node can take together with its own file.
fn first_that_fits(
    own: &str,
    candidates: Vec<Document>,
    told: &mut Vec<String>,
) -> Option<(Document, Effective)> {
    let mut refused = None;
    for document in candidates {
        match config::effective(own, Some(&document)) {
            Ok(effective) => {
                if let Some(refused) = refused {
                    told.push(format!(
                        "{refused}; the node begins with version {}",
                        document.version
                    ));
                }
                return Some((document, effective));
            }
            Err(problems) => {
                let reason = problems.first().map(Problem::to_string).unwrap_or_default();
                let this = format!(
                    "version {} of the cluster's configuration cannot be taken by this node: {reason}",
                    document.version
                );
                refused.get_or_insert(this);
            }
        }
    }
    told.extend(refused);
    None
}

/// What the repository has, the latest first: all that is remembered if the latest cannot be taken.
fn versions(directory: &Path, known: Option<&Document>) -> anyhow::Result<Vec<Document>> {
    let files = ClusterDirectory::of_node(directory);
    let Some(list) = RepositoryList::load(&files.repository())?.filter(|list| list.has_accounts)
    else {
        return Ok(Vec::new());
    };
    let own = MemberFile::load(&files.members())?.name;
    // Of a repository that is this node's alone nobody else has changed anything.
    let is_alone = !list.members.is_empty() && list.members.iter().all(|member| member.node == own);
    stores::runtime()?.block_on(async {
        let accounts = accounts::open_as_known(directory)?;
        if let accounts::Accounts::Cluster(store, _) = &accounts
            && !is_alone
        {
            // The copy is what there is else.
            let _ = store.catch_up(PATIENCE).await;
        }
        if let accounts::Accounts::Cluster(store, _) = &accounts
            && store.revision().await?.is_none()
        {
            bail!("this node has no copy of the repository yet");
        }
        let store = accounts.store();
        let Some(current) = manager::configuration::current(store.as_ref()).await? else {
            return Ok(vec![Document::default()]);
        };
        if known.is_some_and(|known| known.version == current.version) {
            return Ok(vec![document(&current)]);
        }
        let all = manager::configuration::history(store.as_ref()).await?;
        let before = all.iter().filter(|change| change.version < current.version);
        Ok(std::iter::once(&current).chain(before).map(document).collect())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn documents(all: &[(u64, &str)]) -> Vec<Document> {
        all.iter()
            .map(|(version, text)| Document { version: *version, text: (*text).to_owned() })
            .collect()
    }

    #[test]
    fn a_node_begins_with_the_latest_version_that_it_can_take_and_says_so() {
        let own = "[[edge.instances]]\nname = \"pbx\"\nlisten = [\"127.0.0.1:0\"]\n";
        let peer = "[[peer]]\nname = \"pbx\"\naddress = \"192.0.2.1:5060\"\n";
        let newer = "[container]\nshards = 8\n";
        let mut told = Vec::new();
        let all = documents(&[(7, newer), (6, peer), (5, "[container]\ncount = 3\n"), (4, "")]);
        let (document, effective) = first_that_fits(own, all, &mut told).unwrap();
        assert_eq!((document.version, effective.config.container.count), (5, 3));
        assert_eq!(told.len(), 1, "{told:?}");
        let expected = "version 7 of the cluster's configuration cannot be taken by this node: ";
        assert!(told[0].starts_with(expected), "{told:?}");
        assert!(told[0].contains("container.shards: unknown"), "{told:?}");
        assert!(told[0].ends_with("the node begins with version 5"), "{told:?}");
    }

    #[test]
    fn what_fits_is_taken_without_a_word_and_nothing_that_does_not() {
        let mut told = Vec::new();
        assert!(first_that_fits("", documents(&[(2, ""), (1, "x")]), &mut told).is_some());
        assert_eq!(told, [""; 0]);
        assert!(first_that_fits("", documents(&[(2, "x = 1")]), &mut told).is_none());
        assert!(first_that_fits("", Vec::new(), &mut told).is_none());
        assert_eq!(told.len(), 1, "{told:?}");
    }
}
