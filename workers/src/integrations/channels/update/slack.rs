//! Slack's events (Events API, `event_callback`), and its way of writing (mrkdwn) as text.

use serde_json::Value;
use symbia_commands::integrations::ChannelChange;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Attachment, Chat, Inbound, MAX_URL, MOST_ATTACHMENTS, Party, Told, label};

/// Between the channel and the thread in the id of a chat.
const THREAD: char = '/';

/// Channel and thread of a chat.
pub(in super::super) fn slack_place(chat: &str) -> (&str, Option<&str>) {
    chat.split_once(THREAD).map_or((chat, None), |(channel, thread)| (channel, Some(thread)))
}

/// Reads a call to the bot of a workspace. An app has one address and one secret for all workspaces that it is installed in: what
/// happens in another one is none of this connection's.
pub fn read(body: &str, team: Option<&str>) -> Told {
    let Ok(call) = serde_json::from_str::<Value>(body) else { return Told::Malformed };
    let (Some(kind), event) = (call["type"].as_str(), &call["event"]) else { return Told::Malformed };
    if kind != "event_callback" {
        return Told::Nothing;
    }
    let (Some(update_id), Some(event_type)) = (label(&call["event_id"]), event["type"].as_str()) else {
        return Told::Malformed;
    };
    let installed = call["authorizations"].as_array().into_iter().flatten().map(|of| &of["team_id"]);
    let own = std::iter::once(&call["team_id"]).chain(installed).any(|of| of.as_str() == team && team.is_some());
    if !own || !matches!(event_type, "message" | "app_mention") {
        return Told::Nothing;
    }
    match change(event) {
        Some((change, message)) => Told::Message { update_id, change, message: Box::new(message) },
        None => Told::Nothing,
    }
}

fn change(event: &Value) -> Option<(ChannelChange, Inbound)> {
    let (new, old) = (&event["message"], &event["previous_message"]);
    match event["subtype"].as_str() {
        None | Some("file_share" | "thread_broadcast" | "me_message") => {
            Some((ChannelChange::Said, message(event, event)?))
        }
        Some("message_changed") if new["subtype"] == "tombstone" => {
            Some((ChannelChange::Withdrawn, withdrawn(event, old)?))
        }
        // A link that shows a preview, or a thread that has one more answer, is no other text.
        Some("message_changed") if new["text"] != old["text"] => Some((ChannelChange::Edited, message(event, new)?)),
        Some("message_deleted") => Some((ChannelChange::Withdrawn, withdrawn(event, old)?)),
        // Somebody came or left, or a bot speaks.
        _ => None,
    }
}

// What is said to the bot alone is one talk; in a channel, each thread is.
fn chat(event: &Value, said: &Value) -> Option<Chat> {
    let (channel, own) = (label(&event["channel"])?, label(&said["ts"])?);
    let alone = event["channel_type"] == "im";
    let thread = label(&said["thread_ts"]).or_else(|| (!alone).then_some(own));
    let kind = match (alone, &thread) {
        (true, None) => "private",
        (true, Some(_)) => "thread",
        (false, _) => "group",
    };
    let id = thread.map_or_else(|| channel.clone(), |thread| format!("{channel}{THREAD}{thread}"));
    Some(Chat { id, kind: kind.to_owned(), name: None })
}

fn withdrawn(event: &Value, said: &Value) -> Option<Inbound> {
    let sender = Party { id: label(&said["user"])?, is_bot: is_bot(said), ..Party::default() };
    Some(Inbound { id: label(&said["ts"])?, chat: chat(event, said)?, sender, ..Inbound::default() })
}

fn is_bot(said: &Value) -> bool {
    !said["bot_id"].is_null() || said["subtype"] == "bot_message"
}

