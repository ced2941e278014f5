//! What hangs on a directory entry: the node it lives on, its names, its instances; and bringing the directory into step
//! with users and agents (identity.md §6.11, 6.14, 7.3, 7.4).

use axum::{extract::State, http::HeaderMap};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbia_commands::{
    Actor,
    identity::{
        AddEntityAlias, BindEntity, RegisterEntity, RemoveEntityAlias, ReportEntityInstance, UnbindEntity,
        principal_entity_id,
    },
};
use symbia_events::{CommandId, OrgId, Service};
use symbia_projections::{Scope, identity as model};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::{
    Identity,
    agent_auth::check_metadata,
    entities::{EntityView, aggregate},
    shapes::{Msg, iso},
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, OptionalCaller, Path, RequestScope, Validation, routes},
    platform::Consistency,
};

/// How long a node is leased unless the request says otherwise, in seconds.
const LEASE: u32 = 300;
/// Principals looked at with one read.
const PAGE: i64 = 200;

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new()
        .routes(routes!(bind))
        .routes(routes!(unbind))
        .routes(routes!(by_node))
        .routes(routes!(aliases, add_alias))
        .routes(routes!(remove_alias))
        .routes(routes!(instances))
        .routes(routes!(report))
        .routes(routes!(sync))
}

impl Identity {
    /// Who may bind entities to nodes: the network service, and operators, who say why.
    fn binder(
        &self,
        headers: &HeaderMap,
        caller: Result<OptionalCaller, ApiError>,
        scope: &RequestScope,
    ) -> ApiResult<Actor> {
        let caller = caller?.0;
        if let Some(caller) = caller.as_ref().filter(|c| c.is_super_admin) {
            caller.enters(OrgId::GLOBAL, scope)?;
            return Ok(Actor::from(&**caller));
        }
        let token = self.service(headers, caller.as_ref())?;
        if token.service == Service::Network {
            return Ok(Actor::service(token.service.name()));
        }
        Err(ApiError::new(axum::http::StatusCode::FORBIDDEN, "FORBIDDEN", "Only the network service binds entities"))
    }

    async fn any_entity(&self, id: &str) -> ApiResult<model::Entity> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        model::entity(&mut tx, id).await?.ok_or_else(|| ApiError::not_found("Entity"))
    }
}

/// Where an entity lives.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Binding {
    #[serde(default)]
    node_id: String,
    /// 300 unless said, at most 86400. Binding again renews it.
    #[serde(default)]
    lease_seconds: Option<u32>,
}

/// Say on which node an entity lives (the network service)
#[utoipa::path(post, path = "/entities/{id}/bind", tag = "Directory", request_body = Binding,
    params(("id" = String, Path, description = "Id of the entity"),
        ("X-Service-Auth" = Option<String>, Header, description = "The service's signed token")),
    responses((status = 200, description = "The entry", body = EntityView),
        (status = 409, description = "Another entity lives on the node")))]
async fn bind(
    State(identity): State<Identity>,
    scope: RequestScope,
    headers: HeaderMap,
    caller: Result<OptionalCaller, ApiError>,
    Path(id): Path<String>,
    Json(binding): Json<Binding>,
) -> ApiResult<Json<EntityView>> {
    let actor = identity.binder(&headers, caller, &scope)?;
    let seconds = binding.lease_seconds.unwrap_or(LEASE);
    let mut rules = Validation::new();
    let node = symbia_events::check_token(&binding.node_id).is_ok() && binding.node_id.len() <= 100;
    rules.check(node, "nodeId", "format", "must be 1 to 100 of A-Z, a-z, 0-9 and '_-:@='");
    rules.check((1..=86_400).contains(&seconds), "leaseSeconds", "range", "must be 1 to 86400").finish()?;
    let found = identity.any_entity(&id).await?;
    let now = OffsetDateTime::now_utc();
    let mut tx = identity.platform.read(&Scope::platform()).await?;
    let before = model::entity_on(&mut tx, &binding.node_id).await?;
    drop(tx);
    // A lease that ran out frees the node for the next.
    if let Some(gone) = before.filter(|e| e.id != id && e.lease_until.is_none_or(|end| end <= now)) {
        let unbind = UnbindEntity { entity_id: gone.id.clone(), reason: "lease_expired".to_owned() };
        identity.order_entity(gone.organization(), &gone.id, unbind, &actor, &scope).await?;
    }
    let lease_until = (now + Duration::seconds(i64::from(seconds))).format(&Rfc3339).unwrap_or_default();
    let bind = BindEntity { entity_id: id.clone(), node_id: binding.node_id, lease_until };
    identity.order_entity(found.organization(), &id, bind, &actor, &scope).await?;
    identity.entity_view(&id).await
}

