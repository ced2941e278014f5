//! Which messengers there are, and what they can do.

use axum::http::StatusCode;
use serde_json::{Value, json};
use symbia_commands::{
    assistants::seed::ASSISTANT_KEY,
    integrations::{SLACK, TELEGRAM, WEBHOOK},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::Integrations;
use crate::http::{ApiError, ApiResult, Json, Path};

/// Messengers that are known, and not spoken to.
const UNSPOKEN: [&str; 6] = ["discord", "whatsapp", "email", "signal", "googlechat", "imessage"];

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read))
}

/// A messenger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Telegram.
    Telegram,
    /// A workspace of Slack's.
    Slack,
    /// Any program that speaks Standard Webhooks.
    Webhook,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Telegram, Kind::Slack, Kind::Webhook];

    /// By its name in paths.
    ///
    /// # Errors
    /// 404 for one that is not spoken to, 400 for what is none.
    pub fn named(name: &str) -> ApiResult<Self> {
        match name {
            TELEGRAM => Ok(Kind::Telegram),
            SLACK => Ok(Kind::Slack),
            WEBHOOK => Ok(Kind::Webhook),
            name if UNSPOKEN.contains(&name) => {
                let text = format!("There is no channel to '{name}' yet: telegram, slack and webhook are there");
                Err(ApiError::new(StatusCode::NOT_FOUND, "CHANNEL_UNAVAILABLE", text))
            }
            _ => Err(ApiError::invalid("channelType", "enum", "must be telegram, slack or webhook")),
        }
    }

    /// Its name in paths.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Telegram => TELEGRAM,
            Kind::Slack => SLACK,
            Kind::Webhook => WEBHOOK,
        }
    }

    fn described(self) -> Value {
        let (telegram, slack) = (self == Kind::Telegram, self == Kind::Slack);
        let (name, longest) = match self {
            Kind::Telegram => ("Telegram", 4096),
            Kind::Slack => ("Slack", 4000),
            Kind::Webhook => ("Signed webhook", 65_536),
        };
        json!({
            "type": self.name(),
            "name": name,
            "connectionMode": "webhook",
            "capabilities": { "directMessages": true, "groupChats": true, "threads": slack, "reactions": telegram,
                "fileAttachments": true, "voiceMessages": telegram, "edits": true, "deletions": true,
                "typing": telegram, "readReceipts": false },
            "formatting": { "maxLength": longest, "supportsMarkdown": true,
                "supportsHtml": telegram, "supportsMentions": telegram || slack, "supportsEmoji": true },
        })
    }

    fn defaults(self) -> Value {
        match self {
            Kind::Telegram => {
                json!({ "dropPendingUpdates": false, "usePolling": false, "assistants": [ASSISTANT_KEY] })
            }
            Kind::Slack | Kind::Webhook => json!({ "assistants": [ASSISTANT_KEY] }),
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
    params(("channelType" = String, Path, description = "`telegram`, `slack` or `webhook`")),
    responses((status = 200, description = "As in the list, with `defaultConfig`", body = Object),
        (status = 400, description = "No messenger"), (status = 404, description = "One that is not spoken to yet")))]
async fn read(Path(kind): Path<String>) -> ApiResult<Json<Value>> {
    let kind = Kind::named(&kind)?;
    let mut described = kind.described();
    described["defaultConfig"] = kind.defaults();
    Ok(Json(described))
}
