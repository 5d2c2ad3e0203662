//! The files of a version: into the repository, out of it, and what stands for them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use config::manifest;
use repository::{FileNote, Piece};
use state::Expect;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command as Program;
use tokio::time::timeout;
use topology::protocol::REASON_BYTES_MAX;
use tracing::{info, warn};

use super::super::super::applications_directory::{COMPONENT, SETTINGS};
use super::{Records, Sharing, text};
use crate::repository::applications::{Kept, Local, Shared, has_place, has_room, is_noted};

/// What a version consists of. Its compiled code is each node's own.
const FILES: [&str; 3] = [manifest::FILE_NAME, COMPONENT, SETTINGS];

/// So many pieces in the repository are looked at whenever applications are changed.
const LOOKED_AT_ONCE: u16 = 1_000;

/// How long a compiler may take.
const PREPARED_WITHIN: Duration = Duration::from_secs(120);

impl Sharing {
    /// Puts the files of a version where the manager takes them over, with code that was compiled here; the name of that place.
    pub(super) async fn fetch(
        &self,
        name: &str,
        version: &str,
        files: &BTreeMap<String, FileNote>,
    ) -> Result<String, String> {
        // The same for each attempt, and a name that staging directories may have.
        let staged = blake3_name(&format!("{name}@{version}"));
        let applications = self.parts.applications.clone();
        let place = applications.staging(&staged);
        let told = |error: io::Error| format!("{}: {error}", place.display());
        match fs::remove_dir_all(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(told(error)),
            Ok(()) | Err(_) => {}
        }
        applications.stage(&staged).map_err(told)?;
        let fetched = self.fetch_to(&place, name, version, files).await;
        if fetched.is_err() {
            // It is tried again from the beginning; until then it would only take room.
            let _ = fs::remove_dir_all(&place);
        }
        fetched.map(|()| staged)
    }

    async fn fetch_to(
        &self,
        place: &Path,
        name: &str,
        version: &str,
        files: &BTreeMap<String, FileNote>,
    ) -> Result<(), String> {
        for (file, note) in files {
            if !FILES.contains(&file.as_str()) {
                return Err(format!("{file} is no file of an application"));
            }
            let content = self.files.get(name, note).await.map_err(|it| format!("{file}: {it}"))?;
            let path = place.join(file);
            let written = blocking(move || write(&path, &content)).await;
            written.map_err(|error| {
                format!("{file} cannot be written: {error}; make room on this node's disk")
            })?;
        }
        let found = manifest::load(&place.join(manifest::FILE_NAME)).map_err(text)?;
        let found = (found.name.as_str(), found.version.to_string());
        if found != (name, version.to_owned()) {
            return Err(format!("its manifest is that of {} {}", found.0, found.1));
        }
        self.compile(place).await
    }

    /// In a process of its own: what it does with a component is its own risk.
    async fn compile(&self, place: &Path) -> Result<(), String> {
        let program = Program::from((self.parts.prepare)(place));
        let limit = PREPARED_WITHIN.as_secs();
        let ended = timeout(PREPARED_WITHIN, ended(program)).await;
        let ended = ended.map_err(|_| format!("it was not compiled within {limit} s"))?;
        let (status, said) = ended.map_err(|error| format!("no process to compile it: {error}"))?;
        if status.success() {
            return Ok(());
        }
        let said = said.trim();
        Err(format!(
            "it cannot be compiled here: {}",
            if said.is_empty() { "no reason" } else { said }
        ))
    }

    /// The files of a version that is here.
    pub(super) async fn notes(
        &mut self,
        name: &str,
        version: &str,
    ) -> Result<BTreeMap<String, FileNote>, String> {
        let key = (name.to_owned(), version.to_owned());
        if let Some(notes) = self.known.get(&key) {
            return Ok(notes.clone());
        }
        let notes = notes_in(self.parts.applications.version(name, version)).await?;
        self.known.insert(key, notes.clone());
        Ok(notes)
    }

    /// Whether a version has these files, if it is here.
    ///
    /// # Errors
    /// What cannot be read.
    pub(super) async fn kept(
        &mut self,
        name: &str,
        version: Option<&String>,
        files: &BTreeMap<String, FileNote>,
        here: Option<&Local>,
    ) -> Result<Kept, String> {
        let kept = version.filter(|version| here.is_some_and(|it| it.versions.contains(version)));
        match kept {
            None => Ok(Kept::Same),
            Some(version) if self.notes(name, version).await? == *files => Ok(Kept::Same),
            Some(_) => Ok(Kept::Other),
        }
    }

    /// Puts the files of a version that is here into the repository.
    pub(super) async fn put(
        &self,
        name: &str,
        version: &str,
        files: &BTreeMap<String, FileNote>,
    ) -> Result<(), String> {
        let place = self.parts.applications.version(name, version);
        for (file, note) in files {
            let path = place.join(file);
            let content = blocking(move || fs::read(&path)).await;
            let content = content.map_err(|error| format!("{file}: {error}"))?;
            let put = self.files.put(name, &content).await.map_err(|it| format!("{file}: {it}"))?;
            if put != *note {
                return Err(format!("{file} is not what it was a moment ago"));
            }
        }
        Ok(())
    }

