//! Session timers (RFC 4028) as what stands between two sides has its part in them: it may ask for refreshes, passes them
//! on, and notices when none comes (§8).

use outlast_app::Header;

/// RFC 4028 §4: no shorter interval may be asked for, in seconds.
const MINIMUM: u64 = 90;

/// What an INVITE says on its way to the callee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The interval, in seconds.
    pub seconds: u64,
    /// Whether the caller can refresh.
    pub caller_refreshes: bool,
}

/// The caller asks for a shorter interval than is allowed.
#[derive(Debug, PartialEq, Eq)]
pub struct TooSmall {
    /// The least, in seconds: for Min-SE of the 422.
    pub minimum: u64,
}

/// How long the absence of a refresh is borne, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    pub seconds: u64,
}

/// What the caller is told with the 2xx.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub headers: Vec<Header>,
    /// None: neither side refreshes.
    pub watch: Option<Watch>,
}

/// Decides on the INVITE to the callee (§8.1). `wanted` is the interval of the configuration, in seconds.
pub fn for_invite(
    session_expires: Option<&str>,
    min_se: Option<&str>,
    caller_refreshes: bool,
    wanted: u64,
) -> Result<Asked, TooSmall> {
    let least = min_se.and_then(seconds).unwrap_or(MINIMUM).max(MINIMUM);
    let seconds = match session_expires.and_then(seconds) {
        Some(asked) if asked < MINIMUM && caller_refreshes => {
            return Err(TooSmall { minimum: MINIMUM });
        }
        // It may be made shorter on the way, though not shorter than Min-SE, and never longer; the exception is what a
        // caller asks for that would not understand a 422.
        Some(asked) => asked.min(wanted.max(least)).max(least),
        None => wanted.max(least),
    };
    Ok(Asked { seconds, caller_refreshes })
}

impl Asked {
    /// The headers of the INVITE to the callee.
    pub fn headers(self) -> Vec<Header> {
        let mut headers = vec![Header::new("Session-Expires", self.seconds.to_string())];
        if self.caller_refreshes {
            headers.push(Header::new("Supported", "timer"));
        }
        headers
    }
}

/// Decides on the 2xx to the caller, by the Session-Expires of the callee's (§8.2).
pub fn for_answer(session_expires: Option<&str>, asked: Asked) -> Answer {
    let agreed = session_expires.and_then(|value| Some((value, seconds(value)?)));
    match (agreed, asked.caller_refreshes) {
        (Some(agreed), _) => agreement(agreed),
        // The callee knows nothing of timers: the caller refreshes.
        (None, true) => Answer {
            headers: vec![
                Header::new("Session-Expires", format!("{};refresher=uac", asked.seconds)),
                Header::new("Require", "timer"),
            ],
            watch: Some(Watch { seconds: asked.seconds }),
        },
        (None, false) => Answer { headers: Vec::new(), watch: None },
    }
}

/// The headers of a re-INVITE or UPDATE that goes on.
pub fn for_refresh(session_expires: Option<&str>, is_able: bool) -> Vec<Header> {
    let expires = session_expires.map(|value| Header::new("Session-Expires", value));
    let supported = is_able.then(|| Header::new("Supported", "timer"));
    expires.into_iter().chain(supported).collect()
}

/// Decides on the 2xx to it that goes back.
pub fn refreshed(session_expires: Option<&str>) -> Answer {
    match session_expires.and_then(|value| Some((value, seconds(value)?))) {
        Some(agreed) => agreement(agreed),
        None => Answer { headers: Vec::new(), watch: None },
    }
}

/// What both sides agreed on, passed on as it is. RFC 4028 §9: who is to refresh must understand that.
fn agreement((value, seconds): (&str, u64)) -> Answer {
    let mut headers = vec![Header::new("Session-Expires", value)];
    if value.to_ascii_lowercase().contains("refresher=uac") {
        headers.push(Header::new("Require", "timer"));
    }
    Answer { headers, watch: Some(Watch { seconds }) }
}

/// The delta-seconds at the head of a value; parameters follow.
fn seconds(value: &str) -> Option<u64> {
    value.split(';').next()?.trim().parse::<u32>().ok().map(u64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_invite_asks_for_what_both_can_bear() {
        let check = |expires, least, able, wanted, expected| {
            let asked = for_invite(expires, least, able, wanted).map(|asked| asked.seconds);
            assert_eq!(asked, expected, "{expires:?} {least:?} {able} {wanted}");
        };
        check(None, None, false, 1800, Ok(1800));
        check(None, Some("3600"), true, 1800, Ok(3600));
        check(None, None, true, 5, Ok(90));
        check(Some("600;refresher=uac"), None, true, 1800, Ok(600));
        check(Some("7200"), None, true, 1800, Ok(1800));
        check(Some("7200"), Some("3600"), true, 1800, Ok(3600));
        check(Some("60"), None, true, 1800, Err(TooSmall { minimum: 90 }));
        check(Some("60"), None, false, 1800, Ok(90));
        check(Some("soon"), None, true, 1800, Ok(1800));
    }

    #[test]
    fn the_callee_s_choice_goes_on_to_the_caller() {
        let asked = Asked { seconds: 1800, caller_refreshes: true };
        let answer = for_answer(Some("900;refresher=uac"), asked);
        assert_eq!(answer.watch, Some(Watch { seconds: 900 }));
        assert_eq!(answer.headers[0], Header::new("Session-Expires", "900;refresher=uac"));
        assert_eq!(answer.headers[1], Header::new("Require", "timer"));
        let answer = for_answer(Some("900;refresher=uas"), asked);
        assert_eq!(answer.headers.len(), 1);
    }

    #[test]
    fn a_caller_that_can_refreshes_for_a_callee_that_cannot() {
        let answer = for_answer(None, Asked { seconds: 1800, caller_refreshes: true });
        assert_eq!(answer.headers[0], Header::new("Session-Expires", "1800;refresher=uac"));
        assert_eq!(answer.watch, Some(Watch { seconds: 1800 }));
    }

    #[test]
    fn nothing_is_watched_when_nobody_can_refresh() {
        let answer = for_answer(None, Asked { seconds: 1800, caller_refreshes: false });
        assert_eq!(answer, Answer { headers: Vec::new(), watch: None });
        assert_eq!(refreshed(None).watch, None);
    }

    #[test]
    fn refreshes_go_from_one_end_to_the_other() {
        let expires = Header::new("Session-Expires", "600;refresher=uac");
        let headers = for_refresh(Some("600;refresher=uac"), true);
        assert_eq!(headers, [expires.clone(), Header::new("Supported", "timer")]);
        assert_eq!(for_refresh(None, false), []);
        let answer = refreshed(Some("600;refresher=uac"));
        assert_eq!(answer.headers, [expires, Header::new("Require", "timer")]);
        assert_eq!(answer.watch, Some(Watch { seconds: 600 }));
    }
}
