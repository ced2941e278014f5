//! In whose name a request to a model is made, and what they may say of it.

use symbia_events::{Personal, integrations::CompletionContext};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::tags::check_tags;
use crate::{Actor, Rejection};

/// Puts into the context of a request who asks, unless the platform says it; refuses what somebody else sealed.
pub(super) fn in_own_name(
    context: &mut CompletionContext,
    by: &Actor,
    (field, sealed): (&str, &Personal),
) -> Result<(), Rejection> {
    // What somebody else sealed would be opened, and given to a provider.
    if !by.is_platform() && sealed.kid != by.subject() {
        let text = format!("{field}: seal it with the key '{}'", by.subject());
        return Err(Rejection::new("WRONG_KEY", text));
    }
    names_asker(context, by)
}

/// The same of a request of which nothing is sealed.
pub(super) fn names_asker(context: &mut CompletionContext, by: &Actor) -> Result<(), Rejection> {
    if !by.is_platform() {
        if (CompletionContext { tags: Vec::new(), ..context.clone() }) != CompletionContext::default() {
            return Err(Rejection::forbidden("only the platform asks on behalf of a conversation or a run"));
        }
        context.user_id.clone_from(&by.on_behalf_of);
        context.key_id.clone_from(&by.key);
    }
    check_tags(&context.tags)
}

/// Whether a time by which a request is to have its end is one.
pub(super) fn is_deadline(deadline: Option<&String>) -> bool {
    deadline.is_none_or(|d| OffsetDateTime::parse(d, &Rfc3339).is_ok())
}
