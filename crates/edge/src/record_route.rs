//! Record-Route: how later requests of a dialog find their way back through this edge.
//!
//! RFC 3261 §16.6(4), RFC 5658, RFC 5626 §5.3. Toward a phone stands the public address with a
//! token; toward the inside (container, plain SIP peer, other edge) the own address, and only if it
//! differs from what the phone sees: in host, port or transport. Then there are two values, and
//! both are consumed on the way back.

use sip::{Message, Method};
use transport::Transport;

use crate::flow_token::{FlowKeys, FlowToken};
use crate::header_value::HeaderValue;
use crate::listener::Listener;

/// Who stands on one side of the edge, as far as Record-Route is concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side<'a> {
    /// A phone or any other stranger, by this listener; `token` leads back to it.
    Outside {
        /// Where it is spoken to.
        listener: &'a Listener,
        /// How requests go to it.
        token: FlowToken,
    },
    /// A container: a link has no address of its own, so the other side's listener stands for this
    /// one too.
    Link,
    /// A plain SIP peer or another edge.
    Inside(&'a Listener),
    /// A plain SIP peer on the other side of a container: the token proves to that one that the dialog passed us on its way.
    Peer {
        /// Where it is spoken to.
        listener: &'a Listener,
        /// Of its address.
        token: FlowToken,
    },
}

/// Whether requests of that method may form a dialog, on whose path this edge stays: NOTIFY too, which may come
/// before the answer to its SUBSCRIBE (RFC 6665 §4.4.1).
pub(crate) fn may_form_dialog(method: Method<'_>) -> bool {
    matches!(method, Method::Invite | Method::Subscribe | Method::Refer | Method::Notify)
}

/// Whether the sender's Contact asks to be reached by the flow it uses (RFC 5626 §5.3, `;ob`).
pub(crate) fn contact_has_ob(request: &Message) -> bool {
    request
        .values(sip::HeaderName::Contact)
        .filter_map(|value| sip::NameAddr::parse(value).ok())
        .filter_map(|contact| sip::Uri::parse(contact.uri()).ok())
        .any(|uri| uri.as_sip().is_some_and(|uri| uri.param(b"ob").is_some()))
}

/// The values to add, top-most last (each is pushed in front of the former): first the side the
/// request came from, then the side it goes to.
pub(crate) fn values(
    came_from: Side<'_>,
    goes_to: Side<'_>,
    by: &Writer<'_>,
) -> [Option<HeaderValue>; 2] {
    match (came_from, goes_to) {
        (Side::Outside { .. }, Side::Outside { .. }) => [by.shown(came_from), by.shown(goes_to)],
        (Side::Outside { listener, .. }, inside) => {
            [by.shown(came_from), by.beside(listener, inside)]
        }
        (inside, Side::Outside { listener, .. }) => {
            [by.beside(listener, inside), by.shown(goes_to)]
        }
        (Side::Inside(a), Side::Inside(b)) if a.own == b.own && a.transport == b.transport => {
            [by.shown(came_from), None]
        }
        (
            Side::Link | Side::Inside(_) | Side::Peer { .. },
            Side::Link | Side::Inside(_) | Side::Peer { .. },
        ) => [by.shown(came_from), by.shown(goes_to)],
    }
}

/// What the tokens of one dialog are made with.
pub(crate) struct Writer<'a> {
    /// The keys.
    pub(crate) keys: &'a FlowKeys,
    /// The dialog's Call-ID.
    pub(crate) call_id: &'a [u8],
}

impl Writer<'_> {
    /// The inner value beside the one that a phone is shown; `None` if they would say the same.
    fn beside(&self, phone: &Listener, inside: Side<'_>) -> Option<HeaderValue> {
        let inner = match inside {
            Side::Inside(inner) | Side::Peer { listener: inner, .. } => inner,
            Side::Link | Side::Outside { .. } => phone,
        };
        let same =
            inner.own == phone.own && inner.transport == phone.transport && !phone.public_differs();
        if same { None } else { self.shown(Side::Inside(inner)) }
    }

    fn shown(&self, side: Side<'_>) -> Option<HeaderValue> {
        match side {
            Side::Outside { listener, token } => {
                let token = token.encode(self.keys, self.call_id);
                Some(uri(Some(&token), listener.public_text(), listener.transport, b";lr>"))
            }
            Side::Inside(listener) => {
                Some(uri(None, listener.own_text(), listener.transport, b";lr>"))
            }
            Side::Peer { listener, token } => {
                let token = token.encode(self.keys, self.call_id);
                Some(uri(Some(&token), listener.own_text(), listener.transport, b";lr>"))
            }
            Side::Link => None,
        }
    }
}

/// `<sip:TOKEN@HOST;transport=tcp` and `end`.
pub(crate) fn uri(
    token: Option<&[u8]>,
    host_port: &str,
    transport: Transport,
    end: &[u8],
) -> HeaderValue {
    let mut value = HeaderValue::new().with(b"<sip:");
    if let Some(token) = token {
        value.push(token);
        value.push(b"@");
    }
    value.push(host_port.as_bytes());
    match transport {
        Transport::Udp => {} // the default of a SIP URI with a numeric host, RFC 3263 §4.1
        Transport::Tcp => value.push(b";transport=tcp"),
    }
    value.with(end)
}
