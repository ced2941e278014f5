//! Showing in a chat that an answer is being thought about, as long as one is: messengers show it for some seconds and forget it.
//!
//! Error policy: what is not shown is not missed.

use std::time::Duration;

use symbia_events::OrgId;
use symbia_projections::{Scope, assistants, integrations::ChannelConnection};
use tokio::time::Instant;

use super::{Channels, line::Account};

/// So long before it is forgotten there it is shown again.
const BEFORE: Duration = Duration::from_secs(1);
/// How long the first run may take to begin, and how often it is looked.
const BEGINS: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(250);
/// The longest time for which it is shown.
const LONGEST: Duration = Duration::from_secs(600);
/// Runs of a conversation that are looked at: those that something sets off at once.
const RUNS: i64 = 16;

/// What has been said, and is to be answered.
pub(super) struct Said {
    pub connection: ChannelConnection,
    pub chat: String,
    pub conversation: String,
    pub message: String,
    /// Its id there.
    pub vendor_message: String,
}

impl Channels {
    /// Shows it, as long as a run that the message set off has not come to its end.
    pub(super) fn shows_typing(&self, said: Said) {
        let channels = self.clone();
        tokio::spawn(async move {
            if let Err(error) = channels.keeps_showing(&said).await {
                tracing::debug!(connection = said.connection.id, error = format!("{error:#}"), "no typing is shown");
            }
        });
    }

    async fn keeps_showing(&self, said: &Said) -> anyhow::Result<()> {
        let (begun, mut again) = (Instant::now(), Instant::now());
        while begun.elapsed() < LONGEST {
            if !self.is_answered(said, begun.elapsed() < BEGINS).await? {
                return Ok(());
            }
            if again <= Instant::now() {
                let Ok(line) = self.line(Account::from(&said.connection)).await? else { return Ok(()) };
                let Ok(Some(shown)) = line.shows_typing(&said.chat, &said.vendor_message).await else { return Ok(()) };
                again = Instant::now() + shown.saturating_sub(BEFORE).max(BEFORE);
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    // Whether a run of the message is under way; before there is one, as long as one may begin.
    async fn is_answered(&self, said: &Said, may_begin: bool) -> anyhow::Result<bool> {
        let org: OrgId = said.connection.org_id.parse()?;
        let mut tx = self.0.reader.read(&Scope::platform()).await?;
        let runs = assistants::rule_runs(&mut tx, org.as_str(), &said.conversation, RUNS).await?;
        let of_message: Vec<_> = runs.iter().filter(|run| run.message_id == said.message).collect();
        if of_message.is_empty() {
            return Ok(may_begin);
        }
        Ok(of_message.iter().any(|run| run.ended_at.is_none()))
    }
}
