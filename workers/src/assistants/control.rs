//! What signals do to the runs of a conversation: around the pure functions of `symbia_commands::assistants::control`.
//!
//! Events of one conversation are handled in their order by a process, so that what a message set off has begun before a
//! signal behind it is handled. Where several processes share the work, a signal may overtake the start of a run: then the
//! conversation itself refuses the answer while it is paused.

use symbia_commands::assistants::{
    RuleRun,
    control::{Begun, Stop, stop},
    reactions::{Cause, run_id},
};
use symbia_events::{
    AggregateRef, Event, Service,
    messaging::{ControlIssued, MessageSent, Signal},
};

use super::{
    engine::{RuleEngine, cause},
    transcript::{Offer, When},
};

impl RuleEngine {
    /// A signal was given.
    pub(super) async fn signalled(&self, event: &Event, issued: &ControlIssued) -> anyhow::Result<()> {
        let conversation = event.aggregate()?;
        let (offers, reopened) = self.transcripts.offers(&conversation, event.aggregateversion).await?;
        if let Some(which) = Stop::of(issued) {
            return self.stop(event, &which, &offers).await;
        }
        let Some(question) = reopened.filter(|_| issued.event == Signal::Resume) else { return Ok(()) };
        // Somebody who was not silenced may be answering it.
        for offer in offers.iter().filter(|offer| offer.message_id == question && offer.event_id != event.id) {
            let run = self.run_of(event, offer);
            let run = AggregateRef::new(Service::Assistants, event.orgid.clone(), "rule-run", run)?;
            let run = self.store.load::<RuleRun>(&run).await?.state;
            if run.started().is_some() && run.end().is_none() {
                return Ok(());
            }
        }
        self.offered(event, &question).await.map(drop)
    }

    /// Agents that live outside are told of a signal.
    pub(super) async fn told_outside(&self, event: &Event, issued: &ControlIssued) -> anyhow::Result<()> {
        let Some(outside) = &self.outside else { return Ok(()) };
        let mut agents = self.transcripts.agents(&event.aggregate()?, event.aggregateversion).await?;
        // Who takes over may take part from now on.
        let takes_over = issued.target.as_ref().filter(|_| matches!(issued.event, Signal::Route | Signal::Handoff));
        if let Some(target) = takes_over.filter(|target| !agents.contains(&target.principal_id)) {
            agents.push(target.principal_id.clone());
        }
        outside.signal(event, issued, &agents).await
    }

    /// A message that is urgent takes the place of what may be interrupted.
    pub(super) async fn preempted(&self, event: &Event, sent: &MessageSent) -> anyhow::Result<()> {
        let Some(which) = Stop::before(sent) else { return Ok(()) };
        let (mut offers, _) = self.transcripts.offers(&event.aggregate()?, event.aggregateversion).await?;
        offers.retain(|offer| offer.event_id != event.id);
        self.stop(event, &which, &offers).await
    }

    async fn stop(&self, event: &Event, which: &Stop, offers: &[Offer]) -> anyhow::Result<()> {
        let conversation = event.aggregate()?;
        let mut begun = Vec::new();
        for offer in offers {
            let run_id = self.run_of(event, offer);
            let Some(started) = self.started(&event.orgid, &run_id).await? else { continue };
            let scene = self.transcripts.scene(&conversation, &offer.message_id, When::Since).await?;
            begun.push(Begun {
                run_id: run_id.parse()?,
                asker: started.sender_id.clone(),
                assistant_key: started.assistant_key.clone(),
                interruptible: scene.is_none_or(|scene| scene.message.interruptible),
            });
        }
        for reaction in stop(&cause(event), which, &begun) {
            // One that has its end already needs none.
            self.send(event, &reaction).await?;
        }
        Ok(())
    }

    fn run_of(&self, event: &Event, offer: &Offer) -> String {
        run_id(&Cause { event_id: offer.event_id, ..cause(event) }).to_string()
    }
}
