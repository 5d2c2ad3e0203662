//! Every request but REGISTER that is for somebody: who may send it, and where it goes.
//!
//! Whoever says in From that they are one of ours must prove it; everybody may call our users; nobody relays
//! through us from one foreign domain to another. The same holds for calls of applications, which ask for it before they get
//! one ([`Application::admit`](container::application::Application::admit)); what they send on is not asked for again. Requests within a dialog are not asked for credentials again when
//! they are for our users: whoever answers them knows the dialog. Such a request comes here when the flow that the
//! dialog began on is gone: it names the phone by its Contact, and is sent by the flow that the phone registered since.
//!
//! Source: RFC 3261 §16.3(6), §16.5, §22.3, §26.3.2.2; RFC 5630 §5.3 (sips).

use std::cmp::Reverse;

use bytes::Bytes;
use container::application::{self, Effects, IncomingRequest, ProxyPlan, Target};
use sip::{AddressOfRecord, HeaderName, Method, Rejection, SipUri, Uri};
use state::Batch;

use super::sender::Sender;
use super::{Failure, Registrar, answers};
use crate::authentication::Asker;
use crate::lookup;

/// Whose domain From says the caller is of.
enum Caller {
    Ours(AddressOfRecord),
    Foreign,
}

impl Registrar {
    /// A request for one of our users.
    pub(super) async fn call_local(
        &self,
        request: &IncomingRequest,
        method: Method<'_>,
        uri: &SipUri<'_>,
        callee: &AddressOfRecord,
    ) -> Result<Effects, Failure> {
        if let Some(refusal) = answers::unsupported(&request.message, HeaderName::ProxyRequire) {
            return Ok(answers::unless_ack(method, refusal));
        }
        let in_dialog = request.message.to().is_ok_and(|to| to.tag().is_some());
        let mark = if in_dialog || method == Method::Ack {
            Batch::new()
        } else {
            match self.admission(request).await? {
                Ok(mark) => mark,
                Err(answer) => return Ok(answer),
            }
        };
        let (_, bindings) = self.read_bindings(callee, request).await?;
        let mut targets = lookup::targets(&bindings, request.now);
        if uri.secure {
            // RFC 5630 §5.3: a sips request never goes to a contact that is not.
            targets.retain(|target| is_secure(&target.uri));
        }
        let registered = !targets.is_empty();
        // An account that was removed leaves its bindings behind; without authentication there may be no accounts.
        let must_look = !registered || self.settings.authenticate;
        let known = !must_look || self.accounts.owner_of(callee).await?.is_some();
        let effects = match (registered, known) {
            (true, true) => Effects::proxy(ProxyPlan::to_targets(targets)),
            (false, true) => answers::status(480),
            (_, false) => answers::status(404),
        };
        if registered && known {
            return Ok(effects.committing(mark));
        }
        Ok(answers::unless_ack(method, effects.committing(mark)))
    }

    /// A request within a dialog for a contact of one of our users, the one in To: it goes to what that contact is
    /// registered as now. `None` when nothing is.
    pub(super) async fn party_of_dialog(
        &self,
        request: &IncomingRequest,
        uri: &SipUri<'_>,
    ) -> Result<Option<Effects>, Failure> {
        let Ok(to) = request.message.to() else { return Ok(None) };
        let (Some(_), Ok(Uri::Sip(user))) = (to.tag(), Uri::parse(to.uri())) else {
            return Ok(None);
        };
        let Some(user) = self.domains.address_of_record(&user) else { return Ok(None) };
        let (_, bindings) = self.read_bindings(&user, request).await?;
        let mut targets = lookup::targets(&bindings, request.now);
        targets.retain(|target| likeness(&target.uri, uri) > Likeness::Other);
        targets.sort_by_key(|target| Reverse(likeness(&target.uri, uri)));
        for target in &mut targets {
            // RFC 5626 §7: one party, so the next is tried only if the flow before it is gone, too.
            target.instance = Some(Bytes::from_static(PARTY));
        }
        let is_any = !targets.is_empty();
        Ok(is_any.then(|| Effects::proxy(ProxyPlan::to_targets(targets))))
    }

