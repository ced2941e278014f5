//! Work that only ends by failing, done again until it is told to stop.

use std::{convert::Infallible, fmt::Display, time::Duration};

use tokio_util::sync::CancellationToken;

const PAUSE: Duration = Duration::from_millis(250);

/// Consumes until `stop`. A connection heals itself; what is gone for good (a consumer, its stream) is made anew here.
pub(crate) async fn consume<F, E>(stop: &CancellationToken, what: &str, work: impl Fn() -> F)
where
    F: Future<Output = Result<Infallible, E>>,
    E: Display,
{
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => return,
            Err(error) = work() => {
                tracing::warn!(error = format!("{error:#}"), "{what} not received, trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
