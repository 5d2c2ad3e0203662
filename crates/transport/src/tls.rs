//! TLS over a non-blocking socket, driven by its owner's loop: nothing here waits, and nothing is read or written unasked.
//!
//! Octets of a socket become plain octets and back. It stands under the links between hosts ([`crate::link`]); a loop asks for
//! it exactly as it would for the bare socket: read until it would block, write what there is once a turn. So all frames
//! of a turn share as few records as they fit (16 KiB each), and one system call takes several records.
//!
//! Bounds: records that the socket does not take yet are 64 KiB at the most, a record that is not whole yet one record, and
//! whoever does not end its handshake is given up by the owner, who has the clock. Who may speak at all is said by the
//! configuration of either side (certificates, ALPN).
//!
//! No close is announced: a stream that ends is closed, as a link's frames say themselves whether they are whole.

use std::io::{self, BufRead as _, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConnection};

/// Plain octets of one write: four full records, which one system call takes.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Octets, plain ones among them or not: there may be more.
    Some,
    /// The end of the stream.
    End,
}

/// A socket with TLS on it.
#[derive(Debug)]
pub struct TlsStream<S> {
    socket: S,
    session: Connection,
}

impl<S: Read + Write> TlsStream<S> {
    /// The client's end; `socket` need not be connected yet. The handshake begins with the first write or flush.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn client(
        socket: S,
        configuration: Arc<ClientConfig>,
        server: ServerName<'static>,
    ) -> Result<TlsStream<S>, rustls::Error> {
        let session = ClientConnection::new(configuration, server)?.into();
        Ok(TlsStream { socket, session })
    }

    /// The server's end, with the session so far: its handshake may be over.
    pub fn server(socket: S, session: ServerConnection) -> TlsStream<S> {
        TlsStream { socket, session: session.into() }
    }

    /// Whether nothing can be written yet.
    pub fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    /// Reads once, at most as much as `scratch` holds, and gives what can be read of it to `received`.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; `InvalidData` when the other side breaks the protocol or is not who it must
    /// be; whatever the socket says.
    pub fn read(
        &mut self,
        scratch: &mut [u8],
        mut received: impl FnMut(&[u8]),
    ) -> io::Result<Received> {
        // What came with the end of a handshake that somebody else saw to.
        if self.hand_out(&mut received)? {
            return Ok(Received::Some);
        }
        let count = self.socket.read(scratch)?;
        if count == 0 {
            return Ok(Received::End);
        }
        let mut unread = &scratch[..count];
        while !unread.is_empty() {
            if self.session.read_tls(&mut unread)? == 0 {
                return Ok(Received::End); // it said that it says no more
            }
            if let Err(error) = self.session.process_new_packets() {
                // The other side is told why, if there is room for that.
                let _alert = self.flush();
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            self.hand_out(&mut received)?;
        }
        Ok(Received::Some)
    }

    /// Writes a part of `bytes`, and says how much: nothing as long as the handshake is under way.
    ///
    /// # Errors
    /// `WouldBlock` when earlier records wait for room; whatever the socket says.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        if self.session.is_handshaking() {
            return Ok(0);
        }
        let count = self.session.writer().write(&bytes[..bytes.len().min(WRITE_BYTES_MAX)])?;
        match self.flush() {
            Ok(()) => Ok(count),
            // They are records now, and wait here.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(count),
            Err(error) => Err(error),
        }
    }

    /// Writes what waits here: handshakes, and records that found no room.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room; whatever the socket says.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            if self.session.write_tls(&mut self.socket)? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Whether [`flush`](Self::flush) has something to write.
    pub fn has_unwritten(&self) -> bool {
        self.session.wants_write()
    }

    fn hand_out(&mut self, received: &mut impl FnMut(&[u8])) -> io::Result<bool> {
        let mut reader = self.session.reader();
        let mut is_any = false;
        loop {
            let count = match reader.fill_buf() {
                Ok([]) => return Ok(is_any),
                Ok(plain) => {
                    received(plain);
                    plain.len()
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(is_any),
                Err(error) => return Err(error),
            };
            is_any = true;
            reader.consume(count);
        }
    }
}

impl<S> TlsStream<S> {
    /// The socket under it.
    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// The same, for the loop that polls it.
    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }
}

impl<S: AsRawFd> AsRawFd for TlsStream<S> {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests;
