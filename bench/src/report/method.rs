//! How the figures were made: without it they are claims.

use std::fmt::Write as _;

use crate::machine::Made;
use crate::pieces::Pieces;

/// A line for each piece: command, commit, machine, versions.
pub(super) fn made(pieces: &Pieces) -> String {
    let pieces: [(&str, Option<&Made>); 5] = [
        ("beside Kamailio", pieces.compare.as_ref().map(|piece| &piece.made)),
        ("applications", pieces.applications.as_ref().map(|piece| &piece.made)),
        ("latency", pieces.latency.as_ref().map(|piece| &piece.made)),
        ("scale", pieces.scale.as_ref().map(|piece| &piece.made)),
        ("steps alone", pieces.steps.as_ref().map(|piece| &piece.made)),
    ];
    let mut text = String::from(
        "\n| part | command | commit | when | machine | with |\n|---|---|---|---|---|---|\n",
    );
    for (part, made) in pieces {
        let Some(made) = made else { continue };
        writeln!(
            text,
            "| {part} | `{}` | `{}` | {} | {} × {}, {:.0} GB, {} | {}, {}{} |",
            made.command,
            made.commit,
            made.at,
            made.cores,
            made.processor,
            made.memory_bytes as f64 / 1e9,
            made.kernel,
            made.kamailio,
            made.rustc,
            if made.profile.is_empty() { String::new() } else { format!(", {}", made.profile) },
        )
        .expect("a text takes all");
    }
    text
}

/// The same for every run.
pub(super) const HOW: &str = "
## How it was made

- `outlast up` with the defaults of `outlast.toml` but for address, domain and whether phones log in: one edge with a
  worker a core, two containers, `durability = \"normal\"`. Every 200 to a REGISTER and every 100 to an INVITE follows a
  commit that a death of any process does not lose. CPU is that of all its processes: edge, containers, manager, guardian.
- Kamailio from Debian's packages with the configurations of [`peers/kamailio`](peers/kamailio): its default
  configuration reduced to what the operation needs, bindings in memory only (`db_mode` 0), no log lines, a worker a core.
  It promises less: what it holds is gone when it ends. Its sanity checks and NAT helpers are off; Outlast's are on. CPU is
  that of all its processes. It runs twice: *as packaged*, with the allocator that it uses unless asked otherwise (`qm`),
  and with its *fastest* (`-x fm -X fm`), which makes it several times faster here. What is beside it in scale is the
  fastest. Its shared memory is all there before the first message (`shm_force_alloc`): a call takes 42 kB
  of it for seconds, and the page faults of a run as short as these would otherwise be a fifth of its time.
- The echo (`outlast-load echo-server`) receives and sends datagrams in batches and does nothing else: what the kernel
  asks for a message, whoever forwards it.
- `outlast-load` is the load of all of them, on the same cores as the server. A saturating run is a closed loop of 256
  operations; the figure is CPU for an operation, which hardly depends on who shares the cores, unlike operations a second.
- In a round every server of a table is started, loaded and ended in turn, in another order each round. Ratios are taken
  within a round. Nothing is left out: what failed stands in the tables.
- 10,000 users, each with one contact, in an order that is no order of their names. A REGISTER refreshes a binding.
  With digest, phones log in with the nonce they have and answer a new challenge when there is one. Outlast commits the
  nonce count with the binding; Kamailio keeps none here.
- A relayed call is INVITE, 100, 180, 200, ACK, BYE and 200 through registrar and proxy. Outlast commits its set-up record
  before 100 leaves.
- Applications: [`apps/answer`](../apps/answer), deployed with `match` for every INVITE, so that a call is INVITE, 200, ACK, BYE and
  200 with the session committed before its 200. Nobody is relayed to.

What was changed and tried, and what profiles show, stands in [NOTES.md](NOTES.md).

Make it again: `bench/run` for everything, `bench/run compare`, `latency`, `scale` or `steps` for a part, `bench/run quick`
for a look that writes nothing; `bench/run applications` is apart, since it needs what builds WebAssembly. `bench/instructions BASE` compares the steps' instructions with those of another commit.
";
