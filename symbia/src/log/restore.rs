//! `symbia log restore`: mend broken streams from an export, and keep what was written since.
//!
//! What shall stand is the export's messages and, behind them, those of the live stream that verify and go on from their
//! chains. Everything else is dropped, but kept in a file as evidence.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::BufWriter,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use serde::Serialize;
use sha2::{Digest, Sha256};
use symbia_events::{
    AggregateRef, GENESIS, KeyRing, Service,
    audit::{
        Report,
        export::{Record, Writer},
    },
    commit,
};
use symbia_nats::log::{self, LogMessage};
use time::OffsetDateTime;

use crate::{
    Ended,
    audit::{self, Expected},
    config::Config,
    exit,
    home::Home,
    opened::Opened,
};

use super::{
    read::{each, record, seals},
    reader::Reader,
    refill::{Content, Refill, refuse_unfinished},
    transfer::{open_export, verify_export},
};

/// Places that are listed one by one.
const LISTED: usize = 50;

type Mark = [u8; 32];

/// What restoring a stream would do.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Plan {
    service: Service,
    /// Messages from the export.
    exported: u64,
    /// Messages of the live stream behind them that stay.
    kept: u64,
    /// Sequences where the live stream has something else than the export, or nothing.
    mended: Vec<u64>,
    mended_total: u64,
    /// Live messages that do not stay.
    dropped: Vec<Dropped>,
    dropped_total: u64,
    /// From here on, kept messages move to lower sequences.
    renumbered_from: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Dropped {
    sequence: u64,
    subject: String,
    reason: String,
}

impl Plan {
    fn changes(&self) -> bool {
        self.mended_total + self.dropped_total > 0
    }
}

/// Runs the subcommand.
pub async fn run(config: &Config, from: &Path, services: &[Service], yes: bool) -> Ended {
    let home = Home::open(config)?;
    refuse_unfinished(&home)?;
    if yes && config.nats_url.is_none() && home.running().is_some() {
        bail!(
            "stop `symbia up` first: nothing may write to the log while it is mended; this starts the servers by itself"
        );
    }
    verify_export(config, &home.key_ring()?, from)?;
    let named = open_export(from)?.header().services.clone();
    if let Some(missing) = services.iter().find(|s| !named.contains(s)) {
        bail!("the export has no stream of {missing}");
    }
    let services = if services.is_empty() { named } else { services.to_vec() };
    Opened::with(config, async |open| {
        if yes {
            nobody_works(open).await?;
        }
        mend(config, open, from, &services, yes).await
    })
    .await
}

async fn mend(config: &Config, open: &Opened, from: &Path, services: &[Service], yes: bool) -> Ended {
    let stamp = OffsetDateTime::now_utc().unix_timestamp();
    let staged = open.home.dir().join(format!("restore-{stamp}.ndjson"));
    let guard = Staged(Some(staged.clone()));
    let keys = &*open.house.keys;
    let file = BufWriter::new(File::create(&staged).with_context(|| staged.display().to_string())?);
    let mut writer = Writer::new(file, keys, services.to_vec(), OffsetDateTime::now_utc())?;
    let (mut plans, mut readers) = (Vec::new(), Vec::new());
    for service in services {
        let merge = Merge::new(keys, *service, Reader::all(&open.house.js, *service).await?);
        let (plan, moved) = merge.run(open, from, &mut writer).await?;
        plans.push(plan);
        readers.extend(moved);
    }
    let (file, _) = writer.finish(OffsetDateTime::now_utc())?;
    file.into_inner().context("the staged log")?.sync_all()?;
    let broken: Vec<Service> = plans.iter().filter(|p| p.changes()).map(|p| p.service).collect();
    if broken.is_empty() {
        show(config, &plans, None);
        return Ok(ExitCode::SUCCESS);
    }
    let expected = Expected { seals: seals(&open.house).await?, ..Expected::default() };
    let after = audit::of_file(config, keys, &staged, expected)?;
    refuse_unsound(config, &after, services)?;
    if !yes {
        show(config, &plans, None);
        if !config.json {
            println!("\nNothing was changed. `--yes` does it.");
        }
        return Ok(ExitCode::from(exit::FOUND));
    }
    let evidence = open.home.dir().join(format!("broken-{stamp}.ndjson"));
    keep(open, &broken, &evidence).await?;
    let refill = Refill::new(Content::Made(staged.clone()), broken, readers);
    refill.begin(&open.home)?;
    guard.forget();
    refill.finish(config, open).await?;
    show(config, &plans, Some(&evidence));
    Ok(ExitCode::SUCCESS)
}

