//! Organizations (identity.md §6.5, 6.14). Who may read is looked up live; who may change is decided by the aggregate.

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Actor,
    identity::{
        ChangeOrganizationSlug, CreateOrganization, DeleteOrganization, OrganizationCommand, RenameOrganization,
        is_slug,
    },
};
use symbia_events::{AggregateRef, OrgId, Service};
use symbia_projections::{Scope, identity as model};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Identity,
    access::{Wants, edge_for},
    accounts::Ids,
    licence::OrgEntitlement,
    plans::Plan,
    shapes::{Member, Msg, OrgSummary, Organization},
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, Validation, routes},
    platform::Consistency,
};

/// Slug of the system organization, which nobody else can have.
pub(super) const SYSTEM_SLUG: &str = "symbia-system";
const SLUG_MAX: usize = 100;
const SLUG_RULE: &str = "must be 1 to 100 of a-z, 0-9 and '-'";

fn slug_taken() -> ApiError {
    ApiError::slug_taken().with_status(StatusCode::BAD_REQUEST)
}

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(read, change, delete)).routes(routes!(dashboard))
}

/// The address of an organization: it is its own tenant.
pub(super) fn aggregate(id: &str) -> ApiResult<AggregateRef> {
    let unknown = |_| ApiError::not_found("Organization");
    let tenant: OrgId = id.parse().map_err(unknown)?;
    AggregateRef::new(Service::Identity, tenant, "organization", id).map_err(unknown)
}

/// The slug that a name gives: lower case, runs of other characters than `a-z0-9` become one dash (identity.md §6.3).
pub(super) fn slug_of(name: &str) -> String {
    let mut slug = String::new();
    for c in name.to_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' => slug.push(c),
            _ if slug.ends_with('-') => {}
            _ => slug.push('-'),
        }
    }
    slug.truncate(SLUG_MAX);
    let slug = slug.strip_prefix('-').unwrap_or(&slug);
    let slug = slug.strip_suffix('-').unwrap_or(slug);
    if slug.is_empty() { "default".to_owned() } else { slug.to_owned() }
}

impl Identity {
    /// The caller's role in an organization.
    ///
    /// # Errors
    /// 404 when there is no such organization, 403 when the caller does not belong to it.
    pub(super) async fn role_in<'c>(&self, caller: &'c Caller, org: &str) -> ApiResult<&'c str> {
        caller.require_user()?;
        match caller.role_in(org) {
            Some(role) => Ok(role),
            None => Err(self.denied(org).await?),
        }
    }

    /// Only admins of the organization.
    ///
    /// # Errors
    /// Those of [`Identity::role_in`]; 403 INSUFFICIENT_ROLE.
    pub(super) async fn require_admin(&self, caller: &Caller, org: &str) -> ApiResult<()> {
        match self.role_in(caller, org).await? {
            "admin" => Ok(()),
            _ => Err(ApiError::insufficient_role("admin")),
        }
    }

    /// The same, and operators who say why.
    ///
    /// # Errors
    /// Those of [`Identity::require_admin`] and [`Caller::enters`].
    pub(super) async fn require_admin_or_operator(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        org: &str,
    ) -> ApiResult<()> {
        if caller.is_super_admin { caller.enters(org, scope) } else { self.require_admin(caller, org).await }
    }

    async fn denied(&self, org: &str) -> ApiResult<ApiError> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let exists = model::organization(&mut tx, org).await?.is_some();
        Ok(if exists { ApiError::org_access_denied() } else { ApiError::not_found("Organization") })
    }

    async fn organization(&self, reading: &Scope, id: &str) -> ApiResult<model::Organization> {
        let mut tx = self.platform.read(reading).await?;
        model::organization(&mut tx, id).await?.ok_or_else(|| ApiError::not_found("Organization"))
    }

    /// Gives an organization another name or slug, where they differ from those it has.
    pub(super) async fn rename(
        &self,
        now: &model::Organization,
        (name, slug): (Option<String>, Option<String>),
        caller: &Caller,
        scope: &RequestScope,
    ) -> ApiResult<()> {
        let mut rules = Validation::new();
        if let Some(name) = &name {
            rules.required("name", name).length("name", name, 1, 200);
        }
        if let Some(slug) = &slug {
            rules.check(is_slug(slug), "slug", "format", SLUG_RULE);
        }
        rules.finish()?;
        let (to, org_id) = (aggregate(&now.id)?, now.id.clone());
        // The slug first: it may be refused.
        if let Some(slug) = slug.filter(|slug| *slug != now.slug) {
            if slug == SYSTEM_SLUG {
                return Err(slug_taken());
            }
            let command = OrganizationCommand::from(ChangeOrganizationSlug { org_id: org_id.clone(), slug });
            let done = self.carry_out(&to, &command, caller, scope).await;
            done.map_err(|error| if error.code() == "SLUG_TAKEN" { slug_taken() } else { error })?;
        }
        if let Some(name) = name.map(|name| name.trim().to_owned()).filter(|name| *name != now.name) {
            let command = OrganizationCommand::from(RenameOrganization { org_id, name });
            self.carry_out(&to, &command, caller, scope).await?;
        }
        Ok(())
    }

    async fn summaries(&self, caller: &Caller) -> ApiResult<Vec<OrgSummary>> {
        caller.require_user()?;
        let mut tx = self.platform.read(&Scope::user(&caller.id)).await?;
        let found = model::organization_summaries(&mut tx, &caller.id).await?;
        Ok(found.into_iter().map(OrgSummary::from).collect())
    }
}

