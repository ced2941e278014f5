//! `symbia ring`: the key ring.

use std::process::ExitCode;

use anyhow::bail;
use serde_json::json;
use time::OffsetDateTime;

use crate::{Ended, cli::RingCommand, config::Config, home::Home};

/// Runs the subcommand.
pub fn run(config: &Config, command: RingCommand) -> Ended {
    let home = Home::open(config)?;
    if matches!(command, RingCommand::BrokerIssuer) {
        let issuer = home.broker_issuer()?.public_key();
        if config.json {
            println!("{}", json!({ "issuer": issuer }));
        } else {
            println!("{issuer}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut ring = home.key_ring()?;
    match command {
        RingCommand::List | RingCommand::BrokerIssuer => {}
        RingCommand::Rotate => {
            let kid = ring.rotate(OffsetDateTime::now_utc());
            home.save_key_ring(&ring)?;
            if !config.json {
                println!(
                    "{kid} is active; restart the processes that sign, one after the other: the old key goes on verifying."
                );
            }
        }
        RingCommand::RotateKek => {
            if home.running().is_some() {
                bail!("the platform is running: stop it first, it could not read what the new key wraps");
            }
            home.rotate_kek()?;
        }
        RingCommand::Retire { kid } => {
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
