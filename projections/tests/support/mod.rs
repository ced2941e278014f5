//! A log and a database of a test's own, and writing signed events to that log.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot start its servers has failed"
)]

use std::{fs::Permissions, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use async_nats::jetstream;
use sqlx::{PgPool, postgres::PgPoolOptions};
use symbia_events::{
    ActorType, AggregateRef, AuthMethod, CommandId, Context, DomainEvent, GENESIS, KeyRing, OrgId, Position, Service,
    Signed, SubjectKey, commit,
    identity::{
        MemberAdded, OrganizationCreated, OrganizationEvent, PrincipalSignedIn, SessionEvent, SessionStarted,
        UserEvent, UserRegistered,
    },
    sign_commit,
};
use symbia_nats::{
    broker::{Broker, BrokerOptions, Durability},
    topology,
};
use symbia_projections::{
    Keys, Projector, ProjectorOptions, ReadPool, Rebuilder, fixed_keys,
    identity::Identity,
    migrate,
    secrets::{KeyEncryptionKey, SecretStore},
    server::{DatabaseServer, DatabaseServerOptions},
};
use time::{OffsetDateTime, macros::datetime};
use zeroize::Zeroizing;

pub const AT: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);
pub const SOON: Duration = Duration::from_secs(20);

pub struct World {
    pub jetstream: jetstream::Context,
    pub pool: PgPool,
    pub secrets: SecretStore,
    pub identity: Arc<Identity>,
    pub ring: KeyRing,
    pub broker: Broker,
    pub database: DatabaseServer,
    _dir: tempfile::TempDir,
}

pub async fn pool(database: &DatabaseServer) -> PgPool {
    PgPoolOptions::new().max_connections(12).connect(&database.url()).await.unwrap()
}

pub fn kek() -> KeyEncryptionKey {
    KeyEncryptionKey::new(&Zeroizing::new(std::array::from_fn(|i| u8::try_from(i).unwrap()))).unwrap()
}

pub async fn database() -> (DatabaseServer, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
    let options = DatabaseServerOptions::new(dir.path().join("postgres"));
    (DatabaseServer::start(options).await.unwrap(), dir)
}

impl World {
    /// Both servers, the streams, the schemas, and nothing in them.
    pub async fn start() -> Self {
        let (database, dir) = database().await;
        let options = BrokerOptions { durability: Durability::Interval, ..BrokerOptions::new(dir.path().join("nats")) };
        let broker = Broker::start(options).await.unwrap();
        let client = async_nats::connect(broker.url()).await.unwrap();
        let jetstream = jetstream::new(client);
        jetstream.create_stream(topology::event_stream(Service::Identity, 1)).await.unwrap();
        let pool = pool(&database).await;
        migrate(&pool, &[]).await.unwrap();
        let secrets = SecretStore::open(pool.clone(), kek()).await.unwrap();
        let identity = Arc::new(Identity::new(secrets.clone()));
        migrate(&pool, &[&*identity]).await.unwrap();
        World { jetstream, pool, secrets, identity, ring: KeyRing::generate(AT), broker, database, _dir: dir }
    }

    pub fn keys(&self) -> Keys {
        fixed_keys(self.ring.clone())
    }

    pub fn projector(&self) -> Projector {
        ProjectorOptions::new(self.pool.clone(), self.jetstream.clone(), self.keys()).build(self.identity.clone())
    }

    pub fn rebuilder(&self) -> Rebuilder {
        Rebuilder { pool: self.pool.clone(), jetstream: self.jetstream.clone(), keys: self.keys() }
    }

    pub fn reader(&self) -> ReadPool {
        ReadPool::new(self.database.url().parse().unwrap(), 4)
    }

    pub async fn count(&self, table: &str) -> i64 {
        let select = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM identity.{table}"));
        sqlx::query_scalar(select).fetch_one(&self.pool).await.unwrap()
    }

    /// Appends messages without waiting for each.
    pub async fn publish(&self, messages: Vec<(String, Vec<u8>)>) -> Position {
        let mut last = 0;
        for chunk in messages.chunks(256) {
            let mut acks = Vec::new();
            for (subject, payload) in chunk {
                acks.push(self.jetstream.publish(subject.clone(), payload.clone().into()).await.unwrap());
            }
            for ack in acks {
                last = ack.await.unwrap().sequence;
            }
        }
        Position { service: Service::Identity, sequence: last }
    }

