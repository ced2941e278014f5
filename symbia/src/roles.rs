//! The roles a process can play beside serving and working: project, migrate. `up` plays them all.

use std::{process::ExitCode, sync::Arc};

use anyhow::Context;
use symbia_nats::topology;
use symbia_projections::{
    Projection, ProjectorHandle, ProjectorOptions,
    assistants::Assistants,
    fixed_keys,
    identity::Identity,
    integrations::Integrations,
    messaging::Messaging,
    migrate,
    models::Models,
    network::Network,
    secrets::{KeyEncryptionKey, SecretStore},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Ended,
    config::Config,
    connect::{Addresses, Connected},
    depths,
    home::Home,
    log::refuse_unfinished,
};

/// Every projection of the platform.
pub fn projections(config: &Config, secrets: &SecretStore) -> Vec<Arc<dyn Projection>> {
    vec![
        Arc::new(Identity::new(secrets.clone())),
        Arc::new(Messaging::new(secrets.clone())),
        Arc::new(Assistants),
        Arc::new(Integrations),
        Arc::new(Models),
        Arc::new(Network::showing(config.mesh.shown)),
    ]
}

/// Refuses a database that has not this build's tables, and gives the secret store.
pub async fn checked_secrets(config: &Config, home: &Home, house: &Connected) -> anyhow::Result<SecretStore> {
    // The store cannot be opened without its own.
    symbia_projections::check(&house.pool, &[]).await?;
    let secrets = secrets(home, house).await?;
    let projections = projections(config, &secrets);
    let borrowed: Vec<&dyn Projection> = projections.iter().map(AsRef::as_ref).collect();
    symbia_projections::check(&house.pool, &borrowed).await?;
    Ok(secrets)
}

/// The secret store, opened with the data directory's key-encryption key.
pub async fn secrets(home: &Home, house: &Connected) -> anyhow::Result<SecretStore> {
    let mut keys = home.keks()?.into_iter().rev().map(|key| KeyEncryptionKey::new(&key));
    let oldest = keys.next().context("the key-encryption key's file is empty")??;
    let kek = keys.try_fold(oldest, |former, key| key.map(|key| key.following(former)))?;
    SecretStore::open(house.pool.clone(), kek).await.context("the secret store cannot be opened")
}

/// Creates or upgrades keys, streams and tables.
pub async fn migrate_all(config: &Config, home: &Home, house: &Connected) -> anyhow::Result<()> {
    refuse_unfinished(home)?;
    migrate_unmarked(config, home, house).await
}

/// The same while an import or restore is being finished.
pub async fn migrate_unmarked(config: &Config, home: &Home, house: &Connected) -> anyhow::Result<()> {
    topology::ensure(&house.js, config.replicas).await?;
    // The tables must stand before the secret store can be opened, and the projections are built over the store.
    migrate(&house.pool, &[]).await?;
    let projections = projections(config, &secrets(home, house).await?);
    let borrowed: Vec<&dyn Projection> = projections.iter().map(AsRef::as_ref).collect();
    let done = migrate(&house.pool, &borrowed).await?;
    for step in &done.applied {
        tracing::info!(step, "migrated");
    }
    for name in &done.to_rebuild {
        tracing::warn!(name, "its tables changed: run `symbia projection rebuild`");
    }
    Ok(())
}

/// `symbia migrate`.
pub async fn migrate_alone(config: Config) -> Ended {
    let home = Home::open(&config)?;
    let keys = Arc::new(home.ensure_key_ring()?);
    let house = Connected::to(&Addresses::find(&config, &home)?, keys).await?;
    migrate_all(&config, &home, &house).await?;
    Ok(ExitCode::SUCCESS)
}

/// `symbia project`.
pub async fn project_alone(config: Config) -> Ended {
    let (home, house) = Connected::open(&config).await?;
    let secrets = checked_secrets(&config, &home, &house).await?;
    let stop = stop_on_signal();
    let projectors = project(&config, &house, &secrets);
    stop.cancelled().await;
    for projector in projectors {
        projector.stop().await;
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts the projectors.
pub fn project(config: &Config, house: &Connected, secrets: &SecretStore) -> Vec<ProjectorHandle> {
    let keys = fixed_keys(house.keys.as_ref().clone());
    let start = |projection| {
        ProjectorOptions::new(house.pool.clone(), house.js.clone(), keys.clone()).build(projection).start()
    };
    let projections = projections(config, secrets);
    tokio::spawn(depths::lag(house.clone(), projections.clone()));
    projections.into_iter().map(start).collect()
}

/// Cancelled by SIGINT or SIGTERM; a second one ends the process at once.
pub fn stop_on_signal() -> CancellationToken {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        for round in 0..2 {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            if round == 1 {
                std::process::exit(130);
            }
            told.cancel();
        }
    });
    stop
}
