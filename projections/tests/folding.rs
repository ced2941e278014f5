//! Property: the rows are a function of the events, whatever batches they come in.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "folding/messaging.rs"]
mod messaging;
#[path = "folding/network.rs"]
mod network;
mod support;
#[path = "folding/tenancy.rs"]
mod tenancy;

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use sqlx::{AssertSqlSafe, PgPool, raw_sql};
use support::{database, founded, joined, kek, pool, registered, session, signed};
use symbia_events::{
    DomainEvent, KeyRing, Position, Service, SubjectKey,
    identity::{
        MemberRemoved, MemberRoleChanged, OrganizationDeleted, OrganizationEvent, OrganizationRenamed, SessionEvent,
        SessionRefreshed, SessionRevoked, UserDeleted, UserEvent, UserPasswordChanged, UserRenamed,
    },
};
use symbia_projections::{
    FoldEvent, Projection, identity::Identity, migrate, schema, schema_hash, secrets::SecretStore,
};

/// What happens, to which of a few people and organizations: also what no aggregate would decide.
#[derive(Clone, Copy, Debug)]
enum Step {
    Register(u8),
    Rename(u8),
    Password(u8),
    DeleteUser(u8),
    Found(u8),
    RenameOrg(u8),
    Join(u8, u8),
    Role(u8, u8),
    Leave(u8, u8),
    DeleteOrg(u8),
    SignIn(u8),
    Refresh(u8),
    Revoke(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let (one, two) = (0..3u8, (0..3u8, 0..3u8));
    prop_oneof![
        4 => one.clone().prop_map(Step::Register),
        2 => one.clone().prop_map(Step::Rename),
        1 => one.clone().prop_map(Step::Password),
        1 => one.clone().prop_map(Step::DeleteUser),
        4 => one.clone().prop_map(Step::Found),
        1 => one.clone().prop_map(Step::RenameOrg),
        5 => two.clone().prop_map(|(o, u)| Step::Join(o, u)),
        2 => two.clone().prop_map(|(o, u)| Step::Role(o, u)),
        2 => two.prop_map(|(o, u)| Step::Leave(o, u)),
        1 => one.clone().prop_map(Step::DeleteOrg),
        3 => one.clone().prop_map(Step::SignIn),
        1 => one.clone().prop_map(Step::Refresh),
        1 => one.prop_map(Step::Revoke),
    ]
}

/// The events of the steps; person 2's key is not in the store.
fn events(ring: &KeyRing, keys: &[SubjectKey], steps: &[Step]) -> Vec<FoldEvent> {
    let mut log = Vec::new();
    // A step has at most two events, and no aggregate two events of one version.
    for (number, step) in (0u32..).step_by(2).zip(steps) {
        let user = |u: u8, event: UserEvent| sign(ring, "global", &format!("u{u}"), number, &[event]);
        let org = |o: u8, event: OrganizationEvent| sign(ring, &format!("o{o}"), &format!("o{o}"), number, &[event]);
        let in_session = |u: u8, events: &[SessionEvent]| sign(ring, "global", &format!("s-u{u}"), number, events);
        let key = |u: u8| &keys[usize::from(u)];
        let (by, membership) = ("t".to_owned(), |o: u8, u: u8| format!("m-o{o}-u{u}"));
        log.extend(match *step {
            Step::Register(u) => user(u, registered(&format!("u{u}"), key(u))),
            Step::Rename(u) => {
                user(u, UserRenamed { user_id: format!("u{u}"), name: key(u).seal(&format!("n{number}\0")) }.into())
            }
            Step::Password(u) => user(
                u,
                UserPasswordChanged {
                    user_id: format!("u{u}"),
                    password_ref: format!("pw{number}"),
                    password_algo: "bcrypt".into(),
                }
                .into(),
            ),
            Step::DeleteUser(u) => user(u, UserDeleted { user_id: format!("u{u}"), by }.into()),
            Step::Found(o) => org(o, founded(&format!("o{o}"))),
            Step::RenameOrg(o) => {
                org(o, OrganizationRenamed { org_id: format!("o{o}"), name: format!("N{number}") }.into())
            }
            Step::Join(o, u) => org(o, joined(&format!("o{o}"), &format!("u{u}"))),
            Step::Role(o, u) => org(
                o,
                MemberRoleChanged {
                    org_id: format!("o{o}"),
                    membership_id: membership(o, u),
                    user_id: format!("u{u}"),
                    role: format!("r{number}"),
                    previous_role: "admin".into(),
                    by,
                }
                .into(),
            ),
            Step::Leave(o, u) => org(
                o,
                MemberRemoved {
                    membership_id: membership(o, u),
                    org_id: format!("o{o}"),
                    user_id: format!("u{u}"),
                    by,
                    reason: "left".into(),
                }
                .into(),
            ),
            Step::DeleteOrg(o) => org(o, OrganizationDeleted { org_id: format!("o{o}"), by }.into()),
            Step::SignIn(u) => in_session(u, &session(&format!("u{u}"), key(u))),
            Step::Refresh(u) => in_session(
                u,
                &[SessionRefreshed {
                    session_id: format!("s-u{u}"),
                    refresh_hash: "h".into(),
                    generation: number,
                    expires_at: "2026-03-01T00:00:00Z".into(),
                }
                .into()],
            ),
            Step::Revoke(u) => in_session(
                u,
                &[SessionRevoked {
                    session_id: format!("s-u{u}"),
                    principal_id: format!("u{u}"),
                    by,
                    reason: "logout".into(),
                }
                .into()],
            ),
        });
    }
    for (sequence, event) in (1u64..).zip(&mut log) {
        event.position = Position { service: Service::Identity, sequence };
    }
    log
}

fn sign<E: DomainEvent>(ring: &KeyRing, tenant: &str, id: &str, version: u32, events: &[E]) -> Vec<FoldEvent> {
    let position = Position { service: Service::Identity, sequence: 0 };
    let (_, signed) = signed(ring, tenant, id, version, events);
    signed.into_iter().map(|s| FoldEvent { position, event: s.event, hash: s.hash }).collect()
}

async fn folded(pool: &PgPool, projection: &dyn Projection, events: &[FoldEvent], sizes: &[usize]) -> String {
    let truncate =
        format!("SET search_path TO scratch; TRUNCATE {}; RESET search_path", projection.tables().join(", "));
    raw_sql(AssertSqlSafe(truncate)).execute(pool).await.unwrap();
    let (mut rest, mut sizes) = (events, sizes.iter().cycle());
    while !rest.is_empty() {
        let (batch, behind) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
        let begin = "BEGIN; SET LOCAL ROLE symbia_projector; SET LOCAL search_path TO scratch";
        let mut tx = pool.begin_with(AssertSqlSafe(begin.to_owned())).await.unwrap();
        projection.fold(&mut tx, batch).await.unwrap();
        tx.commit().await.unwrap();
        rest = behind;
    }
    schema_hash(pool, projection, "scratch").await.unwrap().1
}

/// A schema to fold into, and the keys of persons 0 and 1 in the store; person 2's is not there.
struct Scratch {
    runtime: tokio::runtime::Runtime,
    pool: PgPool,
    identity: Identity,
    keys: Vec<SubjectKey>,
    _server: (symbia_projections::server::DatabaseServer, tempfile::TempDir),
}

impl Scratch {
    fn new() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (pool, identity, keys, server) = runtime.block_on(async {
            let server = database().await;
            let pool = pool(&server.0).await;
            migrate(&pool, &[]).await.unwrap();
            let secrets = SecretStore::open(pool.clone(), kek()).await.unwrap();
            let keys: Vec<SubjectKey> = (0..3).map(|u| SubjectKey::generate(format!("u{u}"))).collect();
            for key in &keys[..2] {
                secrets.put_subject_key(key).await.unwrap();
            }
            let identity = Identity::new(secrets);
            schema::create_shadow(&mut pool.acquire().await.unwrap(), &identity, "scratch").await.unwrap();
            (pool, identity, keys, server)
        });
        Scratch { runtime, pool, identity, keys, _server: server }
    }