fn message(event: &Value, said: &Value) -> Option<Inbound> {
    let (id, chat) = (label(&said["ts"])?, chat(event, said)?);
    let text = said["text"].as_str().map(plain).filter(|text| !text.is_empty());
    let files = said["files"].as_array().into_iter().flatten().filter_map(file).take(MOST_ATTACHMENTS);
    let attachments: Vec<Attachment> = files.collect();
    if text.is_none() && attachments.is_empty() {
        return None;
    }
    let content_type = attachments.first().map_or("text", |file| file.kind.as_str()).to_owned();
    let thread = label(&said["thread_ts"]).filter(|thread| *thread != id);
    Some(Inbound {
        content_type,
        text,
        attachments,
        sender: Party { id: label(&said["user"]).unwrap_or_default(), is_bot: is_bot(said), ..Party::default() },
        chat,
        reply_to_message_id: thread,
        timestamp: instant(&id).unwrap_or_default(),
        edited_at: said["edited"]["ts"].as_str().and_then(instant),
        id,
        ..Inbound::default()
    })
}

// Seconds since 1970 with a fraction, which tells messages apart.
fn instant(ts: &str) -> Option<String> {
    let seconds = ts.split('.').next()?.parse().ok()?;
    OffsetDateTime::from_unix_timestamp(seconds).ok()?.format(&Rfc3339).ok()
}

fn file(file: &Value) -> Option<Attachment> {
    let mime_type = label(&file["mimetype"]);
    let kind = mime_type.as_deref().and_then(|mime| mime.split('/').next());
    let kind = kind.filter(|kind| ["image", "audio", "video"].contains(kind)).unwrap_or("document");
    let url = file["url_private_download"].as_str().or(file["url_private"].as_str());
    Some(Attachment {
        kind: kind.to_owned(),
        file_id: Some(label(&file["id"])?),
        url: url.filter(|url| url.len() <= MAX_URL).map(str::to_owned),
        mime_type,
        filename: label(&file["name"]),
        size: file["size"].as_u64(),
        ..Attachment::default()
    })
}

