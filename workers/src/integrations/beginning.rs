//! Beginning an attempt: the key that it is made with, and the event that says so before it is made.

use std::time::Duration;

use symbia_commands::{
    OutcomeStatus,
    integrations::{Completion, Phase, StartCompletionAttempt},
};
use symbia_events::{
    CommandId,
    integrations::{CompletionRequested, ErrorCategory},
};

use super::{
    accounts::Lease,
    provider::{Fault, Prompt},
    router::{Asked, LlmRouter, Targets, Work, asker},
    routes::Candidate,
};

/// How often it is looked whether another worker is still at it.
const LOOK: Duration = Duration::from_millis(500);

/// Which of the targets is asked, for the how many-th time.
#[derive(Clone, Copy)]
pub(super) struct Turn {
    pub target: usize,
    pub tries: u32,
}

impl Turn {
    pub const FIRST: Turn = Turn { target: 0, tries: 1 };
}

/// What came of it.
pub(super) enum Begun {
    /// This attempt is ours.
    Ours,
    /// There were so many, the last of them at this provider and model, and this one comes next.
    Next(u32, (String, String)),
    /// The completion has its end.
    Over,
}

pub(super) fn prompt(org: &str, request: &CompletionRequested, asked: &Asked, attempt: u32, model: String) -> Prompt {
    Prompt {
        org: org.to_owned(),
        request_id: request.request_id.clone(),
        attempt,
        model,
        turns: asked.turns.clone(),
        sampling: asked.sampling.clone(),
        options: asked.options.clone(),
    }
}

/// The key that a request names is its first target's.
pub(super) fn named(request: &CompletionRequested, turn: Turn) -> Option<&str> {
    request.credential_id.as_deref().filter(|_| turn.target == 0)
}

impl LlmRouter {
    /// The key that a turn is asked with.
    pub(super) async fn lease(
        &self,
        org: &str,
        request: &CompletionRequested,
        targets: &Targets,
        turn: Turn,
    ) -> anyhow::Result<Option<Lease>> {
        let provider = &targets[turn.target].provider;
        match provider.takes_key() {
            true => self.accounts.lease(&asker(org, request), provider.key(), named(request, turn)).await,
            false => Ok(None),
        }
    }

    pub(super) async fn begin(
        &self,
        work: &Work<'_>,
        attempt: u32,
        turn: Turn,
        lease: Option<&Lease>,
    ) -> anyhow::Result<Begun> {
        let most = self.most_attempts(work);
        if attempt > most {
            let fault = format!("{most} attempts were begun and none came to an end");
            let fault = Fault::new(ErrorCategory::Internal, "worker_lost", fault);
            let state = self.store.load::<Completion>(&work.to).await?.state;
            let running = (state.phase() == Phase::Running).then(|| state.attempts());
            let failed = self.failed(work.request, running, &fault, Some(&work.asked.key));
            self.record(work, failed.into(), "given-up").await?;
            return Ok(Begun::Over);
        }
        let start = self.start(work.event.orgid.as_str(), work.request, &work.asked, turn, attempt, lease);
        // Not derived from the event: an attempt that another worker has begun must not pass for ours.
        let id = CommandId::derived(work.round, &format!("attempt-{attempt}"));
        let outcome = self.send(work, start.into(), id).await?;
        if outcome.status == OutcomeStatus::Accepted {
            return Ok(Begun::Ours);
        }
        loop {
            let state = self.store.load::<Completion>(&work.to).await?.state;
            let (phase, attempts) = (state.phase(), state.attempts());
            match phase {
                Phase::Over => return Ok(Begun::Over),
                Phase::Waiting | Phase::Running if attempts >= attempt => {}
                _ => anyhow::bail!("attempt {attempt} of {} was refused: {:?}", work.to, outcome.rejection),
            }
            let others = phase == Phase::Running && state.worker() != self.options.worker_id;
            if !others || !self.running.works_elsewhere(state.worker(), &work.request.request_id).await {
                let (provider, model) = state.asked_last();
                return Ok(Begun::Next(attempts + 1, (provider.to_owned(), model.to_owned())));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What says that an attempt is made.
    pub(super) fn start(
        &self,
        org: &str,
        request: &CompletionRequested,
        asked: &Asked,
        turn: Turn,
        attempt: u32,
        lease: Option<&Lease>,
    ) -> StartCompletionAttempt {
        let Candidate { provider, model, .. } = &asked.targets[turn.target];
        let source = match lease {
            Some(lease) if lease.is_proxy => "org-wide",
            Some(_) => "personal",
            None => "none",
        };
        StartCompletionAttempt {
            request_id: request.request_id.clone(),
            attempt,
            provider: provider.key().to_owned(),
            model: model.clone(),
            model_digest: None,
            worker_id: self.options.worker_id.clone(),
            credential_id: lease.map(|lease| lease.credential_id.clone()),
            credential_source: source.to_owned(),
            dropped_params: provider.dropped(&prompt(org, request, asked, attempt, model.clone())),
            hedges: None,
            guarded: asked.guarded.clone(),
        }
    }
}
