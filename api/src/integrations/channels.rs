//! `/api/integrations/channels` (integrations.md §15.1): connections to messengers, what they tell, and saying something there.
//! Tokens are lent to the channel workers alone; here are the organization's connections and the door that messengers knock at.

mod connecting;
mod connections;
mod door;
mod kinds;
mod sending;

use symbia_commands::integrations::ChannelConnectionCommand;
use symbia_events::{AggregateRef, Service};
use symbia_projections::{Scope, integrations as model};
use utoipa_axum::router::OpenApiRouter;

use self::kinds::Kind;
use super::{Integrations, registry::Reader};
use crate::http::{ApiError, ApiResult};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new()
        .merge(kinds::routes())
        .merge(connections::routes())
        .merge(connecting::routes())
        .merge(sending::routes())
        .merge(door::routes())
}

/// How messengers are connected.
#[derive(Clone, Debug, Default)]
pub struct ChannelOptions {
    /// Public address of this service, which messengers call; absent: that of its port.
    pub webhook_base: Option<String>,
    /// Messengers are asked, unless a connection says otherwise: for installations that nobody can call.
    pub polling: bool,
}

fn no_connection() -> ApiError {
    ApiError::not_found("Connection")
}

impl Integrations {
    // Another organization's is not there.
    async fn channel(&self, reader: &Reader, kind: Kind, id: &str) -> ApiResult<model::ChannelConnection> {
        let mut tx = self.platform.read(&Scope::member(reader.org.clone(), &reader.user)).await?;
        let found = model::channel_connection(&mut tx, id).await?;
        let is_it = |c: &model::ChannelConnection| c.org_id == reader.org.as_str() && c.channel_type == kind.name();
        found.filter(is_it).ok_or_else(no_connection)
    }

    fn channel_address(reader: &Reader, id: &str) -> ApiResult<AggregateRef> {
        let address = AggregateRef::new(Service::Integrations, reader.org.clone(), "channel-connection", id);
        address.map_err(|_| no_connection())
    }
}

fn with_status(error: ApiError) -> ApiError {
    match error.code() {
        "CHANNEL_CONNECTED" => error.with_status(axum::http::StatusCode::CONFLICT),
        _ => error,
    }
}

// One spelling of what all of them do.
fn command(command: impl Into<ChannelConnectionCommand>) -> ChannelConnectionCommand {
    command.into()
}