    /// One by one, all at once and in batches of any size give the same rows.
    fn agrees_on<S: std::fmt::Debug>(
        &self,
        steps: impl Strategy<Value = Vec<S>>,
        events: impl Fn(&KeyRing, &[SubjectKey], &[S]) -> Vec<FoldEvent>,
    ) {
        let ring = KeyRing::generate(support::AT);
        let cases = (steps, prop::collection::vec(1..20usize, 1..6));
        let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
        let result = runner.run(&cases, |(steps, sizes)| {
            let events = events(&ring, &self.keys, &steps);
            let hashes = self.runtime.block_on(async {
                let one = folded(&self.pool, &self.identity, &events, &[1]).await;
                let all = folded(&self.pool, &self.identity, &events, &[events.len()]).await;
                [one, all, folded(&self.pool, &self.identity, &events, &sizes).await]
            });
            prop_assert_eq!(&hashes[0], &hashes[1]);
            prop_assert_eq!(&hashes[0], &hashes[2]);
            Ok(())
        });
        result.unwrap();
    }
}

#[test]
fn batches_of_any_size_give_the_same_rows() {
    Scratch::new().agrees_on(prop::collection::vec(step(), 1..60), events);
}

#[test]
fn what_belongs_to_an_organization_comes_and_goes_alike_in_batches_of_any_size() {
    Scratch::new().agrees_on(prop::collection::vec(tenancy::step(), 1..80), tenancy::events);
}