    /// A request for another domain: only our own users are put through.
    pub(super) async fn call_elsewhere(
        &self,
        request: &IncomingRequest,
        method: Method<'_>,
        request_uri: &[u8],
    ) -> Result<Effects, Failure> {
        if method == Method::Ack {
            // The ACK of a dialog follows its route set through the edges; one that comes here belongs to none.
            return Ok(answers::nothing());
        }
        if let Some(refusal) = answers::unsupported(&request.message, HeaderName::ProxyRequire) {
            return Ok(refusal);
        }
        let caller = match self.caller(request) {
            Ok(Caller::Ours(caller)) => caller,
            Ok(Caller::Foreign) => {
                return Ok(answers::plain(403, "No relaying between other domains"));
            }
            Err(rejection) => return Ok(answers::rejected(rejection)),
        };
        match self.known_caller(request, &caller).await? {
            Ok(mark) => {
                let target = Target::new(Bytes::copy_from_slice(request_uri));
                Ok(Effects::proxy(ProxyPlan::to_targets(vec![target])).committing(mark))
            }
            Err(answer) => Ok(answer),
        }
    }

    /// Whether the caller of an initial request may call one of ours, or an application in their place: what to commit
    /// with that, else what to answer.
    pub(super) async fn admission(
        &self,
        request: &IncomingRequest,
    ) -> Result<Result<Batch, Effects>, Failure> {
        match self.caller(request) {
            Ok(Caller::Ours(caller)) => self.known_caller(request, &caller).await,
            Ok(Caller::Foreign) => Ok(Ok(Batch::new())),
            Err(rejection) => Ok(Err(answers::rejected(rejection))),
        }
    }

    /// Who From says the sender is, or what to answer to one who says nothing usable.
    fn caller(&self, request: &IncomingRequest) -> Result<Caller, Rejection> {
        let from = request.message.from().map_err(|error| answers::rejection(400, error.fault))?;
        let Ok(Uri::Sip(uri)) = Uri::parse(from.uri()) else {
            return Ok(Caller::Foreign);
        };
        if self.domains.served(&uri.host).is_none() {
            return Ok(Caller::Foreign);
        }
        let aor = self.domains.address_of_record(&uri);
        // Nobody can own a whole domain.
        aor.map(Caller::Ours).ok_or_else(|| answers::rejection(403, "From names no user"))
    }

    /// The mark to commit for a caller who proved to be one of ours; else what to answer.
    async fn known_caller(
        &self,
        request: &IncomingRequest,
        caller: &AddressOfRecord,
    ) -> Result<Result<Batch, Effects>, Failure> {
        if !self.settings.authenticate || request.caller == application::Caller::Known {
            return Ok(Ok(Batch::new()));
        }
        Ok(match self.sender(request, Asker::Proxy, caller).await? {
            Sender::Owner(nonce_use) => Ok(nonce_use.done()),
            Sender::Retrying => Ok(Batch::new()),
            Sender::Unknown(answer) => Err(answer),
        })
    }
}

/// Stands for the instance of whoever is the other party of a dialog.
const PARTY: &[u8] = b"party";

/// How like a contact of a dialog one that is registered is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Likeness {
    /// Another phone's.
    Other,
    /// Perhaps another one's: it answers 481 then. A phone that connects anew may write the port of its connection.
    AnotherPort,
    /// The same by the rules of RFC 3261 §19.1.4.
    Same,
}

fn likeness(registered: &[u8], contact: &SipUri<'_>) -> Likeness {
    match Uri::parse(registered) {
        Ok(Uri::Sip(uri)) if uri.equivalent(contact) => Likeness::Same,
        Ok(Uri::Sip(uri)) if uri.user == contact.user && uri.host == contact.host => {
            Likeness::AnotherPort
        }
        Ok(_) | Err(_) => Likeness::Other,
    }
}

fn is_secure(uri: &[u8]) -> bool {
    Uri::parse(uri).is_ok_and(|uri| uri.as_sip().is_some_and(|uri| uri.secure))
}
