//! Token exchange (RFC 8693): an agent gets a token to act in a person's name, on a delegation or passed on by another agent.

use symbia_commands::{
    Actor,
    identity::{ApprovalCommand, UseApproval},
};
use symbia_events::CommandId;
use symbia_projections::{Scope, identity as model};
use time::{Duration, OffsetDateTime};

use super::{
    Identity, approvals,
    oauth::{ACCESS_TOKEN, DELEGATION, Granted, TokenRequest, audience, narrowed, refused},
    tokens::{Act, Claims, MayAct},
};
use crate::{
    http::{ApiError, ApiResult, AuthError, RequestScope, principal::PrincipalKind},
    platform::Consistency,
};

/// Longest life of a token that stands on a delegation. A revocation counts at once wherever tokens are introspected; where
/// they are not, after this long.
const LIFETIME: Duration = Duration::minutes(10);
/// The same with an approval.
const APPROVED: Duration = Duration::minutes(2);

/// What a new token may be at most.
struct Basis {
    delegation: model::Delegation,
    scopes: Vec<String>,
    /// Who acts so far, the nearest first.
    act: Option<Act>,
    end: OffsetDateTime,
    audiences: Vec<String>,
}

impl Identity {
    pub(super) async fn exchanged(&self, request: &TokenRequest, scope: &RequestScope) -> ApiResult<Granted> {
        let now = OffsetDateTime::now_utc();
        let agent = self.agent_of(request).await?;
        let basis = self.basis(request, &agent, now).await?;
        let scopes = narrowed(request.scope.as_deref(), &basis.scopes)?;
        let base = self.platform.settings.base_url.trim_end_matches('/');
        let aud = audience(request.resource.as_deref(), base, &basis.audiences)?;
        let depth = 1 + basis.act.as_ref().map_or(0, depth);
        if depth > basis.delegation.max_depth as usize {
            let text = format!("the delegation allows a chain of {} agents", basis.delegation.max_depth);
            return Err(refused("invalid_grant", text));
        }
        if let Some(approval) = &request.approval {
            self.use_approval(approval, &basis.delegation, &agent, scope).await?;
        }
        let lifetime = if request.approval.is_some() { APPROVED } else { LIFETIME };
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let user = model::user(&mut tx, &basis.delegation.subject_id).await?;
        drop(tx);
        let user = user.ok_or_else(|| refused("invalid_grant", "the person is gone"))?;
        let may_act = basis.delegation.may_act.iter().filter(|other| **other != agent);
        let claims = Claims {
            sub: user.id,
            kind: "user".to_owned(),
            name: user.name,
            aud,
            scope: Some(scopes.join(" ")),
            client_id: Some(agent.clone()),
            act: Some(Act { sub: agent.clone(), act: basis.act.map(Box::new) }),
            may_act: may_act.map(|other| MayAct { sub: other.clone() }).collect(),
            delegation: Some(basis.delegation.id),
            approval: request.approval.clone(),
            ..Claims::default()
        };
        let issued = self.platform.tokens.sign(claims, now, (now + lifetime).min(basis.end))?;
        Ok(Granted {
            access_token: issued.token,
            token_type: "Bearer",
            expires_in: (issued.expires_at - now).whole_seconds().max(0),
            scope: scopes.join(" "),
            issued_token_type: Some(ACCESS_TOKEN),
            refresh_token: None,
        })
    }

    /// The agent that asks, by its own token.
    async fn agent_of(&self, request: &TokenRequest) -> ApiResult<String> {
        let token = request.actor_token.as_ref().filter(|token| !token.is_empty());
        let token =
            token.ok_or_else(|| refused("invalid_request", "actor_token, the agent's own token, is missing"))?;
        if request.actor_token_type.as_deref().is_some_and(|kind| kind != ACCESS_TOKEN) {
            return Err(refused("invalid_request", format!("actor_token_type: {ACCESS_TOKEN}")));
        }
        match self.directory.identify(token.trim()).await {
            Ok((principal, _)) if principal.kind == PrincipalKind::Agent && principal.acting.is_none() => {
                Ok(principal.id)
            }
            Ok(_) => Err(refused("invalid_client", "the actor token is not an agent's own")),
            Err(AuthError::Unavailable) => Err(ApiError::unavailable("The directory", 2)),
            Err(_) => Err(refused("invalid_client", "the actor token is not valid")),
        }
    }

