//! What every service stands on: the command bus, the read models, the secret store, tokens and settings. Constructed once
//! by the binary and shared by all services of the process.

use std::{ops::Deref, sync::Arc, time::Duration};

use async_nats::{Client, connection::State, jetstream};
use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use symbia_commands::{
    Actor, Authority, CommandEnvelope, DomainCommand, Membership, Outcome, OutcomeStatus, Rejection, action,
};
use symbia_egress::Rules;
use symbia_events::{ActorType, AggregateRef, AuthMethod, CommandId, KeyRing, Position, Service};
use symbia_nats::bus::{BusError, CommandBus};
use symbia_projections::{Positions, ReadError, ReadPool, Reading, Scope, secrets::SecretError, secrets::SecretStore};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::{
    http::{
        ApiError, Health, Principal, RequestScope,
        principal::{AuthType, PrincipalKind},
        rate::RatePolicy,
    },
    identity::Tokens,
    mail::SharedMailer,
};

/// Seconds after which asking again is worth it when the broker or the database is down.
const RETRY_AFTER: u32 = 2;

/// A configured secret. `Debug` does not show it.
#[derive(Clone)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Keeps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        SecretText(Zeroizing::new(text.into()))
    }

    /// Whether somebody presented the secret. Digests are compared, so that the time tells nothing about the text.
    #[must_use]
    pub fn matches(&self, presented: &str) -> bool {
        Sha256::digest(self.0.as_bytes()) == Sha256::digest(presented.as_bytes())
    }

    /// What follows from the secret without showing it: a hash made with it, say.
    pub(crate) fn with<T>(&self, of: impl FnOnce(&str) -> T) -> T {
        of(&self.0)
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretText(…)")
    }
}

/// Who may register an agent (identity.md §4.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EnrolmentMode {
    /// Who holds an enrolment token.
    #[default]
    Token,
    /// Anyone, without an organization and with the baseline capabilities. For development.
    Open,
    /// Admins only.
    Closed,
}

/// What a deployment decides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Production: nothing is left open for convenience.
    pub production: bool,
    /// bcrypt's cost, 4 to 31.
    pub bcrypt_cost: u32,
    /// Lets its holder become the first super admin.
    pub setup_token: Option<SecretText>,
    /// Whoever registers first becomes super admin, as in the original. Ignored in production.
    pub open_bootstrap: bool,
    /// Who may register an agent.
    pub enrolment: EnrolmentMode,
    /// Lets its holder register agents with the capabilities that they ask for: the installation's own token.
    pub enrolment_token: Option<SecretText>,
    /// Sends mail; without one, no mail is sent.
    pub mailer: Option<SharedMailer>,
    /// Cookies go over TLS only.
    pub cookie_secure: bool,
    /// Public address of the identity service, or empty.
    pub base_url: String,
    /// How long a request waits for the outcome of a command before it answers 202.
    pub command_timeout: Duration,
    /// How long a request waits for its events to show in the read models before it answers 202.
    pub visible_within: Duration,
    /// Messages that a projection may lie behind the log while the service still counts as ready.
    pub max_lag: u64,
    /// Whether the broker syncs before it acknowledges, for health reports.
    pub durability: String,
    /// Rate limits.
    pub rates: RatePolicy,
    /// Where calls to addresses that others chose may go.
    pub egress: Rules,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            production: false,
            bcrypt_cost: 12,
            setup_token: None,
            open_bootstrap: false,
            enrolment: EnrolmentMode::Token,
            enrolment_token: None,
            mailer: None,
            cookie_secure: false,
            base_url: String::new(),
            command_timeout: Duration::from_secs(10),
            visible_within: Duration::from_secs(2),
            max_lag: 10_000,
            durability: "unknown".to_owned(),
            rates: RatePolicy::default(),
            egress: Rules::default(),
        }
    }
}

/// The parts of a [`Platform`].
pub struct Parts {
    /// The connection to the broker.
    pub nats: Client,
    /// Keys: for actor assertions and lookup hashes.
    pub keys: Arc<KeyRing>,
    /// Sends commands.
    pub bus: CommandBus,
    /// The read models.
    pub reader: ReadPool,
    /// How far the projections are.
    pub positions: Positions,
    /// Subject keys and secrets.
    pub secrets: SecretStore,
    /// Access tokens.
    pub tokens: Tokens,
    /// What the deployment decides.
    pub settings: Settings,
}

/// What every service stands on. Cheap to clone.
#[derive(Clone)]
pub struct Platform(Arc<Parts>);

