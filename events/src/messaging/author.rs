//! What somebody said in all conversations of an organization, as far as it concerns them alone: events of its end
//! (messaging.md §14.3).

use uuid::Uuid;

use crate::domain_events;

/// Id of the author that a principal is.
#[must_use]
pub fn author_id(principal_id: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("author\0{principal_id}").as_bytes()).to_string()
}

domain_events! {
    /// What can have happened to what an author said.
    AuthorEvent: Messaging / "author" {
        /// What they have said so far can be read no more: their keys in the organization's conversations are destroyed.
        AuthorErased = "symbia.messaging.author.author-erased.v1" {
            principal_id: String,
            org_id: String,
            erased_by: String,
            /// The how many-th time; what is said from now on is sealed under keys of this number.
            generation: u32,
        }
    }
}
