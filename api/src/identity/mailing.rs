//! Mail that follows from an answer: it goes out afterwards, and whether it does changes nothing that was done.

use zeroize::Zeroizing;

use super::Identity;
use crate::{http::rate::RateLimits, mail::Mail};

impl Identity {
    /// Sends mail, if this platform sends any. `about` bounds how much somebody is sent about the same thing.
    pub(super) fn mail_later(
        &self,
        limits: RateLimits,
        about: String,
        to: String,
        subject: &'static str,
        text: Zeroizing<String>,
    ) {
        let Some(mailer) = self.platform.settings.mailer.clone() else { return };
        tokio::spawn(async move {
            if limits.attempt(&about).await.is_err() {
                tracing::warn!(subject, "mail not sent: there was too much of it");
                return;
            }
            if let Err(error) = mailer.0.send(Mail { to, subject, text }).await {
                tracing::warn!(%error, subject, "mail not sent");
            }
        });
    }

    /// A link into the console. Never to the host that a request names: that may be a stranger's.
    pub(super) fn link(&self, page: &str, token: &str) -> Zeroizing<String> {
        Zeroizing::new(format!("{}?token={token}", self.page(page)))
    }

    /// The address of a page of the console.
    pub(super) fn page(&self, page: &str) -> String {
        let base = self.platform.settings.base_url.trim_end_matches('/');
        let base = if base.is_empty() { "http://localhost:5001" } else { base };
        format!("{base}/{page}")
    }
}
