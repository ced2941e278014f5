//! The entity directory: reading, resolving and writing its entries (identity.md §6.11, 7).

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use symbia_commands::{
    Actor, DomainCommand,
    identity::{ChangeEntityStatus, ENTITY_STATUSES, EntityCommand, RegisterEntity, RetireEntity, UpdateEntity},
};
use symbia_events::{AggregateRef, CommandId, OrgId};
use symbia_projections::{Scope, identity as model};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::{
    Identity,
    access::owned_address,
    accounts::Ids,
    agent_auth::check_metadata,
    shapes::{Msg, iso},
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, Validation, routes},
    platform::Consistency,
};

/// Lets its holder read the entries of all organizations (identity.md §7.1).
const READ_ALL: &str = "cap:identity.directory.read-all";

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(list, register)).routes(routes!(resolve)).routes(routes!(read, change, retire))
}

/// The address of an entity: in its organization, or in none.
pub(super) fn aggregate(org: Option<&str>, id: &str) -> ApiResult<AggregateRef> {
    owned_address(org, "entity", id, "Entity")
}

/// A directory entry.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EntityView {
    id: String,
    /// `user`, `assistant`, `service`, `integration` or `sandbox`.
    #[serde(rename = "type")]
    kind: String,
    slug: String,
    display_name: String,
    instance_id: Option<String>,
    instance_index: i32,
    org_id: Option<String>,
    network_id: Option<String>,
    capabilities: Vec<String>,
    tags: Vec<String>,
    /// `active`, `inactive` or `suspended`.
    status: String,
    bound_node_id: Option<String>,
    bound_at: Option<String>,
    /// Until when the node is its own.
    lease_until: Option<String>,
    source_table: Option<String>,
    source_id: Option<String>,
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
    registered_at: String,
    last_seen_at: Option<String>,
    created_at: String,
    updated_at: String,
}

impl From<model::Entity> for EntityView {
    fn from(e: model::Entity) -> Self {
        EntityView {
            org_id: e.organization().map(str::to_owned),
            id: e.id,
            kind: e.entity_type,
            slug: e.slug,
            display_name: e.display_name,
            instance_id: e.instance_id,
            instance_index: e.instance_index,
            network_id: e.network_id,
            capabilities: e.capabilities,
            tags: e.tags,
            status: e.status,
            bound_node_id: e.bound_node_id,
            bound_at: e.bound_at.map(iso),
            lease_until: e.lease_until.map(iso),
            source_table: e.source_table,
            source_id: e.source_id,
            metadata: e.metadata,
            registered_at: iso(e.created_at),
            last_seen_at: e.last_seen_at.map(iso),
            created_at: iso(e.created_at),
            updated_at: iso(e.updated_at),
        }
    }
}

/// What a caller sees of the directory: a scope for each of its organizations, or one for everything; an operator says why.
fn sights(caller: &Caller, scope: &RequestScope) -> ApiResult<Vec<Scope>> {
    let says_why = !caller.is_super_admin || scope.access_reason.is_some();
    if says_why && caller.has_capability(READ_ALL) {
        if caller.is_super_admin {
            caller.enters(OrgId::GLOBAL, scope)?;
        }
        return Ok(vec![Scope::platform()]);
    }
    let member = |org: &str| org.parse().map(|org| Scope::member(org, &caller.id)).map_err(ApiError::internal);
    let mut scopes = caller.organizations.iter().map(|org| member(&org.id)).collect::<ApiResult<Vec<_>>>()?;
    scopes.push(Scope::user(&caller.id));
    Ok(scopes)
}

/// The organization that an address is read in: the one that is named, else that of the request. Only a member's.
fn context(caller: &Caller, scope: &RequestScope, named: Option<String>) -> ApiResult<Option<String>> {
    let org = named.or_else(|| scope.org_id.clone());
    match org.as_deref().filter(|org| !caller.belongs_to(org)) {
        Some(org) if caller.is_super_admin => caller.enters(org, scope)?,
        Some(_) if !caller.has_capability(READ_ALL) => return Err(ApiError::org_access_denied()),
        _ => {}
    }
    Ok(org)
}

impl Identity {
    /// An entity that the caller may see; to everybody else it does not exist.
    pub(super) async fn entity(&self, caller: &Caller, scope: &RequestScope, id: &str) -> ApiResult<model::Entity> {
        for sight in sights(caller, scope)? {
            let mut tx = self.platform.read(&sight).await?;
            if let Some(found) = model::entity(&mut tx, id).await? {
                return Ok(found);
            }
        }
        Err(ApiError::not_found("Entity"))
    }

    /// Sends a command to an entity, as an actor of the request.
    pub(super) async fn order_entity(
        &self,
        org: Option<&str>,
        id: &str,
        command: impl Into<EntityCommand>,
        actor: &Actor,
        scope: &RequestScope,
    ) -> ApiResult<()> {
        let command = command.into();
        let command_id = CommandId::derived(scope.command_id(&actor.id), command.command_type());
        let address = aggregate(org, id)?;
        self.platform.submit_as(command_id, &address, &command, actor, scope, Consistency::Visible).await?;
        Ok(())
    }

