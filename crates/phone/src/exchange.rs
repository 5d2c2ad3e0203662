//! A request and the responses to it: the client transaction of the phone (RFC 3261 §17.1).
//!
//! Over UDP the request is sent again with doubling intervals until a response comes (an INVITE: until any
//! response; others: until a final one). A non-2xx final response to an INVITE is acknowledged here. A response
//! that does not belong to its request is noted as a violation.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sip::digest::{self, Login};
use sip::{HeaderName, Message, Method, NameAddr};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::answers::{TransactionKey, transaction_key};
use crate::phone::Identity;
use crate::{Line, LineTransport, PATIENCE, PhoneError, T1, T2};

/// Responses that wait to be looked at.
const RESPONSES: usize = 64;

/// A request on its way and the responses that come.
#[derive(Debug)]
pub struct Exchange {
    line: Arc<Line>,
    request: Message,
    key: TransactionKey,
    responses: mpsc::Receiver<Message>,
    /// When the request is sent again, and the interval after that; `None` = never.
    retransmission: Option<(Instant, Duration)>,
    deadline: Instant,
}

impl Exchange {
    pub(crate) async fn start(line: &Arc<Line>, request: Bytes) -> Result<Exchange, PhoneError> {
        let message = Message::parse(request.clone()).expect("the phone writes SIP");
        let key = transaction_key(&message).expect("the phone writes a Via with a branch");
        let (sender, responses) = mpsc::channel(RESPONSES);
        line.shared().waiting.lock().expect("no panic under the lock").insert(key.clone(), sender);
        line.send(request).await?;
        let now = Instant::now();
        Ok(Exchange {
            line: Arc::clone(line),
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
    pub fn line(&self) -> &Arc<Line> {
        &self.line
    }

    /// The next response, provisional ones included.
    ///
    /// # Errors
    /// When none comes in time, or the line's connection is lost.
    pub async fn next(&mut self) -> Result<Message, PhoneError> {
        loop {
            let again = self.retransmission.map_or(self.deadline, |(at, _)| at.min(self.deadline));
            tokio::select! {
                biased;
                response = self.responses.recv() => {
                    let response = response.expect("the exchange itself keeps the sender waiting");
                    self.response_came(&response).await?;
                    return Ok(response);
                }
                () = self.line.lost() => return Err(PhoneError::LineLost(self.line.edge())),
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
    /// As [`Exchange::next`].
    pub async fn final_response(&mut self) -> Result<Message, PhoneError> {
        loop {
            let response = self.next().await?;
            if response.status().is_some_and(|status| status >= 200) {
                return Ok(response);
            }
        }
    }

    async fn response_came(&mut self, response: &Message) -> Result<(), PhoneError> {
        if let Some(why) = misfit(&self.request, response) {
            return Err(self.line.shared().violations.note(why));
        }
        let invite = self.request.method() == Some(Method::Invite);
        let status = response.status().unwrap_or_default();
        if invite || status >= 200 {
            self.retransmission = None;
        } else if let Some((_, interval)) = &mut self.retransmission {
            // RFC 3261 §17.1.2.2: Proceeding repeats at T2
            *interval = T2;
        }
        if invite && status >= 300 {
            // RFC 3261 §17.1.1.3
            self.line.send(sip::ack::ack(&self.request, response)).await?;
        }
        Ok(())
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut waiting = self.line.shared().waiting.lock().expect("no panic under the lock");
        waiting.remove(&self.key);
    }
}

/// What of a response is not as its request said (RFC 3261 §8.2.6.2): From, Call-ID, CSeq, and the To tag once
/// the request has one.
fn misfit(request: &Message, response: &Message) -> Option<String> {
    let tag = |message: &Message, name| {
        let value = message.field(name).and_then(|value| NameAddr::parse(value).ok());
        value.and_then(|value| value.tag().map(<[u8]>::to_vec))
    };
    let own_to = tag(request, HeaderName::To);
    let fits = tag(request, HeaderName::From) == tag(response, HeaderName::From)
        && request.call_id().ok() == response.call_id().ok()
        && request.cseq().ok() == response.cseq().ok()
        && (own_to.is_none() || own_to == tag(response, HeaderName::To));
    (!fits).then(|| {
        format!(
            "a response does not belong to its request: {:?} to {:?}",
            String::from_utf8_lossy(response.buffer()),
            String::from_utf8_lossy(request.buffer())
        )
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_that_changes_what_it_copies_is_told() {
        let request = Message::parse(Bytes::from_static(
            b"BYE sip:bob@x SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@x>;tag=a\r\n\
              To: <sip:b@x>;tag=b\r\nCall-ID: c\r\nCSeq: 2 BYE\r\n\r\n",
        ))
        .expect("a request");
        let response = |from: &str, to: &str, call_id: &str, cseq: u32| {
            Message::parse(Bytes::from(format!(
                "SIP/2.0 200 OK\r\nFrom: <sip:a@x>;tag={from}\r\nTo: <sip:b@x>;tag={to}\r\n\
                 Call-ID: {call_id}\r\nCSeq: {cseq} BYE\r\n\r\n"
            )))
            .expect("a response")
        };
        assert_eq!(misfit(&request, &response("a", "b", "c", 2)), None);
        for wrong in [
            response("b", "a", "c", 2),
            response("a", "x", "c", 2),
            response("a", "b", "d", 2),
            response("a", "b", "c", 3),
        ] {
            assert!(misfit(&request, &wrong).is_some());
        }
    }
}
