//! The events of a streamed response: its items one after another, each begun, told piece by piece, and ended.

use axum::response::sse::Event;
use serde_json::{Value, json};
use symbia_events::integrations::{TokenLogprob, ToolCall};

use super::{
    response::{Echo, Head, failed, finished, logprobs, output_text, summary},
    served::{cut_off, made, planned},
};
use crate::integrations::{
    said::{Answer, Failure, Piece},
    stream::Dialect,
    tooling::{Made, Outcome, Planned, ToolDialect},
};

const ADDED: &str = "response.output_item.added";
const DONE: &str = "response.output_item.done";

/// The item that is being told.
enum Open {
    Reasoning(String),
    Message { text: String, likely: Vec<TokenLogprob>, untold: Vec<TokenLogprob> },
    Call { index: usize, call: ToolCall },
}

/// The events of a response.
pub(super) struct Items {
    echo: Echo,
    head: Head,
    model: Option<String>,
    sequence: u64,
    begun: bool,
    open: Option<Open>,
    // Items that have their end, and calls of servers under way.
    output: Vec<Value>,
    // What names the items of the turn under way, and how many there were before it.
    turn: Head,
    before: usize,
    // The tools of servers, told at the beginning, and where the calls of the last turn stand.
    lists: Vec<Value>,
    calls: usize,
}

impl Items {
    pub fn new(head: Head, echo: Echo) -> Self {
        Self::with_tools(head, echo, Vec::new())
    }

    /// With what there is of tools of servers.
    pub fn with_tools(head: Head, echo: Echo, lists: Vec<Value>) -> Self {
        let (turn, output) = (head.clone(), Vec::new());
        Items {
            echo,
            head,
            model: None,
            sequence: 0,
            begun: false,
            open: None,
            output,
            turn,
            before: 0,
            lists,
            calls: 0,
        }
    }

    fn event(&mut self, kind: &str, mut data: Value) -> Event {
        data["type"] = json!(kind);
        data["sequence_number"] = json!(self.sequence);
        self.sequence += 1;
        Event::default().event(kind).data(data.to_string())
    }

    // An event of the item that is open.
    fn of_item(&mut self, kind: &str, item: &Value, data: Value) -> Event {
        self.of_item_at(self.output.len(), kind, item, data)
    }

    fn of_item_at(&mut self, place: usize, kind: &str, item: &Value, mut data: Value) -> Event {
        data["item_id"] = item["id"].clone();
        data["output_index"] = json!(place);
        self.event(kind, data)
    }

    // That an item is there, or has its end.
    fn item(&mut self, kind: &str, place: usize, item: &Value) -> Event {
        self.event(kind, json!({ "output_index": place, "item": item }))
    }

    fn response(&self) -> Value {
        self.echo.response(&self.head, self.model.as_deref(), self.output.clone())
    }

    fn opened(&mut self) -> Vec<Event> {
        if std::mem::replace(&mut self.begun, true) {
            return Vec::new();
        }
        let response = self.response();
        let mut events: Vec<Event> = ["response.created", "response.in_progress"]
            .into_iter()
            .map(|kind| self.event(kind, json!({ "response": response })))
            .collect();
        for list in std::mem::take(&mut self.lists) {
            let (place, mut begun) = (self.output.len(), list.clone());
            begun["tools"] = json!([]);
            events.push(self.item(ADDED, place, &begun));
            for kind in ["response.mcp_list_tools.in_progress", "response.mcp_list_tools.completed"] {
                events.push(self.of_item(kind, &list, json!({})));
            }
            events.push(self.item(DONE, place, &list));
            self.output.push(list);
        }
        self.before = self.output.len();
        events
    }

    // The item that a piece belongs to is begun, if it is another one than the last.
    fn begin(&mut self, piece: &Piece) -> Vec<Event> {
        let same = match (&self.open, piece) {
            (Some(Open::Reasoning(_)), Piece::Reasoning(_))
            | (Some(Open::Message { .. }), Piece::Text(_) | Piece::Logprobs(_)) => true,
            (Some(Open::Call { index: open, .. }), Piece::Tool { index, .. }) => open == index,
            _ => false,
        };
        if same {
            return Vec::new();
        }
        let mut events = self.closed();
        let (open, item, part) = match piece {
            Piece::Reasoning(_) => {
                let data = json!({ "summary_index": 0, "part": summary("") });
                let part = ("response.reasoning_summary_part.added", data);
                (Open::Reasoning(String::new()), self.turn.reasoning(""), Some(part))
            }
            Piece::Text(_) | Piece::Logprobs(_) => {
                let open = Open::Message { text: String::new(), likely: Vec::new(), untold: Vec::new() };
                let data = json!({ "content_index": 0, "part": output_text("", &[]) });
                (open, self.turn.message("in_progress", Vec::new()), Some(("response.content_part.added", data)))
            }
            Piece::Tool { index, id, name, .. } => {
                let (id, name) = (id.clone().unwrap_or_default(), name.clone().unwrap_or_default());
                let call = ToolCall { id, name, arguments: String::new() };
                let item = self.turn.call(*index, "in_progress", &call);
                (Open::Call { index: *index, call }, item, None)
            }
        };
        events.push(self.item(ADDED, self.output.len(), &item));
        if let Some((kind, data)) = part {
            events.push(self.of_item(kind, &item, data));
        }
        self.open = Some(open);
        events
    }

