//! A server that answers every request with one status, and loses some of what it gets.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use sip::{Message, ResponseBuilder};

/// Serves as long as the value lives.
pub(crate) struct Responder {
    pub(crate) address: SocketAddr,
    stops: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    /// Answers with `status`; every `lost_each`-th request it has not seen.
    pub(crate) fn start(status: u16, lost_each: u32) -> Responder {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let address = socket.local_addr().unwrap();
        let stops = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stops);
        let thread = std::thread::spawn(move || {
            let (mut buffer, mut count) = (vec![0; 65_535], 0_u32);
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let Ok(request) = Message::parse(Bytes::copy_from_slice(&buffer[..length])) else {
                    continue;
                };
                count += 1;
                if !count.is_multiple_of(lost_each) {
                    let answer = ResponseBuilder::new(&request, status).to_tag(b"x").build();
                    socket.send_to(&answer, from).unwrap();
                }
            }
        });
        Responder { address, stops, thread: Some(thread) }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic is the test's.
            thread.join().unwrap();
        }
    }
}
