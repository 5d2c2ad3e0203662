//! `DIR/apps/`: the files of the deployed applications, and the table of them.
//!
//! | path | what |
//! |---|---|
//! | `deployed.json` | which versions there are, and which are current; the manager alone writes it |
//! | `NAME/VERSION/` | one version: manifest, `component.wasm`, `component.cwasm` (its compiled code), `settings.toml` |
//! | `.staging/WORD/` | the same on its way in: a command fills it, the manager moves it |
//!
//! Whoever may write here may run code in the containers, so it is its owner's alone.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::manifest::{self, Manifest};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::UpError;
use crate::deployment::{
    DeployedTable, Deployment, Examined, HttpHealth, Moved, Place, Removed, Work, Worked,
};
use crate::repository::applications::Local;

/// The component of a version, in its directory.
pub const COMPONENT: &str = "component.wasm";

/// Its compiled code; a container makes it anew where it does not fit.
pub const CODE: &str = "component.cwasm";

/// What the operator set in place of the manifest's `[config]`; there need not be one.
pub const SETTINGS: &str = "settings.toml";

/// The only one so far.
const FORMAT_LEVEL: u32 = 1;

/// A table of all that a node may have is much shorter. A longer file is none of ours.
const TABLE_BYTES_MAX: u64 = 1 << 20;

/// What a command left in the staging directory, and did not have moved, goes after this.
const STAGED_FOR_MAX: Duration = Duration::from_secs(3_600);

/// The applications of a node's directory.
#[derive(Debug, Clone)]
pub struct ApplicationsDirectory {
    path: PathBuf,
}

/// `deployed.json`.
#[derive(Serialize, Deserialize)]
struct Written {
    format_level: u32,
    #[serde(flatten)]
    table: DeployedTable,
}

impl ApplicationsDirectory {
    /// Of the node in that directory.
    pub fn of_node(directory: &Path) -> ApplicationsDirectory {
        ApplicationsDirectory { path: directory.join("apps") }
    }

    /// Where a version's files lie.
    pub fn version(&self, name: &str, version: &str) -> PathBuf {
        self.path.join(name).join(version)
    }

    /// Where they lie on their way in.
    pub fn staging(&self, word: &str) -> PathBuf {
        self.path.join(".staging").join(word)
    }

    /// Makes a directory for files on their way in.
    ///
    /// # Errors
    /// The system's.
    pub fn stage(&self, word: &str) -> io::Result<PathBuf> {
        let staging = self.staging(word);
        private_directory(&staging)?;
        Ok(staging)
    }

    fn table(&self) -> PathBuf {
        self.path.join("deployed.json")
    }

    /// What there is, by names.
    ///
    /// # Errors
    /// A table that is none.
    pub(super) fn overview(&self) -> Result<BTreeMap<String, Local>, UpError> {
        Ok(self.read()?.overview())
    }

