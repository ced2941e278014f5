//! The LLM router and the providers that it asks (integrations.md §8, §19, §25.5).

mod attempt;
mod live;
mod local;
mod openai;
mod provider;
mod router;
mod sse;

pub use local::{LocalOptions, LocalProvider};
pub use openai::{ApiKey, OpenAi, OpenAiOptions};
pub use provider::{Answer, Deltas, Fault, Prompt, Provider, Providers, Turn};
pub use router::{LlmRouter, RouterOptions};
