//! How messengers are connected: the original's variables, and where Telegram is (integrations.md §15.2).

use symbia_api::integrations::ChannelOptions;
use symbia_workers::integrations::{TELEGRAM_API, Telegram};

use super::{ConfigError, invalid, text};

/// Messengers.
#[derive(Clone, Debug)]
pub struct Channels {
    /// How they are connected.
    pub served: ChannelOptions,
    /// Telegram's Bot API.
    pub telegram: Telegram,
}

impl Channels {
    pub(super) fn of_environment() -> Result<Self, ConfigError> {
        const BASE: &str = "TELEGRAM_BASE_URL";
        let base = text(BASE)?.unwrap_or_else(|| TELEGRAM_API.to_owned());
        Ok(Channels {
            served: ChannelOptions {
                webhook_base: text("INTEGRATIONS_WEBHOOK_BASE_URL")?.or(text("INTEGRATIONS_SERVICE_URL")?),
                polling: text("TELEGRAM_USE_POLLING")?.as_deref() == Some("true"),
            },
            telegram: Telegram::new(&base).map_err(|reason| invalid(BASE, reason))?,
        })
    }
}
