//! How messengers are connected: the original's variables, and where they are (integrations.md §15.2).

use symbia_api::integrations::ChannelOptions;
use symbia_workers::{
    egress_policies::WayOut,
    integrations::{
        DISCORD_API, Discord, Messengers, Room, SLACK_API, Slack, TELEGRAM_API, Telegram, WHATSAPP_API, WhatsApp,
    },
};

use super::{ConfigError, invalid, number, text};

/// Messengers.
#[derive(Clone, Debug)]
pub struct Channels {
    /// How they are connected.
    pub served: ChannelOptions,
    /// Telegram's Bot API.
    pub telegram: Telegram,
    /// Slack's Web API.
    pub slack: Slack,
    /// WhatsApp's Cloud API.
    pub whatsapp: WhatsApp,
    /// Discord's API.
    pub discord: Discord,
    /// Room for what comes along.
    pub room: Room,
}

impl Channels {
    /// The other sides that there are; `egress` makes the calls to programs of the organizations' own.
    pub fn messengers(&self, egress: WayOut) -> Messengers {
        let Channels { telegram, slack, whatsapp, discord, room, .. } = self.clone();
        Messengers { telegram, slack, whatsapp, discord, egress, room }
    }

    pub(super) fn of_environment() -> Result<Self, ConfigError> {
        const TELEGRAM: &str = "TELEGRAM_BASE_URL";
        const SLACK: &str = "SLACK_BASE_URL";
        const WHATSAPP: &str = "WHATSAPP_BASE_URL";
        const DISCORD: &str = "DISCORD_BASE_URL";
        let telegram = text(TELEGRAM)?.unwrap_or_else(|| TELEGRAM_API.to_owned());
        let slack = text(SLACK)?.unwrap_or_else(|| SLACK_API.to_owned());
        let whatsapp = text(WHATSAPP)?.unwrap_or_else(|| WHATSAPP_API.to_owned());
        let discord = text(DISCORD)?.unwrap_or_else(|| DISCORD_API.to_owned());
        let megabytes = |variable: &str, usual: u64| -> Result<u64, ConfigError> {
            Ok(number::<u64>(variable)?.map_or(usual, |megabytes| megabytes.saturating_mul(1_000_000)))
        };
        let usual = Room::default();
        let room = Room {
            connection: megabytes("CHANNEL_FILES_MB_PER_DAY", usual.connection)?,
            organization: megabytes("CHANNEL_FILES_MB_PER_DAY_OF_ORGANIZATION", usual.organization)?,
        };
        Ok(Channels {
            room,
            served: ChannelOptions {
                webhook_base: text("INTEGRATIONS_WEBHOOK_BASE_URL")?.or(text("INTEGRATIONS_SERVICE_URL")?),
                polling: text("TELEGRAM_USE_POLLING")?.as_deref() == Some("true"),
            },
            telegram: Telegram::new(&telegram).map_err(|reason| invalid(TELEGRAM, reason))?,
            slack: Slack::new(&slack).map_err(|reason| invalid(SLACK, reason))?,
            whatsapp: WhatsApp::new(&whatsapp).map_err(|reason| invalid(WHATSAPP, reason))?,
            discord: Discord::new(&discord).map_err(|reason| invalid(DISCORD, reason))?,
        })
    }
}