/// The caller's organizations.
#[derive(Serialize, ToSchema)]
struct Organizations {
    organizations: Vec<OrgSummary>,
    /// The same once more, where the command line looks for it.
    orgs: Vec<OrgSummary>,
}

/// List the organizations the caller belongs to
#[utoipa::path(get, path = "/orgs", tag = "Organizations",
    responses((status = 200, description = "In the order of joining", body = Organizations)))]
async fn list(State(identity): State<Identity>, caller: Caller) -> ApiResult<Json<Organizations>> {
    let organizations = identity.summaries(&caller).await?;
    Ok(Json(Organizations { orgs: organizations.clone(), organizations }))
}

/// What the start page shows.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Dashboard {
    organizations: Vec<OrgSummary>,
    /// Always empty, as in the original.
    #[schema(value_type = Vec<Object>)]
    recent_activity: [(); 0],
}

/// Read what the start page shows
#[utoipa::path(get, path = "/dashboard", tag = "Users",
    responses((status = 200, description = "The caller's organizations", body = Dashboard)))]
async fn dashboard(State(identity): State<Identity>, caller: Caller) -> ApiResult<Json<Dashboard>> {
    Ok(Json(Dashboard { organizations: identity.summaries(&caller).await?, recent_activity: [] }))
}

/// A new organization.
#[derive(Deserialize, ToSchema)]
struct NewOrganization {
    name: String,
    /// Unique, of `a-z`, `0-9` and `-`. Derived from the name when absent.
    #[serde(default)]
    slug: Option<String>,
}

/// Found an organization; the caller becomes its first admin
#[utoipa::path(post, path = "/orgs", tag = "Organizations", request_body = NewOrganization,
    responses((status = 200, description = "The organization", body = Organization),
        (status = 400, description = "A field is not valid, or the slug is taken")))]
async fn create(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Json(new): Json<NewOrganization>,
) -> ApiResult<Json<Organization>> {
    caller.require_user()?;
    let slug = new.slug.unwrap_or_else(|| slug_of(&new.name));
    let mut rules = Validation::new();
    rules.required("name", &new.name).length("name", &new.name, 1, 200);
    rules.check(is_slug(&slug), "slug", "format", SLUG_RULE).finish()?;

    let ids = Ids(scope.command_id(&caller.id));
    let org_id = ids.of("organization");
    let mut tx = identity.platform.read(&Scope::platform()).await?;
    let holder = model::organization_by_slug(&mut tx, &slug).await?;
    drop(tx);
    if slug == SYSTEM_SLUG || holder.is_some_and(|org| org.id != org_id) {
        return Err(slug_taken());
    }
    let command = OrganizationCommand::from(CreateOrganization {
        org_id: org_id.clone(),
        name: new.name.trim().to_owned(),
        slug,
        plan_id: None,
        membership_id: ids.of("membership"),
        owner_id: caller.id.clone(),
    });
    let (id, address, actor) = (ids.command("organization"), aggregate(&org_id)?, Actor::from(&*caller));
    let done = identity.platform.submit_as(id, &address, &command, &actor, &scope, Consistency::Visible).await;
    done.map_err(|error| if error.code() == "SLUG_TAKEN" { slug_taken() } else { error })?;
    let reading = Scope::user(&caller.id);
    let founded = identity.organization(&reading, &org_id).await?;
    if founded.plan_id.is_some() {
        return Ok(Json(founded.into()));
    }
    let plan = identity.default_plan(&scope).await?;
    identity.assign_plan(&org_id, plan, &edge_for(&caller), (ids.command("plan"), &scope)).await?;
    Ok(Json(identity.organization(&reading, &org_id).await?.into()))
}

