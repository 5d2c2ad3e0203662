//! What an edge does to messages of one container for another, or for the same: its Via and Record-Route on, its Route and
//! Via off.

use bytes::Bytes;
use sip::{HeaderName, Message};

/// What the edge's branches begin with.
const BRANCH: &str = "z9hG4bKedge";
const ROUTE: &str = "<sip:chain@192.0.2.1;lr>";
/// The domain that the containers serve.
const OWN_DOMAIN: &str = "@example.com";
const CONTAINERS: &str = ".outlast.invalid";

/// What comes back to a container, as it comes; None for what is for a phone.
pub(super) fn back(message: &Message) -> Option<Bytes> {
    let text = String::from_utf8(message.buffer().to_vec()).unwrap();
    match message.request_uri() {
        Some(uri) => {
            let uri = std::str::from_utf8(uri).unwrap();
            let is_ours = uri.ends_with(OWN_DOMAIN) || uri.ends_with(CONTAINERS);
            is_ours.then(|| on_its_way(message, &text))
        }
        None => {
            let (before, vias) = text.split_once("Via: ").unwrap();
            let below = vias.splitn(3, "Via: ").nth(2);
            is_by_edge(message).then(|| format!("{before}Via: {}", below.unwrap()).into())
        }
    }
}

/// Whether an edge sent it to an edge.
pub(super) fn is_by_edge(message: &Message) -> bool {
    message.top_via().unwrap().branch().unwrap().starts_with(BRANCH.as_bytes())
}

/// A request as an edge passes it on, and another edge takes it: the same for each copy.
fn on_its_way(message: &Message, text: &str) -> Bytes {
    let branch = message.top_via().unwrap().branch().unwrap().to_vec();
    let branch = format!("{BRANCH}{}", String::from_utf8(branch).unwrap());
    let (line, rest) = text.split_once("\r\n").unwrap();
    let is_initial = message.to().unwrap().tag().is_none();
    let recorded = if is_initial { format!("Record-Route: {ROUTE}\r\n") } else { String::new() };
    let rest = match message.field(HeaderName::Route) {
        Some(_) => rest.replacen(&format!("Route: {ROUTE}\r\n"), "", 1),
        None => rest.to_owned(),
    };
    let via = format!("Via: SIP/2.0/UDP 192.0.2.1;branch={branch}");
    format!("{line}\r\n{via};flow=x\r\n{via}-out\r\n{recorded}{rest}").into()
}
