//! The branch of the Via that the edge adds, and the To tag of the responses it makes: pure
//! functions of the request.
//!
//! RFC 3261 §16.11. A stateless proxy must give a retransmission, its CANCEL and the ACK for a
//! non-2xx response the branch of the request they belong to, whichever edge each of them comes
//! through. So the branch is a keyed hash of what these have in common: the received branch and the
//! sent-by beside it. Keyed, because containers match transactions by it (RFC 3261 §17.2.3) and
//! nobody outside shall choose another's.
//!
//! What an edge of ours has branched already keeps its branch. A repetition may go by other edges than the
//! first copy, and by more or fewer of them: the door that a session's request comes back in by is another, an edge
//! of the dialog has departed. The branch beside the sent-by is a keyed hash already and tells all, so
//! whoever has had the first copy, phone or container, sees a repetition.
//!
//! But for requests other than INVITE the edge that sends to a phone counts: a phone that knows transactions by the branch alone
//! would repeat its answer to the edge that asked first, which may have gone. Asked in a new transaction it has to say something
//! (RFC 3261 §12.2.2), and an INVITE it would take for another call (§8.2.2.2).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sip::{BRANCH_COOKIE, Message, Via};
use smallvec::SmallVec;
use topology::Key;

/// 120 bits: no two transactions of a cluster share them.
const MAC_BYTES: usize = 15;
const MAC_CHARS: usize = 20;
const BRANCH_CHARS: usize = BRANCH_COOKIE.len() + MAC_CHARS;
const _: () = assert!(MAC_BYTES.is_multiple_of(3) && MAC_BYTES / 3 * 4 == MAC_CHARS);

/// A branch with its cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Branch([u8; BRANCH_CHARS]);

impl Branch {
    /// The branch under which `request` leaves whose top Via is `top`; `key` is the node's for the purpose `"branch"`.
    pub(crate) fn of(
        request: &Message,
        top: Option<&Via<'_>>,
        sender: Sender,
        key: &Key,
    ) -> Branch {
        if sender == Sender::OwnEdge
            && let Some(branch) = top.and_then(Branch::in_via)
        {
            return branch;
        }
        Branch::of_mac(&identify(request, top, sender, key, Purpose::Branch))
    }

    /// The branch that an edge of ours has put into `via`; none in a Via that has another kind of branch.
    fn in_via(via: &Via<'_>) -> Option<Branch> {
        via.rfc3261_branch()?.try_into().ok().map(Branch)
    }

    /// The branch of the same request when the edge whose Vias begin so sends it out of the house.
    pub(crate) fn sent_by(self, via_start: &[u8], key: &Key) -> Branch {
        let mut hashed = Hashed::from_slice(&[Purpose::Sent as u8]);
        add(&mut hashed, &self.0);
        add(&mut hashed, via_start);
        Branch::of_mac(&text_of(&hashed, key))
    }

    fn of_mac(text: &[u8; MAC_CHARS]) -> Branch {
        let mut branch = [0; BRANCH_CHARS];
        let (cookie, mac) = branch.split_at_mut(BRANCH_COOKIE.len());
        cookie.copy_from_slice(BRANCH_COOKIE);
        mac.copy_from_slice(text);
        Branch(branch)
    }

    /// The branch as it stands in a Via.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The To tag of a response that the edge makes: the same for each retransmission of `request`, on
/// each edge.
///
/// Source: RFC 3261 §8.2.7.
pub(crate) fn to_tag(request: &Message, sender: Sender, key: &Key) -> [u8; MAC_CHARS] {
    identify(request, request.top_via().ok().as_ref(), sender, key, Purpose::ToTag)
}

/// Who wrote the top Via of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// An edge of this node: whichever it is, its branches are of the same key.
    OwnEdge,
    /// Anybody else: unique is a branch only with its sent-by.
    Other,
}

#[derive(Clone, Copy)]
enum Purpose {
    Branch = 1,
    ToTag = 2,
    Sent = 3,
}

/// What is hashed, as far as usual without heap.
type Hashed = SmallVec<[u8; 256]>;

/// The keyed hash of what all messages of a transaction share.
fn identify(
    request: &Message,
    top: Option<&Via<'_>>,
    sender: Sender,
    key: &Key,
    purpose: Purpose,
) -> [u8; MAC_CHARS] {
    // Collected and hashed at once: most fit one block, and a hasher's own state is ten times as large.
    let mut hashed = Hashed::from_slice(&[purpose as u8]);
    match top.and_then(|via| via.rfc3261_branch()) {
        Some(branch) => {
            hashed.extend_from_slice(b"3261");
            add(&mut hashed, branch);
        }
        None => add_rfc2543_identity(&mut hashed, request, top),
    }
    // Branches are unique per sender only if two senders are told apart. No sent-by is empty, so
    // none is taken for an own edge's.
    match sender {
        Sender::OwnEdge => add(&mut hashed, b""),
        Sender::Other => add(&mut hashed, top.map_or(&b"none"[..], |via| via.sent_by())),
    }
    text_of(&hashed, key)
}

fn text_of(hashed: &Hashed, key: &Key) -> [u8; MAC_CHARS] {
    let mac: [u8; MAC_BYTES] = key.tag(hashed);
    let mut text = [0; MAC_CHARS];
    URL_SAFE_NO_PAD.encode_slice(mac, &mut text).expect("15 octets are 20 characters");
    text
}

/// Without a cookie the branch identifies nothing (RFC 3261 §16.11, §17.2.3): From tag, Call-ID,
/// CSeq number, Request-URI and top Via do. The To tag is left out: an INVITE has none, the ACK for
/// its 404 has one.
fn add_rfc2543_identity(hashed: &mut Hashed, request: &Message, top: Option<&Via<'_>>) {
    hashed.extend_from_slice(b"2543");
    let from = request.from().ok();
    add(hashed, from.and_then(|from| from.tag()).unwrap_or_default());
    add(hashed, request.call_id().unwrap_or_default());
    let number = request.cseq().map_or(0, |cseq| cseq.number);
    hashed.extend_from_slice(&number.to_be_bytes());
    add(hashed, request.request_uri().unwrap_or_default());
    add(hashed, top.and_then(|via| via.branch()).unwrap_or_default());
}

/// Adds a field so that its borders count: `("ab", "c")` and `("a", "bc")` differ.
fn add(hashed: &mut Hashed, field: &[u8]) {
    hashed.extend_from_slice(&(field.len() as u64).to_be_bytes());
    hashed.extend_from_slice(field);
}
