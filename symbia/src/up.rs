//! `symbia up`: everything in one process, on servers of our own unless others are configured.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    os::unix::fs::PermissionsExt,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::json;
use symbia_events::Service;
use symbia_nats::{
    append::Grouping,
    broker::{Broker, BrokerOptions, Durability, StoreKey},
    callout::SUBJECT,
    connections::{END, OF_ALL, OF_ONE},
    process::port_is_free,
};
use symbia_projections::server::{DatabaseServer, DatabaseServerOptions};
use symbia_workers::assistants::load_seed;
use zeroize::Zeroizing;

use crate::{
    Ended,
    cli::{DurabilityOption, UpOptions, WorkRole},
    config::Config,
    connect::{Addresses, Connected, INBOX},
    doctor::{self, binary_dirs},
    first_run::Admin,
    home::{Home, Running},
    inference::InferenceProcess,
    log::refuse_unfinished,
    roles, serve, work,
};

const NATS_PORT: u16 = 4222;
/// The platform's own user at our broker.
const PLATFORM_USER: &str = "symbia";
/// Who answers our broker when it asks about clients.
const CALLOUT_USER: &str = "callout";

/// Runs until a signal.
pub async fn run(mut config: Config, options: UpOptions) -> Ended {
    let started = Instant::now();
    let scratch = if options.memory { Some(scratch(&mut config)?) } else { None };
    if options.port_offset > 0 {
        for service in Service::ALL {
            config.ports.entry(service).or_insert(service.default_port() + options.port_offset);
        }
    }
    let home = Home::open(&config)?;
    refuse_unfinished(&home)?;
    let admin = if options.skip_admin { None } else { Some(options.admin.clone()) };
    let stop = roles::stop_on_signal();

    let servers = Servers::start(&config, &home, options.durability, options.nats_port).await?;
    if servers.broker.is_some() {
        // Nobody else is at this broker: traffic that is waited for to go elsewhere would have nowhere to go.
        config.server.limits.drain = Duration::ZERO;
    }
    let addresses = servers.addresses(&config)?;
    let keys = Arc::new(home.ensure_key_ring()?);
    let house = Connected::to(&addresses, keys).await?;
    roles::migrate_all(&config, &home, &house).await?;

    let secrets = roles::secrets(&home, &house).await?;
    let projectors = roles::project(&config, &house, &secrets);
    let grouping = match options.durability {
        DurabilityOption::Fsync => Grouping::Group,
        DurabilityOption::Interval => Grouping::Single,
    };
    let mut workers = work::start(&config, &house, &secrets, &WorkRole::ALL, grouping, &stop).await?;
    let durability = servers.durability(&config, options.durability).await;
    let mut apis = serve::serve(&config, &home, &house, &Service::ALL, &durability, &stop).await?;
    home.note_running(&Running {
        pid: std::process::id(),
        nats_url: addresses.nats.clone(),
        callout_url: addresses.callout.clone(),
        database_url: addresses.database.clone(),
        durability: durability.clone(),
    })?;
    let inference = InferenceProcess::start(&config, &home).await?;

    let took = started.elapsed();
    // The rule engine loads it too, whenever it starts; ready means that the assistant is there.
    if let Err(error) = load_seed(house.bus.clone(), Arc::clone(&house.keys)).await {
        tracing::warn!(%error, "the first assistant is not loaded yet");
    }
    let mut ended = Ok(ExitCode::SUCCESS);
    if let Some(admin) = admin
        && let Err(error) = first_admin(&config, &home, &admin).await
    {
        // Without its first super admin the platform is of no use: stop in order, and say so.
        ended = Err(error);
        stop.cancel();
    }

    if ended.is_ok() {
        banner(&config, &home, &servers, &inference, &durability, took);
    }

    stop.cancelled().await;
    home.forget_running();
    inference.stop().await;
    while apis.join_next().await.is_some() {}
    while workers.join_next().await.is_some() {}
    for projector in projectors {
        projector.stop().await;
    }
    house.pool.close().await;
    servers.stop().await;
    drop(scratch);
    ended
}

// PostgreSQL may run as another user, who must be able to pass through.
fn scratch(config: &mut Config) -> anyhow::Result<tempfile::TempDir> {
    let dir = tempfile::Builder::new().prefix("symbia-").tempdir()?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711))?;
    config.data_dir = dir.path().join("data");
    Ok(dir)
}

/// The servers that we start, where none are configured.
pub struct Servers {
    broker: Option<Broker>,
    broker_password: Zeroizing<String>,
    callout_password: Zeroizing<String>,
    database: Option<DatabaseServer>,
}

impl Servers {
    /// Starts them on the data directory; without a port the broker takes the usual one when it is free.
    pub async fn start(
        config: &Config,
        home: &Home,
        durability: DurabilityOption,
        nats_port: Option<u16>,
    ) -> anyhow::Result<Self> {
        let broker_password = home.secret("nats-symbia")?;
        let callout_password = home.secret("nats-callout")?;
        let broker = async {
            if config.nats_url.is_some() {
                return anyhow::Ok(None);
            }
            let mut broker = BrokerOptions::new(home.dir().join("nats"));
            broker.port = match nats_port {
                Some(port) => port,
                None if port_is_free(NATS_PORT)? => NATS_PORT,
                None => 0,
            };
            broker.durability = match durability {
                DurabilityOption::Fsync => Durability::Fsync,
                DurabilityOption::Interval => Durability::Interval,
            };
            broker.encryption_key = Some(StoreKey::new(home.secret("nats-store")?.to_string()));
            broker.binary_dirs = binary_dirs();
            broker.extra_config =
                authorization(&broker_password, &callout_password, &home.broker_issuer()?.public_key());
            Ok(Some(Broker::start(broker).await?))
        };
        let database = async {
            if config.database_url.is_some() {
                return anyhow::Ok(None);
            }
            Ok(Some(DatabaseServer::start(DatabaseServerOptions::new(home.dir().join("postgres"))).await?))
        };
        let (broker, database) = tokio::join!(broker, database);
        Ok(Servers { broker: broker?, database: database?, broker_password, callout_password })
    }

