//! The LLM router and the providers that it asks (integrations.md §8, §19, §25.5), and what calls the world for the registry.

mod accounts;
mod admission;
mod answers;
mod anthropic;
mod attempt;
mod attempts;
mod balance;
mod books;
mod circuits;
mod embedding;
mod enquiries;
mod live;
mod local;
mod meter;
mod oauth;
mod openai;
mod provider;
mod rates;
mod registry;
mod retry;
mod router;
mod sse;
mod upstream;

pub use accounts::{Accounts, Asker, BudgetTerms, Lease, NoAccounts, PriceTerms};
pub use anthropic::{ANTHROPIC, Anthropic, AnthropicOptions};
pub use books::Books;
pub use embedding::EmbeddingRouter;
pub use enquiries::Enquiries;
pub use local::{LocalOptions, LocalProvider};
pub use meter::Meter;
pub use oauth::AccountLinker;
pub use openai::{HUGGING_FACE, OPENAI, OpenAi, OpenAiOptions};
pub use provider::{Answer, ApiKey, Delta, Deltas, Fault, Inputs, Prompt, Provider, Providers, Turn, Vectors};
pub use registry::{Discoverer, Invoker, Lending, Vault};
pub use retry::RetryOptions;
pub use router::{LlmRouter, RouterOptions};
