//! Reads all records of etcd into the copy: the first time, and where the changes since are not to be had.
//!
//! All pages are of one revision. While it lasts the copy has no position, so that one that was interrupted begins again,
//! and nobody else goes on with it; what it holds is read all the same, record by record old or new. Records that are not
//! there any more are taken away at the end. One process of the node does it at a time.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;

use bytes::Bytes;
use state::{Expect, Key, StoreError};
use tokio::time::Instant;

use super::Place;
use super::copy::{Changed, CopyError};
use super::follower::{ASK_PATIENCE, FollowError};
use super::position::Position;
use crate::client::messages::{Range, RangeResponse};

/// Records of a page; fewer when it proves too long.
const PAGE: i64 = 500;

/// The revision up to which the copy holds everything then.
pub(super) async fn read(place: &Place, before: Position) -> Result<i64, FollowError> {
    let _turn = turn(place)?;
    let mut pages = Pages::new(place);
    let first = pages.next().await?;
    let (cluster, revision) = (first.header.cluster_id, first.header.revision);
    let (_, mut expect) = place.copy.position().await?;
    let mut position = Position { cluster, revision: None, spaces: before.spaces };
    let mut there = HashSet::new();
    let mut page = Some(first);
    while let Some(records) = page {
        let new = news(place, &records, &mut there).await;
        let changes: Vec<&Changed> = new.iter().collect();
        expect = Expect::Version(place.copy.change(&mut position, expect, &changes).await?);
        page = if records.more { Some(pages.next().await?) } else { None };
    }
    expect = take_away(place, &mut position, expect, &there).await?;
    position.revision = Some(revision);
    place.copy.change(&mut position, expect, &[]).await?;
    tracing::info!(revision, records = there.len(), "the repository was read whole");
    Ok(revision)
}

/// Nobody else reads whole while this is held; the system takes it from who dies.
fn turn(place: &Place) -> Result<File, FollowError> {
    let path = place.copy.directory().join("whole.lock");
    let failed = |source: io::Error| StoreError::Engine {
        doing: "take the turn to read the repository whole",
        source: std::sync::Arc::new(source),
    };
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(CopyError::Overtaken.into()),
        Err(std::fs::TryLockError::Error(error)) => Err(failed(error).into()),
    }
}

/// What of a page the copy does not have.
async fn news(place: &Place, page: &RangeResponse, there: &mut HashSet<Key>) -> Vec<Changed> {
    let mut new = Vec::new();
    for kv in &page.kvs {
        let Some(key) = place.layout.key_of(&kv.key) else { continue };
        if place.copy.revision_of(&key).await != Some(kv.mod_revision) {
            let held = Some(kv.value.clone());
            new.push(Changed { key: key.clone(), revision: kv.mod_revision, held });
        }
        there.insert(key);
    }
    new
}

async fn take_away(
    place: &Place,
    position: &mut Position,
    mut expect: Expect,
    there: &HashSet<Key>,
) -> Result<Expect, FollowError> {
    for space in position.spaces.clone() {
        let mut after: Option<Key> = None;
        loop {
            let keys = place.copy.keys(&space, after.as_ref()).await?;
            let Some(last) = keys.last().cloned() else { break };
            let gone = keys.into_iter().filter(|key| !there.contains(key));
            let gone: Vec<Changed> =
                gone.map(|key| Changed { key, revision: 0, held: None }).collect();
            if !gone.is_empty() {
                let gone: Vec<&Changed> = gone.iter().collect();
                expect = Expect::Version(place.copy.change(position, expect, &gone).await?);
            }
            after = Some(last);
        }
    }
    Ok(expect)
}

/// The records of one revision, page by page.
struct Pages<'a> {
    place: &'a Place,
    range: Range,
}

impl Pages<'_> {
    fn new(place: &Place) -> Pages<'_> {
        let (key, range_end) = place.layout.records();
        Pages { place, range: Range { key, range_end, limit: PAGE, ..Range::default() } }
    }

    async fn next(&mut self) -> Result<RangeResponse, FollowError> {
        loop {
            let answer = self.place.client.range(&self.range, Instant::now() + ASK_PATIENCE).await;
            let page = match answer {
                Ok(page) => page,
                // Perhaps it was too long for one of the two.
                Err(error) if error.is_in_doubt() && self.range.limit > 1 => {
                    self.range.limit /= 8;
                    self.range.limit = self.range.limit.max(1);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if self.range.revision == 0 {
                self.range.revision = page.header.revision;
            }
            if let Some(last) = page.kvs.last() {
                self.range.key = Bytes::from([&last.key[..], &[0]].concat());
            }
            return Ok(page);
        }
    }
}
