//! The LLM router and the providers that it asks (integrations.md §8, §19, §25.5), and what calls the world for the registry.

mod accounts;
mod admission;
mod answers;
mod anthropic;
mod attempt;
mod attempts;
mod balance;
mod batches;
mod beginning;
mod books;
mod channels;
mod circuits;
mod desk;
mod embedding;
mod enquiries;
mod evaluator;
mod guarding;
mod image;
mod leases;
mod live;
mod local;
mod meaning;
mod meter;
mod oauth;
mod openai;
mod passthrough;
mod pictures;
mod precedence;
mod prober;
mod provider;
mod quotas;
mod racing;
mod rates;
mod refusals;
mod registry;
mod retry;
mod router;
mod routes;
mod running;
mod scheduler;
mod sse;
mod taking;
mod task;
mod upstream;

pub use accounts::{Accounts, Asker, BudgetTerms, Lease, NoAccounts, OrgTerms, PriceTerms, Taken};
pub use anthropic::{ANTHROPIC, Anthropic, AnthropicOptions};
pub use batches::{BatchLines, BatchRunner};
pub use books::Books;
pub use channels::{
    ChannelBridge, ChannelCourier, ChannelForwarder, ChannelKeeper, ChannelTeller, Channels, DISCORD_API, Discord,
    Messengers, Room, SLACK_API, Slack, TELEGRAM_API, Telegram, WHATSAPP_API, WhatsApp,
};
pub use embedding::EmbeddingRouter;
pub use enquiries::Enquiries;
pub use evaluator::Evaluator;
pub use image::ImageRouter;
pub use local::{LocalOptions, LocalProvider};
pub use meter::Meter;
pub use oauth::AccountLinker;
pub use openai::{HUGGING_FACE, OPENAI, OpenAi, OpenAiOptions};
pub use passthrough::PassthroughDesk;
pub use precedence::Precedence;
pub use prober::{ProbeOptions, Prober};
pub use provider::{
    Answer, ApiKey, Delta, Deltas, Drawing, Drawn, Fault, Inputs, Moderated, Moderating, Prompt, Provider, Providers,
    Ranked, Ranking, Speaking, Spoken, Transcribed, Transcribing, Turn, Vectors,
};
pub use registry::{CallLimits, Discoverer, Invoker, Lending, Vault};
pub use retry::RetryOptions;
pub use router::{BATCH_LINES, LlmRouter, RouterOptions};
pub use routes::RouteTerms;
pub use scheduler::EvalScheduler;
pub use taking::Taking;
pub use task::TaskRouter;
