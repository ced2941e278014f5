//! The story of a conversation, read from the log: who said what, why which rule answered, by which model, how long it took,
//! with how many tokens, and whether the log can be believed. The database is not asked; only keys come from the vault.

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use anyhow::bail;
use async_nats::Client;
use serde::Serialize;
use serde_json::Value;
use symbia_commands::assistants::reactions::{Cause, run_id};
use symbia_events::{
    AggregateRef, Event, KeyRing, OrgId, Personal, Service,
    assistants::RuleRunEvent,
    identity::UserEvent,
    integrations::{CompletionEvent, GuardrailFinding},
    messaging::{ConversationEvent, SenderType},
    verify,
};
use symbia_nats::read;
use symbia_projections::{messaging::ERASED, secrets::SecretStore};
use time::format_description::well_known::Rfc3339;

/// An event that the story rests on.
#[derive(Clone, Debug, Serialize)]
pub struct Evidence {
    /// Where it stands.
    pub position: String,
    /// Its id.
    pub id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Why it must not be believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
}

/// What happened, in order.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Story {
    /// The conversation.
    pub conversation: String,
    /// Its organization.
    pub organization: String,
    /// The chapters, in order.
    pub chapters: Vec<Chapter>,
}

/// Something that happened, and what proves it.
#[derive(Clone, Debug, Serialize)]
pub struct Chapter {
    /// When, RFC 3339.
    pub at: String,
    /// What, for people.
    pub headline: String,
    /// More about it, for people.
    pub details: Vec<String>,
    /// The events.
    pub evidence: Vec<Evidence>,
}

impl Story {
    /// Events that must not be believed.
    pub fn doubts(&self) -> impl Iterator<Item = &Evidence> {
        self.evidence().filter(|e| e.doubt.is_some())
    }

    fn evidence(&self) -> impl Iterator<Item = &Evidence> {
        self.chapters.iter().flat_map(|chapter| &chapter.evidence)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("Conversation {} of organization {}\n", self.conversation, self.organization);
        for chapter in &self.chapters {
            let _ = writeln!(text, "\n{}  {}", chapter.at, chapter.headline);
            for line in chapter.details.iter().flat_map(|detail| detail.lines()) {
                let _ = writeln!(text, "    {line}");
            }
            for Evidence { position, id, event_type, doubt } in &chapter.evidence {
                let kind = event_type.split('.').nth(3).unwrap_or(event_type);
                let verdict =
                    doubt.as_deref().map_or_else(String::new, |doubt| format!("  NOT TO BE BELIEVED: {doubt}"));
                let _ = writeln!(text, "    · {position}  {id}  {kind}{verdict}");
            }
        }
        let (all, doubts) = (self.evidence().count(), self.doubts().count());
        let verdict = match doubts {
            0 => format!("{all} events, all signatures verified"),
            _ => format!("{doubts} of {all} events must not be believed: run `symbia audit verify`"),
        };
        let _ = writeln!(text, "\n{verdict}");
        text
    }
}

mod headline;

/// Tells the story of a conversation. Texts whose keys are not in the vault are told as erased.
pub async fn tell(client: &Client, keys: &KeyRing, secrets: &SecretStore, conversation: &str) -> anyhow::Result<Story> {
    symbia_events::check_token(conversation)?;
    let log = Log { client, keys };
    let subject = format!("symbia.evt.messaging.*.conversation.{conversation}");
    let read = log.read(Service::Messaging, &subject).await?;
    let Some(tenant) = read.iter().find_map(|e| AggregateRef::of_subject(&e.subject)).map(|a| a.tenant) else {
        bail!("there is no conversation '{conversation}' in the log");
    };
    let mut teller = Teller { log, secrets, tenant: tenant.clone(), names: BTreeMap::new() };
    let mut story =
        Story { conversation: conversation.to_owned(), organization: tenant.to_string(), ..Story::default() };
    for entry in read {
        let chapter = teller.chapter(&entry).await?;
        let question = entry.believed::<ConversationEvent>().and_then(|(event, what)| match what {
            ConversationEvent::MessageSent(sent) if matches!(sent.sender_type, SenderType::User | SenderType::Bot) => {
                Some(event.clone())
            }
            // It may have set off an answer to an earlier question.
            ConversationEvent::ControlIssued(_) => Some(event.clone()),
            _ => None,
        });
        // Those who come in with the conversation are part of its opening.
        match story.chapters.last_mut() {
            Some(last) if entry.shares_message_with(last) => {
                last.details.push(chapter.headline);
                last.evidence.extend(chapter.evidence);
            }
            _ => story.chapters.push(chapter),
        }
        if let Some(question) = question {
            story.chapters.extend(teller.run(&question).await?);
        }
    }
    Ok(story)
}

/// An event at its place, judged.
struct Entry {
    position: String,
    subject: String,
    event: Option<Arc<Event>>,
    doubt: Option<String>,
}

impl Entry {
    fn evidence(&self) -> Evidence {
        let (id, event_type) = self.event.as_ref().map_or_else(
            || ("?".to_owned(), "unreadable".to_owned()),
            |event| (event.id.to_string(), event.event_type.clone()),
        );
        Evidence { position: self.position.clone(), id, event_type, doubt: self.doubt.clone() }
    }