    /// One person with an account, an organization of her own and a session.
    pub async fn person(&self, name: &str) -> Vec<(String, Vec<u8>)> {
        let key = SubjectKey::generate(name);
        self.secrets.put_subject_key(&key).await.unwrap();
        let (org, ring) = (format!("org-{name}"), &self.ring);
        // One command for all: the events of its aggregates may carry the same ids, like those of claims.
        let command = CommandId::random();
        let founding = [founded(&org), joined(&org, name)];
        vec![
            encoded(signed_for(command, ring, "global", name, 0, &[registered(name, &key)])),
            encoded(signed_for(command, ring, &org, &org, 0, &founding)),
            encoded(signed_for(command, ring, "global", &format!("s-{name}"), 0, &session(name, &key))),
        ]
    }
}

pub fn message<E: DomainEvent>(ring: &KeyRing, tenant: &str, id: &str, events: &[E]) -> (String, Vec<u8>) {
    encoded(signed(ring, tenant, id, 0, events))
}

pub fn encoded((aggregate, signed): (AggregateRef, Vec<Signed>)) -> (String, Vec<u8>) {
    (aggregate.event_subject(), commit::encode(&signed).0.into())
}

pub fn signed<E: DomainEvent>(
    ring: &KeyRing,
    tenant: &str,
    id: &str,
    version: u32,
    events: &[E],
) -> (AggregateRef, Vec<Signed>) {
    signed_for(CommandId::random(), ring, tenant, id, version, events)
}

/// Signs what one command leads to, in one of its aggregates.
pub fn signed_for<E: DomainEvent>(
    command_id: CommandId,
    ring: &KeyRing,
    tenant: &str,
    id: &str,
    version: u32,
    events: &[E],
) -> (AggregateRef, Vec<Signed>) {
    let tenant: OrgId = tenant.parse().unwrap();
    let aggregate = AggregateRef::new(E::SERVICE, tenant, E::AGGREGATE, id).unwrap();
    let context = Context {
        actor_id: "tester".into(),
        actor_type: ActorType::System,
        on_behalf_of: None,
        auth_method: AuthMethod::Service,
        command_id,
        correlation_id: "c".into(),
        causation_id: "c".into(),
        traceparent: None,
        data_class: None,
        env: None,
        policy_ref: None,
        at: AT + time::Duration::seconds(i64::from(version)),
    };
    let signed = sign_commit(ring, &aggregate, &context, version, GENESIS, events).unwrap();
    (aggregate, signed)
}

pub fn registered(id: &str, key: &SubjectKey) -> UserEvent {
    UserRegistered {
        user_id: id.into(),
        email: key.seal(&format!("{id}@example.com")),
        email_key: format!("key-{id}"),
        name: key.seal(id),
        password_ref: format!("pw-{id}"),
        password_algo: "bcrypt".into(),
        is_super_admin: false,
        source: "self".into(),
    }
    .into()
}

pub fn founded(org: &str) -> OrganizationEvent {
    OrganizationCreated {
        org_id: org.into(),
        name: org.to_uppercase(),
        slug: org.into(),
        plan_id: None,
        by: "tester".into(),
    }
    .into()
}

pub fn joined(org: &str, user: &str) -> OrganizationEvent {
    MemberAdded {
        membership_id: format!("m-{org}-{user}"),
        org_id: org.into(),
        user_id: user.into(),
        role: "admin".into(),
        by: "tester".into(),
    }
    .into()
}

pub fn session(user: &str, key: &SubjectKey) -> [SessionEvent; 2] {
    [
        PrincipalSignedIn {
            principal_id: user.into(),
            principal_type: "user".into(),
            method: "password".into(),
            client_ip: Some(key.seal("192.0.2.1")),
            user_agent: None,
            authenticated_at: None,
        }
        .into(),
        SessionStarted {
            session_id: format!("s-{user}"),
            principal_id: user.into(),
            refresh_hash: "hash".into(),
            expires_at: "2026-02-01T00:00:00Z".into(),
        }
        .into(),
    ]
}

/// Waits until a condition holds.
pub async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let began = std::time::Instant::now();
    while !condition().await {
        assert!(began.elapsed() < SOON * 2, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
