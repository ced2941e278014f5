//! The steps behind a registration: secret, key, user, organizations; undone when a later one is refused (identity.md §6.13).
//!
//! Order matters: the subject key and the password's hash are kept before the command that refers to them; the user comes
//! before the organization, so that a crash in between leaves an account that works and not a slug that nobody holds.

use symbia_commands::{
    Actor, Rejection,
    identity::{AddMember, CreateOrganization, DeleteUser, OrganizationCommand, RegisterUser, UserCommand},
};
use symbia_events::{ActorType, AggregateRef, AuthMethod, OrgId, Service, SubjectKey};
use symbia_projections::{Scope, identity as model, secrets::SecretError};

use super::{
    Identity,
    accounts::{Ids, OrgName, Registration},
    email, orgs,
    passwords::ALGORITHM,
};
use crate::{
    http::{ApiError, ApiResult, RequestScope},
    platform::Consistency,
};

/// As whom somebody registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// A user.
    Anyone,
    /// The first super admin, or nobody.
    SuperAdmin,
    /// The first super admin if there is none yet, else a user.
    FirstComer,
}

/// An account, open.
pub(super) struct Account {
    pub user_id: String,
    pub key: SubjectKey,
    pub super_admin: bool,
    pub organization: Option<OrgName>,
}

/// A registration under way.
struct Enrolment<'a> {
    identity: &'a Identity,
    scope: &'a RequestScope,
    ids: Ids,
    user_id: String,
    /// Whether this request made the secrets, and takes them away again when it comes to nothing.
    fresh: bool,
}

fn edge() -> Actor {
    Actor::service("identity")
}

fn slug_taken() -> ApiError {
    ApiError::slug_taken().with_status(axum::http::StatusCode::BAD_REQUEST)
}

fn user_aggregate(id: &str) -> ApiResult<AggregateRef> {
    AggregateRef::new(Service::Identity, OrgId::global(), "user", id).map_err(ApiError::internal)
}

impl Identity {
    pub(super) async fn enrol(
        &self,
        registration: &Registration,
        admission: Admission,
        scope: &RequestScope,
    ) -> ApiResult<Account> {
        let email_key = email::key(&self.platform.keys, &registration.email);
        // A repetition is one by the same person: of the same address, and below of the same password.
        let ids = Ids(scope.command_id(&format!("email:{email_key}")));
        let mut enrolment = Enrolment { identity: self, scope, user_id: ids.of("user"), ids, fresh: false };
        enrolment.run(registration, email_key, admission).await
    }
}

