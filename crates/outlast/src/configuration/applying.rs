//! `outlast config diff`, `apply` and `rollback`: changes of the cluster's configuration. A file that came from `show --cluster` says
//! which version it was made from; if that holds no more, somebody else has changed it, and nothing is done.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use config::document::{Changed, changes, check};
use config::{ConfigError, DOCUMENT_BYTES_MAX, Document};
use manager::configuration::{Change, ConfigurationError, Proposal};
use serde::Serialize;
use state::Store;
use topology::protocol::{Answer, Request};
use topology::{MemberFile, NodeState};

use super::{current, remark_on_strangers, version_of, with_repository};
use crate::command_line::Reader;
use crate::control::ask;
use crate::failure::Failure;
use crate::output;
use crate::stores::must_exist;

const NOTHING_TO_CHANGE: &str = "nothing to change: that is the cluster's configuration already";

/// A checked file.
struct File {
    /// The version that it says it was made from.
    base: Option<u64>,
    text: String,
}

/// What programs read.
#[derive(Serialize)]
struct Difference {
    /// The version that holds.
    version: u64,
    changes: Vec<Changed>,
}

pub(super) fn diff(directory: &Path, path: &Path, reader: Reader) -> Result<(), Failure> {
    must_exist(directory)?;
    let file = read(path)?;
    let held = with_repository(directory, async |store| current(store).await)?;
    let changes = changes(&held.text, &file.text);
    if reader == Reader::Program {
        return output::json(&Difference { version: held.version, changes });
    }
    remark_on_strangers(directory, &file.text)?;
    if let Some(base) = file.base.filter(|base| *base != held.version) {
        output::remark(&format!(
            "the cluster's configuration is version {} by now, and {} was made from version {base}",
            held.version,
            path.display()
        ));
    }
    if changes.is_empty() {
        output::line(&format!("no setting differs from version {}", held.version));
    }
    changes.iter().for_each(|changed| output::line(&told(changed)));
    Ok(())
}

pub(super) fn apply(directory: &Path, path: &Path, comment: Option<String>) -> Result<(), Failure> {
    must_exist(directory)?;
    let File { base, text } = read(path)?;
    let overtaken = format!(
        "; nothing was changed. See what is otherwise now: outlast config diff {path}; then take it anew (outlast config show --cluster), \
         or put the new version into the first line of {path}",
        path = path.display()
    );
    let done = with_repository(directory, async |store| {
        let held = current(store).await?;
        let base = base.unwrap_or(held.version);
        if base == held.version && is_same(&held.text, &text) {
            return Ok(None);
        }
        let changes = changes(&held.text, &text);
        let change = propose(store, directory, (base, text), comment).await?;
        Ok(Some((change, changes)))
    });
    let Some((change, changes)) = done.map_err(|failure| explained(failure, &overtaken))? else {
        output::line(NOTHING_TO_CHANGE);
        return Ok(());
    };
    remark_on_strangers(directory, &change.text)?;
    tell(directory, &change, &changes);
    Ok(())
}

pub(super) fn rollback(
    directory: &Path,
    version: u64,
    comment: Option<String>,
) -> Result<(), Failure> {
    let overtaken = "; nothing was changed. Look (outlast config history), and try again";
    let found = with_repository(directory, async |store| {
        Ok((current(store).await?, version_of(store, version).await?))
    });
    let (held, to) = found?;
    let Some(Document { text, .. }) = to else {
        return Err(anyhow::anyhow!(
            "there is no version {version} of the cluster's configuration; outlast config history lists those that are remembered"
        )
        .into());
    };
    if is_same(&held.text, &text) {
        output::line(NOTHING_TO_CHANGE);
        return Ok(());
    }
    // Of another release, perhaps.
    checked(Path::new(&format!("version {version}")), &text)?;
    let changes = changes(&held.text, &text);
    let comment = comment.unwrap_or_else(|| format!("back to version {version}"));
    let done = with_repository(directory, async |store| {
        propose(store, directory, (held.version, text), Some(comment)).await
    });
    let change = done.map_err(|failure| explained(failure, overtaken))?;
    tell(directory, &change, &changes);
    Ok(())
}

