//! UDP and TCP on real loopback sockets, IPv4 and IPv6. Nothing sleeps: time is an argument, and
//! what comes is waited for with a deadline.

mod allocations;
mod tcp;
mod tcp_limits;
mod udp;
mod worker;