    pub(super) async fn entity_view(&self, id: &str) -> ApiResult<Json<EntityView>> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let found = model::entity(&mut tx, id).await?.ok_or_else(|| ApiError::not_found("Entity"))?;
        Ok(Json(found.into()))
    }
}

/// Which entities to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase")]
struct Filter {
    /// Only those of this kind.
    #[serde(default, rename = "type")]
    kind: Option<String>,
    /// Only those of this organization.
    #[serde(default)]
    org_id: Option<String>,
    /// Only those with this slug.
    #[serde(default)]
    slug: Option<String>,
    /// Only those of this standing.
    #[serde(default)]
    status: Option<String>,
}

/// Directory entries.
#[derive(Serialize, ToSchema)]
struct Entities {
    entities: Vec<EntityView>,
    count: usize,
}

/// List the entries of the caller's organizations, and those of none
#[utoipa::path(get, path = "/entities", tag = "Directory", params(Filter),
    responses((status = 200, description = "The oldest first", body = Entities)))]
async fn list(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Query(filter): Query<Filter>,
) -> ApiResult<Json<Entities>> {
    let filter = model::EntityFilter {
        entity_type: filter.kind,
        org_id: filter.org_id,
        slug: filter.slug,
        status: filter.status,
    };
    let mut found: Vec<model::Entity> = Vec::new();
    for sight in sights(&caller, &scope)? {
        let mut tx = identity.platform.read(&sight).await?;
        found.extend(model::entities(&mut tx, &filter).await?);
    }
    found.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    found.dedup_by(|a, b| a.id == b.id);
    let entities: Vec<EntityView> = found.into_iter().map(EntityView::from).collect();
    Ok(Json(Entities { count: entities.len(), entities }))
}

/// Read an entry
#[utoipa::path(get, path = "/entities/{id}", tag = "Directory",
    params(("id" = String, Path, description = "Id of the entity")),
    responses((status = 200, description = "The entry", body = EntityView)))]
async fn read(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<EntityView>> {
    Ok(Json(identity.entity(&caller, &scope, &id).await?.into()))
}

/// A new entry.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewEntity {
    /// `user`, `assistant`, `service`, `integration` or `sandbox`.
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    slug: String,
    #[serde(default)]
    display_name: String,
    /// Tells the instances of one slug apart.
    #[serde(default)]
    instance_id: Option<String>,
    #[serde(default)]
    instance_index: Option<u32>,
    /// Its organization; else that of the request.
    #[serde(default)]
    org_id: Option<String>,
    #[serde(default)]
    network_id: Option<String>,
    #[serde(default)]
    capabilities: Vec<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

/// Put an entity into the directory (members of the organization)
#[utoipa::path(post, path = "/entities", tag = "Directory", request_body = NewEntity,
    responses((status = 201, description = "The entry", body = EntityView),
        (status = 409, description = "There is one with this slug and instance: `existingId`")))]
async fn register(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Json(new): Json<NewEntity>,
) -> ApiResult<(StatusCode, Json<EntityView>)> {
    let mut rules = Validation::new();
    rules.required("type", &new.kind).required("slug", &new.slug).required("displayName", &new.display_name);
    check_metadata(&mut rules, &new.metadata);
    rules.finish()?;
    let org = match new.org_id {
        Some(org) => Some(org),
        None if caller.is_super_admin && scope.org_id.is_none() => None,
        None => Some(caller.org(&scope)?),
    };
    if let Some(org) = org.as_deref().filter(|org| !caller.belongs_to(org)) {
        let mut tx = identity.platform.read(&Scope::platform()).await?;
        if !caller.is_super_admin || model::organization(&mut tx, org).await?.is_none() {
            return Err(ApiError::org_access_denied());
        }
        caller.enters(org, &scope)?;
    }
    let entity_id = format!("ent_{}", Ids(scope.command_id(&caller.id)).of("entity"));
    let filter = model::EntityFilter { slug: Some(new.slug.clone()), ..model::EntityFilter::default() };
    let instance_id = new.instance_id.clone();
    let command = RegisterEntity {
        entity_id: entity_id.clone(),
        entity_type: new.kind,
        slug: new.slug,
        display_name: new.display_name,
        instance_id: new.instance_id,
        instance_index: new.instance_index,
        org_id: org.clone(),
        network_id: new.network_id,
        capabilities: new.capabilities,
        tags: new.tags,
        source_table: None,
        source_id: None,
        metadata: new.metadata,
        email: None,
        person: None,
    };
    let actor = Actor::from(&*caller);
    match identity.order_entity(org.as_deref(), &entity_id, command, &actor, &scope).await {
        Ok(()) => Ok((StatusCode::CREATED, identity.entity_view(&entity_id).await?)),
        Err(error) if error.code() == "ENTITY_TAKEN" => {
            let org_id = Some(org.unwrap_or_else(|| OrgId::GLOBAL.to_owned()));
            let mut tx = identity.platform.read(&Scope::platform()).await?;
            let same = model::entities(&mut tx, &model::EntityFilter { org_id, ..filter }).await?;
            let existing = same.into_iter().find(|e| e.instance_id == instance_id).map(|e| e.id);
            Err(error.with_extra("existingId", json!(existing)))
        }
        Err(error) => Err(error),
    }
}

