//! The configuration that a node begins with: its own file, and the cluster's document as the repository has it, or as this node
//! knew it last. What it cannot take keeps it from nothing: it begins with the latest version that it can, or with its own file alone;
//! then what it knew is put aside ([`config::kept`]), tried again at each start, and taken by nobody for what the node runs with.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use config::{ConfigError, Document, Effective, Kept, NodeConfig, Problem};
use manager::founding;
use manager::server::left_behind;
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

/// Takes the cluster's configuration, if the node is a member and nothing of it runs: what runs keeps what it began with. Whoever
/// calls this holds the node's directory ([`manager::hold`]): nobody else takes one meanwhile.
///
/// # Errors
/// The node's own file cannot be read or is refused; or those that say of which cluster it is.
pub(crate) fn take(directory: &Path) -> Result<Taken, Failure> {
    let path = directory.join(config::FILE_NAME);
    let alone = config::load(&path)?;
    if !founding::is_member(directory) {
        return Ok(Taken { config: alone, told: Vec::new() });
    }
    let own = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let members = ClusterDirectory::of_node(directory).members();
    let cluster = MemberFile::load(&members).map_err(anyhow::Error::from)?.cluster;
    let mut told = Vec::new();
    let taken = of_cluster(&cluster, config::taken(directory), &mut told);
    let known =
        taken.clone().or_else(|| of_cluster(&cluster, config::kept::aside(directory), &mut told));
    if left_behind(directory).is_some() {
        let begins = first_that_fits(&own, known.into_iter().collect(), &mut told);
        return Ok(outcome(begins.map(|(_, effective)| effective), &cluster, alone, told));
    }
    let found = versions(directory, known.as_ref()).unwrap_or_else(|error| {
        told.push(format!(
            "the cluster's configuration cannot be read ({error:#}): the node begins with what it knows"
        ));
        Vec::new()
    });
    let begins = first_that_fits(&own, candidates(found, known, &mut told), &mut told);
    let kept = match &begins {
        Some((document, _)) if taken.as_ref() == Some(document) => Ok(()),
        Some((document, _)) => {
            let kept = Kept { cluster: cluster.clone(), document: document.clone() };
            config::keep_taken(directory, &kept)
        }
        None => config::kept::put_aside(directory),
    };
    if let Err(error) = kept {
        told.push(format!(
            "what the node begins with cannot be kept in {} ({error}): other commands on this node do not know it",
            config::kept::taken_file(directory).display()
        ));
    }
    Ok(outcome(begins.map(|(_, effective)| effective), &cluster, alone, told))
}

/// What the node kept, if it is of the cluster that it is in now: versions of another one's say nothing of this one's.
fn of_cluster(
    cluster: &str,
    kept: Result<Option<Kept>, ConfigError>,
    told: &mut Vec<String>,
) -> Option<Document> {
    match kept {
        Ok(kept) => kept.filter(|kept| kept.cluster == cluster).map(|kept| kept.document),
        Err(error) => {
            told.push(error.to_string());
            None
        }
    }
}

/// What the node may begin with, the best first: what the repository has, then what the node knew. A repository that has
/// nothing does not take the place of a version that was known: more likely it is the wrong one, or has lost what it had.
fn candidates(
    found: Vec<Document>,
    known: Option<Document>,
    told: &mut Vec<String>,
) -> Vec<Document> {
    let (Some(latest), Some(known)) = (found.first(), &known) else {
        return found.into_iter().chain(known).collect();
    };
    match (latest.version, known.version) {
        (0, known_version @ 1..) => {
            told.push(format!(
                "the cluster's repository has no configuration, and this node knows version {known_version}: it keeps that; {}",
                super::EMPTIED
            ));
            return vec![known.clone()];
        }
        (version, known_version) if version < known_version => told.push(format!(
            "the cluster's repository has version {version} of its configuration, and this node knew version {known_version}: the \
             repository was put back to what it was before, and what it has holds; see outlast config history"
        )),
        _ => {}
    }
    found.into_iter().chain(Some(known.clone())).collect()
}

