//! Which targets are left alone (integrations.md §17.2), told to others: each process counts for itself ([`super::retry`]);
//! that a circuit opens or closes is an event, which the other processes hear.

use std::{sync::Arc, time::Duration};

use async_nats::Client;
use futures::StreamExt;
use symbia_commands::integrations::{CircuitCommand, CloseCircuit, OpenCircuit, circuit_id};
use symbia_events::{
    AggregateRef, CommandId, Event, KeyRing, OrgId, Service, commit,
    integrations::{CircuitEvent, ErrorCategory},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    provider::Fault,
    retry::{Circuits, Permit, RetryOptions},
    router::router,
};
use crate::sender::Sender;

const EVENTS: &str = "symbia.stored.integrations.*.circuit.*";

/// What a circuit is about: a model, asked with one key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    pub provider: &'a str,
    pub model: &'a str,
    /// None: the installation's own.
    pub credential: Option<&'a str>,
}

/// The circuits of all targets. Cheap to clone.
#[derive(Clone)]
pub(super) struct Lines {
    circuits: Circuits,
    sender: Sender,
    open_for: Duration,
}

/// Leave to ask a target. Dropped without a word, it counts as neither success nor failure.
pub(super) struct Leave<'a> {
    lines: &'a Lines,
    permit: Permit,
    line: Line<'a>,
    tenant: OrgId,
}

impl Lines {
    /// Counts from now on, and hears what others count.
    pub async fn open(
        client: &Client,
        keys: Arc<KeyRing>,
        sender: Sender,
        options: RetryOptions,
    ) -> Result<Self, async_nats::SubscribeError> {
        let (open_for, circuits) = (options.open_for, Circuits::new(options));
        let (mut events, known) = (client.subscribe(EVENTS).await?, circuits.clone());
        tokio::spawn(async move {
            while let Some(message) = events.next().await {
                for signed in commit::decode(&keys, &message.payload).unwrap_or_default() {
                    match signed.event.decode() {
                        Ok(CircuitEvent::ProviderCircuitOpened(e)) => known.opened(&e.circuit_id, e.failures),
                        Ok(CircuitEvent::ProviderCircuitClosed(e)) => known.closed(&e.circuit_id),
                        Ok(CircuitEvent::ProviderCircuitReset(e)) => known.closed(&e.circuit_id),
                        Err(_) => {}
                    }
                }
            }
        });
        Ok(Lines { circuits, sender, open_for })
    }

    /// Leave to ask for a request, or why not.
    pub fn admit<'a>(&'a self, event: &Event, line: Line<'a>) -> Result<Leave<'a>, Fault> {
        let permit = self.circuits.admit(&line.id()).map_err(|left| {
            let message = format!("provider '{}' failed several times in a row and is left alone", line.provider);
            let fault = Fault::new(ErrorCategory::Provider, "circuit_open", message);
            Fault { retry_after: Some(left), ..fault }
        })?;
        let tenant = if line.credential.is_some() { event.orgid.clone() } else { OrgId::global() };
        Ok(Leave { lines: self, permit, line, tenant })
    }
}

impl Line<'_> {
    fn id(&self) -> String {
        circuit_id(self.provider, self.model, self.credential)
    }
}

impl Leave<'_> {
    /// The target answered.
    pub async fn succeeded(self) {
        let Leave { lines, permit, line, tenant } = self;
        if permit.succeeded() {
            lines.record(tenant, &line.id(), CloseCircuit { circuit_id: line.id() }.into()).await;
        }
    }

    /// It did not.
    pub async fn failed(self, category: ErrorCategory) {
        let Leave { lines, permit, line, tenant } = self;
        let Some(failures) = permit.failed(category) else { return };
        let Line { provider, model, credential } = line;
        tracing::warn!(provider, model, failures, ?category, "circuit opened");
        let until = (OffsetDateTime::now_utc() + lines.open_for).format(&Rfc3339);
        let open = OpenCircuit {
            circuit_id: line.id(),
            provider: provider.to_owned(),
            model: model.to_owned(),
            credential_id: credential.map(str::to_owned),
            failures,
            last_category: category,
            open_until: until.unwrap_or_default(),
        };
        lines.record(tenant, &line.id(), open.into()).await;
    }
}

impl Lines {
    // What is not recorded is known here all the same.
    async fn record(&self, tenant: OrgId, id: &str, command: CircuitCommand) {
        let Ok(to) = AggregateRef::new(Service::Integrations, tenant, "circuit", id) else { return };
        match self.sender.send(None, &to, &command, &router(), CommandId::random()).await {
            Ok(outcome) if outcome.rejection.is_none() => {}
            Ok(outcome) => tracing::warn!(%to, rejection = ?outcome.rejection, "a circuit is not recorded"),
            Err(error) => tracing::warn!(%to, %error, "a circuit is not recorded"),
        }
    }
}
