//! Reading the log from the first message to the last, and finding single messages in it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::jetstream::Context;
use symbia_events::{
    AggregateRef, OrgId, Position, Service,
    audit::{Message, Seal, export},
    commit,
    logging::SealEvent,
};
use symbia_nats::{
    log::{self, LogError, LogMessage, LogReader},
    read,
};
use uuid::Uuid;

use crate::connect::Connected;

/// Subjects of the log's own seals.
pub const SEALS: &str = "symbia.evt.logging.global.seal.";
/// Messages at a time.
const BATCH: usize = 2000;
/// How long the log may be silent, while messages are known to be there.
const SILENCE: Duration = Duration::from_secs(30);

/// Last sequence of each stream that exists; of those asked for by name, a missing one is an error.
pub async fn extents(js: &Context, services: &[Service]) -> anyhow::Result<Vec<(Service, u64)>> {
    let all = services.is_empty();
    let mut extents = Vec::new();
    for service in if all { &Service::ALL } else { services } {
        extents.push((*service, log::head(js, *service).await?.1));
    }
    Ok(extents)
}

/// Messages in all streams.
pub fn total(extents: &[(Service, u64)]) -> u64 {
    extents.iter().map(|(_, last)| last).sum()
}

/// Gives what stands at `after + 1 ..= last`, in order, in batches. Gaps are left to whoever audits.
pub async fn each(
    js: &Context,
    service: Service,
    after: u64,
    last: u64,
    mut on: impl FnMut(&[LogMessage]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (first, _) = log::head(js, service).await?;
    if after >= last || first > last {
        return Ok(());
    }
    let mut reader = LogReader::open(js.clone(), service, after, Vec::new()).await?;
    while reader.position() < last {
        match reader.next_batch(BATCH, SILENCE).await {
            Ok(batch) if batch.is_empty() => bail!("the broker gives nothing behind {service}:{}", reader.position()),
            Ok(batch) => {
                let wanted = batch.partition_point(|m| m.sequence <= last);
                tokio::task::block_in_place(|| on(&batch[..wanted]))?;
                // The last messages of the stream are gone: nothing more will come.
                if reader.pending() == 0 {
                    return Ok(());
                }
            }
            Err(LogError::Gap { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A stored message as the verifier wants it.
pub fn message_of(service: Service, message: &LogMessage) -> Message<'_> {
    Message { service, sequence: message.sequence, subject: &message.subject, payload: &message.payload }
}

/// A stored message as a line of an export.
pub fn record(service: Service, message: &LogMessage) -> export::Record {
    export::Record {
        service,
        sequence: message.sequence,
        subject: message.subject.clone(),
        message_id: message.message_id.clone(),
        stored_at: message.stored_at,
        payload: export::Payload::new(message.payload.to_vec()),
    }
}

/// Every seal whose event verifies.
pub async fn seals(house: &Connected) -> anyhow::Result<Vec<Seal>> {
    let (mut seals, stream) = (Vec::new(), Service::Logging.event_stream());
    for service in Service::ALL {
        let aggregate = AggregateRef::new(Service::Logging, OrgId::global(), "seal", service.name())?;
        for stored in read::tail(&house.client, &stream, &aggregate.event_subject(), 1).await? {
            seals.extend(seals_in(house, &stored.payload));
        }
    }
    Ok(seals)
}

fn seals_in(house: &Connected, payload: &[u8]) -> Vec<Seal> {
    let events = commit::decode(&house.keys, payload).unwrap_or_default();
    let seal = |event: &symbia_events::Signed| {
        let SealEvent::LogSealed(sealed) = event.event.decode().ok()?;
        Seal::of(&sealed)
    };
    events.iter().filter_map(seal).collect()
}

/// A message with its stream.
pub struct Located {
    /// Whose stream.
    pub service: Service,
    /// The message.
    pub message: LogMessage,
    /// The event asked for, when it was asked for by id.
    pub event: Option<Uuid>,
}

/// The message at a position, or with an event's id.
pub async fn find(house: &Connected, what: &str) -> anyhow::Result<Located> {
    if let Ok(position) = what.parse::<Position>() {
        return at(&house.js, position).await;
    }
    let Ok(id) = what.parse::<Uuid>() else {
        bail!("'{what}' is neither a position like identity:12 nor the id of an event");
    };
    let needle = format!("\"id\":\"{id}\"");
    for (service, last) in extents(&house.js, &[]).await? {
        let mut found = None;
        each(&house.js, service, 0, last, |batch| {
            let holds = |m: &&LogMessage| m.payload.windows(needle.len()).any(|w| w == needle.as_bytes());
            let hits = batch.iter().filter(holds);
            // Data may quote the id of an event of another place: the event itself counts.
            found = found.take().or_else(|| hits.into_iter().find(|m| has_event(&m.payload, id)).cloned());
            Ok(())
        })
        .await?;
        if let Some(message) = found {
            return Ok(Located { service, message, event: Some(id) });
        }
    }
    bail!("no event {id} in the log")
}

async fn at(js: &Context, position: Position) -> anyhow::Result<Located> {
    let Position { service, sequence } = position;
    let (first, last) = log::head(js, service).await?;
    if sequence < first || sequence > last {
        bail!("there is no {position}: the log of {service} goes from {first} to {last}");
    }
    let mut found = None;
    each(js, service, sequence - 1, sequence, |batch| {
        found = batch.first().cloned();
        Ok(())
    })
    .await?;
    let message = found.with_context(|| format!("{position} is missing; run `symbia audit verify`"))?;
    Ok(Located { service, message, event: None })
}

fn has_event(payload: &[u8], id: Uuid) -> bool {
    #[derive(serde::Deserialize)]
    struct Id {
        id: Uuid,
    }
    let one = serde_json::from_slice::<Id>(payload).map(|one| vec![one]);
    one.or_else(|_| serde_json::from_slice::<Vec<Id>>(payload)).is_ok_and(|all| all.iter().any(|e| e.id == id))
}