impl Deref for Platform {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// Whether a request waits until its own events show in the read models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Until the service's own projection has passed them; else the answer is 202.
    Visible,
    /// Not at all.
    Eventual,
}

/// A command that was accepted.
#[derive(Clone, Debug)]
pub struct Done {
    /// Its outcome.
    pub outcome: Outcome,
}

impl Done {
    /// Whether an event of a type (`session-revoked`, without service, aggregate and version) came of it.
    #[must_use]
    pub fn has(&self, event: &str) -> bool {
        self.outcome.events.iter().any(|e| e.event_type.split('.').nth(3) == Some(event))
    }
}

impl Platform {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Platform(Arc::new(parts))
    }

    /// Sends the one command of a request and waits until its events show. Its id comes from the request, so that a
    /// repetition with the same `Idempotency-Key` is the same command.
    ///
    /// # Errors
    /// The command's rejection; 503 when the bus is not reachable; 202 with the command's id when it takes too long.
    pub async fn submit(
        &self,
        aggregate: &AggregateRef,
        command: &impl DomainCommand,
        actor: &Actor,
        scope: &RequestScope,
    ) -> Result<Done, ApiError> {
        let id = CommandId(scope.command_id(&actor.id));
        self.submit_as(id, aggregate, command, actor, scope, Consistency::Visible).await
    }

    /// The same for one of several commands of a request, whose ids derive from the first, with the consistency of choice.
    ///
    /// # Errors
    /// Those of [`Platform::submit`].
    pub async fn submit_as(
        &self,
        id: CommandId,
        aggregate: &AggregateRef,
        command: &impl DomainCommand,
        actor: &Actor,
        scope: &RequestScope,
        consistency: Consistency,
    ) -> Result<Done, ApiError> {
        let done = self.decided(id, aggregate, command, actor, scope, false).await?;
        if consistency == Consistency::Visible && !self.visible(&done).await {
            return Err(pending(id));
        }
        Ok(done)
    }

    /// [`Platform::submit`] that gives the events, too: they say what the read models will, without asking them. None for a
    /// command that was decided before, or changed nothing.
    ///
    /// # Errors
    /// Those of [`Platform::submit`].
    pub async fn submit_for_events(
        &self,
        aggregate: &AggregateRef,
        command: &impl DomainCommand,
        actor: &Actor,
        scope: &RequestScope,
    ) -> Result<Done, ApiError> {
        let id = CommandId(scope.command_id(&actor.id));
        let done = self.decided(id, aggregate, command, actor, scope, true).await?;
        if self.visible(&done).await { Ok(done) } else { Err(pending(id)) }
    }

    async fn decided(
        &self,
        id: CommandId,
        aggregate: &AggregateRef,
        command: &impl DomainCommand,
        actor: &Actor,
        scope: &RequestScope,
        events: bool,
    ) -> Result<Done, ApiError> {
        let mut envelope = CommandEnvelope::new(&self.keys, aggregate, command, actor, id, OffsetDateTime::now_utc())
            .map_err(ApiError::internal)?;
        envelope.returnevents = events;
        envelope.correlationid = Some(scope.request_id.clone());
        envelope.traceparent = Some(scope.traceparent());
        envelope.env.clone_from(&scope.env);
        envelope.policyref.clone_from(&scope.policy_ref);
        envelope.dataclass = scope.data_class.and_then(|class| json!(class).as_str().map(str::to_owned));
        let outcome = self.bus.send(aggregate, &envelope, self.settings.command_timeout).await?;
        match (outcome.status, outcome.rejection.clone()) {
            (OutcomeStatus::Accepted, _) => {}
            (OutcomeStatus::Rejected, Some(rejection)) if rejection.code == "APPROVAL_REQUIRED" => {
                // What to ask for.
                return Err(ApiError::from(rejection)
                    .with_hint("Ask with POST /api/approvals, and exchange the approval for a token.")
                    .with_extra("action", action(command.command_type()))
                    .with_extra("target", aggregate.path()));
            }
            (OutcomeStatus::Rejected, Some(rejection)) => return Err(rejection.into()),
            (status, rejection) => {
                tracing::error!(command = %id, ?status, ?rejection, "command not decided");
                return Err(ApiError::unavailable("The log", RETRY_AFTER));
            }
        }
        Ok(Done { outcome })
    }

    /// Sends a command of the identity service that nobody waits for: when it is lost, the next one tells the same.
    pub(crate) fn submit_later(&self, aggregate: AggregateRef, command: impl DomainCommand) {
        let platform = self.clone();
        tokio::spawn(async move {
            if let Err(error) = platform.tell("identity", &aggregate, &command).await {
                tracing::debug!(%aggregate, %error, "a sighting is not recorded");
            }
        });
    }

    /// Sends a command in the name of a service of the platform, beside any request.
    pub(crate) async fn tell(
        &self,
        by: &str,
        aggregate: &AggregateRef,
        command: &impl DomainCommand,
    ) -> Result<Outcome, BusError> {
        let (id, actor, at) = (CommandId::random(), Actor::service(by), OffsetDateTime::now_utc());
        let envelope = CommandEnvelope::new(&self.keys, aggregate, command, &actor, id, at);
        let envelope = envelope.map_err(BusError::Malformed)?;
        self.bus.send(aggregate, &envelope, self.settings.command_timeout).await
    }

    /// Waits until a command's events show in its service's read models; false when they do not in time.
    pub async fn visible(&self, done: &Done) -> bool {
        let Some(position) = done.outcome.position else { return true };
        self.passed(position).await
    }

    /// Waits until a place of the log shows in its service's read models; false when it does not in time.
    pub async fn passed(&self, position: Position) -> bool {
        self.positions.wait_for(position.service.name(), position, self.settings.visible_within).await
    }

    /// A connection that sees what `scope` may see.
    ///
    /// # Errors
    /// 503 when the database is not reachable.
    pub async fn read(&self, scope: &Scope) -> Result<Reading, ApiError> {
        Ok(self.reader.read(scope).await?)
    }

    /// Connections for who reads for many.
    pub(crate) fn reader(&self) -> &ReadPool {
        &self.reader
    }

    /// Adds the readiness checks of a service with read models: `eventBus`, `database`, and `projections` with their lag.
    pub fn watch(&self, health: &Health, service: Service) {
        self.watch_bus_and_database(health);
        let platform = self.clone();
        health.check("projections", move || {
            let platform = platform.clone();
            async move { platform.lag(service).await }
        });
    }

    /// Adds the readiness checks of a service without read models of its own.
    pub fn watch_bus_and_database(&self, health: &Health) {
        let platform = self.clone();
        health.check("eventBus", move || {
            let platform = platform.clone();
            async move { platform.bus_answers().await }
        });
        let platform = self.clone();
        health.check("database", move || {
            let reader = platform.reader.clone();
            async move {
                reader.read(&Scope::default()).await.map(|_| Map::new()).map_err(|error| {
                    tracing::warn!(%error, "the database does not answer");
                    "the database does not answer".to_owned()
                })
            }
        });
    }

    async fn bus_answers(&self) -> Result<Map<String, Value>, String> {
        if self.nats.connection_state() != State::Connected {
            return Err("not connected to the broker".to_owned());
        }
        self.nats.flush().await.map_err(|_| "the broker does not answer".to_owned())?;
        Ok(Map::from_iter([("durability".to_owned(), json!(self.settings.durability))]))
    }

    async fn lag(&self, service: Service) -> Result<Map<String, Value>, String> {
        if self.nats.connection_state() != State::Connected {
            return Err("the log cannot be asked how long it is".to_owned());
        }
        let stream = jetstream::new(self.nats.clone()).get_stream(service.event_stream()).await;
        let last = stream.map_err(|_| "the log cannot be asked how long it is".to_owned())?;
        let last = last.cached_info().state.last_sequence;
        // The name is one of ours, never a caller's.
        let select = format!("SELECT sequence FROM {}.checkpoint WHERE service = $1", service.name());
        let unread = || "the checkpoint cannot be read".to_owned();
        let mut tx = self.reader.read(&Scope::default()).await.map_err(|_| unread())?;
        let asked = sqlx::query_scalar(sqlx::AssertSqlSafe(select)).bind(service.name()).fetch_optional(&mut *tx);
        let folded: Option<i64> = asked.await.map_err(|_| unread())?;
        let lag = last.saturating_sub(folded.unwrap_or_default().unsigned_abs());
        if lag > self.settings.max_lag {
            return Err(format!("{lag} messages behind the log"));
        }
        Ok(Map::from_iter([("lag".to_owned(), json!(lag))]))
    }
}

