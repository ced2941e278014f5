//! WhatsApp's calls (Cloud API, webhooks, field `messages`): several messages and states of messages may come in one.

use serde_json::Value;
use symbia_commands::integrations::ChannelChange;
use symbia_events::integrations::ChannelReceipt;

use super::{super::whatsapp::code_of, Attachment, Chat, Inbound, Party, Told, instant, label};

/// Kinds of messages that bring a file along, and what it is here.
const FILES: [(&str, &str); 5] =
    [("image", "image"), ("video", "video"), ("audio", "audio"), ("document", "document"), ("sticker", "sticker")];

/// Reads a call to a number. An app has one address and one secret for all numbers that it serves: what happens at another one is
/// none of this connection's.
pub fn read(body: &str, number: Option<&str>) -> Vec<Told> {
    let Ok(call) = serde_json::from_str::<Value>(body) else { return vec![Told::Malformed] };
    let (Some(_), Some(entries)) = (call["object"].as_str(), call["entry"].as_array()) else {
        return vec![Told::Malformed];
    };
    let changes = entries.iter().filter_map(|entry| entry["changes"].as_array()).flatten();
    let own = changes.filter(|change| {
        let of = change["value"]["metadata"]["phone_number_id"].as_str();
        change["field"] == "messages" && of.is_some() && of == number
    });
    own.flat_map(|change| of_value(&change["value"])).collect()
}

fn of_value(value: &Value) -> Vec<Told> {
    let each = |name: &str| value[name].as_array().into_iter().flatten();
    let said = each("messages").filter_map(|said| {
        let message = message(said, value["contacts"].as_array().into_iter().flatten())?;
        Some(Told::Message { update_id: message.id.clone(), change: ChannelChange::Said, message: Box::new(message) })
    });
    said.chain(each("statuses").filter_map(receipt)).collect()
}

fn receipt(status: &Value) -> Option<Told> {
    let receipt = match status["status"].as_str()? {
        "sent" => ChannelReceipt::Sent,
        "delivered" => ChannelReceipt::Delivered,
        // Of what is heard.
        "read" | "played" => ChannelReceipt::Read,
        "failed" => ChannelReceipt::Failed,
        _ => return None,
    };
    Some(Told::Receipt {
        chat: label(&status["recipient_id"])?,
        vendor_message_id: label(&status["id"])?,
        receipt,
        code: status["errors"][0]["code"].as_i64().map(code_of),
    })
}

fn message<'v>(said: &Value, mut contacts: impl Iterator<Item = &'v Value>) -> Option<Inbound> {
    let (id, from, kind) = (label(&said["id"])?, label(&said["from"])?, said["type"].as_str()?);
    let file = FILES.into_iter().find(|(of, _)| *of == kind).map(|(of, here)| attachment(here, &said[of]));
    let text = match kind {
        "text" => said["text"]["body"].as_str(),
        "button" => said["button"]["text"].as_str(),
        "interactive" => {
            let of = &said["interactive"];
            of["button_reply"]["title"].as_str().or(of["list_reply"]["title"].as_str())
        }
        _ => said[kind]["caption"].as_str(),
    };
    let text = text.filter(|text| !text.is_empty()).map(str::to_owned).or_else(|| place(&said["location"]));
    // A reaction, an order, a change of number.
    if text.is_none() && file.is_none() {
        return None;
    }
    let contact = contacts.find(|contact| contact["wa_id"].as_str() == Some(&from));
    let name = contact.and_then(|contact| label(&contact["profile"]["name"]));
    Some(Inbound {
        content_type: file.as_ref().map_or("text", |file| file.kind.as_str()).to_owned(),
        text,
        attachments: file.into_iter().collect(),
        sender: Party { id: from.clone(), name: name.clone(), ..Party::default() },
        chat: Chat { id: from, kind: "private".to_owned(), name },
        reply_to_message_id: label(&said["context"]["id"]),
        timestamp: said["timestamp"]
            .as_str()
            .and_then(|at| instant(&at.parse::<i64>().ok()?.into()))
            .unwrap_or_default(),
        id,
        ..Inbound::default()
    })
}

// A place on the map, as somebody would write it.
fn place(location: &Value) -> Option<String> {
    let (latitude, longitude) = (location["latitude"].as_f64()?, location["longitude"].as_f64()?);
    let named = [&location["name"], &location["address"]].into_iter().filter_map(label);
    Some(named.chain([format!("{latitude}, {longitude}")]).collect::<Vec<_>>().join(", "))
}