    /// Files that nobody needs.
    pub(super) async fn drop_files(&self, name: &str, files: &[FileNote]) {
        for file in files {
            if let Err(error) = self.files.remove(name, file).await {
                warn!(%error, application = name, hash = file.hash, "a file that nobody needs stays in the repository");
            }
        }
    }

    /// Removes pieces of files that no record notes, of nodes that died between the two: some at a time, and the next ones the next
    /// time. Whoever puts files has the lock, and so has who calls this.
    pub(super) async fn collect(&mut self) {
        if let Err(reason) = self.collect_some().await {
            warn!(reason, "files that nobody needs may stay in the repository");
        }
    }

    async fn collect_some(&mut self) -> Result<(), String> {
        self.store.catch_up(super::REACHED_WITHIN).await.map_err(text)?;
        let Records { all, unreadable } = self.shared().await?;
        let (found, more) =
            self.files.pieces(self.looked_at.as_ref(), LOOKED_AT_ONCE).await.map_err(text)?;
        self.looked_at = found.last().filter(|_| more).cloned();
        // What a record notes that cannot be read is not known.
        let is_needed = |piece: &Piece| {
            unreadable.contains_key(&piece.group) || is_noted(&all, &piece.group, &piece.hash)
        };
        let left: Vec<Piece> = found.into_iter().filter(|piece| !is_needed(piece)).collect();
        if left.is_empty() {
            return Ok(());
        }
        self.files.remove_pieces(&left).await.map_err(text)?;
        info!(pieces = left.len(), "of files that nobody noted: removed from the repository");
        Ok(())
    }

    /// The cluster has what this node had before there was one.
    pub(super) async fn contribute(
        &mut self,
        name: &str,
        version: &str,
        others: &BTreeMap<String, Shared>,
    ) -> Result<(), String> {
        // Else somebody might take the files for left ones, before a record notes them.
        let lock = self.lock().await?;
        let contributed = self.contribute_locked(name, version, others).await;
        lock.release().await;
        contributed
    }

    async fn contribute_locked(
        &mut self,
        name: &str,
        version: &str,
        others: &BTreeMap<String, Shared>,
    ) -> Result<(), String> {
        let files = self.notes(name, version).await?;
        has_room(others, &files)?;
        has_place(others, name)?;
        // Before the record: nobody looks for them yet, and they are the same when they are put again.
        self.put(name, version, &files).await?;
        let shared = Shared { current: Some(version.to_owned()), files, ..Shared::default() };
        self.commit(name, &shared, Expect::Absent).await.map(drop)
    }

    /// Which application an operator has staged, which version of it, and its files.
    pub(super) async fn staged(
        &self,
        staged: &str,
    ) -> Result<(String, String, BTreeMap<String, FileNote>), String> {
        let place = self.parts.applications.staging(staged);
        let found = manifest::load(&place.join(manifest::FILE_NAME)).map_err(text)?;
        let files = notes_in(place).await?;
        Ok((found.name, found.version.to_string(), files))
    }
}

/// Waits for a process that says on its standard error why it fails; of that the beginning.
async fn ended(mut program: Program) -> io::Result<(ExitStatus, String)> {
    program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    program.kill_on_drop(true);
    let mut child = program.spawn()?;
    let mut said = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        (&mut stderr).take(REASON_BYTES_MAX as u64).read_to_end(&mut said).await?;
        // The rest is read, so that it does not wait for somebody to do so, and not kept.
        tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await?;
    }
    Ok((child.wait().await?, String::from_utf8_lossy(&said).into_owned()))
}

async fn notes_in(place: PathBuf) -> Result<BTreeMap<String, FileNote>, String> {
    let noted = move || {
        let mut notes = BTreeMap::new();
        for file in FILES {
            let path = place.join(file);
            match fs::read(&path) {
                Ok(content) => {
                    let note = FileNote::of(&content).map_err(|it| format!("{file}: {it}"))?;
                    notes.insert(file.to_owned(), note);
                }
                // There need not be any.
                Err(error) if error.kind() == io::ErrorKind::NotFound && file == SETTINGS => {}
                Err(error) => return Err(format!("{}: {error}", path.display())),
            }
        }
        Ok(notes)
    };
    tokio::task::spawn_blocking(noted).await.unwrap_or_else(|error| Err(error.to_string()))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// On the disk before the table names it.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    use io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    // Settings may hold secrets.
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn blake3_name(text: &str) -> String {
    FileNote::of(text.as_bytes()).map_or_else(|_| String::new(), |note| note.hash[..16].to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn of_what_a_compiler_says_the_beginning_is_kept() {
        let mut program = Program::new("sh");
        // More than a pipe holds, too.
        program.args(["-c", "head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 3"]);
        let (status, said) = ended(program).await.unwrap();
        assert_eq!((status.code(), said.len()), (Some(3), REASON_BYTES_MAX));
    }

    #[test]
    fn what_is_fetched_is_its_owner_s_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(SETTINGS);
        write(&path, b"key = 1").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