// Seals of streams that are not in the export say nothing about it.
fn refuse_unsound(config: &Config, after: &Report, services: &[Service]) -> anyhow::Result<()> {
    if after.findings.iter().any(|f| services.contains(&f.service)) {
        audit::print_findings(config, after);
        bail!("the log would not verify even then: take a later export, or an older one");
    }
    Ok(())
}

async fn nobody_works(open: &Opened) -> anyhow::Result<()> {
    use futures::TryStreamExt;
    let Ok(commands) = open.house.js.get_stream(symbia_nats::topology::COMMANDS).await else { return Ok(()) };
    let consumers: Vec<_> = commands.consumers().try_collect().await?;
    if consumers.iter().any(|c| c.num_waiting > 0) {
        bail!("command workers are running: stop `symbia up` and every `symbia work`, then run this again");
    }
    Ok(())
}

/// The broken streams as they stand.
async fn keep(open: &Opened, services: &[Service], path: &Path) -> anyhow::Result<()> {
    let file = BufWriter::new(File::create(path).with_context(|| path.display().to_string())?);
    let mut writer = Writer::new(file, &open.house.keys, services.to_vec(), OffsetDateTime::now_utc())?;
    for service in services {
        let Ok((_, last)) = log::head(&open.house.js, *service).await else { continue };
        each(&open.house.js, *service, 0, last, |batch| {
            Ok(batch.iter().try_for_each(|message| writer.write(&record(*service, message)))?)
        })
        .await?;
    }
    let (file, _) = writer.finish(OffsetDateTime::now_utc())?;
    Ok(file.into_inner().context("the evidence")?.sync_all()?)
}

/// Puts one stream together.
struct Merge<'k> {
    keys: &'k KeyRing,
    // Of the export: what stands at each sequence, and everything.
    marks: Vec<Mark>,
    known: HashSet<Mark>,
    // Last version and hash of each aggregate.
    chains: HashMap<String, (u32, String)>,
    plan: Plan,
    // The consumers, with how far each is in the live stream and in the mended one.
    readers: Vec<(Reader, u64)>,
}

impl<'k> Merge<'k> {
    fn new(keys: &'k KeyRing, service: Service, readers: Vec<Reader>) -> Self {
        let plan = Plan {
            service,
            exported: 0,
            kept: 0,
            mended: Vec::new(),
            mended_total: 0,
            dropped: Vec::new(),
            dropped_total: 0,
            renumbered_from: None,
        };
        let readers = readers.into_iter().map(|reader| (reader, 0)).collect();
        Merge { keys, marks: Vec::new(), known: HashSet::new(), chains: HashMap::new(), plan, readers }
    }

    async fn run<W: std::io::Write>(
        mut self,
        open: &Opened,
        from: &Path,
        writer: &mut Writer<'_, W>,
    ) -> anyhow::Result<(Plan, Vec<Reader>)> {
        let service = self.plan.service;
        for read in open_export(from)? {
            let record = read?;
            if record.service == service {
                self.exported(&record)?;
                writer.write(&record)?;
            }
        }
        self.readers.iter_mut().for_each(|(reader, floor)| *floor = reader.floor.min(self.plan.exported));
        // A stream that is gone altogether has no last message.
        let last = log::head(&open.house.js, service).await.map_or(0, |(_, last)| last);
        let mut next = 1;
        each(&open.house.js, service, 0, last, |batch| {
            for message in batch {
                (next..message.sequence).for_each(|missing| self.missing(missing));
                next = message.sequence + 1;
                if let Some(place) = self.live(message)? {
                    writer.write(&Record { sequence: place, ..record(service, message) })?;
                    let passed = self.readers.iter_mut().filter(|(reader, _)| reader.floor >= message.sequence);
                    passed.for_each(|(_, floor)| *floor = place);
                }
            }
            Ok(())
        })
        .await?;
        (next..=self.plan.exported).for_each(|missing| self.missing(missing));
        let readers = self.readers.into_iter().map(|(reader, floor)| Reader { floor, ..reader }).collect();
        Ok((self.plan, readers))
    }

