//! Configuration: read once from flags and environment, typed, and passed down (platform.md §25).

mod channels;
mod downloads;
mod egress;
mod linking;
mod mesh;
mod probes;

use std::{
    collections::{BTreeMap, HashMap},
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use symbia_api::mail::SmtpOptions;
use symbia_api::{
    http::{cors::CorsConfig, request::TrustedProxies, server::ServerConfig},
    integrations::{KeyStands, LinkingOptions, ProviderDoor, ProviderInfo},
    platform::{EnrolmentMode, SecretText},
};
use symbia_commands::integrations::DESCRIPTION;
use symbia_egress::Rules;
use symbia_events::Service;
use symbia_workers::integrations::{
    ANTHROPIC, AnthropicOptions, ApiKey, BATCH_LINES, HUGGING_FACE, LocalOptions, OPENAI, OpenAiOptions, ProbeOptions,
};
use zeroize::Zeroizing;

pub use downloads::Downloads;

use crate::cli::Global;

/// The log filter when `SYMBIA_LOG` is not set.
pub const DEFAULT_LOG: &str =
    "warn,symbia=info,symbia_api=info,symbia_workers=info,symbia_nats=info,symbia_projections=info,llama-cpp-2=error";

// Read elsewhere (clap), or kept for old scripts.
const KNOWN: [&str; 23] = [
    "SYMBIA_DATA_DIR",
    "SYMBIA_POSTGRES_DIR",
    "SYMBIA_DURABILITY",
    "SYMBIA_ADMIN_NAME",
    "SYMBIA_ADMIN_EMAIL",
    "SYMBIA_ADMIN_PASSWORD_FILE",
    "SYMBIA_ADMIN_ORG",
    "SYMBIA_NATS_URL",
    "SYMBIA_NATS_MONITOR_URL",
    "SYMBIA_NATS_CALLOUT_URL",
    "SYMBIA_EVENT_HMAC_KEYS",
    "SYMBIA_KEK_REF",
    "SYMBIA_ENV",
    "SYMBIA_LOG",
    "SYMBIA_REPLICAS",
    "SYMBIA_TRUSTED_PROXIES",
    "SYMBIA_CONTEXT",
    "SYMBIA_OUTPUT_FORMAT",
    "SYMBIA_ASSERTION",
    "SYMBIA_METRICS_ADDR",
    "SYMBIA_EGRESS_ALLOW",
    "SYMBIA_PROBE_PROVIDERS",
    "SYMBIA_PROBE_SECONDS",
];

/// The configuration is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A variable nobody reads: a typing mistake that would go unnoticed.
    #[error("unknown variable {0}; the README lists those that exist")]
    Unknown(String),
    /// A value that cannot be used.
    #[error("{variable}: {reason}")]
    Invalid {
        /// Which variable.
        variable: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Names the port of [`Config::ollama_port`].
pub const OLLAMA_PORT: &str = "MODELS_OLLAMA_PORT";
/// Names the Catalog of [`Config::peers`].
const CATALOG_URL: &str = "CATALOG_SERVICE_URL";

/// How this process is set up.
#[derive(Clone)]
pub struct Config {
    /// Where keys and data are kept.
    pub data_dir: PathBuf,
    /// Print JSON.
    pub json: bool,
    /// An external broker.
    pub nats_url: Option<Zeroizing<String>>,
    /// An external broker, with the credentials of who answers it when it asks about clients.
    pub nats_callout: Option<Zeroizing<String>>,
    /// The monitoring address of an external broker.
    pub nats_monitor: Option<String>,
    /// An external database.
    pub database_url: Option<Zeroizing<String>>,
    /// The key ring's file, when it is not in the data directory.
    pub key_ring: Option<PathBuf>,
    /// The key-encryption key's file, when it is not in the data directory.
    pub kek: Option<PathBuf>,
    /// Signs tokens with HS256 instead of the EdDSA key pair.
    pub session_secret: Option<Zeroizing<String>>,
    /// How long a token signing key signs before another one takes its place.
    pub token_key_lifetime: Duration,
    /// Directory of the GGUF models, when it is named.
    pub models_dir: Option<PathBuf>,
    /// Providers of language models.
    pub models: ModelProviders,
    /// How the inference process runs.
    pub inference: InferenceLimits,
    /// How models are got over the network.
    pub downloads: Downloads,
    /// Where calls to addresses that others chose may go.
    pub egress: Rules,
    /// Which providers are asked whether they are there.
    pub probes: ProbeOptions,
    /// Where people come back to who link an account.
    pub linking: LinkingOptions,
    /// Messengers.
    pub channels: channels::Channels,
    /// The mesh.
    pub mesh: mesh::Mesh,
    /// All refusals on.
    pub production: bool,
    /// Copies of each stream.
    pub replicas: usize,
    /// bcrypt cost of new passwords.
    pub bcrypt_cost: u32,
    /// Where mail goes out; in development it is written to files without it.
    pub smtp: Option<SmtpOptions>,
    /// Public address of the identity service.
    pub base_url: String,
    /// Registration makes the first user super admin, without a token. Tests only.
    pub open_bootstrap: bool,
    /// Who may register an agent.
    pub enrolment: EnrolmentMode,
    /// Interface to listen on.
    pub host: String,
    /// Ports, where they differ from the registry.
    pub ports: BTreeMap<Service, u16>,
    /// Where services are that another installation serves.
    pub peers: BTreeMap<Service, String>,
    /// Where programs that speak Ollama's API find the models, when they do.
    pub ollama_port: Option<u16>,
    /// How services are served.
    pub server: ServerConfig,
    /// `tracing` filter.
    pub log: String,
    /// Where spans and metrics are exported to, when they are.
    pub otlp: Option<Otlp>,
    /// The service's name in telemetry.
    pub service_name: String,
    /// Where `/metrics` is served alone.
    pub metrics: Option<SocketAddr>,
}

/// Where the providers of language models are, and the installation's own keys for them.
#[derive(Clone)]
pub struct ModelProviders {
    /// OpenAI, or any server that speaks its API.
    pub openai: OpenAiOptions,
    /// Anthropic, or any server that speaks its API.
    pub anthropic: AnthropicOptions,
    /// Hugging Face's router.
    pub hugging_face: OpenAiOptions,
    /// Lines of batches that are asked at a time.
    pub batch_lines: u32,
}

impl ModelProviders {
    fn of_environment() -> Result<Self, ConfigError> {
        let base = |variable, usual: &str| Ok(text(variable)?.unwrap_or_else(|| usual.to_owned()));
        let key = |variable| Ok(text(variable)?.map(|key| ApiKey::new(Zeroizing::new(key))));
        let openai = OpenAiOptions::new(&base("OPENAI_BASE_URL", OPENAI)?, key("OPENAI_API_KEY")?);
        let anthropic = AnthropicOptions::new(&base("ANTHROPIC_BASE_URL", ANTHROPIC)?, key("ANTHROPIC_API_KEY")?);
        let (base, key) = (base("HUGGINGFACE_BASE_URL", HUGGING_FACE)?, key("HUGGINGFACE_API_KEY")?);
        let hugging_face = OpenAiOptions::hugging_face(&base, key);
        let model = |variable, usual: String| Ok(text(variable)?.unwrap_or(usual));
        Ok(ModelProviders {
            openai: OpenAiOptions {
                default_model: model("OPENAI_MODEL", openai.default_model)?,
                default_embedding_model: model("OPENAI_EMBEDDING_MODEL", openai.default_embedding_model)?,
                default_image_model: model("OPENAI_IMAGE_MODEL", openai.default_image_model)?,
                default_rerank_model: text("OPENAI_RERANK_MODEL")?.or(openai.default_rerank_model),
                default_moderation_model: model("OPENAI_MODERATION_MODEL", openai.default_moderation_model)?,
                default_speech_model: model("OPENAI_SPEECH_MODEL", openai.default_speech_model)?,
                default_transcription_model: model("OPENAI_TRANSCRIPTION_MODEL", openai.default_transcription_model)?,
                ..openai
            },
            anthropic: AnthropicOptions {
                default_model: model("ANTHROPIC_MODEL", anthropic.default_model)?,
                ..anthropic
            },
            hugging_face: OpenAiOptions {
                default_model: model("HUGGINGFACE_MODEL", hugging_face.default_model)?,
                ..hugging_face
            },
            batch_lines: match number("BATCH_CONCURRENCY")? {
                Some(0) => return Err(invalid("BATCH_CONCURRENCY", "at least 1")),
                lines => lines.unwrap_or(BATCH_LINES),
            },
        })
    }
}

impl ModelProviders {
    /// Those whose own APIs calls are passed on to.
    #[must_use]
    pub fn doors(&self) -> Vec<ProviderDoor> {
        let of = |name: &str, base_url: &str, key_stands, key: &Option<ApiKey>, usual: &str| ProviderDoor {
            name: name.to_owned(),
            base_url: base_url.to_owned(),
            key_stands,
            own_key: key.as_ref().map(|key| SecretText::new(key.reveal())),
            needs_key: base_url == usual,
        };
        let ModelProviders { openai, anthropic, hugging_face, batch_lines: _ } = self;
        vec![
            of("openai", &openai.base_url, KeyStands::Bearer, &openai.key, OPENAI),
            of("anthropic", &anthropic.base_url, KeyStands::XApiKey, &anthropic.key, ANTHROPIC),
            of("huggingface", &hugging_face.base_url, KeyStands::Bearer, &hugging_face.key, HUGGING_FACE),
        ]
    }

    /// What they are to those who ask; `local`: the provider of the models on this machine.
    #[must_use]
    pub fn described(&self, local: Option<LocalOptions>) -> Vec<ProviderInfo> {
        // The models on this machine read text only.
        let sees = |name: &str| (name != "symbia-labs").then_some(DESCRIPTION);
        let of = |name: &str, base_url: &str, default_model: &str, embedding: Option<&str>, configured| ProviderInfo {
            name: name.to_owned(),
            base_url: base_url.to_owned(),
            default_model: default_model.to_owned(),
            default_embedding_model: embedding.map(str::to_owned),
            supported_operations: ["chat.completions", "messages", "text.generation"]
                .into_iter()
                .chain(sees(name))
                .chain(embedding.map(|_| "embeddings"))
                .map(str::to_owned)
                .collect(),
            configured,
        };
        let openai_like = |name: &str, options: &OpenAiOptions, usual: &str| {
            let configured = options.key.is_some() || options.base_url != usual;
            let embedding = Some(options.default_embedding_model.as_str());
            of(name, &options.base_url, &options.default_model, embedding, configured)
        };
        let anthropic = &self.anthropic;
        let configured = anthropic.key.is_some() || anthropic.base_url != ANTHROPIC;
        let own = local.map(|LocalOptions { default_model, default_embedding_model, .. }| {
            of("symbia-labs", "", &default_model, Some(&default_embedding_model), true)
        });
        own.into_iter()
            .chain([
                openai_like("openai", &self.openai, OPENAI),
                of("anthropic", &anthropic.base_url, &anthropic.default_model, None, configured),
                openai_like("huggingface", &self.hugging_face, HUGGING_FACE),
            ])
            .collect()
    }
}

/// Export over OTLP/HTTP, with OpenTelemetry's own variables.
#[derive(Clone)]
pub struct Otlp {
    endpoint: String,
    // They may hold a secret.
    headers: Vec<(String, Zeroizing<String>)>,
    /// Share of the traces that are recorded, 0 to 1.
    pub sampled: f64,
    /// How often spans are exported.
    pub traces_every: Duration,
    /// How often metrics are exported.
    pub metrics_every: Duration,
}

impl Otlp {
    fn of_environment() -> Result<Option<Self>, ConfigError> {
        const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        let Some(endpoint) = text(ENDPOINT)? else { return Ok(None) };
        if !["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme)) {
            return Err(invalid(
                ENDPOINT,
                "write the base URL of a collector that takes OTLP over HTTP, e.g. http://localhost:4318",
            ));
        }
        let mut headers = Vec::new();
        let pairs = text("OTEL_EXPORTER_OTLP_HEADERS")?.unwrap_or_default();
        for pair in pairs.split(',').filter(|pair| !pair.trim().is_empty()) {
            let pair =
                pair.split_once('=').ok_or_else(|| invalid("OTEL_EXPORTER_OTLP_HEADERS", "write name=value,…"))?;
            headers.push((pair.0.trim().to_owned(), Zeroizing::new(pair.1.trim().to_owned())));
        }
        let sampled = number("OTEL_TRACES_SAMPLER_ARG")?.unwrap_or(1.0);
        if !(0.0..=1.0).contains(&sampled) {
            return Err(invalid("OTEL_TRACES_SAMPLER_ARG", "a share of the traces, 0 to 1"));
        }
        let every =
            |variable: &str, default: u64| Ok(Duration::from_millis(number(variable)?.unwrap_or(default).max(1)));
        Ok(Some(Otlp {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            headers,
            sampled,
            traces_every: every("OTEL_BSP_SCHEDULE_DELAY", 1000)?,
            metrics_every: every("OTEL_METRIC_EXPORT_INTERVAL", 15_000)?,
        }))
    }

    /// Where a signal is sent to.
    pub fn at(&self, signal: &str) -> String {
        format!("{}/v1/{signal}", self.endpoint)
    }

    /// What is sent with every export.
    pub fn headers(&self) -> HashMap<String, String> {
        self.headers.iter().map(|(name, value)| (name.clone(), value.to_string())).collect()
    }
}

/// What the inference process may take (models.md §11); none takes the engine's own.
#[derive(Clone, Debug)]
pub struct InferenceLimits {
    /// Tokens that a sequence may hold.
    pub context_tokens: Option<u32>,
    /// Sequences that a model computes at a time.
    pub parallel: Option<u32>,
    /// Tokens of a step at most.
    pub batch_tokens: Option<u32>,
    /// Threads that compute.
    pub threads: Option<usize>,
    /// Requests that may wait for a model.
    pub max_queue: Option<usize>,
    /// A model without requests for so long is unloaded.
    pub idle_unload: Option<Duration>,
    /// Models in memory at most; 0 without a limit.
    pub max_loaded: Option<usize>,
    /// Bytes that models may take.
    pub memory_budget: Option<u64>,
    /// Models that are never unloaded for being idle.
    pub pinned: Vec<String>,
    /// The stub model answers instead of the engine.
    pub stub: bool,
}

impl InferenceLimits {
    fn of_environment() -> Result<Self, ConfigError> {
        let pinned = text("MODELS_PIN")?.unwrap_or_default();
        Ok(InferenceLimits {
            context_tokens: number("MODELS_DEFAULT_CTX")?,
            parallel: number("MODELS_PARALLEL_SLOTS")?,
            batch_tokens: number("MODELS_UBATCH")?,
            threads: number("DEFAULT_THREADS")?,
            max_queue: number("MODELS_MAX_QUEUE")?,
            idle_unload: number("IDLE_TIMEOUT_MS")?.map(Duration::from_millis),
            max_loaded: number("MAX_LOADED_MODELS")?,
            memory_budget: number::<u64>("MODELS_MEMORY_BUDGET_MB")?.map(|mib| mib.saturating_mul(1 << 20)),
            stub: text("MODELS_STUB")?.as_deref() == Some("true"),
            pinned: pinned.split(',').map(str::trim).filter(|id| !id.is_empty()).map(str::to_owned).collect(),
        })
    }
}

impl Config {
    /// Reads the environment, once.
    pub fn of_environment(global: &Global) -> Result<Self, ConfigError> {
        let unknown = env::vars_os().filter_map(|(name, _)| name.into_string().ok()).find(|name| {
            name.starts_with("SYMBIA_") && !name.starts_with("SYMBIA_TEST_") && !KNOWN.contains(&name.as_str())
        });
        if let Some(name) = unknown {
            return Err(ConfigError::Unknown(name));
        }
        let production = match text("SYMBIA_ENV")?.as_deref() {
            None | Some("dev" | "staging") => false,
            Some("prod") => true,
            Some(other) => return Err(invalid("SYMBIA_ENV", format!("'{other}' is none of dev, staging, prod"))),
        };
        let session_secret = text("SESSION_SECRET")?.map(Zeroizing::new);
        let open_bootstrap = text("IDENTITY_OPEN_BOOTSTRAP")?.as_deref() == Some("true");
        if open_bootstrap && production {
            return Err(invalid("IDENTITY_OPEN_BOOTSTRAP", "refused when SYMBIA_ENV=prod"));
        }
        let enrolment = match text("IDENTITY_AGENT_ENROLMENT")?.as_deref() {
            None | Some("token") => EnrolmentMode::Token,
            Some("open") if production => {
                return Err(invalid("IDENTITY_AGENT_ENROLMENT", "open is refused when SYMBIA_ENV=prod"));
            }
            Some("open") => EnrolmentMode::Open,
            Some("closed") => EnrolmentMode::Closed,
            Some(other) => {
                return Err(invalid("IDENTITY_AGENT_ENROLMENT", format!("'{other}' is none of token, open, closed")));
            }
        };
        let origins = text("CORS_ALLOWED_ORIGINS")?.or(text("CORS_ORIGINS")?).unwrap_or_default();
        let origins = origins.split(',').map(str::trim).filter(|o| !o.is_empty()).map(|o| o.trim_end_matches('/'));
        let mut ports = BTreeMap::new();
        for service in Service::ALL {
            if let Some(port) = number(&service.port_variable())? {
                ports.insert(service, port);
            }
        }
        let mut server =
            ServerConfig { cors: CorsConfig::new(origins, production), production, ..ServerConfig::default() };
        if let Some(millis) = number("SOCKET_PING_INTERVAL_MS")? {
            server.sockets.ping_interval = Duration::from_millis(millis);
        }
        if let Some(millis) = number("SOCKET_PING_TIMEOUT_MS")? {
            server.sockets.ping_timeout = Duration::from_millis(millis);
        }
        if let Some(most) = number("SOCKETS_PER_PRINCIPAL")? {
            server.sockets.per_principal = most;
        }
        if let Some(list) = text("SYMBIA_TRUSTED_PROXIES")? {
            let networks = list.split(',').map(|n| n.trim().parse()).collect::<Result<Vec<_>, _>>();
            let networks = networks
                .map_err(|_| invalid("SYMBIA_TRUSTED_PROXIES", "write networks like 10.0.0.0/8,192.168.0.0/16"))?;
            server.proxies = TrustedProxies::new(networks);
        }
        let egress = egress::rules(production)?;
        Ok(Config {
            data_dir: global.data_dir.clone(),
            json: global.json,
            nats_url: text("SYMBIA_NATS_URL")?.map(Zeroizing::new),
            nats_callout: text("SYMBIA_NATS_CALLOUT_URL")?.map(Zeroizing::new),
            nats_monitor: text("SYMBIA_NATS_MONITOR_URL")?,
            database_url: text("DATABASE_URL")?.map(Zeroizing::new),
            key_ring: text("SYMBIA_EVENT_HMAC_KEYS")?.map(PathBuf::from),
            kek: text("SYMBIA_KEK_REF")?.map(PathBuf::from),
            session_secret,
            token_key_lifetime: Duration::from_secs(number::<u64>("TOKEN_KEY_DAYS")?.unwrap_or(30).max(1) * 24 * 3600),
            models_dir: global.models_dir.clone(),
            models: ModelProviders::of_environment()?,
            inference: InferenceLimits::of_environment()?,
            downloads: Downloads::of_environment()?,
            linking: LinkingOptions {
                callback_base: text("OAUTH_CALLBACK_BASE_URL")?.or(text("INTEGRATIONS_SERVICE_URL")?),
                interface: text("OAUTH_ERROR_REDIRECT_URL")?.or(text("WEBSITE_URL")?),
                own: linking::own_clients()?,
            },
            channels: channels::Channels::of_environment()?,
            probes: probes::of_environment()?,
            mesh: mesh::Mesh::of_environment(&egress)?,
            egress,
            production,
            replicas: number("SYMBIA_REPLICAS")?.unwrap_or(1),
            bcrypt_cost: number("BCRYPT_COST")?.unwrap_or(10),
            smtp: smtp()?,
            base_url: text("IDENTITY_BASE_URL")?.unwrap_or_default(),
            open_bootstrap,
            enrolment,
            host: text("HOST")?.unwrap_or_else(|| "0.0.0.0".to_owned()),
            ports,
            peers: peers()?,
            ollama_port: number(OLLAMA_PORT)?,
            server,
            log: text("SYMBIA_LOG")?.unwrap_or_else(|| DEFAULT_LOG.to_owned()),
            otlp: Otlp::of_environment()?,
            service_name: text("OTEL_SERVICE_NAME")?.unwrap_or_else(|| "symbia".to_owned()),
            metrics: text("SYMBIA_METRICS_ADDR")?
                .map(|address| {
                    address.parse().map_err(|_| invalid("SYMBIA_METRICS_ADDR", "an address like 0.0.0.0:9464"))
                })
                .transpose()?,
        })
    }

    /// Where each service answers to the others.
    #[must_use]
    pub fn services(&self) -> Vec<(Service, String)> {
        let host = if self.host == "0.0.0.0" { "127.0.0.1" } else { &self.host };
        let here = |service| format!("http://{host}:{}", self.port(service));
        Service::ALL
            .map(|service| (service, self.peers.get(&service).cloned().unwrap_or_else(|| here(service))))
            .to_vec()
    }

    /// Port of a service.
    #[must_use]
    pub fn port(&self, service: Service) -> u16 {
        self.ports.get(&service).copied().unwrap_or_else(|| service.default_port())
    }
}

// `CATALOG_SERVICE_URL`: the Catalog of another installation, which keeps resources for this one.
fn peers() -> Result<BTreeMap<Service, String>, ConfigError> {
    let Some(url) = text(CATALOG_URL)? else { return Ok(BTreeMap::new()) };
    if !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(invalid(CATALOG_URL, "must be an http or https URL"));
    }
    Ok(BTreeMap::from([(Service::Catalog, url.trim_end_matches('/').to_owned())]))
}

// A host and a sender are enough; a user needs a password.
fn smtp() -> Result<Option<SmtpOptions>, ConfigError> {
    let Some(host) = text("SMTP_HOST")? else { return Ok(None) };
    let (user, password) = (text("SMTP_USER")?, text("SMTP_PASS")?.map(Zeroizing::new));
    if user.is_some() != password.is_some() {
        return Err(invalid("SMTP_USER", "goes together with SMTP_PASS"));
    }
    let from =
        text("SMTP_FROM")?.ok_or_else(|| invalid("SMTP_FROM", "is needed beside SMTP_HOST: the sender's address"))?;
    Ok(Some(SmtpOptions { host, port: number("SMTP_PORT")?.unwrap_or(587), user, password, from }))
}

fn invalid(variable: &str, reason: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { variable: variable.to_owned(), reason: reason.into() }
}

fn text(variable: &str) -> Result<Option<String>, ConfigError> {
    match env::var(variable) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(invalid(variable, "is not UTF-8")),
    }
}

fn number<T: std::str::FromStr>(variable: &str) -> Result<Option<T>, ConfigError> {
    let parse = |value: String| value.parse().map_err(|_| invalid(variable, format!("'{value}' is no usable number")));
    text(variable)?.map(parse).transpose()
}

/// Reads a file that holds one secret, without its line end.
pub fn secret_file(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = fs::read_to_string(path).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}