    fn at(&self) -> String {
        self.event.as_ref().and_then(|event| event.time.format(&Rfc3339).ok()).unwrap_or_else(|| "?".to_owned())
    }

    /// What it says, when it may be believed.
    fn believed<E: symbia_events::DomainEvent>(&self) -> Option<(&Event, E)> {
        let event = self.event.as_ref().filter(|_| self.doubt.is_none())?;
        Some((event, event.decode().ok()?))
    }

    fn shares_message_with(&self, chapter: &Chapter) -> bool {
        chapter.evidence.last().is_some_and(|last| last.position == self.position)
    }
}

#[derive(Clone, Copy)]
struct Log<'a> {
    client: &'a Client,
    keys: &'a KeyRing,
}

impl Log<'_> {
    /// The events below a subject, each judged for itself.
    async fn read(self, service: Service, subject: &str) -> anyhow::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for stored in read::tail(self.client, &service.event_stream(), subject, 1).await? {
            let position = format!("{service}:{}", stored.sequence);
            let payload = String::from_utf8_lossy(&stored.payload);
            let batch: Vec<&serde_json::value::RawValue> = serde_json::from_str(&payload).unwrap_or_default();
            let texts: Vec<&str> =
                if batch.is_empty() { vec![&payload] } else { batch.iter().map(|one| one.get()).collect() };
            for text in texts {
                let (event, doubt) = self.judge(&stored.subject, text);
                entries.push(Entry { position: position.clone(), subject: stored.subject.clone(), event, doubt });
            }
        }
        Ok(entries)
    }

    fn judge(self, subject: &str, text: &str) -> (Option<Arc<Event>>, Option<String>) {
        match verify(self.keys, text.as_bytes()) {
            Err(error) => (serde_json::from_str(text).ok(), Some(error.to_string())),
            Ok(signed) => {
                let own = signed.event.aggregate().ok();
                let at_home = own.is_some() && own == AggregateRef::of_subject(subject);
                let doubt = (!at_home).then(|| "it is an event of another aggregate".to_owned());
                (Some(signed.event), doubt)
            }
        }
    }
}

struct Teller<'a> {
    log: Log<'a>,
    secrets: &'a SecretStore,
    tenant: OrgId,
    names: BTreeMap<String, String>,
}

impl Teller<'_> {
    async fn open(&self, sealed: &Personal) -> anyhow::Result<String> {
        let key = self.secrets.subject_key(&sealed.kid).await?;
        Ok(key.and_then(|key| key.open(sealed).ok()).unwrap_or_else(|| ERASED.to_owned()))
    }

    /// The name of a person, as they registered or renamed themselves; else the id.
    async fn name(&mut self, id: &str) -> anyhow::Result<String> {
        if let Some(name) = self.names.get(id) {
            return Ok(name.clone());
        }
        let mut name = id.to_owned();
        if symbia_events::check_token(id).is_ok() {
            let subject = format!("symbia.evt.identity.*.user.{id}");
            for entry in self.log.read(Service::Identity, &subject).await? {
                let sealed = match entry.believed::<UserEvent>() {
                    Some((_, UserEvent::UserRegistered(e))) => e.name,
                    Some((_, UserEvent::UserRenamed(e))) => e.name,
                    _ => continue,
                };
                name = self.open(&sealed).await?;
            }
        }
        self.names.insert(id.to_owned(), name.clone());
        Ok(name)
    }

    /// What a message set off: the run, and the models it asked.
    async fn run(&mut self, question: &Event) -> anyhow::Result<Option<Chapter>> {
        let cause = Cause { event_id: question.id, at: question.time, tenant: self.tenant.clone() };
        let run = run_id(&cause);
        let subject = format!("symbia.evt.assistants.{}.rule-run.{run}", self.tenant);
        let entries = self.log.read(Service::Assistants, &subject).await?;
        let Some(first) = entries.first() else { return Ok(None) };
        let mut chapter = Chapter {
            at: first.at(),
            headline: format!("run {run}"),
            details: Vec::new(),
            evidence: entries.iter().map(Entry::evidence).collect(),
        };
        for entry in &entries {
            let Some((_, what)) = entry.believed::<RuleRunEvent>() else { continue };
            if let RuleRunEvent::ActionRequested(e) = &what
                && let Some(id) = e.resolved_params_ref.strip_prefix("completion/")
            {
                let (details, evidence) = self.completion(id).await?;
                chapter.details.extend(details);
                chapter.evidence.extend(evidence);
            }
            if let RuleRunEvent::RuleRunStarted(e) = &what {
                chapter.headline = format!("{} was to answer ({})", e.assistant_key, e.award_reason);
            }
            chapter.details.extend(step(&what));
        }
        Ok(Some(chapter))
    }

    async fn completion(&self, id: &str) -> anyhow::Result<(Vec<String>, Vec<Evidence>)> {
        if symbia_events::check_token(id).is_err() {
            return Ok((vec![format!("'{id}' is no completion")], Vec::new()));
        }
        let subject = format!("symbia.evt.integrations.{}.completion.{id}", self.tenant);
        let entries = self.log.read(Service::Integrations, &subject).await?;
        let mut details = Vec::new();
        for entry in &entries {
            match entry.believed::<CompletionEvent>() {
                Some((_, CompletionEvent::CompletionFailed(e))) => {
                    let why = match &e.message {
                        Some(message) => self.open(message).await?,
                        None => String::new(),
                    };
                    let code = e.code.as_deref().unwrap_or("no code");
                    details.push(format!("no answer: {} ({code}) {why}", name_of(&e.category)));
                }
                Some((_, what)) => details.extend(answer(&what)),
                None => {}
            }
        }
        Ok((details, entries.iter().map(Entry::evidence).collect()))
    }
}

