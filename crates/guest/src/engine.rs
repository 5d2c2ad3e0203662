//! The engine that compiles and runs the guests of a process, and the thread that keeps their time.
//!
//! All guests of a process share one [`Engine`]: one pool of address space for their memories and stacks, one epoch. The
//! epoch is what a running guest looks at to see whether its time is over; a thread of its own counts it up while any
//! guest runs, and stands still when none does.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;

use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails};

use crate::limits;

/// How often a running guest gives way to its container: a container's other work waits for no longer.
pub const TICK: Duration = Duration::from_millis(2);

/// The thread stops counting when no guest ran for so many ticks.
const IDLE_TICKS: u32 = 50;

/// Events that are handled at the same time, of all applications of a process; what is over it is refused as busy.
const EVENTS_MAX: u32 = 512;
/// Core instances of one component: one of Rust has four, composed ones more.
pub(crate) const CORE_INSTANCES_PER_COMPONENT_MAX: u32 = 64;
/// Memories and tables of one component.
pub(crate) const MEMORIES_PER_COMPONENT_MAX: u32 = 8;
/// Stack that a guest may use, in octets; deep recursion traps.
const GUEST_STACK_BYTES: usize = 512 * 1024;
/// Stack of a guest together with what the host calls above it use.
const STACK_BYTES: usize = 2 * 1024 * 1024;
/// Of each memory slot, table and stack so much stays in memory and is overwritten, instead of being given back to the
/// system and faulted in again.
const KEEP_RESIDENT_BYTES: usize = 256 * 1024;
/// Frames of a backtrace.
const BACKTRACE_FRAMES_MAX: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");

/// Why there is no engine: a bug of ours, or a machine that it cannot run on.
#[derive(Debug, thiserror::Error)]
#[error(
    "no engine for WebAssembly: {reason}; is the address space of the process limited (ulimit -v)?"
)]
pub struct NoEngine {
    reason: String,
}

/// Compiles and runs guests. Cloning shares it.
#[derive(Clone)]
pub struct Engine {
    wasm: wasmtime::Engine,
    ticker: Arc<Ticker>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Engine {
    /// The engine of a process; one is enough.
    ///
    /// # Errors
    /// [`NoEngine`]: address space or memory for its pools is refused, or no thread can be started.
    pub fn new() -> Result<Engine, NoEngine> {
        let failed = |reason: String| NoEngine { reason };
        let wasm =
            wasmtime::Engine::new(&config()).map_err(|error| failed(format!("{error:#}")))?;
        let ticker = Ticker::start(wasm.clone()).map_err(|error| failed(error.to_string()))?;
        Ok(Engine { wasm, ticker })
    }

    pub(crate) fn wasm(&self) -> &wasmtime::Engine {
        &self.wasm
    }

    /// A guest begins to run: time is kept until what is returned is dropped.
    pub(crate) fn keep_time(&self) -> TimeKept {
        self.ticker.running.fetch_add(1, Ordering::SeqCst);
        if self.ticker.is_parked.load(Ordering::SeqCst) {
            self.ticker.thread.unpark();
        }
        TimeKept { ticker: Arc::clone(&self.ticker) }
    }
}

fn config() -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(EVENTS_MAX)
        .total_core_instances(EVENTS_MAX * 8)
        .total_memories(EVENTS_MAX * 2)
        .total_tables(EVENTS_MAX * 4)
        .total_stacks(EVENTS_MAX)
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT_MAX)
        .max_memories_per_component(MEMORIES_PER_COMPONENT_MAX)
        .max_tables_per_component(MEMORIES_PER_COMPONENT_MAX * 4)
        .max_memory_size(limits::MEMORY_BYTES_MAX)
        .table_elements(limits::TABLE_ELEMENTS_MAX)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES)
        .async_stack_keep_resident(0)
        .max_unused_warm_slots(EVENTS_MAX);
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(GUEST_STACK_BYTES)
        .async_stack_size(STACK_BYTES)
        // Names of functions in backtraces; lines only where the guest brings them.
        .wasm_backtrace_details(WasmBacktraceDetails::Enable)
        .wasm_backtrace_max_frames(Some(BACKTRACE_FRAMES_MAX))
        .wasm_memory64(false)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// Counts the epoch up while guests run.
struct Ticker {
    running: AtomicUsize,
    is_parked: AtomicBool,
    thread: Thread,
}

impl Ticker {
    fn start(wasm: wasmtime::Engine) -> std::io::Result<Arc<Ticker>> {
        let (tell, told) = std::sync::mpsc::sync_channel::<std::sync::Weak<Ticker>>(1);
        let run = move || {
            let Ok(ticker) = told.recv() else { return };
            keep_ticking(&ticker, &wasm);
        };
        let thread = std::thread::Builder::new().name("guest-epoch".to_owned()).spawn(run)?;
        let ticker = Arc::new(Ticker {
            running: AtomicUsize::new(0),
            is_parked: AtomicBool::new(false),
            thread: thread.thread().clone(),
        });
        tell.send(Arc::downgrade(&ticker)).map_err(std::io::Error::other)?;
        Ok(ticker)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.thread.unpark(); // it finds that it is not wanted any more
    }
}

fn keep_ticking(ticker: &std::sync::Weak<Ticker>, wasm: &wasmtime::Engine) {
    let mut idle = 0;
    loop {
        let Some(shared) = ticker.upgrade() else { return };
        wasm.increment_epoch();
        idle = if shared.running.load(Ordering::SeqCst) == 0 { idle + 1 } else { 0 };
        let mut parks = false;
        if idle >= IDLE_TICKS {
            shared.is_parked.store(true, Ordering::SeqCst);
            // Who began to run before it could see that we park is seen here.
            parks = shared.running.load(Ordering::SeqCst) == 0;
            if !parks {
                shared.is_parked.store(false, Ordering::SeqCst);
            }
        }
        drop(shared);
        if !parks {
            std::thread::sleep(TICK);
            continue;
        }
        std::thread::park();
        idle = 0;
        if let Some(shared) = ticker.upgrade() {
            shared.is_parked.store(false, Ordering::SeqCst);
        }
    }
}

/// While it lives, time is kept.
pub(crate) struct TimeKept {
    ticker: Arc<Ticker>,
}

impl Drop for TimeKept {
    fn drop(&mut self) {
        self.ticker.running.fetch_sub(1, Ordering::SeqCst);
    }
}
