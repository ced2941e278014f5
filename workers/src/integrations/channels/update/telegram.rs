//! Telegram's updates (Bot API, `Update`).

use serde_json::Value;
use symbia_commands::integrations::ChannelChange;

use super::{Attachment, Chat, Inbound, Party, Told, instant, label, number};

/// Reads an update.
pub fn read(body: &str) -> Told {
    let Ok(update) = serde_json::from_str::<Value>(body) else { return Told::Malformed };
    let Some(update_id) = number(&update["update_id"]) else { return Told::Malformed };
    let kinds = [
        ("message", ChannelChange::Said),
        ("channel_post", ChannelChange::Said),
        ("edited_message", ChannelChange::Edited),
        ("edited_channel_post", ChannelChange::Edited),
    ];
    let found = kinds.into_iter().find(|(kind, _)| update[*kind].is_object());
    let Some((kind, change)) = found else { return Told::Nothing };
    match message(&update[kind]) {
        Some(message) => Told::Message { update_id, change, message: Box::new(message) },
        None => Told::Nothing,
    }
}

fn message(said: &Value) -> Option<Inbound> {
    let (chat, sender) = (&said["chat"], if said["from"].is_object() { &said["from"] } else { &said["sender_chat"] });
    let (content_type, attachments) = files(said);
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
        ..Inbound::default()
    })
}

fn files(said: &Value) -> (&'static str, Vec<Attachment>) {
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
        // What a photo is, Telegram does not say.
        mime_type: label(&file["mime_type"]).or_else(|| (kind == "photo").then(|| "image/jpeg".to_owned())),
        filename: label(&file["file_name"]),
        size: file["file_size"].as_u64(),
        ..Attachment::default()
    };
    (content_type, vec![attachment])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(update: &Value) -> (bool, Inbound) {
        match read(&update.to_string()) {
            Told::Message { change, message, .. } => (change == ChannelChange::Edited, *message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn telegrams_updates_are_read_into_one_shape() {
        let from = json!({ "id": 7, "first_name": "Ada", "last_name": "L", "username": "ada" });
        let text = json!({ "update_id": 1, "message": { "message_id": 5, "date": 0, "from": from, "text": "Hi <b>",
            "chat": { "id": -9, "type": "supergroup", "title": "Family" }, "reply_to_message": { "message_id": 4 } } });
        let (edited, said) = told(&text);
        assert!(!edited);
        let expected = json!({ "id": "5", "contentType": "text", "text": "Hi <b>", "timestamp": "1970-01-01T00:00:00Z",
            "sender": { "id": "7", "name": "Ada L", "username": "ada" }, "replyToMessageId": "4",
            "chat": { "id": "-9", "type": "group", "name": "Family" } });
        assert_eq!(serde_json::to_value(&said).unwrap(), expected);
        let sizes = json!([{ "file_id": "s" }, { "file_id": "l", "file_size": 9 }]);
        let photo = json!({ "update_id": 2, "edited_message": { "message_id": 5, "date": 0, "from": from,
            "caption": "look", "photo": sizes, "chat": { "id": 7, "type": "private" } } });
        let (edited, said) = told(&photo);
        assert_eq!((edited, said.content_type.as_str(), said.attachments.len()), (true, "image", 1));
        assert_eq!(said.attachments[0].file_id.as_deref(), Some("l"));
        let left = json!({ "update_id": 3, "message": { "message_id": 6, "date": 0, "left_chat_member": {},
            "chat": { "id": 7, "type": "private" } } });
        assert_eq!(read(&left.to_string()), Told::Nothing);
        assert_eq!(read("{}"), Told::Malformed);
        assert_eq!(read("<html>"), Told::Malformed);
    }
}
