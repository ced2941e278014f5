//! `symbia log export` and `import`: the log as a file, verified on the way out and before it goes in.

use std::{
    fs::File,
    io::{BufReader, BufWriter, IsTerminal, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, bail};
use serde_json::json;
use symbia_events::{
    KeyRing, Position, Service,
    audit::{Report, export},
};
use time::OffsetDateTime;

use crate::{
    Ended,
    audit::{self, Expected},
    config::Config,
    exit,
    home::Home,
    opened::Opened,
    projection,
};

use super::{
    read::{each, extents, record, total},
    refill::{Content, Refill, refuse_unfinished},
};

/// Opens an export for reading.
pub fn open_export(path: &Path) -> anyhow::Result<export::Reader<BufReader<File>>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    export::Reader::new(BufReader::with_capacity(1 << 20, file)).with_context(|| path.display().to_string())
}

/// `symbia log export`.
pub async fn export(config: &Config, open: &Opened, out: Option<&Path>, services: &[Service]) -> Ended {
    let Some(path) = out else {
        if std::io::stdout().is_terminal() {
            bail!("an export is for a file: give --out FILE, or redirect the output");
        }
        let report = write(config, open, std::io::stdout().lock(), services).await?;
        return Ok(told(config, &report, None));
    };
    // Under its own name only when it is complete.
    let part = path.with_extension("part");
    let file = File::create(&part).with_context(|| part.display().to_string())?;
    let report = write(config, open, &file, services).await?;
    file.sync_all()?;
    std::fs::rename(&part, path).with_context(|| path.display().to_string())?;
    Ok(told(config, &report, Some(path)))
}

async fn write(config: &Config, open: &Opened, out: impl Write, services: &[Service]) -> anyhow::Result<Report> {
    let (keys, js) = (&*open.house.keys, &open.house.js);
    let extents = extents(js, services).await?;
    let bar = projection::bar(config);
    bar.set_length(total(&extents));
    let named = extents.iter().map(|(service, _)| *service).collect();
    let mut writer =
        export::Writer::new(BufWriter::with_capacity(1 << 20, out), keys, named, OffsetDateTime::now_utc())?;
    for (service, last) in extents {
        each(js, service, 0, last, |batch| {
            batch.iter().try_for_each(|message| writer.write(&record(service, message)))?;
            bar.inc(batch.len() as u64);
            Ok(())
        })
        .await?;
    }
    let (_, report) = writer.finish(OffsetDateTime::now_utc())?;
    bar.finish_and_clear();
    Ok(report)
}

// On standard error when the export itself goes to standard output.
fn told(config: &Config, report: &Report, path: Option<&Path>) -> ExitCode {
    let text = if config.json {
        json!({ "messages": report.messages, "events": report.events, "findings": report.findings, "file": path })
            .to_string()
    } else {
        let mut text = format!("{} messages with {} events exported", report.messages, report.events);
        if !report.is_clean() {
            text += &format!(
                "; THE LOG IS NOT WHOLE ({} findings, see `symbia audit verify`): no log can be restored from this export",
                report.findings.len() as u64 + report.more
            );
        }
        text
    };
    if path.is_some() {
        println!("{text}")
    } else {
        eprintln!("{text}")
    }
    ExitCode::from(if report.is_clean() { 0 } else { exit::FOUND })
}

/// Verifies an export completely, its signed heads first: nothing may be built from one that is not whole.
pub fn verify_export(config: &Config, keys: &KeyRing, path: &Path) -> anyhow::Result<Report> {
    let report = audit::of_file(config, keys, path, Expected::default())?;
    if !report.is_clean() {
        audit::print_findings(config, &report);
        bail!("{} is not whole: take another export", path.display());
    }
    Ok(report)
}

/// `symbia log import`.
pub async fn import(config: &Config, file: &Path) -> Ended {
    let home = Home::open(config)?;
    refuse_unfinished(&home)?;
    let keys = home.ensure_key_ring()?;
    let file = file.canonicalize().with_context(|| file.display().to_string())?;
    let report = verify_export(config, &keys, &file)?;
    let services: Vec<Service> = report.heads.iter().map(|head| head.service).collect();
    Opened::with(config, async |open| {
        for service in Service::ALL {
            if let Ok((_, last @ 1..)) = symbia_nats::log::head(&open.house.js, service).await {
                bail!(
                    "the log is not empty ({} is its last message): an import is for a new data directory; `symbia log restore` mends a log",
                    Position { service, sequence: last }
                );
            }
        }
        let refill = Refill::new(Content::Given(file.clone()), services.clone(), Vec::new());
        refill.begin(&open.home)?;
        refill.finish(config, open).await?;
        if config.json {
            println!("{}", json!({ "messages": report.messages, "events": report.events, "services": services }));
        } else {
            println!("{} messages with {} events imported and verified", report.messages, report.events);
        }
        Ok(ExitCode::SUCCESS)
    })
    .await
}
