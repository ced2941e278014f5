//! Which messengers there are, and what they can do.

use axum::http::StatusCode;
use serde_json::{Value, json};
use symbia_commands::{
    assistants::seed::ASSISTANT_KEY,
    integrations::{DISCORD, EMAIL, SLACK, TELEGRAM, WEBHOOK, WHATSAPP},
};
use utoipa_axum::router::OpenApiRouter;

use super::Integrations;
use crate::http::{ApiError, ApiResult, Json, Path, routes};

/// Messengers that are known, and not spoken to.
const UNSPOKEN: [&str; 3] = ["signal", "googlechat", "imessage"];

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read))
}

/// What some can do, and others cannot.
type Ability = &'static str;
const GROUPS: Ability = "groupChats";
const THREADS: Ability = "threads";
const REACTIONS: Ability = "reactions";
const VOICE: Ability = "voiceMessages";
const EDITS: Ability = "edits";
const DELETIONS: Ability = "deletions";
const TYPING: Ability = "typing";
const READ: Ability = "readReceipts";
const HTML: Ability = "supportsHtml";
const MENTIONS: Ability = "supportsMentions";

/// A messenger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Telegram.
    Telegram,
    /// A workspace of Slack's.
    Slack,
    /// A telephone number at WhatsApp's Cloud API.
    WhatsApp,
    /// A bot of Discord's.
    Discord,
    /// A mailbox.
    Email,
    /// Any program that speaks Standard Webhooks.
    Webhook,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 6] = [Kind::Telegram, Kind::Slack, Kind::WhatsApp, Kind::Discord, Kind::Email, Kind::Webhook];

    /// By its name in paths.
    ///
    /// # Errors
    /// 404 for one that is not spoken to, 400 for what is none.
    pub fn named(name: &str) -> ApiResult<Self> {
        match name {
            TELEGRAM => Ok(Kind::Telegram),
            SLACK => Ok(Kind::Slack),
            WHATSAPP => Ok(Kind::WhatsApp),
            DISCORD => Ok(Kind::Discord),
            EMAIL => Ok(Kind::Email),
            WEBHOOK => Ok(Kind::Webhook),
            name if UNSPOKEN.contains(&name) => {
                let text = format!(
                    "There is no channel to '{name}' yet: GET /api/integrations/channels lists those that are there"
                );
                Err(ApiError::new(StatusCode::NOT_FOUND, "CHANNEL_UNAVAILABLE", text))
            }
            _ => Err(ApiError::invalid(
                "channelType",
                "enum",
                "must be the type of a channel, as GET /api/integrations/channels lists them",
            )),
        }
    }

    /// Its name in paths.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Telegram => TELEGRAM,
            Kind::Slack => SLACK,
            Kind::WhatsApp => WHATSAPP,
            Kind::Discord => DISCORD,
            Kind::Email => EMAIL,
            Kind::Webhook => WEBHOOK,
        }
    }

    fn described(self) -> Value {
        let (name, longest, abilities): (_, _, &[Ability]) = match self {
            Kind::Telegram => ("Telegram", 4096, &[GROUPS, REACTIONS, VOICE, EDITS, DELETIONS, TYPING, HTML, MENTIONS]),
            Kind::Slack => ("Slack", 4000, &[GROUPS, THREADS, EDITS, DELETIONS, MENTIONS]),
            Kind::WhatsApp => ("WhatsApp", 4096, &[VOICE, TYPING, READ]),
            Kind::Discord => ("Discord", 2000, &[GROUPS, THREADS, EDITS, DELETIONS, TYPING, MENTIONS]),
            Kind::Email => ("E-mail", 65_536, &[THREADS, HTML]),
            Kind::Webhook => ("Signed webhook", 65_536, &[GROUPS, EDITS, DELETIONS]),
        };
        let can = |ability: Ability| abilities.contains(&ability);
        json!({
            "type": self.name(),
            "name": name,
            "connectionMode": if self == Kind::Discord { "gateway" } else { "webhook" },
            "capabilities": { "directMessages": true, "groupChats": can(GROUPS), "threads": can(THREADS),
                "reactions": can(REACTIONS), "fileAttachments": true, "voiceMessages": can(VOICE), "edits": can(EDITS),
                "deletions": can(DELETIONS), "typing": can(TYPING), "readReceipts": can(READ) },
            "formatting": { "maxLength": longest, "supportsMarkdown": true,
                "supportsHtml": can(HTML), "supportsMentions": can(MENTIONS), "supportsEmoji": true },
        })
    }

    fn defaults(self) -> Value {
        match self {
            Kind::Telegram => {
                json!({ "dropPendingUpdates": false, "usePolling": false, "assistants": [ASSISTANT_KEY] })
            }
            Kind::Slack | Kind::WhatsApp | Kind::Discord | Kind::Email | Kind::Webhook => {
                json!({ "assistants": [ASSISTANT_KEY] })
            }
        }
    }
}

/// List the messengers that can be connected
#[utoipa::path(get, path = "/integrations/channels", tag = "Channels", security(()),
    responses((status = 200, description = "`{channels: [{type, name, connectionMode, capabilities, formatting}]}`", body = Object)))]
async fn list() -> Json<Value> {
    Json(json!({ "channels": Kind::ALL.map(Kind::described) }))
}

/// Describe a messenger
#[utoipa::path(get, path = "/integrations/channels/{channelType}", tag = "Channels", security(()),
    params(("channelType" = String, Path, description = "Which messenger: `telegram`, `slack`, …")),
    responses((status = 200, description = "As in the list, with `defaultConfig`", body = Object),
        (status = 400, description = "No messenger"), (status = 404, description = "One that is not spoken to yet")))]
async fn read(Path(kind): Path<String>) -> ApiResult<Json<Value>> {
    let kind = Kind::named(&kind)?;
    let mut described = kind.described();
    described["defaultConfig"] = kind.defaults();
    Ok(Json(described))
}
