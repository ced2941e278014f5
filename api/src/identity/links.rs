//! Tokens that are sent to somebody or given for the next step: `<user>.<detail>.<mac>`. The mac lets garbage be refused
//! before anything is looked up or hashed; what the detail means, and that it counts once, the aggregate decides.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use symbia_events::KeyRing;
use zeroize::Zeroizing;

/// What a token is for; one for a purpose is garbage for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    PasswordReset,
    Email,
    SecondFactor,
    Code,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Purpose::PasswordReset => "password-reset",
            Purpose::Email => "email",
            Purpose::SecondFactor => "second-factor",
            Purpose::Code => "authorization-code",
        }
    }

    fn mac(self, keys: &KeyRing, user: &str, detail: &str) -> String {
        keys.lookup_hash(&format!("{}-mac", self.name()), &format!("{user}.{detail}"))
    }

    /// A token of a user, or of what else its purpose is about, with 32 random bytes.
    pub fn random(self, keys: &KeyRing, user: &str) -> Zeroizing<String> {
        let random = Zeroizing::new(BASE64URL.encode(Zeroizing::new(rand::random::<[u8; 32]>()).as_ref()));
        self.of(keys, user, &random)
    }

    /// A token of a user with a detail that has no dots.
    pub fn of(self, keys: &KeyRing, user: &str, detail: &str) -> Zeroizing<String> {
        Zeroizing::new(format!("{user}.{detail}.{}", self.mac(keys, user, detail)))
    }

    /// User and detail of a token that is ours.
    pub fn read<'t>(self, keys: &KeyRing, token: &'t str) -> Option<(&'t str, &'t str)> {
        let mut parts = token.trim().split('.');
        let (user, detail, mac) = (parts.next()?, parts.next()?, parts.next()?);
        (parts.next().is_none() && self.mac(keys, user, detail) == mac).then_some((user, detail))
    }

    /// What is kept of a token.
    pub fn hash(self, keys: &KeyRing, token: &str) -> String {
        keys.lookup_hash(self.name(), token.trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_counts_for_its_purpose_and_its_user_only() {
        let keys = KeyRing::generate(time::OffsetDateTime::UNIX_EPOCH);
        let token = Purpose::PasswordReset.random(&keys, "u1");
        assert!(Purpose::PasswordReset.read(&keys, &token).is_some_and(|(user, _)| user == "u1"));
        assert_eq!(Purpose::Email.read(&keys, &token), None);
        assert_eq!(Purpose::PasswordReset.read(&keys, &token.replace("u1", "u2")), None);
        assert_eq!(Purpose::PasswordReset.read(&keys, "u1.x.y"), None);
    }
}
