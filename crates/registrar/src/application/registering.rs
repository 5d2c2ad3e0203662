//! REGISTER: from the request to the new record and the 200 that lists it.
//!
//! Source: RFC 3261 §10.3, RFC 3327 §5.3, RFC 3608 §6, RFC 5626 §6.

use container::application::{Effects, IncomingRequest, Response};
use sip::{AddressOfRecord, HeaderName, Rejection, Uri};
use state::{Batch, Record};

use super::sender::{NonceUse, Sender, expectation};
use super::{Failure, Registrar, answers};
use crate::authentication::Asker;
use crate::bindings::{self, Bindings, Refusal, Updated};
use crate::date::sip_date;
use crate::keep_alive;
use crate::register::Register;

impl Registrar {
    pub(super) async fn register(&self, request: &IncomingRequest) -> Result<Effects, Failure> {
        let message = &request.message;
        if let Some(refusal) = answers::unsupported(message, HeaderName::Require) {
            return Ok(refusal);
        }
        let aor = match self.registered_address(request) {
            Ok(aor) => aor,
            Err(rejection) => return Ok(answers::rejected(rejection)),
        };
        let register = match Register::read(message, &request.flow) {
            Ok(register) => register,
            Err(bad) => return Ok(answers::plain(400, bad.0)),
        };
        let nonce_use = if self.settings.authenticate {
            match self.sender(request, Asker::Registrar, &aor).await? {
                Sender::Owner(nonce_use) => Some(nonce_use),
                Sender::Retrying => {
                    let (_, bindings) = self.read_bindings(&aor, request).await?;
                    return Ok(Effects::respond(self.ok(request, &register, &bindings)));
                }
                Sender::Unknown(answer) => return Ok(answer),
            }
        } else {
            None
        };
        let (record, before) = self.read_bindings(&aor, request).await?;
        match bindings::update(&before, &register, &self.settings.policy, request.now) {
            Ok(updated) => {
                let batch = nonce_use.map(NonceUse::done).unwrap_or_default();
                let (batch, after) = match updated {
                    Updated::Unchanged => (batch, before),
                    Updated::Changed(after) => {
                        let (aor, now) = (aor.as_str(), request.now);
                        let batch = put_bindings(batch, aor, record.as_ref(), &after);
                        (keep_alive::index(batch, aor, &before, &after, now), after)
                    }
                };
                Ok(Effects::respond(self.ok(request, &register, &after)).committing(batch))
            }
            Err(refusal) => {
                let batch = nonce_use.map(NonceUse::refused).unwrap_or_default();
                Ok(Effects::respond(refused(refusal)).committing(batch))
            }
        }
    }

    /// The address-of-record in To, if it is one that can be registered here.
    fn registered_address(&self, request: &IncomingRequest) -> Result<AddressOfRecord, Rejection> {
        let to = request.message.to().map_err(|error| answers::rejection(400, error.fault))?;
        // RFC 3261 §10.3(5), RFC 4475 §3.3.4: only SIP and SIPS URIs can be registered.
        let Ok(Uri::Sip(uri)) = Uri::parse(to.uri()) else {
            return Err(answers::rejection(400, "To is not a SIP or SIPS URI"));
        };
        if self.domains.served(&uri.host).is_none() {
            return Err(answers::rejection(404, "Domain not served here"));
        }
        self.domains
            .address_of_record(&uri)
            .ok_or_else(|| answers::rejection(404, "To names no user"))
    }

    /// Reads the record of an address-of-record as it is at the time of a request; no record is no bindings.
    pub(super) async fn read_bindings(
        &self,
        aor: &AddressOfRecord,
        request: &IncomingRequest,
    ) -> Result<(Option<Record>, Bindings), Failure> {
        let key = bindings::key(aor.as_str());
        if key.check().is_err() {
            // Longer than any address that could ever be stored.
            return Ok((None, Bindings::default()));
        }
        let record = self.bindings.read(&key).await?;
        let bindings = record
            .as_ref()
            .map(|record| Bindings::decode(&record.value))
            .transpose()
            .map_err(|source| Failure::Record { item: key.to_string(), source })?;
        let bindings: Bindings = bindings.unwrap_or_default();
        Ok((record, bindings.kept_by(request.expiry_now, request.now)))
    }

    fn ok(&self, request: &IncomingRequest, register: &Register, bindings: &Bindings) -> Response {
        let now = request.now;
        let mut response = Response::new(200);
        for binding in bindings.living(now) {
            response = response.header(HeaderName::Contact, binding.contact_value(now));
        }
        // RFC 3327 §5.3: the phone learns by which proxies it will be reached.
        for value in &register.path {
            response = response.header(HeaderName::Path, value.clone());
        }
        for value in &self.settings.service_route {
            response = response.header(HeaderName::ServiceRoute, value.clone());
        }
        if register.uses_outbound() {
            response = response.header(HeaderName::Require, "outbound");
            if let Some(flow_timer) = self.settings.flow_timer {
                response = response.header(HeaderName::FlowTimer, flow_timer.as_secs().to_string());
            }
        }
        response
            .header(HeaderName::Supported, answers::SUPPORTED)
            .header(HeaderName::Date, sip_date(now))
    }
}

fn put_bindings(batch: Batch, aor: &str, record: Option<&Record>, after: &Bindings) -> Batch {
    let (key, expect) = (bindings::key(aor), expectation(record));
    match after.expires_at() {
        Some(last) => batch.put(key, expect, after.encode(), Some(last)),
        None => batch.delete(key, expect),
    }
}

fn refused(refusal: Refusal) -> Response {
    match refusal {
        Refusal::WildcardWithLifetime => Response::new(400).reason("Contact * needs Expires 0"),
        Refusal::OutOfOrder => Response::new(500).reason("CSeq too low for this Call-ID"),
        Refusal::IntervalTooBrief { minimum } => {
            Response::new(423).header(HeaderName::MinExpires, minimum.as_secs().to_string())
        }
        Refusal::TooManyContacts { .. } => Response::new(403).reason("Too many contacts"),
        Refusal::FirstHopLacksOutbound => {
            Response::new(439).reason("First Hop Lacks Outbound Support")
        }
    }
}
