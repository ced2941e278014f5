//! `symbia log tail`: the last events, and those that come.

use std::{io::Write, process::ExitCode, time::Duration};

use anyhow::Context as _;
use symbia_events::{OrgId, Service};
use symbia_nats::log::{LogError, LogMessage, LogReader};
use time::format_description::well_known::Rfc3339;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{Ended, cli::TailOptions, config::Config, opened::Opened, roles::stop_on_signal};

use super::{
    read::{each, extents},
    show::Entry,
};

/// Runs the subcommand.
pub async fn run(config: &Config, open: &Opened, options: &TailOptions) -> Ended {
    let tenant = options.tenant.as_deref().map(str::parse::<OrgId>).transpose().context("--tenant")?;
    let wanted = |service: Service, subject: &str| {
        let of = |tenant: &OrgId| subject.starts_with(&format!("symbia.evt.{service}.{tenant}."));
        tenant.as_ref().is_none_or(of)
    };
    let mut lines: Vec<(Service, LogMessage)> = Vec::new();
    let extents = extents(&open.house.js, &options.service).await?;
    for (service, last) in &extents {
        let from = options.from.iter().find(|p| p.service == *service).map(|p| p.sequence.saturating_sub(1));
        // Of one organization the last may stand far back.
        let after = from.unwrap_or(if tenant.is_some() { 0 } else { last.saturating_sub(options.lines) });
        let begin = lines.len();
        each(&open.house.js, *service, after, *last, |batch| {
            lines.extend(batch.iter().filter(|m| wanted(*service, &m.subject)).map(|m| (*service, m.clone())));
            if from.is_none() {
                let surplus =
                    (lines.len() - begin).saturating_sub(usize::try_from(options.lines).unwrap_or(usize::MAX));
                lines.drain(begin..begin + surplus);
            }
            Ok(())
        })
        .await?;
    }
    lines.sort_by_key(|(service, message)| (message.stored_at, *service, message.sequence));
    for (service, message) in &lines {
        print(config, open, *service, message)?;
    }
    if options.follow {
        follow(config, open, extents, &wanted).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn follow(
    config: &Config,
    open: &Opened,
    extents: Vec<(Service, u64)>,
    wanted: &impl Fn(Service, &str) -> bool,
) -> anyhow::Result<()> {
    let (stop, (sender, mut messages)) = (stop_on_signal(), mpsc::channel(1024));
    let mut streams = JoinSet::new();
    for (service, last) in extents {
        let (js, sender) = (open.house.js.clone(), sender.clone());
        streams.spawn(async move {
            let mut reader = LogReader::open(js, service, last, Vec::new()).await?;
            loop {
                match reader.next_batch(256, Duration::from_secs(5)).await {
                    Ok(batch) => {
                        for message in batch {
                            if sender.send((service, message)).await.is_err() {
                                return Ok::<(), LogError>(());
                            }
                        }
                    }
                    Err(error @ (LogError::Gap { .. } | LogError::Unavailable(_))) => {
                        tracing::warn!(%service, %error, "reading on");
                    }
                    Err(error) => return Err(error),
                }
            }
        });
    }
    drop(sender);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(ended) = streams.join_next() => ended??,
            Some((service, message)) = messages.recv() => {
                if wanted(service, &message.subject) {
                    print(config, open, service, &message)?;
                }
            }
            else => return Ok(()),
        }
    }
}

fn print(config: &Config, open: &Opened, service: Service, message: &LogMessage) -> anyhow::Result<()> {
    let (position, stored_at) = (format!("{service}:{}", message.sequence), message.stored_at.format(&Rfc3339)?);
    let mut out = std::io::stdout().lock();
    for entry in Entry::all(&open.house.keys, &message.subject, &message.payload) {
        if config.json {
            writeln!(out, "{}", entry.json(&position, &message.subject, Some(&stored_at)))?;
            continue;
        }
        let at = stored_at.get(..19).unwrap_or(&stored_at);
        match (&entry.event, &entry.doubt) {
            (Some(event), None) => writeln!(
                out,
                "{position:<18} {at}  {} {} v{}  {}",
                event.event_type, event.subject, event.aggregateversion, event.actorid
            )?,
            (_, doubt) => {
                let doubt = doubt.as_deref().unwrap_or("no event");
                writeln!(out, "{position:<18} {at}  NOT TO BE BELIEVED under {}: {doubt}", message.subject)?;
            }
        }
    }
    Ok(())
}
