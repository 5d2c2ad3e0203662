//! A relay between two phones: what one sends goes to the other as it is, or as the test wants.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use phone::{Call, LineTransport, Phone};
use sip::Message;
use tokio::net::UdpSocket;

/// What becomes of a datagram: these go on in its place.
pub(crate) type Fate = Box<dyn FnMut(&Message, &Bytes) -> Vec<Bytes> + Send>;

pub(crate) struct Relay {
    address: SocketAddr,
    fate: Arc<Mutex<Fate>>,
    task: tokio::task::AbortHandle,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Relay {
    pub(crate) fn does(&self, fate: impl FnMut(&Message, &Bytes) -> Vec<Bytes> + Send + 'static) {
        *self.fate.lock().unwrap() = Box::new(fate);
    }

    /// Loses the first `count` messages that `lost` names.
    pub(crate) fn loses(&self, count: usize, lost: impl Fn(&Message) -> bool + Send + 'static) {
        let mut left = count;
        self.does(move |message, octets| {
            if left > 0 && lost(message) {
                left -= 1;
                return Vec::new();
            }
            vec![octets.clone()]
        });
    }
}

/// Two phones, alice and bob, and the relay between them.
pub(crate) async fn pair() -> (Phone, Phone, Relay) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let alice = phone(address, "alice").await;
    let bob = phone(address, "bob").await;
    let ends = [alice.lines()[0].local(), bob.lines()[0].local()];
    let fate: Arc<Mutex<Fate>> = Arc::new(Mutex::new(Box::new(|_, octets| vec![octets.clone()])));
    let decides = Arc::clone(&fate);
    let task = tokio::spawn(async move {
        let mut buffer = vec![0; 65_535];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let to = if from == ends[0] { ends[1] } else { ends[0] };
            let octets = Bytes::copy_from_slice(&buffer[..length]);
            let message = Message::parse(octets.clone()).unwrap();
            let onward = (decides.lock().unwrap())(&message, &octets);
            for octets in onward {
                socket.send_to(&octets, to).await.unwrap();
            }
        }
    });
    (alice, bob, Relay { address, fate, task: task.abort_handle() })
}

async fn phone(relay: SocketAddr, user: &str) -> Phone {
    Phone::new(user, "example.com", "", LineTransport::Udp, relay).await.unwrap()
}

/// A call that is up, both sides of it.
pub(crate) async fn established(caller: &Phone, callee: &Phone) -> (Call, Call) {
    let (calling, answering) =
        tokio::join!(async { caller.call(0, &callee.uri()).await?.answered().await }, async {
            let ringing = callee.incoming().await?;
            ringing.ring().await?;
            ringing.answer().await
        });
    (calling.unwrap(), answering.unwrap())
}

#[tokio::test]
async fn the_relay_relays() {
    let (alice, bob, relay) = pair().await;
    assert_eq!(alice.lines()[0].edge(), relay.address);
    let (calling, answering) = established(&alice, &bob).await;
    let (ended, noticed) = tokio::join!(calling.hang_up(), answering.hung_up());
    ended.unwrap();
    noticed.unwrap();
}
