//! Every event type there is, for documents and tests. A new kind of aggregate is added here.

use crate::{DomainEvent, MessageType, identity, logging};

/// The types of all services, in the order of services and aggregates.
#[must_use]
pub fn catalog() -> Vec<MessageType> {
    [
        identity::UserEvent::types(),
        identity::OrganizationEvent::types(),
        identity::SessionEvent::types(),
        logging::SealEvent::types(),
    ]
    .concat()
}
