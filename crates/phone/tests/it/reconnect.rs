//! A TCP connection that an edge lost: the phone tells, opens another one and registers again.

use phone::{LineTransport, Phone, PhoneError};
use sip::{Method, ResponseBuilder, StreamFramer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Answers requests 200 until `count` are answered, and gives their methods.
async fn serve(stream: &mut TcpStream, count: usize) -> Vec<String> {
    let mut framer = StreamFramer::new(sip::MESSAGE_BYTES_MAX);
    let mut buffer = bytes::BytesMut::new();
    let mut methods = Vec::new();
    while methods.len() < count {
        while let Some(frame) = framer.next(&mut buffer).unwrap() {
            let sip::Frame::Message(octets) = frame else { continue };
            let request = sip::Message::parse(octets).unwrap();
            let method = request.method().unwrap();
            methods.push(String::from_utf8_lossy(method.as_bytes()).into_owned());
            let ok = ResponseBuilder::new(&request, 200).to_tag(b"edge").build();
            stream.write_all(&ok).await.unwrap();
        }
        if methods.len() < count {
            assert_ne!(stream.read_buf(&mut buffer).await.unwrap(), 0, "closed by the phone");
        }
    }
    methods
}

#[tokio::test]
async fn a_lost_connection_is_told_replaced_and_registered_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let edge = listener.local_addr().unwrap();
    let phone = Phone::new("alice", "example.com", "", LineTransport::Tcp, edge).await.unwrap();
    let (mut first, _) = listener.accept().await.unwrap();
    let (registered, _) = tokio::join!(phone.register(600), serve(&mut first, 1));
    registered.unwrap();
    assert_eq!(phone.recover(600).await.unwrap(), 0, "nothing is lost yet");
    let before = phone.contact(0);

    // A request that waits when the connection goes is told so, and waits no longer.
    let options = phone.request(0, Method::Options, "sip:example.com");
    let mut waiting = options.send().await.unwrap();
    drop(first);
    let outcome = waiting.final_response().await;
    assert!(matches!(outcome, Err(PhoneError::LineLost(lost)) if lost == edge), "{outcome:?}");
    phone.lines()[0].lost().await;
    assert!(!phone.lines()[0].is_open());

    // The edge does not listen for a while.
    drop(listener);
    let (recovered, methods) = tokio::join!(phone.recover(600), async {
        tokio::time::sleep(std::time::Duration::from_millis(120)).await;
        let listener = TcpListener::bind(edge).await.unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        serve(&mut second, 1).await
    });
    assert_eq!(recovered.unwrap(), 1);
    assert_eq!(methods, ["REGISTER"]);
    assert_ne!(phone.contact(0), before, "another connection is another contact");
}
