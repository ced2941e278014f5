//! `symbia keys`: the key ring.

use std::process::ExitCode;

use anyhow::bail;
use serde_json::json;
use time::OffsetDateTime;

use crate::{Ended, cli::KeysCommand, config::Config, home::Home};

/// Runs the subcommand.
pub fn run(config: &Config, command: KeysCommand) -> Ended {
    let home = Home::open(config)?;
    let mut ring = home.key_ring()?;
    match command {
        KeysCommand::List => {}
        KeysCommand::Rotate => {
            let kid = ring.rotate(OffsetDateTime::now_utc());
            home.save_key_ring(&ring)?;
            if !config.json {
                println!(
                    "{kid} is active; restart the processes that sign, one after the other: the old key goes on verifying."
                );
            }
        }
        KeysCommand::RotateKek => {
            if home.running().is_some() {
                bail!("the platform is running: stop it first, it could not read what the new key wraps");
            }
            home.rotate_kek()?;
        }
        KeysCommand::Retire { kid } => {
            ring.retire(&kid)?;
            home.save_key_ring(&ring)?;
        }
    }
    let keys: Vec<_> = ring.list().collect();
    if config.json {
        println!("{}", json!({ "keys": keys }));
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<6} {:<10} CREATED", "KEY", "STATUS");
    for key in keys {
        println!("{:<6} {:<10} {}", key.kid, format!("{:?}", key.status).to_lowercase(), key.created);
    }
    Ok(ExitCode::SUCCESS)
}
