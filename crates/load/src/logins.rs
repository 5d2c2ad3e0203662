//! The users' passwords and the challenges they were last given.
//!
//! A phone answers a challenge once and then logs in with each request of its own accord, counting how often it used
//! the nonce, until the server gives it another one (RFC 7616 §3.3, §3.4.5). With [`Habit::Forget`] it waits to be
//! challenged each time, which costs two requests an operation.

use bytes::Bytes;
use sip::digest::{Login, ReceivedChallenge, answer};
use sip::{HeaderName, Message};

/// Most challenges that one operation answers: the first, and one that says that the nonce was too old.
pub(crate) const CHALLENGES_MAX: u8 = 2;

/// What users do with a challenge once answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// Use its nonce again.
    Remember,
    /// Wait for the next challenge.
    Forget,
}

/// What a request is that credentials are made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// The user that sends it, counted from 0.
    pub(crate) user: u32,
    /// Its method.
    pub(crate) method: &'a [u8],
    /// Its Request-URI.
    pub(crate) uri: &'a [u8],
}

#[derive(Debug)]
struct Known {
    challenge: ReceivedChallenge,
    /// Whether a proxy gave it, which reads another header field than a registrar.
    header: HeaderName,
    count: u32,
}

/// Every user's credentials.
#[derive(Debug)]
pub(crate) struct Logins {
    password: Option<String>,
    habit: Habit,
    first_user: u32,
    known: Vec<Option<Box<Known>>>,
}

/// The challenge cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unanswerable;

impl Logins {
    /// So many users, named from `first_user` on, that have this password, or none.
    pub(crate) fn new(
        password: Option<String>,
        habit: Habit,
        first_user: u32,
        users: u32,
    ) -> Logins {
        let known = if password.is_some() { users as usize } else { 0 };
        let known = std::iter::repeat_with(|| None).take(known).collect();
        Logins { password, habit, first_user, known }
    }

    /// The header line of a request that nobody asked for yet; empty if no challenge is remembered.
    pub(crate) fn line(&mut self, asked: Asked<'_>) -> Bytes {
        let Some(password) = &self.password else {
            return Bytes::new();
        };
        let Some(Some(known)) = self.known.get_mut(asked.user as usize) else {
            return Bytes::new();
        };
        known.count += 1;
        let name = format!("user{}", self.first_user + asked.user);
        let login = Login { username: name.as_bytes(), password: password.as_bytes() };
        let cnonce = format!("{:08x}", known.count);
        let value =
            known.challenge.answer(login, asked.method, asked.uri, cnonce.as_bytes(), known.count);
        header_line(known.header, &value)
    }

    /// The header line that answers the challenges of a 401 or 407.
    pub(crate) fn answer(
        &mut self,
        response: &Message,
        asked: Asked<'_>,
    ) -> Result<Bytes, Unanswerable> {
        let Some(password) = &self.password else {
            return Err(Unanswerable);
        };
        let (challenges, header) = match response.status() {
            Some(407) => (HeaderName::ProxyAuthenticate, HeaderName::ProxyAuthorization),
            _ => (HeaderName::WwwAuthenticate, HeaderName::Authorization),
        };
        let name = format!("user{}", self.first_user + asked.user);
        let login = Login { username: name.as_bytes(), password: password.as_bytes() };
        // One field holds one challenge; commas inside are its own.
        let values = response.fields(challenges);
        let (challenge, value) = answer(values, login, asked.method, asked.uri, b"00000001", 1)
            .map_err(|_| Unanswerable)?;
        if self.habit == Habit::Remember {
            self.known[asked.user as usize] = Some(Box::new(Known { challenge, header, count: 1 }));
        }
        Ok(header_line(header, &value))
    }
}

fn header_line(header: HeaderName, value: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(value.len() + 32);
    line.extend_from_slice(header.as_str().as_bytes());
    line.extend_from_slice(b": ");
    line.extend_from_slice(value);
    line.extend_from_slice(b"\r\n");
    line.into()
}
