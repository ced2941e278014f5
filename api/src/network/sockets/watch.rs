//! Who watches the mesh, and what for: each subscription is told each event that it asks for once, through a buffer of its own
//! that forgets the oldest when its client is slow (network.md §8.11).

use std::{collections::VecDeque, sync::Arc};

use serde::Deserialize;
use serde_json::{Value, json};
use socketioxide::extract::SocketRef;
use symbia_commands::network::covers;

use super::super::metrics;
use crate::socket::{NotSent, emit};

/// Events that wait for a slow client.
const WAITING_MAX: usize = 256;

/// What a subscription asks for: everything that all of these fit.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Filter {
    #[serde(default)]
    run_id: Option<String>,
    #[serde(default)]
    source: Option<String>,
    /// A name, or a prefix like `message.*`.
    #[serde(default)]
    event_type: Option<String>,
    /// That of the trace.
    #[serde(default)]
    status: Option<String>,
}

/// An event with its trace, as those who watch are told.
pub(super) struct Seen {
    pub event: Value,
    pub trace: Value,
}

impl Filter {
    pub fn fits(&self, seen: &Seen) -> bool {
        let is = |wanted: &Option<String>, value: &Value| {
            wanted.as_ref().is_none_or(|wanted| value.as_str() == Some(wanted.as_str()))
        };
        let event_type = seen.event["payload"]["type"].as_str().unwrap_or_default();
        is(&self.run_id, &seen.event["wrapper"]["runId"])
            && is(&self.source, &seen.event["wrapper"]["source"])
            && is(&self.status, &seen.trace["status"])
            && self.event_type.as_ref().is_none_or(|pattern| covers(pattern, event_type))
    }
}

/// A subscription.
pub(super) struct Watch {
    pub id: String,
    filter: Filter,
    waiting: VecDeque<Arc<Seen>>,
    dropped: u64,
}

impl Drop for Watch {
    fn drop(&mut self) {
        metrics::unsubscribed();
    }
}

impl Watch {
    pub fn new(id: String, filter: Filter) -> Self {
        metrics::subscribed();
        Watch { id, filter, waiting: VecDeque::new(), dropped: 0 }
    }

    /// Takes an event that fits.
    pub fn push(&mut self, seen: &Arc<Seen>) {
        if !self.filter.fits(seen) {
            return;
        }
        if self.waiting.len() == WAITING_MAX {
            self.waiting.pop_front();
            self.dropped += 1;
        }
        self.waiting.push_back(Arc::clone(seen));
    }

    /// Tells what waits, as far as the client takes it.
    pub fn flush(&mut self, socket: &SocketRef) -> Result<(), NotSent> {
        if self.dropped > 0 {
            emit(socket, "sdn:lag", &json!({ "subscriptionId": self.id, "dropped": self.dropped }))?;
            self.dropped = 0;
        }
        while let Some(seen) = self.waiting.front() {
            let told = json!({ "event": seen.event, "trace": seen.trace, "subscriptionId": self.id });
            emit(socket, "sdn:event", &told)?;
            self.waiting.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(run: &str) -> Arc<Seen> {
        let event = json!({ "payload": { "type": "message.new" }, "wrapper": { "runId": run, "source": "a" } });
        Arc::new(Seen { event, trace: json!({ "status": "delivered" }) })
    }

    #[test]
    fn a_filter_compares_and_knows_prefixes() {
        let fits = |filter: Value| serde_json::from_value::<Filter>(filter).unwrap().fits(&seen("r"));
        for (filter, expected) in [
            (json!({}), true),
            (json!({ "runId": "r", "source": "a", "eventType": "message.new", "status": "delivered" }), true),
            (json!({ "eventType": "message.*" }), true),
            (json!({ "eventType": "message" }), false),
            (json!({ "runId": "x" }), false),
            (json!({ "status": "dropped" }), false),
        ] {
            assert_eq!(fits(filter.clone()), expected, "{filter}");
        }
    }

    #[test]
    fn a_full_buffer_forgets_the_oldest_and_counts() {
        let mut watch = Watch::new("w".into(), Filter::default());
        for at in 0..WAITING_MAX + 3 {
            watch.push(&seen(&at.to_string()));
        }
        assert_eq!((watch.waiting.len(), watch.dropped), (WAITING_MAX, 3));
        assert_eq!(watch.waiting[0].event["wrapper"]["runId"], "3");
    }
}
