//! What survives what: each fault once, on real processes, and everything counted.
//!
//! A row brings a node under load ([`workload`]), does the fault, lets everything go on to its end, and says what survived, when
//! the fault was noticed and when all was served again ([`rows`]). Each cell of the table is a test of its own that
//! asserts its share of its row. Written to `docs/what-survives-what.md` by
//! `OUTLAST_WRITE_DOCS=1 cargo test -p testbed --test it survival` ([`table`]).

mod log;
mod rows;
mod table;
mod workload;

use rows::{
    CONTAINER_HANGS, CONTAINER_KILLED, DRAIN, EDGE_KILLED, EVERYTHING_KILLED, MANAGER_HANGS,
    MANAGER_KILLED, RESTARTED, SIP_DEAD,
};

/// The tests of one row: the name of the module is the fault, that of the test the column.
macro_rules! cells {
    ($($fault:ident: $row:ident { $($cell:ident),* })*) => {
        $(mod $fault {
            $(#[test]
            fn $cell() {
                super::$row.get().survivors.$cell.assert_all(stringify!($cell));
            })*

            #[test]
            fn noticed_in_time() {
                super::$row.get().assert_in_time();
            }
        })*
    };
}

cells! {
    container_killed: CONTAINER_KILLED { bindings, direct_calls, session_calls, guest_calls, set_ups }
    container_hangs: CONTAINER_HANGS { bindings, direct_calls, session_calls, guest_calls, set_ups }
    sip_dead_but_heartbeats_alive: SIP_DEAD { bindings, direct_calls, session_calls, guest_calls, set_ups }
    edge_killed: EDGE_KILLED { bindings, direct_calls, session_calls, guest_calls, set_ups }
    manager_killed: MANAGER_KILLED { bindings, direct_calls, session_calls, guest_calls, set_ups }
    manager_hangs: MANAGER_HANGS { bindings, direct_calls, session_calls, guest_calls, set_ups }
    drained: DRAIN { bindings, direct_calls, session_calls, guest_calls, set_ups }
    restarted: RESTARTED { bindings, direct_calls, session_calls, guest_calls }
    everything_killed: EVERYTHING_KILLED { bindings, direct_calls, session_calls, guest_calls }
}

#[test]
fn the_document_tells_every_row() {
    table::check_or_write(&rows::ALL);
}
