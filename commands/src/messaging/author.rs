//! The author aggregate: what a principal said in an organization's conversations is erased as one (messaging.md §14.3).

use serde::{Deserialize, Serialize};
use symbia_events::{
    AggregateRef,
    messaging::{AuthorErased, AuthorEvent, author_id},
};
use time::OffsetDateTime;

use crate::{Actor, Aggregate, Decision, Rejection, Role, domain_commands};

domain_commands! {
    /// What an author can be asked to do.
    AuthorCommand: Messaging / "author" {
        /// Makes what they have said so far unreadable for ever: their keys are destroyed. Other people's words stay.
        EraseAuthor = "symbia.cmd.messaging.erase-author.v1" {
            /// Whose words.
            principal_id: String,
            org_id: String,
        }
    }
}

/// An author: how often what they said was erased.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    erasures: u32,
}

impl Aggregate for Author {
    const STATE_VERSION: u32 = 1;
    type Command = AuthorCommand;
    type Event = AuthorEvent;

    fn belongs(command: &AuthorCommand, to: &AggregateRef) -> Result<(), Rejection> {
        let AuthorCommand::EraseAuthor(c) = command;
        if author_id(&c.principal_id) != to.id {
            return Err(Rejection::misaddressed(to));
        }
        Ok(())
    }

    fn apply(&mut self, event: &AuthorEvent) {
        let AuthorEvent::AuthorErased(e) = event;
        self.erasures = e.generation;
    }

    fn decide(
        &self,
        command: AuthorCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<AuthorEvent>, Rejection> {
        let AuthorCommand::EraseAuthor(c) = command;
        let admin = by.orgs.iter().any(|m| m.id.as_str() == c.org_id && m.role == Role::Admin);
        if by.subject() != c.principal_id && !admin && !by.super_admin && !by.is_platform() {
            let text = "one erases what one said oneself; admins of the organization erase what others said";
            return Err(Rejection::forbidden(text));
        }
        let (principal_id, org_id, erased_by) = (c.principal_id, c.org_id, by.subject().to_owned());
        Ok(Decision::one(AuthorErased { principal_id, org_id, erased_by, generation: self.erasures + 1 }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::testing::people;
    use super::*;
    use crate::{Membership, testing::given};
    use symbia_events::Service;

    fn erase() -> EraseAuthor {
        EraseAuthor { principal_id: "ada".into(), org_id: "org".into() }
    }

    fn erased(by: &str, generation: u32) -> AuthorEvent {
        AuthorErased { principal_id: "ada".into(), org_id: "org".into(), erased_by: by.into(), generation }.into()
    }

    #[test]
    fn one_erases_what_one_said_and_admins_of_the_organization_what_others_said() {
        let admin = |org: &str| {
            let orgs = vec![Membership { id: org.parse().unwrap(), role: Role::Admin }];
            Actor { orgs, ..people("root", org) }
        };
        given::<Author>([]).when(erase(), &people("ada", "org")).then([erased("ada", 1)]);
        given::<Author>([erased("ada", 1)]).when(erase(), &admin("org")).then([erased("root", 2)]);
        given::<Author>([]).when(erase(), &people("bob", "org")).rejected("FORBIDDEN");
        given::<Author>([]).when(erase(), &admin("other")).rejected("FORBIDDEN");
        let at = |id: String| AggregateRef::new(Service::Messaging, "org".parse().unwrap(), "author", id).unwrap();
        assert!(Author::belongs(&erase().into(), &at(author_id("ada"))).is_ok());
        assert!(Author::belongs(&erase().into(), &at(author_id("bob"))).is_err());
    }
}