fn outcome(
    begins: Option<Effective>,
    cluster: &str,
    alone: NodeConfig,
    mut told: Vec<String>,
) -> Taken {
    let Some(effective) = begins else {
        if !told.is_empty() {
            told.push(format!("the node begins with {} alone", config::FILE_NAME));
        }
        return Taken { config: alone, told };
    };
    told.extend(super::hidden(&effective));
    let config = NodeConfig { cluster_id: cluster.to_owned(), ..effective.config };
    Taken { config, told }
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

    #[test]
    fn an_empty_repository_does_not_take_the_place_of_a_version_that_was_known() {
        let versions = |found: &[(u64, &str)], known: &[(u64, &str)]| {
            let mut told = Vec::new();
            let all = candidates(documents(found), documents(known).pop(), &mut told);
            (all.iter().map(|document| document.version).collect::<Vec<u64>>(), told)
        };
        let (all, told) = versions(&[(0, "")], &[(7, "")]);
        assert_eq!((all.as_slice(), told.len()), ([7].as_slice(), 1), "{told:?}");
        assert!(told[0].contains("this node knows version 7: it keeps that; "), "{told:?}");
        assert!(told[0].contains("without its first line"), "{told:?}");
        // A new cluster's is empty, too.
        assert_eq!(versions(&[(0, "")], &[]), (vec![0], Vec::new()));
        assert_eq!(versions(&[(0, "")], &[(0, "")]), (vec![0, 0], Vec::new()));
        assert_eq!(versions(&[], &[(7, "")]), (vec![7], Vec::new()));
        assert_eq!(versions(&[(8, ""), (7, "")], &[(7, "")]), (vec![8, 7, 7], Vec::new()));
        // Who has put the repository back knows what he wants; nobody else is left in the dark.
        let (all, told) = versions(&[(5, "")], &[(7, "")]);
        assert_eq!((all.as_slice(), told.len()), ([5, 7].as_slice(), 1), "{told:?}");
    }

    const PEER: &str = "[[peer]]\nname = \"edge1\"\naddress = \"192.0.2.1:5060\"\n";

    /// The directory of a member of the cluster `c1`, whose repository has not begun, that kept this.
    fn member(cluster: &str, version: u64, text: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::write(path.join(config::FILE_NAME), config::FirstRun::default().text()).unwrap();
        let files = ClusterDirectory::of_node(path);
        fs::create_dir_all(files.path()).unwrap();
        let address = "127.0.0.1:6200".parse().unwrap();
        let file = MemberFile {
            cluster: "c1".to_owned(),
            name: "node1".to_owned(),
            number: topology::NodeNumber::FIRST,
            membership: topology::Membership::created("node1", address),
        };
        file.write(&files.members()).unwrap();
        let document = Document { version, text: text.to_owned() };
        config::keep_taken(path, &Kept { cluster: cluster.to_owned(), document }).unwrap();
        directory
    }

    #[test]
    fn what_fits_no_more_is_told_at_each_start_and_nobody_believes_that_it_runs() {
        let node = member("c1", 7, PEER);
        let path = node.path();
        for start in 1..=2 {
            let Taken { config, told } = take(path).ok().unwrap();
            assert_eq!((config.cluster_version, told.len()), (0, 2), "start {start}: {told:?}");
            assert!(told[0].contains("version 7") && told[0].contains("peer.name"), "{told:?}");
            assert_eq!(told[1], "the node begins with outlast.toml alone", "start {start}");
            // Other commands know what it runs with.
            assert_eq!(config::taken(path).unwrap(), None);
            assert_eq!(config::of_node(path).unwrap().config, config);
        }
        // When the file is repaired, it is as before.
        let own = fs::read_to_string(path.join(config::FILE_NAME)).unwrap();
        fs::write(path.join(config::FILE_NAME), own.replace("edge1", "edge2")).unwrap();
        let Taken { config, told } = take(path).ok().unwrap();
        assert_eq!((config.cluster_version, told), (7, Vec::new()));
        assert_eq!(config::of_node(path).unwrap().config, config);
        assert_eq!(config::kept::aside(path).unwrap(), None);
    }

    #[test]
    fn what_was_kept_of_another_cluster_is_not_taken_in_this_one() {
        let node = member("c0", 7, "[container]\ncount = 4\n");
        let Taken { config, .. } = take(node.path()).ok().unwrap();
        assert_eq!((config.cluster_version, config.container.count), (0, 2));
        assert_eq!(config::of_node(node.path()).unwrap().config, config);
        let node = member("c1", 7, "[container]\ncount = 4\n");
        let Taken { config, .. } = take(node.path()).ok().unwrap();
        assert_eq!((config.cluster_version, config.container.count), (7, 4));
        assert_eq!(config.cluster_id, "c1");
    }

    #[test]
    fn a_node_that_another_one_starts_takes_nothing() {
        let node = member("c1", 7, PEER);
        let held = manager::hold(node.path()).unwrap();
        let wishes = crate::command_line::UpWishes::default();
        let told = crate::up::up(node.path(), &wishes).unwrap_err().to_string();
        assert!(told.contains("another node runs on this directory"), "{told}");
        let kept = config::taken(node.path()).unwrap().map(|kept| kept.document.version);
        assert_eq!(kept, Some(7), "what somebody else begins with");
        drop(held);
    }
}
