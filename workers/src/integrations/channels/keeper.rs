//! Makes and ends connections.
//!
//! Error policy: what the other side refuses, or does not do in time, is recorded, and whoever asked for it may ask again; what
//! the log or the vault keep from being done is tried again for ever. To tell a messenger twice where to call changes nothing.

use async_trait::async_trait;
use symbia_commands::integrations::{ChannelConnection, DISCORD, FailChannelConnect, RecordChannelConnected, TELEGRAM};
use symbia_events::{
    CommandId, Event, Position, Service,
    integrations::{ChannelConnectRequested, ChannelConnectionEvent, ChannelDisconnected},
};

use super::{
    Channels,
    line::Account,
    messenger::{Opening, SpeaksAs},
};
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
        let secret = channels.0.secrets.secret(&e.secret_ref).await?;
        let how = Opening {
            mode: e.mode,
            webhook_url: &e.webhook_url,
            secret: secret.as_ref(),
            drop_pending_updates: e.drop_pending_updates,
        };
        let opened = match channels.line(Account::from(e)).await? {
            Ok(line) => line.open(&how).await,
            Err(refused) => Err(refused),
        };
        let id = CommandId::derived(event.id, "connected");
        match opened {
            Ok(SpeaksAs { id: account_id, name: account_name }) => {
                let connected = RecordChannelConnected { connection_id, attempt, account_id, account_name };
                channels.note(Some(event), &event.orgid, &e.connection_id, connected, id).await?;
                // Telegram has it now; its hash tells whether a call is one of theirs. Discord never calls. Others sign with it.
                if [TELEGRAM, DISCORD].contains(&e.channel_type.as_str()) {
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
            && let Err(refused) = line.close().await
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
