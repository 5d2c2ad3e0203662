//! Path: how requests to a registered phone find this edge and its flow.
//!
//! RFC 3327 §5.1, RFC 5626 §5.1. Added to REGISTER when NAT traversal is on: the edge's own
//! address, because the flow is this edge's, with the token of the flow. `;ob` says that the edge
//! is the first hop and keeps the flow, which lets the registrar accept `reg-id`.

use sip::{HeaderName, Message, NameAddr};
use transport::Flow;

use crate::flow_token::{FlowKeys, FlowToken, TokenKind};
use crate::header_value::HeaderValue;
use crate::listener::Listener;
use crate::record_route::uri;

/// The Path value for a REGISTER that came by `flow` to `listener`.
pub(crate) fn value(
    register: &Message,
    listener: &Listener,
    flow: Flow,
    keys: &FlowKeys,
) -> HeaderValue {
    let call_id = register.call_id().unwrap_or_default();
    let token = FlowToken { kind: TokenKind::Flow, flow }.encode(keys, call_id);
    let end: &[u8] =
        if is_first_hop(register) && has_reg_id(register) { b";lr;ob>" } else { b";lr>" };
    uri(Some(&token), listener.own_text(), listener.transport, end)
}

/// Source: RFC 5626 §5.1: the edge is the first hop if there is one Via, the phone's.
fn is_first_hop(register: &Message) -> bool {
    register.values(HeaderName::Via).nth(1).is_none()
}

fn has_reg_id(register: &Message) -> bool {
    register
        .values(HeaderName::Contact)
        .filter_map(|value| NameAddr::parse(value).ok())
        .any(|contact| contact.param(b"reg-id").is_some())
}
