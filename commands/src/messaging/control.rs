//! Signals about answers under way: who may give them, and what they change (messaging.md §5.3, 8.8). And who could not be told
//! of what was asked (§8.12).
//!
//! The runs that they stop or set off follow from the events; see `assistants::control`.

use symbia_events::messaging::{
    AssistantNotificationFailed, ControlIssued, ControlTarget, ConversationEvent, ConversationRouted, HandoffRecorded,
    ParticipantRole, ParticipantType, SenderType, Signal,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    ASSISTANT_PREFIX, Conversation, MAX_METADATA, MAX_PARTICIPANTS, NewParticipant, RecordNotificationFailure,
    SendControl, clock, membership::added,
};
use crate::{Actor, Decision, Rejection};

/// Guards every signal but the next two.
const INTERRUPT: &str = "cap:messaging.interrupt";
/// Guards `stream.route` and `stream.handoff`.
const ROUTE: &str = "cap:messaging.route";
/// Longest id of a run, trace or message in a signal.
const MAX_LABEL: usize = 255;

impl Conversation {
    pub(super) fn control(
        &self,
        c: SendControl,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<ConversationEvent>, Rejection> {
        if !by.is_platform() {
            self.as_participant(by)?;
        }
        self.is_readable()?;
        let asker = self.whose(c.event, by)?;
        let sender_type =
            SenderType::of(by.subject_kind()).ok_or_else(|| Rejection::forbidden("sign in to control"))?;
        if Uuid::try_parse(&c.control_id).is_err() {
            return Err(Rejection::invalid("controlId: a UUID"));
        }
        if let Some(known) = self.messages.get(&c.control_id) {
            let own = self.senders.get(known.sender).is_some_and(|sender| *sender == by.subject());
            let conflict =
                || Rejection::new("MESSAGE_ID_CONFLICT", "this id is in use: send the signal under a new one");
            return if known.control && own { Ok(Decision::nothing()) } else { Err(conflict()) };
        }
        self.is_said_by(by, &[c.reason.as_ref(), c.metadata.as_ref()])?;
        if [&c.reason, &c.metadata].into_iter().flatten().any(|text| text.text_len() > MAX_METADATA) {
            return Err(Rejection::new("TOO_LARGE", "reason and metadata: at most 32 kB"));
        }
        let labels = [&c.run_id, &c.trace_id, &c.preempted_by].into_iter().flatten();
        let target = c.target.iter().map(|t| &t.principal_id);
        if labels.chain(target).any(|label| label.is_empty() || label.len() > MAX_LABEL) {
            return Err(Rejection::invalid("target, runId, traceId and preemptedBy: 1 to 255 bytes"));
        }
        if c.event == Signal::Priority && c.priority.is_none() {
            return Err(Rejection::invalid("priority: the new one"));
        }
        let more = self.rerouting(&c, by)?;
        let issued = ControlIssued {
            control_id: c.control_id,
            sequence: self.last_sequence + 1,
            event: c.event,
            issued_by: by.subject().to_owned(),
            sender_type,
            target: c.target,
            asker,
            reason: c.reason,
            priority: c.priority,
            run_id: c.run_id,
            trace_id: c.trace_id,
            preempted_by: c.preempted_by,
            metadata: c.metadata,
            keep_partial: c.keep_partial,
            at_ms: Some(clock::next(self.last_at_ms, at)),
        };
        Ok(more.into_iter().fold(Decision::one(issued), Decision::and))
    }

    pub(super) fn untold(
        &self,
        c: RecordNotificationFailure,
        by: &Actor,
    ) -> Result<Decision<ConversationEvent>, Rejection> {
        if !by.is_platform() {
            return Err(Rejection::forbidden("who is told of messages is the platform's to know"));
        }
        self.exists()?;
        let RecordNotificationFailure { message_id, principal_id, event_id, attempt, error_code } = c;
        Ok(Decision::one(AssistantNotificationFailed { message_id, principal_id, event_id, attempt, error_code }))
    }

    // Those who lead, and those who hold the capability, signal about everybody's answers; anyone may give up their own.
    fn whose(&self, signal: Signal, by: &Actor) -> Result<Option<String>, Rejection> {
        let needed = if matches!(signal, Signal::Route | Signal::Handoff) { ROUTE } else { INTERRUPT };
        if by.holds(needed) || self.is_led_by(by) {
            return Ok(None);
        }
        if signal == Signal::Cancel {
            return Ok(Some(by.subject().to_owned()));
        }
        let text = format!("'{}' takes the capability '{needed}', or to be an owner or admin", signal.name());
        Err(Rejection::new("INSUFFICIENT_ENTITLEMENT", text))
    }

    // Who answers from now on.
    fn rerouting(&self, c: &SendControl, by: &Actor) -> Result<Vec<ConversationEvent>, Rejection> {
        if !matches!(c.event, Signal::Route | Signal::Handoff) {
            return Ok(Vec::new());
        }
        let Some(target) = &c.target else {
            return Err(Rejection::invalid(format!("target: whom '{}' is for", c.event.name())));
        };
        let assistant = target.principal_id.starts_with(ASSISTANT_PREFIX);
        if c.event == Signal::Route && !assistant {
            return Err(Rejection::invalid("target: an assistant; a conversation is handed off to a person"));
        }
        let via = if c.event == Signal::Route { "route" } else { "handoff" };
        let mut events: Vec<ConversationEvent> = Vec::new();
        if self.participant(&target.principal_id).is_none() {
            events.push(self.entry(c, target, assistant, via, by)?);
        }
        let (control_id, to) = (c.control_id.clone(), target.clone());
        if c.event == Signal::Route {
            events.push(ConversationRouted { control_id, to, message_id: self.question.clone() }.into());
        } else {
            let from = self.assistants().map(|key| format!("{ASSISTANT_PREFIX}{key}"));
            let from = from.filter(|id| *id != to.principal_id).collect();
            events.push(HandoffRecorded { control_id, from, to, assistants_muted: !assistant }.into());
        }
        Ok(events)
    }

    // A person is invited by those who lead; that a person exists, and where, nobody here can tell.
    fn entry(
        &self,
        c: &SendControl,
        target: &ControlTarget,
        assistant: bool,
        via: &str,
        by: &Actor,
    ) -> Result<ConversationEvent, Rejection> {
        if !assistant {
            return Err(Rejection::not_found("participant to hand off to: add them first"));
        }
        if self.participants.len() >= MAX_PARTICIPANTS {
            return Err(Rejection::invalid(format!("a conversation has at most {MAX_PARTICIPANTS} participants")));
        }
        let new = NewParticipant {
            participant_id: c.control_id.clone(),
            principal_id: target.principal_id.clone(),
            principal_type: ParticipantType::Agent,
            entity_id: None,
        };
        Ok(added(new, ParticipantRole::Member, by, via).into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::testing::{ada, created, entered, key, people, say};
    use super::*;
    use crate::{
        messaging::{Answering, EditMessage},
        testing::given,
    };
    use symbia_events::messaging::ConversationErased;

    fn id(n: u128) -> String {
        Uuid::from_u128(n).to_string()
    }

    fn signal(event: Signal) -> SendControl {
        SendControl {
            control_id: id(7),
            event,
            target: None,
            reason: None,
            priority: None,
            run_id: None,
            trace_id: None,
            preempted_by: None,
            metadata: None,
            keep_partial: false,
        }
    }

    fn to(event: Signal, principal_id: &str) -> SendControl {
        let kind = if principal_id.contains(':') { SenderType::Agent } else { SenderType::User };
        let target = ControlTarget { principal_id: principal_id.into(), principal_type: kind };
        SendControl { target: Some(target), ..signal(event) }
    }

    fn issued(c: &SendControl, by: &str, asker: Option<&str>) -> ControlIssued {
        ControlIssued {
            control_id: c.control_id.clone(),
            sequence: 1,
            event: c.event,
            issued_by: by.into(),
            sender_type: SenderType::User,
            target: c.target.clone(),
            asker: asker.map(str::to_owned),
            reason: c.reason.clone(),
            priority: c.priority,
            run_id: None,
            trace_id: None,
            preempted_by: None,
            metadata: None,
            keep_partial: false,
            at_ms: Some(clock::next(None, crate::testing::AT)),
        }
    }

    fn history() -> Vec<ConversationEvent> {
        created().into_iter().chain([entered("bob", "invite")]).collect()
    }

    #[test]
    fn those_who_lead_or_hold_the_capability_signal_and_anyone_gives_up_their_own() {
        let pause = signal(Signal::Pause);
        given::<Conversation>(history()).when(pause.clone(), &ada()).then([issued(&pause, "ada", None).into()]);
        let bob = people("bob", "org");
        given::<Conversation>(history()).when(pause.clone(), &bob).rejected("INSUFFICIENT_ENTITLEMENT");
        given::<Conversation>(history()).when(pause.clone(), &people("eve", "org")).rejected("NOT_PARTICIPANT");
        let holder = Actor { entitlements: vec![INTERRUPT.into()], ..bob.clone() };
        given::<Conversation>(history()).when(pause.clone(), &holder).then([issued(&pause, "bob", None).into()]);
        given::<Conversation>(history())
            .when(to(Signal::Route, "assistant:x"), &holder)
            .rejected("INSUFFICIENT_ENTITLEMENT");
        let cancel = signal(Signal::Cancel);
        given::<Conversation>(history()).when(cancel.clone(), &bob).then([issued(&cancel, "bob", Some("bob")).into()]);
        let outsider = Actor { entitlements: vec![INTERRUPT.into()], ..people("eve", "org") };
        given::<Conversation>(history()).when(cancel, &outsider).rejected("NOT_PARTICIPANT");
    }

    #[test]
    fn a_signal_has_a_place_in_the_sequence_and_is_given_once() {
        let pause = signal(Signal::Pause);
        let after = || history().into_iter().chain([issued(&pause, "ada", None).into()]);
        given::<Conversation>(after()).when(pause.clone(), &ada()).then([]);
        given::<Conversation>(after()).when(say(7, "x"), &ada()).rejected("MESSAGE_ID_CONFLICT");
        let edit = EditMessage {
            message_id: id(7),
            content: key().seal("x"),
            content_digest: String::new(),
            expected_version: None,
        };
        given::<Conversation>(after()).when(edit, &ada()).rejected("VALIDATION_FAILED");
        let mut state = Conversation::default();
        after().for_each(|e| crate::Aggregate::apply(&mut state, &e));
        assert_eq!(state.last_sequence(), 1);
    }

    #[test]
    fn a_paused_conversation_silences_its_assistants_and_nobody_else() {
        let assistant = people("assistant:symbia", "org");
        let assistant = Actor { auth: symbia_events::AuthMethod::Service, ..assistant };
        for (pause, resume) in [
            (signal(Signal::Pause), signal(Signal::Resume)),
            (to(Signal::Pause, "assistant:symbia"), to(Signal::Resume, "assistant:symbia")),
        ] {
            let paused = || history().into_iter().chain([issued(&pause, "ada", None).into()]);
            given::<Conversation>(paused()).when(say(1, "x"), &assistant).rejected("CONVERSATION_PAUSED");
            let mut state = Conversation::default();
            paused().chain([issued(&resume, "ada", None).into()]).for_each(|e| crate::Aggregate::apply(&mut state, &e));
            assert!(state.send(say(1, "x"), &assistant, crate::testing::AT).is_ok());
            paused().for_each(|e| crate::Aggregate::apply(&mut state, &e));
            assert!(state.send(say(1, "x"), &ada(), crate::testing::AT).is_ok());
        }
    }

    #[test]
    fn a_route_brings_an_assistant_in_and_a_handoff_to_a_person_silences_assistants() {
        let route = to(Signal::Route, "assistant:x");
        let new = NewParticipant {
            participant_id: id(7),
            principal_id: "assistant:x".into(),
            principal_type: ParticipantType::Agent,
            entity_id: None,
        };
        let target = route.target.clone().unwrap();
        let routed = ConversationRouted { control_id: id(7), to: target, message_id: None };
        let routed_events = [
            issued(&route, "ada", None).into(),
            added(new, ParticipantRole::Member, &ada(), "route").into(),
            routed.into(),
        ];
        given::<Conversation>(history()).when(route, &ada()).then(routed_events.clone());
        let mut answering = Answering::default();
        routed_events.iter().for_each(|e| answering.apply(e));
        assert_eq!(answering.routed_to(), Some("assistant:x"));

        let handoff = to(Signal::Handoff, "bob");
        let recorded = HandoffRecorded {
            control_id: id(7),
            from: vec!["assistant:symbia".into()],
            to: handoff.target.clone().unwrap(),
            assistants_muted: true,
        };
        given::<Conversation>(history())
            .when(handoff.clone(), &ada())
            .then([issued(&handoff, "ada", None).into(), recorded.clone().into()]);
        answering.apply(&recorded.into());
        assert!(answering.silences("assistant:symbia") && answering.routed_to().is_none());
        answering.apply(&issued(&signal(Signal::Resume), "ada", None).into());
        assert!(!answering.silences("assistant:symbia"));

        given::<Conversation>(history()).when(to(Signal::Handoff, "eve"), &ada()).rejected("NOT_FOUND");
        given::<Conversation>(history()).when(to(Signal::Route, "bob"), &ada()).rejected("VALIDATION_FAILED");
        given::<Conversation>(history()).when(signal(Signal::Route), &ada()).rejected("VALIDATION_FAILED");
    }

    #[test]
    fn what_is_no_signal_is_refused() {
        let refused = |c: SendControl, code: &str| given::<Conversation>(history()).when(c, &ada()).rejected(code);
        refused(SendControl { control_id: "1".into(), ..signal(Signal::Pause) }, "VALIDATION_FAILED");
        refused(signal(Signal::Priority), "VALIDATION_FAILED");
        refused(SendControl { run_id: Some("x".repeat(256)), ..signal(Signal::Cancel) }, "VALIDATION_FAILED");
        refused(
            SendControl { metadata: Some(key().seal(&"x".repeat(MAX_METADATA + 1))), ..signal(Signal::Pause) },
            "TOO_LARGE",
        );
        let foreign = symbia_events::SubjectKey::from_bytes("k2", [1; 32]);
        refused(SendControl { reason: Some(foreign.seal("x")), ..signal(Signal::Pause) }, "WRONG_KEY");
        let erased = ConversationErased { erased_by: "ada".into(), content_key_id: "k1".into() };
        let erased = history().into_iter().chain([erased.into()]);
        given::<Conversation>(erased).when(signal(Signal::Pause), &ada()).rejected("CONVERSATION_ERASED");
    }
}