fn attachment(kind: &str, file: &Value) -> Attachment {
    // `audio/ogg; codecs=opus`
    let mime_type = label(&file["mime_type"]);
    let mime_type = mime_type.and_then(|mime| mime.split(';').next().map(|mime| mime.trim().to_owned()));
    Attachment {
        kind: kind.to_owned(),
        file_id: label(&file["id"]),
        mime_type,
        filename: label(&file["filename"]),
        ..Attachment::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(value: Value) -> Vec<Told> {
        let mut value = value;
        value["metadata"] = json!({ "phone_number_id": "10", "display_phone_number": "1555" });
        let entry = json!([{ "id": "1", "changes": [{ "field": "messages", "value": value }] }]);
        read(&json!({ "object": "whatsapp_business_account", "entry": entry }).to_string(), Some("10"))
    }

    fn said(message: Value) -> Option<Inbound> {
        let mut message = message;
        (message["id"], message["from"], message["timestamp"]) = (json!("wamid.1"), json!("4917"), json!("1700000000"));
        match told(json!({ "messages": [message] })).pop()? {
            Told::Message { message, .. } => Some(*message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn several_things_come_in_one_call_in_their_order() {
        let text = |id: &str| {
            json!({ "id": id, "from": "4917", "timestamp": "1700000000", "type": "text",
            "text": { "body": "hi" }, "context": { "id": "wamid.0", "from": "1555" } })
        };
        let contacts = json!([{ "wa_id": "4917", "profile": { "name": "Grace" } }]);
        let status =
            json!({ "id": "wamid.9", "recipient_id": "4917", "status": "failed", "errors": [{ "code": 131026 }] });
        let all = told(json!({ "contacts": contacts, "messages": [text("a"), text("b")], "statuses": [status] }));
        let [Told::Message { message, .. }, Told::Message { update_id, .. }, Told::Receipt { receipt, code, .. }] =
            &all[..]
        else {
            panic!("{all:?}")
        };
        assert_eq!((message.sender.name.as_deref(), update_id.as_str()), (Some("Grace"), "b"));
        assert_eq!(message.reply_to_message_id.as_deref(), Some("wamid.0"));
        assert_eq!(message.timestamp, "2023-11-14T22:13:20Z");
        assert_eq!((*receipt, code.as_deref()), (ChannelReceipt::Failed, Some("undeliverable")));
    }

    #[test]
    fn files_places_and_choices_say_something_and_reactions_do_not() {
        let voice = said(
            json!({ "type": "audio", "audio": { "id": "77", "mime_type": "audio/ogg; codecs=opus", "voice": true } }),
        );
        let voice = voice.unwrap().attachments.remove(0);
        assert_eq!((voice.file_id.as_deref(), voice.mime_type.as_deref()), (Some("77"), Some("audio/ogg")));
        let image = said(json!({ "type": "image", "image": { "id": "78", "caption": "look" } })).unwrap();
        assert_eq!((image.content_type.as_str(), image.text.as_deref()), ("image", Some("look")));
        let place = json!({ "type": "location", "location": { "latitude": 52.5, "longitude": 13.4, "name": "Here" } });
        assert_eq!(said(place).unwrap().text.as_deref(), Some("Here, 52.5, 13.4"));
        let choice = json!({ "type": "interactive", "interactive": { "type": "button_reply", "button_reply": { "title": "Yes" } } });
        assert_eq!(said(choice).unwrap().text.as_deref(), Some("Yes"));
        assert_eq!(said(json!({ "type": "reaction", "reaction": { "message_id": "wamid.0", "emoji": "👍" } })), None);
    }

    #[test]
    fn what_happens_at_another_number_is_none_of_ours() {
        let message = json!({ "id": "a", "from": "1", "type": "text", "text": { "body": "x" } });
        let value = json!({ "metadata": { "phone_number_id": "11" }, "messages": [message] });
        let call = json!({ "object": "whatsapp_business_account", "entry": [{ "changes": [{ "field": "messages", "value": value }] }] });
        assert_eq!(read(&call.to_string(), Some("10")), []);
        assert_eq!(read("{}", Some("10")), [Told::Malformed]);
    }
}
