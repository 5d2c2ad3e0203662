//! A request and the responses to it: the client transaction of the phone (RFC 3261 §17.1).
//!
//! Over UDP the request is sent again with doubling intervals until a response comes (an INVITE: until any
//! response; others: until a final one). A non-2xx final response to an INVITE is acknowledged here.

use std::time::Duration;

use bytes::Bytes;
use sip::digest::{self, Login};
use sip::{HeaderName, Message, Method};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::line::transaction_key;
use crate::{Identity, Line, LineTransport, PATIENCE, PhoneError};

/// T1, RFC 3261 §17.1.1.1.
const T1: Duration = Duration::from_millis(500);
/// T2, RFC 3261 §17.1.2.2.
const T2: Duration = Duration::from_secs(4);
/// Responses that wait to be looked at.
const RESPONSES: usize = 64;

/// A request on its way and the responses that come.
#[derive(Debug)]
pub struct Exchange<'p> {
    line: &'p Line,
    request: Message,
    key: (Bytes, Bytes),
    responses: mpsc::Receiver<Message>,
    /// When the request is sent again, and the interval after that; `None` = never.
    retransmission: Option<(Instant, Duration)>,
    deadline: Instant,
}

impl<'p> Exchange<'p> {
    pub(crate) async fn start(line: &'p Line, request: Bytes) -> Result<Exchange<'p>, PhoneError> {
        let message = Message::parse(request.clone()).expect("the phone writes SIP");
        let key = transaction_key(&message).expect("the phone writes a Via with a branch");
        let (sender, responses) = mpsc::channel(RESPONSES);
        line.shared().waiting.lock().expect("no panic under the lock").insert(key.clone(), sender);
        line.send(request).await?;
        let now = Instant::now();
        Ok(Exchange {
            line,
            request: message,
            key,
            responses,
            retransmission: (line.transport() == LineTransport::Udp).then(|| (now + T1, T1 * 2)),
            deadline: now + PATIENCE,
        })
    }

    /// The request that was sent.
    pub fn request(&self) -> &Message {
        &self.request
    }

    /// The line it was sent by.
    pub fn line(&self) -> &'p Line {
        self.line
    }

    /// The next response, provisional ones included.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn next(&mut self) -> Result<Message, PhoneError> {
        loop {
            let again = self.retransmission.map_or(self.deadline, |(at, _)| at.min(self.deadline));
            tokio::select! {
                response = self.responses.recv() => {
                    let response = response.expect("the exchange itself keeps the sender waiting");
                    self.response_came(&response).await?;
                    return Ok(response);
                }
                () = tokio::time::sleep_until(again) => {
                    if Instant::now() >= self.deadline {
                        return Err(PhoneError::TimedOut(format!(
                            "a response to {}",
                            String::from_utf8_lossy(&self.key.1)
                        )));
                    }
                    if let Some((at, interval)) = &mut self.retransmission {
                        *at += *interval;
                        *interval = (*interval * 2).min(T2);
                        self.line.send(self.request.buffer().clone()).await?;
                    }
                }
            }
        }
    }

    /// The final response.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn final_response(&mut self) -> Result<Message, PhoneError> {
        loop {
            let response = self.next().await?;
            if response.status().is_some_and(|status| status >= 200) {
                return Ok(response);
            }
        }
    }

    async fn response_came(&mut self, response: &Message) -> Result<(), PhoneError> {
        let invite = self.request.method() == Some(Method::Invite);
        let status = response.status().unwrap_or_default();
        if invite || status >= 200 {
            self.retransmission = None;
        }
        if invite && status >= 300 {
            // RFC 3261 §17.1.1.3
            self.line.send(sip::ack::ack(&self.request, response)).await?;
        }
        Ok(())
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        let mut waiting = self.line.shared().waiting.lock().expect("no panic under the lock");
        waiting.remove(&self.key);
    }
}

/// The response when it is 2xx, the refusal otherwise.
pub(crate) fn expect_success(method: Method<'_>, response: Message) -> Result<Message, PhoneError> {
    match response.status() {
        Some(200..=299) => Ok(response),
        status => Err(PhoneError::Refused {
            method: String::from_utf8_lossy(method.as_bytes()).into_owned(),
            status: status.unwrap_or_default(),
            reason: String::from_utf8_lossy(response.reason()).into_owned(),
        }),
    }
}

/// Header name and value that answer the first challenge of a 401 or 407 that we can (RFC 8760 §2.4).
pub(crate) fn answer_challenge(
    identity: &Identity,
    response: &Message,
    method: &[u8],
    uri: &str,
) -> Result<(&'static str, String), PhoneError> {
    let (challenge, answer) = match response.status() {
        Some(407) => (HeaderName::ProxyAuthenticate, "Proxy-Authorization"),
        _ => (HeaderName::WwwAuthenticate, "Authorization"),
    };
    let login =
        Login { username: identity.user.as_bytes(), password: identity.password.as_bytes() };
    let challenges = response.fields(challenge);
    // The nonce is new with every challenge, so its count starts over.
    let (_, value) = digest::answer(challenges, login, method, uri.as_bytes(), b"phone", 1)
        .map_err(|error| PhoneError::Challenge(error.to_string()))?;
    Ok((answer, String::from_utf8_lossy(&value).into_owned()))
}
