//! Hears from the log whose registry has changed: one reader for all who listen in this process.

use std::time::Duration;

use symbia_events::{OrgId, Position, Service};
use tokio::sync::broadcast;

use crate::{
    feed::{Feed, source::Entry},
    platform::Platform,
};

const SUBJECTS: &str = "symbia.evt.integrations.*.integration.*";
/// Pause before the log is followed again.
const AGAIN: Duration = Duration::from_secs(1);
/// Changes that somebody who is slow may be behind.
const BEHIND: usize = 256;

/// Tells of changes. Cheap to clone.
#[derive(Clone)]
pub(in crate::integrations) struct Changes(broadcast::Sender<OrgId>);

impl Changes {
    /// Follows the log in the background.
    pub fn follow(platform: Platform, feed: Feed) -> Self {
        let changes = Changes(broadcast::channel(BEHIND).0);
        tokio::spawn(changes.clone().run(platform, feed));
        changes
    }

    /// Hears of changes from now on, when they show in the registry.
    pub fn listen(&self) -> broadcast::Receiver<OrgId> {
        self.0.subscribe()
    }

    async fn run(self, platform: Platform, feed: Feed) {
        loop {
            if let Ok((_, mut log)) = feed.tail(Service::Integrations, vec![SUBJECTS.to_owned()]).await {
                while let Ok(chunk) = log.next().await {
                    let events = chunk.entries.into_iter().filter_map(|(sequence, entry)| match entry {
                        Entry::Event(signed, _) => Some((sequence, signed.event.orgid.clone())),
                        Entry::Quarantined => None,
                    });
                    for (sequence, org) in events.filter(|_| self.0.receiver_count() > 0) {
                        platform.passed(Position { service: Service::Integrations, sequence }).await;
                        let _ = self.0.send(org);
                    }
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}
