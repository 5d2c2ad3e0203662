//! Cuts what a socket delivers into messages and keep-alives: one framer for datagrams and streams.
//!
//! First stop behind the socket. RFC 3261 §18.3 (a stream needs Content-Length, a datagram need not), §7.5 (empty
//! lines before a message are skipped), RFC 5626 §3.5.1 (CRLFCRLF is a ping, CRLF its answer), §8 (STUN on the SIP
//! port). A stream that cannot be framed is given up: behind a wrong length every octet may be a forgery.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem;

use crate::error::ParseError;
use crate::structure::{self, ContentLength, FieldLines, MESSAGE_BYTES_MAX};
use crate::stun;

/// What kind of transport framed a message; decides what a missing or too large Content-Length means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// UDP: the datagram's end is the message's end.
    Datagram,
    /// TCP, TLS: only Content-Length tells where a message ends.
    Stream,
}

/// One unit of what a peer sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Octets of one message, to be given to [`Message::parse`](crate::Message::parse).
    Message(Bytes),
    /// CRLFCRLF: answer it with CRLF.
    Ping,
    /// CRLF: the answer to a ping, or an empty line before a message.
    Pong,
    /// A STUN message; on datagrams only.
    Stun(Bytes),
}

/// Why a stream cannot be framed any further; the connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// The header or the whole message is longer than the limit.
    #[error("message is longer than the limit of {0} bytes")]
    TooLong(usize),
    /// No Content-Length. Source: RFC 3261 §18.3.
    #[error("message on a stream has no Content-Length")]
    NoContentLength,
    /// A Content-Length that is no number, or several of them.
    #[error("message on a stream has a malformed or repeated Content-Length")]
    BadContentLength,
    /// The header is no header.
    #[error("malformed header on a stream")]
    Header(#[source] ParseError),
}

/// Frames one stream. The limit bounds header plus body; what passes it ends the stream.
#[derive(Clone, Debug)]
pub struct StreamFramer {
    limit: usize,
    /// Octets of the buffer in which no end of header was found yet.
    scanned: usize,
    /// Length of the message at the start of the buffer, once its header was read.
    expected: Option<usize>,
    /// A CRLF was just handed out as pong; with another CRLF right behind it, it was half a ping.
    half_ping: bool,
}

impl StreamFramer {
    /// A framer for messages of up to `limit` bytes, at most [`MESSAGE_BYTES_MAX`].
    pub fn new(limit: usize) -> StreamFramer {
        StreamFramer {
            limit: limit.min(MESSAGE_BYTES_MAX),
            scanned: 0,
            expected: None,
            half_ping: false,
        }
    }

    /// Takes the next frame off `buffer`; `None` if more octets are needed. Call until it returns `None`.
    ///
    /// Nobody but the framer may take octets off `buffer`; appending is the reader's part. However the octets are
    /// cut into reads, messages and the number of pings are the same.
    ///
    /// # Errors
    /// The stream cannot be framed any further; see [`FramingError`].
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FramingError> {
        if self.expected.is_none() {
            if let Some(keep_alive) = self.keep_alive(buffer) {
                return Ok(Some(keep_alive));
            }
            if buffer.is_empty() || &buffer[..] == b"\r" {
                return Ok(None);
            }
            self.half_ping = false;
            self.expected = self.message_length(buffer)?;
        }
        let Some(length) = self.expected else { return Ok(None) };
        if buffer.len() < length {
            return Ok(None);
        }
        self.expected = None;
        self.scanned = 0;
        Ok(Some(Frame::Message(buffer.split_to(length).freeze())))
    }

    /// Whether the buffer holds, or the framer waits for, part of a message: for the incomplete-message time-out.
    pub fn is_inside_message(&self, buffer: &BytesMut) -> bool {
        self.expected.is_some() || !buffer.is_empty()
    }

    fn keep_alive(&mut self, buffer: &mut BytesMut) -> Option<Frame> {
        if !buffer.starts_with(b"\r\n") {
            return None;
        }
        if self.half_ping {
            buffer.advance(2);
            self.half_ping = false;
            return Some(Frame::Ping);
        }
        if buffer.starts_with(b"\r\n\r\n") {
            buffer.advance(4);
            return Some(Frame::Ping);
        }
        buffer.advance(2);
        // Only when nothing but CR may be behind it can the other half still come.
        self.half_ping = buffer.is_empty() || &buffer[..] == b"\r";
        Some(Frame::Pong)
    }

    /// The length of the message at the start of `buffer`, or `None` if its header is not complete.
    fn message_length(&mut self, buffer: &[u8]) -> Result<Option<usize>, FramingError> {
        let Some(found) = memmem::find(&buffer[self.scanned..], b"\r\n\r\n") else {
            if buffer.len() >= self.limit {
                return Err(FramingError::TooLong(self.limit));
            }
            self.scanned = buffer.len().saturating_sub(3); // the end may lie across two reads
            return Ok(None);
        };
        let header_length = self.scanned + found + 4;
        if header_length > self.limit {
            return Err(FramingError::TooLong(self.limit));
        }
        let lines =
            FieldLines::after_start_line(&buffer[..header_length]).map_err(FramingError::Header)?;
        let body_length =
            match structure::only_content_length(lines).map_err(FramingError::Header)? {
                ContentLength::Absent => return Err(FramingError::NoContentLength),
                ContentLength::Malformed => return Err(FramingError::BadContentLength),
                ContentLength::Octets(length) => length,
            };
        let length =
            usize::try_from(body_length).ok().and_then(|body| header_length.checked_add(body));
        match length {
            Some(length) if length <= self.limit => Ok(Some(length)),
            _ => Err(FramingError::TooLong(self.limit)),
        }
    }
}

/// Says what one datagram is; `None` if it is nothing to answer or process.
pub fn datagram(mut bytes: Bytes) -> Option<Frame> {
    match &bytes[..] {
        b"\r\n\r\n" => return Some(Frame::Ping),
        b"\r\n" => return Some(Frame::Pong),
        other if stun::is_stun(other) => return Some(Frame::Stun(bytes)),
        _ => {}
    }
    while bytes.starts_with(b"\r\n") {
        bytes.advance(2);
    }
    // Some phones keep their NAT open with a NUL or a few blanks; no method or version begins like that.
    bytes.first().filter(|&&first| crate::grammar::is_token_byte(first))?;
    Some(Frame::Message(bytes))
}

#[cfg(test)]
mod tests;