/// Say that an entity no longer lives on its node (the network service)
#[utoipa::path(post, path = "/entities/{id}/unbind", tag = "Directory",
    params(("id" = String, Path, description = "Id of the entity"),
        ("X-Service-Auth" = Option<String>, Header, description = "The service's signed token")),
    responses((status = 200, description = "The entry", body = EntityView)))]
async fn unbind(
    State(identity): State<Identity>,
    scope: RequestScope,
    headers: HeaderMap,
    caller: Result<OptionalCaller, ApiError>,
    Path(id): Path<String>,
) -> ApiResult<Json<EntityView>> {
    let actor = identity.binder(&headers, caller, &scope)?;
    let found = identity.any_entity(&id).await?;
    let unbind = UnbindEntity { entity_id: id.clone(), reason: "request".to_owned() };
    identity.order_entity(found.organization(), &id, unbind, &actor, &scope).await?;
    identity.entity_view(&id).await
}

/// Find the entity that lives on a node
#[utoipa::path(get, path = "/entities/by-node/{nodeId}", tag = "Directory",
    params(("nodeId" = String, Path, description = "Id of the node")),
    responses((status = 200, description = "The entry", body = EntityView)))]
async fn by_node(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(node): Path<String>,
) -> ApiResult<Json<EntityView>> {
    let mut tx = identity.platform.read(&Scope::platform()).await?;
    let found = model::entity_on(&mut tx, &node).await?.ok_or_else(|| ApiError::not_found("Entity"))?;
    drop(tx);
    Ok(Json(identity.entity(&caller, &scope, &found.id).await?.into()))
}

/// A name of an entity.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct AliasView {
    id: String,
    entity_id: String,
    alias_type: String,
    alias_value: String,
    priority: i32,
    created_at: String,
}

/// The names of an entity.
#[derive(Serialize, ToSchema)]
struct Aliases {
    aliases: Vec<AliasView>,
}

impl Identity {
    async fn aliases(&self, entity: &str) -> ApiResult<Json<Aliases>> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let found = model::entity_aliases(&mut tx, entity).await?;
        let view = |a: model::EntityAlias| AliasView {
            id: a.id,
            entity_id: a.entity_id,
            alias_type: a.alias_type,
            alias_value: a.alias_value,
            priority: a.priority,
            created_at: iso(a.created_at),
        };
        Ok(Json(Aliases { aliases: found.into_iter().map(view).collect() }))
    }
}

/// List the names of an entity
#[utoipa::path(get, path = "/entities/{id}/aliases", tag = "Directory",
    params(("id" = String, Path, description = "Id of the entity")),
    responses((status = 200, description = "The most important first", body = Aliases)))]
async fn aliases(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Aliases>> {
    identity.entity(&caller, &scope, &id).await?;
    identity.aliases(&id).await
}

/// A new name.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewAlias {
    /// `slug`, `qualified`, `legacy` or `federated`.
    alias_type: String,
    alias_value: String,
    /// The highest wins.
    #[serde(default)]
    priority: i32,
}

/// Give an entity another name (admins of its organization)
#[utoipa::path(post, path = "/entities/{id}/aliases", tag = "Directory", request_body = NewAlias,
    params(("id" = String, Path, description = "Id of the entity")),
    responses((status = 200, description = "Its names", body = Aliases), (status = 409, description = "The name is taken")))]
