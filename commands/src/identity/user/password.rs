//! Passwords: changing, and the one live link to choose a new one (identity.md §4.5, 16.2).

use symbia_events::identity::{
    PasswordResetCompleted, PasswordResetMailFailed, PasswordResetMailed, PasswordResetRequested, UserEvent,
    UserPasswordChanged, UserUnlocked,
};
use time::OffsetDateTime;

use super::{
    ChangePassword, CompletePasswordReset, RecordResetMail, RequestPasswordReset, Token, User, instant, platform_only,
};
use crate::{Actor, Decision, Rejection};

impl User {
    // The hash is behind the reference: whoever could name any reference could take over any account.
    pub(super) fn change_password(
        &self,
        c: ChangePassword,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<UserEvent>, Rejection> {
        self.registered()?;
        platform_only(by)?;
        let revoked = Self::sessions_revoked(&c.user_id, by, at, "password-changed");
        Ok(Decision::one(UserPasswordChanged {
            user_id: c.user_id,
            password_ref: c.password_ref,
            password_algo: c.password_algo,
        })
        .and(revoked))
    }

    pub(super) fn request_reset(&self, c: RequestPasswordReset, by: &Actor) -> Result<Decision<UserEvent>, Rejection> {
        self.registered()?;
        platform_only(by)?;
        if instant(&c.expires_at).is_none() {
            return Err(Rejection::invalid("expiresAt: RFC 3339"));
        }
        Ok(Decision::one(PasswordResetRequested {
            user_id: c.user_id,
            reset_id: c.reset_id,
            token_hash: c.token_hash,
            expires_at: c.expires_at,
            channel: "email".to_owned(),
        }))
    }

    pub(super) fn record_reset_mail(&self, c: RecordResetMail, by: &Actor) -> Result<Decision<UserEvent>, Rejection> {
        self.registered()?;
        platform_only(by)?;
        let (user_id, reset_id) = (c.user_id, c.reset_id);
        Ok(match c.failed {
            Some(reason) => Decision::one(PasswordResetMailFailed { user_id, reset_id, reason }),
            None => Decision::one(PasswordResetMailed { user_id, reset_id }),
        })
    }

    pub(super) fn complete_reset(
        &self,
        c: CompletePasswordReset,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<UserEvent>, Rejection> {
        self.registered()?;
        platform_only(by)?;
        let Some((reset_id, _)) = self.reset.as_ref().filter(|(_, token)| token.fits(&c.token_hash, at)) else {
            return Err(Rejection::new(
                "RESET_TOKEN_INVALID",
                "the link is not valid, was used or has expired: ask for a new one",
            ));
        };
        let revoked = Self::sessions_revoked(&c.user_id, by, at, "password-reset");
        let decision = Decision::one(PasswordResetCompleted { user_id: c.user_id.clone(), reset_id: reset_id.clone() })
            .and(UserPasswordChanged {
                user_id: c.user_id.clone(),
                password_ref: c.password_ref,
                password_algo: c.password_algo,
            })
            .and(revoked);
        // Failed attempts lock until a time; what a person locked stays locked.
        if self.lock.as_ref().is_some_and(|lock| lock.until.is_some()) {
            let (by, reason) = (by.id.clone(), "password-reset".to_owned());
            return Ok(decision.and(UserUnlocked { user_id: c.user_id, by, reason }));
        }
        Ok(decision)
    }

    pub(super) fn apply_reset(&mut self, e: &PasswordResetRequested) {
        let token = Token { hash: e.token_hash.clone(), expires_at: instant(&e.expires_at) };
        self.reset = Some((e.reset_id.clone(), token));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{edge, person, registered};
    use super::*;
    use crate::testing::{AT, given};
    use symbia_events::identity::{SessionsRevoked, UserLocked};
    use time::Duration;

    fn requested(reset: &str, hash: &str, expires: Duration) -> UserEvent {
        PasswordResetRequested {
            user_id: "u1".into(),
            reset_id: reset.into(),
            token_hash: hash.into(),
            expires_at: super::super::text(AT + expires),
            channel: "email".into(),
        }
        .into()
    }

    fn complete(hash: &str) -> CompletePasswordReset {
        CompletePasswordReset {
            user_id: "u1".into(),
            token_hash: hash.into(),
            password_ref: "pw2".into(),
            password_algo: "bcrypt".into(),
        }
    }

    fn completed(reset: &str) -> Vec<UserEvent> {
        vec![
            PasswordResetCompleted { user_id: "u1".into(), reset_id: reset.into() }.into(),
            UserPasswordChanged { user_id: "u1".into(), password_ref: "pw2".into(), password_algo: "bcrypt".into() }
                .into(),
            SessionsRevoked {
                principal_id: "u1".into(),
                before: super::super::text(AT),
                by: "service:identity".into(),
                reason: "password-reset".into(),
            }
            .into(),
        ]
    }

    #[test]
    fn a_link_works_once_until_it_expires_and_the_newest_only() {
        let hour = Duration::hours(1);
        let history = || [registered(), requested("r1", "one", hour), requested("r2", "two", hour)];
        given::<User>(history()).when(complete("two"), &edge()).then(completed("r2"));
        given::<User>(history()).when(complete("one"), &edge()).rejected("RESET_TOKEN_INVALID");
        let used = history().into_iter().chain(completed("r2"));
        given::<User>(used).when(complete("two"), &edge()).rejected("RESET_TOKEN_INVALID");
        given::<User>([registered(), requested("r1", "one", Duration::ZERO)])
            .when(complete("one"), &edge())
            .rejected("RESET_TOKEN_INVALID");
        given::<User>([registered()]).when(complete(""), &edge()).rejected("RESET_TOKEN_INVALID");
        given::<User>(history()).when(complete("two"), &person("u1")).rejected("FORBIDDEN");
    }

    #[test]
    fn a_changed_password_voids_the_link_and_a_reset_opens_what_attempts_locked() {
        let change =
            ChangePassword { user_id: "u1".into(), password_ref: "pw2".into(), password_algo: "bcrypt".into() };
        given::<User>([registered()]).when(change, &person("u1")).rejected("FORBIDDEN");
        let changed =
            UserPasswordChanged { user_id: "u1".into(), password_ref: "pw3".into(), password_algo: "bcrypt".into() };
        let link = requested("r1", "one", Duration::hours(1));
        given::<User>([registered(), link.clone(), changed.into()])
            .when(complete("one"), &edge())
            .rejected("RESET_TOKEN_INVALID");
        let locked = |until: Option<&str>| UserLocked {
            user_id: "u1".into(),
            by: "x".into(),
            reason: "y".into(),
            until: until.map(str::to_owned),
        };
        let unlocked =
            UserUnlocked { user_id: "u1".into(), by: "service:identity".into(), reason: "password-reset".into() };
        let mut expected = completed("r1");
        given::<User>([registered(), link.clone(), locked(None).into()])
            .when(complete("one"), &edge())
            .then(expected.clone());
        expected.push(unlocked.into());
        given::<User>([registered(), link, locked(Some("2026-01-01T00:10:00Z")).into()])
            .when(complete("one"), &edge())
            .then(expected);
    }
}
