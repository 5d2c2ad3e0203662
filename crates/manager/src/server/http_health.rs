//! Asks a container, by HTTP, whether a new version is well: one GET, of whose answer the status counts.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::deployment::HttpHealth;

/// Who answers later is not well.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// `HTTP/1.1 200`.
const STATUS_BYTES: usize = 12;

/// Asks for what the manifest says, where the container serves HTTP.
///
/// # Errors
/// What is wrong, for a person.
pub(super) async fn ask(address: Option<SocketAddr>, health: &HttpHealth) -> Result<(), String> {
    let path = &health.path;
    let Some(address) = address else {
        return Err(format!("http_path = {path:?} cannot be asked for: it serves no HTTP"));
    };
    match timeout(ANSWER_TIME_MAX, status(address, health)).await {
        Ok(Ok(200..=299)) => Ok(()),
        Ok(Ok(status)) => Err(format!("GET {path} was answered {status}, and not 2xx")),
        Ok(Err(error)) => Err(format!("GET {path} at {address}: {error}")),
        Err(_) => Err(format!("GET {path} at {address} was not answered within 5 s")),
    }
}

async fn status(address: SocketAddr, health: &HttpHealth) -> io::Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    let host = health.host.clone().unwrap_or_else(|| address.to_string());
    let request =
        format!("GET {} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n", health.path);
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; STATUS_BYTES];
    stream.read_exact(&mut head).await?;
    let status = std::str::from_utf8(&head).ok().and_then(|head| head.strip_prefix("HTTP/1."));
    let status = status.and_then(|rest| rest.get(2..)?.parse().ok());
    status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "what answers is no HTTP"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::net::TcpListener;

    use super::*;

    async fn asked(answer: &'static [u8]) -> (Result<(), String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let health =
            HttpHealth { path: "/echo/health".to_owned(), host: Some("a.example".to_owned()) };
        let serves = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 512];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(answer).await.unwrap();
            String::from_utf8(request[..length].to_vec()).unwrap()
        };
        tokio::join!(ask(Some(address), &health), serves)
    }

    #[tokio::test]
    async fn the_status_of_the_answer_counts() {
        let (outcome, request) = asked(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(outcome, Ok(()));
        assert!(
            request.starts_with("GET /echo/health HTTP/1.1\r\nHost: a.example\r\n"),
            "{request}"
        );
        for (answer, said) in [
            (&b"HTTP/1.1 500 Internal\r\n\r\n"[..], "answered 500"),
            (b"SIP/2.0 200 OK\r\n\r\n", "no HTTP"),
            (b"HTTP", "GET /echo/health at"),
        ] {
            let (outcome, _) = asked(answer).await;
            assert!(outcome.as_ref().unwrap_err().contains(said), "{outcome:?}");
        }
        let health = HttpHealth { path: "/".to_owned(), host: None };
        assert!(ask(None, &health).await.unwrap_err().contains("serves no HTTP"));
    }
}
