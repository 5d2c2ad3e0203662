//! What is said between the manager and its processes.

use std::sync::Arc;
use std::time::Duration;

use topology::{Incarnation, KeyRing, ProcessName, TopologyView};

/// What the manager says to a process.
#[derive(Debug, Clone)]
pub enum Word {
    /// The topology changed.
    View(Arc<TopologyView>),
    /// The keys were rotated.
    Keys(KeyRing),
    /// Take nothing new, end when nothing is left or after so long.
    Drain(Duration),
    /// End now.
    Stop,
}

/// What a turn of a process came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// It goes on.
    GoesOn,
    /// It goes on, and serves from now on.
    Serves,
    /// It has ended in an orderly way.
    Ends,
}

/// What an edge tells the manager of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which container.
    pub name: ProcessName,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Whether it answers.
    pub responds: bool,
}
