//! One call of a server's tool, and what a model is told of it.

use std::{sync::Arc, time::Duration};

use axum::http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};
use symbia_commands::integrations::MAX_PROMPT;
use symbia_events::{
    CommandId, OrgId, SubjectKey,
    integrations::{InvocationInput, PromptMore, PromptRole, ToolCall},
};
use uuid::Uuid;

use super::{Toolset, names::ToolNames};
use crate::{
    http::{ApiError, ApiResult, Caller, RequestScope},
    integrations::{
        Integrations,
        ask::{Message, Question, request_id},
        registry::{Call, Called},
    },
};

/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most calls of one turn.
const MOST: usize = 16;
/// Most bytes of a result that a model is told.
const LONGEST: usize = 16 * 1024;
/// Bytes of a prompt that results leave for all else.
const SPARE: usize = 16 * 1024;

/// A call that a model asks for.
#[derive(Clone, Debug)]
pub(in crate::integrations) struct Planned {
    /// Of the invocation that it is.
    pub id: String,
    command_id: CommandId,
    pub call: ToolCall,
    /// Key of the server.
    pub server: String,
    /// Name of the tool there.
    pub tool: String,
    // What it is called with, or why it cannot be.
    input: Result<Map<String, Value>, String>,
}

/// Why a call has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::integrations) enum Fault {
    /// The tool says that it failed.
    Tool,
    /// It was not called, or did not answer: the HTTP status of the error.
    Call(u16),
}

/// A call that has its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::integrations) struct Made {
    /// Of the invocation that it is.
    pub id: String,
    /// Key of the server.
    pub server: String,
    /// Name of the tool there.
    pub tool: String,
    pub arguments: String,
    /// What the model is told.
    pub text: String,
    pub fault: Option<Fault>,
}

/// The calls of a turn; `first` is the id of the first request, and `number` that of the turn.
pub(in crate::integrations) fn plan(names: &ToolNames, first: Uuid, number: u32, calls: &[ToolCall]) -> Vec<Planned> {
    let planned = |(place, call): (usize, &ToolCall)| {
        let (server, tool) = names.find(&call.name)?;
        let command_id = CommandId(Uuid::new_v5(&first, format!("round {number} call {place}").as_bytes()));
        let input = match place < MOST {
            true => arguments(&call.arguments),
            false => Err(format!("it was not called: at most {MOST} calls are made of one turn. Call it again")),
        };
        let (id, server, tool) = (request_id(command_id).to_string(), server.to_owned(), tool.to_owned());
        Some(Planned { id, command_id, call: call.clone(), server, tool, input })
    };
    calls.iter().enumerate().filter_map(planned).collect()
}

fn arguments(text: &str) -> Result<Map<String, Value>, String> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(text).map_err(|wrong| {
        format!(
            "it was not called: its arguments are no JSON object ({wrong}). Call it again with arguments of its schema"
        )
    })
}

/// Who has tools called.
#[derive(Clone)]
pub(super) struct Who {
    pub service: Integrations,
    pub caller: Caller,
    pub scope: RequestScope,
}

/// Makes a call.
///
/// # Errors
/// The platform cannot make it just now: nothing is known of the tool.
pub(super) async fn make(who: Who, toolset: Arc<Toolset>, planned: Planned) -> ApiResult<Made> {
    let body = match planned.input.clone() {
        Ok(arguments) => Value::Object(arguments),
        Err(why) => return Ok(planned.refused(why)),
    };
    let Some((entry, operation)) = toolset.operation(&planned.call.name) else {
        return Err(ApiError::internal(format_args!("no operation is known of the function '{}'", planned.call.name)));
    };
    let (caller, scope, headers) = (&who.caller, &who.scope, &HeaderMap::new());
    let call = Call { caller, scope, headers, reader: &toolset.reader, patience: PATIENCE };
    let input = InvocationInput { body, ..InvocationInput::default() };
    let called = who.service.call_registered(&call, planned.command_id, entry, operation, input).await;
    match called {
        Err(error) if is_ours(&error) => Err(error),
        called => Ok(planned.ended(called)),
    }
}

