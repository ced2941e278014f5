//! Prompts over the Model Context Protocol: those of the servers that an organization registered, and one of the platform's own.

use std::{collections::HashMap, fmt::Write};

use rmcp::{
    ErrorData,
    model::{GetPromptResult, Prompt, PromptArgument, PromptMessage, Role},
};
use serde_json::{Map, Value};
use symbia_events::integrations::{InvocationInput, Operation};

use super::{
    Tools, internal,
    tools::{among, is_prompt, is_tool, name},
};
use crate::integrations::registry::Entry;

/// The platform's own.
const OWN: &str = "use_integration";
/// Operations that it tells of.
const TOLD: usize = 100;

/// The prompts of a caller, in a lasting order.
pub(super) struct Prompts {
    entries: Vec<Entry>,
    // Name, and where the operation stands.
    prompts: Vec<(String, usize, usize)>,
}

fn argument(name: &str, text: Option<&str>, required: bool) -> PromptArgument {
    let argument = PromptArgument::new(name).with_required(required);
    text.into_iter().fold(argument, |argument, text| argument.with_description(text))
}

fn own() -> Prompt {
    let arguments = vec![
        argument("integration", Some("Key of an integration of the registry"), true),
        argument("task", Some("What is to be done with it"), true),
    ];
    Prompt::new(OWN, Some("Has a task done with the operations of an integration"), Some(arguments))
}

fn shown(name: &str, operation: &Operation) -> Prompt {
    let of = |p: &symbia_events::integrations::Parameter| argument(&p.name, p.description.as_deref(), p.required);
    let arguments = operation.parameters.iter().map(of).collect();
    Prompt::new(name, operation.description.clone(), Some(arguments))
}

impl Prompts {
    /// Of these integrations, if they are named.
    pub fn new(mut entries: Vec<Entry>, integrations: Option<&str>) -> Self {
        entries.retain(|entry| among(integrations, |key| key == entry.key));
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        let (mut prompts, mut taken) = (Vec::new(), HashMap::from([(OWN.to_owned(), ())]));
        for (i, entry) in entries.iter().enumerate() {
            for (j, operation) in entry.operations.iter().enumerate().filter(|(_, operation)| is_prompt(operation)) {
                prompts.push((name(&entry.key, &operation.id, &mut taken), i, j));
            }
        }
        Prompts { entries, prompts }
    }

    pub fn len(&self) -> usize {
        self.prompts.len() + 1
    }

    /// So many prompts from a place on; the platform's own is the first.
    pub fn page(&self, from: usize, most: usize) -> Vec<Prompt> {
        let of = |(name, i, j): &(String, usize, usize)| shown(name, &self.entries[*i].operations[*j]);
        std::iter::once(own()).chain(self.prompts.iter().map(of)).skip(from).take(most).collect()
    }

    fn find(&self, name: &str) -> Option<(&Entry, &Operation)> {
        let (_, i, j) = self.prompts.iter().find(|(prompt, ..)| prompt == name)?;
        Some((&self.entries[*i], &self.entries[*i].operations[*j]))
    }
}

impl Tools {
    /// What a prompt says.
    pub(super) async fn prompt(&self, name: &str, arguments: Map<String, Value>) -> Result<GetPromptResult, ErrorData> {
        let all = self.prompts().await?;
        if name == OWN {
            return all.of_integration(&arguments);
        }
        let Some((entry, operation)) = all.find(name) else {
            return Err(ErrorData::invalid_params(format!("there is no prompt '{name}'"), None));
        };
        let input = InvocationInput { body: Value::Object(arguments), ..InvocationInput::default() };
        let called = self.call(entry, operation, input).await.map_err(|error| internal(&error))?;
        let strange = |_| ErrorData::internal_error("what the server gave is no prompt", None);
        serde_json::from_value(called.data).map_err(strange)
    }
}

impl Prompts {
    // A task, and what there is to do it with.
    fn of_integration(&self, arguments: &Map<String, Value>) -> Result<GetPromptResult, ErrorData> {
        let word = |name: &str| {
            let missing = || ErrorData::invalid_params(format!("{name}: is required"), None);
            arguments.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).ok_or_else(missing)
        };
        let (key, task) = (word("integration")?, word("task")?);
        let unknown = || ErrorData::invalid_params(format!("there is no integration '{key}'"), None);
        let entry = self.entries.iter().find(|entry| entry.key == key).ok_or_else(unknown)?;
        let mut text =
            format!("Do this with the operations of the integration '{key}':\n\n{task}\n\nIts operations:\n");
        for operation in entry.operations.iter().filter(|operation| is_tool(operation)).take(TOLD) {
            let summary = operation.summary.as_deref().unwrap_or_default();
            let _ = writeln!(text, "- {}: {summary}", operation.id);
        }
        let told = GetPromptResult::new(vec![PromptMessage::new_text(Role::User, text)]);
        Ok(told.with_description(format!("A task for '{key}'")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use symbia_commands::integrations::{builtin::BUILTINS, prompt_operation, tool_operation};

    use super::*;

    #[test]
    fn prompts_are_listed_apart_from_tools_and_keep_their_arguments() {
        let tool = tool_operation("greet", None, json!({ "type": "object" }), None, false);
        let prompt = prompt_operation("greet", Some("Greets".into()), vec![("who".into(), None, true)]);
        let entry = |key: &str| Entry {
            key: key.to_owned(),
            operations: vec![tool.clone(), prompt.clone()],
            ..Entry::builtin(&BUILTINS[0])
        };
        let all = Prompts::new(vec![entry("b"), entry("a")], None);
        let names: Vec<String> = all.page(0, 9).into_iter().map(|prompt| prompt.name).collect();
        assert_eq!(names, [OWN, "a_prompt_greet", "b_prompt_greet"]);
        assert_eq!((all.len(), all.page(2, 9).len()), (3, 1));
        let arguments = all.page(1, 1).remove(0).arguments.unwrap();
        assert_eq!((arguments[0].name.as_str(), arguments[0].required), ("who", Some(true)));
        assert_eq!(Prompts::new(vec![entry("b"), entry("a")], Some("b")).len(), 2);
        let given = |value: Value| value.as_object().cloned().unwrap();
        let said = all.of_integration(&given(json!({ "integration": "a", "task": "Say hello" }))).unwrap();
        let said = serde_json::to_value(&said).unwrap().to_string();
        assert!(said.contains("Say hello") && said.contains("tool.greet") && !said.contains("prompt.greet"), "{said}");
        assert!(all.of_integration(&given(json!({ "integration": "c", "task": "x" }))).is_err());
        assert!(all.of_integration(&given(json!({ "integration": "a" }))).is_err());
    }
}
