//! What belongs to an organization and is found by its own id alone: a project, an application, a service, an entitlement.

use futures::future::BoxFuture;
use sqlx::PgConnection;
use symbia_commands::DomainCommand;
use symbia_events::{AggregateRef, OrgId};
use symbia_projections::{Scope, identity as model};

use super::{
    Identity,
    access::{Wants, address},
};
use crate::http::{ApiError, ApiResult, Caller, RequestScope};

/// A row of such a thing.
pub(super) trait Owned: Sized + Send {
    /// Kind of its aggregate.
    const KIND: &'static str;
    /// What errors call it.
    const NAME: &'static str;

    /// The row with an id.
    fn find<'c>(conn: &'c mut PgConnection, id: &'c str) -> BoxFuture<'c, Result<Option<Self>, sqlx::Error>>;

    /// Id of its organization.
    fn org(&self) -> &str;

    /// Its address; what cannot be an address does not exist.
    fn address(tenant: &OrgId, id: &str) -> ApiResult<AggregateRef> {
        address(tenant, Self::KIND, id, Self::NAME)
    }
}

macro_rules! owned {
    ($row:ty, $find:path, $kind:literal, $name:literal) => {
        impl Owned for $row {
            const KIND: &'static str = $kind;
            const NAME: &'static str = $name;

            fn find<'c>(conn: &'c mut PgConnection, id: &'c str) -> BoxFuture<'c, Result<Option<Self>, sqlx::Error>> {
                Box::pin($find(conn, id))
            }

            fn org(&self) -> &str {
                &self.org_id
            }
        }
    };
}

owned!(model::Project, model::project, "project", "Project");
owned!(model::Application, model::application, "application", "Application");
owned!(model::ProjectService, model::project_service, "project-service", "Service");
owned!(model::ScopedEntitlement, model::scoped_entitlement, "scoped-entitlement", "Entitlement");

/// A thing whose organization has let the caller in.
pub(super) struct Entered<T> {
    /// As it stands.
    pub(super) row: T,
    /// Where its commands go.
    pub(super) to: AggregateRef,
    /// What the caller may read there.
    pub(super) reading: Scope,
}

impl Identity {
    /// The row with an id, within a scope.
    ///
    /// # Errors
    /// 404 when there is none.
    pub(super) async fn found<T: Owned>(&self, reading: &Scope, id: &str) -> ApiResult<T> {
        let mut tx = self.platform.read(reading).await?;
        T::find(&mut tx, id).await?.ok_or_else(|| ApiError::not_found(T::NAME))
    }

    /// A thing, once its organization has let the caller in.
    ///
    /// # Errors
    /// 404 when there is no such thing, and those of [`Identity::enter`].
    pub(super) async fn owned<T: Owned>(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        id: &str,
        wants: Wants,
    ) -> ApiResult<Entered<T>> {
        caller.require_user()?;
        let row: T = self.found(&Scope::platform(), id).await?;
        let (tenant, reading) = self.enter(caller, scope, row.org(), wants).await?;
        Ok(Entered { to: T::address(&tenant, id)?, row, reading })
    }

    /// Has a thing made or changed, and gives it as it is then.
    pub(super) async fn changed<T: Owned>(
        &self,
        (to, reading): (&AggregateRef, &Scope),
        command: &impl DomainCommand,
        caller: &Caller,
        scope: &RequestScope,
    ) -> ApiResult<T> {
        self.carry_out(to, command, caller, scope).await?;
        self.found(reading, &to.id).await
    }
}
