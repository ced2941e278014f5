//! Invitations of people who may not have an account yet (identity.md §6.14). The token is shown once, to the admin who
//! invites; who holds it and has the invited address joins.

use axum::{Extension, extract::State, http::StatusCode};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Role,
    identity::{AcceptInvitation, InviteMember, OrganizationCommand, RevokeInvitation},
};
use symbia_events::{CommandId, SubjectKey};
use symbia_projections::{Scope, identity as model};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    Identity,
    access::{Wants, edge_for},
    accounts::Ids,
    email,
    members::text,
    orgs,
    shapes::{Membership, Msg, iso},
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, Validation, rate::RateLimits, routes},
    platform::Consistency,
};

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(revoke)).routes(routes!(accept))
}

/// A pending invitation.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Invitation {
    id: String,
    org_id: String,
    email: Option<String>,
    /// `admin`, `member` or `viewer`.
    role: String,
    invited_by: String,
    expires_at: Option<String>,
    expired: bool,
    created_at: String,
}

impl From<model::Invitation> for Invitation {
    fn from(i: model::Invitation) -> Self {
        Invitation {
            expired: i.expires_at.is_none_or(|end| end <= OffsetDateTime::now_utc()),
            id: i.id,
            org_id: i.org_id,
            email: i.email,
            role: i.role,
            invited_by: i.invited_by,
            expires_at: i.expires_at.map(iso),
            created_at: iso(i.created_at),
        }
    }
}

/// The pending invitations.
#[derive(Serialize, ToSchema)]
struct Invitations {
    invitations: Vec<Invitation>,
}

/// List the pending invitations of an organization (its admins)
#[utoipa::path(get, path = "/orgs/{id}/invitations", tag = "Members",
    params(("id" = String, Path, description = "Id of the organization")),
    responses((status = 200, description = "The oldest first", body = Invitations)))]
async fn list(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Invitations>> {
    let (_, reading) = identity.enter(&caller, &scope, &id, Wants::Administer).await?;
    let mut tx = identity.platform.read(&reading).await?;
    let found = model::invitations(&mut tx, &id).await?;
    Ok(Json(Invitations { invitations: found.into_iter().map(Invitation::from).collect() }))
}

/// Whom to invite.
#[derive(Deserialize, ToSchema)]
struct NewInvitation {
    /// The address; whether it has an account is not told.
    email: String,
    /// `admin`, `member` or `viewer`.
    #[schema(value_type = String)]
    role: Role,
}

/// An invitation with what accepts it.
#[derive(Serialize, ToSchema)]
struct Invited {
    #[serde(flatten)]
    invitation: Invitation,
    /// What the invited person presents. It is shown this once.
    token: String,
}

/// The secret store's name of the key that an invitation's address is sealed under.
fn key_of(invitation: &str) -> String {
    format!("invitation:{invitation}")
}

/// Invite somebody into an organization (its admins)
///
/// A former invitation of the same address is void. The invitation holds for seven days, and is mailed to the address where the
/// platform sends mail.
#[utoipa::path(post, path = "/orgs/{id}/invitations", tag = "Members", request_body = NewInvitation,
    params(("id" = String, Path, description = "Id of the organization")),
    responses((status = 200, description = "The invitation with its token", body = Invited)))]
async fn create(
    State(identity): State<Identity>,
    Extension(limits): Extension<RateLimits>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(new): Json<NewInvitation>,
) -> ApiResult<Json<Invited>> {
    let (_, reading) = identity.enter(&caller, &scope, &id, Wants::Administer).await?;
    let mut rules = Validation::new();
    email::check(&mut rules, "email", &new.email);
    rules.finish()?;
    // A token is given out once, so a repetition is another invitation, which replaces this one.
    let invitation_id = Uuid::new_v4().to_string();
    let token = Zeroizing::new(BASE64URL.encode(Zeroizing::new(rand::random::<[u8; 32]>()).as_ref()));
    let (platform, key) = (&identity.platform, SubjectKey::generate(key_of(&invitation_id)));
    platform.secrets.put_subject_key(&key).await?;
    let command = OrganizationCommand::from(InviteMember {
        org_id: id.clone(),
        invitation_id: invitation_id.clone(),
        email: key.seal(new.email.trim()),
        email_key: email::key(&platform.keys, &new.email),
        role: text(new.role),
        token_hash: platform.keys.lookup_hash("invitation", &token),
    });
    let (to, actor) = (orgs::aggregate(&id)?, symbia_commands::Actor::from(&*caller));
    let mut tx = platform.read(&reading).await?;
    let before = model::invitations(&mut tx, &id).await?;
    drop(tx);
    let sent = platform.submit_as(CommandId::random(), &to, &command, &actor, &scope, Consistency::Visible).await;
    if sent.as_ref().is_err_and(|error| error.status().is_client_error()) {
        platform.secrets.destroy_subject_key(key.kid()).await?;
    }
    sent?;
    let mut tx = platform.read(&reading).await?;
    let after = model::invitations(&mut tx, &id).await?;
    drop(tx);
    // What was replaced cannot be read any more.
    for gone in before.iter().filter(|old| !after.iter().any(|new| new.id == old.id)) {
        platform.secrets.destroy_subject_key(&key_of(&gone.id)).await?;
    }
    let invitation = after.into_iter().find(|invitation| invitation.id == invitation_id);
    let invitation = invitation.ok_or_else(|| ApiError::not_found("Invitation"))?.into();
    identity.mail_invitation(limits, new.email.trim(), &id, &token).await?;
    Ok(Json(Invited { invitation, token: token.to_string() }))
}