/// A text as people read it: marks in angle brackets are links, mentions and commands, three characters stand as entities.
fn plain(text: &str) -> String {
    let (mut said, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, mark)) = rest.split_once('<') {
        let Some((mark, after)) = mark.split_once('>') else { break };
        said.push_str(before);
        let (target, name) = mark.split_once('|').map_or((mark, None), |(target, name)| (target, Some(name)));
        match (target.split_at_checked(1), name) {
            (Some(("@", user)), name) => said.extend(["@", name.unwrap_or(user)]),
            (Some(("#", channel)), name) => said.extend(["#", name.unwrap_or(channel)]),
            (Some(("!", command)), name) => {
                // `!subteam^ID` and `!date^…^…` come with a name to be read.
                let command = command.split('^').next().unwrap_or_default();
                said.extend(["@", name.unwrap_or(command).trim_start_matches('@')]);
            }
            (_, Some(name)) if name != target => said.extend([name, " (", target, ")"]),
            _ => said.push_str(target),
        }
        rest = after;
    }
    said.push_str(rest);
    said.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(event: Value) -> Option<(ChannelChange, Inbound)> {
        let call = json!({ "type": "event_callback", "event_id": "Ev1", "team_id": "T1", "event": event });
        match read(&call.to_string(), Some("T1")) {
            Told::Message { change, message, update_id } => {
                assert_eq!(update_id, "Ev1");
                Some((change, *message))
            }
            Told::Nothing => None,
            Told::Malformed | Told::Receipt { .. } => panic!("{call}"),
        }
    }

    #[test]
    fn what_is_said_to_the_bot_alone_is_one_talk_and_in_a_channel_each_thread_is() {
        let say = |channel_type: &str, thread: Option<&str>| {
            let event = json!({ "type": "message", "channel": "C1", "channel_type": channel_type, "user": "U1",
                "text": "hi", "ts": "1700000000.000100", "thread_ts": thread });
            let (change, said) = told(event).unwrap();
            assert_eq!((change, said.timestamp.as_str()), (ChannelChange::Said, "2023-11-14T22:13:20Z"));
            (said.chat.id, said.chat.kind, said.reply_to_message_id)
        };
        assert_eq!(say("im", None), ("C1".into(), "private".into(), None));
        assert_eq!(say("channel", None), ("C1/1700000000.000100".into(), "group".into(), None));
        assert_eq!(say("group", Some("9.1")), ("C1/9.1".into(), "group".into(), Some("9.1".into())));
        assert_eq!(slack_place("C1/9.1"), ("C1", Some("9.1")));
        assert_eq!(slack_place("D1"), ("D1", None));
    }

    #[test]
    fn edits_and_deletions_are_of_what_was_said_and_previews_are_none() {
        let said = |text: &str| json!({ "user": "U1", "text": text, "ts": "5.1" });
        let event = |subtype: &str, new: Value, old: Value| {
            json!({ "type": "message", "subtype": subtype, "channel": "D1", "channel_type": "im",
                "ts": "9.9", "message": new, "previous_message": old })
        };
        let (change, new) = told(event("message_changed", said("b"), said("a"))).unwrap();
        assert_eq!((change, new.id.as_str(), new.text.as_deref()), (ChannelChange::Edited, "5.1", Some("b")));
        assert_eq!(told(event("message_changed", said("a"), said("a"))), None);
        let (change, gone) = told(event("message_deleted", Value::Null, said("a"))).unwrap();
        assert_eq!((change, gone.id.as_str(), gone.chat.id.as_str()), (ChannelChange::Withdrawn, "5.1", "D1"));
        let tombstone = json!({ "subtype": "tombstone", "ts": "5.1", "text": "deleted", "user": "USLACKBOT" });
        assert_eq!(told(event("message_changed", tombstone, said("a"))).unwrap().0, ChannelChange::Withdrawn);
    }

    #[test]
    fn bots_are_known_as_such_and_who_comes_and_goes_says_nothing() {
        let bot = json!({ "type": "message", "channel": "D1", "channel_type": "im", "bot_id": "B1", "user": "U9",
            "text": "hi", "ts": "1.1" });
        assert!(told(bot).unwrap().1.sender.is_bot);
        let joined = json!({ "type": "message", "subtype": "channel_join", "channel": "C1", "ts": "1.1", "text": "x" });
        assert_eq!(told(joined), None);
        assert_eq!(read(r#"{"type":"event_callback"}"#, Some("T1")), Told::Malformed);
        assert_eq!(read("[]", Some("T1")), Told::Malformed);
    }

    #[test]
    fn what_happens_in_another_workspace_is_none_of_ours() {
        let event = json!({ "type": "message", "channel": "D1", "channel_type": "im", "user": "U1", "text": "hi",
            "ts": "1.1" });
        let call = |team: &str, installed: Value| {
            json!({ "type": "event_callback", "event_id": "Ev1", "team_id": team, "authorizations": installed,
                "event": event })
            .to_string()
        };
        assert_eq!(read(&call("T2", Value::Null), Some("T1")), Told::Nothing);
        assert_eq!(read(&call("T2", json!([{ "team_id": "T3" }])), Some("T1")), Told::Nothing);
        assert_eq!(read(&call("T1", Value::Null), None), Told::Nothing);
        let shared = read(&call("T2", json!([{ "team_id": "T1" }])), Some("T1"));
        assert!(matches!(shared, Told::Message { .. }), "a channel that two workspaces share");
    }

    #[test]
    fn marks_are_read_as_people_read_them() {
        for (text, expected) in [
            ("<@U1|ada> &amp; <@U2>, a &lt; b", "@ada & @U2, a < b"),
            ("<https://x.example|here> <https://y.example>", "here (https://x.example) https://y.example"),
            ("<#C1|general> <!here> <!subteam^S1|@team>", "#general @here @team"),
            ("1 < 2 <é", "1 < 2 <é"),
            ("&amp;lt;", "&lt;"),
        ] {
            assert_eq!(plain(text), expected, "{text}");
        }
    }
}