fn name_of(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(name)) => name,
        other => other.unwrap_or_default().to_string(),
    }
}

/// What a step of a run says.
fn step(what: &RuleRunEvent) -> Vec<String> {
    match what {
        RuleRunEvent::RuleRunStarted(e) => {
            let rules = match (&e.rule_set_id, e.rule_set_version) {
                (Some(_), Some(version)) => format!("by rule set {}, version {version}", e.rule_set_key),
                _ => "there is no such assistant, or it has no rules".to_owned(),
            };
            let rule = e.rule.as_ref().map(|rule| format!("the rule is '{}' (priority {})", rule.name, rule.priority));
            std::iter::once(rules).chain(rule).collect()
        }
        RuleRunEvent::RuleEvaluated(e) => {
            let conditions = e.conditions.iter().map(|c| {
                let result = if c.result { "holds" } else { "does not hold" };
                format!("{} {} {result}", c.path, c.operator)
            });
            let conditions = conditions.collect::<Vec<_>>().join(", ");
            let verdict = if e.matched { "matches" } else { "does not match" };
            vec![format!("rule '{}' {verdict}: {conditions}", e.rule_name)]
        }
        RuleRunEvent::ActionRequested(e) => vec![format!("{} → {}", e.action_type, e.resolved_params_ref)],
        RuleRunEvent::ActionCompleted(e) => vec![format!("{} is there after {} ms", e.output_ref, e.duration_ms)],
        RuleRunEvent::ActionFailed(e) => vec![format!("that failed after {} ms: {}", e.duration_ms, e.error)],
        RuleRunEvent::RuleRunCompleted(e) => vec![format!("completed in {} ms", e.duration_ms)],
        RuleRunEvent::RuleRunFailed(e) => vec![format!("failed after {} ms: {}", e.duration_ms, e.error)],
        RuleRunEvent::RuleRunCancelled(e) => {
            vec![format!("stopped by {} after {} ms: {}", e.by, e.duration_ms, e.reason)]
        }
    }
}

/// What an event of a completion says.
fn answer(what: &CompletionEvent) -> Option<String> {
    Some(match what {
        CompletionEvent::CompletionAttemptStarted(e) => {
            let digest = e.model_digest.as_ref().map_or_else(String::new, |digest| format!(", weights {digest}"));
            format!("attempt {}: {} / {}{digest}, by {}", e.attempt, e.provider, e.model, e.worker_id)
        }
        CompletionEvent::CompletionGuarded(e) => {
            let one = |finding: &GuardrailFinding| {
                let GuardrailFinding { guardrail, version, rule, action, count, .. } = finding;
                format!("{} {count} × {rule} by '{guardrail}' (version {version})", name_of(action))
            };
            let findings: Vec<String> = e.findings.iter().map(one).collect();
            format!("guardrails at the {}: {}", name_of(&e.hook), findings.join(", "))
        }
        CompletionEvent::CompletionAttemptFailed(e) => {
            let code = e.code.as_deref().unwrap_or("no code");
            format!("attempt {} failed: {} ({code})", e.attempt, name_of(&e.category))
        }
        CompletionEvent::CompletionCompleted(e) => {
            let first = e.timing.ttft_ms.map_or_else(String::new, |ms| format!(", the first after {ms} ms"));
            let speed = e.timing.tokens_per_sec.map_or_else(String::new, |speed| format!(", {speed:.1} tokens/s"));
            let counted = if e.usage.estimated { " (counted by us)" } else { "" };
            format!(
                "{} / {} read {} tokens and wrote {}{counted} in {} ms{first}{speed}; it stopped by {}",
                e.provider,
                e.model,
                e.usage.prompt_tokens,
                e.usage.completion_tokens,
                e.timing.total_ms,
                name_of(&e.finish_reason)
            )
        }
        CompletionEvent::CompletionCancelled(e) => format!("stopped by {}: {}", e.by, e.reason),
        CompletionEvent::CompletionPartialKept(_) => "what it had said is kept".to_owned(),
        CompletionEvent::CompletionForgotten(e) => format!("its answer is given to nobody any more, says {}", e.by),
        CompletionEvent::CompletionRequested(_)
        | CompletionEvent::CompletionAdmitted(_)
        | CompletionEvent::CompletionFailed(_) => return None,
    })
}
