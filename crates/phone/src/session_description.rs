//! Session descriptions that name a call: the origin line (RFC 8866 §5.2) goes through proxies and back-to-back
//! agents as it is, so a callee knows a call by it, whatever Call-ID it comes with.

/// Content-Type of a session description.
pub(crate) const CONTENT_TYPE: &str = "application/sdp";

/// A description with this origin; port 9 (discard), because nothing listens. `version` grows with each offer.
pub(crate) fn describe(session: &str, version: u32) -> String {
    format!(
        "v=0\r\no={session} {version} IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
         m=audio 9 RTP/AVP 0\r\n"
    )
}

/// User name and session id of the origin line; `None` when the body has none.
pub(crate) fn session(body: &[u8]) -> Option<String> {
    let line = body.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"o="))?;
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').take(2).collect();
    (words.len() == 2).then(|| String::from_utf8_lossy(&words.join(&b' ')).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_one_session_have_one_name() {
        let first = describe("alice 17", 1);
        assert_eq!(session(first.as_bytes()), Some("alice 17".to_owned()));
        assert_eq!(session(first.as_bytes()), session(describe("alice 17", 2).as_bytes()));
        assert_eq!(session(b""), None);
        assert_eq!(session(b"v=0\r\no=alice"), None);
    }
}
