//! The second factor: enrolled, confirmed with its first code, each code once, recovery codes in its stead (RFC 6238).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use symbia_events::identity::{MfaConfirmed, MfaEnrolled, MfaRemoved, MfaUsed, RecoveryCodeUsed, UserEvent};

use super::{ConfirmMfa, EnrolMfa, RemoveMfa, UseMfaCode, UseRecoveryCode, User, platform_only};
use crate::{Actor, Decision, Rejection};

/// The one method there is.
pub const TOTP: &str = "totp";

/// A second factor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Factor {
    secret_ref: String,
    confirmed: bool,
    last_step: Option<u64>,
    recovery: BTreeSet<String>,
}

impl User {
    fn factor(&self, by: &Actor, confirmed: bool) -> Result<&Factor, Rejection> {
        self.registered()?;
        platform_only(by)?;
        let factor = self.factor.as_ref().filter(|factor| factor.confirmed == confirmed);
        factor.ok_or_else(|| match confirmed {
            true => Rejection::new("MFA_NOT_ENABLED", "the account has no second factor"),
            false => Rejection::new("MFA_NOT_ENROLLED", "no second factor waits for its first code: enrol one first"),
        })
    }

    pub(super) fn enrol_factor(&self, c: EnrolMfa, by: &Actor) -> Result<Decision<UserEvent>, Rejection> {
        self.registered()?;
        platform_only(by)?;
        if c.method != TOTP {
            return Err(Rejection::invalid("method: totp"));
        }
        if self.factor.as_ref().is_some_and(|factor| factor.confirmed) {
            return Err(Rejection::new("MFA_ENABLED", "the account has a second factor: remove it first"));
        }
        Ok(Decision::one(MfaEnrolled { user_id: c.user_id, method: c.method, secret_ref: c.secret_ref }))
    }

    pub(super) fn confirm_factor(&self, c: ConfirmMfa, by: &Actor) -> Result<Decision<UserEvent>, Rejection> {
        let factor = self.factor(by, false)?;
        if factor.secret_ref != c.secret_ref {
            return Err(Rejection::new("MFA_NOT_ENROLLED", "another enrolment has taken the place of this one"));
        }
        Ok(Decision::one(MfaConfirmed {
            user_id: c.user_id.clone(),
            method: TOTP.to_owned(),
            secret_ref: c.secret_ref,
            recovery_hashes: c.recovery_hashes,
        })
        .and(MfaUsed { user_id: c.user_id, step: c.step }))
    }

    pub(super) fn use_code(&self, c: UseMfaCode, by: &Actor) -> Result<Decision<UserEvent>, Rejection> {
        let factor = self.factor(by, true)?;
        if factor.last_step.is_some_and(|last| c.step <= last) {
            return Err(Rejection::new("MFA_CODE_INVALID", "this code was used: wait for the next one"));
        }
        Ok(Decision::one(MfaUsed { user_id: c.user_id, step: c.step }))
    }

    pub(super) fn use_recovery_code(&self, c: UseRecoveryCode, by: &Actor) -> Result<Decision<UserEvent>, Rejection> {
        if !self.factor(by, true)?.recovery.contains(&c.code_hash) {
            return Err(Rejection::new("MFA_CODE_INVALID", "this is none of the account's unused recovery codes"));
        }
        Ok(Decision::one(RecoveryCodeUsed { user_id: c.user_id, code_hash: c.code_hash }))
    }

    pub(super) fn remove_factor(&self, c: RemoveMfa, by: &Actor) -> Result<Decision<UserEvent>, Rejection> {
        self.registered()?;
        platform_only(by)?;
        let Some(factor) = &self.factor else { return Ok(Decision::nothing()) };
        let (method, secret_ref) = (TOTP.to_owned(), factor.secret_ref.clone());
        Ok(Decision::one(MfaRemoved { user_id: c.user_id, method, secret_ref }))
    }

