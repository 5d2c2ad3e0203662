//! What a node keeps of its cluster's configuration, in `DIR/cluster/`: in `configuration.toml` the document that it was started with;
//! in `configuration.aside.toml` one that it knew and could not take, and was started without. Both are printed documents whose
//! first line says of which cluster they are, too: versions of different clusters have nothing to do with each other.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::document::{Document, HEAD};
use crate::problem::{ConfigError, Problem};
use crate::text_of;

/// What the node was started with.
const TAKEN: &str = "cluster/configuration.toml";

/// What it was started without.
const ASIDE: &str = "cluster/configuration.aside.toml";

/// Between version and cluster, in the first line.
const OF_CLUSTER: &str = ", of cluster ";

/// A document of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The cluster's id.
    pub cluster: String,
    /// See there.
    pub document: Document,
}

/// What the node in that directory has taken of its cluster's configuration; `None`: nothing yet, or nothing that it can take.
///
/// # Errors
/// [`ConfigError`] when it cannot be read, or says no version and cluster.
pub fn taken(directory: &Path) -> Result<Option<Kept>, ConfigError> {
    read(directory, TAKEN)
}

/// What the node in that directory knew last, and was started without.
///
/// # Errors
/// As those of [`taken`].
pub fn aside(directory: &Path) -> Result<Option<Kept>, ConfigError> {
    read(directory, ASIDE)
}

/// Where [`taken`] lies.
#[must_use]
pub fn taken_file(directory: &Path) -> PathBuf {
    directory.join(TAKEN)
}

/// Where [`aside`] lies.
#[must_use]
pub fn aside_file(directory: &Path) -> PathBuf {
    directory.join(ASIDE)
}

/// Keeps what the node in that directory, a member of a cluster, has taken, whole or not at all; what was put aside is needed no more.
///
/// # Errors
/// The system's; what it had taken before is kept then.
pub fn keep_taken(directory: &Path, kept: &Kept) -> io::Result<()> {
    let path = taken_file(directory);
    let beside = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(printed(kept).as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, &path)?;
    absent_is_fine(fs::remove_file(aside_file(directory)))
}

/// Puts aside what the node in that directory has taken, for it is started without it.
///
/// # Errors
/// The system's.
pub fn put_aside(directory: &Path) -> io::Result<()> {
    absent_is_fine(fs::rename(taken_file(directory), aside_file(directory)))
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Lines are counted as in the document itself.
fn printed(Kept { cluster, document }: &Kept) -> String {
    format!("{HEAD}{}{OF_CLUSTER}{cluster}\n{}", document.version, document.text)
}

fn read(directory: &Path, name: &str) -> Result<Option<Kept>, ConfigError> {
    let path = directory.join(name);
    if !path.exists() {
        return Ok(None);
    }
    let printed = text_of(&path, name)?;
    let (head, text) = printed.split_once('\n').unwrap_or((&printed, ""));
    let said = head.strip_prefix(HEAD).and_then(|said| said.split_once(OF_CLUSTER));
    let kept = said.and_then(|(version, cluster)| {
        let document = Document { version: version.parse().ok()?, text: text.to_owned() };
        Some(Kept { cluster: cluster.to_owned(), document })
    });
    kept.map(Some).ok_or_else(|| {
        let message = "does not begin with the line that says its version and cluster; remove it, and start the node: it takes the \
                       cluster's configuration anew";
        let problems = vec![Problem::of_file(name, 1, message.to_owned())];
        ConfigError::Refused { path, problems }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{FILE_NAME, of_node};

    fn node() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE_NAME), "").unwrap();
        fs::create_dir(directory.path().join("cluster")).unwrap();
        directory
    }

    fn kept() -> Kept {
        let document = Document { version: 3, text: "[container]\ncount = 4\n".to_owned() };
        Kept { cluster: "c1".to_owned(), document }
    }

    #[test]
    fn what_was_taken_is_what_the_node_has_from_then_on() {
        let directory = node();
        let path = directory.path();
        assert_eq!(taken(path).unwrap(), None);
        assert_eq!(of_node(path).unwrap().config.container.count, 2);
        keep_taken(path, &kept()).unwrap();
        assert_eq!(taken(path).unwrap(), Some(kept()));
        let config = of_node(path).unwrap().config;
        assert_eq!((config.container.count, config.cluster_version), (4, 3));
        assert_eq!(config.cluster_id, "c1");
        // An operator who applies it by mistake does not do so unconditionally.
        assert!(Document::read(&fs::read_to_string(taken_file(path)).unwrap()).is_err());
        for damaged in ["[container]\n", "# The cluster's configuration, version 3\n", ""] {
            fs::write(taken_file(path), damaged).unwrap();
            let told = of_node(path).unwrap_err().to_string();
            let place = "cluster/configuration.toml:1";
            assert!(told.contains(place) && told.contains("remove it"), "{told}");
        }
    }

    #[test]
    fn what_was_put_aside_is_known_and_not_what_the_node_has() {
        let directory = node();
        let path = directory.path();
        put_aside(path).unwrap();
        keep_taken(path, &kept()).unwrap();
        put_aside(path).unwrap();
        assert_eq!((taken(path).unwrap(), aside(path).unwrap()), (None, Some(kept())));
        let config = of_node(path).unwrap().config;
        assert_eq!((config.container.count, config.cluster_version), (2, 0));
        keep_taken(path, &kept()).unwrap();
        assert_eq!((taken(path).unwrap(), aside(path).unwrap()), (Some(kept()), None));
    }
}
