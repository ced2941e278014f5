//! Locked accounts: by failed attempts until a time, by an operator until they are unlocked (identity.md §16.2).

use serde::{Deserialize, Serialize};
use symbia_events::identity::{UserEvent, UserLocked, UserUnlocked};
use time::OffsetDateTime;

use super::{LockUser, UnlockUser, User, instant};
use crate::{Actor, Decision, Rejection};

/// A lock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Lock {
    pub until: Option<OffsetDateTime>,
}

fn operators_only(by: &Actor) -> Result<(), Rejection> {
    if by.is_platform() || by.super_admin {
        return Ok(());
    }
    Err(Rejection::new("SUPERADMIN_REQUIRED", "only a super admin locks and unlocks accounts"))
}

impl User {
    pub(super) fn lock(&self, c: LockUser, by: &Actor, at: OffsetDateTime) -> Result<Decision<UserEvent>, Rejection> {
        operators_only(by)?;
        self.registered()?;
        if by.id == c.user_id {
            return Err(Rejection::forbidden("nobody locks themselves out"));
        }
        let until = c.until.as_deref().map(|text| instant(text).ok_or_else(|| Rejection::invalid("until: RFC 3339")));
        let until = until.transpose()?;
        if until.is_some() && self.lock.as_ref().is_some_and(|lock| lock.until.is_none()) {
            // An operator's lock lasts longer.
            return Ok(Decision::nothing());
        }
        let locked = UserLocked { user_id: c.user_id.clone(), by: by.id.clone(), reason: c.reason, until: c.until };
        let decision = Decision::one(locked);
        // Failed attempts of a stranger do not end the sessions of the owner.
        if until.is_some() {
            return Ok(decision);
        }
        Ok(decision.and(Self::sessions_revoked(&c.user_id, by, at, "locked")))
    }

    pub(super) fn unlock(&self, c: UnlockUser, by: &Actor) -> Result<Decision<UserEvent>, Rejection> {
        operators_only(by)?;
        self.registered()?;
        if self.lock.is_none() {
            return Ok(Decision::nothing());
        }
        Ok(Decision::one(UserUnlocked { user_id: c.user_id, by: by.id.clone(), reason: c.reason }))
    }

    pub(super) fn apply_locked(&mut self, e: &UserLocked) {
        self.lock = Some(Lock { until: e.until.as_deref().and_then(instant) });
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{edge, person, registered};
    use super::*;
    use crate::testing::given;
    use symbia_events::identity::SessionsRevoked;

    fn locked(by: &str, until: Option<&str>) -> UserLocked {
        UserLocked { user_id: "u1".into(), by: by.into(), reason: "why".into(), until: until.map(str::to_owned) }
    }

    #[test]
    fn an_operators_lock_ends_the_sessions_and_outlasts_failed_attempts() {
        let operator = Actor { super_admin: true, ..person("root") };
        let lock = |until: Option<&str>| LockUser {
            user_id: "u1".into(),
            reason: "why".into(),
            until: until.map(str::to_owned),
        };
        let revoked = SessionsRevoked {
            principal_id: "u1".into(),
            before: super::super::text(crate::testing::AT),
            by: "root".into(),
            reason: "locked".into(),
        };
        given::<User>([registered()]).when(lock(None), &operator).then([locked("root", None).into(), revoked.into()]);
        given::<User>([registered()]).when(lock(None), &person("u2")).rejected("SUPERADMIN_REQUIRED");
        let until = Some("2026-01-01T00:15:00Z");
        given::<User>([registered()]).when(lock(until), &edge()).then([locked("service:identity", until).into()]);
        given::<User>([registered(), locked("root", None).into()]).when(lock(until), &edge()).then([]);
        let unlock = UnlockUser { user_id: "u1".into(), reason: "known".into() };
        let unlocked = UserUnlocked { user_id: "u1".into(), by: "root".into(), reason: "known".into() };
        given::<User>([registered(), locked("root", None).into()])
            .when(unlock.clone(), &operator)
            .then([unlocked.into()]);
        given::<User>([registered()]).when(unlock, &operator).then([]);
        let oneself = Actor { super_admin: true, ..person("u1") };
        given::<User>([registered()]).when(lock(None), &oneself).rejected("FORBIDDEN");
    }
}
