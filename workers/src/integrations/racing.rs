//! Two attempts side by side (integrations.md §28): when the first target does not begin to answer, the next is asked besides.
//! Whichever begins first goes on, the other is given up and recorded with what it took.
//!
//! Both are in the log before they are asked, and budgets keep room for both. A worker that takes over finds those without an
//! end lost, as ever.

use std::{
    pin::pin,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use futures::future::{Either, select};
use symbia_commands::{
    OutcomeStatus,
    integrations::{FailCompletionAttempt, HEDGE_LOST, StartCompletionAttempt},
};
use symbia_events::{
    CommandId,
    integrations::{ErrorCategory, Spent, Usage},
};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{
    accounts::Lease,
    attempts::{End, Heard},
    beginning::Turn,
    provider::{Fault, Prompt},
    router::{LlmRouter, Work},
    routes::Candidate,
};

/// Which of two attempts began to answer first.
#[derive(Default)]
pub(super) struct Race {
    winner: AtomicU32,
    decided: CancellationToken,
}

impl Race {
    /// Whether an attempt that begins to answer is the first to.
    pub fn is_won_by(&self, attempt: u32) -> bool {
        match self.winner.compare_exchange(0, attempt, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                self.decided.cancel();
                true
            }
            Err(winner) => winner == attempt,
        }
    }

    /// Whether an attempt was the first to.
    fn was_won_by(&self, attempt: u32) -> bool {
        self.winner.load(Ordering::Acquire) == attempt
    }

    /// Comes when another attempt than this one has begun to answer.
    pub async fn lost(race: Option<&Race>, attempt: u32) {
        let Some(race) = race else { return std::future::pending().await };
        race.decided.cancelled().await;
        if race.was_won_by(attempt) {
            std::future::pending::<()>().await;
        }
    }
}

/// An attempt that was begun.
pub(super) struct Runner<'a> {
    pub turn: Turn,
    pub number: u32,
    pub prompt: &'a Prompt,
    pub lease: Option<&'a Lease>,
}

/// What came of it, or of the one beside it.
pub(super) struct Raced {
    pub heard: Heard,
    pub turn: Turn,
    pub number: u32,
    /// The highest number of an attempt.
    pub last: u32,
    /// When it was begun, if it is the second.
    pub begun: Option<OffsetDateTime>,
}

impl LlmRouter {
    /// The target that is asked besides, and after how long.
    pub(super) fn rival(&self, work: &Work<'_>, turn: Turn, attempt: u32) -> Option<(usize, Duration)> {
        if attempt != 1 || turn.target != 0 || !work.hedges.load(Ordering::Relaxed) {
            return None;
        }
        let rival = work.rival()?;
        let after = match work.hedge()?.after_ms {
            Some(ms) => Duration::from_millis(ms.into()),
            None => Duration::from_secs_f64(self.standings.p95_ms(&work.asked.targets.first()?.name())? / 1000.0),
        };
        Some((rival, after))
    }

