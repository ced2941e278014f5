//! Where software that lives outside is told of what it is asked in conversations (messaging.md §8.12).

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::domain_events;

domain_events! {
    /// What can have happened to the address of a participant that is software.
    WebhookEvent: Messaging / "webhook" {
        /// It is told there, from now on, what is said to it.
        WebhookRegistered = "symbia.messaging.webhook.webhook-registered.v1" {
            principal_id: String,
            org_id: String,
            url: String,
            /// Where the secret is kept that signs what is sent.
            secret_ref: String,
            by: String,
        }
        /// It is told nothing there any more.
        WebhookRemoved = "symbia.messaging.webhook.webhook-removed.v1" {
            principal_id: String,
            secret_ref: String,
            by: String,
        }
    }
}

/// What a secret of a webhook begins with, as its owner gets it (Standard Webhooks).
pub const WEBHOOK_SECRET: &str = "whsec_";

/// The value of `webhook-signature` for what is sent (Standard Webhooks): HMAC-SHA-256 over id, time in seconds and body under
/// the bytes of a secret `whsec_<base64>`. `None` when that is no secret.
#[must_use]
pub fn webhook_signature(secret: &str, id: &str, timestamp: i64, body: &[u8]) -> Option<String> {
    let key = Zeroizing::new(BASE64.decode(secret.strip_prefix(WEBHOOK_SECRET)?).ok()?);
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    Some(format!("v1,{}", BASE64.encode(mac.finalize().into_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_standards_own_example() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let signed =
            webhook_signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
        assert_eq!(webhook_signature("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "m", 1, b""), None);
    }
}
