//! What messengers tell, read into one shape (integrations.md §15.2, §15.3).

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Longest id and name that is taken over.
const MAX_LABEL: usize = 200;
/// Most attachments of a message.
const MOST_ATTACHMENTS: usize = 16;

/// Something that was said in a chat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Inbound {
    /// Its id there.
    pub id: String,
    /// `text`, `image`, `document`, `audio`, `video` or `sticker`.
    pub content_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    pub sender: Party,
    pub chat: Chat,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to_message_id: Option<String>,
    /// RFC 3339.
    pub timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edited_at: Option<String>,
}

/// Who said it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Party {
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_bot: bool,
}

/// Where.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Chat {
    pub id: String,
    /// `private`, `group`, `channel` or `thread`.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What came along; the other side keeps it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Attachment {
    #[serde(rename = "type")]
    pub kind: String,
    /// Its id there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mime_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// What a call told.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Told {
    /// Something was said, or said anew.
    Message { update_id: String, edited: bool, message: Box<Inbound> },
    /// Something else.
    Nothing,
    /// It is no such call.
    Malformed,
}

fn number(value: &Value) -> Option<String> {
    value.as_i64().map(|number| number.to_string())
}

fn label(value: &Value) -> Option<String> {
    let text: String = value.as_str()?.chars().filter(|c| !c.is_control()).take(MAX_LABEL).collect();
    (!text.is_empty()).then_some(text)
}

fn instant(seconds: &Value) -> Option<String> {
    OffsetDateTime::from_unix_timestamp(seconds.as_i64()?).ok()?.format(&Rfc3339).ok()
}

/// Reads an update of Telegram's (Bot API, `Update`).
pub(super) fn of_telegram(body: &str) -> Told {
    let Ok(update) = serde_json::from_str::<Value>(body) else { return Told::Malformed };
    let Some(update_id) = number(&update["update_id"]) else { return Told::Malformed };
    let kinds = [("message", false), ("channel_post", false), ("edited_message", true), ("edited_channel_post", true)];
    let found = kinds.into_iter().find(|(kind, _)| update[*kind].is_object());
    let Some((kind, edited)) = found else { return Told::Nothing };
    match telegram_message(&update[kind]) {
        Some(message) => Told::Message { update_id, edited, message: Box::new(message) },
        None => Told::Nothing,
    }
}

fn telegram_message(said: &Value) -> Option<Inbound> {
    let (chat, sender) = (&said["chat"], if said["from"].is_object() { &said["from"] } else { &said["sender_chat"] });
    let (content_type, attachments) = telegram_files(said);
    let text = said["text"].as_str().or(said["caption"].as_str()).filter(|text| !text.is_empty());
    if text.is_none() && attachments.is_empty() {
        // Somebody came or left, or a title changed.
        return None;
    }
    let both = [label(&sender["first_name"]), label(&sender["last_name"])].into_iter().flatten().collect::<Vec<_>>();
    Some(Inbound {
        id: number(&said["message_id"])?,
        content_type: content_type.to_owned(),
        text: text.map(str::to_owned),
        attachments,
        sender: Party {
            id: number(&sender["id"]).unwrap_or_default(),
            name: Some(both.join(" ")).filter(|name| !name.is_empty()).or_else(|| label(&sender["title"])),
            username: label(&sender["username"]),
            is_bot: sender["is_bot"] == true,
        },
        chat: Chat {
            id: number(&chat["id"])?,
            kind: match chat["type"].as_str()? {
                "private" => "private",
                "channel" => "channel",
                _ => "group",
            }
            .to_owned(),
            name: label(&chat["title"]),
        },
        reply_to_message_id: number(&said["reply_to_message"]["message_id"]),
        timestamp: instant(&said["date"]).unwrap_or_default(),
        edited_at: instant(&said["edit_date"]),
    })
}

fn telegram_files(said: &Value) -> (&'static str, Vec<Attachment>) {
    let kinds = [
        ("photo", "image"),
        // An animation is told of as a document as well.
        ("animation", "video"),
        ("video", "video"),
        ("video_note", "video"),
        ("audio", "audio"),
        ("voice", "audio"),
        ("sticker", "sticker"),
        ("document", "document"),
    ];
    let Some((kind, content_type)) = kinds.into_iter().find(|(kind, _)| !said[*kind].is_null()) else {
        return ("text", Vec::new());
    };
    // Of the sizes of a photo, the last is the largest.
    let file = said[kind].as_array().and_then(|sizes| sizes.last()).unwrap_or(&said[kind]);
    let attachment = Attachment {
        kind: content_type.to_owned(),
        file_id: label(&file["file_id"]),
        url: None,
        mime_type: label(&file["mime_type"]),
        filename: label(&file["file_name"]),
        size: file["file_size"].as_u64(),
    };
    (content_type, vec![attachment])
}