    // The item that is open has its end.
    fn closed(&mut self) -> Vec<Event> {
        let Some(open) = self.open.take() else { return Vec::new() };
        let (item, ends) = match open {
            Open::Reasoning(text) => {
                let done = json!({ "summary_index": 0, "text": text });
                let part = json!({ "summary_index": 0, "part": summary(&text) });
                let ends = vec![
                    ("response.reasoning_summary_text.done", done),
                    ("response.reasoning_summary_part.done", part),
                ];
                (self.turn.reasoning(&text), ends)
            }
            Open::Message { text, likely, .. } => {
                let part = output_text(&text, &likely);
                let done = json!({ "content_index": 0, "text": text, "logprobs": logprobs(&likely) });
                let ends = vec![
                    ("response.output_text.done", done),
                    ("response.content_part.done", json!({ "content_index": 0, "part": part })),
                ];
                (self.turn.message("completed", vec![part]), ends)
            }
            Open::Call { index, call } => {
                let done = json!({ "name": call.name, "arguments": call.arguments });
                (self.turn.call(index, "completed", &call), vec![("response.function_call_arguments.done", done)])
            }
        };
        let mut events: Vec<Event> = ends.into_iter().map(|(kind, data)| self.of_item(kind, &item, data)).collect();
        events.push(self.item(DONE, self.output.len(), &item));
        self.output.push(item);
        events
    }

    // The item that is open grows.
    fn grow(&mut self, piece: &Piece) -> Option<Event> {
        let (kind, item, data) = match (self.open.as_mut()?, piece) {
            (Open::Reasoning(so_far), Piece::Reasoning(text)) => {
                so_far.push_str(text);
                let data = json!({ "summary_index": 0, "delta": text });
                ("response.reasoning_summary_text.delta", self.turn.reasoning(""), data)
            }
            (Open::Message { likely, untold, .. }, Piece::Logprobs(tokens)) => {
                likely.extend_from_slice(tokens);
                untold.extend_from_slice(tokens);
                return None;
            }
            (Open::Message { text: so_far, untold, .. }, Piece::Text(text)) => {
                so_far.push_str(text);
                let data = json!({ "content_index": 0, "delta": text, "logprobs": logprobs(&std::mem::take(untold)) });
                ("response.output_text.delta", self.turn.message("in_progress", Vec::new()), data)
            }
            (Open::Call { index, call }, Piece::Tool { arguments, .. }) => {
                call.arguments.push_str(arguments);
                let item = self.turn.call(*index, "in_progress", call);
                ("response.function_call_arguments.delta", item, json!({ "delta": arguments }))
            }
            _ => return None,
        };
        Some(self.of_item(kind, &item, data))
    }

    fn ended(&mut self, answer: &Answer, used_up: Option<u32>) -> Vec<Event> {
        self.model = Some(answer.model.clone());
        let mut events = self.opened();
        if self.open.is_none() && self.output.len() == self.before {
            events.extend(self.begin(&Piece::Text(String::new())));
        }
        events.extend(self.closed());
        let response = cut_off(finished(self.response(), answer), used_up);
        let kind = if response["status"] == "completed" { "response.completed" } else { "response.incomplete" };
        events.push(self.event(kind, json!({ "response": response })));
        events
    }
}

impl Dialect for Items {
    fn started(&mut self, _attempt: u32, _provider: &str, model: &str) -> Vec<Event> {
        self.model = Some(model.to_owned());
        Vec::new()
    }

    fn piece(&mut self, _attempt: u32, _choice: u32, piece: &Piece) -> Vec<Event> {
        let mut events = self.opened();
        events.extend(self.begin(piece));
        events.extend(self.grow(piece));
        events
    }

    fn completed(&mut self, answer: &Answer) -> Vec<Event> {
        self.ended(answer, None)
    }

    fn failed(&mut self, failure: &Failure) -> Vec<Event> {
        let mut events = self.opened();
        let response = failed(self.response(), failure);
        events.push(self.event("response.failed", json!({ "response": response })));
        events
    }
}

impl ToolDialect for Items {
    // Their arguments are told whole: until a turn has its end, nobody knows whether its calls are made.
    fn calls(&mut self, calls: &[Planned]) -> Vec<Event> {
        let mut events = self.opened();
        events.extend(self.closed());
        self.calls = self.output.len();
        for call in calls {
            let (place, item, arguments) = (self.output.len(), planned(call), &call.call.arguments);
            events.push(self.item(ADDED, place, &item));
            for (kind, data) in [
                ("response.mcp_call.in_progress", json!({})),
                ("response.mcp_call_arguments.delta", json!({ "delta": arguments })),
                ("response.mcp_call_arguments.done", json!({ "arguments": arguments })),
            ] {
                events.push(self.of_item(kind, &item, data));
            }
            self.output.push(item);
        }
        events
    }

    fn called(&mut self, place: usize, call: &Made) -> Vec<Event> {
        let (place, item) = (self.calls + place, made(call));
        let kind = if call.fault.is_none() { "response.mcp_call.completed" } else { "response.mcp_call.failed" };
        let events = vec![self.of_item_at(place, kind, &item, json!({})), self.item(DONE, place, &item)];
        if let Some(told) = self.output.get_mut(place) {
            *told = item;
        }
        events
    }

    fn asked(&mut self, request_id: &str) -> Vec<Event> {
        self.turn = self.head.of_turn(request_id);
        self.before = self.output.len();
        Vec::new()
    }

    fn over(&mut self, outcome: &Outcome) -> Vec<Event> {
        self.ended(&outcome.answer, outcome.used_up)
    }
}
