//! What Discord's gateway tells of messages.

use serde_json::Value;
use symbia_commands::integrations::ChannelChange;

use super::{Attachment, Chat, Inbound, MAX_URL, MOST_ATTACHMENTS, Party, Told, label};

/// Kinds of messages that somebody wrote: a message, and an answer.
const WRITTEN: [u64; 2] = [0, 19];

/// Reads a dispatch; `own` is the bot itself, whose words come back to it.
pub fn read(body: &str, own: Option<&str>) -> Vec<Told> {
    let Ok(told) = serde_json::from_str::<Value>(body) else { return vec![Told::Malformed] };
    let Some(kind) = told["t"].as_str() else { return vec![Told::Malformed] };
    let said = &told["d"];
    let is_own = |message: &Inbound| own == Some(message.sender.id.as_str());
    let of = |update_id: String, change, message: Option<Inbound>| {
        let message = message.filter(|message| !is_own(message));
        message.map(|message| Told::Message { update_id, change, message: Box::new(message) }).into_iter().collect()
    };
    let id = label(&said["id"]).unwrap_or_default();
    match kind {
        "MESSAGE_CREATE" => of(id, ChannelChange::Said, message(said)),
        // A link that shows a preview is no other text: then, it was edited at no time.
        "MESSAGE_UPDATE" => match label(&said["edited_timestamp"]) {
            Some(at) => of(format!("{id} edited {at}"), ChannelChange::Edited, message(said)),
            None => Vec::new(),
        },
        "MESSAGE_DELETE" => of(format!("{id} deleted"), ChannelChange::Withdrawn, withdrawn(said, &said["id"])),
        "MESSAGE_DELETE_BULK" => {
            let ids = said["ids"].as_array().into_iter().flatten();
            let gone = ids.filter_map(|id| withdrawn(said, id));
            let told = |message: Inbound| Told::Message {
                update_id: format!("{} deleted", message.id),
                change: ChannelChange::Withdrawn,
                message: Box::new(message),
            };
            gone.map(told).collect()
        }
        _ => Vec::new(),
    }
}

// What is said to the bot alone is one talk; on a server, each channel is, and each thread, which is a channel.
fn chat(said: &Value) -> Option<Chat> {
    let kind = if said["guild_id"].is_string() { "group" } else { "private" };
    Some(Chat { id: label(&said["channel_id"])?, kind: kind.to_owned(), name: None })
}

fn withdrawn(told: &Value, id: &Value) -> Option<Inbound> {
    Some(Inbound { id: label(id)?, chat: chat(told)?, ..Inbound::default() })
}

fn message(said: &Value) -> Option<Inbound> {
    if !said["type"].as_u64().is_some_and(|kind| WRITTEN.contains(&kind)) {
        return None;
    }
    let author = &said["author"];
    let text = said["content"].as_str().map(|text| plain(text, &said["mentions"])).filter(|text| !text.is_empty());
    let files = said["attachments"].as_array().into_iter().flatten().filter_map(file).take(MOST_ATTACHMENTS);
    let attachments: Vec<Attachment> = files.collect();
    if text.is_none() && attachments.is_empty() {
        return None;
    }
    Some(Inbound {
        id: label(&said["id"])?,
        content_type: attachments.first().map_or("text", |file| file.kind.as_str()).to_owned(),
        text,
        attachments,
        sender: Party {
            id: label(&author["id"])?,
            name: label(&said["member"]["nick"]).or_else(|| label(&author["global_name"])),
            username: label(&author["username"]),
            is_bot: author["bot"] == true || said["webhook_id"].is_string(),
        },
        chat: chat(said)?,
        reply_to_message_id: label(&said["message_reference"]["message_id"]),
        timestamp: label(&said["timestamp"]).unwrap_or_default(),
        edited_at: label(&said["edited_timestamp"]),
        ..Inbound::default()
    })
}

