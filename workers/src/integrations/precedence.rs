//! Lines of batches stand behind what people wait for: a line's model is asked when this router works on no other request, or has
//! waited its time, so that a batch goes on where there is never a pause. So many lines are asked at a time, of all batches. Nothing of
//! a line is held in memory before its turn but its event.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// How long a line lets others go first.
const YIELDS: Duration = Duration::from_secs(5);

/// Who goes first. Cheap to clone: those that share one let one another go first.
#[derive(Clone, Debug)]
pub struct Precedence {
    ahead: watch::Sender<usize>,
    lines: Arc<Semaphore>,
}

/// A request that goes first, until this is dropped.
pub(super) struct Ahead(watch::Sender<usize>);

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.send_modify(|ahead| *ahead = ahead.saturating_sub(1));
    }
}

impl Precedence {
    /// With so many lines of batches at a time.
    #[must_use]
    pub fn new(lines: u32) -> Self {
        Precedence { ahead: watch::Sender::new(0), lines: Arc::new(Semaphore::new(lines.max(1) as usize)) }
    }

    /// Goes first.
    pub(super) fn ahead(&self) -> Ahead {
        self.ahead.send_modify(|ahead| *ahead += 1);
        Ahead(self.ahead.clone())
    }

    /// Waits until it is a line's turn, which lasts until what is given back is dropped.
    pub(super) async fn behind(&self) -> Option<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.lines).acquire_owned().await.ok();
        let mut ahead = self.ahead.subscribe();
        let nobody = async { ahead.wait_for(|ahead| *ahead == 0).await.map(drop) };
        let _ = tokio::time::timeout(YIELDS, nobody).await;
        turn
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_waits_for_others_but_not_for_ever_and_for_a_place() {
        let precedence = Precedence::new(1);
        let turn = precedence.behind().now_or_never().flatten();
        assert!(turn.is_some());
        // The one place is taken.
        assert!(precedence.behind().now_or_never().is_none());
        drop(turn);

        let ahead = precedence.ahead();
        let mut waiting = Box::pin(precedence.behind());
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(ahead);
        assert!(waiting.now_or_never().flatten().is_some());

        let _ahead = precedence.ahead();
        let since = tokio::time::Instant::now();
        assert!(precedence.behind().await.is_some());
        assert_eq!(since.elapsed().as_secs(), YIELDS.as_secs());
    }
}