/// Changes of an entry; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Changes {
    #[serde(default)]
    display_name: Option<String>,
    #[serde(default)]
    capabilities: Option<Vec<String>>,
    #[serde(default)]
    tags: Option<Vec<String>>,
    /// `active`, `inactive` or `suspended`.
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
}

/// Change an entry (members of its organization; outside of organizations, super admins)
#[utoipa::path(patch, path = "/entities/{id}", tag = "Directory", request_body = Changes,
    params(("id" = String, Path, description = "Id of the entity")),
    responses((status = 200, description = "The entry", body = EntityView)))]
async fn change(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(changes): Json<Changes>,
) -> ApiResult<Json<EntityView>> {
    let found = identity.entity(&caller, &scope, &id).await?;
    let mut rules = Validation::new();
    if let Some(metadata) = &changes.metadata {
        check_metadata(&mut rules, metadata);
    }
    let known = changes.status.as_deref().is_none_or(|status| ENTITY_STATUSES.contains(&status));
    rules.check(known, "status", "enum", "must be active, inactive or suspended").finish()?;
    let (org, actor) = (found.organization(), Actor::from(&*caller));
    if let Some(status) = changes.status {
        let status = ChangeEntityStatus { entity_id: id.clone(), status };
        identity.order_entity(org, &id, status, &actor, &scope).await?;
    }
    let Changes { display_name, capabilities, tags, metadata, .. } = changes;
    if display_name.is_some() || capabilities.is_some() || tags.is_some() || metadata.is_some() {
        let entity_id = id.clone();
        let update = UpdateEntity { entity_id, display_name, person: None, capabilities, tags, metadata };
        identity.order_entity(org, &id, update, &actor, &scope).await?;
    }
    identity.entity_view(&id).await
}

/// Take an entity out of the directory (admins of its organization)
#[utoipa::path(delete, path = "/entities/{id}", tag = "Directory",
    params(("id" = String, Path, description = "Id of the entity")),
    responses((status = 200, description = "Retired", body = Msg)))]
async fn retire(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Msg>> {
    let found = identity.entity(&caller, &scope, &id).await?;
    let retire = RetireEntity { entity_id: id.clone() };
    identity.order_entity(found.organization(), &id, retire, &Actor::from(&*caller), &scope).await?;
    Ok(Json(Msg { message: "Entity retired" }))
}

/// An address to look up.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Lookup {
    /// `@name`, `type:slug`, `slug#instance` or `ent_…`.
    #[serde(default)]
    address: String,
    /// The organization it is meant in; else that of the request.
    #[serde(default)]
    org_id: Option<String>,
    /// Also entries that are suspended.
    #[serde(default)]
    include_suspended: bool,
}

/// Where an address leads.
#[derive(Serialize, ToSchema)]
struct Resolved {
    /// The entry; a list when there are several.
    #[schema(value_type = Object)]
    resolved: Value,
    count: usize,
    address: String,
}

/// Find what an address names
#[utoipa::path(post, path = "/entities/resolve", tag = "Directory", request_body = Lookup,
    responses((status = 200, description = "The entry, or a list of several", body = Resolved),
        (status = 404, description = "None; `suggestions` are slugs like it")))]
async fn resolve(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Json(lookup): Json<Lookup>,
) -> ApiResult<Json<Resolved>> {
    let mut rules = Validation::new();
    rules.required("address", &lookup.address).length("address", &lookup.address, 0, 200).finish()?;
    let org = context(&caller, &scope, lookup.org_id)?;
    let address = model::Address::of(&lookup.address);
    let scopes = match &org {
        Some(org) if !caller.has_capability(READ_ALL) => {
            vec![Scope::member(org.parse().map_err(|_| ApiError::org_access_denied())?, &caller.id)]
        }
        _ => sights(&caller, &scope)?,
    };
    let (mut found, mut suggestions): (Vec<model::Entity>, Vec<String>) = (Vec::new(), Vec::new());
    let text = lookup.address.trim_start_matches('@');
    for scope in scopes {
        let mut tx = identity.platform.read(&scope).await?;
        for entity in model::resolve(&mut tx, address, org.as_deref(), lookup.include_suspended).await? {
            if found.iter().all(|other| other.id != entity.id) {
                found.push(entity);
            }
        }
        suggestions.extend(model::similar_slugs(&mut tx, text, org.as_deref()).await?);
    }
    if found.is_empty() {
        suggestions.sort();
        suggestions.dedup();
        suggestions.truncate(5);
        return Err(ApiError::not_found("Entity")
            .with_extra("address", lookup.address)
            .with_extra("suggestions", json!(suggestions)));
    }
    let count = found.len();
    let mut views = found.into_iter().map(EntityView::from);
    let resolved = if count == 1 { json!(views.next()) } else { json!(views.collect::<Vec<_>>()) };
    Ok(Json(Resolved { resolved, count, address: lookup.address }))
}