    /// Where they, or the configured ones, are.
    pub fn addresses(&self, config: &Config) -> anyhow::Result<Addresses> {
        let nats = match (&self.broker, &config.nats_url) {
            (Some(broker), _) => Zeroizing::new(with_user(&broker.url(), PLATFORM_USER, &self.broker_password)),
            (None, Some(url)) => url.clone(),
            (None, None) => anyhow::bail!("no broker"),
        };
        let callout = match &self.broker {
            Some(broker) => Some(Zeroizing::new(with_user(&broker.url(), CALLOUT_USER, &self.callout_password))),
            None => config.nats_callout.clone(),
        };
        let database = match (&self.database, &config.database_url) {
            (Some(database), _) => Zeroizing::new(database.url()),
            (None, Some(url)) => url.clone(),
            (None, None) => anyhow::bail!("no database"),
        };
        Ok(Addresses { nats, database, callout })
    }

    async fn durability(&self, config: &Config, option: DurabilityOption) -> String {
        match (&self.broker, option) {
            (Some(_), DurabilityOption::Fsync) => "every acknowledged write is on disk".to_owned(),
            (Some(_), DurabilityOption::Interval) => {
                "NATS ACKNOWLEDGES BEFORE IT SYNCS: a crash of the operating system may lose the last 0.1 s".to_owned()
            }
            (None, _) => doctor::durability(config, None).await.unwrap_or_else(|warning| warning.to_uppercase()),
        }
    }

    /// Stops them, the log last: what still runs may want to write to it.
    pub async fn stop(self) {
        if let Some(database) = self.database {
            database.stop().await;
        }
        if let Some(broker) = self.broker {
            broker.stop().await;
        }
    }
}

// Who is neither the platform nor the one who answers is asked about: a principal's token opens its organizations' subjects.
// Nobody but who answers sees the credentials that pass, not even the platform's own connections: the questions go to the
// system account, where clients' connections are seen and ended, too. With any other account beside it the global one, where the
// log is, would lose JetStream.
fn authorization(platform: &str, callout: &str, issuer: &str) -> String {
    format!(
        "accounts {{\n  $SYS {{ users: [ {{ user: {CALLOUT_USER}, password: \"{callout}\", permissions: {{ \
         publish: [\"{OF_ALL}\", \"{OF_ONE}\", \"{END}\"], subscribe: [\"{SUBJECT}\", \"{INBOX}.>\"], \
         allow_responses: true }} }} ] }}\n}}\n\
         authorization {{\n  users: [ {{ user: {PLATFORM_USER}, password: \"{platform}\", \
         permissions: {{ subscribe: {{ deny: [\"$SYS.>\"] }} }} }} ]\n  \
         auth_callout {{ issuer: {issuer}, account: \"$SYS\", auth_users: [ {PLATFORM_USER}, {CALLOUT_USER} ] }}\n}}\n"
    )
}

fn with_user(url: &str, user: &str, password: &str) -> String {
    url.replacen("nats://", &format!("nats://{user}:{password}@"), 1)
}

fn banner(
    config: &Config,
    home: &Home,
    servers: &Servers,
    inference: &InferenceProcess,
    durability: &str,
    took: Duration,
) {
    let urls: BTreeMap<&str, String> =
        Service::ALL.into_iter().map(|s| (s.name(), format!("http://localhost:{}", config.port(s)))).collect();
    let nats = servers.broker.as_ref().map(Broker::url);
    let metrics = inference.metrics().map(|address| format!("http://{address}/metrics"));
    if config.json {
        let line = json!({
            "ready": true, "services": urls, "nats": nats, "dataDir": home.dir(), "durability": durability,
            "inferenceMetrics": metrics,
        });
        println!("{line}");
        return;
    }
    println!("\nSymbia is up after {:.1} s.\n", took.as_secs_f32());
    for service in Service::ALL {
        println!("  {:<14} {}", service.name(), urls[service.name()]);
    }
    if let Some(nats) = nats {
        println!("  {:<14} {nats}, with a token as password", "commands");
    }
    if let Some(metrics) = metrics {
        println!("  {:<14} {metrics}", "inference");
    }
    println!("\n  Data in {}; {durability}.", home.dir().display());
    println!("  Ctrl-C stops everything; nothing is lost.\n");
}

async fn first_admin(config: &Config, home: &Home, options: &crate::cli::AdminOptions) -> anyhow::Result<()> {
    let identity = format!("http://127.0.0.1:{}", config.port(Service::Identity));
    let state = reqwest::get(format!("{identity}/api/bootstrap/state")).await?.error_for_status()?;
    let state: serde_json::Value = state.json().await.context("the identity service does not answer")?;
    if state["initialized"] == true {
        return Ok(());
    }
    let options = options.clone();
    // Off the async threads: it may wait for a person to type.
    let Some(admin) = tokio::task::spawn_blocking(move || Admin::find(&options)).await?? else {
        if !std::io::stdin().is_terminal() {
            println!(
                "  There is no super admin yet: start with --admin-name, --admin-email, --admin-password-file and --admin-org.\n"
            );
        }
        return Ok(());
    };
    admin.claim(&identity, &home.secret("setup-token")?).await?;
    if !config.json {
        println!("The first super admin is created.");
    }
    Ok(())
}
