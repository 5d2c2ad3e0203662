//! Who sent the request at hand: reads what [`crate::authentication`] judges by, and answers those it does not know.
//!
//! Source: RFC 3261 §22.1–22.3, RFC 7616 §3.4, §5.5.

use container::application::{Effects, IncomingRequest, Response};
use sip::AddressOfRecord;
use state::{Batch, Expect, Key, Record, UnixMillis};
use tracing::debug;

use super::{Failure, Registrar, random};
use crate::authentication::{Asker, Claim, Verdict, mark_key, request_fingerprint};
use crate::nonce::{NonceId, NonceMark, Use};

/// What is known about the sender of a request.
pub(super) enum Sender {
    /// Owns the address-of-record.
    Owner(NonceUse),
    /// Owns it, and its request was committed before: there is nothing left to do but to answer.
    Retrying,
    /// Must be told this first.
    Unknown(Effects),
}

/// The use of a nonce, to be committed with what the request does.
pub(super) struct NonceUse {
    key: Key,
    expect: Expect,
    mark: NonceMark,
    expires_at: UnixMillis,
}

impl NonceUse {
    /// The batch to which a request that is done adds what it does.
    pub(super) fn done(self) -> Batch {
        Batch::new().put(self.key, self.expect, self.mark.done().encode(), Some(self.expires_at))
    }

    /// The batch of a request that is refused: the same request may come again, no other may use its credentials.
    pub(super) fn refused(self) -> Batch {
        Batch::new().put(self.key, self.expect, self.mark.encode(), Some(self.expires_at))
    }
}

impl Registrar {
    /// Knows the sender of a request that claims to come from `aor`, in the realm of its domain.
    pub(super) async fn sender(
        &self,
        request: &IncomingRequest,
        asker: Asker,
        aor: &AddressOfRecord,
    ) -> Result<Sender, Failure> {
        let realm = aor.domain();
        let Some(claim) = self.authenticator.claim(&request.message, asker, realm) else {
            return Ok(Sender::Unknown(self.challenge(request, asker, aor, false)?));
        };
        let identity = self.accounts.private_identity(claim.user(), realm).await?;
        let method = request.message.method().map_or(&b""[..], |method| method.as_bytes());
        let verdict =
            self.authenticator.judge(&claim, identity.as_deref(), aor, method, request.now);
        let Some(identity) = identity.filter(|_| verdict != Verdict::Wrong) else {
            debug!(%aor, user = claim.user(), flow = ?request.flow, "unknown user or wrong password");
            return Ok(Sender::Unknown(self.challenge(request, asker, aor, false)?));
        };
        // RFC 3261 §10.3(4): who the sender is has been settled; now whether the address is theirs.
        if self.accounts.owner_of(aor).await?.is_none_or(|owner| *owner != *identity.account) {
            debug!(%aor, user = claim.user(), "not an address of this account");
            let refusal = Response::new(403).reason("Not an address of this account");
            return Ok(Sender::Unknown(Effects::respond(refusal)));
        }
        let Verdict::Genuine(nonce) = verdict else {
            return Ok(Sender::Unknown(self.challenge(request, asker, aor, true)?));
        };
        self.use_nonce(request, asker, aor, &claim, nonce).await
    }

    async fn use_nonce(
        &self,
        request: &IncomingRequest,
        asker: Asker,
        aor: &AddressOfRecord,
        claim: &Claim<'_>,
        nonce: NonceId,
    ) -> Result<Sender, Failure> {
        let key = mark_key(aor, nonce);
        let record = self.bindings.read(&key).await?;
        let before = record
            .as_ref()
            .map(|record| NonceMark::decode(&record.value))
            .transpose()
            .map_err(|source| Failure::Record { item: key.to_string(), source })?;
        let fingerprint = request_fingerprint(&request.message, claim);
        match NonceMark::judge(before, claim.nonce_count(), fingerprint, request.now) {
            Use::First(mark) => Ok(Sender::Owner(NonceUse {
                key,
                expect: expectation(record.as_ref()),
                mark,
                expires_at: self.authenticator.mark_expires_at(nonce),
            })),
            Use::Retry => Ok(Sender::Retrying),
            // RFC 7616 §3.4.6: a fresh nonce lets an honest client go on at once, and tells a thief nothing.
            Use::Replay => Ok(Sender::Unknown(self.challenge(request, asker, aor, true)?)),
        }
    }

    fn challenge(
        &self,
        request: &IncomingRequest,
        asker: Asker,
        aor: &AddressOfRecord,
        stale: bool,
    ) -> Result<Effects, Failure> {
        let random = random()?;
        let challenges =
            self.authenticator.challenges(aor.domain(), aor, stale, request.now, random);
        let response =
            challenges.into_iter().fold(Response::new(asker.status()), |response, challenge| {
                response.header(asker.challenge_header(), challenge)
            });
        Ok(Effects::respond(response))
    }
}

/// What must still hold of a record when what was decided by it is committed.
pub(super) fn expectation(record: Option<&Record>) -> Expect {
    record.map_or(Expect::Absent, |record| Expect::Version(record.version))
}
