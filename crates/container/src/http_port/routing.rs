//! Which application a request is for: by host, then by the longest path.

use std::sync::Arc;

use http::header::HOST;
use http::request::Parts;

use super::HttpApplication;
use super::shares::Shares;

/// Where an application is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Requests whose path is this, or begins with it and a `/`. Compared as it came: escapes are not undone.
    pub path: String,
    /// Requests for this host only; `None`: for any.
    pub host: Option<String>,
}

/// An application and where it is served. Clones share what it may take.
#[derive(Clone)]
pub struct HttpRoute {
    /// Who answers.
    pub application: Arc<dyn HttpApplication>,
    /// Where.
    pub place: Place,
    /// Name of the cookie that carries the session.
    pub session_cookie: String,
    /// The longest body of a request that comes with a session, in octets; a longer one gets 413.
    pub body_bytes_max: usize,
    pub(super) shares: Shares,
}

impl HttpRoute {
    /// The application at `place`.
    pub fn new(
        application: Arc<dyn HttpApplication>,
        place: Place,
        session_cookie: String,
        body_bytes_max: usize,
    ) -> HttpRoute {
        HttpRoute { application, place, session_cookie, body_bytes_max, shares: Shares::default() }
    }
}

/// Those of all applications, in the order in which these are asked.
pub(super) type Routes = Arc<[HttpRoute]>;

impl Place {
    /// How well a request fits, if it does: one for this very host goes before any other, then the longer path.
    fn fit(&self, host: &str, path: &str) -> Option<(bool, usize)> {
        let own_host = self.host.as_deref();
        if own_host.is_some_and(|own| !own.eq_ignore_ascii_case(host)) {
            return None;
        }
        let rest = path.strip_prefix(self.path.strip_suffix('/').unwrap_or(&self.path))?;
        let fits = rest.is_empty() || rest.starts_with(['/', '?']);
        fits.then_some((own_host.is_some(), self.path.len()))
    }
}

/// The route of a request: of equal ones the first.
pub(super) fn find<'a>(routes: &'a [HttpRoute], host: &str, path: &str) -> Option<&'a HttpRoute> {
    best(routes.iter().map(|route| &route.place), host, path).map(|at| &routes[at])
}

fn best<'a>(places: impl Iterator<Item = &'a Place>, host: &str, path: &str) -> Option<usize> {
    let mut best = None;
    for (at, place) in places.enumerate() {
        let fit = place.fit(host, path);
        if fit > best.map(|(fit, _)| fit) {
            best = fit.map(|fit| (fit, at));
        }
    }
    best.map(|(_, at)| at)
}

/// The host that a request is for, without port, as it came. `None`: it names none, or more than one.
pub(super) fn host_of(head: &Parts) -> Option<&str> {
    if let Some(host) = head.uri.host() {
        return Some(host); // RFC 9112 §3.2.2: a Host header beside it is ignored
    }
    let mut hosts = head.headers.get_all(HOST).iter();
    let (host, more) = (hosts.next()?, hosts.next());
    if more.is_some() {
        return None;
    }
    let host = host.to_str().ok()?;
    let without_port = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    Some(without_port.strip_suffix('.').unwrap_or(without_port))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn place(host: &str, path: &str) -> Place {
        let host = (!host.is_empty()).then(|| host.to_owned());
        Place { path: path.to_owned(), host }
    }

    #[test]
    fn the_longest_path_of_the_very_host_wins() {
        let places = [
            place("", "/"),
            place("", "/shop"),
            place("", "/shop/cart"),
            place("app.example.com", "/shop"),
            place("", "/shop"),
        ];
        for (host, path, wanted) in [
            ("localhost", "/", 0),
            ("localhost", "/shopping", 0),
            ("localhost", "/shop", 1),
            ("localhost", "/shop/", 1),
            ("localhost", "/shop/cartoon", 1),
            ("localhost", "/shop/cart/7", 2),
            ("APP.example.com", "/shop/cart", 3),
            ("app.example.com", "/", 0),
            ("xapp.example.com", "/shop", 1),
        ] {
            assert_eq!(best(places.iter(), host, path), Some(wanted), "{host} {path}");
        }
        assert_eq!(best(places[1..].iter(), "localhost", "/"), None);
        assert_eq!(best(places[1..].iter(), "localhost", "/sho"), None);
        assert_eq!(best(places[1..].iter(), "localhost", "*"), None);
    }

    fn head(uri: &str, hosts: &[&str]) -> Parts {
        let mut request = http::Request::builder().uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_host_is_the_uris_or_the_headers_without_its_port() {
        for (uri, hosts, wanted) in [
            ("/", &["example.com:8080"][..], Some("example.com")),
            ("/", &["example.com."], Some("example.com")),
            ("/", &["[2001:db8::1]:8080"], Some("[2001:db8::1]")),
            ("/", &["[2001:db8::1]"], Some("[2001:db8::1]")),
            ("http://one.example:80/", &["other.example"], Some("one.example")),
            ("/", &["one.example", "other.example"], None),
            ("/", &[], None),
        ] {
            assert_eq!(host_of(&head(uri, hosts)), wanted, "{uri} {hosts:?}");
        }
    }
}
