//! How the events of assistants, rule sets and rule runs change their rows.

use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use symbia_events::{
    DomainEvent, Event,
    assistants::{
        AssistantDefinition, AssistantEvent, Rule, RuleRunEvent, RuleRunStarted, RuleSetCreated, RuleSetEvent,
    },
};

use super::rows::{Assistant, Key, RuleRun, RuleSet, State};
use crate::{FoldError, FoldEvent, columns::text};

enum Change {
    Assistant(AssistantEvent),
    RuleSet(RuleSetEvent),
    RuleRun(Box<RuleRunEvent>),
}

pub(super) async fn fold(conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
    let (mut changes, mut state) = (Vec::with_capacity(events.len()), State::default());
    for FoldEvent { event, .. } in events {
        let key = (event.orgid.to_string(), event.aggregateid.clone());
        let change = match event.aggregatetype.as_str() {
            AssistantEvent::AGGREGATE => {
                state.assistants.entry(key.clone()).or_default();
                Change::Assistant(event.decode()?)
            }
            RuleSetEvent::AGGREGATE => {
                state.rule_sets.entry(key.clone()).or_default();
                Change::RuleSet(event.decode()?)
            }
            RuleRunEvent::AGGREGATE => {
                state.rule_runs.entry(key.clone()).or_default();
                Change::RuleRun(Box::new(event.decode()?))
            }
            _ => continue,
        };
        changes.push((event, key, change));
    }
    state.load(conn).await?;
    for (event, key, change) in changes {
        match change {
            Change::Assistant(change) => state.assistant(event, key, change),
            Change::RuleSet(change) => state.rule_set(event, key, change),
            Change::RuleRun(change) => state.rule_run(event, key, *change),
        }
    }
    state.save(conn).await
}

fn json_text(value: impl Serialize) -> String {
    serde_json::to_string(&value).map(text).unwrap_or_default()
}

// Adds to, or changes, a JSON list in a text column.
fn with_list(list: &mut String, change: impl FnOnce(&mut Vec<Value>)) {
    let mut items: Vec<Value> = serde_json::from_str(list).unwrap_or_default();
    change(&mut items);
    *list = json_text(items);
}

impl State {
    fn assistant(&mut self, event: &Event, key: Key, change: AssistantEvent) {
        let row = self.assistants.entry(key.clone()).or_default();
        let mut define = |definition: &AssistantDefinition, digest: String| {
            let published = row.as_ref().is_some_and(|r| r.published);
            let (org_id, key) = key.clone();
            let definition = json_text(definition);
            *row = Some(Assistant { org_id, key, definition, digest: text(digest), published, updated_at: event.time });
        };
        match change {
            AssistantEvent::AssistantRegistered(e) => define(&e.definition, e.digest),
            AssistantEvent::AssistantUpdated(e) => define(&e.definition, e.digest),
            AssistantEvent::AssistantPublished(_) => {
                if let Some(row) = row {
                    (row.published, row.updated_at) = (true, event.time);
                }
            }
            AssistantEvent::AssistantWithdrawn(_) => {
                if let Some(row) = row {
                    (row.published, row.updated_at) = (false, event.time);
                }
            }
        }
    }

    fn rule_set(&mut self, event: &Event, key: Key, change: RuleSetEvent) {
        let row = self.rule_sets.entry(key.clone()).or_default();
        let version = |version: u32| i32::try_from(version).unwrap_or(i32::MAX);
        match change {
            RuleSetEvent::RuleSetCreated(RuleSetCreated {
                rule_set_id,
                name,
                description,
                rules,
                llm_config,
                version: at,
                digest,
                ..
            }) => {
                *row = Some(RuleSet {
                    org_id: key.0,
                    key: key.1,
                    id: text(rule_set_id),
                    name: text(name),
                    description: description.map(text),
                    rules: json_text(rules),
                    llm_config: llm_config.map(json_text),
                    version: version(at),
                    digest: text(digest),
                    is_active: true,
                    created_at: event.time,
                    updated_at: event.time,
                });
            }
            RuleSetEvent::RuleSetReplaced(e) => {
                let Some(row) = row else { return };
                row.name = text(e.name);
                row.description = e.description.map(text);
                row.rules = json_text(e.rules);
                row.llm_config = e.llm_config.map(json_text);
                (row.version, row.digest, row.updated_at) = (version(e.version), text(e.digest), event.time);
            }
            RuleSetEvent::RuleAdded(e) => {
                let Some(row) = row else { return };
                with_list(&mut row.rules, |rules| rules.push(json!(e.rule)));
                (row.version, row.digest, row.updated_at) = (version(e.version), text(e.digest), event.time);
            }
            RuleSetEvent::RuleRemoved(e) => {
                let Some(row) = row else { return };
                with_list(&mut row.rules, |rules| rules.retain(|rule| rule["id"] != json!(e.rule_id)));
                (row.version, row.digest, row.updated_at) = (version(e.version), text(e.digest), event.time);
            }
            RuleSetEvent::RuleSetActivationChanged(e) => {
                let Some(row) = row else { return };
                (row.is_active, row.version, row.updated_at) = (e.is_active, version(e.version), event.time);
            }
        }
    }

