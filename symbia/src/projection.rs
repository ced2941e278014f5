//! `symbia projection`: list, rebuild, verify the read models.

use std::{process::ExitCode, sync::Arc};

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use symbia_projections::{Progress, Projection, Rebuilder, fixed_keys, list, secrets::SecretStore};

use crate::{Ended, cli::ProjectionCommand, config::Config, connect::Connected, exit, roles};

/// Runs the subcommand.
pub async fn run(config: &Config, command: ProjectionCommand) -> Ended {
    let (home, house) = Connected::open(config).await?;
    let secrets = roles::secrets(&home, &house).await?;
    let rebuilder = Rebuilder {
        pool: house.pool.clone(),
        jetstream: house.js.clone(),
        keys: fixed_keys(house.keys.as_ref().clone()),
    };
    match command {
        ProjectionCommand::List => show(config, &house, secrets).await,
        ProjectionCommand::Rebuild { name } => {
            let projection = find(config, &name, &secrets)?;
            let bar = bar(config);
            let done = rebuilder.rebuild(projection.as_ref(), &|p| advance(&bar, p)).await?;
            bar.finish_and_clear();
            if config.json {
                println!("{}", json!({ "projection": name, "events": done.events, "quarantined": done.quarantined }));
            } else {
                println!("{name}: rebuilt from {} events, {} quarantined", done.events, done.quarantined);
            }
            Ok(ExitCode::SUCCESS)
        }
        ProjectionCommand::Verify { name } => {
            let chosen = match name {
                Some(name) => vec![find(config, &name, &secrets)?],
                None => roles::projections(config, &secrets),
            };
            verify(config, &rebuilder, &chosen).await
        }
    }
}

async fn show(config: &Config, house: &Connected, secrets: SecretStore) -> Ended {
    let projections = roles::projections(config, &secrets);
    let borrowed: Vec<&dyn Projection> = projections.iter().map(AsRef::as_ref).collect();
    let all = list(&house.pool, &house.js, &borrowed).await?;
    if config.json {
        let rows: Vec<_> = all
            .iter()
            .map(|p| {
                let streams: Vec<_> = p
                    .streams
                    .iter()
                    .map(|s| json!({ "service": s.service, "position": s.position, "head": s.head, "lag": s.lag }))
                    .collect();
                json!({ "name": p.name, "streams": streams, "quarantined": p.quarantined })
            })
            .collect();
        println!("{}", json!({ "projections": rows }));
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "{:<14} {:<14} {:>10} {:>10} {:>8} {:>12}",
        "PROJECTION", "STREAM", "POSITION", "HEAD", "LAG", "QUARANTINED"
    );
    for p in &all {
        for s in &p.streams {
            println!(
                "{:<14} {:<14} {:>10} {:>10} {:>8} {:>12}",
                p.name,
                s.service.name(),
                s.position,
                s.head,
                s.lag,
                p.quarantined
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn verify(config: &Config, rebuilder: &Rebuilder, chosen: &[Arc<dyn Projection>]) -> Ended {
    let mut differing = 0;
    let mut rows = Vec::new();
    for projection in chosen {
        let bar = bar(config);
        let verified = rebuilder.verify(projection.as_ref(), &|p| advance(&bar, p)).await?;
        bar.finish_and_clear();
        for table in &verified.tables {
            let same = table.live == table.replayed;
            differing += usize::from(!same);
            if config.json {
                rows.push(json!({ "projection": projection.name(), "table": table.table, "rows": table.live.rows, "identical": same }));
            } else {
                let verdict = if same { "identical" } else { "DIFFERS: rebuild it" };
                println!("{:<14} {:<20} {:>9} rows  {verdict}", projection.name(), table.table, table.live.rows);
            }
        }
    }
    if config.json {
        println!("{}", json!({ "tables": rows, "identical": differing == 0 }));
    }
    Ok(ExitCode::from(if differing == 0 { 0 } else { exit::FOUND }))
}

fn find(config: &Config, name: &str, secrets: &SecretStore) -> anyhow::Result<Arc<dyn Projection>> {
    let all = roles::projections(config, secrets);
    let known: Vec<&str> = all.iter().map(|p| p.name()).collect();
    let known = known.join(", ");
    let Some(found) = all.into_iter().find(|p| p.name() == name) else {
        bail!("there is no projection '{name}'; there are: {known}");
    };
    Ok(found)
}

/// A progress bar on standard error; hidden with `--json` and where there is no terminal.
pub fn bar(config: &Config) -> ProgressBar {
    if config.json {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec} {eta}");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Moves a bar.
pub fn advance(bar: &ProgressBar, progress: Progress) {
    bar.set_length(progress.total);
    bar.set_position(progress.done);
}