/// 202: the command may still be done; sending the request again with the same `Idempotency-Key` tells.
fn pending(id: CommandId) -> ApiError {
    ApiError::new(StatusCode::ACCEPTED, "PENDING", "The command is accepted and not done yet")
        .with_extra("error", Value::Null)
        .with_extra("commandId", id.to_string())
        .with_extra("status", "pending")
}

impl From<BusError> for ApiError {
    fn from(error: BusError) -> Self {
        match error {
            BusError::Unavailable => ApiError::unavailable("The event bus", RETRY_AFTER),
            BusError::NotStored(reason) => {
                tracing::error!(reason, "the broker does not store commands: look at its disk space and its log");
                ApiError::unavailable("The event bus", RETRY_AFTER)
            }
            BusError::Pending(id) => pending(id),
            BusError::Malformed(cause) => ApiError::internal(cause),
        }
    }
}

impl From<Rejection> for ApiError {
    /// The status that goes with a code everywhere; a route whose contract names another one changes it.
    fn from(rejection: Rejection) -> Self {
        let status = match rejection.code.as_ref() {
            "AUTH_REQUIRED" | "TOKEN_INVALID" | "TOKEN_EXPIRED" | "SESSION_REVOKED" => StatusCode::UNAUTHORIZED,
            "FORBIDDEN"
            | "INSUFFICIENT_SCOPE"
            | "APPROVAL_REQUIRED"
            | "INSUFFICIENT_ROLE"
            | "MISSING_CAPABILITY"
            | "SUPERADMIN_REQUIRED"
            | "ORG_ACCESS_DENIED"
            | "WRONG_TENANT" => StatusCode::FORBIDDEN,
            "NOT_FOUND" => StatusCode::NOT_FOUND,
            "CONFLICT" | "LAST_ADMIN" | "ALREADY_INITIALIZED" | "QUOTA_EXCEEDED" | "MODEL_BUSY" => StatusCode::CONFLICT,
            "UNKNOWN_COMMAND" | "MALFORMED_COMMAND" | "CLOCK_SKEW" => return ApiError::internal(rejection),
            code if code.ends_with("_TAKEN") => StatusCode::CONFLICT,
            _ => StatusCode::BAD_REQUEST,
        };
        ApiError::new(status, rejection.code, capitalised(&rejection.message)).decided()
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error::{Database, Io, PoolClosed, PoolTimedOut, Protocol, Tls};
        let away = match &error {
            Io(_) | PoolClosed | PoolTimedOut | Protocol(_) | Tls(_) => true,
            // Connection exceptions, too many connections, and a server that stops or starts (PostgreSQL, appendix A).
            Database(e) => e.code().is_some_and(|code| ["08", "53", "57P"].iter().any(|class| code.starts_with(class))),
            _ => false,
        };
        if !away {
            return ApiError::internal(error);
        }
        tracing::warn!(%error, "the database is not reachable");
        ApiError::unavailable("The database", RETRY_AFTER)
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Database(error) => error.into(),
            ReadError::Principal(error) => ApiError::internal(error),
        }
    }
}