    pub(super) fn apply_enrolled(&mut self, e: &MfaEnrolled) {
        self.factor = Some(Factor { secret_ref: e.secret_ref.clone(), ..Factor::default() });
    }

    pub(super) fn apply_confirmed(&mut self, e: &MfaConfirmed) {
        let recovery = e.recovery_hashes.iter().cloned().collect();
        self.factor = Some(Factor { secret_ref: e.secret_ref.clone(), confirmed: true, last_step: None, recovery });
    }

    pub(super) fn apply_used(&mut self, e: &MfaUsed) {
        if let Some(factor) = &mut self.factor {
            factor.last_step = Some(e.step);
        }
    }

    pub(super) fn apply_recovery(&mut self, e: &RecoveryCodeUsed) {
        if let Some(factor) = &mut self.factor {
            factor.recovery.remove(&e.code_hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{edge, person, registered};
    use super::*;
    use crate::testing::given;

    fn enabled() -> Vec<UserEvent> {
        vec![
            registered(),
            MfaEnrolled { user_id: "u1".into(), method: TOTP.into(), secret_ref: "s".into() }.into(),
            MfaConfirmed {
                user_id: "u1".into(),
                method: TOTP.into(),
                secret_ref: "s".into(),
                recovery_hashes: vec!["r1".into()],
            }
            .into(),
            MfaUsed { user_id: "u1".into(), step: 7 }.into(),
        ]
    }

    #[test]
    fn a_code_counts_once_and_so_does_each_recovery_code() {
        let code = |step| UseMfaCode { user_id: "u1".into(), step };
        let used = MfaUsed { user_id: "u1".into(), step: 8 };
        given::<User>(enabled()).when(code(8), &edge()).then([used.into()]);
        given::<User>(enabled()).when(code(7), &edge()).rejected("MFA_CODE_INVALID");
        given::<User>(enabled()).when(code(6), &edge()).rejected("MFA_CODE_INVALID");
        given::<User>(enabled()).when(code(8), &person("u1")).rejected("FORBIDDEN");
        given::<User>([registered()]).when(code(8), &edge()).rejected("MFA_NOT_ENABLED");
        let recovery = UseRecoveryCode { user_id: "u1".into(), code_hash: "r1".into() };
        let spent = RecoveryCodeUsed { user_id: "u1".into(), code_hash: "r1".into() };
        given::<User>(enabled()).when(recovery.clone(), &edge()).then([spent.clone().into()]);
        given::<User>(enabled().into_iter().chain([spent.into()])).when(recovery, &edge()).rejected("MFA_CODE_INVALID");
    }

    #[test]
    fn a_factor_counts_from_its_first_code_and_is_not_replaced_unseen() {
        let enrol = EnrolMfa { user_id: "u1".into(), method: TOTP.into(), secret_ref: "s2".into() };
        let confirm = |secret: &str| ConfirmMfa {
            user_id: "u1".into(),
            secret_ref: secret.into(),
            step: 7,
            recovery_hashes: vec!["r1".into()],
        };
        given::<User>(enabled()).when(enrol.clone(), &edge()).rejected("MFA_ENABLED");
        given::<User>(enabled()[..2].to_vec()).when(confirm("s"), &edge()).then(enabled()[2..].to_vec());
        given::<User>(enabled()[..2].to_vec()).when(confirm("other"), &edge()).rejected("MFA_NOT_ENROLLED");
        let enrolled = MfaEnrolled { user_id: "u1".into(), method: TOTP.into(), secret_ref: "s2".into() };
        given::<User>(enabled()[..2].to_vec()).when(enrol, &edge()).then([enrolled.into()]);
        let removed = MfaRemoved { user_id: "u1".into(), method: TOTP.into(), secret_ref: "s".into() };
        given::<User>(enabled()).when(RemoveMfa { user_id: "u1".into() }, &edge()).then([removed.into()]);
        given::<User>(enabled()).when(RemoveMfa { user_id: "u1".into() }, &person("u1")).rejected("FORBIDDEN");
    }
}