    fn rule_run(&mut self, event: &Event, key: Key, change: RuleRunEvent) {
        let row = self.rule_runs.entry(key.clone()).or_default();
        if let RuleRunEvent::RuleRunStarted(e) = change {
            row.get_or_insert_with(|| started(event, key, e));
            return;
        }
        let Some(row) = row else { return };
        let end = |row: &mut RuleRun, status: &str, duration_ms: u64| {
            status.clone_into(&mut row.status);
            row.ended_at = Some(event.time);
            row.duration_ms = Some(i64::try_from(duration_ms).unwrap_or(i64::MAX));
        };
        let settle = |action: &mut Value, status: &str, more: Value| {
            action["status"] = json!(status);
            if let (Value::Object(action), Value::Object(more)) = (action, more) {
                action.extend(more);
            }
        };
        match change {
            RuleRunEvent::RuleRunStarted(_) => {}
            RuleRunEvent::RuleEvaluated(e) => with_list(&mut row.evaluated, |rules| rules.push(json!(e))),
            RuleRunEvent::ActionRequested(e) => with_list(&mut row.actions, |actions| {
                actions.push(json!({
                    "id": e.action_id, "path": e.path, "type": e.action_type, "status": "running",
                    "paramsRef": e.resolved_params_ref, "attempt": e.attempt, "unresolvedRefs": e.unresolved_refs,
                }));
            }),
            RuleRunEvent::ActionCompleted(e) => with_list(&mut row.actions, |actions| {
                let done = json!({ "outputRef": e.output_ref, "durationMs": e.duration_ms, "usage": e.usage });
                let action = actions.iter_mut().filter(|a| a["id"] == json!(e.action_id));
                action.for_each(|action| settle(action, "completed", done.clone()));
            }),
            RuleRunEvent::ActionFailed(e) => with_list(&mut row.actions, |actions| {
                let failure = json!({ "category": e.category, "code": e.code, "error": e.error });
                let failed = json!({ "durationMs": e.duration_ms, "failure": failure });
                let action = actions.iter_mut().filter(|a| a["id"] == json!(e.action_id));
                action.for_each(|action| settle(action, "failed", failed.clone()));
            }),
            RuleRunEvent::RuleRunCompleted(e) => {
                row.message_ids = json_text(e.message_ids);
                end(row, "completed", e.duration_ms);
            }
            RuleRunEvent::RuleRunFailed(e) => {
                row.failure = Some(json_text(json!({ "category": e.category, "code": e.code, "error": e.error })));
                end(row, "failed", e.duration_ms);
            }
            RuleRunEvent::RuleRunCancelled(e) => {
                row.failure = Some(json_text(json!({ "by": e.by, "reason": e.reason })));
                end(row, "cancelled", e.duration_ms);
            }
        }
    }
}

fn started(event: &Event, (org_id, id): Key, e: RuleRunStarted) -> RuleRun {
    let rule =
        e.rule.as_ref().map(|Rule { id, name, priority, .. }| json!({ "id": id, "name": name, "priority": priority }));
    let why = json!({
        "trigger": e.trigger, "eventRef": e.event_ref, "awardReason": e.award_reason, "candidates": e.candidates,
        "ruleSetKey": e.rule_set_key, "ruleSetId": e.rule_set_id, "ruleSetVersion": e.rule_set_version,
        "ruleSetDigest": e.rule_set_digest, "rule": rule, "ruleIndex": e.rule_index, "historyLength": e.history.len(),
        "engineVersion": e.engine_version,
    });
    RuleRun {
        org_id,
        id,
        conversation_id: text(e.conversation_id),
        message_id: text(e.message_id),
        sender_id: text(e.sender_id),
        assistant_key: text(e.assistant_key),
        status: "running".to_owned(),
        why: json_text(why),
        evaluated: "[]".to_owned(),
        actions: "[]".to_owned(),
        message_ids: "[]".to_owned(),
        failure: None,
        started_at: event.time,
        ended_at: None,
        duration_ms: None,
    }
}
