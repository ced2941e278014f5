//! The benchmark: one row per figure that must hold, one file per group of rows. Nothing here fails for being slow.

mod api;
mod append;
mod command;
mod exchange;
mod fsync;
mod gateway;
mod ground;
mod identity;
mod inference;
mod ledger;
mod load;
mod measure;
mod mesh;
mod messages;
mod policy;
mod process;
mod projection;
mod replay;
mod sockets;
mod table;
mod wire;

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Args;
use table::Table;

/// What to measure, and how long.
#[derive(Args)]
pub struct Options {
    /// The short version: shorter rounds, a tenth of the events, and of the services' own rows only those that `--only` names.
    #[arg(long)]
    quick: bool,
    /// Also writes the table as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only these rows.
    #[arg(long, value_name = "ROW,…", value_delimiter = ',')]
    only: Vec<String>,
}

/// How much of each is measured.
#[derive(Clone, Copy, Debug)]
struct Scale {
    /// Length of one round of a rate.
    round: Duration,
    /// Rounds of ours and raw in turn; their median counts.
    rounds: usize,
    /// Events in the log that is loaded from, replayed and projected.
    events: usize,
    /// Single loads, and single events that are followed until they are visible.
    samples: usize,
    /// Events of the one large aggregate.
    large: u32,
}

impl Scale {
    const FULL: Self =
        Scale { round: Duration::from_secs(3), rounds: 3, events: 1_000_000, samples: 1000, large: 100_000 };
    const QUICK: Self =
        Scale { round: Duration::from_millis(500), rounds: 3, events: 100_000, samples: 200, large: 100_000 };
}

/// What each group of rows gets.
struct Bench {
    scale: Scale,
    only: Vec<String>,
    table: Table,
    /// The log that several groups read, made by the first.
    stocked: Option<load::Stocked>,
}

impl Bench {
    /// Whether one of these rows is asked for.
    fn wants(&self, rows: &[&str]) -> bool {
        self.only.is_empty() || rows.iter().any(|row| self.only.iter().any(|only| only == row))
    }
}

/// Every row, by group.
const ROWS: [&[&str]; 15] = [
    &append::ROWS,
    &command::ROWS,
    &fsync::ROWS,
    &load::ROWS,
    &replay::ROWS,
    &projection::ROWS,
    &exchange::ROWS,
    &inference::ROWS,
    &policy::ROWS,
    &gateway::ROWS,
    &identity::ROWS,
    &process::ROWS,
    &messages::ROWS,
    &mesh::ROWS,
    &sockets::ROWS,
];

/// Runs the benchmark and prints the table.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let known: Vec<&str> = ROWS.concat();
    if let Some(unknown) = options.only.iter().find(|row| !known.contains(&row.as_str())) {
        anyhow::bail!("there is no row '{unknown}'; there are {}", known.join(", "));
    }
    let scale = if options.quick { Scale::QUICK } else { Scale::FULL };
    let services = !options.quick || !options.only.is_empty();
    let mut bench = Bench { scale, only: options.only, table: Table::default(), stocked: None };
    let failures = measure_all(&mut bench, services).await;
    bench.table.print();
    if let Some(file) = options.json {
        let json = serde_json::to_vec_pretty(&bench.table.json())?;
        std::fs::write(&file, json).with_context(|| format!("cannot write {}", file.display()))?;
    }
    anyhow::ensure!(failures.is_empty(), "not measured: {}", failures.join("; "));
    Ok(())
}

// A group that cannot be measured does not keep the others from it.
async fn measure_all(bench: &mut Bench, services: bool) -> Vec<String> {
    let mut failures = Vec::new();
    macro_rules! group {
        ($($group:ident),*) => { $(
            if bench.wants(&$group::ROWS) {
                let began = std::time::Instant::now();
                eprint!("{} … ", stringify!($group));
                match $group::run(bench).await {
                    Ok(()) => eprintln!("{:.1} s", began.elapsed().as_secs_f64()),
                    Err(error) => {
                        eprintln!("failed: {error:#}");
                        failures.push(format!("{} ({error:#})", stringify!($group)));
                    }
                }
            }
        )* };
    }
    group!(append, command, fsync, load, replay, projection, exchange, policy, process);
    if services {
        group!(inference, gateway, identity, messages, mesh, sockets);
    }
    failures
}