/// A call that was made before; none where it has no end yet.
pub(in crate::integrations) async fn again(
    service: &Integrations,
    (org, key): (&OrgId, &SubjectKey),
    planned: Planned,
) -> ApiResult<Option<Made>> {
    if let Err(why) = planned.input.clone() {
        return Ok(Some(planned.refused(why)));
    }
    Ok(service.called(org, &planned.id, key).await?.map(|called| planned.ended(called)))
}

// What went wrong with a call has a category; the rest went wrong here.
fn is_ours(error: &ApiError) -> bool {
    error.status().is_server_error() && error.extra("category").is_none()
}

impl Planned {
    fn made(self, text: String, fault: Option<Fault>) -> Made {
        let Planned { id, server, tool, call, .. } = self;
        Made { id, server, tool, arguments: call.arguments, text: bounded(text, LONGEST), fault }
    }

    fn refused(self, why: String) -> Made {
        self.made(why, Some(Fault::Call(StatusCode::BAD_REQUEST.as_u16())))
    }

    fn ended(self, called: ApiResult<Called>) -> Made {
        match called {
            Ok(called) => {
                let fault = (!called.success).then_some(Fault::Tool);
                self.made(text_of(&called.data), fault)
            }
            Err(error) => {
                let text = format!("the tool was not called, or did not answer: {}", error.message());
                self.made(text, Some(Fault::Call(error.status().as_u16())))
            }
        }
    }
}

/// What a model can read of a tool's result.
fn text_of(result: &Value) -> String {
    let of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let unreadable = |kind: &Value, data: &Value| {
        format!("[{}, {} characters of base64, which are not shown]", of(kind), of(data).len())
    };
    let block = |block: &Value| match block["type"].as_str() {
        Some("text") => of(&block["text"]),
        Some("image" | "audio") => unreadable(&block["mimeType"], &block["data"]),
        Some("resource") if block["resource"]["text"].is_string() => of(&block["resource"]["text"]),
        Some("resource") => unreadable(&block["resource"]["mimeType"], &block["resource"]["blob"]),
        _ => block.to_string(),
    };
    let text = result["content"].as_array().into_iter().flatten().map(block).collect::<Vec<_>>().join("\n");
    match &result["structuredContent"] {
        _ if !text.is_empty() => text,
        Value::Null => "(the tool answers with nothing)".to_owned(),
        structured => structured.to_string(),
    }
}

// As much of a text as fits, with how much that is.
fn bounded(text: String, most: usize) -> String {
    if text.len() <= most {
        return text;
    }
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}\n[cut off here: {end} of {} bytes]", &text[..end], text.len())
}

fn length(of: &impl Serialize) -> usize {
    serde_json::to_string(of).map_or(0, |json| json.len())
}

