//! `symbia audit`: check the log, attest it, and prove that single events are in it.

mod proofs;

use std::{fs, path::Path, process::ExitCode, time::Instant};

use anyhow::Context;
use serde_json::json;
use symbia_events::{
    KeyRing, Position, Service,
    audit::{Heads, Message, Report, Seal, Verifier, Witness, export::Record},
    commit,
    logging::SealEvent,
};
use symbia_projections::{Projection, list};
use symbia_workers::seal::Sealer;
use time::OffsetDateTime;

use crate::{
    Ended,
    cli::AuditCommand,
    config::Config,
    connect::Connected,
    exit,
    home::{Home, replace},
    log::{SEALS, each, extents, message_of, open_export, seals, total},
    opened::Opened,
    projection, roles,
};

/// Messages of an export that are checked at a time.
const BATCH: usize = 2000;

/// Runs the subcommand.
pub async fn run(config: &Config, command: AuditCommand) -> Ended {
    match command {
        AuditCommand::Verify { file, heads } => {
            let began = Instant::now();
            let home = Home::open(config)?;
            let keys = home.key_ring()?;
            let heads = heads.map(|path| read_heads(&keys, &path)).transpose()?.into_iter().collect();
            let expected = Expected { heads, ..Expected::default() };
            let report = match file {
                Some(file) => of_file(config, &keys, &file, expected)?,
                None => Opened::with(config, async |open| of_log(config, open, expected).await).await?,
            };
            print(config, &report, began)
        }
        AuditCommand::Heads { out } => {
            Opened::with(config, async |open| heads(config, open, out.as_deref()).await).await
        }
        AuditCommand::Prove { what, out } => {
            Opened::with(config, async |open| proofs::prove(config, open, &what, out.as_deref()).await).await
        }
        AuditCommand::CheckProof { file } => proofs::check(config, &file),
        AuditCommand::Seal => seal(config).await,
    }
}

/// What attests the log from outside of it.
#[derive(Default)]
pub struct Expected {
    /// Seals, verified.
    pub seals: Vec<Seal>,
    /// Signed heads, verified.
    pub heads: Vec<Heads>,
    /// Who has read how far.
    pub witnesses: Vec<Witness>,
}

impl Expected {
    fn tell(self, verifier: &mut Verifier<'_>) {
        self.seals.into_iter().for_each(|seal| verifier.expect_seal(seal));
        self.heads.into_iter().flat_map(|h| h.heads).for_each(|head| verifier.expect_head(head));
        self.witnesses.into_iter().for_each(|witness| verifier.expect_witness(witness));
    }
}

fn verifier(keys: &KeyRing) -> Verifier<'_> {
    Verifier::new(keys).threads(std::thread::available_parallelism().map_or(1, usize::from))
}

/// Audits every stream of the live log against its seals, the projections' checkpoints, and what else is expected.
async fn of_log(config: &Config, open: &Opened, mut expected: Expected) -> anyhow::Result<Report> {
    let house = &open.house;
    expected.seals.extend(seals(house).await?);
    expected.witnesses.extend(checkpoints(config, open).await?);
    let extents = extents(&house.js, &[]).await?;
    for (service, last) in extents.iter().filter(|(_, last)| *last > 0) {
        let name = "the broker's own count".to_owned();
        expected.witnesses.push(Witness { name, position: Position { service: *service, sequence: *last } });
    }
    let mut verifier = verifier(&house.keys);
    expected.tell(&mut verifier);
    let bar = projection::bar(config);
    bar.set_length(total(&extents));
    for (service, last) in extents {
        each(&house.js, service, 0, last, |batch| {
            verifier.feed(&batch.iter().map(|m| message_of(service, m)).collect::<Vec<_>>());
            bar.inc(batch.len() as u64);
            Ok(())
        })
        .await?;
    }
    bar.finish_and_clear();
    Ok(verifier.finish())
}

// A read model that has folded a message has seen it.
async fn checkpoints(config: &Config, open: &Opened) -> anyhow::Result<Vec<Witness>> {
    let pool = &open.house.pool;
    let vault: bool =
        sqlx::query_scalar("SELECT to_regclass('vault.key_encryption') IS NOT NULL").fetch_one(pool).await?;
    if !vault {
        return Ok(Vec::new());
    }
    let mut witnesses = Vec::new();
    for read_model in roles::projections(config, &roles::secrets(&open.home, &open.house).await?) {
        let name = read_model.name();
        let there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
            .bind(format!("{name}.checkpoint"))
            .fetch_one(pool)
            .await?;
        if !there {
            continue;
        }
        let status = list(pool, &open.house.js, &[read_model.as_ref() as &dyn Projection]).await?;
        for stream in status.into_iter().flat_map(|s| s.streams) {
            let position = Position { service: stream.service, sequence: stream.position };
            witnesses.push(Witness { name: format!("projection {name}"), position });
        }
    }
    Ok(witnesses)
}

