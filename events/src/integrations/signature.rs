//! How messengers sign what they tell.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What Slack signs a call with, `v0=` and hexadecimal digits: HMAC-SHA-256 of version, time in seconds and body under the signing
/// secret of the app.
#[must_use]
pub fn slack_signature(secret: &str, timestamp: i64, body: &[u8]) -> String {
    format!("v0={}", mac(secret, &[format!("v0:{timestamp}:").as_bytes(), body]))
}

/// What Meta signs a call of WhatsApp's with, `sha256=` and hexadecimal digits: HMAC-SHA-256 of the body under the secret of the
/// app.
#[must_use]
pub fn meta_signature(secret: &str, body: &[u8]) -> String {
    format!("sha256={}", mac(secret, &[body]))
}

/// What Meta is to name when it asks whether an address is a connection's: nobody knows it who does not know the secret of the
/// app, and it tells nothing of that.
#[must_use]
pub fn meta_verify_token(secret: &str, connection_id: &str) -> String {
    mac(secret, &[b"symbia webhook verification ", connection_id.as_bytes()]).chars().take(32).collect()
}

fn mac(secret: &str, pieces: &[&[u8]]) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    pieces.iter().for_each(|piece| mac.update(piece));
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slacks_own_example_is_signed_as_slack_signs_it() {
        let body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&\
                    channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&\
                    response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F\
                    96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
        let signature = slack_signature("8f742231b10e8888abcd99yyyzzz85a5", 1_531_420_618, body.as_bytes());
        assert_eq!(signature, "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503");
    }

    #[test]
    fn meta_signs_the_body_alone_and_a_token_is_one_connections() {
        // As `openssl dgst -sha256 -hmac secret` says.
        let expected = "sha256=dc46983557fea127b43af721467eb9b3fde2338fe3e14f51952aa8478c13d355";
        assert_eq!(meta_signature("secret", b"body"), expected);
        assert_ne!(meta_verify_token("secret", "a"), meta_verify_token("secret", "b"));
        assert_eq!(meta_verify_token("secret", "a").len(), 32);
    }
}
