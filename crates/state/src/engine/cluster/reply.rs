//! What a node's answer means for whoever asked. Pure.

use std::net::SocketAddr;

use redis::{ServerError, Value};

/// An answer.
#[derive(Debug)]
pub(super) enum Reply {
    /// What was asked for.
    Value(Value),
    /// Nothing was done: the slot lies with that node now. `None`: with one that cannot be told.
    Moved(Option<SocketAddr>),
    /// Nothing was done: this time that node knows, while the slot is being moved.
    Ask(SocketAddr),
    /// Nothing was done: in a moment.
    Later,
    /// Nothing was done: the node lacks our functions.
    NoLibrary,
    /// It will not do that.
    Refused(String),
}

/// Takes an answer apart. `asked` is the node that answered: one that names no host means its own.
pub(super) fn classify(answer: Value, asked: SocketAddr) -> Reply {
    match answer {
        Value::ServerError(error) => refusal(&error, asked),
        value => Reply::Value(value),
    }
}

fn refusal(error: &ServerError, asked: SocketAddr) -> Reply {
    let details = error.details().unwrap_or_default();
    match error.code() {
        "MOVED" => Reply::Moved(target(details, asked)),
        "ASK" => target(details, asked).map_or(Reply::Later, Reply::Ask),
        // A slot or a primary is on its way, a node starts, or a function runs for long.
        "TRYAGAIN" | "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "READONLY" | "BUSY"
        | "NOREPLICAS" | "UNBLOCKED" => Reply::Later,
        _ if details.contains("Function not found") => Reply::NoLibrary,
        // A list of many slots is asked of a node that sees no majority, or does not since a moment ago.
        _ if details.contains("while the cluster is down") => Reply::Later,
        // A list ran into a slot that has just left, or is about to.
        _ if details.contains("non local key") => Reply::Later,
        code => Reply::Refused(format!("{code} {details}")),
    }
}

/// The address in `3999 192.0.2.1:6381`.
fn target(details: &str, asked: SocketAddr) -> Option<SocketAddr> {
    let (_, address) = details.split_once(' ')?;
    let (ip, port) = address.trim().rsplit_once(':')?;
    let port = port.parse().ok()?;
    let ip = ip.trim_matches(['[', ']']);
    Some(SocketAddr::new(if ip.is_empty() { asked.ip() } else { ip.parse().ok()? }, port))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn reply(line: &str) -> Reply {
        let answer = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        classify(answer, "192.0.2.9:6379".parse().unwrap())
    }

    #[test]
    fn redirections_name_a_node() {
        let at = |address: &str| Some(address.parse::<SocketAddr>().unwrap());
        assert!(
            matches!(reply("MOVED 3999 192.0.2.1:6381"), Reply::Moved(to) if to == at("192.0.2.1:6381"))
        );
        assert!(
            matches!(reply("MOVED 3999 :6381"), Reply::Moved(to) if to == at("192.0.2.9:6381"))
        );
        assert!(
            matches!(reply("MOVED 3999 2001:db8::1:6381"), Reply::Moved(to) if to == at("[2001:db8::1]:6381"))
        );
        assert!(matches!(reply("MOVED 3999 ?:6381"), Reply::Moved(None)));
        assert!(
            matches!(reply("ASK 3999 192.0.2.1:6381"), Reply::Ask(to) if Some(to) == at("192.0.2.1:6381"))
        );
    }

    #[test]
    fn what_passes_is_told_from_what_stays() {
        assert!(matches!(
            reply("TRYAGAIN Multiple keys request during rehashing of slot"),
            Reply::Later
        ));
        assert!(matches!(reply("CLUSTERDOWN The cluster is down"), Reply::Later));
        assert!(matches!(reply("LOADING Redis is loading the dataset in memory"), Reply::Later));
        assert!(matches!(
            reply(
                "ERR Script attempted to access a non local key in a cluster node script: x, on @user_function:1."
            ),
            Reply::Later
        ));
        assert!(matches!(
            reply(
                "ERR Script attempted to execute a command while the cluster is down script: x, on @user_function:1."
            ),
            Reply::Later
        ));
        assert!(matches!(reply("ERR Function not found"), Reply::NoLibrary));
        assert!(
            matches!(reply("OOM command not allowed"), Reply::Refused(why) if why.starts_with("OOM"))
        );
        assert!(matches!(reply("NOPERM this user has no permissions"), Reply::Refused(_)));
    }
}
