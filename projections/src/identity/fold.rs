//! How identity's events change its rows: read, load what they touch, apply them in order in memory, write once per table.

use std::collections::HashMap;

use sqlx::PgConnection;
use symbia_events::{
    DomainEvent, Event, Personal, SubjectKey,
    identity::{AccessEvent, OrganizationEvent, SessionEvent, SignInEvent, SigningKeyEvent, UserEvent},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    access, audit,
    load::Touched,
    state::{MembershipRow, OrganizationRow, SessionRow, State, UserRow},
};
use crate::{FoldError, FoldEvent, secrets::SecretStore};

pub(super) enum Change {
    User(UserEvent),
    Organization(OrganizationEvent),
    Session(SessionEvent),
    SigningKeys(SigningKeyEvent),
    SignIn(SignInEvent),
    /// Of an aggregate that this model keeps nothing of but the audit trail (claims).
    Other,
}

pub(super) async fn fold(
    secrets: &SecretStore,
    conn: &mut PgConnection,
    events: &[FoldEvent],
) -> Result<(), FoldError> {
    let changes = events.iter().map(|e| read(&e.event)).collect::<Result<Vec<Change>, FoldError>>()?;
    let kids: Vec<String> = changes.iter().flat_map(personal).map(|p| p.kid.clone()).collect();
    let keys = Keys(secrets.subject_keys(&kids).await?);
    access::fold(conn, events, &changes, &keys).await?;
    let mut state = Touched::by(events, &changes).load(conn).await?;
    for (event, change) in events.iter().zip(changes) {
        match change {
            Change::User(change) => state.user(&event.event, change, &keys),
            Change::Organization(change) => state.organization(&event.event, change),
            Change::Session(change) => state.session(&event.event, change, &keys),
            Change::SigningKeys(_) | Change::SignIn(_) | Change::Other => {}
        }
        state.count("global", "events", 1);
    }
    audit::append(conn, events).await?;
    state.save(conn).await
}

