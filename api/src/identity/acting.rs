//! Whom a token of a delegation stands for: the person, with no more rights than the delegation leaves, and the agents that
//! act. Everything is read live, so that an end of the delegation, of the person or of any of the agents counts at once.

use symbia_commands::{Approved, Level};
use symbia_projections::{Scope, identity as model};
use time::OffsetDateTime;

use super::{
    authenticator::{Directory, unavailable, user},
    key_scopes::role_within,
    tokens::{Act, Claims},
};
use crate::http::{
    AuthError, Principal,
    principal::{Acting, Membership},
};

impl Directory {
    pub(super) async fn acting(&self, claims: &Claims, id: &str, gone: AuthError) -> Result<Principal, AuthError> {
        let now = OffsetDateTime::now_utc();
        let mut tx = self.platform().read(&Scope::platform()).await.map_err(unavailable)?;
        let delegation = model::delegation_by_id(&mut tx, id).await.map_err(unavailable)?.ok_or(gone)?;
        if delegation.revoked_at.is_some() {
            return Err(AuthError::Revoked);
        }
        if delegation.expires_at <= now {
            return Err(AuthError::Expired);
        }
        let agents = claims.act.as_ref().map(chain).unwrap_or_default();
        let scopes: Vec<String> =
            claims.scope.as_deref().unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
        // What the token says must be within what stands now.
        let (first, others) = agents.split_last().ok_or(AuthError::Invalid)?;
        let within = delegation.subject_id == claims.sub
            && *first == delegation.agent_id
            && others.iter().all(|agent| delegation.may_act.contains(agent))
            && agents.len() <= delegation.max_depth as usize
            && scopes.iter().all(|scope| delegation.scopes.contains(scope));
        if !within {
            return Err(AuthError::Invalid);
        }
        for agent in &agents {
            let agent = model::agent_by_handle(&mut tx, agent).await.map_err(unavailable)?;
            if !agent.is_some_and(|agent| agent.is_active) {
                return Err(AuthError::Revoked);
            }
        }
        if model::security(&mut tx, &claims.sub).await.map_err(unavailable)?.is_locked(now) {
            return Err(AuthError::Revoked);
        }
        let approved = match &claims.approval {
            Some(id) => model::approval_by_id(&mut tx, id).await.map_err(unavailable)?,
            None => None,
        };
        let approved = approved.filter(|a| a.status == "used" && a.delegation_id == delegation.id);
        let person = user(&mut tx, &claims.sub).await?;
        drop(tx);
        let mut agents = agents.into_iter();
        let acting = Acting {
            agent: agents.next().unwrap_or_default(),
            chain: agents.collect(),
            delegation: delegation.id,
            limit: Level::named(&delegation.limit).unwrap_or_default(),
            approved: approved.map(|a| Approved { id: a.id, action: a.action, target: a.target }),
        };
        Ok(within_scopes(person, scopes, acting))
    }
}

/// The person, with no more rights than the scopes say; never an operator's.
pub(super) fn within_scopes(person: Principal, scopes: Vec<String>, acting: Acting) -> Principal {
    let within = |rights: Vec<String>| rights.into_iter().filter(|right| scopes.contains(right)).collect();
    let capped = |org: Membership| Membership { role: role_within(&scopes, &org).to_owned(), ..org };
    Principal {
        organizations: person.organizations.into_iter().map(capped).collect(),
        entitlements: within(person.entitlements),
        roles: within(person.roles),
        is_super_admin: false,
        session_id: None,
        acting: Some(acting),
        scopes: scopes.clone(),
        ..Principal::new(person.id, person.kind, person.auth_type)
    }
}

/// The agents of a token, the nearest first.
fn chain(act: &Act) -> Vec<String> {
    let mut agents = vec![act.sub.clone()];
    let mut next = act.act.as_deref();
    while let Some(act) = next {
        agents.push(act.sub.clone());
        next = act.act.as_deref();
    }
    agents
}