impl From<SecretError> for ApiError {
    fn from(error: SecretError) -> Self {
        match error {
            SecretError::Database(error) => error.into(),
            other => ApiError::internal(other),
        }
    }
}

/// Turns a person into the agent that acts in their name, within its limits.
trait ActsFor {
    fn acting(self, principal: &Principal) -> Actor;
}

impl ActsFor for Actor {
    fn acting(self, principal: &Principal) -> Actor {
        let Some(acting) = &principal.acting else { return self };
        let authority = Authority {
            delegation: acting.delegation.clone(),
            scopes: principal.scopes.clone(),
            chain: acting.chain.clone(),
            limit: acting.limit,
            approved: acting.approved.clone(),
        };
        Actor {
            id: acting.agent.clone(),
            kind: ActorType::Agent,
            super_admin: false,
            on_behalf_of: Some(self.id),
            authority: Some(Box::new(authority)),
            ..self
        }
    }
}

impl From<&Principal> for Actor {
    fn from(principal: &Principal) -> Self {
        let orgs = principal.organizations.iter().filter_map(|org| {
            let role = serde_json::from_value(json!(org.role)).ok()?;
            Some(Membership { id: org.id.parse().ok()?, role })
        });
        Actor {
            id: principal.id.clone(),
            kind: match principal.kind {
                PrincipalKind::User => ActorType::User,
                PrincipalKind::Agent => ActorType::Agent,
                PrincipalKind::Service => ActorType::Service,
            },
            auth: match principal.auth_type {
                AuthType::Jwt => AuthMethod::Jwt,
                AuthType::ApiKey => AuthMethod::ApiKey,
                AuthType::Session => AuthMethod::Session,
                AuthType::Service => AuthMethod::Service,
            },
            orgs: orgs.collect(),
            entitlements: principal.entitlements.iter().chain(&principal.roles).cloned().collect(),
            key: principal.key_id.clone(),
            super_admin: principal.is_super_admin,
            on_behalf_of: None,
            authority: None,
        }
        .acting(principal)
    }
}
