//! One HTTP/1.1 connection to a member.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A member whose host is gone is noticed on an idle watch after this and as much again for each of [`PROBES`].
const KEEP_ALIVE: Duration = Duration::from_secs(1);
const PROBES: u32 = 2;

pub(super) type Question = Request<Full<Bytes>>;

#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    pub(super) async fn open(
        address: &str,
        tls: Option<(&TlsConnector, Option<&ServerName<'static>>)>,
    ) -> Result<Connection, String> {
        let tcp = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let keep_alive = TcpKeepalive::new()
            .with_time(KEEP_ALIVE)
            .with_interval(KEEP_ALIVE)
            .with_retries(PROBES);
        let options =
            tcp.set_nodelay(true).and_then(|()| SockRef::from(&tcp).set_tcp_keepalive(&keep_alive));
        options.map_err(|error| error.to_string())?;
        match tls {
            None => Connection::over(tcp).await,
            Some((connector, name)) => {
                let name = name.ok_or("no name is known to check its certificate by")?.clone();
                let tls = connector.connect(name, tcp).await;
                Connection::over(tls.map_err(|error| format!("TLS: {error}"))?).await
            }
        }
    }

    async fn over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Connection, String> {
        let (sender, driver) =
            handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        // Ends when the sender and the body of the last answer are dropped, or the member closes. What goes wrong is
        // told to whoever waits for an answer.
        tokio::spawn(async move { drop(driver.await) });
        Ok(Connection { sender })
    }

    /// # Errors
    /// With the question when none of it was sent.
    pub(super) async fn send(
        &mut self,
        question: Question,
    ) -> Result<Response<Incoming>, (hyper::Error, Option<Question>)> {
        if let Err(error) = self.sender.ready().await {
            return Err((error, Some(question)));
        }
        self.sender.try_send_request(question).await.map_err(|mut refused| {
            let unsent = refused.take_message();
            (refused.into_error(), unsent)
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}
