//! Serving the APIs: one router per service, each on its port.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use symbia_api::{
    Platform, assistants,
    feed::{self, Feed, FeedConfig, PrivateConversations},
    http::{Health, ServiceApp, discovery::ServiceInfo, listen},
    identity::{self, Directory, SigningKeys, Tokens, answer_broker},
    integrations,
    mail::{FileMailer, SharedMailer, SmtpMailer},
    messaging, models, network,
    platform::{Parts, SecretText, Settings},
};
use symbia_commands::identity::LIFETIME as SESSION_LIFETIME;
use symbia_events::Service;
use symbia_projections::{Positions, ReadPool, fixed_keys};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    Ended,
    cli::ServeOptions,
    config::{Config, OLLAMA_PORT},
    connect::{Connected, broker},
    doctor,
    home::Home,
    inference,
    roles::{checked_secrets, secrets, stop_on_signal},
    telemetry,
};

const READ_CONNECTIONS: u32 = 16;
/// How long serving waits for the first token signing key.
const KEYS_WITHIN: Duration = Duration::from_secs(5);

/// `symbia serve`.
pub async fn run(config: Config, options: ServeOptions) -> Ended {
    let (home, house) = Connected::open(&config).await?;
    checked_secrets(&config, &home, &house).await?;
    let services = if options.services.is_empty() { Service::ALL.to_vec() } else { options.services };
    let stop = stop_on_signal();
    let durability = doctor::durability(&config, home.running()).await.unwrap_or_else(|warning| warning);
    let mut servers = serve(&config, &home, &house, &services, &durability, &stop).await?;
    while let Some(ended) = servers.join_next().await {
        ended?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Binds and serves; each server ends after `stop`, with its requests answered.
pub async fn serve(
    config: &Config,
    home: &Home,
    house: &Connected,
    services: &[Service],
    durability: &str,
    stop: &CancellationToken,
) -> anyhow::Result<JoinSet<()>> {
    // All ports first: an occupied one stops everything before anything is served.
    let mut bound = Vec::new();
    for service in services {
        bound.push((*service, listen::bind(*service, &config.host, config.port(*service)).await?));
    }
    let ollama = match config.ollama_port {
        Some(port) if services.contains(&Service::Models) => {
            Some(listen::bind_beside(Service::Models, OLLAMA_PORT.to_owned(), &config.host, port).await?)
        }
        _ => None,
    };
    let platform = platform(config, home, house, durability).await?;
    // A command worker may come later than this process: then the keys do too, and health tells.
    match tokio::time::timeout(KEYS_WITHIN, platform.ensure_signing_key()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error = error.message(), "there is no token signing key yet"),
        Err(_) => tracing::warn!("there is no token signing key yet: is a command worker running?"),
    }
    tokio::spawn(platform.clone().keep_signing_keys(config.token_key_lifetime, stop.clone()));
    let feed = Feed::new(
        house.client.clone(),
        fixed_keys(house.keys.as_ref().clone()),
        Arc::new(PrivateConversations),
        FeedConfig { cors: config.server.cors.clone(), ..FeedConfig::default() },
    );
    let mut servers = JoinSet::new();
    if services.contains(&Service::Identity)
        && let Some(url) = &house.callout
    {
        let (client, issuer) = (broker(url).await?, home.broker_issuer()?);
        let (directory, feed, stop) = (Directory::new(platform.clone()), feed.clone(), stop.clone());
        servers.spawn(async move {
            if let Err(error) = answer_broker(directory, client, issuer, feed, stop).await {
                tracing::error!(%error, "clients of the broker are not let in: it cannot ask who they are");
            }
        });
    }
    for (service, listener) in bound {
        let health = Health::new(service, env!("CARGO_PKG_VERSION"));
        let app = app(config, &platform, &feed, service, &health).root(feed::routes(&feed, &health));
        // Where anybody may come in, only on the port that is set aside for it.
        let app = if config.production { app } else { app.undocumented(telemetry::routes()) };
        health.set_ready(true);
        servers.spawn(app.build().serve(listener, stop.clone()));
    }
    if let Some(listener) = ollama {
        let health = Health::new(Service::Models, env!("CARGO_PKG_VERSION"));
        let app = models::ollama::service(platform, health.clone(), config.server.clone());
        health.set_ready(true);
        servers.spawn(app.build().serve(listener, stop.clone()));
    }
    Ok(servers)
}

fn app(config: &Config, platform: &Platform, feed: &Feed, service: Service, health: &Health) -> ServiceApp {
    let server = config.server.clone();
    match service {
        Service::Identity => identity::service(platform.clone(), health.clone(), server),
        Service::Messaging => messaging::service(platform.clone(), feed, health.clone(), server),
        Service::Assistants => assistants::service(platform.clone(), health.clone(), server),
        Service::Integrations => {
            let providers = (config.models.described(inference::provider(config)), config.models.doors());
            let (services, options) = (config.services(), (config.linking.clone(), config.channels.served.clone()));
            integrations::service((platform.clone(), feed), providers, services, options, health.clone(), server)
        }
        Service::Models => models::service(platform.clone(), health.clone(), server),
        Service::Network => network::service(platform.clone(), feed, config.network(), health.clone(), server),
        // No routes of its own yet: health, documents, discovery and the event feed.
        _ => {
            platform.watch_bus_and_database(health);
            let info = ServiceInfo::new(service, format!("Symbia {service}"), format!("The {service} service."));
            let directory = Arc::new(Directory::new(platform.clone()));
            ServiceApp::new(info, health.clone(), server).authenticator(directory)
        }
    }
}

// In production, a mailbox that nobody reads would look like mail that was sent.
fn mailer(config: &Config, home: &Home) -> anyhow::Result<Option<SharedMailer>> {
    if let Some(options) = &config.smtp {
        return Ok(Some(SharedMailer(Arc::new(SmtpMailer::new(options.clone())?))));
    }
    let files = || SharedMailer(Arc::new(FileMailer::new(home.dir().join("mail"))));
    Ok((!config.production).then(files))
}

async fn platform(config: &Config, home: &Home, house: &Connected, durability: &str) -> anyhow::Result<Platform> {
    let issuer = if config.base_url.is_empty() { "symbia/identity" } else { config.base_url.as_str() };
    let tokens = match &config.session_secret {
        Some(secret) => Tokens::with_secret(secret, issuer, SESSION_LIFETIME).context("SESSION_SECRET")?,
        // The key pairs are in the log and the secret store.
        None => Tokens::new(SigningKeys::default(), issuer, SESSION_LIFETIME),
    };
    let reader = ReadPool::new(house.database.clone(), READ_CONNECTIONS);
    Ok(Platform::new(Parts {
        nats: house.client.clone(),
        keys: Arc::clone(&house.keys),
        bus: house.bus.clone(),
        positions: Positions::follow(house.client.clone(), reader.clone()),
        reader,
        secrets: secrets(home, house).await?,
        tokens,
        settings: Settings {
            production: config.production,
            bcrypt_cost: config.bcrypt_cost,
            setup_token: Some(SecretText::new(home.secret("setup-token")?.as_str())),
            open_bootstrap: config.open_bootstrap,
            enrolment: config.enrolment,
            enrolment_token: Some(SecretText::new(home.secret("enrolment-token")?.as_str())),
            mailer: mailer(config, home)?,
            cookie_secure: config.production,
            base_url: config.base_url.clone(),
            durability: durability.to_owned(),
            egress: config.egress.clone(),
            ..Settings::default()
        },
    }))
}
