//! A client of HTTP that says exactly what a test wants said.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// No answer takes longer.
const LIMIT: Duration = Duration::from_secs(20);

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The cookie that it sets, as a client sends it back.
    pub(crate) fn cookie(&self) -> Option<String> {
        Some(self.header("set-cookie")?.split(';').next()?.to_owned())
    }

    /// The one octet that `desk` answers with.
    pub(crate) fn octet(&self) -> u8 {
        assert_eq!((self.status, self.body.len()), (200, 1), "{self:?}");
        self.body[0]
    }

    fn parse(octets: &[u8]) -> Answer {
        let end = octets.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no head in {:?}", String::from_utf8_lossy(octets)));
        let head = String::from_utf8(octets[..end].to_vec()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_owned(), value.to_owned())
        };
        let headers: Vec<_> = lines.map(header).collect();
        let mut answer = Answer { status, headers, body: octets[end + 4..].to_vec() };
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = unchunked(&answer.body);
        }
        answer
    }
}

/// Panics on a body that breaks off.
fn unchunked(mut octets: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = octets.windows(2).position(|two| two == b"\r\n").expect("a length of a chunk");
        let length = std::str::from_utf8(&octets[..end]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return body;
        }
        body.extend_from_slice(&octets[end + 2..end + 2 + length]);
        octets = &octets[end + 2 + length + 2..];
    }
}

pub(crate) fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Sends a request on a connection of its own; further header lines end with CRLF each.
///
/// # Errors
/// Nobody listens, or the connection broke off.
pub(crate) fn try_ask(
    to: SocketAddr,
    request: &str,
    headers: &str,
    body: &[u8],
) -> io::Result<Answer> {
    ask_within(LIMIT, to, request, headers, body)
}

/// As [`try_ask`], for whoever does not wait longer.
///
/// # Errors
/// As [`try_ask`], and when nothing came for so long.
pub(crate) fn ask_within(
    limit: Duration,
    to: SocketAddr,
    request: &str,
    headers: &str,
    body: &[u8],
) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_read_timeout(Some(limit))?;
    let length = body.len();
    let head = format!(
        "{request} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let mut octets = Vec::new();
    stream.read_to_end(&mut octets)?;
    if octets.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Answer::parse(&octets))
}

/// As [`try_ask`], without a body, with a cookie.
pub(crate) fn get(to: SocketAddr, path: &str, cookie: &str) -> Answer {
    let cookie = if cookie.is_empty() { String::new() } else { format!("Cookie: {cookie}\r\n") };
    try_ask(to, &format!("GET {path}"), &cookie, b"").unwrap()
}