// The ids in a payload came with a command; the address was authorized. Only when both agree is the payload believed.
fn read(event: &Event) -> Result<Change, FoldError> {
    let own = |id: &str| {
        if id == event.aggregateid {
            return Ok(());
        }
        Err(FoldError::Event(format!("a {} of {} that names {id}", event.event_type, event.subject)))
    };
    Ok(match event.aggregatetype.as_str() {
        UserEvent::AGGREGATE => {
            let change = event.decode::<UserEvent>()?;
            own(match &change {
                UserEvent::UserRegistered(e) => &e.user_id,
                UserEvent::UserRenamed(e) => &e.user_id,
                UserEvent::UserPasswordChanged(e) => &e.user_id,
                UserEvent::SessionsRevoked(e) => &e.principal_id,
                UserEvent::SuperAdminGranted(e) => &e.user_id,
                UserEvent::SuperAdminRevoked(e) => &e.user_id,
                UserEvent::PasswordResetRequested(e) => &e.user_id,
                UserEvent::PasswordResetMailed(e) => &e.user_id,
                UserEvent::PasswordResetMailFailed(e) => &e.user_id,
                UserEvent::PasswordResetCompleted(e) => &e.user_id,
                UserEvent::EmailChangeRequested(e) => &e.user_id,
                UserEvent::UserEmailChanged(e) => &e.user_id,
                UserEvent::UserEmailVerified(e) => &e.user_id,
                UserEvent::UserLocked(e) => &e.user_id,
                UserEvent::UserUnlocked(e) => &e.user_id,
                UserEvent::MfaEnrolled(e) => &e.user_id,
                UserEvent::MfaConfirmed(e) => &e.user_id,
                UserEvent::MfaUsed(e) => &e.user_id,
                UserEvent::RecoveryCodeUsed(e) => &e.user_id,
                UserEvent::MfaRemoved(e) => &e.user_id,
                UserEvent::UserDeleted(e) => &e.user_id,
                UserEvent::SubjectKeyDestroyed(e) => &e.user_id,
            })?;
            Change::User(change)
        }
        OrganizationEvent::AGGREGATE => {
            let change = event.decode::<OrganizationEvent>()?;
            own(match &change {
                OrganizationEvent::OrganizationCreated(e) => &e.org_id,
                OrganizationEvent::OrganizationRenamed(e) => &e.org_id,
                OrganizationEvent::OrganizationSlugChanged(e) => &e.org_id,
                OrganizationEvent::PlanAssigned(e) => &e.org_id,
                OrganizationEvent::OrgEntitlementSet(e) => &e.org_id,
                OrganizationEvent::OrgEntitlementRemoved(e) => &e.org_id,
                OrganizationEvent::MemberInvited(e) => &e.org_id,
                OrganizationEvent::InvitationAccepted(e) => &e.org_id,
                OrganizationEvent::InvitationRevoked(e) => &e.org_id,
                OrganizationEvent::OrganizationAccessed(e) => &e.org_id,
                OrganizationEvent::MemberAdded(e) => &e.org_id,
                OrganizationEvent::MemberRoleChanged(e) => &e.org_id,
                OrganizationEvent::MemberRemoved(e) => &e.org_id,
                OrganizationEvent::OrganizationDeleted(e) => &e.org_id,
            })?;
            own(event.orgid.as_str())?;
            Change::Organization(change)
        }
        SessionEvent::AGGREGATE => {
            let change = event.decode::<SessionEvent>()?;
            match &change {
                SessionEvent::PrincipalSignedIn(_) => {}
                SessionEvent::SessionStarted(e) => own(&e.session_id)?,
                SessionEvent::SessionRefreshed(e) => own(&e.session_id)?,
                SessionEvent::SessionReuseDetected(e) => own(&e.session_id)?,
                SessionEvent::SessionRevoked(e) => own(&e.session_id)?,
            }
            Change::Session(change)
        }
        SignInEvent::AGGREGATE => {
            let change = event.decode::<SignInEvent>()?;
            own(match &change {
                SignInEvent::SignInFailed(e) => &e.identifier_key,
                SignInEvent::SignInBlocked(e) => &e.identifier_key,
                SignInEvent::SignInUnblocked(e) => &e.identifier_key,
            })?;
            Change::SignIn(change)
        }
        AccessEvent::AGGREGATE => {
            match event.decode::<AccessEvent>()? {
                AccessEvent::AccessDenied(e) => own(&e.principal_id)?,
                AccessEvent::CrossTenantAccessed(e) => own(&e.principal_id)?,
            }
            Change::Other
        }
        SigningKeyEvent::AGGREGATE => Change::SigningKeys(event.decode::<SigningKeyEvent>()?),
        _ => Change::Other,
    })
}

fn personal(change: &Change) -> Vec<&Personal> {
    match change {
        Change::User(UserEvent::UserRegistered(e)) => vec![&e.email, &e.name],
        Change::User(UserEvent::UserRenamed(e)) => vec![&e.name],
        Change::User(UserEvent::EmailChangeRequested(e)) => vec![&e.new_email],
        Change::User(UserEvent::UserEmailChanged(e)) => vec![&e.email],
        Change::Session(SessionEvent::PrincipalSignedIn(e)) => e.client_ip.iter().chain(e.user_agent.iter()).collect(),
        _ => Vec::new(),
    }
}

pub(super) struct Keys(HashMap<String, SubjectKey>);

impl Keys {
    pub(super) fn open(&self, sealed: &Personal) -> Option<String> {
        self.0.get(&sealed.kid)?.open(sealed).ok().map(text)
    }
}

