//! For how long an organization keeps what is said in its conversations (messaging.md §8.16).

use crate::domain_events;

domain_events! {
    /// What can have happened to an organization's policy.
    RetentionPolicyEvent: Messaging / "retention-policy" {
        /// What nobody adds to for so many days is erased from now on.
        RetentionPolicyChanged = "symbia.messaging.retention-policy.retention-policy-changed.v1" {
            org_id: String,
            /// 0: it is kept for ever.
            days: u32,
            by: String,
        }
        /// It is time to look for what has been kept for long enough.
        RetentionDue = "symbia.messaging.retention-policy.retention-due.v1" { org_id: String, days: u32 }
    }
}
