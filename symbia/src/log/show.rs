//! `symbia log show`: one message, event or aggregate, and whether it can be believed.

use std::{process::ExitCode, sync::Arc};

use serde_json::{json, value::RawValue};
use symbia_events::{AggregateRef, Event, KeyRing, Service, verify};
use symbia_nats::{log::LogMessage, read};
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::{Ended, command::address, config::Config, exit, opened::Opened};

use super::read::find;

/// One event of a message, or what stands in its place.
pub struct Entry {
    /// The event, when it can be read.
    pub event: Option<Arc<Event>>,
    /// The bytes.
    pub text: String,
    /// Why it must not be believed.
    pub doubt: Option<String>,
}

impl Entry {
    /// The events of a message, each judged for itself.
    pub fn all(keys: &KeyRing, subject: &str, payload: &[u8]) -> Vec<Self> {
        let batch = serde_json::from_slice::<Vec<&RawValue>>(payload);
        match batch {
            Ok(events) if !events.is_empty() => {
                events.iter().map(|e| Self::one(keys, subject, e.get().as_bytes())).collect()
            }
            _ => vec![Self::one(keys, subject, payload)],
        }
    }

    fn one(keys: &KeyRing, subject: &str, bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        match verify(keys, bytes) {
            Ok(signed) => {
                let own = signed.event.aggregate().ok();
                let away = own.is_none() || own != AggregateRef::of_subject(subject);
                let doubt = away.then(|| format!("it is an event of another aggregate than {subject}"));
                Entry { event: Some(signed.event), text, doubt }
            }
            Err(error) => Entry { event: serde_json::from_slice(bytes).ok(), text, doubt: Some(error.to_string()) },
        }
    }

    /// As JSON.
    pub fn json(&self, position: &str, subject: &str, stored_at: Option<&str>) -> serde_json::Value {
        json!({
            "position": position,
            "subject": subject,
            "storedAt": stored_at,
            "verified": self.doubt.is_none(),
            "reason": self.doubt,
            "event": serde_json::from_str::<serde_json::Value>(&self.text).unwrap_or_else(|_| json!(self.text)),
        })
    }
}

/// Runs the subcommand.
pub async fn run(config: &Config, open: &Opened, what: &str) -> Ended {
    if what.contains('/') {
        return aggregate(config, open, &address(what)?).await;
    }
    let found = find(&open.house, what).await?;
    let LogMessage { sequence, subject, payload, stored_at, .. } = &found.message;
    let stored_at = stored_at.format(&Rfc3339)?;
    Ok(print(config, open, (found.service, *sequence), subject, payload, Some(&stored_at), found.event))
}

async fn aggregate(config: &Config, open: &Opened, aggregate: &AggregateRef) -> Ended {
    let subject = aggregate.event_subject();
    let stored = read::tail(&open.house.client, &aggregate.service.event_stream(), &subject, 1).await?;
    if stored.is_empty() {
        anyhow::bail!("there are no events of {aggregate}");
    }
    let mut worst = ExitCode::SUCCESS;
    for message in stored {
        let code = print(config, open, (aggregate.service, message.sequence), &subject, &message.payload, None, None);
        if code != ExitCode::SUCCESS {
            worst = code;
        }
    }
    Ok(worst)
}

fn print(
    config: &Config,
    open: &Opened,
    (service, sequence): (Service, u64),
    subject: &str,
    payload: &[u8],
    stored_at: Option<&str>,
    only: Option<Uuid>,
) -> ExitCode {
    let position = format!("{service}:{sequence}");
    let mut entries = Entry::all(&open.house.keys, subject, payload);
    if let Some(id) = only {
        entries.retain(|entry| entry.event.as_ref().is_some_and(|e| e.id == id));
    }
    let sound = entries.iter().all(|entry| entry.doubt.is_none());
    for entry in entries {
        if config.json {
            println!("{}", entry.json(&position, subject, stored_at));
            continue;
        }
        let verdict = match (&entry.doubt, &entry.event) {
            (None, Some(event)) => format!("verified ({})", event.hmackid),
            (doubt, _) => format!("NOT TO BE BELIEVED: {}", doubt.as_deref().unwrap_or("no event")),
        };
        println!("position   {position}\nsubject    {subject}");
        if let Some(stored_at) = stored_at {
            println!("stored at  {stored_at}");
        }
        println!("signature  {verdict}");
        let value = serde_json::from_str::<serde_json::Value>(&entry.text).ok();
        println!("{}\n", value.map_or(entry.text, |v| format!("{v:#}")));
    }
    ExitCode::from(if sound { 0 } else { exit::FOUND })
}
