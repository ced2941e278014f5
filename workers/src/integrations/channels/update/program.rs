//! What programs of organizations' own tell.

use serde::Deserialize;
use symbia_commands::integrations::ChannelChange;

use super::{Attachment, Inbound, MAX_LABEL, MAX_URL, MOST_ATTACHMENTS, Told};

/// What a program tells: `{type?, data: Inbound}`, or an `Inbound` alone, under the id of its call.
#[derive(Deserialize)]
struct OfProgram {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    data: Inbound,
}

/// Reads a call.
pub fn read(body: &str, id: Option<&str>) -> Told {
    let Some(id) = id else { return Told::Malformed };
    let Ok(OfProgram { kind, data: mut message }) = serde_json::from_str(body) else { return Told::Malformed };
    let change = match kind.as_deref() {
        None | Some("channel.message.inbound") => ChannelChange::Said,
        Some("channel.message.edited") => ChannelChange::Edited,
        Some("channel.message.deleted") => ChannelChange::Withdrawn,
        Some(_) => return Told::Nothing,
    };
    let fits = |text: &String| !text.is_empty() && text.len() <= MAX_LABEL;
    let says_nothing = message.text.as_ref().is_none_or(String::is_empty) && message.attachments.is_empty();
    let is_label = |text: &Option<String>| text.as_ref().is_none_or(|text| text.len() <= MAX_LABEL);
    let is_short = |file: &Attachment| {
        [&file.mime_type, &file.filename, &file.file_id].into_iter().all(is_label)
            && file.url.as_ref().is_none_or(|url| url.len() <= MAX_URL)
    };
    if ![&message.id, &message.chat.id, &message.sender.id].into_iter().all(fits)
        || message.attachments.len() > MOST_ATTACHMENTS
        || !message.attachments.iter().all(is_short)
        || (says_nothing && change != ChannelChange::Withdrawn)
    {
        return Told::Malformed;
    }
    // Which files are kept, is not for others to say.
    message.attachments.iter_mut().for_each(|file| (file.kept, file.left) = (None, None));
    if message.content_type.is_empty() {
        "text".clone_into(&mut message.content_type);
    }
    if message.chat.kind.is_empty() {
        "private".clone_into(&mut message.chat.kind);
    }
    Told::Message { update_id: id.to_owned(), change, message: Box::new(message) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_program_tells_with_an_id_or_not_at_all() {
        let body = json!({ "data": { "id": "m", "text": "Hi", "sender": { "id": "u" }, "chat": { "id": "c" } } });
        let told = read(&body.to_string(), Some("x1"));
        assert!(matches!(told, Told::Message { update_id, change: ChannelChange::Said, .. } if update_id == "x1"));
        assert_eq!(read(&body.to_string(), None), Told::Malformed);
        assert_eq!(read(r#"{"data":{"id":"m","sender":{"id":"u"},"chat":{"id":"c"}}}"#, Some("x")), Told::Malformed);
        let back = json!({ "type": "channel.message.deleted", "data": { "id": "m", "sender": { "id": "u" }, "chat": { "id": "c" } } });
        let told = read(&back.to_string(), Some("x2"));
        assert!(matches!(told, Told::Message { change: ChannelChange::Withdrawn, .. }), "{told:?}");
    }
}
