//! `symbia work`: command worker, timers, sealer, rule engine, mesh, LLM router, inference.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use symbia_api::integrations::OpenAiDialect;
use symbia_egress::Egress;
use symbia_events::Service;
use symbia_nats::{
    append::Grouping,
    store::{EventStore, StoreOptions},
};
use symbia_projections::{ReadPool, secrets::SecretStore};
use symbia_workers::{
    assistants::{Outside, RuleEngine, load_seed},
    command::{CommandWorker, Decider, Handlers, Options, Share},
    content_keys::ContentKeys,
    directory::DirectoryKeeper,
    egress_policies::{EgressPolicies, WayOut},
    identity::Housekeeping,
    integrations::{
        AccountLinker, Accounts, Anthropic, BatchLines, BatchRunner, Books, CallLimits, ChannelBridge, ChannelCourier,
        ChannelForwarder, ChannelKeeper, ChannelTeller, Channels, Discoverer, EmbeddingRouter, Enquiries,
        EvalScheduler, Evaluator, ImageRouter, Invoker, LlmRouter, LocalProvider, Meter, OpenAi, PassthroughDesk,
        Precedence, Prober, Providers, RouterOptions, Taking, TaskRouter,
    },
    messaging::{Eraser, Periods, Retention},
    models::{
        bootstrap::bootstrap,
        downloader::{Downloader, serve_searches},
        keeper::{ModelKeeper, record},
        pull::Puller,
    },
    network::{Liveness, MeshDeliverer, MeshKeeper},
    reactor::{Reactor, ReactorRunner, Together},
    seal::Sealer,
    sender::Sender,
    timer::TimerWorker,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    Ended,
    cli::{WorkOptions, WorkRole},
    config::Config,
    connect::Connected,
    depths, inference,
    roles::{checked_secrets, stop_on_signal},
};

const SEED_AGAIN: Duration = Duration::from_secs(2);
/// Connections on which the mesh's deliverer looks up what goes first.
const MESH_CONNECTIONS: u32 = 8;
/// Connections on which the rule engine looks up who lives outside.
const OUTSIDE_CONNECTIONS: u32 = 4;
/// Connections on which it is looked for what is kept no longer.
const RETENTION_CONNECTIONS: u32 = 1;
/// Connections on which channels, and the rule engine for them, look up what stands for which chat.
const CHANNEL_CONNECTIONS: u32 = 4;
/// Connections on which it is looked whether who set a schedule may still have models tried.
const SCHEDULE_CONNECTIONS: u32 = 1;
/// Connections on which the LLM router looks up keys, budgets and prices.
const BOOK_CONNECTIONS: u32 = 8;
/// Connections on which the provider of local models looks up how they are set.
const SETTING_CONNECTIONS: u32 = 2;
/// Connections on which it is looked up where an organization lets its calls go.
const EGRESS_CONNECTIONS: u32 = 2;
/// Connections on which it is looked up which providers are probed.
const PROBE_CONNECTIONS: u32 = 1;
/// What those act on who have models asked.
const ASKED: [&str; 8] = [
    "*.completion.*",
    "*.embedding.*",
    "*.image.*",
    "*.task.*",
    "*.passthrough.*",
    "*.evaluation.*",
    "*.batch.*",
    "*.stored-file.*",
];