async fn add_alias(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(new): Json<NewAlias>,
) -> ApiResult<Json<Aliases>> {
    let found = identity.entity(&caller, &scope, &id).await?;
    let add = AddEntityAlias {
        entity_id: id.clone(),
        alias_id: CommandId::derived(scope.command_id(&caller.id), "alias").to_string(),
        alias_type: new.alias_type,
        alias_value: new.alias_value,
        priority: new.priority,
    };
    identity.order_entity(found.organization(), &id, add, &Actor::from(&*caller), &scope).await?;
    identity.aliases(&id).await
}

/// Take a name away from an entity (admins of its organization)
#[utoipa::path(delete, path = "/entities/{id}/aliases/{aliasId}", tag = "Directory",
    params(("id" = String, Path, description = "Id of the entity"), ("aliasId" = String, Path, description = "Id of the name")),
    responses((status = 200, description = "Taken away", body = Msg)))]
async fn remove_alias(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path((id, alias_id)): Path<(String, String)>,
) -> ApiResult<Json<Msg>> {
    let found = identity.entity(&caller, &scope, &id).await?;
    let remove = RemoveEntityAlias { entity_id: id.clone(), alias_id };
    identity.order_entity(found.organization(), &id, remove, &Actor::from(&*caller), &scope).await?;
    Ok(Json(Msg { message: "Alias removed" }))
}

/// How an instance is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct InstanceView {
    entity_id: String,
    instance_id: String,
    instance_index: i32,
    node_id: Option<String>,
    /// `available`, `busy` or `offline`.
    status: String,
    last_heartbeat: String,
    load_score: i32,
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

/// The instances of an entity.
#[derive(Serialize, ToSchema)]
struct Instances {
    instances: Vec<InstanceView>,
}

impl Identity {
    async fn instances(&self, entity: &str) -> ApiResult<Json<Instances>> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let found = model::entity_instances(&mut tx, entity).await?;
        let view = |i: model::EntityInstance| InstanceView {
            entity_id: i.entity_id,
            instance_id: i.instance_id,
            instance_index: i.instance_index,
            node_id: i.node_id,
            status: i.status,
            last_heartbeat: iso(i.last_heartbeat),
            load_score: i.load_score,
            metadata: i.metadata,
        };
        Ok(Json(Instances { instances: found.into_iter().map(view).collect() }))
    }
}

/// List the instances of an entity
#[utoipa::path(get, path = "/entities/{id}/instances", tag = "Directory",
    params(("id" = String, Path, description = "Id of the entity")),
    responses((status = 200, description = "By their index", body = Instances)))]
async fn instances(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Instances>> {
    identity.entity(&caller, &scope, &id).await?;
    identity.instances(&id).await
}

/// A report.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// `available`, `busy` or `offline`.
    status: String,
    #[serde(default)]
    instance_index: u32,
    #[serde(default)]
    node_id: Option<String>,
    /// Higher is more loaded.
    #[serde(default)]
    load_score: u32,
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

/// Report how an instance is (the entity's own agent, services)
#[utoipa::path(put, path = "/entities/{id}/instances/{instanceId}", tag = "Directory", request_body = Report,
    params(("id" = String, Path, description = "Id of the entity"),
        ("instanceId" = String, Path, description = "Id of the instance"),
        ("X-Service-Auth" = Option<String>, Header, description = "A service's signed token")),
    responses((status = 200, description = "The instances", body = Instances)))]
async fn report(
    State(identity): State<Identity>,
    scope: RequestScope,
    headers: HeaderMap,
    caller: Result<OptionalCaller, ApiError>,
    Path((id, instance_id)): Path<(String, String)>,
    Json(report): Json<Report>,
) -> ApiResult<Json<Instances>> {
    let caller = caller?.0;
    let (found, actor) = match &caller {
        Some(caller) => (identity.entity(caller, &scope, &id).await?, Actor::from(&**caller)),
        None => {
            let token = identity.service(&headers, None)?;
            (identity.any_entity(&id).await?, Actor::service(token.service.name()))
        }
    };
    let mut rules = Validation::new();
    check_metadata(&mut rules, &report.metadata);
    rules.finish()?;
    let command = ReportEntityInstance {
        entity_id: id.clone(),
        instance_id,
        instance_index: report.instance_index,
        node_id: report.node_id,
        status: report.status,
        load_score: report.load_score,
        metadata: report.metadata,
    };
    identity.order_entity(found.organization(), &id, command, &actor, &scope).await?;
    identity.instances(&id).await
}