    async fn basis(&self, request: &TokenRequest, agent: &str, now: OffsetDateTime) -> ApiResult<Basis> {
        let token = request.subject_token.as_ref().filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| refused("invalid_request", "subject_token is missing"))?;
        match request.subject_token_type.as_deref() {
            Some(DELEGATION) => {
                let delegation = self.live_delegation(token.trim(), now).await?;
                if delegation.agent_id != agent {
                    return Err(refused("invalid_grant", "there is no such delegation for this agent"));
                }
                let (scopes, end) = (delegation.scopes.clone(), delegation.expires_at);
                let audiences = delegation.audiences.clone();
                Ok(Basis { delegation, scopes, act: None, end, audiences })
            }
            Some(ACCESS_TOKEN) => {
                let invalid = || refused("invalid_grant", "the subject token is not valid, or stands on no delegation");
                let (_, claims) = match self.directory.introspect(token.trim()).await {
                    Ok(found) => found,
                    Err(AuthError::Unavailable) => return Err(ApiError::unavailable("The directory", 2)),
                    Err(_) => return Err(invalid()),
                };
                let id = claims.delegation.as_deref().ok_or_else(invalid)?;
                let delegation = self.live_delegation(id, now).await?;
                // Both the token and the delegation as it stands now must say so.
                let named = claims.may_act.iter().any(|other| other.sub == agent);
                if !named || !delegation.may_act.iter().any(|other| other == agent) {
                    return Err(refused("invalid_grant", "the subject token may not be passed on to this agent"));
                }
                let end = OffsetDateTime::from_unix_timestamp(claims.exp).unwrap_or(now);
                let scopes = claims.scope.unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
                // A token for another resource gives no token for the platform.
                let audiences =
                    if claims.aud == super::tokens::AUDIENCE { delegation.audiences.clone() } else { vec![] };
                if claims.aud != super::tokens::AUDIENCE && request.resource.as_deref() != Some(&claims.aud) {
                    return Err(refused("invalid_target", "the subject token is for another resource"));
                }
                let audiences = if audiences.is_empty() { vec![claims.aud] } else { audiences };
                Ok(Basis { delegation, scopes, act: claims.act, end, audiences })
            }
            _ => Err(refused("invalid_request", format!("subject_token_type: {DELEGATION} or {ACCESS_TOKEN}"))),
        }
    }

    async fn live_delegation(&self, id: &str, now: OffsetDateTime) -> ApiResult<model::Delegation> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let found = model::delegation_by_id(&mut tx, id).await?;
        let live = found.filter(|d| d.revoked_at.is_none() && d.expires_at > now);
        live.ok_or_else(|| refused("invalid_grant", "there is no such delegation for this agent"))
    }

    async fn use_approval(
        &self,
        id: &str,
        delegation: &model::Delegation,
        agent: &str,
        scope: &RequestScope,
    ) -> ApiResult<()> {
        let unusable = || refused("invalid_grant", "there is no such approval, or it was used or is too old");
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let found = model::approval_by_id(&mut tx, id).await?;
        drop(tx);
        let theirs = |a: &model::Approval| a.delegation_id == delegation.id && a.agent_id == agent;
        found.filter(theirs).ok_or_else(unusable)?;
        let (command, edge) =
            (ApprovalCommand::from(UseApproval { approval_id: id.to_owned() }), Actor::service("identity"));
        let (command_id, address) = (CommandId::random(), approvals::aggregate(id)?);
        let done = self.platform.submit_as(command_id, &address, &command, &edge, scope, Consistency::Visible).await;
        match done {
            Ok(_) => Ok(()),
            Err(error) if error.code() == "APPROVAL_CLOSED" => Err(unusable()),
            Err(error) => Err(error),
        }
    }
}

fn depth(act: &Act) -> usize {
    1 + act.act.as_deref().map_or(0, depth)
}