impl Identity {
    async fn mail_invitation(&self, limits: RateLimits, to: &str, org: &str, token: &str) -> ApiResult<()> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let organization = model::organization(&mut tx, org).await?;
        drop(tx);
        let text = Zeroizing::new(format!(
            "You are invited to the organization \"{}\".\n\nJoin it within seven days, signed in with this address:\n{}\n\n\
             If you do not know why, do nothing.\n",
            organization.map(|organization| organization.name).unwrap_or_default(),
            *self.link("accept-invitation", token),
        ));
        self.mail_later(limits, format!("invitation:{to}"), to.to_owned(), "You are invited to an organization", text);
        Ok(())
    }
}

/// Withdraw an invitation (admins of the organization)
#[utoipa::path(delete, path = "/orgs/{id}/invitations/{invitationId}", tag = "Members",
    params(("id" = String, Path, description = "Id of the organization"),
        ("invitationId" = String, Path, description = "Id of the invitation")),
    responses((status = 200, description = "Withdrawn", body = Msg)))]
async fn revoke(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path((id, invitation_id)): Path<(String, String)>,
) -> ApiResult<Json<Msg>> {
    identity.enter(&caller, &scope, &id, Wants::Administer).await?;
    let command = RevokeInvitation { org_id: id.clone(), invitation_id: invitation_id.clone() };
    let command = OrganizationCommand::from(command);
    identity.carry_out(&orgs::aggregate(&id)?, &command, &caller, &scope).await?;
    identity.platform.secrets.destroy_subject_key(&key_of(&invitation_id)).await?;
    Ok(Json(Msg { message: "Invitation withdrawn" }))
}

/// Join the organization that a token invites to
///
/// The invited address must be the caller's. A token works once.
#[utoipa::path(post, path = "/invitations/{token}/accept", tag = "Members",
    params(("token" = String, Path, description = "The token of the invitation")),
    responses((status = 200, description = "The membership", body = Membership),
        (status = 404, description = "No such invitation, or used, or withdrawn")))]
async fn accept(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(token): Path<Zeroizing<String>>,
) -> ApiResult<Json<Membership>> {
    caller.require_user()?;
    let keys = &identity.platform.keys;
    let (token_hash, unknown) = (keys.lookup_hash("invitation", &token), || ApiError::not_found("Invitation"));
    let mut tx = identity.platform.read(&Scope::platform()).await?;
    let invitation = model::invitation_by_token(&mut tx, &token_hash).await?.ok_or_else(unknown)?;
    drop(tx);
    let own = caller.email.as_deref().ok_or_else(|| {
        ApiError::new(StatusCode::FORBIDDEN, "FORBIDDEN", "The account has no e-mail address any more")
    })?;
    let membership_id = Ids(Uuid::new_v5(&Uuid::NAMESPACE_OID, invitation.id.as_bytes())).of("membership");
    let org = invitation.org_id.clone();
    let command = OrganizationCommand::from(AcceptInvitation {
        org_id: org.clone(),
        invitation_id: invitation.id.clone(),
        token_hash,
        user_id: caller.id.clone(),
        email_key: email::key(keys, own),
        membership_id: membership_id.clone(),
    });
    identity.carry_out_as(&orgs::aggregate(&org)?, &command, &edge_for(&caller), &caller, &scope).await?;
    identity.platform.secrets.destroy_subject_key(&key_of(&invitation.id)).await?;
    let mut tx = identity.platform.read(&Scope::user(&caller.id)).await?;
    let membership = model::member(&mut tx, &org, &membership_id).await?.ok_or_else(unknown)?;
    Ok(Json(membership.into()))
}
