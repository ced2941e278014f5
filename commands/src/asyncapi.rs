//! The AsyncAPI 3.0 document of the event and command subjects, generated from the types.

use serde_json::{Map, Value, json};
use symbia_events::{MAX_DATA, MessageType, Service, example};

use crate::{catalog, claim};

/// The document. `docs/asyncapi.json` is its committed form.
#[must_use]
pub fn document() -> Value {
    let (mut channels, mut operations, mut messages) = (Map::new(), Map::new(), Map::new());
    let mut add = |way: Way, service: Service, aggregate: &str, name: String, data: Value, sample: Value| {
        let channel = format!("{}.{service}.{aggregate}", way.token());
        let reference = json!({ "$ref": format!("#/components/messages/{name}") });
        let entry = channels.entry(channel.clone()).or_insert_with(|| way.channel(service, aggregate));
        entry["messages"][&name] = reference;
        operations.entry(channel.clone()).or_insert_with(|| way.operation(service, aggregate, &channel));
        messages.insert(name.clone(), way.message(&name, data, &sample));
    };
    for (way, types) in [(Way::Event, symbia_events::catalog()), (Way::Command, catalog())] {
        for MessageType { name, schema, service, aggregate } in types {
            let sample = example::example(&schema);
            add(way, service, aggregate, name.to_owned(), embedded(name, schema.into()), sample);
        }
    }
    let claimed = Value::from(schemars::schema_for!(claim::ClaimData));
    for service in Service::ALL {
        for taken in [true, false] {
            let name = claim::event_type(service, taken);
            let sample = json!({ "name": "email:hash", "holder": example::ID });
            add(Way::Event, service, claim::KIND, name.clone(), embedded(&name, claimed.clone()), sample);
        }
    }
    channels.insert("outcome".to_owned(), outcome_channel());
    operations.insert(
        "outcome".to_owned(),
        json!({
            "action": "receive",
            "channel": { "$ref": "#/channels/outcome" },
            "summary": "What became of a command",
        }),
    );
    messages.insert(
        "outcome".to_owned(),
        json!({
            "name": "outcome",
            "title": "Outcome of a command",
            "contentType": "application/json",
            "payload": outcome_schema(),
        }),
    );
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Symbia events and commands",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Every state change is a signed CloudEvent on NATS JetStream (docs/EVENTS.md); commands are \
                            published by anyone who has an actor assertion (docs/COMMANDS.md). One message holds one \
                            event or, as a CloudEvents batch, all events of one commit.",
            "license": { "name": "MIT" },
        },
        "defaultContentType": "application/cloudevents+json",
        "servers": { "local": { "host": "localhost:4222", "protocol": "nats" } },
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": { "event": event_schema(), "command": command_schema() },
        },
    })
}

#[derive(Clone, Copy)]
enum Way {
    Event,
    Command,
}

impl Way {
    fn token(self) -> &'static str {
        match self {
            Way::Event => "evt",
            Way::Command => "cmd",
        }
    }

    fn channel(self, service: Service, aggregate: &str) -> Value {
        json!({
            "address": format!("symbia.{}.{service}.{{tenant}}.{aggregate}.{{id}}", self.token()),
            "parameters": {
                "tenant": { "description": "organization id, or `global`" },
                "id": { "description": format!("id of the {aggregate}") },
            },
            "messages": {},
        })
    }

    fn operation(self, service: Service, aggregate: &str, channel: &str) -> Value {
        let (action, summary) = match self {
            Way::Event => ("receive", format!("Events of the {service} service's {aggregate} aggregates")),
            Way::Command => ("send", format!("Commands to the {service} service's {aggregate} aggregates")),
        };
        json!({ "action": action, "channel": { "$ref": format!("#/channels/{channel}") }, "summary": summary })
    }

    fn message(self, name: &str, data: Value, sample: &Value) -> Value {
        let envelope = match self {
            Way::Event => "#/components/schemas/event",
            Way::Command => "#/components/schemas/command",
        };
        let summary = data["description"].clone();
        let mut message = json!({
            "name": name,
            "contentType": "application/cloudevents+json",
            "payload": {
                "allOf": [
                    { "$ref": envelope },
                    { "type": "object", "properties": { "type": { "const": name }, "data": data } },
                ],
            },
            "x-data-example": sample,
        });
        if summary.is_string() {
            message["summary"] = summary;
        }
        message
    }
}

// A schema inside the document: its own definitions are referred to from the document's root.
fn embedded(name: &str, mut schema: Value) -> Value {
    if let Some(object) = schema.as_object_mut() {
        object.remove("$schema");
    }
    rebase(&mut schema, &format!("#/components/messages/{name}/payload/allOf/1/properties/data"));
    schema
}

