//! E-mail addresses: another one, or the present one, is confirmed with what was sent to it (identity.md §16.2).

use serde::{Deserialize, Serialize};
use symbia_events::{
    Personal,
    identity::{EmailChangeRequested, UserEmailChanged, UserEmailVerified, UserEvent},
};
use time::OffsetDateTime;

use super::{ConfirmEmailChange, RequestEmailChange, Token, User, email_claim, instant, platform_only};
use crate::{Actor, Decision, Rejection};

/// An address that waits for its confirmation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PendingEmail {
    email: Personal,
    key: String,
    token: Token,
}

impl User {
    pub(super) fn request_email(&self, c: RequestEmailChange, by: &Actor) -> Result<Decision<UserEvent>, Rejection> {
        self.registered()?;
        platform_only(by)?;
        if instant(&c.expires_at).is_none() {
            return Err(Rejection::invalid("expiresAt: RFC 3339"));
        }
        Ok(Decision::one(EmailChangeRequested {
            user_id: c.user_id,
            new_email: c.new_email,
            new_email_key: c.new_email_key,
            token_hash: c.token_hash,
            expires_at: c.expires_at,
        }))
    }

    pub(super) fn confirm_email(
        &self,
        c: ConfirmEmailChange,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<UserEvent>, Rejection> {
        self.registered()?;
        platform_only(by)?;
        let Some(pending) = self.pending_email.as_ref().filter(|p| p.token.fits(&c.token_hash, at)) else {
            return Err(Rejection::new(
                "EMAIL_TOKEN_INVALID",
                "the link is not valid, was used or has expired: ask for a new one",
            ));
        };
        if pending.key == self.email_key {
            return Ok(Decision::one(UserEmailVerified { user_id: c.user_id, email_key: pending.key.clone() }));
        }
        let (old, new) = (email_claim(&self.email_key, &c.user_id), email_claim(&pending.key, &c.user_id));
        Ok(Decision::one(UserEmailChanged {
            user_id: c.user_id,
            email: pending.email.clone(),
            email_key: pending.key.clone(),
            previous_email_key: self.email_key.clone(),
        })
        .releasing(old)
        .claiming(new))
    }

    pub(super) fn apply_email_request(&mut self, e: &EmailChangeRequested) {
        self.pending_email = Some(PendingEmail {
            email: e.new_email.clone(),
            key: e.new_email_key.clone(),
            token: Token { hash: e.token_hash.clone(), expires_at: instant(&e.expires_at) },
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{edge, person, registered};
    use super::*;
    use crate::testing::{AT, given};
    use symbia_events::SubjectKey;
    use time::Duration;

    fn requested(key: &str, expires: Duration) -> EmailChangeRequested {
        EmailChangeRequested {
            user_id: "u1".into(),
            new_email: SubjectKey::from_bytes("u1", [7; 32]).seal("ada@new.example"),
            new_email_key: key.into(),
            token_hash: "token".into(),
            expires_at: super::super::text(AT + expires),
        }
    }

    #[test]
    fn a_confirmed_address_takes_the_place_of_the_old_one_and_its_claim() {
        let confirm = ConfirmEmailChange { user_id: "u1".into(), token_hash: "token".into() };
        let request = requested("new", Duration::hours(1));
        let changed = UserEmailChanged {
            user_id: "u1".into(),
            email: request.new_email.clone(),
            email_key: "new".into(),
            previous_email_key: "hash".into(),
        };
        let expected =
            Decision::one(changed.clone()).releasing(email_claim("hash", "u1")).claiming(email_claim("new", "u1"));
        let history = || [registered(), request.clone().into()];
        given::<User>(history()).when(confirm.clone(), &edge()).then_decision(expected);
        given::<User>(history()).when(confirm.clone(), &person("u1")).rejected("FORBIDDEN");
        let used = history().into_iter().chain([changed.into()]);
        given::<User>(used).when(confirm.clone(), &edge()).rejected("EMAIL_TOKEN_INVALID");
        given::<User>([registered(), requested("new", Duration::ZERO).into()])
            .when(confirm.clone(), &edge())
            .rejected("EMAIL_TOKEN_INVALID");
        let verified = UserEmailVerified { user_id: "u1".into(), email_key: "hash".into() };
        given::<User>([registered(), requested("hash", Duration::hours(1)).into()])
            .when(confirm, &edge())
            .then([verified.into()]);
    }
}
