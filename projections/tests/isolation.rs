//! Tenants, schemas and secrets: what the database itself does not let through.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Executor as _, Row, raw_sql};
use support::{SOON, World, database, encoded, kek, message, pool, signed};
use symbia_events::{
    KeyRing, SubjectKey,
    identity::{
        AgentEvent, AgentRegistered, ApiKeyCreated, ApiKeyEvent, ApplicationCreated, ApplicationEvent, ApprovalEvent,
        ApprovalRequested, AuthorizationEvent, AuthorizationGranted, CredentialEvent, CredentialStored,
        DelegationEvent, DelegationGranted, EntitlementGranted, EntityAliasAdded, EntityEvent, EntityInstanceReported,
        EntityRegistered, GrantsEvent, MemberInvited, MfaEnrolled, OrgEntitlementSet, OrganizationEvent,
        ProjectCreated, ProjectEvent, ProjectServiceEvent, ProjectServiceRegistered, ScopedEntitlementCreated,
        ScopedEntitlementEvent, ServiceLinked, SessionsRevoked, UserEvent,
    },
};
use symbia_projections::{
    MigrateError, Projection, Scope,
    identity::Identity,
    migrate,
    secrets::{KeyEncryptionKey, SecretError, SecretStore},
};
use zeroize::Zeroizing;

