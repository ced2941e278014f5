//! Developer tasks: `cargo xtask bench` measures the platform beside the servers it stands on.

mod bench;

use clap::{Parser, Subcommand};

// What the `symbia` binary has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "xtask", about = "Developer tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measures raw substrate and ours side by side, on servers of its own.
    Bench(bench::Options),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::Bench(options) => tokio::select! {
            done = bench::run(options) => done,
            // Returning drops the servers and their data.
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
        },
    }
}