/// Runs the subcommand.
pub async fn run(config: Config, options: WorkOptions) -> Ended {
    let stop = stop_on_signal();
    let roles = if options.roles.is_empty() { WorkRole::ALL.to_vec() } else { options.roles };
    // It needs nothing but a broker.
    if roles == [WorkRole::Inference] {
        return inference::run(&config, stop).await;
    }
    let (home, house) = Connected::open(&config).await?;
    let secrets = checked_secrets(&config, &home, &house).await?;
    let mut workers = start(&config, &house, &secrets, &roles, Grouping::Group, &stop).await?;
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts workers; each ends after `stop`, with what it has begun done.
pub async fn start(
    config: &Config,
    house: &Connected,
    secrets: &SecretStore,
    roles: &[WorkRole],
    grouping: Grouping,
    stop: &CancellationToken,
) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let (client, keys) = (&house.client, &house.keys);
    let mut workers = JoinSet::new();
    let options = StoreOptions { grouping, ..StoreOptions::default() };
    let decider = Decider::new(EventStore::new(client.clone(), Arc::clone(keys), &options), Handlers::all());
    let share = if roles.contains(&WorkRole::Command) { Share::All } else { Share::ReactorsOwn };
    let taking = Taking::new(decider.clone(), decider.here(share));
    house.bus.decide_here(taking.clone());
    let (bus, sender) = (&house.bus, Sender::new(house.bus.clone(), Arc::clone(keys)));
    for role in roles {
        let stop = stop.clone();
        match role {
            WorkRole::Command => {
                workers.spawn(depths::queues(house.js.clone(), stop.clone()));
                let worker = CommandWorker::new(client.clone(), decider.clone(), Options::default());
                workers.spawn(async move {
                    worker.run(stop).await;
                    Ok(())
                });
            }
            WorkRole::Timer => {
                let housekeeping = Housekeeping::new(client.clone(), sender.clone(), secrets.clone());
                workers.spawn(react(house.clone(), housekeeping, stop.clone()));
                let timers = TimerWorker::new(client.clone(), Arc::clone(keys));
                let eraser = Eraser::new(client.clone(), sender.clone(), secrets.clone(), Periods::default());
                workers.spawn(react(house.clone(), eraser, stop.clone()));
                let reader = ReadPool::new(house.database.clone(), RETENTION_CONNECTIONS);
                let day = Periods::default().day;
                let retention = Retention::new(client.clone(), sender.clone(), reader, day);
                workers.spawn(react(house.clone(), retention, stop.clone()));
                workers.spawn(async move {
                    timers.run(stop).await;
                    Ok(())
                });
            }
            WorkRole::Seal => {
                let sealer = Sealer::new(client.clone(), Arc::clone(keys), bus.clone());
                workers.spawn(async move {
                    sealer.run(stop).await;
                    Ok(())
                });
            }
            WorkRole::RuleEngine => {
                let content_keys = ContentKeys::new(secrets.clone());
                let reader = ReadPool::new(house.database.clone(), OUTSIDE_CONNECTIONS);
                let outside = Outside::new(reader, Arc::clone(keys), content_keys.clone(), sender.clone());
                let reader = ReadPool::new(house.database.clone(), CHANNEL_CONNECTIONS);
                let (nats, ring, texts) = (client.clone(), Arc::clone(keys), content_keys.clone());
                let forwarder = ChannelForwarder::new(nats, ring, sender.clone(), texts, reader);
                let engine = RuleEngine::open(client.clone(), Arc::clone(keys), sender.clone(), content_keys).await?;
                workers.spawn(react(house.clone(), engine.telling(outside).forwarding(forwarder), stop.clone()));
                workers.spawn(seed(house.clone(), stop));
            }
            WorkRole::Directory => {
                let keeper = DirectoryKeeper::new(bus.clone(), Arc::clone(keys), secrets.clone());
                workers.spawn(react(house.clone(), keeper, stop));
            }
            WorkRole::Mesh => {
                let options = config.mesh.deliveries.clone();
                let reader = ReadPool::new(house.database.clone(), MESH_CONNECTIONS);
                let (nats, ring) = (client.clone(), Arc::clone(keys));
                let deliverer =
                    MeshDeliverer::new(nats.clone(), ring, sender.clone(), reader.clone(), secrets.clone(), options);
                let (courier, ends) = (deliverer.courier(), stop.clone());
                workers.spawn(async move {
                    courier.run(ends).await;
                    Ok(())
                });
                workers.spawn(react(house.clone(), deliverer, stop.clone()));
                workers.spawn(depths::meshes(reader.clone(), stop.clone()));
                workers.spawn(react(
                    house.clone(),
                    MeshKeeper::new(nats.clone(), sender.clone(), reader),
                    stop.clone(),
                ));
                let liveness = Liveness::new(nats, sender.clone(), config.mesh.lease);
                workers.spawn(async move {
                    liveness.run(stop).await;
                    Ok(())
                });
            }
            WorkRole::LlmRouter => {
                let sender = sender.clone();
                let policies = policies(house);
                let (providers, content_keys) =
                    (providers(config, house, &policies)?, ContentKeys::new(secrets.clone()));
                tracing::info!(providers = providers.names(), "language models");
                let reader = ReadPool::new(house.database.clone(), BOOK_CONNECTIONS);
                let books =
                    Arc::new(Books::new(reader.clone(), secrets.clone(), sender.clone()).lending(client.clone()));
                let egress = WayOut::new(Egress::new(config.egress.clone())?, policies);
                let discoverer = Discoverer::new(sender.clone(), egress.clone(), books.clone());
                workers.spawn(react(house.clone(), discoverer, stop.clone()));
                let (of, ring, vault) = (client.clone(), Arc::clone(keys), secrets.clone());
                let (lender, out) = (books.clone(), egress.clone());
                let linker = AccountLinker::new(of, ring, sender.clone(), reader.clone(), vault, out, lender)
                    .with_own(config.linking.own.clone());
                workers.spawn(react(house.clone(), linker, stop.clone()));
                let limits = CallLimits::new(client.clone());
                let invoker = Invoker::new(sender.clone(), content_keys.clone(), reader, egress, books.clone(), limits);
                workers.spawn(react(house.clone(), invoker, stop.clone()));
                let books: Arc<dyn Accounts> = books;
                let precedence = Precedence::new(config.models.batch_lines);
                let options = RouterOptions { precedence, ..RouterOptions::default() };
                let (texts, read) = (content_keys.clone(), providers.clone());
                let (of, ring, lent) = (client.clone(), Arc::clone(keys), Arc::clone(&books));
                let image = ImageRouter::open(
                    of.clone(),
                    Arc::clone(&ring),
                    sender.clone(),
                    texts.clone(),
                    read.clone(),
                    Arc::clone(&lent),
                    &options,
                )
                .await?;
                let task = TaskRouter::open(
                    of.clone(),
                    Arc::clone(&ring),
                    sender.clone(),
                    texts.clone(),
                    read.clone(),
                    Arc::clone(&lent),
                    &options,
                )
                .await?;
                let embedding = EmbeddingRouter::open(of, ring, sender.clone(), texts, read, lent, &options).await?;
                let embedding = Arc::new(embedding);
                let (ring, lent) = (Arc::clone(keys), Arc::clone(&books));
                let passthrough = PassthroughDesk::new(client, ring, sender.clone(), content_keys.clone(), lent);
                let meter = Meter::new(sender.clone(), Arc::clone(&books));
                let reader = ReadPool::new(house.database.clone(), SCHEDULE_CONNECTIONS);
                let scheduler = EvalScheduler::new(client.clone(), sender.clone(), reader);
                workers.spawn(react(house.clone(), scheduler, stop.clone()));
                let evaluator = Evaluator::new(client.clone(), Arc::clone(keys), sender.clone(), content_keys.clone());
                let (nats, ring, texts) = (client.clone(), Arc::clone(keys), content_keys.clone());
                let dialect = Arc::new(OpenAiDialect);
                let batches = BatchRunner::new(nats, ring, sender.clone(), texts, dialect, config.models.batch_lines);
                let reader = ReadPool::new(house.database.clone(), PROBE_CONNECTIONS);
                let prober =
                    Prober::new(client.clone(), reader, providers.clone(), Arc::clone(&books), config.probes.clone());
                let ends = stop.clone();
                workers.spawn(async move {
                    prober.run(ends).await;
                    Ok(())
                });
                let enquiries =
                    Enquiries::new(client.clone(), providers.clone(), Arc::clone(&books), content_keys.clone());
                workers.spawn({
                    let stop = stop.clone();
                    async move {
                        enquiries.run(stop).await;
                        Ok(())
                    }
                });
                let router =
                    LlmRouter::open(client.clone(), Arc::clone(keys), sender, content_keys, providers, options).await?;
                let router = Arc::new(router.with_accounts(books));
                taking.by(Arc::clone(&router));
                let lines = BatchLines::new(Arc::clone(&router), Arc::clone(&embedding));
                workers.spawn(react(house.clone(), lines, stop.clone()));
                let asking: Vec<Arc<dyn Reactor>> = vec![
                    router,
                    embedding,
                    Arc::new(image),
                    Arc::new(task),
                    Arc::new(passthrough),
                    Arc::new(meter),
                    Arc::new(evaluator),
                    Arc::new(batches),
                ];
                let gateway = Together::new("llm-router", (Service::Integrations, &ASKED), asking);
                workers.spawn(react(house.clone(), gateway, stop));
            }
            WorkRole::Channels => {
                let reader = ReadPool::new(house.database.clone(), CHANNEL_CONNECTIONS);
                let books = Books::new(reader.clone(), secrets.clone(), sender.clone()).lending(client.clone());
                let (nats, ring, vault) = (client.clone(), Arc::clone(keys), secrets.clone());
                let out = WayOut::new(Egress::new(config.egress.clone())?, policies(house));
                let messengers = config.channels.messengers(out);
                let (sender, books) = (sender.clone(), Arc::new(books));
                let channels = Channels::new(nats, ring, sender, reader, vault, books, bus.clone(), messengers);
                workers.spawn(react(house.clone(), ChannelKeeper::new(channels.clone()), stop.clone()));
                workers.spawn(react(house.clone(), ChannelBridge::new(channels.clone()), stop.clone()));
                workers.spawn(react(house.clone(), ChannelCourier::new(channels.clone()), stop.clone()));
                workers.spawn(react(house.clone(), ChannelTeller::new(channels.clone()), stop.clone()));
                let (polling, ends) = (channels.clone(), stop.clone());
                workers.spawn(async move {
                    polling.poll(ends).await;
                    Ok(())
                });
                workers.spawn(async move {
                    channels.answer(stop).await;
                    Ok(())
                });
            }
            WorkRole::Models => {
                let keeper = ModelKeeper::new(client.clone(), sender.clone());
                workers.spawn(react(house.clone(), keeper, stop.clone()));
                match config.pull_options() {
                    Ok(options) => {
                        let puller = Puller::new(options).context("models cannot be got")?;
                        let downloader = Downloader::new(client.clone(), sender.clone(), puller.clone());
                        workers.spawn(react(house.clone(), downloader, stop.clone()));
                        workers.spawn(serve_searches(client.clone(), puller, stop.clone()));
                    }
                    // Another process may have one.
                    Err(error) => tracing::warn!(%error, "no model directory here: this process gets no models"),
                }
                let (client, bus, keys) = (client.clone(), bus.clone(), Arc::clone(keys));
                let reader = ReadPool::new(house.database.clone(), SETTING_CONNECTIONS);
                let first = config.first_models();
                workers.spawn(async move {
                    tokio::join!(
                        bootstrap(first, bus.clone(), Arc::clone(&keys), reader.clone(), stop.clone()),
                        record(client, bus, keys, reader, stop),
                    );
                    Ok(())
                });
            }
            WorkRole::Inference => {
                let (config, client) = (config.clone(), client.clone());
                workers.spawn(async move { inference::serve(&config, client, stop).await });
            }
        }
    }
    Ok(workers)
}