    /// Asks one target, and another besides when it does not begin to answer.
    pub(super) async fn race(
        &self,
        work: &Work<'_>,
        first: Runner<'_>,
        rival: usize,
        after: Duration,
    ) -> anyhow::Result<Raced> {
        let race = Race::default();
        let alone = |heard, last| Raced { heard, turn: first.turn, number: first.number, last, begun: None };
        let mut one = pin!(self.attempt(work, first.turn, first.prompt, first.lease, Some(&race)));
        tokio::select! {
            biased;
            heard = &mut one => return Ok(alone(heard, first.number)),
            () = race.decided.cancelled() => return Ok(alone(one.await, first.number)),
            () = tokio::time::sleep(after) => {}
        }
        let (turn, number) = (Turn { target: rival, tries: 1 }, first.number + 1);
        // The first is listened to meanwhile.
        let beginning = pin!(self.begin_beside(work, number, first.number, turn));
        let (begun, ended) = match select(one.as_mut(), beginning).await {
            Either::Left((heard, beginning)) => (beginning.await?, Some(heard)),
            Either::Right((begun, _)) => (begun?, None),
        };
        let Some(lease) = begun else {
            let heard = match ended {
                Some(heard) => heard,
                None => one.await,
            };
            return Ok(alone(heard, first.number));
        };
        let since = OffsetDateTime::now_utc();
        let prompt = work.prompt(number, work.asked.targets[rival].model.clone());
        let instead = |heard| Raced { heard, turn, number, last: number, begun: Some(since) };
        if let Some(heard) = ended {
            return match heard.end {
                // Who began and broke off has readers already.
                End::Fault(fault) if !race.was_won_by(first.number) => {
                    self.failed_beside(work, first.number, fault).await?;
                    Ok(instead(self.attempt(work, turn, &prompt, lease.as_ref(), Some(&race)).await))
                }
                End::Cancelled => Ok(alone(heard, number)),
                End::Answer(_) | End::Fault(_) | End::Outrun => {
                    self.outrun(work, (number, turn), None).await?;
                    Ok(alone(heard, number))
                }
            };
        }
        let mut two = pin!(self.attempt(work, turn, &prompt, lease.as_ref(), Some(&race)));
        let one_lost = (first.number, first.turn);
        tokio::select! {
            biased;
            heard = &mut one => match heard.end {
                End::Fault(fault) if !race.was_won_by(first.number) => {
                    let (heard, recorded) = tokio::join!(two, self.failed_beside(work, first.number, fault));
                    recorded.map(|()| instead(heard))
                }
                End::Answer(_) | End::Fault(_) if race.is_won_by(first.number) => {
                    let lost = two.await;
                    self.outrun(work, (number, turn), Some((&lost, &prompt))).await?;
                    Ok(alone(heard, number))
                }
                End::Answer(_) | End::Fault(_) | End::Outrun => {
                    let lost = self.outrun(work, one_lost, Some((&heard, first.prompt)));
                    let (heard, recorded) = tokio::join!(two, lost);
                    recorded.map(|()| instead(heard))
                }
                End::Cancelled => {
                    two.await;
                    Ok(alone(heard, number))
                }
            },
            heard = &mut two => match heard.end {
                End::Fault(fault) if !race.was_won_by(number) => {
                    let (heard, recorded) = tokio::join!(one, self.failed_beside(work, number, fault));
                    recorded.map(|()| alone(heard, number))
                }
                End::Answer(_) | End::Fault(_) if race.is_won_by(number) => {
                    let lost = one.await;
                    self.outrun(work, one_lost, Some((&lost, first.prompt))).await?;
                    Ok(instead(heard))
                }
                End::Answer(_) | End::Fault(_) | End::Outrun => {
                    let lost = self.outrun(work, (number, turn), Some((&heard, &prompt)));
                    let (heard, recorded) = tokio::join!(one, lost);
                    recorded.map(|()| alone(heard, number))
                }
                End::Cancelled => {
                    one.await;
                    Ok(instead(heard))
                }
            },
            () = race.decided.cancelled() => {
                let lost = |runner: (u32, Turn), heard: Heard, prompt| async move {
                    self.outrun(work, runner, Some((&heard, prompt))).await
                };
                if race.is_won_by(first.number) {
                    let given_up = async { lost((number, turn), two.await, &prompt).await };
                    let (heard, recorded) = tokio::join!(one, given_up);
                    return recorded.map(|()| alone(heard, number));
                }
                let given_up = async { lost(one_lost, one.await, first.prompt).await };
                let (heard, recorded) = tokio::join!(two, given_up);
                recorded.map(|()| instead(heard))
            }
        }
    }

    // The key that the second is asked with, when that is in the log.
    async fn begin_beside(
        &self,
        work: &Work<'_>,
        number: u32,
        beside: u32,
        turn: Turn,
    ) -> anyhow::Result<Option<Option<Lease>>> {
        let org = work.event.orgid.as_str();
        let lease = self.lease(org, work.request, &work.asked.targets, turn).await?;
        let start = self.start(org, work.request, &work.asked, turn, number, lease.as_ref());
        let start = StartCompletionAttempt { hedges: Some(beside), ..start };
        let id = CommandId::derived(work.round, &format!("attempt-{number}"));
        // Before it is known whether it is: then a budget of the second's may count what was not asked, and not the other way.
        work.raced.store(true, Ordering::Relaxed);
        let outcome = self.send(work, start.into(), id).await?;
        Ok((outcome.status == OutcomeStatus::Accepted).then_some(lease))
    }

    async fn failed_beside(&self, work: &Work<'_>, number: u32, fault: Fault) -> anyhow::Result<()> {
        let failed = work.attempt_failed(number, fault);
        self.record(work, failed.into(), &format!("failed-{number}")).await.map(|_| ())
    }

    // What the other was asked with counts: whether its provider does is not known.
    async fn outrun(
        &self,
        work: &Work<'_>,
        (number, turn): (u32, Turn),
        lost: Option<(&Heard, &Prompt)>,
    ) -> anyhow::Result<()> {
        let mut spent = None;
        if let Some((_, prompt)) = lost.filter(|(heard, _)| heard.asked) {
            let tokens = prompt.estimated_tokens();
            let usage = Usage { prompt_tokens: tokens, total_tokens: tokens, estimated: true, ..Usage::default() };
            let Candidate { provider, model, .. } = &work.asked.targets[turn.target];
            let price = self.accounts.price(provider.key(), model).await?;
            work.lost.fetch_add(tokens, Ordering::Relaxed);
            spent = Some(Spent { usage, cost: price.map(|price| price.of(&usage)) });
        }
        let lost = FailCompletionAttempt {
            request_id: work.request.request_id.clone(),
            attempt: number,
            category: ErrorCategory::Timeout,
            code: Some(HEDGE_LOST.to_owned()),
            upstream: None,
            message: None,
            retry_after_ms: None,
            spent,
        };
        self.record(work, lost.into(), &format!("failed-{number}")).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_begins_first_wins_and_the_other_hears_of_it() {
        let race = Race::default();
        assert!(race.is_won_by(2) && race.is_won_by(2) && !race.is_won_by(1));
        Race::lost(Some(&race), 1).await;
        let waits = |race, attempt| async move {
            tokio::time::timeout(Duration::from_millis(5), Race::lost(race, attempt)).await.is_err()
        };
        assert!(waits(Some(&race), 2).await && waits(None, 1).await);
    }
}
