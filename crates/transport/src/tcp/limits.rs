//! What a worker's TCP connections may use, and for how long they may wait.

use std::time::Duration;

/// Limits of one [`Connections`](super::Connections). Beside each: what happens when it is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpLimits {
    /// Connections of both directions; one more is accepted and closed at once, or not opened.
    /// Default 20,000.
    pub connections_max: usize,
    /// Inbound connections from one address (IPv6: one /64); one more is accepted and closed at
    /// once. Default 1,000, because a whole site may come from behind one NAT.
    pub connections_per_remote_max: usize,
    /// Longest message; a longer one closes the connection. Default 65,535.
    pub message_bytes_max: usize,
    /// Bytes of incomplete messages of all connections together; the connection that passes it is
    /// closed. Default 64 MiB.
    pub incomplete_bytes_max: usize,
    /// Bytes that may wait for one peer to read them; beyond, it is a slow reader and its
    /// connection is closed. Default 1 MiB.
    pub unwritten_bytes_max: usize,
    /// A connect without an answer is given up. Default 4 s, so that the next address still serves
    /// within Timer B.
    pub connect_timeout: Duration,
    /// A message that was begun must be complete; else the connection is closed. Default 10 s.
    pub message_timeout: Duration,
    /// A peer must read some of what waits for it; else its connection is closed. Default 20 s.
    pub write_timeout: Duration,
    /// Without a byte in either direction the connection is closed. Default 65 min: longer than the
    /// usual registration of an hour, whose refresh keeps the flow.
    pub idle_timeout: Duration,
}

impl Default for TcpLimits {
    fn default() -> TcpLimits {
        TcpLimits {
            connections_max: 20_000,
            connections_per_remote_max: 1_000,
            message_bytes_max: 65_535,
            incomplete_bytes_max: 64 * 1024 * 1024,
            unwritten_bytes_max: 1024 * 1024,
            connect_timeout: Duration::from_secs(4),
            message_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(65 * 60),
        }
    }
}