impl Enrolment<'_> {
    async fn run(
        &mut self,
        registration: &Registration,
        email_key: String,
        admission: Admission,
    ) -> ApiResult<Account> {
        let org_id = self.ids.of("organization");
        let slug = registration.org_name.as_deref().map(orgs::slug_of);
        let (known, initialized) = self.precheck(&email_key, slug.as_deref(), &org_id).await?;
        let repeated = known.is_some();
        if admission == Admission::SuperAdmin && initialized && !repeated {
            return Err(already_initialized());
        }
        self.keep_password(registration).await?;
        let key = self.keep_key().await?;
        let mut super_admin = match known {
            Some(user) => user.is_super_admin,
            None => {
                let bootstrap = admission != Admission::Anyone && !initialized;
                let opened = self.open(registration, &email_key, &key, admission, bootstrap).await;
                // Only a refusal is final: what is pending may still be done and needs its secrets.
                if opened.as_ref().is_err_and(|error| error.status().is_client_error()) {
                    self.forget().await;
                }
                opened?
            }
        };
        let organization = match (&registration.org_name, slug) {
            (Some(name), Some(slug)) => Some(self.found(&org_id, name.trim(), slug, super_admin).await?),
            _ => None,
        };
        if super_admin {
            super_admin = self.join_operators().await?;
        }
        Ok(Account { user_id: self.user_id.clone(), key, super_admin, organization })
    }

    /// What can be known before anything is done: the user, when this is a repetition, and whether there is a super admin.
    async fn precheck(
        &self,
        email_key: &str,
        slug: Option<&str>,
        org_id: &str,
    ) -> ApiResult<(Option<model::User>, bool)> {
        let mut tx = self.identity.platform.read(&Scope::platform()).await?;
        let known = model::user_by_email_key(&mut tx, email_key).await?;
        if known.as_ref().is_some_and(|user| user.id != self.user_id) {
            return Err(ApiError::email_taken());
        }
        if let Some(slug) = slug {
            let holder = model::organization_by_slug(&mut tx, slug).await?;
            if slug == orgs::SYSTEM_SLUG || holder.is_some_and(|org| org.id != org_id) {
                return Err(slug_taken());
            }
        }
        let initialized = model::initialized(&mut tx).await?;
        Ok((known, initialized))
    }

    fn password_ref(&self) -> String {
        format!("password:{}", self.user_id)
    }

    /// Keeps the password's hash under the reference that the event will name.
    async fn keep_password(&mut self, registration: &Registration) -> ApiResult<()> {
        let (secrets, passwords) = (&self.identity.platform.secrets, &self.identity.passwords);
        let reference = self.password_ref();
        let mut kept = secrets.secret(&reference).await?;
        if kept.is_none() {
            let hash = passwords.hash(registration.password.clone()).await?;
            match secrets.put_secret(&reference, &hash).await {
                Ok(()) => {
                    self.fresh = true;
                    return Ok(());
                }
                // The same request, at the same time.
                Err(SecretError::Taken(_)) => kept = secrets.secret(&reference).await?,
                Err(SecretError::Destroyed(_)) => {
                    return Err(ApiError::conflict(
                        "This registration was refused before: send it with a new Idempotency-Key",
                    ));
                }
                Err(error) => return Err(error.into()),
            }
        }
        if passwords.verify(registration.password.clone(), kept).await? { Ok(()) } else { Err(ApiError::email_taken()) }
    }

    async fn keep_key(&self) -> ApiResult<SubjectKey> {
        let secrets = &self.identity.platform.secrets;
        if let Some(key) = secrets.subject_key(&self.user_id).await? {
            return Ok(key);
        }
        let key = SubjectKey::generate(&self.user_id);
        match secrets.put_subject_key(&key).await {
            Ok(()) => Ok(key),
            Err(SecretError::Taken(_)) => {
                secrets.subject_key(&self.user_id).await?.ok_or_else(|| ApiError::internal("a subject key vanished"))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the account; true when it is the first super admin's.
    async fn open(
        &self,
        registration: &Registration,
        email_key: &str,
        key: &SubjectKey,
        admission: Admission,
        bootstrap: bool,
    ) -> ApiResult<bool> {
        let address = user_aggregate(&self.user_id)?;
        let source = if bootstrap { "bootstrap" } else { "self" };
        let command = UserCommand::from(RegisterUser {
            user_id: self.user_id.clone(),
            email: key.seal(registration.email.trim()),
            email_key: email_key.to_owned(),
            name: key.seal(registration.name.trim()),
            password_ref: self.password_ref(),
            password_algo: ALGORITHM.to_owned(),
            source: source.to_owned(),
        });
        let id = self.ids.command(&format!("register:{source}"));
        let submitted =
            self.identity.platform.submit_as(id, &address, &command, &edge(), self.scope, Consistency::Eventual).await;
        match submitted {
            Ok(_) => Ok(bootstrap),
            Err(error) if bootstrap && error.code() == "ALREADY_INITIALIZED" => match admission {
                // Somebody else came first.
                Admission::FirstComer => {
                    Box::pin(self.open(registration, email_key, key, Admission::Anyone, false)).await
                }
                _ => Err(already_initialized()),
            },
            // A repetition that the read models do not show yet; its secrets, which are older, fit.
            Err(error) if error.code() == "CONFLICT" && !self.fresh => Ok(false),
            Err(error) if error.code() == "EMAIL_TAKEN" => Err(ApiError::email_taken()),
            Err(error) => Err(error),
        }
    }

    /// Founds the organization. A slug that was taken meanwhile undoes the account; but the first super admin cannot be
    /// undone, so theirs gets another slug.
    async fn found(&self, org_id: &str, name: &str, slug: String, super_admin: bool) -> ApiResult<OrgName> {
        match self.create_organization(org_id, name, &slug, "organization").await {
            Ok(()) => Ok(OrgName { id: org_id.to_owned(), name: name.to_owned(), slug }),
            Err(error) if error.code() == "SLUG_TAKEN" && super_admin => {
                let slug = format!("{}-{}", &slug[..slug.len().min(90)], &org_id[..8]);
                self.create_organization(org_id, name, &slug, "organization:other-slug").await?;
                Ok(OrgName { id: org_id.to_owned(), name: name.to_owned(), slug })
            }
            Err(error) if error.code() == "SLUG_TAKEN" => {
                self.undo().await?;
                Err(slug_taken())
            }
            Err(error) => Err(error),
        }
    }

    async fn create_organization(&self, org_id: &str, name: &str, slug: &str, purpose: &str) -> ApiResult<()> {
        let founder = Actor { id: self.user_id.clone(), kind: ActorType::User, auth: AuthMethod::Session, ..edge() };
        let command = OrganizationCommand::from(CreateOrganization {
            org_id: org_id.to_owned(),
            name: name.to_owned(),
            slug: slug.to_owned(),
            plan_id: None,
            membership_id: self.ids.of("membership"),
            owner_id: self.user_id.clone(),
        });
        let (id, address) = (self.ids.command(purpose), orgs::aggregate(org_id)?);
        let platform = &self.identity.platform;
        platform.submit_as(id, &address, &command, &founder, self.scope, Consistency::Eventual).await?;
        Ok(())
    }

    /// The first super admin belongs to the system organization, which is made when it is first needed.
    async fn join_operators(&self) -> ApiResult<bool> {
        let (platform, address) = (&self.identity.platform, orgs::aggregate(OrgId::SYSTEM)?);
        let system = Actor::system("bootstrap");
        let create = OrganizationCommand::from(CreateOrganization {
            org_id: OrgId::SYSTEM.to_owned(),
            name: "Symbia System".to_owned(),
            slug: orgs::SYSTEM_SLUG.to_owned(),
            plan_id: None,
            membership_id: self.ids.of("operator"),
            owner_id: self.user_id.clone(),
        });
        let id = self.ids.command("system-organization");
        let created = platform.submit_as(id, &address, &create, &system, self.scope, Consistency::Eventual).await;
        match created {
            Ok(_) => return Ok(true),
            Err(error) if error.code() == "CONFLICT" => {}
            Err(error) => return Err(error),
        }
        let join = OrganizationCommand::from(AddMember {
            org_id: OrgId::SYSTEM.to_owned(),
            membership_id: self.ids.of("operator"),
            user_id: self.user_id.clone(),
            role: "admin".to_owned(),
        });
        let id = self.ids.command("operator");
        match platform.submit_as(id, &address, &join, &system, self.scope, Consistency::Eventual).await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == "ALREADY_MEMBER" => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Closes the account again and destroys what was kept for it.
    async fn undo(&self) -> ApiResult<()> {
        let (id, address) = (self.ids.command("undo"), user_aggregate(&self.user_id)?);
        let command = UserCommand::from(DeleteUser { user_id: self.user_id.clone() });
        let platform = &self.identity.platform;
        let done = platform.submit_as(id, &address, &command, &edge(), self.scope, Consistency::Eventual).await?;
        // The refusal is certain, also when the read models lag.
        platform.visible(&done).await;
        self.destroy().await;
        Ok(())
    }

    /// Destroys what was kept for an account that was not opened; what an earlier request kept stays.
    async fn forget(&self) {
        if self.fresh {
            self.destroy().await;
        }
    }

    async fn destroy(&self) {
        let secrets = &self.identity.platform.secrets;
        let key = secrets.destroy_subject_key(&self.user_id).await;
        let password = secrets.destroy_secret(&self.password_ref()).await;
        if let Err(error) = key.and(password) {
            tracing::warn!(user = self.user_id, %error, "secrets of an account that does not exist remain in the store");
        }
    }
}

fn already_initialized() -> ApiError {
    Rejection::new("ALREADY_INITIALIZED", "the platform has its first super admin already: register, or log in").into()
}
