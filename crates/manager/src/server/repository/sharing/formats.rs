//! Follows the cluster's format level, and raises it where this node leads and all members can.

use repository::RepositoryStore;
use topology::{FormatLevel, ReleaseFormats};
use tracing::{error, info, warn};

use super::super::{Input, RepositoryInput};
use super::Parts;
use crate::format_level;

/// What was said of it, once each.
#[derive(Default)]
pub(super) struct Formats {
    told: Option<String>,
}

impl Formats {
    pub(super) async fn look(&mut self, parts: &Parts, store: &RepositoryStore) {
        let done = self.follow(parts, store).await;
        let reason = done.err().map(|error| error.to_string());
        if let Some(reason) = reason.as_ref().filter(|_| reason != self.told) {
            warn!(reason, "the cluster's format level stays as it was known");
        }
        self.told = reason;
    }

    async fn follow(
        &self,
        parts: &Parts,
        store: &RepositoryStore,
    ) -> Result<(), format_level::FormatLevelError> {
        let level = format_level::current(store).await?;
        let (leads, has_accounts, next) = {
            let told = parts.told.borrow();
            (told.leads, told.has_accounts, level.raised(&told.nodes))
        };
        let level = match next {
            Some(next)
                if leads && has_accounts && format_level::raise(store, level, next).await? =>
            {
                info!(level = %next, "all members can write formats of this level: the cluster does from now on");
                next
            }
            Some(_) | None => level,
        };
        self.tell(parts, level).await;
        Ok(())
    }

    async fn tell(&self, parts: &Parts, level: FormatLevel) {
        let is_other = parts.format_level.send_if_modified(|known| {
            let is_other = *known != level;
            *known = level;
            is_other
        });
        if !is_other {
            return;
        }
        if let Err(apart) = ReleaseFormats::own().fits(level) {
            error!("{apart}; until then records are refused here that were written since");
        }
        // It ends with the manager's loop.
        let _ = parts.inputs.send(Input::Repository(RepositoryInput::FormatLevel)).await;
    }
}
