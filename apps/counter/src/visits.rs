//! The count in the cookie.

/// The cookie's name.
const NAME: &str = "visits";

/// The number of this visit, by the Cookie headers of the request; the first one if they say nothing that makes sense.
pub fn counted(cookies: impl IntoIterator<Item = impl AsRef<str>>) -> u64 {
    let before = cookies.into_iter().find_map(|header| {
        header.as_ref().split(';').find_map(|cookie| {
            let (name, value) = cookie.trim().split_once('=')?;
            if name == NAME { value.parse::<u64>().ok() } else { None }
        })
    });
    before.unwrap_or(0).saturating_add(1)
}

/// The Set-Cookie header that remembers it.
pub fn cookie(visits: u64) -> String {
    format!("{NAME}={visits}; HttpOnly; SameSite=Lax")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_go_on_from_the_cookie() {
        assert_eq!(counted(["theme=dark; visits=41"]), 42);
        assert_eq!(counted(["theme=dark", "visits=1"]), 2);
        let cookie = cookie(7);
        assert_eq!(counted([cookie.split_once(';').expect("it has attributes").0]), 8);
    }

    #[test]
    fn nonsense_is_a_first_visit() {
        for cookies in ["", "visits", "visits=", "visits=-1", "myvisits=3", "visits=many"] {
            assert_eq!(counted([cookies]), 1, "{cookies}");
        }
        assert_eq!(counted(Vec::<String>::new()), 1);
        assert_eq!(counted([format!("visits={}", u64::MAX)]), u64::MAX);
    }
}
