//! Goes on with a call whose container died, from its record.
//!
//! The server transaction of the INVITE begins anew, as if 100 had been sent (and sends it, as nobody knows whether it
//! was); the proxy context replays what was noted, and asks for what is left to do.

use std::time::Instant;

use sip::Message;
use state::Version;
use tracing::{debug, error};

use super::noting::Notes;
use super::proxying::{NO_LINK, server_branch};
use super::set_ups::Ledger;
use super::{CommitUse, Shard, ShardEffect};
use crate::ownership::identity::SetUpId;
use crate::proxy::ProxyContext;
use crate::setup::SetUp;
use crate::transactions::{Origin, Resumed};

impl Shard {
    /// Goes on with a call that is ours now; false if its record makes no sense, and is removed.
    pub(super) fn take_over(
        &mut self,
        id: SetUpId,
        record: SetUp,
        version: Version,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) -> bool {
        debug!(set_up = %id, events = record.events.len(), "took a call over");
        let remove = record.remove(id, version);
        let is_resumed = self.resume_call(id, record, version, now, effects);
        if !is_resumed {
            error!(set_up = %id, "a call's record contradicts itself; removed it, and its phones time out");
            self.commit(CommitUse::Tidy, remove, effects);
        }
        is_resumed
    }

    fn resume_call(
        &mut self,
        id: SetUpId,
        record: SetUp,
        version: Version,
        now: Instant,
        effects: &mut Vec<ShardEffect>,
    ) -> bool {
        let Ok(request) = Message::parse(record.request.clone()) else { return false };
        let mut asked = Vec::new();
        let proxy = ProxyContext::resume(
            request.clone(),
            record.plan.clone(),
            &self.deriver.in_place_of(record.token, record.sent_by.clone()),
            &server_branch(&request),
            &record.events,
            now,
            &mut asked,
        );
        let Ok(proxy) = proxy else { return false };
        let origin = Origin { link: NO_LINK, flow: record.flow };
        let standing = if record.is_answered() { Resumed::Answered } else { Resumed::Unanswered };
        let server = self.transactions.resume_server(request.clone(), origin, standing, now);
        let Some(server) = server else { return false };
        self.set_ups.insert(id, Box::new(Ledger::new(server, record, version, now)));
        self.set_ups_by_server.insert(server, id);
        if standing == Resumed::Unanswered {
            self.transactions.trying(server, now, &mut self.pending);
            self.settle(now, effects);
        }
        self.add_context(server, proxy, &request, NO_LINK, Notes::SetUp(id));
        self.carry_out_proxy(server, asked, now, effects);
        self.settle(now, effects);
        self.end_if_over(id, now, effects);
        true
    }
}
