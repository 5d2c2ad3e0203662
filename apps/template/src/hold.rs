//! How long a call is held.

/// Seconds by the setting; 30 without one, at least 1 and at most an hour.
pub fn seconds(setting: Option<&str>) -> u64 {
    setting.and_then(|text| text.parse().ok()).unwrap_or(30).clamp(1, 3600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_held_as_long_as_the_setting_says() {
        assert_eq!(seconds(None), 30);
        assert_eq!(seconds(Some("10")), 10);
        assert_eq!(seconds(Some("0")), 1);
        assert_eq!(seconds(Some("soon")), 30);
    }
}
