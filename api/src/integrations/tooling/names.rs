//! Which functions of a prompt are tools of servers, and what follows from a model's turn. Pure, and kept with a request, so that
//! it can be told later what was a tool of whom.

use serde::{Deserialize, Serialize};
use symbia_events::integrations::{AnswerChoice, FinishReason, ToolCall};

/// The tools of servers in a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::integrations) struct ToolNames {
    /// Most rounds of calls.
    pub most: u32,
    pub servers: Vec<NamedServer>,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::integrations) struct NamedServer {
    /// Its key.
    pub key: String,
    pub tools: Vec<NamedTool>,
}

/// One of its tools.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::integrations) struct NamedTool {
    /// The function that a model knows it as.
    pub function: String,
    /// Its name at the server.
    pub tool: String,
    #[serde(default)]
    pub read_only: bool,
}

/// What follows from a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::integrations) enum Next {
    /// What it calls is called, and the model is asked again.
    Calls,
    /// It goes to the caller.
    Done,
    /// It calls once more than it may.
    UsedUp,
}

impl ToolNames {
    /// The key of the server and the name of the tool that a function is.
    pub fn find(&self, function: &str) -> Option<(&str, &str)> {
        self.servers.iter().find_map(|server| {
            let tool = server.tools.iter().find(|tool| tool.function == function)?;
            Some((server.key.as_str(), tool.tool.as_str()))
        })
    }

    /// The function that a tool is.
    pub fn function(&self, key: &str, tool: &str) -> Option<&str> {
        let server = self.servers.iter().find(|server| server.key == key)?;
        server.tools.iter().find(|named| named.tool == tool).map(|named| named.function.as_str())
    }

    /// What follows from the turn with this number, from 1.
    pub fn next(&self, said: &AnswerChoice, number: u32) -> Next {
        use FinishReason::{ContentFilter, Incomplete, Length};
        // The last call of a turn that was cut off is not whole.
        let cut_off = matches!(said.finish_reason, Length | ContentFilter | Incomplete);
        let of_servers = |call: &ToolCall| self.find(&call.name).is_some();
        if cut_off || said.tool_calls.is_empty() || !said.tool_calls.iter().all(of_servers) {
            return Next::Done;
        }
        if number > self.most { Next::UsedUp } else { Next::Calls }
    }

    /// The calls of a turn that are not of servers.
    pub fn own(&self, calls: &[ToolCall]) -> Vec<ToolCall> {
        calls.iter().filter(|call| self.find(&call.name).is_none()).cloned().collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn names(most: u32) -> ToolNames {
        let tool =
            |name: &str| NamedTool { function: format!("weather_{name}"), tool: name.to_owned(), read_only: false };
        let server = NamedServer { key: "weather".to_owned(), tools: vec![tool("get"), tool("set")] };
        ToolNames { most, servers: vec![server] }
    }

    pub fn call(name: &str, arguments: &str) -> ToolCall {
        ToolCall { id: format!("call of {name}"), name: name.to_owned(), arguments: arguments.to_owned() }
    }

    pub fn turn(calls: &[&str], finish_reason: FinishReason) -> AnswerChoice {
        AnswerChoice {
            text: String::new(),
            reasoning: String::new(),
            tool_calls: calls.iter().map(|name| call(name, "{}")).collect(),
            finish_reason,
            logprobs: Vec::new(),
        }
    }

    #[test]
    fn a_turn_goes_to_the_caller_unless_all_it_calls_is_of_servers() {
        use FinishReason::{Length, Stop, ToolCalls};
        let names = names(2);
        for (calls, finish, number, next) in [
            (&["weather_get", "weather_set"][..], ToolCalls, 1, Next::Calls),
            // Some providers say that it stopped.
            (&["weather_get"], Stop, 2, Next::Calls),
            (&["weather_get"], ToolCalls, 3, Next::UsedUp),
            (&["weather_get", "add"], ToolCalls, 1, Next::Done),
            (&["add"], ToolCalls, 3, Next::Done),
            (&["weather_get"], Length, 1, Next::Done),
            (&[], Stop, 3, Next::Done),
        ] {
            assert_eq!(names.next(&turn(calls, finish), number), next, "{calls:?} {finish:?} {number}");
        }
    }

    #[test]
    fn tools_and_functions_are_found_by_each_other() {
        let names = names(1);
        assert_eq!(names.find("weather_get"), Some(("weather", "get")));
        assert_eq!((names.function("weather", "set"), names.function("other", "set")), (Some("weather_set"), None));
        let own = names.own(&[call("add", "{}"), call("weather_get", "{}")]);
        assert_eq!(own, [call("add", "{}")]);
        let kept = serde_json::to_value(&names).ok().and_then(|kept| serde_json::from_value(kept).ok());
        assert_eq!(kept, Some(names));
    }
}