/// One row of everything that an organization and its member can have.
fn belongings(ring: &KeyRing, who: &str) -> Vec<(String, Vec<u8>)> {
    let (org, by) = (format!("org-{who}"), || who.to_owned());
    let (project_id, app_id, service_id) = (format!("p-{who}"), format!("a-{who}"), format!("s-{who}"));
    let email = SubjectKey::generate("nobody").seal("x@example.test");
    let feature =
        OrgEntitlementSet { org_id: org.clone(), feature_key: "sso".into(), enabled: true, expires_at: None, by: by() };
    let invited = MemberInvited {
        invitation_id: format!("i-{who}"),
        org_id: org.clone(),
        email,
        email_key: "k".into(),
        role: "member".into(),
        by: by(),
        token_hash: "h".into(),
        expires_at: "2026-02-01T00:00:00Z".into(),
    };
    let project = ProjectCreated {
        project_id: project_id.clone(),
        org_id: org.clone(),
        name: "P".into(),
        slug: "p".into(),
        description: None,
        by: by(),
    };
    let app = ApplicationCreated {
        app_id: app_id.clone(),
        project_id: project_id.clone(),
        org_id: org.clone(),
        name: "A".into(),
        slug: "a".into(),
        environment: "staging".into(),
        app_type: "web".into(),
        repo_url: None,
        by: by(),
    };
    let service = ProjectServiceRegistered {
        service_id: service_id.clone(),
        project_id: project_id.clone(),
        org_id: org.clone(),
        name: "S".into(),
        service_type: "api".into(),
        provider: None,
        endpoint_url: None,
        external_id: None,
        by: by(),
    };
    let scoped = ScopedEntitlementCreated {
        id: format!("e-{who}"),
        org_id: org.clone(),
        scope_type: "project".into(),
        scope_id: project_id.clone(),
        feature_key: "f".into(),
        quota: None,
        enabled: true,
        expires_at: None,
        by: by(),
    };
    let linked =
        ServiceLinked { link_id: format!("l-{who}"), app_id: app_id.clone(), service_id: service_id.clone(), by: by() };
    let agent = AgentRegistered {
        agent_row_id: format!("agent-{who}"),
        agent_id: format!("assistant:{who}"),
        name: "A".into(),
        org_id: Some(org.clone()),
        capabilities: vec![],
        requested_capabilities: vec![],
        metadata: serde_json::Map::new(),
        credential_ref: "c".into(),
        enrolled_by: by(),
    };
    let key = ApiKeyCreated {
        key_id: format!("k-{who}"),
        name: "ci".into(),
        key_prefix: "sk_01234567".into(),
        key_hash: "hash".into(),
        org_id: Some(org.clone()),
        scopes: vec![],
        expires_at: None,
        created_by: by(),
        rotated_from: None,
    };
    let factor = MfaEnrolled { user_id: who.into(), method: "totp".into(), secret_ref: "f".into() };
    let credential = CredentialStored {
        credential_id: format!("c-{who}"),
        owner_id: by(),
        org_id: Some(org.clone()),
        provider: "openai".into(),
        name: "C".into(),
        name_key: "n".into(),
        credential_type: "api_key".into(),
        is_org_wide: true,
        secret_ref: "s".into(),
        refresh_ref: None,
        masked_hint: None,
        metadata: serde_json::Map::new(),
        expires_at: None,
        account_key: None,
        oauth_user_id: None,
        oauth_user_email: None,
        oauth_user_name: None,
        by: by(),
    };
    let entity_id = format!("ent_{who}");
    let entity = EntityRegistered {
        entity_id: entity_id.clone(),
        entity_type: "service".into(),
        slug: "s".into(),
        display_name: "S".into(),
        instance_id: None,
        instance_index: 1,
        org_id: Some(org.clone()),
        network_id: None,
        capabilities: vec![],
        tags: vec![],
        source_table: None,
        source_id: None,
        metadata: serde_json::Map::new(),
        email: None,
        person: None,
        by: by(),
    };
    let alias = EntityAliasAdded {
        alias_id: format!("alias-{who}"),
        entity_id: entity_id.clone(),
        alias_type: "slug".into(),
        alias_value: "s".into(),
        org_id: Some(org.clone()),
        priority: 1,
    };
    let instance = EntityInstanceReported {
        entity_id,
        instance_id: "one".into(),
        instance_index: 1,
        node_id: None,
        status: "busy".into(),
        load_score: 1,
        metadata: serde_json::Map::new(),
    };
    let cut_off = SessionsRevoked {
        principal_id: who.into(),
        before: "2025-12-01T00:00:00Z".into(),
        by: by(),
        reason: "r".into(),
    };
    let granted = EntitlementGranted {
        grant_id: format!("g-{who}"),
        principal_id: who.into(),
        key: "k".into(),
        expires_at: None,
        by: by(),
    };
    let delegation = DelegationGranted {
        delegation_id: format!("d-{who}"),
        subject_id: who.into(),
        agent_id: format!("assistant:{who}"),
        scopes: vec![],
        audiences: vec![],
        may_act: vec![],
        max_depth: 1,
        limit: "ordinary".into(),
        expires_at: "2026-12-01T00:00:00Z".into(),
    };
    let approval = ApprovalRequested {
        approval_id: format!("ap-{who}"),
        delegation_id: delegation.delegation_id.clone(),
        subject_id: who.into(),
        agent_id: delegation.agent_id.clone(),
        action: "identity.delete-organization".into(),
        target: format!("organization/{org}"),
        reason: None,
        expires_at: "2026-12-01T00:00:00Z".into(),
    };
    let authorization = AuthorizationGranted {
        authorization_id: format!("au-{who}"),
        user_id: who.into(),
        client_id: "https://app.example/client".into(),
        redirect_uri: "https://app.example/back".into(),
        code_hash: "hash".into(),
        code_challenge: "challenge".into(),
        scopes: vec![],
        resource: "symbia".into(),
        expires_at: "2026-12-01T00:00:00Z".into(),
    };
    vec![
        message::<DelegationEvent>(ring, "global", &delegation.delegation_id.clone(), &[delegation.into()]),
        message::<ApprovalEvent>(ring, "global", &approval.approval_id.clone(), &[approval.into()]),
        message::<AuthorizationEvent>(ring, "global", &authorization.authorization_id.clone(), &[authorization.into()]),
        encoded(signed::<OrganizationEvent>(ring, &org, &org, 2, &[feature.into(), invited.into()])),
        message::<ProjectEvent>(ring, &org, &project_id, &[project.into()]),
        message::<ProjectServiceEvent>(ring, &org, &service_id, &[service.into()]),
        message::<ApplicationEvent>(ring, &org, &app_id, &[app.into(), linked.into()]),
        message::<ScopedEntitlementEvent>(ring, &org, &scoped.id.clone(), &[scoped.into()]),
        message::<AgentEvent>(ring, &org, &agent.agent_row_id.clone(), &[agent.into()]),
        message::<EntityEvent>(ring, &org, &entity.entity_id.clone(), &[entity.into(), alias.into(), instance.into()]),
        message::<CredentialEvent>(ring, &org, &credential.credential_id.clone(), &[credential.into()]),
        message::<ApiKeyEvent>(ring, &org, &key.key_id.clone(), &[key.into()]),
        encoded(signed::<UserEvent>(ring, "global", who, 1, &[cut_off.into(), factor.into()])),
        message::<GrantsEvent>(ring, "global", who, &[granted.into()]),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_nothing_of_another_tenant_in_any_table_and_writes_nothing() {
    let world = World::start().await;
    let projector = world.projector().start();
    let mut log = world.person("ada").await;
    log.extend(world.person("eve").await);
    log.extend(belongings(&world.ring, "ada"));
    let last = world.publish(log).await;
    assert!(projector.wait_for(last, SOON).await);
    let reader = world.reader();
    // What tells ada's rows from eve's in each table.
    let of_ada = [
        ("users", "id = 'ada'"),
        ("organizations", "id = 'org-ada'"),
        ("memberships", "org_id = 'org-ada'"),
        ("sessions", "principal_id = 'ada'"),
        ("audit_trail", "org_id = 'org-ada'"),
        ("stats", "org_id = 'org-ada'"),
        ("session_cutoffs", "principal_id = 'ada'"),
        ("user_security", "user_id = 'ada'"),
        ("agents", "org_id = 'org-ada'"),
        ("api_keys", "org_id = 'org-ada'"),
        ("credentials", "org_id = 'org-ada'"),
        ("entities", "org_id = 'org-ada'"),
        ("entity_aliases", "org_id = 'org-ada'"),
        ("entity_instances", "org_id = 'org-ada'"),
        ("org_entitlements", "org_id = 'org-ada'"),
        ("invitations", "org_id = 'org-ada'"),
        ("projects", "org_id = 'org-ada'"),
        ("applications", "org_id = 'org-ada'"),
        ("project_services", "org_id = 'org-ada'"),
        ("service_links", "org_id = 'org-ada'"),
        ("scoped_entitlements", "org_id = 'org-ada'"),
        ("grants", "principal_id = 'ada'"),
        ("delegations", "subject_id = 'ada'"),
        ("approvals", "subject_id = 'ada'"),
        ("authorizations", "user_id = 'ada'"),
    ];
    let tenants: BTreeSet<&str> = of_ada.iter().map(|(table, _)| *table).collect();
    // Plans are for every principal to see, the others for none.
    let of_no_tenant = |table: &&str| ["plans", "signing_keys", "sign_in_blocks"].contains(table);
    let tables: BTreeSet<&str> = world.identity.tables().iter().copied().filter(|table| !of_no_tenant(table)).collect();
    assert_eq!(tenants, tables);
    let eve = Scope::member("org-eve".parse().unwrap(), "eve");
    let ada = Scope::member("org-ada".parse().unwrap(), "ada");
    for (table, rows) in of_ada {
        for (scope, sees) in [(&eve, false), (&Scope::default(), false), (&ada, true), (&Scope::platform(), true)] {
            let mut tx = reader.read(scope).await.unwrap();
            let select = format!("SELECT count(*) FROM identity.{table} WHERE {rows}");
            let seen: i64 = sqlx::query_scalar(AssertSqlSafe(select)).fetch_one(&mut *tx).await.unwrap();
            assert_eq!(seen > 0, sees, "{table} as {scope:?}");
        }
        let all = format!("SELECT count(*) FROM identity.{table}");
        let mut nobody = reader.read(&Scope::default()).await.unwrap();
        let unscoped: i64 = sqlx::query_scalar(AssertSqlSafe(all)).fetch_one(&mut *nobody).await.unwrap();
        assert_eq!(unscoped, 0, "{table} without a scope, also after another scope on the same connection");
        drop(nobody);
        for write in
            [format!("DELETE FROM identity.{table}"), format!("UPDATE identity.{table} SET org_id = 'org-eve'")]
        {
            let mut ada = reader.read(&ada).await.unwrap();
            ada.execute("SET default_transaction_read_only = off").await.unwrap();
            let written = sqlx::query(AssertSqlSafe(write)).execute(&mut *ada).await;
            let code = written.unwrap_err().into_database_error().and_then(|e| e.code().map(|c| c.into_owned()));
            assert_eq!(code.as_deref(), Some("42501"), "{table}");
        }
    }
    let mut platform = reader.read(&Scope::platform()).await.unwrap();
    let vault = sqlx::query("SELECT * FROM vault.secrets").execute(&mut *platform).await;
    assert!(vault.is_err());
    let open: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'identity'::regnamespace AND c.relkind = 'r'
         AND NOT (c.relrowsecurity AND c.relforcerowsecurity)",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    assert_eq!(open, Vec::<String>::new(), "row-level security is forced everywhere");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrating_twice_changes_nothing_and_a_newer_or_changed_schema_is_refused() {
    let (server, _dir) = database().await;
    let pool = pool(&server).await;
    migrate(&pool, &[]).await.unwrap();
    let identity = Identity::new(SecretStore::open(pool.clone(), kek()).await.unwrap());
    let projections: [&dyn Projection; 1] = [&identity];
    let (one, two) = tokio::join!(migrate(&pool, &projections), migrate(&pool, &projections));
    let applied = [one.unwrap().applied, two.unwrap().applied].concat();
    let steps = identity.migrations().iter().map(|step| format!("identity {} {}", step.version, step.name));
    assert_eq!(applied, steps.collect::<Vec<_>>());

    raw_sql("UPDATE symbia.migration SET checksum = 'x' WHERE schema = 'identity'").execute(&pool).await.unwrap();
    let changed = migrate(&pool, &projections).await.unwrap_err();
    assert!(matches!(&changed, MigrateError::Changed { schema, version: 1, .. } if schema == "identity"));
    raw_sql("INSERT INTO symbia.migration VALUES ('identity', 1000, 'later', '')").execute(&pool).await.unwrap();
    let newer = migrate(&pool, &projections).await.unwrap_err();
    let known_steps = identity.migrations().len();
    assert!(matches!(&newer, MigrateError::Newer { found: 1000, known, .. } if *known as usize == known_steps));
    assert!(newer.to_string().contains("run the newer build"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_written_once_wrapped_and_gone_when_destroyed() {
    let (server, _dir) = database().await;
    let pool = pool(&server).await;
    migrate(&pool, &[]).await.unwrap();
    let store = SecretStore::open(pool.clone(), kek()).await.unwrap();
    let hash = Zeroizing::new("$2b$12$hash".to_owned());
    store.put_secret("pw", &hash).await.unwrap();
    store.put_secret("pw", &hash).await.unwrap();
    let other = store.put_secret("pw", &Zeroizing::new("other".to_owned())).await;
    assert!(matches!(other, Err(SecretError::Taken(_))));
    assert_eq!(store.secret("pw").await.unwrap(), Some(hash.clone()));
    let key = SubjectKey::generate("ada");
    store.put_subject_key(&key).await.unwrap();
    let sealed = key.seal("Ada");
    assert_eq!(store.subject_key("ada").await.unwrap().unwrap().open(&sealed).unwrap(), "Ada");

    let rows = sqlx::query("SELECT wrapped FROM vault.secrets").fetch_all(&pool).await.unwrap();
    for row in rows {
        let wrapped: Vec<u8> = row.get(0);
        assert!(!wrapped.windows(hash.len()).any(|w| w == hash.as_bytes()));
        assert!(!wrapped.windows(32).any(|w| w == key.bytes()));
    }
    // An entry moved to another reference does not open there.
    raw_sql("INSERT INTO vault.secrets (kind, ref, nonce, wrapped) SELECT kind, 'stolen', nonce, wrapped FROM vault.secrets WHERE ref = 'pw'")
        .execute(&pool)
        .await
        .unwrap();
    assert!(matches!(store.secret("stolen").await, Err(SecretError::Corrupt(_))));

    assert!(store.destroy_subject_key("ada").await.unwrap());
    assert!(!store.destroy_subject_key("ada").await.unwrap());
    assert!(store.subject_key("ada").await.unwrap().is_none());
    assert!(matches!(store.put_subject_key(&key).await, Err(SecretError::Destroyed(_))));
    let foreign =
        KeyEncryptionKey::new(&Zeroizing::new(std::array::from_fn(|i| u8::try_from(i * 3).unwrap()))).unwrap();
    assert!(matches!(SecretStore::open(pool, foreign).await, Err(SecretError::OtherKey { .. })));
    assert!(matches!(KeyEncryptionKey::new(&Zeroizing::new([7; 32])), Err(SecretError::WeakKey)));
    assert!(!format!("{store:?}").contains("0, 1, 2"));
}