/// What a program tells: `{type?, data: Inbound}`, or an `Inbound` alone, under the id of its call.
#[derive(Deserialize)]
struct OfProgram {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    data: Inbound,
}

/// Reads a call of a program.
pub(super) fn of_program(body: &str, id: Option<&str>) -> Told {
    let Some(id) = id else { return Told::Malformed };
    let Ok(OfProgram { kind, data: mut message }) = serde_json::from_str(body) else { return Told::Malformed };
    let fits = |text: &String| !text.is_empty() && text.len() <= MAX_LABEL;
    if ![&message.id, &message.chat.id, &message.sender.id].into_iter().all(fits)
        || message.attachments.len() > MOST_ATTACHMENTS
        || (message.text.as_ref().is_none_or(String::is_empty) && message.attachments.is_empty())
    {
        return Told::Malformed;
    }
    let edited = match kind.as_deref() {
        None | Some("channel.message.inbound") => false,
        Some("channel.message.edited") => true,
        Some(_) => return Told::Nothing,
    };
    if message.content_type.is_empty() {
        "text".clone_into(&mut message.content_type);
    }
    if message.chat.kind.is_empty() {
        "private".clone_into(&mut message.chat.kind);
    }
    Told::Message { update_id: id.to_owned(), edited, message: Box::new(message) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(update: &Value) -> (bool, Inbound) {
        match of_telegram(&update.to_string()) {
            Told::Message { edited, message, .. } => (edited, *message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn telegrams_updates_are_read_into_one_shape() {
        let from = json!({ "id": 7, "first_name": "Ada", "last_name": "L", "username": "ada" });
        let text = json!({ "update_id": 1, "message": { "message_id": 5, "date": 0, "from": from, "text": "Hi <b>",
            "chat": { "id": -9, "type": "supergroup", "title": "Family" }, "reply_to_message": { "message_id": 4 } } });
        let (edited, said) = message(&text);
        assert!(!edited);
        let expected = json!({ "id": "5", "contentType": "text", "text": "Hi <b>", "timestamp": "1970-01-01T00:00:00Z",
            "sender": { "id": "7", "name": "Ada L", "username": "ada" }, "replyToMessageId": "4",
            "chat": { "id": "-9", "type": "group", "name": "Family" } });
        assert_eq!(serde_json::to_value(&said).unwrap(), expected);
        let sizes = json!([{ "file_id": "s" }, { "file_id": "l", "file_size": 9 }]);
        let photo = json!({ "update_id": 2, "edited_message": { "message_id": 5, "date": 0, "from": from,
            "caption": "look", "photo": sizes, "chat": { "id": 7, "type": "private" } } });
        let (edited, said) = message(&photo);
        assert_eq!((edited, said.content_type.as_str(), said.attachments.len()), (true, "image", 1));
        assert_eq!(said.attachments[0].file_id.as_deref(), Some("l"));
        let left = json!({ "update_id": 3, "message": { "message_id": 6, "date": 0, "left_chat_member": {},
            "chat": { "id": 7, "type": "private" } } });
        assert_eq!(of_telegram(&left.to_string()), Told::Nothing);
        assert_eq!(of_telegram("{}"), Told::Malformed);
        assert_eq!(of_telegram("<html>"), Told::Malformed);
    }

    #[test]
    fn a_program_tells_with_an_id_or_not_at_all() {
        let body = json!({ "data": { "id": "m", "text": "Hi", "sender": { "id": "u" }, "chat": { "id": "c" } } });
        let told = of_program(&body.to_string(), Some("x1"));
        assert!(matches!(told, Told::Message { update_id, edited: false, .. } if update_id == "x1"));
        assert_eq!(of_program(&body.to_string(), None), Told::Malformed);
        assert_eq!(
            of_program(r#"{"data":{"id":"m","sender":{"id":"u"},"chat":{"id":"c"}}}"#, Some("x")),
            Told::Malformed
        );
    }
}
