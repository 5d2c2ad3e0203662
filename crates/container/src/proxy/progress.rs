//! How far a context and each of its branches have come.

use std::time::Instant;

use super::target_set::Callee;

/// Which branch of a context; the n-th that was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchIndex(pub(super) usize);

impl BranchIndex {
    /// As a number, for records.
    pub fn number(self) -> usize {
        self.0
    }
}

/// How far the search for the callee has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Progress {
    /// Further targets may be tried.
    Searching,
    /// Nobody further is tried: a 6xx came, or we refuse the request ourselves.
    Declined,
    /// The caller sent CANCEL.
    Cancelled,
    /// The caller has its final response.
    Answered,
    /// Nothing more will happen.
    Finished,
}

/// How far one branch has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BranchState {
    /// No response yet.
    Calling,
    /// No response yet, and CANCEL goes out as soon as one comes (§9.1).
    CancelPending,
    /// A provisional response came.
    Proceeding,
    /// CANCEL went out.
    Cancelling,
    /// A 2xx to INVITE came; others may follow (RFC 6026).
    Accepted,
    /// Over.
    Terminated,
}

impl BranchState {
    /// Whether the branch may still yield its first final response.
    pub(super) fn is_pending(self) -> bool {
        match self {
            BranchState::Calling
            | BranchState::CancelPending
            | BranchState::Proceeding
            | BranchState::Cancelling => true,
            BranchState::Accepted | BranchState::Terminated => false,
        }
    }
}

/// One of a context's branches.
#[derive(Debug)]
pub(super) struct Branch {
    pub(super) state: BranchState,
    /// A 101–199 came: the callee itself was reached.
    pub(super) progressed: bool,
    /// Timer C, the wait for the final response to a CANCEL, or the wait for late 2xx; INVITE only.
    pub(super) deadline: Option<Instant>,
    /// What is left of the phone's flows.
    pub(super) callee: Callee,
    pub(super) max_breadth: u32,
}
