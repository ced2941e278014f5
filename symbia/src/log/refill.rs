//! Filling event streams from an export: the one step that import and restore share, and that an interruption must not leave
//! half done.
//!
//! Before the first message moves, a marker in the data directory names the file with everything that shall stand in the
//! streams. While it is there no process starts on the log; `symbia log resume` does the whole step anew. A stream is filled
//! under subjects nobody else writes to, and gets its own only when it is complete.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail, ensure};
use async_nats::{
    HeaderMap,
    jetstream::{self, ErrorCode, context::DeleteStreamErrorKind, stream::SubjectTransform},
};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use serde_json::json;
use symbia_events::{
    Service,
    audit::{Verifier, export::Record},
    commit,
};
use symbia_nats::{
    log::{STORED_AT_HEADER, head},
    topology,
};
use symbia_projections::{Rebuilder, fixed_keys};
use time::format_description::well_known::Rfc3339;

use crate::{
    Ended,
    config::Config,
    home::{Home, replace},
    opened::Opened,
    projection, roles,
};

use super::{
    read::{each, message_of},
    reader::Reader,
    transfer::{open_export, verify_export},
};

/// Messages on their way at one time.
const IN_FLIGHT: usize = 256;

/// Where the messages come from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Content {
    /// A file of the user's, which stays.
    Given(PathBuf),
    /// A file of ours, removed at the end.
    Made(PathBuf),
}

impl Content {
    fn path(&self) -> &Path {
        match self {
            Content::Given(path) | Content::Made(path) => path,
        }
    }
}

/// What is to be filled, as the marker keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refill {
    content: Content,
    services: Vec<Service>,
    /// Who had got how far: a reactor must not act again on what it acted on.
    #[serde(default)]
    readers: Vec<Reader>,
}

fn marker(home: &Home) -> PathBuf {
    home.dir().join("refill.json")
}

/// Fails while an import or restore is unfinished: the log may be half there.
pub fn refuse_unfinished(home: &Home) -> anyhow::Result<()> {
    ensure!(
        !marker(home).exists(),
        "an import or restore of the log was interrupted: run `symbia log resume`, which finishes it"
    );
    Ok(())
}

/// `symbia log resume`.
pub async fn resume(config: &Config) -> Ended {
    let home = Home::open(config)?;
    let path = marker(&home);
    if !path.exists() {
        bail!("no import or restore was interrupted here");
    }
    let refill: Refill = serde_json::from_slice(&fs::read(&path)?).with_context(|| path.display().to_string())?;
    Opened::with(config, async |open| refill.finish(config, open).await).await?;
    if config.json {
        println!("{}", json!({ "resumed": refill.services }));
    } else {
        println!("finished: {} streams are whole and verified", refill.services.len());
    }
    Ok(ExitCode::SUCCESS)
}

impl Refill {
    /// The streams of these services from a verified export.
    pub fn new(content: Content, services: Vec<Service>, readers: Vec<Reader>) -> Self {
        Refill { content, services, readers }
    }

    /// Sets the marker: from here on it is finished, now or by `resume`.
    pub fn begin(&self, home: &Home) -> anyhow::Result<()> {
        replace(&marker(home), &serde_json::to_vec(self)?)
    }