/// What to bring into step.
#[derive(Deserialize, ToSchema)]
struct Source {
    /// `users`, `agents` or `all`.
    #[serde(default)]
    source: String,
}

/// How many entries were made.
#[derive(Default, Serialize, ToSchema)]
struct Created {
    users: u32,
    agents: u32,
}

/// What was done.
#[derive(Serialize, ToSchema)]
struct Synced {
    message: &'static str,
    created: Created,
}

/// Make the entries of users and agents that have none (super admins)
///
/// The platform does so by itself when they register; this is for those who registered before it did.
#[utoipa::path(post, path = "/entities/sync", tag = "Directory", request_body = Source,
    responses((status = 200, description = "How many were made", body = Synced)))]
async fn sync(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Json(Source { source }): Json<Source>,
) -> ApiResult<Json<Synced>> {
    caller.require_super_admin()?;
    let mut created = Created::default();
    if ["users", "all"].contains(&source.as_str()) {
        created.users = identity.sync_users(&scope).await?;
    }
    if ["agents", "all"].contains(&source.as_str()) {
        created.agents = identity.sync_agents(&scope).await?;
    }
    Ok(Json(Synced { message: "Directory in step", created }))
}

impl Identity {
    async fn sync_users(&self, scope: &RequestScope) -> ApiResult<u32> {
        let (mut made, mut after): (u32, Option<(OffsetDateTime, String)>) = (0, None);
        loop {
            let mut tx = self.platform.read(&Scope::platform()).await?;
            let page = model::users(&mut tx, after.as_ref().map(|(at, id)| (*at, id.as_str())), PAGE).await?;
            drop(tx);
            let Some(last) = page.last() else { return Ok(made) };
            after = Some((last.created_at, last.id.clone()));
            for user in page {
                let key = self.platform.secrets.subject_key(&user.id).await?;
                let (Some(key), Some(email), Some(name)) = (key, user.email, user.name) else { continue };
                let entry = RegisterEntity::of_user(&user.id, key.seal(&email), key.seal(&name));
                made += self.make(None, entry, principal_entity_id("users", &user.id), scope).await?;
            }
        }
    }

    async fn sync_agents(&self, scope: &RequestScope) -> ApiResult<u32> {
        let (mut made, mut after): (u32, Option<(OffsetDateTime, String)>) = (0, None);
        loop {
            let mut tx = self.platform.read(&Scope::platform()).await?;
            let behind = after.as_ref().map(|(at, id)| (*at, id.as_str()));
            let page = model::agents(&mut tx, None, behind, PAGE).await?;
            drop(tx);
            let Some(last) = page.last() else { return Ok(made) };
            after = Some((last.created_at, last.id.clone()));
            for agent in page {
                let org = agent.organization().map(str::to_owned);
                let capabilities = agent.capabilities;
                let entry = RegisterEntity::of_agent(&agent.id, &agent.agent_id, agent.name, org.clone(), capabilities);
                made += self.make(org.as_deref(), entry, principal_entity_id("agents", &agent.id), scope).await?;
            }
        }
    }

    /// Makes an entry unless there is one; gives how many it made.
    async fn make(&self, org: Option<&str>, entry: RegisterEntity, id: String, scope: &RequestScope) -> ApiResult<u32> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        if model::entity(&mut tx, &id).await?.is_some() {
            return Ok(0);
        }
        drop(tx);
        let (address, system) = (aggregate(org, &id)?, Actor::system("directory"));
        let (id, entry) = (CommandId(Uuid::now_v7()), symbia_commands::identity::EntityCommand::from(entry));
        let done = self.platform.submit_as(id, &address, &entry, &system, scope, Consistency::Visible).await;
        match done {
            Ok(_) => Ok(1),
            // Made meanwhile, or somebody made another entry of this slug.
            Err(error) if error.status() == axum::http::StatusCode::CONFLICT => Ok(0),
            Err(error) => Err(error),
        }
    }
}