    fn exported(&mut self, record: &Record) -> anyhow::Result<()> {
        let payload = record.payload.clone().into_bytes()?;
        let mark = mark(&record.subject, &payload);
        self.plan.exported = record.sequence;
        self.marks.push(mark);
        self.known.insert(mark);
        if let Some(last) = commit::decode(self.keys, &payload)?.pop() {
            self.chains.insert(record.subject.clone(), (last.event.aggregateversion, last.hash));
        }
        Ok(())
    }

    fn missing(&mut self, sequence: u64) {
        if sequence <= self.plan.exported {
            self.mended(sequence);
        }
    }

    fn mended(&mut self, sequence: u64) {
        self.plan.mended_total += 1;
        if self.plan.mended.len() < LISTED {
            self.plan.mended.push(sequence);
        }
    }

    // The place of a live message behind the export; none when it does not stay, or is in the export.
    fn live(&mut self, message: &LogMessage) -> anyhow::Result<Option<u64>> {
        let mark = mark(&message.subject, &message.payload);
        let index = usize::try_from(message.sequence - 1)?;
        let there = self.marks.get(index) == Some(&mark);
        if index < self.marks.len() && !there {
            self.mended(message.sequence);
        }
        if there {
            return Ok(None);
        }
        let reason = if self.known.contains(&mark) {
            Some("it is in the log already, at its own place".to_owned())
        } else {
            self.follow(message).err().map(|e| format!("{e:#}"))
        };
        if let Some(reason) = reason {
            self.plan.dropped_total += 1;
            if self.plan.dropped.len() < LISTED {
                let (sequence, subject) = (message.sequence, message.subject.clone());
                self.plan.dropped.push(Dropped { sequence, subject, reason });
            }
            return Ok(None);
        }
        self.known.insert(mark);
        self.plan.kept += 1;
        let place = self.plan.exported + self.plan.kept;
        if place != message.sequence && self.plan.renumbered_from.is_none() {
            self.plan.renumbered_from = Some(message.sequence);
        }
        Ok(Some(place))
    }

    // Takes a message into its aggregate's chain, if it goes on from it.
    fn follow(&mut self, message: &LogMessage) -> anyhow::Result<()> {
        let events = commit::decode(self.keys, &message.payload)?;
        let home = AggregateRef::of_subject(&message.subject);
        let mut chain = self.chains.get(&message.subject).cloned().unwrap_or_else(|| (0, GENESIS.to_owned()));
        for signed in events {
            let event = signed.event;
            if event.aggregate().ok() != home {
                bail!("an event of another aggregate");
            }
            if (event.aggregateversion, &event.prevhash) != (chain.0 + 1, &chain.1) {
                bail!("version {} does not follow from what stands before it", event.aggregateversion);
            }
            chain = (event.aggregateversion, signed.hash);
        }
        self.chains.insert(message.subject.clone(), chain);
        Ok(())
    }
}

fn mark(subject: &str, payload: &[u8]) -> Mark {
    Sha256::new().chain_update(subject).chain_update([0]).chain_update(payload).finalize().into()
}

fn show(config: &Config, plans: &[Plan], evidence: Option<&Path>) {
    if config.json {
        println!("{}", serde_json::json!({ "streams": plans, "applied": evidence.is_some(), "evidence": evidence }));
        return;
    }
    for plan in plans {
        let Plan { service, exported, kept, mended_total, dropped_total, .. } = plan;
        if !plan.changes() {
            println!("{service:<14} nothing to mend: {exported} messages as in the export, {kept} since");
            continue;
        }
        println!("{service:<14} {exported} messages from the export, {kept} of the live stream behind them stay");
        let listed: Vec<String> = plan.mended.iter().map(u64::to_string).collect();
        if *mended_total > 0 {
            let more = if *mended_total > listed.len() as u64 { ", …" } else { "" };
            println!("  {mended_total} differ or are missing and come back: {}{more}", listed.join(", "));
        }
        for dropped in &plan.dropped {
            println!("  dropped {service}:{} under {}: {}", dropped.sequence, dropped.subject, dropped.reason);
        }
        if *dropped_total > plan.dropped.len() as u64 {
            println!("  … and {} more", dropped_total - plan.dropped.len() as u64);
        }
        if let Some(from) = plan.renumbered_from {
            println!("  messages from {service}:{from} on move to lower sequences; read models are rebuilt");
        }
    }
    if let Some(evidence) = evidence {
        println!("\nMended and verified. The streams as they were: {}", evidence.display());
    }
}

/// Removes a file when it is dropped.
struct Staged(Option<PathBuf>);

impl Staged {
    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}
