//! A whole exchange in memory: aggregates, a log, and the reactions between them, as the workers would drive them.

use std::collections::{BTreeMap, HashMap, VecDeque};

use symbia_events::{
    DomainEvent,
    assistants::RuleRunEvent,
    integrations::{CompletionRequested, FinishReason, Timing, Usage},
    messaging::{ConversationEvent, ConversationType, ParticipantType},
};

use super::*;
use crate::{
    Aggregate,
    assistants::{
        Assistant, PublishAssistant, RuleSet, SyncAssistant,
        replay::{Recorded, RunCommit},
        rules::Rules,
        seed,
    },
    integrations::{CompleteCompletion, Completion, FailCompletion, StartCompletionAttempt},
    messaging::{Conversation, CreateConversation, NewParticipant, SendMessage},
    testing::AT,
};

/// One event of the log.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "few of them, in tests")]
pub(crate) enum Happened {
    Conversation(ConversationEvent),
    Run(RuleRunEvent),
    Completion(CompletionEvent),
}

/// What the model does when asked.
#[derive(Clone, Debug)]
pub(crate) enum Model {
    Answers(&'static str),
    Fails(ErrorCategory, Option<&'static str>),
    Waits,
}

pub(crate) struct House {
    pub(crate) key: SubjectKey,
    pub(crate) definition: Option<AssistantDefinition>,
    pub(crate) rules: Option<Rules>,
    pub(crate) model: Model,
    /// Events are handled this many times: at least once means sometimes twice.
    pub(crate) deliveries: usize,
    pub(crate) conversation: Conversation,
    pub(crate) runs: HashMap<String, RuleRun>,
    completions: HashMap<String, Completion>,
    decided: HashMap<CommandId, bool>,
    pub(crate) log: Vec<(Cause, CommandId, Happened)>,
    queue: VecDeque<(Cause, Happened)>,
    clock: i64,
}

pub(crate) fn org() -> OrgId {
    "org".parse().unwrap()
}

pub(crate) fn ada() -> Actor {
    let orgs = vec![Membership { id: org(), role: Role::Member }];
    Actor { id: "ada".into(), kind: ActorType::User, orgs, ..engine() }
}

pub(crate) fn set_of(command: crate::assistants::CreateRuleSet) -> RuleSet {
    let mut set = RuleSet::default();
    set.decide(command.into(), &engine(), AT).unwrap().events.iter().for_each(|e| set.apply(e));
    set
}

impl House {
    /// Ada's private conversation with the seeded assistant.
    pub(crate) fn new(model: Model) -> Self {
        let mut assistant = Assistant::default();
        let sync = SyncAssistant { definition: seed::assistant() };
        let publish = PublishAssistant { key: seed::ASSISTANT_KEY.into() };
        for command in [sync.into(), publish.into()] {
            let decision = assistant.decide(command, &engine(), AT).unwrap();
            decision.events.iter().for_each(|e| assistant.apply(e));
        }
        let mut house = House {
            key: SubjectKey::from_bytes("k1", [1; 32]),
            definition: assistant.answering().cloned(),
            rules: Some(Rules::new(&set_of(seed::create_rule_set()))),
            model,
            deliveries: 1,
            conversation: Conversation::default(),
            runs: HashMap::new(),
            completions: HashMap::new(),
            decided: HashMap::new(),
            log: Vec::new(),
            queue: VecDeque::new(),
            clock: 0,
        };
        let participant = |id: &str, principal_type| NewParticipant {
            participant_id: format!("p-{id}"),
            principal_id: id.into(),
            principal_type,
            entity_id: None,
        };
        let create = CreateConversation {
            conversation_id: "c1".into(),
            conversation_type: ConversationType::Private,
            name: None,
            description: None,
            org_id: "org".into(),
            metadata: None,
            content_key_id: "k1".into(),
            owner: participant("ada", ParticipantType::User),
            participants: vec![participant("assistant:coordinator", ParticipantType::Agent)],
        };
        house.send(Command::Conversation(create.into()), &ada(), CommandId(Uuid::from_u128(1))).unwrap();
        house
    }

    /// Ada writes; everything that follows is done.
    pub(crate) fn asks(&mut self, text: &str) {
        let id = Uuid::new_v5(&Uuid::nil(), format!("{}{text}", self.log.len()).as_bytes());
        let message = SendMessage {
            message_id: id.to_string(),
            content: self.key.seal(text),
            content_digest: self.key.digest(text),
            content_type: "text".into(),
            reply_to: None,
            run_id: None,
            trace_id: None,
            priority: symbia_events::messaging::Priority::Normal,
            interruptible: true,
            preempted_by: None,
            metadata: None,
        };
        self.send(Command::Conversation(message.into()), &ada(), CommandId(id)).unwrap();
        self.settle();
    }

    /// Handles events until nothing follows any more.
    pub(crate) fn settle(&mut self) {
        while let Some((cause, event)) = self.queue.pop_front() {
            for _ in 0..self.deliveries {
                self.handle(&cause, &event);
            }
        }
    }

    /// Decides a command, once per id.
    pub(crate) fn send(&mut self, command: Command, by: &Actor, id: CommandId) -> Result<(), Rejection> {
        if let Some(accepted) = self.decided.get(&id) {
            return if *accepted { Ok(()) } else { Err(Rejection::new("AGAIN", "refused before")) };
        }
        self.clock += 1;
        let at = AT + time::Duration::milliseconds(self.clock);
        // Ids of events need an address; which one does not matter here.
        let aggregate = AggregateRef::new(command.service(), org(), "any", "any").unwrap();
        let events: Result<Vec<Happened>, Rejection> = match command {
            Command::Conversation(c) => {
                decide(&mut self.conversation, c, by, at).map(|e| e.into_iter().map(Happened::Conversation).collect())
            }
            Command::RuleRun(c) => {
                let run_id = match &c {
                    RuleRunCommand::StartRuleRun(c) => c.started.rule_run_id.clone(),
                    _ => self.runs.keys().next().cloned().unwrap_or_default(),
                };
                let run = self.runs.entry(run_id).or_default();
                decide(run, c, by, at).map(|e| e.into_iter().map(Happened::Run).collect())
            }
            Command::Completion(c) => {
                let request_id = match &c {
                    CompletionCommand::AdmitCompletion(c) => c.request_id.clone(),
                    CompletionCommand::RequestCompletion(c) => c.request_id.clone(),
                    CompletionCommand::StartCompletionAttempt(c) => c.request_id.clone(),
                    CompletionCommand::CompleteCompletion(c) => c.request_id.clone(),
                    CompletionCommand::FailCompletion(c) => c.request_id.clone(),
                    CompletionCommand::CancelCompletion(c) => c.request_id.clone(),
                    CompletionCommand::KeepPartialAnswer(c) => c.request_id.clone(),
                    CompletionCommand::ForgetCompletion(c) => c.request_id.clone(),
                    CompletionCommand::FailCompletionAttempt(c) => c.request_id.clone(),
                };
                let completion = self.completions.entry(request_id).or_default();
                decide(completion, c, by, at).map(|e| e.into_iter().map(Happened::Completion).collect())
            }
        };
        self.decided.insert(id, events.is_ok());
        for (index, event) in events?.into_iter().enumerate() {
            let cause = Cause { event_id: id.event_id(at, &aggregate, index), at, tenant: org() };
            self.log.push((cause.clone(), id, event.clone()));
            self.queue.push_back((cause, event));
        }
        Ok(())
    }

    fn handle(&mut self, cause: &Cause, event: &Happened) {
        let key = self.key.clone();
        let reactions = match event {
            Happened::Conversation(ConversationEvent::MessageSent(sent)) if sent.sender_type == SenderType::Agent => {
                let Some((_, started)) = self.run_of(sent.run_id.as_deref()) else { return };
                on_reply(cause, &started, sent, Some(&self.inputs(&started.message_id)), &key).unwrap()
            }
            Happened::Conversation(ConversationEvent::MessageSent(sent)) => {
                let inputs = self.inputs(&sent.message_id);
                let started = self.run_of(Some(&run_id(cause).to_string())).map(|(_, started)| started);
                on_message(cause, &inputs, &self.candidates(), started.as_ref(), &key)
            }
            Happened::Completion(CompletionEvent::CompletionRequested(asked)) => return self.works(asked),
            Happened::Completion(event) => {
                let Some(run) = context_of(event).and_then(|c| c.rule_run_id.clone()) else { return };
                let Some((_, started)) = self.run_of(Some(&run)) else { return };
                on_completion(cause, &started, event, &self.inputs(&started.message_id), &key)
            }
            Happened::Run(RuleRunEvent::RuleRunCancelled(e)) => {
                let run = self.runs.values().next().cloned().unwrap();
                on_cancelled(cause, &run, &e.reason)
            }
            _ => return,
        };
        self.follow(cause, reactions);
    }

    // In order, until one is refused.
    fn follow(&mut self, cause: &Cause, reactions: Vec<Reaction>) {
        for reaction in reactions {
            let Err(rejection) = self.send(reaction.command.clone(), &reaction.by, reaction.id) else { continue };
            if let Some(started) = self.runs.values().next().and_then(|run| run.started().cloned()) {
                for last in on_refused(cause, &started, &reaction.command, &rejection, &self.key.clone()) {
                    let _ = self.send(last.command, &last.by, last.id);
                }
            }
            return;
        }
    }

    fn run_of(&self, run_id: Option<&str>) -> Option<(RuleRun, RuleRunStarted)> {
        let run = self.runs.get(run_id?)?;
        Some((run.clone(), run.started()?.clone()))
    }

    pub(crate) fn candidates(&self) -> Vec<Candidate<'_>> {
        let (definition, rules) = (self.definition.as_ref(), self.rules.as_ref());
        vec![Candidate { key: seed::ASSISTANT_KEY, definition, rules }]
    }

    /// The inputs of the run of a message, read from the log.
    pub(crate) fn inputs(&self, message_id: &str) -> Inputs {
        let texts: Vec<Text> = self.sent().map(|m| Text::new(m, self.key.open(&m.content).unwrap())).collect();
        let at = texts.iter().position(|t| t.id == message_id).unwrap();
        let answers = self.log.iter().filter_map(|(_, _, event)| match event {
            Happened::Completion(CompletionEvent::CompletionCompleted(e)) => {
                Some((e.request_id.clone(), self.key.open(&e.content).unwrap()))
            }
            _ => None,
        });
        Inputs {
            conversation_id: "c1".into(),
            message: texts[at].clone(),
            history: texts[..at].to_vec(),
            sender_name: Some("Ada".into()),
            assistant: self.definition.clone(),
            answers: answers.collect::<BTreeMap<_, _>>(),
        }
    }

    /// The model does its work.
    pub(crate) fn works(&mut self, asked: &CompletionRequested) {
        let (request_id, router) = (asked.request_id.clone(), Actor::service("integrations"));
        let id = |purpose: &str| CommandId::derived(Uuid::try_parse(&asked.request_id).unwrap(), purpose);
        let start = StartCompletionAttempt {
            request_id: request_id.clone(),
            attempt: 1,
            provider: "symbia-labs".into(),
            model: "pico".into(),
            model_digest: None,
            worker_id: "w1".into(),
            credential_id: None,
            credential_source: "none".into(),
            dropped_params: Vec::new(),
            hedges: None,
            guarded: Vec::new(),
        };
        self.send(Command::Completion(start.into()), &router, id("start")).unwrap();
        let end: CompletionCommand = match self.model.clone() {
            Model::Waits => return,
            Model::Fails(category, code) => FailCompletion {
                request_id,
                attempt: Some(1),
                category,
                code: code.map(str::to_owned),
                message: Some(self.key.seal("vendor says no")),
                upstream: None,
                partial_content: None,
                usage: None,
                retry_after_ms: None,
                cost: None,
                guarded: Vec::new(),
            }
            .into(),
            Model::Answers(text) => CompleteCompletion {
                request_id,
                attempt: 1,
                model: "pico".into(),
                content: self.key.seal(text),
                content_digest: self.key.digest(text),
                finish_reason: FinishReason::Stop,
                raw_finish_reason: None,
                usage: Usage { prompt_tokens: 7, completion_tokens: 3, total_tokens: 10, ..Usage::default() },
                timing: Timing::default(),
                provider_request_id: None,
                warnings: Vec::new(),
                tool_calls: None,
                reasoning: None,
                more: None,
                cached: false,
                similarity: None,
                cost: None,
                guarded: Vec::new(),
            }
            .into(),
        };
        self.send(Command::Completion(end), &router, id("end")).unwrap();
    }

    pub(crate) fn sent(&self) -> impl Iterator<Item = &MessageSent> {
        self.log.iter().filter_map(|(_, _, event)| match event {
            Happened::Conversation(ConversationEvent::MessageSent(sent)) => Some(sent),
            _ => None,
        })
    }

    /// Who said what.
    pub(crate) fn said(&self) -> Vec<(String, String)> {
        self.sent().map(|m| (m.sender_id.clone(), self.key.open(&m.content).unwrap())).collect()
    }

    /// The log from the question on, by short names.
    pub(crate) fn story(&self) -> Vec<String> {
        let names = self.log.iter().map(|(_, _, event)| match event {
            Happened::Conversation(e) => e.event_type(),
            Happened::Run(e) => e.event_type(),
            Happened::Completion(e) => e.event_type(),
        });
        let short = |name: &str| name.rsplit('.').nth(1).unwrap_or_default().to_owned();
        names.map(short).skip_while(|name| name != "message-sent").collect()
    }

    /// The only run, as the log has it.
    pub(crate) fn recorded(&self) -> Recorded<'_> {
        let run = self.runs.values().next().unwrap().started().unwrap();
        let mut commits: Vec<RunCommit> = Vec::new();
        let (mut requests, mut completions, mut replies, mut trigger) = (Vec::new(), Vec::new(), Vec::new(), None);
        for (cause, command_id, event) in &self.log {
            match event {
                Happened::Run(event) => match commits.last_mut().filter(|c| c.command_id == *command_id) {
                    Some(commit) => commit.events.push(event.clone()),
                    None => {
                        commits.push(RunCommit { command_id: *command_id, at: cause.at, events: vec![event.clone()] })
                    }
                },
                Happened::Completion(CompletionEvent::CompletionRequested(e)) => requests.push(e.clone()),
                Happened::Completion(event) => completions.push((cause.clone(), event.clone())),
                Happened::Conversation(ConversationEvent::MessageSent(e)) if e.message_id == run.message_id => {
                    trigger = Some(cause.clone());
                }
                Happened::Conversation(ConversationEvent::MessageSent(e)) => replies.push((cause.clone(), e.clone())),
                Happened::Conversation(_) => {}
            }
        }
        let (inputs, candidates) = (self.inputs(&run.message_id), self.candidates());
        Recorded { cause: trigger.unwrap(), inputs, candidates, commits, requests, completions, replies }
    }
}

fn context_of(event: &CompletionEvent) -> Option<&symbia_events::integrations::CompletionContext> {
    match event {
        CompletionEvent::CompletionCompleted(e) => Some(&e.context),
        CompletionEvent::CompletionFailed(e) => Some(&e.context),
        CompletionEvent::CompletionCancelled(e) => Some(&e.context),
        _ => None,
    }
}

fn decide<A: Aggregate>(
    state: &mut A,
    c: A::Command,
    by: &Actor,
    at: OffsetDateTime,
) -> Result<Vec<A::Event>, Rejection> {
    let events = state.decide(c, by, at)?.events;
    events.iter().for_each(|event| state.apply(event));
    Ok(events)
}