fn rebase(value: &mut Value, base: &str) {
    match value {
        Value::Object(object) => {
            for (name, member) in object {
                match member {
                    Value::String(target) if name == "$ref" && target.starts_with("#/") => {
                        *target = format!("{base}{}", &target[1..]);
                    }
                    other => rebase(other, base),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rebase(item, base)),
        _ => {}
    }
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

fn event_schema() -> Value {
    json!({
        "type": "object",
        "description": "CloudEvents 1.0 in structured JSON, written in RFC 8785 canonical form and signed",
        "required": [
            "actorid", "actortype", "aggregateid", "aggregatetype", "aggregateversion", "authmethod", "causationid",
            "commandid", "correlationid", "data", "datacontenttype", "dataschema", "hmac", "hmackid", "id", "orgid",
            "prevhash", "source", "specversion", "subject", "time", "type",
        ],
        "properties": {
            "specversion": { "const": "1.0" },
            "id": { "type": "string", "format": "uuid", "description": "UUIDv7" },
            "time": { "type": "string", "format": "date-time" },
            "source": text("symbia/<service>"),
            "type": text("symbia.<service>.<aggregate>.<event>.v<n>"),
            "subject": text("<aggregate>/<id>"),
            "datacontenttype": { "const": "application/json" },
            "dataschema": { "type": "string", "format": "uri" },
            "data": { "type": "object", "description": format!("at most {MAX_DATA} bytes") },
            "orgid": text("tenant, or `global`"),
            "env": text("environment label"),
            "dataclass": text("none, pii, phi or secret"),
            "policyref": text("policy pointer for audit"),
            "actorid": text("acting principal"),
            "actortype": { "enum": ["user", "agent", "service", "system", "anonymous"] },
            "onbehalfof": text("principal acted for, on impersonation"),
            "authmethod": { "enum": ["jwt", "apikey", "session", "service"] },
            "commandid": { "type": "string", "format": "uuid" },
            "correlationid": text("everything that one request set off"),
            "causationid": text("the event or command this one follows from"),
            "traceparent": text("W3C trace context"),
            "aggregatetype": text("kind of aggregate"),
            "aggregateid": text("its id"),
            "aggregateversion": { "type": "integer", "minimum": 1 },
            "hmac": text("base64url HMAC-SHA-256 of the canonical event without this member"),
            "hmackid": text("<key id>.<service>"),
            "prevhash": text("base64url SHA-256 of the aggregate's previous event, or `genesis`"),
        },
    })
}

fn command_schema() -> Value {
    json!({
        "type": "object",
        "description": "CloudEvents 1.0 in structured JSON, with a signed actor",
        "required": ["specversion", "id", "source", "type", "subject", "time", "orgid", "actorassertion", "data"],
        "properties": {
            "specversion": { "const": "1.0" },
            "id": { "type": "string", "format": "uuid", "description": "the same id again gives the same outcome" },
            "time": { "type": "string", "format": "date-time", "description": "at most 24 h old, 5 min ahead" },
            "source": text("who sends it"),
            "type": text("symbia.cmd.<service>.<verb>.v<n>"),
            "subject": text("<aggregate>/<id>, as in the NATS subject"),
            "datacontenttype": { "const": "application/json" },
            "orgid": text("tenant or `global`, as in the NATS subject"),
            "actorassertion": text("compact JWS from POST /api/auth/assertion"),
            "correlationid": text("everything that one request set off"),
            "causationid": text("the event or command this one follows from"),
            "traceparent": text("W3C trace context"),
            "env": text("environment label"),
            "dataclass": text("none, pii, phi or secret"),
            "policyref": text("policy pointer for audit"),
            "data": { "type": "object" },
        },
    })
}

fn outcome_channel() -> Value {
    json!({
        "address": "symbia.out.{tenant}.{commandId}",
        "description": "Core NATS: subscribe before publishing the command",
        "parameters": {
            "tenant": { "description": "tenant of the command" },
            "commandId": { "description": "id of the command" },
        },
        "messages": { "outcome": { "$ref": "#/components/messages/outcome" } },
    })
}

fn outcome_schema() -> Value {
    // Kept beside `Outcome`, which has no schema of its own; a test compares the two.
    json!({
        "type": "object",
        "required": ["commandId", "status"],
        "properties": {
            "commandId": { "type": "string", "format": "uuid" },
            "status": { "enum": ["accepted", "rejected", "dead"] },
            "events": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": { "type": { "type": "string" }, "version": { "type": "integer", "minimum": 1 } },
                },
            },
            "position": {
                "type": "object",
                "description": "the read models show the events once they have passed it",
                "properties": { "service": { "type": "string" }, "sequence": { "type": "integer", "minimum": 1 } },
            },
            "repeated": { "type": "boolean", "description": "the command had been decided before" },
            "code": text("why it was refused, for programs"),
            "message": text("why it was refused, for people"),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use symbia_events::{CommandId, Position};

    use super::*;
    use crate::{EventRef, Outcome, OutcomeStatus, Rejection};

    #[test]
    fn the_committed_document_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/asyncapi.json");
        let current = serde_json::to_string_pretty(&document()).unwrap() + "\n";
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &current).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == current, "docs/asyncapi.json is out of date: run `UPDATE_DOCS=1 ./test.sh asyncapi`");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn check(root: &Value, value: &Value, seen: &mut usize) {
            match value {
                Value::Object(object) => {
                    if let Some(target) = object.get("$ref").and_then(Value::as_str) {
                        assert!(root.pointer(&target[1..]).is_some(), "{target}");
                        *seen += 1;
                    }
                    object.values().for_each(|member| check(root, member, seen));
                }
                Value::Array(items) => items.iter().for_each(|item| check(root, item, seen)),
                _ => {}
            }
        }
        let (document, mut seen) = (document(), 0);
        check(&document, &document, &mut seen);
        assert!(seen > 3 * (symbia_events::catalog().len() + catalog().len()));
    }

    #[test]
    fn the_outcome_is_described_as_it_is_written() {
        let outcome = Outcome {
            events: vec![EventRef { event_type: "t".into(), version: 1 }],
            position: Some(Position { service: Service::Identity, sequence: 1 }),
            repeated: true,
            status: OutcomeStatus::Dead,
            ..Outcome::rejected(CommandId::random(), Rejection::not_found("user"))
        };
        let written = serde_json::to_value(outcome).unwrap();
        let described = outcome_schema();
        let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let (mut written, mut described) = (names(&written), names(&described["properties"]));
        written.sort();
        described.sort();
        assert_eq!(written, described);
    }
}