async fn react<R: Reactor>(house: Connected, reactor: R, stop: CancellationToken) -> anyhow::Result<()> {
    ReactorRunner::new(house.client, house.keys, Arc::new(reactor)).run(stop).await;
    Ok(())
}

// A command worker may come later than this engine.
async fn seed(house: Connected, stop: CancellationToken) -> anyhow::Result<()> {
    let load = async {
        while let Err(error) = load_seed(house.bus.clone(), Arc::clone(&house.keys)).await {
            tracing::warn!(%error, "trying again");
            tokio::time::sleep(SEED_AGAIN).await;
        }
    };
    tokio::select! { () = load => {}, () = stop.cancelled() => {} }
    Ok(())
}

fn policies(house: &Connected) -> EgressPolicies {
    EgressPolicies::follow(ReadPool::new(house.database.clone(), EGRESS_CONNECTIONS), house.client.clone())
}

// The first that is ready is the default.
fn providers(config: &Config, house: &Connected, policies: &EgressPolicies) -> anyhow::Result<Providers> {
    let mut providers = Providers::default();
    if let Some(options) = inference::provider(config) {
        let reader = ReadPool::new(house.database.clone(), SETTING_CONNECTIONS);
        providers = providers.with(LocalProvider::new(house.client.clone(), options).set_by(reader));
    }
    let models = config.models.clone();
    let openai = OpenAi::new(models.openai).map_err(anyhow::Error::msg).context("OPENAI_BASE_URL cannot be used")?;
    let anthropic =
        Anthropic::new(models.anthropic).map_err(anyhow::Error::msg).context("ANTHROPIC_BASE_URL cannot be used")?;
    let hugging_face = OpenAi::hugging_face(models.hugging_face).map_err(anyhow::Error::msg);
    let hugging_face = hugging_face.context("HUGGINGFACE_BASE_URL cannot be used")?;
    let (openai, anthropic) = (openai.narrowed(policies.clone()), anthropic.narrowed(policies.clone()));
    Ok(providers.with(openai).with(anthropic).with(hugging_face.narrowed(policies.clone())))
}
