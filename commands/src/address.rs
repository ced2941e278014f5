//! A command's data must agree with the address that it was sent to: who may write there was decided by the address, and
//! read models believe what an event's data says.

use std::collections::HashMap;

use serde_json::value::RawValue;
use symbia_events::{AggregateRef, OrgId};

use crate::{Aggregate, Rejection};

/// Refuses a command whose data names another aggregate or tenant than its address.
pub fn check_address<A: Aggregate>(to: &AggregateRef, command: &A::Command, data: &str) -> Result<(), Rejection> {
    let Ok(members) = serde_json::from_str::<HashMap<&str, &RawValue>>(data) else { return Ok(()) };
    let differs = |field: &str, expected: &str| {
        members.get(field).is_some_and(|value| {
            let named = serde_json::from_str::<Option<String>>(value.get());
            !matches!(named, Ok(None)) && !named.is_ok_and(|named| named.as_deref() == Some(expected))
        })
    };
    let tenant = to.tenant.as_str();
    if A::ID_FIELD.is_some_and(|field| differs(field, &to.id)) || (tenant != OrgId::GLOBAL && differs("orgId", tenant))
    {
        return Err(Rejection::misaddressed(to));
    }
    A::belongs(command, to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        DomainCommand,
        assistants::{Assistant, PublishAssistant, RuleSet, SyncAssistant, seed},
        identity::{Organization, RenameOrganization},
        integrations::{CancelCompletion, Completion},
        messaging::{Conversation, CreateConversation},
    };

    fn check<A: Aggregate>(subject: &str, command: impl Into<A::Command>) -> Result<(), String> {
        let (to, command) = (AggregateRef::of_subject(subject).unwrap(), command.into());
        let data = command.to_data().unwrap();
        check_address::<A>(&to, &command, data.get()).map_err(|r| r.code.into_owned())
    }

    fn wrong() -> Result<(), String> {
        Err("WRONG_TENANT".to_owned())
    }

    #[test]
    fn data_that_names_another_aggregate_or_tenant_is_refused() {
        let rename = |org: &str| RenameOrganization { org_id: org.into(), name: "A".into() };
        let org_a = "symbia.cmd.identity.org-a.organization.org-a";
        assert_eq!(check::<Organization>(org_a, rename("org-a")), Ok(()));
        assert_eq!(check::<Organization>(org_a, rename("org-b")), wrong());
        let to = AggregateRef::of_subject(org_a).unwrap();
        assert!(check_address::<Organization>(&to, &rename("org-a").into(), r#"{"orgId":7}"#).is_err());
        assert!(check_address::<Organization>(&to, &rename("org-a").into(), r#"{"orgId":null}"#).is_ok());
    }

    #[test]
    fn an_assistant_and_a_rule_set_are_addressed_by_their_key() {
        let other = "symbia.cmd.assistants.global.assistant.other";
        let own = format!("symbia.cmd.assistants.global.assistant.{}", seed::ASSISTANT_KEY);
        let publish = || PublishAssistant { key: seed::ASSISTANT_KEY.into() };
        let sync = || SyncAssistant { definition: seed::assistant() };
        assert_eq!((check::<Assistant>(&own, publish()), check::<Assistant>(&own, sync())), (Ok(()), Ok(())));
        assert_eq!((check::<Assistant>(other, publish()), check::<Assistant>(other, sync())), (wrong(), wrong()));
        let rules = |key: &str| format!("symbia.cmd.assistants.global.rule-set.{key}");
        assert_eq!(check::<RuleSet>(&rules(&seed::create_rule_set().rule_set_key), seed::create_rule_set()), Ok(()));
        assert_eq!(check::<RuleSet>(&rules("other"), seed::create_rule_set()), wrong());
    }

    #[test]
    fn a_completion_is_addressed_by_its_request() {
        let cancel = CancelCompletion {
            request_id: "r1".into(),
            reason: "user".into(),
            partial_content: None,
            usage: None,
            keep_partial: false,
        };
        assert_eq!(check::<Completion>("symbia.cmd.integrations.org.completion.r1", cancel.clone()), Ok(()));
        assert_eq!(check::<Completion>("symbia.cmd.integrations.org.completion.r2", cancel), wrong());
    }

    #[test]
    fn a_conversation_is_opened_at_its_own_address_and_with_its_own_key() {
        let create = |org: &str, id: &str, kid: &str| -> CreateConversation {
            let owner = serde_json::json!({ "participantId": "p", "principalId": "ada", "principalType": "user" });
            serde_json::from_value(serde_json::json!({ "conversationId": id, "type": "private", "orgId": org,
                "contentKeyId": kid, "owner": owner }))
            .unwrap()
        };
        let own = "conversation:org:c1";
        let check = |tenant: &str, command| {
            check::<Conversation>(&format!("symbia.cmd.messaging.{tenant}.conversation.c1"), command)
        };
        assert_eq!(check("org", create("org", "c1", own)), Ok(()));
        assert_eq!(check("org", create("org", "c2", own)), wrong());
        assert_eq!(check("org", create("other", "c1", own)), wrong());
        assert_eq!(check("global", create("org", "c1", own)), wrong());
        assert_eq!(check("org", create("org", "c1", "conversation:org:c2")), wrong());
        assert_eq!(check("org", create("org", "c1", "conversation:other:c1")), wrong());
    }
}