/// The turns that tell of calls, where the prompt has room: each of them a part of it, so that there is room for later ones.
pub(super) fn results(question: &Question, turn: &[ToolCall], made: &[Made]) -> Vec<Message> {
    // Pictures are kept beside the prompt where they are large.
    let more = |more: &PromptMore| if more.parts.is_empty() { length(more) } else { 0 };
    let said: usize = question.messages.iter().map(|message| message.text.len() + more(&message.more)).sum();
    let taken = said + length(&question.options) + SPARE;
    let room = MAX_PROMPT.saturating_sub(taken) / (2 * made.len().max(1));
    let result = |(call, made): (&ToolCall, &Made)| {
        let more = PromptMore { tool_call_id: Some(call.id.clone()), ..PromptMore::default() };
        let text = match made.fault {
            Some(_) => format!("Error: {}", made.text),
            None => made.text.clone(),
        };
        Message { more, ..Message::text(PromptRole::Tool, bounded(text, room)) }
    };
    turn.iter().zip(made).map(result).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use serde_json::json;
    use symbia_events::integrations::{PromptOptions, Sampling, Target};

    use super::{
        super::names::tests::{call, names},
        *,
    };

    #[test]
    fn calls_have_ids_that_follow_from_their_place_and_nothing_else() {
        let first = Uuid::from_u128(7);
        let calls = [call("weather_get", r#"{"city":"Bern"}"#), call("weather_set", "[1]"), call("weather_get", "")];
        let planned = plan(&names(1), first, 1, &calls);
        let ids: Vec<&str> = planned.iter().map(|planned| planned.id.as_str()).collect();
        let again = plan(&names(9), first, 1, &[call("weather_set", "{}"), call("weather_get", "{}")]);
        assert_eq!(ids[..2], [again[0].id.as_str(), again[1].id.as_str()]);
        assert!(ids[0] != ids[1] && ids[1] != ids[2]);
        assert!(!ids.contains(&plan(&names(1), first, 2, &calls)[0].id.as_str()), "another turn, another call");
        assert!(!ids.contains(&plan(&names(1), Uuid::from_u128(8), 1, &calls)[0].id.as_str()), "another request");

        assert_eq!((planned[0].server.as_str(), planned[0].tool.as_str()), ("weather", "get"));
        assert_eq!(planned[0].input.clone().unwrap()["city"], "Bern");
        assert!(planned[1].input.clone().unwrap_err().contains("no JSON object"));
        assert!(planned[2].input.clone().unwrap().is_empty());
        let many = plan(&names(1), first, 1, &vec![call("weather_get", "{}"); MOST + 1]);
        assert!(many[MOST - 1].input.is_ok() && many[MOST].input.clone().unwrap_err().contains("at most 16 calls"));
    }

    #[test]
    fn what_a_tool_gives_is_told_as_text() {
        for (result, text) in [
            (json!({ "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] }), "a\nb"),
            (
                json!({ "content": [{ "type": "image", "mimeType": "image/png", "data": "AAAA" }] }),
                "[image/png, 4 characters of base64, which are not shown]",
            ),
            (json!({ "content": [{ "type": "resource", "resource": { "uri": "x:1", "text": "told" } }] }), "told"),
            (json!({ "content": [], "structuredContent": { "n": 1 } }), r#"{"n":1}"#),
            (json!({ "content": [] }), "(the tool answers with nothing)"),
        ] {
            assert_eq!(text_of(&result), text, "{result}");
        }
        assert_eq!(bounded("añb".to_owned(), 4), "añb");
        assert_eq!(bounded("añb".to_owned(), 2), "a\n[cut off here: 1 of 4 bytes]");
    }

    #[test]
    fn results_leave_room_for_later_ones() {
        let of = |text: &str, fault| Made {
            id: String::new(),
            server: "weather".into(),
            tool: "get".into(),
            arguments: "{}".into(),
            text: text.into(),
            fault,
        };
        let mut question = Question {
            operation: "chat.completions",
            target: Target { provider: None, model: None },
            fallbacks: Vec::new(),
            messages: vec![Message::text(PromptRole::User, "x".repeat(MAX_PROMPT - SPARE - 40_000))],
            sampling: Sampling::default(),
            options: PromptOptions::default(),
            stream: false,
            credential_id: None,
        };
        let (turn, made) =
            (vec![call("weather_get", "{}"); 2], [of(&"r".repeat(LONGEST), None), of("no", Some(Fault::Tool))]);
        let told = results(&question, &turn, &made);
        assert!(told[0].text.len() < 11_000 && told[0].text.contains("cut off here"), "{}", told[0].text.len());
        assert_eq!(
            (told[1].text.as_str(), told[1].more.tool_call_id.as_deref()),
            ("Error: no", Some("call of weather_get"))
        );
        // However many rounds there are, the next one fits.
        for _ in 0..16 {
            let told = results(&question, &turn, &made);
            question.messages.extend(told);
        }
        assert!(question.messages.iter().map(|message| message.text.len()).sum::<usize>() <= MAX_PROMPT);
    }
}