/// An organization as its members see it.
#[derive(Serialize, ToSchema)]
struct Details {
    organization: WithPlan,
    members: Vec<Member>,
    /// Features of the organization.
    entitlements: Vec<OrgEntitlement>,
}

/// An organization with its plan.
#[derive(Serialize, ToSchema)]
struct WithPlan {
    #[serde(flatten)]
    organization: Organization,
    /// Its plan, if it has one.
    plan: Option<Plan>,
}

/// Read an organization with its members
#[utoipa::path(get, path = "/orgs/{id}", tag = "Organizations",
    params(("id" = String, Path, description = "Id of the organization")),
    responses((status = 200, description = "The organization", body = Details)))]
async fn read(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Details>> {
    let (_, reading) = identity.enter(&caller, &scope, &id, Wants::Read).await?;
    let mut tx = identity.platform.read(&reading).await?;
    let organization = model::organization(&mut tx, &id).await?.ok_or_else(|| ApiError::not_found("Organization"))?;
    let plan = match &organization.plan_id {
        Some(plan) => model::plan(&mut tx, plan).await?.map(Plan::from),
        None => None,
    };
    let members = model::members(&mut tx, &id).await?;
    let entitlements = model::org_entitlements(&mut tx, &id).await?;
    Ok(Json(Details {
        organization: WithPlan { organization: organization.into(), plan },
        members: members.into_iter().map(Member::from).collect(),
        entitlements: entitlements.into_iter().map(OrgEntitlement::from).collect(),
    }))
}

/// Changes of an organization; what is absent stays.
#[derive(Deserialize, ToSchema)]
struct Changes {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    slug: Option<String>,
}

/// Give an organization another name or slug (its admins)
#[utoipa::path(patch, path = "/orgs/{id}", tag = "Organizations", request_body = Changes,
    params(("id" = String, Path, description = "Id of the organization")),
    responses((status = 200, description = "The organization", body = Organization)))]
async fn change(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(changes): Json<Changes>,
) -> ApiResult<Json<Organization>> {
    let (_, reading) = identity.enter(&caller, &scope, &id, Wants::Administer).await?;
    let now = identity.organization(&reading, &id).await?;
    identity.rename(&now, (changes.name, changes.slug), &caller, &scope).await?;
    Ok(Json(identity.organization(&reading, &id).await?.into()))
}

/// Delete an organization (super admins, and its only admin)
#[utoipa::path(delete, path = "/orgs/{id}", tag = "Organizations",
    params(("id" = String, Path, description = "Id of the organization")),
    responses((status = 200, description = "Deleted", body = Msg)))]
async fn delete(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Msg>> {
    identity.require_admin_or_operator(&caller, &scope, &id).await?;
    let command = OrganizationCommand::from(DeleteOrganization { org_id: id.clone() });
    identity.platform.submit(&aggregate(&id)?, &command, &Actor::from(&*caller), &scope).await?;
    Ok(Json(Msg { message: "Organization deleted" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_a_slug() {
        for (name, slug) in [
            ("Acme", "acme"),
            ("  Acme & Sons, Ltd. ", "acme-sons-ltd"),
            ("Über-Labs 2", "ber-labs-2"),
            ("!!!", "default"),
            ("", "default"),
        ] {
            assert_eq!(slug_of(name), slug, "{name}");
            assert!(is_slug(&slug_of(name)));
        }
        assert!(is_slug(&slug_of(&"x y".repeat(200))));
    }
}
