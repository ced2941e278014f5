//! The channel-link aggregate: a chat elsewhere has one conversation at most (messaging.md §13.1).
//!
//! Its id is a keyed hash of the chat, which whoever holds the keys makes: the services of the platform.

use serde::{Deserialize, Serialize};
use symbia_events::{
    Personal,
    messaging::{ChannelLinkEvent, ChannelLinked, ChannelUnlinked, content_key_id},
};
use time::OffsetDateTime;

use super::conversation::sealed_with;
use crate::{Actor, Aggregate, Decision, Rejection, Role, domain_commands};

/// Longest name of a kind of channel, connection or chat.
const MAX_LABEL: usize = 255;

domain_commands! {
    /// What the link of an external chat can be asked to do.
    ChannelLinkCommand: Messaging / "channel-link" {
        /// Ties the chat to a conversation.
        LinkChannel = "symbia.cmd.messaging.link-channel.v1" {
            link_id: String,
            org_id: String,
            /// `telegram` and the like.
            channel_type: String,
            /// The connection to it.
            connection_id: String,
            /// Sealed under the conversation's key.
            chat_id: Personal,
            conversation_id: String,
        }
        /// Unties it.
        UnlinkChannel = "symbia.cmd.messaging.unlink-channel.v1" {
            link_id: String,
            /// What it is tied to: nothing happens to another link.
            conversation_id: String,
        }
    }
}

/// The link of an external chat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelLink {
    org_id: String,
    conversation_id: Option<String>,
}

impl ChannelLink {
    fn link(&self, c: LinkChannel, by: &Actor) -> Result<Decision<ChannelLinkEvent>, Rejection> {
        administers(by, &c.org_id)?;
        match &self.conversation_id {
            Some(conversation) if *conversation == c.conversation_id => return Ok(Decision::nothing()),
            Some(_) => {
                let text = "the chat has a conversation already: unlink it from that one first";
                return Err(Rejection::new("CHANNEL_LINKED", text));
            }
            None => {}
        }
        let labels = [&c.channel_type, &c.connection_id, &c.conversation_id];
        let chat = c.chat_id.text_len();
        if labels.into_iter().any(|l| l.is_empty() || l.len() > MAX_LABEL) || chat == 0 || chat > MAX_LABEL {
            return Err(Rejection::invalid("channelType, connectionId, chatId and conversationId: 1 to 255 bytes"));
        }
        sealed_with(&content_key_id(&c.org_id, &c.conversation_id), [Some(&c.chat_id)])?;
        Ok(Decision::one(ChannelLinked {
            link_id: c.link_id,
            org_id: c.org_id,
            channel_type: c.channel_type,
            connection_id: c.connection_id,
            chat_id: c.chat_id,
            conversation_id: c.conversation_id,
            linked_by: by.subject().to_owned(),
        }))
    }

    fn unlink(&self, c: UnlinkChannel, by: &Actor) -> Result<Decision<ChannelLinkEvent>, Rejection> {
        administers(by, &self.org_id)?;
        if self.conversation_id.as_ref() != Some(&c.conversation_id) {
            return Err(Rejection::not_found("channel link"));
        }
        let (link_id, conversation_id, unlinked_by) = (c.link_id, c.conversation_id, by.subject().to_owned());
        Ok(Decision::one(ChannelUnlinked { link_id, conversation_id, unlinked_by }))
    }
}

// Whoever ties a chat to a conversation reads what is said there.
fn administers(by: &Actor, org: &str) -> Result<(), Rejection> {
    let admin = by.orgs.iter().any(|m| m.id.as_str() == org && m.role == Role::Admin);
    if admin || by.super_admin || by.is_platform() {
        return Ok(());
    }
    Err(Rejection::forbidden("chats are linked by the platform and by admins of the organization"))
}

impl Aggregate for ChannelLink {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("linkId");
    type Command = ChannelLinkCommand;
    type Event = ChannelLinkEvent;

    fn apply(&mut self, event: &ChannelLinkEvent) {
        match event {
            ChannelLinkEvent::ChannelLinked(e) => {
                self.org_id.clone_from(&e.org_id);
                self.conversation_id = Some(e.conversation_id.clone());
            }
            ChannelLinkEvent::ChannelUnlinked(_) => self.conversation_id = None,
        }
    }

    fn decide(
        &self,
        command: ChannelLinkCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<ChannelLinkEvent>, Rejection> {
        match command {
            ChannelLinkCommand::LinkChannel(c) => self.link(c, by),
            ChannelLinkCommand::UnlinkChannel(c) => self.unlink(c, by),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::testing::people;
    use super::*;
    use crate::{Membership, testing::given};
    use symbia_events::SubjectKey;

    fn link(conversation: &str) -> LinkChannel {
        let key = SubjectKey::from_bytes(content_key_id("org", conversation), [1; 32]);
        LinkChannel {
            link_id: "l1".into(),
            org_id: "org".into(),
            channel_type: "telegram".into(),
            connection_id: "k1".into(),
            chat_id: key.seal("42"),
            conversation_id: conversation.into(),
        }
    }

    fn linked(c: &LinkChannel, by: &str) -> ChannelLinked {
        ChannelLinked {
            link_id: c.link_id.clone(),
            org_id: c.org_id.clone(),
            channel_type: c.channel_type.clone(),
            connection_id: c.connection_id.clone(),
            chat_id: c.chat_id.clone(),
            conversation_id: c.conversation_id.clone(),
            linked_by: by.into(),
        }
    }

    fn admin(org: &str) -> Actor {
        let orgs = vec![Membership { id: org.parse().unwrap(), role: Role::Admin }];
        Actor { orgs, ..people("ada", org) }
    }

    #[test]
    fn a_chat_has_one_conversation_at_a_time() {
        let (first, unlink) = (link("c1"), UnlinkChannel { link_id: "l1".into(), conversation_id: "c1".into() });
        let events = || [linked(&first, "ada").into()];
        given::<ChannelLink>([]).when(first.clone(), &admin("org")).then(events());
        given::<ChannelLink>(events()).when(link("c1"), &admin("org")).then([]);
        given::<ChannelLink>(events()).when(link("c2"), &admin("org")).rejected("CHANNEL_LINKED");
        let by = Actor::service("integrations");
        let unlinked =
            ChannelUnlinked { link_id: "l1".into(), conversation_id: "c1".into(), unlinked_by: by.id.clone() };
        given::<ChannelLink>(events()).when(unlink.clone(), &by).then([unlinked.clone().into()]);
        let second = link("c2");
        let free = || events().into_iter().chain([unlinked.clone().into()]);
        given::<ChannelLink>(free()).when(unlink, &by).rejected("NOT_FOUND");
        given::<ChannelLink>(free()).when(second.clone(), &by).then([linked(&second, &by.id).into()]);
    }

    #[test]
    fn nobody_else_links_a_chat_nor_under_another_conversations_key() {
        given::<ChannelLink>([]).when(link("c1"), &people("ada", "org")).rejected("FORBIDDEN");
        given::<ChannelLink>([]).when(link("c1"), &admin("other")).rejected("FORBIDDEN");
        let foreign = LinkChannel { chat_id: link("c2").chat_id, ..link("c1") };
        given::<ChannelLink>([]).when(foreign, &admin("org")).rejected("WRONG_KEY");
        let nameless = LinkChannel { channel_type: String::new(), ..link("c1") };
        given::<ChannelLink>([]).when(nameless, &admin("org")).rejected("VALIDATION_FAILED");
    }
}
