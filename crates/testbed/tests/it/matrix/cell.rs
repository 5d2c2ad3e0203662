//! One call of the matrix.

use std::sync::Arc;
use std::time::Duration;

use phone::{LineTransport, Phone, PhoneError};
use testbed::node::Node;

use super::Route;
use super::scripts::{Parties, Script};
use crate::turnstile::{Running, Turnstile};
use crate::world;

/// A call that has not ended by then waits for ever: over Timer B, Timer C is not waited for.
const CALL_LIMIT: Duration = Duration::from_secs(75);

/// How long the phones are watched after the end of their call: an INVITE that found nobody is sent again by its
/// transaction within that (Timer A: 500 ms, 1 s).
const WATCHED_ON: Duration = Duration::from_secs(2);

/// A script over one transport.
#[derive(Clone, Copy)]
pub(crate) struct Play {
    pub(crate) script: Script,
    pub(crate) transport: LineTransport,
    pub(crate) route: Route,
}

impl Play {
    /// `script:transport`.
    pub(crate) fn name(&self) -> String {
        format!("{}:{}", self.script.name, self.transport.name().to_lowercase())
    }

    /// Begins it without any fault, to find out how many messages its phones see.
    pub(crate) fn rehearse(self, node: &Node) -> Running<()> {
        let id = format!("rehearsal:{}", self.name());
        let stage = self.stage(node, &id, |name| name.to_owned());
        Running::rehearse(id, |turnstile| stage.run(turnstile))
    }

    /// Begins it as the call of that id (`matrix:script:transport:message`), to stand still at that message.
    pub(crate) fn begin(
        self,
        node: &Node,
        id: String,
        stands_at: usize,
        call_id: impl Fn(&str) -> String,
    ) -> Running<()> {
        let stage = self.stage(node, &id, call_id);
        Running::begin(id, stands_at, |turnstile| stage.run(turnstile))
    }

    fn stage(self, node: &Node, id: &str, call_id: impl Fn(&str) -> String) -> Stage {
        // A user name for a phone: no colons.
        let name = id.replace(':', "-");
        let edge = world::address(node, self.transport);
        Stage { call_id: call_id(&name), name, edge, play: self }
    }
}

/// All that a call's thread needs.
struct Stage {
    name: String,
    edge: std::net::SocketAddr,
    call_id: String,
    play: Play,
}

impl Stage {
    fn run(self, turnstile: &Arc<Turnstile>) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime for one call");
        runtime.block_on(async {
            let mut parties = self.parties().await.map_err(|error| error.to_string())?;
            let phones: Vec<Phone> =
                std::iter::once(&parties.caller).chain(&parties.callees).cloned().collect();
            for phone in &phones {
                phone.watch(turnstile.watcher());
            }
            let played = tokio::time::timeout(CALL_LIMIT, (self.play.script.play)(&mut parties));
            match played.await {
                Ok(result) => result.map_err(|error| error.to_string())?,
                Err(_) => return Err(format!("not over after {CALL_LIMIT:?}")),
            }
            tokio::time::sleep(WATCHED_ON).await;
            judge(&phones)
        })
    }

    async fn parties(&self) -> Result<Parties, PhoneError> {
        let caller = self.phone(&format!("{}-caller", self.name), "1.0").await?;
        let user = format!("{}-callee", self.name);
        let mut callees = Vec::new();
        for q in self.play.script.callees {
            callees.push(self.phone(&user, q).await?);
        }
        let uri = format!("sip:{user}@{}", self.play.route.callee_domain());
        Ok(Parties { caller, callees, uri, call_id: self.call_id.clone() })
    }

    async fn phone(&self, user: &str, q: &str) -> Result<Phone, PhoneError> {
        let (transport, edge) = (self.play.transport, self.edge);
        let phone = Phone::new(user, world::DOMAIN, world::PASSWORD, transport, edge).await?;
        let contact = format!("{};q={q}", phone.contact(0));
        phone.register_contact(0, &contact, 3_600).await?;
        Ok(phone)
    }
}

/// What the phones saw of broken order.
fn judge(phones: &[Phone]) -> Result<(), String> {
    let again = phones.iter().flat_map(Phone::rang_again);
    let violations = phones.iter().flat_map(Phone::violations);
    let seen: Vec<String> = again.chain(violations).collect();
    if seen.is_empty() { Ok(()) } else { Err(seen.join("; ")) }
}
