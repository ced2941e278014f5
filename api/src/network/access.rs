//! Who may do what on which mesh, and what refusals mean over HTTP (network.md §5).

use axum::http::StatusCode;
use symbia_commands::{Actor, DomainCommand, network::may};
use symbia_events::{AggregateRef, OrgId, Service, SubjectKey, network::mesh_key_id};
use symbia_projections::{Scope, network as model, secrets::SecretError};

use super::Network;
use crate::{
    http::{ApiError, ApiResult, Caller, RequestScope},
    platform::Done,
};

/// The mesh that a request is about, and who asks.
pub(super) struct Place {
    pub org: OrgId,
    pub actor: Actor,
    pub reading: Scope,
}

impl Place {
    /// Whether the caller has a capability here.
    pub fn may(&self, capability: &str) -> bool {
        may(&self.actor, self.org.as_str(), capability)
    }
}

pub(super) fn no_node() -> ApiError {
    ApiError::not_found("Node")
}

pub(super) fn no_event() -> ApiError {
    ApiError::not_found("Event")
}

pub(super) fn forbidden(code: &'static str, message: &'static str) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, code, message)
}

/// Statuses of the codes that only this service has; and a right that an aggregate misses is named as the edge names it.
pub(super) fn with_status(error: ApiError) -> ApiError {
    if error.code() == "MISSING_CAPABILITY" {
        let named = error.message().split('\'').nth(1).unwrap_or_default().to_owned();
        return error.with_extra("requiredPermission", named);
    }
    let status = match error.code() {
        "NODE_OWNED" | "AGENT_ID_MISMATCH" => StatusCode::FORBIDDEN,
        "VERSION_CONFLICT" | "EVENT_ID_CONFLICT" => StatusCode::CONFLICT,
        "TOO_LARGE" => StatusCode::PAYLOAD_TOO_LARGE,
        _ => return error,
    };
    error.with_status(status)
}

/// The address of an aggregate of a mesh.
pub(super) fn address(org: &OrgId, kind: &str, id: &str) -> ApiResult<AggregateRef> {
    let invalid = |_| ApiError::invalid("id", "format", "must have 1 to 128 of A-Z a-z 0-9 _ - : @ =");
    AggregateRef::new(Service::Network, org.clone(), kind, id).map_err(invalid)
}

impl Network {
    /// The mesh of the organization that the caller acts in.
    ///
    /// # Errors
    /// 403 for an organization that the caller has no access to, also when there is none such.
    pub(super) fn place(&self, caller: &Caller, scope: &RequestScope) -> ApiResult<Place> {
        let org: OrgId = caller.org(scope)?.parse().map_err(|_| ApiError::org_access_denied())?;
        let reading = Scope::member(org.clone(), &caller.id);
        Ok(Place { org, actor: Actor::from(&**caller), reading })
    }

    /// The same for who has a capability there.
    ///
    /// # Errors
    /// Those of [`Network::place`]; 403 MISSING_CAPABILITY.
    pub(super) fn place_for(&self, caller: &Caller, scope: &RequestScope, capability: &str) -> ApiResult<Place> {
        let place = self.place(caller, scope)?;
        if place.may(capability) {
            return Ok(place);
        }
        Err(self.refused(&place, capability, None, ApiError::missing_capability(capability)))
    }

    /// Sends a command in the caller's name and waits until its events show.
    pub(super) async fn submit(
        &self,
        place: &Place,
        address: &AggregateRef,
        command: &impl DomainCommand,
        scope: &RequestScope,
    ) -> ApiResult<Done> {
        let claimed = (address.kind == "node").then_some(address.id.as_str());
        let done = self.platform.submit(address, command, &place.actor, scope).await.map_err(with_status);
        done.map_err(|error| self.refused(place, command.command_type(), claimed, error))
    }

    /// Has one thing of the mesh done that answers nothing, for who has a capability there, if one is needed.
    ///
    /// # Errors
    /// Those of [`Network::place_for`]; the command's rejection.
    pub(super) async fn act<C: DomainCommand>(
        &self,
        (caller, scope): (&Caller, &RequestScope),
        capability: Option<&str>,
        (kind, id): (&str, &str),
        command: impl FnOnce(&OrgId) -> C,
    ) -> ApiResult<()> {
        let place = match capability {
            Some(capability) => self.place_for(caller, scope, capability)?,
            None => self.place(caller, scope)?,
        };
        self.submit(&place, &address(&place.org, kind, id)?, &command(&place.org), scope).await?;
        Ok(())
    }

    /// A node of the mesh.
    ///
    /// # Errors
    /// 404 when there is none such.
    pub(super) async fn node(&self, place: &Place, id: &str) -> ApiResult<model::Node> {
        let mut tx = self.platform.read(&place.reading).await?;
        model::node(&mut tx, place.org.as_str(), id).await?.ok_or_else(no_node)
    }

    /// A node that the caller owns, or manages.
    ///
    /// # Errors
    /// 404 when there is none such; 403 NODE_OWNED when it is another's.
    pub(super) async fn own_node(&self, place: &Place, id: &str) -> ApiResult<model::Node> {
        let node = self.node(place, id).await?;
        if node.owner_id == place.actor.subject() || place.may(symbia_commands::network::NODES_ADMIN) {
            return Ok(node);
        }
        Err(self.anothers(place, id, "The node belongs to somebody else"))
    }

    /// The refusal of what is a node's, to who does not own it.
    pub(super) fn anothers(&self, place: &Place, id: &str, message: &'static str) -> ApiError {
        self.refused(place, "node", Some(id), forbidden("NODE_OWNED", message))
    }

    /// Refuses whoever does not own the source of an event.
    pub(super) fn owned_source(place: &Place, owner: Option<&str>) -> ApiResult<()> {
        match owner {
            None => {
                let text = "source: the node is not registered";
                Err(ApiError::new(StatusCode::BAD_REQUEST, "SOURCE_UNKNOWN", text))
            }
            Some(owner) if owner == place.actor.subject() => Ok(()),
            Some(_) => {
                tracing::warn!(principal = %place.actor.id, org = %place.org, "an event in another's name is refused");
                Err(forbidden("SOURCE_NOT_OWNED", "Only the owner of a node sends as it"))
            }
        }
    }

    /// The key that seals what the mesh's events carry, made when it is first needed.
    pub(super) async fn mesh_key(&self, org: &OrgId) -> ApiResult<SubjectKey> {
        let (secrets, kid) = (&self.platform.secrets, mesh_key_id(org.as_str()));
        let gone = || ApiError::new(StatusCode::GONE, "MESH_ERASED", "What this mesh carried was erased");
        if let Some(key) = secrets.subject_key(&kid).await? {
            return Ok(key);
        }
        let key = SubjectKey::generate(&kid);
        match secrets.put_subject_key(&key).await {
            Ok(()) => Ok(key),
            // Another request at the same time.
            Err(SecretError::Taken(_)) => secrets.subject_key(&kid).await?.ok_or_else(gone),
            Err(SecretError::Destroyed(_)) => Err(gone()),
            Err(error) => Err(error.into()),
        }
    }

    /// The same, for reading: none when nothing was sealed yet, or it was destroyed.
    pub(super) async fn reading_key(&self, org: &OrgId) -> ApiResult<Option<SubjectKey>> {
        Ok(self.platform.secrets.subject_key(&mesh_key_id(org.as_str())).await?)
    }
}
