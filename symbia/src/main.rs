//! The `symbia` binary: one program, each role a flag.

mod audit;
mod chat;
mod cli;
mod command;
mod config;
mod connect;
mod depths;
mod doctor;
mod first_run;
mod home;
mod inference;
mod llm;
mod log;
mod mcp;
mod models;
mod opened;
mod people;
mod projection;
mod replay;
mod replay_run;
mod rest;
mod ring;
mod roles;
mod seed;
mod serve;
mod session;
mod table;
mod telemetry;
mod up;
mod work;

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Command, ReplayCommand, ReplayOptions};
use config::Config;
use telemetry::Telemetry;

// A fifth less CPU per command than with the system's allocator (`cargo xtask bench`, which has the same).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit codes, as the README lists them.
pub mod exit {
    /// Something went wrong; the message says what.
    pub const FAILED: u8 = 1;
    /// The command line or the configuration is wrong (clap uses the same).
    pub const USAGE: u8 = 2;
    /// A check found something: a tampered log, a projection that differs, a replay that is not identical.
    pub const FOUND: u8 = 3;
    /// A command was refused by the platform.
    pub const REFUSED: u8 = 4;
}

/// What a subcommand ends with.
pub type Ended = anyhow::Result<ExitCode>;

// Huge pages would double the idle memory and make nothing quicker that the benchmark measures.
fn small_pages() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

fn main() -> ExitCode {
    small_pages();
    let cli = Cli::parse();
    let config = match Config::of_environment(&cli.global) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("symbia: {error}");
            return ExitCode::from(exit::USAGE);
        }
    };
    let telemetry = match Telemetry::start(&config) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("symbia: telemetry cannot be started: {error:#}");
            return ExitCode::from(exit::USAGE);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("symbia: cannot start: {error}");
            return ExitCode::from(exit::FAILED);
        }
    };
    let ended = runtime.block_on(run(cli.command, config));
    telemetry.stop();
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("symbia: {error:#}");
            ExitCode::from(exit::FAILED)
        }
    }
}

async fn run(command: Command, config: Config) -> Ended {
    if matches!(command, Command::Up(_) | Command::Serve(_) | Command::Work(_) | Command::Project) {
        telemetry::serve(&config).await?;
    }
    match command {
        Command::Up(options) => up::run(config, options).await,
        Command::Serve(options) => serve::run(config, options).await,
        Command::Work(options) => work::run(config, options).await,
        Command::Project => roles::project_alone(config).await,
        Command::Migrate => roles::migrate_alone(config).await,
        Command::Doctor => doctor::run(&config).await,
        Command::Ring(command) => ring::run(&config, command),
        Command::Send(command) => command::run(&config, command).await,
        Command::Projection(command) => projection::run(&config, command).await,
        Command::Seed => seed::run(&config).await,
        Command::Chat(options) => chat::run(&config, options).await,
        Command::Models(command) => models::run(&config, command).await,
        Command::Llm(command) => llm::run(&config, command).await,
        Command::Mcp(options) => mcp::run(&config, options).await,
        Command::People(command) => people::run(&config, command).await,
        Command::Log(command) => log::run(&config, command).await,
        Command::Audit(command) => audit::run(&config, command).await,
        Command::Replay(ReplayOptions { what: Some(ReplayCommand::Run { run_id }), .. }) => {
            replay_run::run(&config, &run_id).await
        }
        Command::Replay(options) => replay::run(&config, options).await,
    }
}