/// Lines at the end that are empty make no version: editors add one, and take one off.
fn is_same(held: &str, text: &str) -> bool {
    held.trim_end() == text.trim_end()
}

async fn propose(
    store: &dyn Store,
    directory: &Path,
    (base, text): (u64, String),
    comment: Option<String>,
) -> Result<Change, ConfigurationError> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let files = topology::credentials::ClusterDirectory::of_node(directory);
    // It is a member: its name is in this file, which was read before.
    let node = MemberFile::load(&files.members()).map(|file| file.name).unwrap_or_default();
    let at_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let proposal = Proposal { base, at_ms, by: operator(), node, comment, text };
    manager::configuration::apply(store, proposal).await
}

/// As the host knows who types: not proven to anybody, for the history only.
fn operator() -> String {
    let named = ["SUDO_USER", "LOGNAME", "USER"].into_iter().find_map(|name| {
        std::env::var(name).ok().filter(|name| !name.is_empty() && name.len() <= 64)
    });
    named.unwrap_or_else(|| format!("uid{}", rustix::process::getuid().as_raw()))
}

/// What to do about a change that somebody else has overtaken.
fn explained(failure: Failure, overtaken: &str) -> Failure {
    match failure {
        Failure::Other(error) => match error.downcast_ref::<ConfigurationError>() {
            Some(told @ ConfigurationError::Overtaken { .. }) => {
                anyhow::anyhow!("{told}{overtaken}").into()
            }
            Some(ConfigurationError::Commit(state::CommitError::Unknown { .. })) => error
                .context("whether the change was made is not known; see outlast config history")
                .into(),
            Some(_) | None => Failure::Other(error),
        },
        other => other,
    }
}

fn read(path: &Path) -> Result<File, Failure> {
    let unreadable = || format!("{} cannot be read", path.display());
    // The line with the version is no part of it.
    let most = 2 * DOCUMENT_BYTES_MAX as u64;
    let mut printed = String::new();
    let file = fs::File::open(path).with_context(unreadable)?;
    file.take(most + 1).read_to_string(&mut printed).with_context(unreadable)?;
    if printed.len() as u64 > most {
        return Err(anyhow::anyhow!(
            "{} is longer than {DOCUMENT_BYTES_MAX} octets: is it the right file?",
            path.display()
        )
        .into());
    }
    let (base, text) = checked(path, &printed)?;
    Ok(File { base, text: text.to_owned() })
}

/// The version that the text says it was made from, and the text without that line.
fn checked<'t>(path: &Path, printed: &'t str) -> Result<(Option<u64>, &'t str), Failure> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let refused =
        |problems| Failure::Config(ConfigError::Refused { path: path.to_owned(), problems });
    check(&name, printed).map_err(refused)
}

/// `container.count: 2 → 4`.
fn told(changed: &Changed) -> String {
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
    format!("{}: {} → {}", changed.key, shown(&changed.from), shown(&changed.to))
}

/// What holds now, and who runs with something else.
fn tell(directory: &Path, change: &Change, changes: &[Changed]) {
    changes.iter().for_each(|changed| output::line(&told(changed)));
    output::line(&format!(
        "version {} of the cluster's configuration holds; a node takes it when it is stopped and started",
        change.version
    ));
    // The change is made, whether or not that can be told.
    if let Ok(Answer::Status(status)) = ask(directory, Request::Status) {
        let older = status.view.nodes.iter().map(|node| match node.state {
            NodeState::Up => format!("{} (version {})", node.name, node.runs_with.configuration),
            NodeState::Lost => format!("{} (lost)", node.name),
        });
        let older: Vec<String> = older.collect();
        output::line(&format!("these run with an older one: {}", older.join(", ")));
    }
}
