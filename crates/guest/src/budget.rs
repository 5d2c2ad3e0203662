//! What one event may use up, and what it has.
//!
//! The pure part of keeping a guest within its limits: the engine asks before memories and tables grow, and at each tick
//! that finds the guest running.

use std::time::Duration;

use crate::limits::Limits;

/// Which limit a guest went over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// Memory of all its instances.
    Memory,
    /// Elements of all its tables.
    Table,
}

/// The means of one instance; its memory counts from its beginning, its time by event.
#[derive(Clone, Debug)]
pub struct Budget {
    limits: Limits,
    memory_bytes: usize,
    table_elements: usize,
    cpu_time: Duration,
    excess: Option<Excess>,
}

impl Budget {
    /// Nothing is used yet.
    pub fn new(limits: Limits) -> Budget {
        Budget {
            limits,
            memory_bytes: 0,
            table_elements: 0,
            cpu_time: Duration::ZERO,
            excess: None,
        }
    }

    /// A new event begins.
    pub fn begin(&mut self) {
        self.cpu_time = Duration::ZERO;
        self.excess = None;
    }

    /// Whether a memory may grow from so many octets to so many.
    pub fn admits_memory(&mut self, current: usize, desired: usize) -> bool {
        let after = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if after > self.limits.memory_bytes {
            self.excess = Some(Excess::Memory);
            return false;
        }
        self.memory_bytes = after;
        true
    }

    /// Whether a table may grow from so many elements to so many.
    pub fn admits_table(&mut self, current: usize, desired: usize) -> bool {
        let after = self.table_elements.saturating_add(desired.saturating_sub(current));
        if after > self.limits.table_elements {
            self.excess = Some(Excess::Table);
            return false;
        }
        self.table_elements = after;
        true
    }

    /// The guest was found running at the end of a tick; whether it may go on.
    pub fn admits_tick(&mut self, tick: Duration) -> bool {
        self.cpu_time += tick;
        self.cpu_time < self.limits.cpu_time.max(tick)
    }

    /// Whether a guest whose time is measured may go on after so much of it.
    pub fn admits_time(&self, used: Duration) -> bool {
        used < self.limits.cpu_time
    }

    /// The limit that it was last refused for in this event.
    pub fn excess(&self) -> Option<Excess> {
        self.excess
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Budget {
        Budget::new(Limits {
            memory_bytes: 100,
            table_elements: 10,
            cpu_time: Duration::from_millis(6),
            ..Limits::default()
        })
    }

    #[test]
    fn all_memories_count_together() {
        let mut budget = budget();
        assert!(budget.admits_memory(0, 60));
        assert!(budget.admits_memory(0, 30));
        assert!(!budget.admits_memory(60, 71), "101 in all");
        assert_eq!(budget.excess(), Some(Excess::Memory));
        assert!(budget.admits_memory(60, 70), "what was refused does not count");
        assert!(!budget.admits_memory(0, usize::MAX));
    }

    #[test]
    fn all_tables_count_together() {
        let mut budget = budget();
        assert!(budget.admits_table(0, 10));
        assert!(!budget.admits_table(0, 1));
        assert_eq!(budget.excess(), Some(Excess::Table));
    }

    #[test]
    fn time_counts_by_event_and_memory_by_instance() {
        let mut budget = budget();
        let tick = Duration::from_millis(2);
        assert!(budget.admits_memory(0, 100));
        assert!(budget.admits_tick(tick) && budget.admits_tick(tick));
        assert!(!budget.admits_tick(tick));
        budget.begin();
        assert!(budget.admits_tick(tick));
        assert!(!budget.admits_memory(0, 1));
    }
}