// PostgreSQL's text holds every character but this one.
pub(super) fn text(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// An instant in RFC 3339.
pub(super) fn instant(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

impl State {
    fn user(&mut self, event: &Event, change: UserEvent, keys: &Keys) {
        let row = self.users.entry(event.aggregateid.clone()).or_default();
        match change {
            UserEvent::UserRegistered(e) => {
                if row.is_some() {
                    return;
                }
                *row = Some(UserRow {
                    id: e.user_id,
                    org_id: event.orgid.to_string(),
                    email: keys.open(&e.email),
                    email_key: Some(text(e.email_key)),
                    name: keys.open(&e.name),
                    password_ref: Some(text(e.password_ref)),
                    password_algo: Some(text(e.password_algo)),
                    is_super_admin: e.is_super_admin,
                    created_at: event.time,
                    updated_at: event.time,
                    deleted: false,
                });
                self.count("global", "users", 1);
                self.count("global", "super_admins", i64::from(e.is_super_admin));
            }
            UserEvent::UserRenamed(e) => {
                if let Some(user) = row.as_mut().filter(|u| !u.deleted) {
                    user.name = keys.open(&e.name);
                    user.updated_at = event.time;
                }
            }
            UserEvent::UserPasswordChanged(e) => {
                if let Some(user) = row.as_mut().filter(|u| !u.deleted) {
                    user.password_ref = Some(text(e.password_ref));
                    user.password_algo = Some(text(e.password_algo));
                    user.updated_at = event.time;
                }
            }
            UserEvent::UserEmailChanged(e) => {
                if let Some(user) = row.as_mut().filter(|u| !u.deleted) {
                    user.email = keys.open(&e.email);
                    user.email_key = Some(text(e.email_key));
                    user.updated_at = event.time;
                }
            }
            UserEvent::SuperAdminGranted(_) => self.set_super_admin(event, true),
            UserEvent::SuperAdminRevoked(_) => self.set_super_admin(event, false),
            UserEvent::UserDeleted(e) => {
                let Some(user) = row.as_mut().filter(|u| !u.deleted) else { return };
                let was_admin = user.is_super_admin;
                *user = UserRow {
                    email: None,
                    email_key: None,
                    name: None,
                    password_ref: None,
                    password_algo: None,
                    is_super_admin: false,
                    updated_at: event.time,
                    deleted: true,
                    ..user.clone()
                };
                self.count("global", "users", -1);
                self.count("global", "super_admins", -i64::from(was_admin));
                self.remove_memberships(|m| m.user_id == e.user_id);
                // They stay, so that their tokens are known to be void and not merely unknown.
                for session in self.sessions.values_mut().flatten().filter(|s| s.principal_id == e.user_id) {
                    (session.client_ip, session.user_agent) = (None, None);
                    session.revoked_at.get_or_insert(event.time);
                    session.revoked_reason.get_or_insert_with(|| "account-deleted".to_owned());
                }
            }
            // How an account is guarded is kept elsewhere (`access`, `security`).
            _ => {}
        }
    }

    fn set_super_admin(&mut self, event: &Event, wanted: bool) {
        let row = self.users.get_mut(&event.aggregateid).and_then(Option::as_mut);
        let Some(user) = row.filter(|u| !u.deleted && u.is_super_admin != wanted) else { return };
        user.is_super_admin = wanted;
        user.updated_at = event.time;
        self.count("global", "super_admins", if wanted { 1 } else { -1 });
    }

    fn organization(&mut self, event: &Event, change: OrganizationEvent) {
        let row = self.organizations.entry(event.aggregateid.clone()).or_default();
        match change {
            OrganizationEvent::OrganizationCreated(e) => {
                if row.is_some() {
                    return;
                }
                *row = Some(OrganizationRow {
                    id: e.org_id.clone(),
                    org_id: e.org_id,
                    name: text(e.name),
                    slug: text(e.slug),
                    plan_id: e.plan_id.map(text),
                    created_at: event.time,
                });
                self.count("global", "organizations", 1);
            }
            OrganizationEvent::OrganizationRenamed(e) => {
                if let Some(organization) = row {
                    organization.name = text(e.name);
                }
            }
            OrganizationEvent::OrganizationSlugChanged(e) => {
                if let Some(organization) = row {
                    organization.slug = text(e.slug);
                }
            }
            OrganizationEvent::PlanAssigned(e) => {
                if let Some(organization) = row {
                    organization.plan_id = e.plan_id.map(text);
                }
            }
            OrganizationEvent::OrgEntitlementSet(_)
            | OrganizationEvent::OrgEntitlementRemoved(_)
            | OrganizationEvent::MemberInvited(_)
            | OrganizationEvent::InvitationAccepted(_)
            | OrganizationEvent::InvitationRevoked(_)
            | OrganizationEvent::OrganizationAccessed(_) => {}
            OrganizationEvent::MemberAdded(e) => {
                let row = self.memberships.entry(e.membership_id.clone()).or_default();
                if row.is_some() {
                    return;
                }
                *row = Some(MembershipRow {
                    id: text(e.membership_id),
                    org_id: e.org_id.clone(),
                    user_id: text(e.user_id),
                    role: text(e.role),
                    created_at: event.time,
                });
                self.count("global", "memberships", 1);
                self.count(&e.org_id, "members", 1);
            }
            OrganizationEvent::MemberRoleChanged(e) => {
                let row = self.memberships.get_mut(&e.membership_id).and_then(Option::as_mut);
                if let Some(membership) = row.filter(|m| m.org_id == e.org_id) {
                    membership.role = text(e.role);
                }
            }
            OrganizationEvent::MemberRemoved(e) => {
                self.remove_memberships(|m| m.id == e.membership_id && m.org_id == e.org_id);
            }
            OrganizationEvent::OrganizationDeleted(e) => {
                if row.take().is_some() {
                    self.count("global", "organizations", -1);
                }
                self.remove_memberships(|m| m.org_id == e.org_id);
            }
        }
    }

    fn remove_memberships(&mut self, which: impl Fn(&MembershipRow) -> bool) {
        let mut orgs = Vec::new();
        for row in self.memberships.values_mut() {
            if let Some(gone) = row.take_if(|m| which(m)) {
                orgs.push(gone.org_id);
            }
        }
        for org in orgs {
            self.count("global", "memberships", -1);
            self.count(&org, "members", -1);
        }
    }

    fn session(&mut self, event: &Event, change: SessionEvent, keys: &Keys) {
        let row = self.sessions.entry(event.aggregateid.clone()).or_default();
        match change {
            SessionEvent::PrincipalSignedIn(e) => {
                if row.is_none() {
                    // What was proved before a revocation is cut off by it, however late the session began.
                    let proved = e.authenticated_at.as_deref().and_then(instant).filter(|at| *at < event.time);
                    *row = Some(SessionRow {
                        id: event.aggregateid.clone(),
                        org_id: event.orgid.to_string(),
                        principal_id: text(e.principal_id),
                        principal_type: text(e.principal_type),
                        method: text(e.method),
                        client_ip: e.client_ip.and_then(|p| keys.open(&p)),
                        user_agent: e.user_agent.and_then(|p| keys.open(&p)),
                        generation: 0,
                        created_at: proved.unwrap_or(event.time),
                        refreshed_at: event.time,
                        expires_at: None,
                        revoked_at: None,
                        revoked_reason: None,
                    });
                }
                self.count("global", "sign_ins", 1);
            }
            SessionEvent::SessionStarted(e) => {
                if let Some(session) = row {
                    session.expires_at = instant(&e.expires_at);
                }
            }
            SessionEvent::SessionRefreshed(e) => {
                if let Some(session) = row {
                    session.generation = i32::try_from(e.generation).unwrap_or(i32::MAX);
                    session.refreshed_at = event.time;
                    session.expires_at = instant(&e.expires_at);
                }
            }
            SessionEvent::SessionReuseDetected(_) => {}
            SessionEvent::SessionRevoked(e) => {
                if let Some(session) = row.as_mut().filter(|s| s.revoked_at.is_none()) {
                    session.revoked_at = Some(event.time);
                    session.revoked_reason = Some(text(e.reason));
                }
            }
        }
    }
}