fn file(file: &Value) -> Option<Attachment> {
    let mime_type = label(&file["content_type"]).and_then(|mime| mime.split(';').next().map(str::to_owned));
    let kind = mime_type.as_deref().and_then(|mime| mime.split('/').next());
    let kind = kind.filter(|kind| ["image", "audio", "video"].contains(kind)).unwrap_or("document");
    Some(Attachment {
        kind: kind.to_owned(),
        file_id: Some(label(&file["id"])?),
        url: file["url"].as_str().filter(|url| url.len() <= MAX_URL).map(str::to_owned),
        mime_type,
        filename: label(&file["filename"]),
        size: file["size"].as_u64(),
        ..Attachment::default()
    })
}

/// A text as people read it: who is named stands in angle brackets, by their id, and so do pictures of the server's own.
fn plain(text: &str, mentions: &Value) -> String {
    let named = |id: &str| {
        let found = mentions.as_array().into_iter().flatten().find(|user| user["id"] == id)?;
        found["global_name"].as_str().or(found["username"].as_str())
    };
    let (mut said, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, mark)) = rest.split_once('<') {
        said.push_str(before);
        let Some((mark, after)) = mark.split_once('>') else {
            rest = rest.strip_prefix(before).unwrap_or(rest);
            break;
        };
        let user = mark.strip_prefix("@!").or_else(|| mark.strip_prefix('@'));
        let picture = mark.strip_prefix("a:").or_else(|| mark.strip_prefix(':')).and_then(|mark| mark.split_once(':'));
        match (user.and_then(named), picture) {
            (Some(name), _) => said.extend(["@", name]),
            (None, Some((name, _))) => said.extend([":", name, ":"]),
            (None, None) => said.extend(["<", mark, ">"]),
        }
        rest = after;
    }
    said.push_str(rest);
    said
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(kind: &str, data: Value) -> Vec<Told> {
        read(&json!({ "op": 0, "t": kind, "s": 3, "d": data }).to_string(), Some("900"))
    }

    fn said(words: &str) -> Value {
        json!({ "id": "5", "channel_id": "7", "guild_id": "1", "type": 0, "content": words,
            "timestamp": "2026-01-01T00:00:00.000000+00:00", "edited_timestamp": null,
            "author": { "id": "42", "username": "grace", "global_name": "Grace" },
            "mentions": [{ "id": "900", "username": "symbia" }], "attachments": [] })
    }

    fn one(told: Vec<Told>) -> (String, ChannelChange, Inbound) {
        match &told[..] {
            [Told::Message { update_id, change, message }] => (update_id.clone(), *change, (**message).clone()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_edits_and_deletions_are_read_into_one_shape() {
        let (update, change, message) = one(told("MESSAGE_CREATE", said("<@900> a < b <:wave:12> <@1>")));
        assert_eq!((update.as_str(), change, message.chat.kind.as_str()), ("5", ChannelChange::Said, "group"));
        assert_eq!(message.text.as_deref(), Some("@symbia a < b <:wave:12> <@1>"));
        let (_, _, message) = one(told("MESSAGE_CREATE", said("hm <a:wave:12>")));
        assert_eq!((message.text.as_deref(), message.sender.name.as_deref()), (Some("hm :wave:"), Some("Grace")));
        assert_eq!(told("MESSAGE_UPDATE", said("preview")), []);
        let mut edited = said("new");
        edited["edited_timestamp"] = json!("2026-01-01T00:01:00+00:00");
        assert_eq!(one(told("MESSAGE_UPDATE", edited)).1, ChannelChange::Edited);
        let gone = json!({ "ids": ["5", "6"], "channel_id": "7" });
        let updates = told("MESSAGE_DELETE_BULK", gone);
        assert!(matches!(&updates[1], Told::Message { update_id, change: ChannelChange::Withdrawn, message }
            if update_id == "6 deleted" && message.chat.kind == "private"));
    }

    #[test]
    fn the_bot_does_not_hear_itself_and_bots_are_known_as_such() {
        let mut own = said("hi");
        own["author"]["id"] = json!("900");
        assert_eq!(told("MESSAGE_CREATE", own), []);
        let mut hook = said("hi");
        hook["webhook_id"] = json!("3");
        assert!(one(told("MESSAGE_CREATE", hook)).2.sender.is_bot);
        let mut joined = said("");
        joined["type"] = json!(7);
        assert_eq!(told("MESSAGE_CREATE", joined), []);
        assert_eq!(read("[]", None), [Told::Malformed]);
    }
}
