//! `/api/oauth`: linking accounts at other providers (integrations.md §5.5, §14). Tokens are got and kept by a worker; here are
//! the way there and back, and the lists.

mod clients;
mod connections;
mod flow;

use symbia_projections::{Scope, integrations as model};
use utoipa_axum::router::OpenApiRouter;

use super::{Integrations, registry::Reader};
use crate::http::{ApiError, ApiResult};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().merge(flow::routes()).merge(connections::routes()).merge(clients::routes())
}

/// Where people come back to, and are sent when nothing came of it.
#[derive(Clone, Debug, Default)]
pub struct LinkingOptions {
    /// Public address of this service; absent: that of its port.
    pub callback_base: Option<String>,
    /// Address of the user interface; absent: a page of our own says what happened.
    pub interface: Option<String>,
    /// The installation's own clients, for organizations that have none of theirs.
    pub own: model::OwnClients,
}

impl LinkingOptions {
    fn callback(&self) -> String {
        format!("{}/api/oauth/callback", self.callback_base.as_deref().unwrap_or_default().trim_end_matches('/'))
    }
}

impl Integrations {
    /// The client of an organization, else the installation's.
    async fn usable_oauth_client(&self, org: &str, provider: &str) -> ApiResult<Option<model::OauthClient>> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let found = model::oauth_client(&mut tx, org, provider).await?;
        Ok(found.or_else(|| self.linking.own.client(org, provider)))
    }

    async fn oauth_client(&self, reader: &Reader, provider: &str) -> ApiResult<Option<model::OauthClient>> {
        let mut tx = self.platform.read(&Scope::member(reader.org.clone(), &reader.user)).await?;
        Ok(model::oauth_client(&mut tx, reader.org.as_str(), provider).await?)
    }

    async fn oauth_connections(&self, reader: &Reader) -> ApiResult<Vec<model::OauthConnection>> {
        let mut tx = self.platform.read(&Scope::member(reader.org.clone(), &reader.user)).await?;
        Ok(model::oauth_connections(&mut tx, reader.org.as_str(), &reader.user).await?)
    }
}

fn refused(code: &'static str, text: impl Into<String>) -> ApiError {
    ApiError::new(axum::http::StatusCode::BAD_REQUEST, code, text.into())
}
