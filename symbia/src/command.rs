//! `symbia command send`: publish a command from the shell.

use std::{io::Read, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use serde_json::value::RawValue;
use symbia_commands::{Actor, CommandEnvelope, OutcomeStatus};
use symbia_events::{ActorType, AggregateRef, CommandId};
use time::OffsetDateTime;

use crate::{Ended, cli::CommandCommand, config::Config, connect::Connected, exit};

/// Runs the subcommand.
pub async fn run(config: &Config, command: CommandCommand) -> Ended {
    let CommandCommand::Send { command_type, aggregate, data, id, actor } = command;
    let aggregate = address(&aggregate)?;
    let data = if data == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        text
    } else {
        data
    };
    let data = RawValue::from_string(data).context("the data is no JSON")?;
    let (_, house) = Connected::open(config).await?;
    let actor = match actor {
        Some(id) => Actor { id, kind: ActorType::User, ..Actor::service("cli") },
        None => Actor::system("operator"),
    };
    let now = OffsetDateTime::now_utc();
    let id = id.map_or_else(CommandId::random, CommandId);
    let envelope = CommandEnvelope {
        source: "symbia/cli".to_owned(),
        ..CommandEnvelope::of_data(&house.keys, &aggregate, &command_type, data, &actor, id, now)
    };
    let bus = house.bus.clone();
    let outcome = bus.send(&aggregate, &envelope, Duration::from_secs(15)).await?;
    if config.json {
        println!("{}", serde_json::to_string(&outcome)?);
    } else {
        println!("command  {id}{}", if outcome.repeated { " (decided before)" } else { "" });
        for event in &outcome.events {
            println!("event    {} (version {})", event.event_type, event.version);
        }
        if let Some(position) = outcome.position {
            println!("position {position}");
        }
        if let Some(rejection) = &outcome.rejection {
            println!("refused  {rejection}");
        }
    }
    Ok(ExitCode::from(if outcome.status == OutcomeStatus::Accepted { 0 } else { exit::REFUSED }))
}

/// An aggregate, written as `<service>/<tenant>/<kind>/<id>`.
pub fn address(text: &str) -> anyhow::Result<AggregateRef> {
    let parts: Vec<&str> = text.split('/').collect();
    let [service, tenant, kind, id] = parts.as_slice() else {
        bail!("'{text}' is no aggregate: write <service>/<tenant>/<kind>/<id>, e.g. identity/global/user/42");
    };
    Ok(AggregateRef::new(service.parse()?, tenant.parse()?, *kind, *id)?)
}