/// Audits an export, against its own signed heads and the seals in it as well.
pub fn of_file(config: &Config, keys: &KeyRing, path: &Path, mut expected: Expected) -> anyhow::Result<Report> {
    let named = || path.display().to_string();
    let mut export = open_export(path)?;
    let mut messages = 0;
    for record in &mut export {
        let record = record.with_context(named)?;
        messages += 1;
        if record.service == Service::Logging && record.subject.starts_with(SEALS) {
            expected.seals.extend(seals_of(keys, &record));
        }
    }
    let heads = export.heads().cloned().context("the export has no signed heads")?;
    heads.verify(keys).with_context(named)?;
    // Seals of streams that the export does not have say nothing about it.
    let services = export.header().services.clone();
    expected.seals.retain(|seal| services.contains(&seal.service));
    expected.heads.push(heads);
    let mut verifier = verifier(keys);
    expected.tell(&mut verifier);
    let bar = projection::bar(config);
    bar.set_length(messages);
    let mut batch = Vec::with_capacity(BATCH);
    for record in open_export(path)? {
        batch.push(record?);
        if batch.len() == BATCH {
            bar.inc(batch.len() as u64);
            feed(&mut verifier, std::mem::take(&mut batch))?;
        }
    }
    feed(&mut verifier, batch)?;
    bar.finish_and_clear();
    Ok(verifier.finish())
}

fn feed(verifier: &mut Verifier<'_>, records: Vec<Record>) -> anyhow::Result<()> {
    let mut payloads = Vec::with_capacity(records.len());
    for record in &records {
        payloads.push(record.payload.clone().into_bytes()?);
    }
    let messages = records.iter().zip(&payloads).map(|(record, payload)| {
        let Record { service, sequence, subject, .. } = record;
        Message { service: *service, sequence: *sequence, subject, payload }
    });
    verifier.feed(&messages.collect::<Vec<_>>());
    Ok(())
}

fn seals_of(keys: &KeyRing, record: &Record) -> Vec<Seal> {
    let payload = record.payload.clone().into_bytes().unwrap_or_default();
    let events = commit::decode(keys, &payload).unwrap_or_default();
    let seal = |event: &symbia_events::Signed| {
        let SealEvent::LogSealed(sealed) = event.event.decode().ok()?;
        Seal::of(&sealed)
    };
    events.iter().filter_map(seal).collect()
}

fn read_heads(keys: &KeyRing, path: &Path) -> anyhow::Result<Heads> {
    let named = || path.display().to_string();
    let heads: Heads = serde_json::from_slice(&fs::read(path).with_context(named)?).with_context(named)?;
    heads.verify(keys).with_context(named)?;
    Ok(heads)
}

/// `symbia audit heads`: only of a log that is whole, since they vouch for it.
async fn heads(config: &Config, open: &Opened, out: Option<&Path>) -> Ended {
    let report = of_log(config, open, Expected::default()).await?;
    if !report.is_clean() {
        print_findings(config, &report);
        eprintln!("symbia: no heads are signed for a log that is not whole");
        return Ok(ExitCode::from(exit::FOUND));
    }
    let heads = Heads::sign(&open.house.keys, report.heads, OffsetDateTime::now_utc())?;
    write(out, &serde_json::to_string_pretty(&heads)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a document to a file, or to standard output.
fn write(out: Option<&Path>, text: &str) -> anyhow::Result<()> {
    match out {
        Some(path) => replace(path, format!("{text}\n").as_bytes()),
        None => {
            println!("{text}");
            Ok(())
        }
    }
}

async fn seal(config: &Config) -> Ended {
    let (_, house): (Home, Connected) = Connected::open(config).await?;
    let sealed = Sealer::new(house.client, house.keys, house.bus).seal_all().await?;
    if config.json {
        println!("{}", json!({ "sealed": sealed }));
        return Ok(ExitCode::SUCCESS);
    }
    for s in &sealed {
        println!("{:<14} {:>8} to {:<8} {:>8} events  {}", s.service.name(), s.from, s.to, s.events, s.root);
    }
    if sealed.is_empty() {
        println!("everything is sealed");
    }
    Ok(ExitCode::SUCCESS)
}

fn print(config: &Config, report: &Report, began: Instant) -> Ended {
    let seconds = began.elapsed().as_secs_f64();
    let rate = report.events as f64 / seconds.max(1e-9);
    if config.json {
        let mut value = serde_json::to_value(report)?;
        value["clean"] = json!(report.is_clean());
        value["seconds"] = json!(seconds);
        value["eventsPerSecond"] = json!(rate.round());
        println!("{value}");
    } else {
        print_findings(config, report);
        println!(
            "{} messages, {} events, {} aggregates, {} seals and heads agree; {seconds:.1} s, {rate:.0} events/s",
            report.messages, report.events, report.aggregates, report.attestations
        );
        if report.is_clean() {
            println!("the log is whole");
        }
    }
    Ok(ExitCode::from(if report.is_clean() { 0 } else { exit::FOUND }))
}

/// Findings as a table, on standard error with `--json`.
pub fn print_findings(config: &Config, report: &Report) {
    let mut lines = Vec::new();
    for f in &report.findings {
        let position = Position { service: f.service, sequence: f.sequence };
        let kind = format!("{:?}", f.kind).to_uppercase();
        let aggregate = f.aggregate.as_deref().map(|a| format!(" [{a}]")).unwrap_or_default();
        lines.push(format!("{kind:<9} {:<18} {}{aggregate}", position.to_string(), f.explanation));
    }
    if report.more > 0 {
        lines.push(format!("and {} more", report.more));
    }
    for line in lines {
        if config.json { eprintln!("{line}") } else { println!("{line}") }
    }
}
