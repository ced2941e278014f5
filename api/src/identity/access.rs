//! Who may enter an organization, and for what. Roles are looked up live; the aggregates decide once more. An operator who
//! does not belong there says why in `X-Access-Reason`, and that is recorded before anything is shown or done.

use symbia_commands::{
    Actor, DomainCommand,
    identity::{OrganizationCommand, RecordAccess},
};
use symbia_events::{AggregateRef, CommandId, OrgId, Service};
use symbia_projections::Scope;

use super::{Identity, orgs};
use crate::{
    http::{ApiError, ApiResult, Caller, RequestScope},
    platform::{Consistency, Done},
};

/// What a caller wants of an organization (identity.md §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// Members of every role.
    Read,
    /// Members and admins.
    Write,
    /// Admins.
    Administer,
}

/// The address of a thing of identity's; what cannot be an address does not exist.
pub(super) fn address(tenant: &OrgId, kind: &str, id: &str, what: &str) -> ApiResult<AggregateRef> {
    AggregateRef::new(Service::Identity, tenant.clone(), kind, id).map_err(|_| ApiError::not_found(what))
}

/// The same for what belongs to an organization or to none.
pub(super) fn owned_address(org: Option<&str>, kind: &str, id: &str, what: &str) -> ApiResult<AggregateRef> {
    let tenant = org.map_or_else(|| Ok(OrgId::global()), str::parse).map_err(|_| ApiError::not_found(what))?;
    address(&tenant, kind, id, what)
}

impl Identity {
    /// Lets a caller into an organization, and gives the scope to read there.
    ///
    /// # Errors
    /// 404 when there is no such organization, 403 when the caller does not belong to it or has not the role.
    pub(super) async fn enter(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        org: &str,
        wants: Wants,
    ) -> ApiResult<(OrgId, Scope)> {
        caller.require_user()?;
        let tenant: OrgId = org.parse().map_err(|_| ApiError::not_found("Organization"))?;
        match (caller.role_in(org), wants) {
            (None, _) if caller.is_super_admin => self.break_in(caller, scope, org).await?,
            (None, _) => _ = self.role_in(caller, org).await?,
            (Some("admin"), _) | (Some("member"), Wants::Read | Wants::Write) | (Some(_), Wants::Read) => {}
            (Some(_), Wants::Write) => return Err(ApiError::insufficient_role("member")),
            (Some(_), Wants::Administer) => return Err(ApiError::insufficient_role("admin")),
        }
        let reading = Scope::member(tenant.clone(), &caller.id);
        Ok((tenant, reading))
    }

    async fn break_in(&self, caller: &Caller, scope: &RequestScope, org: &str) -> ApiResult<()> {
        let Some(reason) = scope.access_reason.clone() else {
            // Tells apart what exists, as for anybody else.
            let refused = self.role_in(caller, org).await.err().unwrap_or_else(ApiError::org_access_denied);
            return Err(match refused.code() {
                "ORG_ACCESS_DENIED" => ApiError::access_reason_required(),
                _ => refused,
            });
        };
        let (org_id, operation) = (org.to_owned(), scope.operation.clone());
        let command = OrganizationCommand::from(RecordAccess { org_id, operation, reason });
        let (id, actor) = (CommandId::random(), Actor::from(&**caller));
        let to = orgs::aggregate(org)?;
        let recorded = self.platform.submit_as(id, &to, &command, &actor, scope, Consistency::Eventual).await;
        recorded.map_err(|error| match error.code() {
            "NOT_FOUND" => ApiError::not_found("Organization"),
            _ => error,
        })?;
        Ok(())
    }

    /// Sends one of a request's commands, by its caller; its id derives from the request and the kind of command.
    pub(super) async fn carry_out(
        &self,
        to: &AggregateRef,
        command: &impl DomainCommand,
        caller: &Caller,
        scope: &RequestScope,
    ) -> ApiResult<Done> {
        self.carry_out_as(to, command, &Actor::from(&**caller), caller, scope).await
    }

    /// The same in the name of somebody else: the service itself, on the caller's behalf.
    pub(super) async fn carry_out_as(
        &self,
        to: &AggregateRef,
        command: &impl DomainCommand,
        actor: &Actor,
        caller: &Caller,
        scope: &RequestScope,
    ) -> ApiResult<Done> {
        let first = scope.command_id(&caller.id);
        let id = CommandId::derived(first, &format!("{} {to}", command.command_type()));
        self.platform.submit_as(id, to, command, actor, scope, Consistency::Visible).await
    }
}

/// The identity service, acting for a caller.
pub(super) fn edge_for(caller: &Caller) -> Actor {
    Actor { on_behalf_of: Some(caller.id.clone()), ..Actor::service("identity") }
}
