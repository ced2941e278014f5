//! Proofs that one event is in a sealed stretch of the log.

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context, bail};
use serde_json::json;
use symbia_events::{
    AggregateRef, OrgId, Position, Service, Signed,
    audit::{self, Proof, Seal},
    commit,
    logging::SealEvent,
};
use symbia_nats::read;

use crate::{
    Ended,
    config::Config,
    connect::Connected,
    exit,
    home::Home,
    log::{each, find, message_of},
    opened::Opened,
    projection,
};

/// `symbia audit prove`.
pub async fn prove(config: &Config, open: &Opened, what: &str, out: Option<&Path>) -> Ended {
    let house = &open.house;
    let found = find(house, what).await?;
    let (service, sequence) = (found.service, found.message.sequence);
    let position = Position { service, sequence };
    let mut events = commit::decode(&house.keys, &found.message.payload)
        .with_context(|| format!("{position} cannot be believed; run `symbia audit verify`"))?;
    if let Some(id) = found.event {
        events.retain(|e| e.event.id == id);
    }
    let [event] = events.as_slice() else {
        let ids: Vec<String> = events.iter().map(|e| e.event.id.to_string()).collect();
        bail!("{position} holds {} events: give the id of one ({})", ids.len(), ids.join(", "));
    };
    let Some((seal, sealed)) = seal_over(house, position).await? else {
        bail!("{position} is not sealed yet: `symbia audit seal` seals it now, the sealer does within the hour");
    };
    let bar = projection::bar(config);
    bar.set_length(seal.to - seal.from + 1);
    let mut leaves = Vec::new();
    each(&house.js, service, seal.from - 1, seal.to, |batch| {
        batch.iter().for_each(|m| leaves.extend(audit::leaves(&house.keys, &message_of(service, m))));
        bar.inc(batch.len() as u64);
        Ok(())
    })
    .await?;
    bar.finish_and_clear();
    let proof = Proof::new(event, &leaves, &sealed)?;
    proof.check(&house.keys).context("the log is not what was sealed; run `symbia audit verify`")?;
    super::write(out, &serde_json::to_string_pretty(&proof)?)?;
    Ok(ExitCode::SUCCESS)
}

async fn seal_over(house: &Connected, position: Position) -> anyhow::Result<Option<(Seal, Signed)>> {
    let aggregate = AggregateRef::new(Service::Logging, OrgId::global(), "seal", position.service.name())?;
    let stream = Service::Logging.event_stream();
    for stored in read::tail(&house.client, &stream, &aggregate.event_subject(), 1).await? {
        for event in commit::decode(&house.keys, &stored.payload).unwrap_or_default() {
            let Ok(SealEvent::LogSealed(sealed)) = event.event.decode() else { continue };
            let seal = Seal::of(&sealed).filter(|s| (s.from..=s.to).contains(&position.sequence));
            if let Some(seal) = seal {
                return Ok(Some((seal, event)));
            }
        }
    }
    Ok(None)
}

/// `symbia audit check-proof`: needs nothing but the key ring.
pub fn check(config: &Config, path: &Path) -> Ended {
    let named = || path.display().to_string();
    let keys = Home::open(config)?.key_ring()?;
    let proof: Proof = serde_json::from_slice(&fs::read(path).with_context(named)?)
        .with_context(|| format!("{}: this is no proof", path.display()))?;
    match proof.check(&keys) {
        Ok(proved) => {
            let (event, seal) = (&proved.event.event, &proved.seal);
            if config.json {
                println!(
                    "{}",
                    json!({ "holds": true, "event": event.id, "type": event.event_type, "service": seal.service, "from": seal.from, "to": seal.to })
                );
            } else {
                println!(
                    "the proof holds: event {} ({}) is among the {} events of {} {} to {}",
                    event.id, event.event_type, seal.events, seal.service, seal.from, seal.to
                );
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            if config.json {
                println!("{}", json!({ "holds": false, "reason": error.to_string() }));
            } else {
                println!("THE PROOF DOES NOT HOLD: {error}");
            }
            Ok(ExitCode::from(exit::FOUND))
        }
    }
}
