//! How messengers are connected: the original's variables, and where they are (integrations.md §15.2).

use symbia_api::integrations::ChannelOptions;
use symbia_workers::integrations::{SLACK_API, Slack, TELEGRAM_API, Telegram};

use super::{ConfigError, invalid, text};

/// Messengers.
#[derive(Clone, Debug)]
pub struct Channels {
    /// How they are connected.
    pub served: ChannelOptions,
    /// Telegram's Bot API.
    pub telegram: Telegram,
    /// Slack's Web API.
    pub slack: Slack,
}

impl Channels {
    pub(super) fn of_environment() -> Result<Self, ConfigError> {
        const TELEGRAM: &str = "TELEGRAM_BASE_URL";
        const SLACK: &str = "SLACK_BASE_URL";
        let telegram = text(TELEGRAM)?.unwrap_or_else(|| TELEGRAM_API.to_owned());
        let slack = text(SLACK)?.unwrap_or_else(|| SLACK_API.to_owned());
        Ok(Channels {
            served: ChannelOptions {
                webhook_base: text("INTEGRATIONS_WEBHOOK_BASE_URL")?.or(text("INTEGRATIONS_SERVICE_URL")?),
                polling: text("TELEGRAM_USE_POLLING")?.as_deref() == Some("true"),
            },
            telegram: Telegram::new(&telegram).map_err(|reason| invalid(TELEGRAM, reason))?,
            slack: Slack::new(&slack).map_err(|reason| invalid(SLACK, reason))?,
        })
    }
}
