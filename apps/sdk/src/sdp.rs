//! Answers of an application that has no media of its own.

/// The content type of session descriptions.
pub const CONTENT_TYPE: &str = "application/sdp";

/// An answer that takes every stream of the offer and holds it: nobody sends, nobody is spoken to (RFC 3264 §6, §8.4).
/// `session` is the number that the answer's origin carries.
pub fn held_answer(offer: &str, session: u64) -> String {
    let mut answer = format!(
        "v=0\r\no=- {session} {session} IN IP4 0.0.0.0\r\ns=-\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
    );
    for line in offer.lines() {
        let Some(stream) = line.strip_prefix("m=") else { continue };
        // m=<media> <port> <protocol> <format> …; a stream that is offered with port 0 is refused by it (§6).
        let mut words = stream.split(' ');
        let (Some(media), Some(port)) = (words.next(), words.next()) else { continue };
        let port = if port == "0" { "0" } else { "9" };
        let rest = words.collect::<Vec<_>>().join(" ");
        answer.push_str(&format!("m={media} {port} {rest}\r\na=inactive\r\n"));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stream_is_answered_in_its_place() {
        let offer = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0 8\r\na=rtpmap:0 PCMU/8000\r\nm=video 0 RTP/AVP 96\r\n";
        let answer = held_answer(offer, 7);
        assert!(answer.starts_with("v=0\r\no=- 7 7 IN IP4 0.0.0.0\r\n"), "{answer}");
        assert!(
            answer.ends_with(
                "m=audio 9 RTP/AVP 0 8\r\na=inactive\r\nm=video 0 RTP/AVP 96\r\na=inactive\r\n"
            ),
            "{answer}"
        );
    }

    #[test]
    fn what_is_no_offer_is_answered_without_streams() {
        assert!(!held_answer("m=\r\nhello", 1).contains("m="));
    }
}
