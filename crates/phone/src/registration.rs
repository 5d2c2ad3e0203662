//! Registering, asking who is registered, and coming back after a lost connection.

use sip::{HeaderName, Message, Method};

use crate::exchange::{answer_challenge, expect_success};
use crate::{Phone, PhoneError};

/// Call-ID and CSeq of a phone's REGISTERs.
#[derive(Debug)]
pub(crate) struct Registration {
    call_id: String,
    cseq: u32,
}

impl Registration {
    pub(crate) fn new(call_id: &str) -> Registration {
        Registration { call_id: call_id.to_owned(), cseq: 0 }
    }
}

impl Phone {
    /// Registers every line for `expires` seconds and gives the last 200.
    ///
    /// # Errors
    /// [`PhoneError::Refused`] with the status of the first line that was refused.
    pub async fn register(&self, expires: u32) -> Result<Message, PhoneError> {
        let mut last = None;
        for line in 0..self.lines().len() {
            let contact = self.contact(line);
            last = Some(self.register_contact(line, &contact, expires).await?);
        }
        Ok(last.expect("a phone has a line"))
    }

    /// Registers the first line for another address-of-record than the phone's own.
    ///
    /// # Errors
    /// As [`Phone::register_contact`].
    pub async fn register_as(&self, aor: &str, expires: u32) -> Result<Message, PhoneError> {
        let contact = self.contact(0);
        self.send_register(aor, 0, Some((&contact, expires))).await
    }

    /// Sends one REGISTER with this Contact value by one line and gives the 200.
    ///
    /// # Errors
    /// [`PhoneError::Refused`] with the status of any other final response.
    pub async fn register_contact(
        &self,
        line: usize,
        contact: &str,
        expires: u32,
    ) -> Result<Message, PhoneError> {
        self.send_register(&self.uri(), line, Some((contact, expires))).await
    }

    /// Asks by a line for the contacts that are registered (RFC 3261 §10.2.3), and changes nothing: their URIs.
    ///
    /// # Errors
    /// As [`Phone::register_contact`].
    pub async fn registered_contacts(&self, line: usize) -> Result<Vec<String>, PhoneError> {
        let ok = self.send_register(&self.uri(), line, None).await?;
        let values = ok.values(HeaderName::Contact).filter_map(|value| {
            let contact = sip::NameAddr::parse(value).ok()?;
            Some(String::from_utf8_lossy(contact.uri()).into_owned())
        });
        Ok(values.collect())
    }

    /// Opens another connection in place of each that is lost, and registers those lines for `expires` seconds.
    /// Says how many there were.
    ///
    /// # Errors
    /// When the edge does not accept a connection in time, or refuses the registration.
    pub async fn recover(&self, expires: u32) -> Result<usize, PhoneError> {
        let mut recovered = 0;
        for (index, line) in self.lines().iter().enumerate() {
            if !line.is_open() {
                line.reconnect().await?;
                self.register_contact(index, &self.contact(index), expires).await?;
                recovered += 1;
            }
        }
        Ok(recovered)
    }

    async fn send_register(
        &self,
        aor: &str,
        line: usize,
        binding: Option<(&str, u32)>,
    ) -> Result<Message, PhoneError> {
        // Held until the answer: the registrar takes one phone's REGISTERs in the order of their CSeq.
        let mut registration = self.registration().lock().await;
        let registrar = format!("sip:{}", self.identity().domain);
        let mut authorization: Option<(&'static str, String)> = None;
        // One challenge, and one more when the nonce was stale.
        for _ in 0..3 {
            registration.cseq += 1;
            let mut request = self
                .request(line, Method::Register, &registrar)
                .to(&format!("<{aor}>"))
                .call_id(&registration.call_id)
                .cseq(registration.cseq);
            if let Some((contact, expires)) = binding {
                request =
                    request.header("Contact", contact).header("Expires", &expires.to_string());
            }
            if self.identity().instance.is_some() {
                request = request.header("Supported", "path, outbound");
            }
            if let Some((name, value)) = authorization.take() {
                request = request.header(name, &value);
            }
            let response = request.send().await?.final_response().await?;
            match response.status() {
                Some(401 | 407) => {
                    let answer =
                        answer_challenge(self.identity(), &response, b"REGISTER", &registrar)?;
                    authorization = Some(answer);
                }
                _ => return expect_success(Method::Register, response),
            }
        }
        Err(PhoneError::Challenge("challenged again with the right password".to_owned()))
    }

    /// The Contact value that a line registers.
    pub fn contact(&self, line: usize) -> String {
        let uri = format!("<{}>", self.lines()[line].contact_uri(self.user()));
        match &self.identity().instance {
            Some(instance) => format!("{uri};+sip.instance=\"<{instance}>\";reg-id={}", line + 1),
            None => uri,
        }
    }
}