    fn read(&self) -> Result<DeployedTable, UpError> {
        let path = self.table();
        let damaged = |reason: String| UpError::Deployed { path: path.clone(), reason };
        let mut bytes = Vec::new();
        let read = File::open(&path)
            .and_then(|file| file.take(TABLE_BYTES_MAX).read_to_end(&mut bytes).map(|_| ()));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(DeployedTable::default());
            }
            read => read.map_err(|error| damaged(error.to_string()))?,
        }
        let written: Written =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if written.format_level != FORMAT_LEVEL {
            let level = written.format_level;
            return Err(damaged(format!("format level {level} is another release's")));
        }
        Ok(written.table)
    }

    /// The table as the last manager left it, with what that left unfinished taken back.
    pub(super) fn open(&self) -> Result<DeployedTable, UpError> {
        let path = self.table();
        let mut table = self.read()?;
        let before = table.clone();
        Deployment::recover(&mut table);
        if table != before {
            warn!("the last manager ended while an application came in: its new version does not");
            // What stays means the same to the next manager.
            if let Err(error) = self.write(&table) {
                warn!(%error, file = %path.display(), "cannot be written");
            }
        }
        self.sweep_staging();
        Ok(table)
    }

    /// Does what the deployment asks for; it takes as long as the disk takes.
    pub(super) fn work(&self, work: Work) -> Worked {
        match work {
            Work::Examine(place) => Worked::Examined(self.examine(&place)),
            Work::Store { moved, table, removed } => {
                let stored = self.store(moved.as_ref(), &table);
                if stored.is_ok() {
                    removed.iter().for_each(|removed| self.remove(removed));
                }
                Worked::Stored(stored)
            }
        }
    }

    fn examine(&self, place: &Place) -> Result<Examined, String> {
        let directory = match place {
            Place::Staged(word) => self.staging(word),
            Place::Kept { name, version } => self.version(name, &version.to_string()),
        };
        let path = directory.join(manifest::FILE_NAME);
        let manifest = manifest::load(&path).map_err(|error| error.to_string())?;
        let component = directory.join(COMPONENT);
        if !component.is_file() {
            return Err(format!("{} is missing; deploy it again", component.display()));
        }
        let host = manifest.http.and_then(|http| http.host);
        let http = manifest.health.http_path.clone().map(|path| HttpHealth { path, host });
        let Manifest { name, version, health, .. } = manifest;
        Ok(Examined { name, version, health, http })
    }

    fn store(&self, moved: Option<&Moved>, table: &DeployedTable) -> Result<(), String> {
        let told = |error: io::Error| {
            format!("{}: {error}; make room, or let its owner write there", self.path.display())
        };
        let place = moved.map(|moved| self.bring_in(moved)).transpose().map_err(told)?;
        self.write(table).map_err(|error| {
            if let Some(place) = place {
                // Nobody knows of it; the next one of that name takes its place.
                let _ = fs::remove_dir_all(place);
            }
            told(error)
        })
    }

    fn bring_in(&self, moved: &Moved) -> io::Result<PathBuf> {
        let application = self.path.join(&moved.name);
        private_directory(&application)?;
        let place = application.join(moved.version.to_string());
        match fs::remove_dir_all(&place) {
            // Of a manager that died before it wrote the table.
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        fs::rename(self.staging(&moved.staged), &place)?;
        File::open(&application)?.sync_all()?;
        Ok(place)
    }

    /// Written beside, brought to the disk and renamed, so that neither a crash nor the loss of power leaves half a table.
    fn write(&self, table: &DeployedTable) -> io::Result<()> {
        private_directory(&self.path)?;
        let beside = self.path.join("deployed.new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        let written = Written { format_level: FORMAT_LEVEL, table: table.clone() };
        serde_json::to_writer_pretty(&mut file, &written)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&beside, self.table())?;
        File::open(&self.path)?.sync_all()
    }

    fn remove(&self, removed: &Removed) {
        let path = match removed.version {
            Some(version) => self.version(&removed.name, &version.to_string()),
            None => self.path.join(&removed.name),
        };
        if let Err(error) = fs::remove_dir_all(&path) {
            warn!(path = %path.display(), %error, "cannot be removed; nothing refers to it any more");
        }
    }

    fn sweep_staging(&self) {
        let Ok(staged) = fs::read_dir(self.path.join(".staging")) else { return };
        for entry in staged.flatten() {
            let age = entry.metadata().and_then(|metadata| metadata.modified());
            let age = age.ok().and_then(|modified| modified.elapsed().ok());
            if age.is_some_and(|age| age > STAGED_FOR_MAX) {
                // Left behind, it costs its room on the disk.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn staged(directory: &ApplicationsDirectory, word: &str, version: &str) {
        let path = directory.stage(word).unwrap();
        let manifest =
            format!("name = \"echo\"\nversion = \"{version}\"\ncomponent = \"echo.wasm\"\n");
        fs::write(path.join(manifest::FILE_NAME), manifest).unwrap();
        fs::write(path.join(COMPONENT), word).unwrap();
    }

    fn moved(word: &str) -> Option<Moved> {
        let version = "1.0.0".parse().unwrap();
        Some(Moved { staged: word.to_owned(), name: "echo".to_owned(), version })
    }

    fn table(json: &str) -> DeployedTable {
        serde_json::from_str(json).unwrap()
    }

    const CURRENT: &str =
        r#"{"applications":{"echo":{"versions":["1.0.0"],"current":"1.0.0","rolling_to":null}}}"#;
    const ARRIVING: &str =
        r#"{"applications":{"echo":{"versions":["1.0.0"],"current":null,"rolling_to":"1.0.0"}}}"#;

    #[test]
    fn what_was_staged_comes_into_place_with_the_table_and_is_found_again() {
        let node = tempfile::tempdir().unwrap();
        let directory = ApplicationsDirectory::of_node(node.path());
        assert_eq!(directory.open().unwrap(), DeployedTable::default());
        staged(&directory, "a", "1.0.0");
        let examined = directory.work(Work::Examine(Place::Staged("a".to_owned())));
        assert!(matches!(&examined, Worked::Examined(Ok(read)) if read.name == "echo"));
        // Left by a manager that died: not in its table, and in the way.
        fs::create_dir_all(directory.version("echo", "1.0.0").join("old")).unwrap();
        let store = Work::Store { moved: moved("a"), table: table(CURRENT), removed: None };
        assert_eq!(directory.work(store), Worked::Stored(Ok(())));
        let place = directory.version("echo", "1.0.0");
        assert_eq!(fs::read(place.join(COMPONENT)).unwrap(), b"a");
        assert!(!place.join("old").exists() && !directory.staging("a").exists());
        assert_eq!(directory.open().unwrap(), table(CURRENT));
    }

    #[test]
    fn what_was_on_its_way_in_when_the_manager_died_is_taken_back() {
        let node = tempfile::tempdir().unwrap();
        let directory = ApplicationsDirectory::of_node(node.path());
        staged(&directory, "a", "1.0.0");
        let store = Work::Store { moved: moved("a"), table: table(ARRIVING), removed: None };
        assert_eq!(directory.work(store), Worked::Stored(Ok(())));
        let mut before = table(ARRIVING);
        Deployment::recover(&mut before);
        assert_eq!(directory.open().unwrap(), before);
        assert!(directory.version("echo", "1.0.0").exists(), "sessions may have begun with it");
        assert_eq!(directory.open().unwrap(), before);
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_its_name() {
        let node = tempfile::tempdir().unwrap();
        let directory = ApplicationsDirectory::of_node(node.path());
        let examine = || directory.work(Work::Examine(Place::Staged("a".to_owned())));
        let reason = |worked: Worked| match worked {
            Worked::Examined(Err(reason)) => reason,
            other => panic!("{other:?}"),
        };
        assert!(reason(examine()).contains(manifest::FILE_NAME));
        staged(&directory, "a", "1.0.0");
        fs::remove_file(directory.staging("a").join(COMPONENT)).unwrap();
        assert!(reason(examine()).contains(COMPONENT));
        fs::write(directory.table(), "{").unwrap();
        let error = directory.open().unwrap_err().to_string();
        assert!(error.contains("deployed.json") && error.contains("backup"), "{error}");
        assert_eq!(fs::read(directory.table()).unwrap(), b"{", "left alone");
    }

    #[test]
    fn a_table_that_cannot_be_written_leaves_no_files() {
        let node = tempfile::tempdir().unwrap();
        let directory = ApplicationsDirectory::of_node(node.path());
        staged(&directory, "a", "1.0.0");
        fs::create_dir(directory.table()).unwrap();
        let store = Work::Store { moved: moved("a"), table: table(CURRENT), removed: None };
        assert!(matches!(directory.work(store), Worked::Stored(Err(_))));
        assert!(!directory.version("echo", "1.0.0").exists());
    }
}