    /// Replaces the streams, verifies them as they then stand, rebuilds what was folded from them, and takes the marker away.
    pub async fn finish(&self, config: &Config, open: &Opened) -> anyhow::Result<()> {
        verify_export(config, &open.house.keys, self.content.path())?;
        let bar = projection::bar(config);
        for service in &self.services {
            self.fill(config, open, *service, &bar).await.with_context(|| {
                format!("the log of {service} is not filled yet; `symbia log resume` begins it again, nothing is lost")
            })?;
        }
        bar.finish_and_clear();
        self.check(open).await?;
        self.refold(config, open).await?;
        fs::remove_file(marker(&open.home))?;
        if let Content::Made(path) = &self.content {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    async fn fill(&self, config: &Config, open: &Opened, service: Service, bar: &ProgressBar) -> anyhow::Result<()> {
        let js = &open.house.js;
        let end = topology::event_stream(service, config.replicas);
        delete(js, &end.name).await?;
        let staging = format!("symbia.fill.{service}.");
        let mut filling = end.clone();
        filling.subjects = vec![format!("{staging}>")];
        filling.subject_transform =
            Some(SubjectTransform { source: format!("{staging}>"), destination: format!("symbia.evt.{service}.>") });
        js.create_stream(filling).await?;
        let mut acks = VecDeque::new();
        let mut last = 0;
        for read in open_export(self.content.path())? {
            let record = read?;
            if record.service != service {
                continue;
            }
            last = record.sequence;
            acks.push_back((last, publish(js, &staging, record).await?));
            if acks.len() == IN_FLIGHT {
                stored(&mut acks).await?;
            }
            bar.inc(1);
        }
        while !acks.is_empty() {
            stored(&mut acks).await?;
        }
        ensure!(head(js, service).await?.1 == last, "the stream does not end at {last} as it should");
        js.update_stream(end).await?;
        for reader in self.readers.iter().filter(|r| r.service == service) {
            reader.put_back(js).await.with_context(|| format!("the consumer {:?}", reader.config.durable_name))?;
        }
        Ok(())
    }

    async fn check(&self, open: &Opened) -> anyhow::Result<()> {
        let mut verifier = Verifier::new(&open.house.keys);
        let mut export = open_export(self.content.path())?;
        for read in &mut export {
            read?;
        }
        let heads = export.heads().context("the export has no heads")?;
        heads.heads.iter().filter(|h| self.services.contains(&h.service)).for_each(|h| verifier.expect_head(h.clone()));
        for service in &self.services {
            let last = head(&open.house.js, *service).await?.1;
            each(&open.house.js, *service, 0, last, |batch| {
                verifier.feed(&batch.iter().map(|m| message_of(*service, m)).collect::<Vec<_>>());
                Ok(())
            })
            .await?;
        }
        let report = verifier.finish();
        match report.findings.first() {
            None => Ok(()),
            Some(finding) => bail!("the filled log does not verify ({}); run `symbia log resume`", finding.explanation),
        }
    }

    // Snapshots and read models may know messages that have another place now, or none.
    async fn refold(&self, config: &Config, open: &Opened) -> anyhow::Result<()> {
        match open.house.js.get_stream(topology::SNAPSHOTS).await {
            Ok(snapshots) => _ = snapshots.purge().await?,
            Err(error) => tracing::debug!(%error, "no snapshots to drop"),
        }
        // In a new data directory: tables and streams of everything else.
        roles::migrate_unmarked(config, &open.home, &open.house).await?;
        let secrets = roles::secrets(&open.home, &open.house).await?;
        let rebuilder = Rebuilder {
            pool: open.house.pool.clone(),
            jetstream: open.house.js.clone(),
            keys: fixed_keys(open.house.keys.as_ref().clone()),
        };
        for read_model in roles::projections(config, &secrets) {
            if read_model.services().iter().any(|service| self.services.contains(service)) {
                let bar = projection::bar(config);
                rebuilder.rebuild(read_model.as_ref(), &|p| projection::advance(&bar, p)).await?;
                bar.finish_and_clear();
            }
        }
        Ok(())
    }
}

async fn delete(js: &jetstream::Context, stream: &str) -> anyhow::Result<()> {
    let Err(error) = js.delete_stream(stream).await else { return Ok(()) };
    match error.kind() {
        DeleteStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(()),
        _ => Err(error.into()),
    }
}

type Ack = jetstream::context::PublishAckFuture;

async fn publish(js: &jetstream::Context, staging: &str, record: Record) -> anyhow::Result<Ack> {
    let Record { service, sequence, subject, message_id, stored_at, payload } = record;
    let payload = payload.into_bytes()?;
    let mut headers = HeaderMap::new();
    if let Some(id) = message_id {
        headers.insert("Nats-Msg-Id", id);
    }
    let batch = payload.first() == Some(&b'[');
    headers.insert("Content-Type", if batch { commit::CONTENT_TYPE_BATCH } else { commit::CONTENT_TYPE_ONE });
    headers.insert("Nats-Expected-Last-Sequence", (sequence - 1).to_string());
    headers.insert(STORED_AT_HEADER, stored_at.format(&Rfc3339)?);
    let own = format!("symbia.evt.{service}.");
    let rest = subject.strip_prefix(&own).with_context(|| format!("'{subject}' is no subject of {service}"))?;
    Ok(js.publish_with_headers(format!("{staging}{rest}"), headers, payload.into()).await?)
}

async fn stored(acks: &mut VecDeque<(u64, Ack)>) -> anyhow::Result<()> {
    let Some((wanted, ack)) = acks.pop_front() else { return Ok(()) };
    let ack = ack.await.with_context(|| format!("sequence {wanted}"))?;
    ensure!(ack.sequence == wanted, "the message for sequence {wanted} was stored at {}", ack.sequence);
    Ok(())
}
