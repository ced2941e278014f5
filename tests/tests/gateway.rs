//! The gateway to language models as those see it who use it: with OpenAI's and Anthropic's own Python clients, with keys of
//! the vault, with budgets; the registry and its tools; and what others may not see of it.
#![allow(missing_docs, reason = "tests")]

#[path = "gateway/acceptance.rs"]
mod acceptance;
#[path = "gateway/at_once.rs"]
mod at_once;
#[path = "gateway/audio.rs"]
mod audio;
#[path = "gateway/balance.rs"]
mod balance;
#[path = "gateway/batch_limits.rs"]
mod batch_limits;
#[path = "gateway/batches.rs"]
mod batches;
#[path = "gateway/channels.rs"]
mod channels;
#[path = "gateway/chats.rs"]
mod chats;
#[path = "gateway/clients.rs"]
mod clients;
#[path = "gateway/discord.rs"]
mod discord;
#[path = "gateway/egress.rs"]
mod egress;
#[path = "gateway/email.rs"]
mod email;
#[path = "gateway/evaluation.rs"]
mod evaluation;
#[path = "gateway/guardrails.rs"]
mod guardrails;
#[path = "gateway/health.rs"]
mod health;
#[path = "gateway/hedging.rs"]
mod hedging;
#[path = "gateway/images.rs"]
mod images;
#[path = "gateway/limits.rs"]
mod limits;
#[cfg(feature = "llama")]
#[path = "gateway/local.rs"]
mod local;
#[path = "gateway/mcp.rs"]
mod mcp;
#[path = "gateway/meaning.rs"]
mod meaning;
#[path = "gateway/oauth.rs"]
mod oauth;
#[path = "gateway/parallel.rs"]
mod parallel;
#[path = "gateway/passthrough.rs"]
mod passthrough;
#[path = "gateway/programs.rs"]
mod programs;
#[path = "gateway/registry.rs"]
mod registry;
#[path = "gateway/routes.rs"]
mod routes;
#[path = "gateway/script.rs"]
mod script;
#[path = "gateway/sessions.rs"]
mod sessions;
#[path = "gateway/slack.rs"]
mod slack;
#[path = "gateway/stage.rs"]
mod stage;
#[path = "gateway/stored.rs"]
mod stored;
#[path = "gateway/tasks.rs"]
mod tasks;
#[path = "gateway/telegram.rs"]
mod telegram;
#[path = "gateway/terminal.rs"]
mod terminal;
#[path = "gateway/terms.rs"]
mod terms;
#[path = "gateway/toolloop.rs"]
mod toolloop;
#[path = "gateway/toolloop_clients.rs"]
mod toolloop_clients;
#[path = "gateway/toolloop_ends.rs"]
mod toolloop_ends;
#[path = "gateway/use.rs"]
mod used;
#[path = "gateway/vendor.rs"]
mod vendor;
#[path = "gateway/weather.rs"]
mod weather;
#[path = "gateway/whatsapp.rs"]
mod whatsapp;

type Tested = anyhow::Result<()>;
