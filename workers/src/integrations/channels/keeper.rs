//! Makes and ends connections.
//!
//! Error policy: what the other side refuses, or does not do in time, is recorded, and whoever asked for it may ask again; what
//! the log or the vault keep from being done is tried again for ever. To tell a messenger twice where to call changes nothing.
use async_trait::async_trait;
use symbia_commands::integrations::{ChannelConnection, FailChannelConnect, RecordChannelConnected};
use symbia_events::{
    CommandId, Event, Position, Service,
    integrations::{ChannelConnectRequested, ChannelConnectionEvent, ChannelDisconnected},
};

use super::{Channels, line::Account};
use crate::reactor::{OnError, Reactor};

/// The reactor.
pub struct ChannelKeeper(Channels);

impl ChannelKeeper {
    /// Over what channels stand on.
    #[must_use]
    pub fn new(channels: Channels) -> Self {
        ChannelKeeper(channels)
    }

    async fn connect(&self, event: &Event, e: &ChannelConnectRequested) -> anyhow::Result<()> {
        let (channels, connection_id, attempt) = (&self.0, e.connection_id.clone(), e.attempt);
        let opened = match channels.line(Account::from(e)).await? {
            Ok(line) => channels.open(&line, e).await?,
            Err(refused) => Err(refused),
        };
        let id = CommandId::derived(event.id, "connected");
        match opened {
            Ok((account_id, account_name)) => {
                let connected = RecordChannelConnected { connection_id, attempt, account_id, account_name };
                channels.note(Some(event), &event.orgid, &e.connection_id, connected, id).await?;
                // The messenger has it now; its hash tells whether a call is one of theirs.
                if e.target_url.is_none() {
                    channels.0.secrets.destroy_secret(&e.secret_ref).await?;
                }
                Ok(())
            }
            Err(refused) => {
                tracing::info!(connection = connection_id, code = refused.code, "a channel is not connected");
                let failed = FailChannelConnect { connection_id, attempt, code: refused.code };
                channels.note(Some(event), &event.orgid, &e.connection_id, failed, id).await
            }
        }
    }

    // Best effort: with us it is over in any case.
    async fn disconnect(&self, event: &Event, e: &ChannelDisconnected) -> anyhow::Result<()> {
        let channels = &self.0;
        let state = channels.0.store.load::<ChannelConnection>(&event.aggregate()?).await?.state;
        if !state.is_over() {
            // It was made anew meanwhile.
            return Ok(());
        }
        if let Ok(line) = channels.line(Account::ended(event.orgid.as_str(), e)).await?
            && let Err(refused) = channels.close(&line).await
        {
            tracing::info!(connection = e.connection_id, code = refused.code, "a messenger is not told of the end");
        }
        channels.0.secrets.destroy_secret(&e.secret_ref).await?;
        Ok(())
    }
}

#[async_trait]
impl Reactor for ChannelKeeper {
    fn name(&self) -> &'static str {
        "channel-keeper"
    }

    fn follows(&self) -> Vec<(Service, &'static [&'static str])> {
        vec![(Service::Integrations, &["*.channel-connection.*"])]
    }

    fn acts_on(&self) -> &'static [&'static str] {
        &[
            "symbia.integrations.channel-connection.channel-connect-requested.",
            "symbia.integrations.channel-connection.channel-disconnected.",
        ]
    }

    fn on_error(&self) -> OnError {
        OnError::Retry
    }

    async fn react(&self, event: &Event, _at: Position) -> anyhow::Result<()> {
        match event.decode()? {
            ChannelConnectionEvent::ChannelConnectRequested(e) => self.connect(event, &e).await,
            ChannelConnectionEvent::ChannelDisconnected(e) => self.disconnect(event, &e).await,
            _ => Ok(()),
        }
    }
}
