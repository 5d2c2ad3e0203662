//! Names of rooms and of those who are in them.

/// What a room understands.
pub const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, MESSAGE, UPDATE";

/// The key of the room's session. User and domain name it, in any case; none: it is no room.
pub fn key(user: &str, host: &str) -> Option<String> {
    let user = user.to_ascii_lowercase();
    // A user part may carry parameters (RFC 3261 §19.1.1): `room-blue;isub=1` is the same room.
    let user = user.split([';', ':']).next().unwrap_or_default();
    let name = user.strip_prefix("room-").filter(|name| !name.is_empty())?;
    let key = format!("{name}@{}", host.to_ascii_lowercase());
    (key.len() <= 255).then_some(key)
}

/// How a speaker is named to the others.
pub fn shown(display_name: &str, uri: &str) -> String {
    let display_name: String = display_name.chars().filter(|char| !char.is_control()).collect();
    if display_name.is_empty() { uri.to_owned() } else { display_name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_has_one_key_however_it_is_written() {
        let blue = Some("blue@example.com".to_owned());
        for user in ["room-blue", "Room-Blue", "room-blue;isub=1"] {
            assert_eq!(key(user, "EXAMPLE.com"), blue, "{user}");
        }
        assert_ne!(key("room-blue", "example.org"), blue);
        assert_ne!(key("room-blue2", "example.com"), blue);
    }

    #[test]
    fn what_is_no_room_has_no_key() {
        assert_eq!(key("room-", "example.com"), None);
        assert_eq!(key("my-room-blue", "example.com"), None);
        assert_eq!(key(&format!("room-{}", "x".repeat(300)), "example.com"), None);
    }

    #[test]
    fn speakers_are_shown_by_name_or_address() {
        assert_eq!(shown("", "sip:a@b"), "sip:a@b");
        assert_eq!(shown("Ann\r\nX: 1", "sip:a@b"), "AnnX: 1");
    }
}
