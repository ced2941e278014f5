//! Who may do what at the broker itself: a principal's token or API key, given as NATS password or token, opens the subjects of
//! its organizations and no others. The server asks here (auth callout), and ends the connection when the answer expires.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, Message, SubscribeError};
use futures::StreamExt;
use symbia_events::{Service, check_token};
use symbia_nats::{
    callout::{Asked, CalloutError, Grant, Issuer, SUBJECT},
    connections::Connections,
    topology::stored_subject,
};
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    api_keys::PREFIX,
    authenticator::Directory,
    broker_watch::{Credential, Door, Standing, watch},
    tokens::Tokens,
};
use crate::{
    feed::{Feed, PrivateConversations},
    http::{AuthError, Principal, principal::PrincipalKind},
};

/// A connection lasts no longer, should nobody end it when what it stands on is taken away.
const LIFETIME: Duration = Duration::from_secs(15 * 60);
/// Subscriptions of one connection.
const SUBSCRIPTIONS: u32 = 1000;
/// Bytes of a message: the largest command.
const PAYLOAD: u32 = 1 << 20;
/// Questions looked at at once; the others wait, for the server gives up after two seconds.
const AT_ONCE: usize = 32;
/// Processes that share the work.
const GROUP: &str = "identity";

/// Answers the broker until `stop`, and ends connections whose credentials are no longer good. `client` is the user that may,
/// and does nothing else.
///
/// # Errors
/// The broker does not take the subscription.
pub async fn answer_broker(
    directory: Directory,
    client: Client,
    issuer: Issuer,
    feed: Feed,
    stop: CancellationToken,
) -> Result<(), SubscribeError> {
    let door = watch(directory.clone(), Connections::new(client.clone()), feed, stop.clone());
    let mut questions = client.queue_subscribe(SUBJECT, GROUP.to_owned()).await?;
    let (issuer, places) = (Arc::new(issuer), Arc::new(Semaphore::new(AT_ONCE)));
    loop {
        let question = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            question = questions.next() => question,
        };
        let (Some(question), Ok(place)) = (question, Arc::clone(&places).acquire_owned().await) else { return Ok(()) };
        let (directory, client, issuer, door) = (directory.clone(), client.clone(), Arc::clone(&issuer), door.clone());
        tokio::spawn(async move {
            answer(&directory, &client, &issuer, &door, question).await;
            drop(place);
        });
    }
}

async fn answer(directory: &Directory, client: &Client, issuer: &Issuer, door: &Door, question: Message) {
    let Some(reply) = question.reply else { return };
    match decision(directory, issuer, door, &question.payload).await {
        Ok(answer) => {
            if let Err(error) = client.publish(reply, answer.into()).await {
                tracing::warn!(%error, "the broker is not told whether a client may in");
            }
        }
        Err(error) => tracing::warn!(%error, "a client of the broker is not let in"),
    }
}

async fn decision(
    directory: &Directory,
    issuer: &Issuer,
    door: &Door,
    question: &[u8],
) -> Result<String, CalloutError> {
    let (asked, now) = (Asked::read(question)?, OffsetDateTime::now_utc());
    let granted = async {
        let (principal, by, expires) = directory.at_broker(&asked.credential).await?;
        let until = expires.map_or(now + LIFETIME, |expires| expires.min(now + LIFETIME));
        let standing = Standing::new(&principal, by).ok_or(AuthError::Invalid)?;
        let standing = standing.signed_with(Tokens::key_of(&asked.credential));
        let Subjects { publish, subscribe } = subjects(&principal).ok_or(AuthError::Invalid)?;
        let (subscriptions, payload) = (SUBSCRIPTIONS, PAYLOAD);
        Ok((Grant { name: standing.name(), publish, subscribe, until, subscriptions, payload }, standing.who))
    };
    match granted.await {
        Ok((grant, principal)) => {
            tracing::debug!(principal, host = asked.host, "let in at the broker");
            let answer = issuer.admit(&asked, &grant, now)?;
            door.let_in(principal);
            Ok(answer)
        }
        Err::<_, AuthError>(error) => {
            tracing::debug!(%error, host = asked.host, "turned away at the broker");
            issuer.refuse(&asked, &error.to_string(), now)
        }
    }
}

impl Directory {
    // With the instant at which the credential itself expires.
    async fn at_broker(&self, credential: &str) -> Result<(Principal, Credential, Option<OffsetDateTime>), AuthError> {
        if credential.starts_with(PREFIX) {
            let (principal, key) = self.identify_key(credential).await?;
            return Ok((principal, Credential::Key(key.id), key.expires_at));
        }
        let (principal, claims) = self.identify(credential).await?;
        let expires = OffsetDateTime::from_unix_timestamp(claims.exp).map_err(|_| AuthError::Invalid)?;
        Ok((principal, Credential::of(claims), Some(expires)))
    }
}

/// What is open to a principal.
pub(super) struct Subjects {
    pub publish: Vec<String>,
    pub subscribe: Vec<String>,
}

// Commands and outcomes of the principal's organizations. A credential with its full rights also hears what a feed would
// give it, and has an inbox. `None`: no organization, so nothing to do here.
pub(super) fn subjects(principal: &Principal) -> Option<Subjects> {
    let orgs: Vec<&str> =
        principal.organizations.iter().map(|org| org.id.as_str()).filter(|id| check_token(id).is_ok()).collect();
    if orgs.is_empty() {
        return None;
    }
    let publish = orgs.iter().map(|org| format!("symbia.cmd.*.{org}.>")).collect();
    let mut subscribe: Vec<String> = orgs.iter().map(|org| format!("symbia.out.{org}.*")).collect();
    if !principal.is_restricted() {
        for org in orgs {
            subscribe.extend(events(principal, org).into_iter().flat_map(|events| [stored_subject(&events), events]));
            if PrivateConversations::is_observer(principal) {
                subscribe.push(format!("symbia.live.{org}.>"));
            }
        }
        if check_token(&principal.id).is_ok() {
            subscribe.push(format!("_INBOX.{}.{}.>", kind(principal.kind), principal.id));
        }
    }
    Some(Subjects { publish, subscribe })
}

// One subject, where all services are open.
fn events(principal: &Principal, org: &str) -> Vec<String> {
    let opens = |service: &Service| PrivateConversations::opens(principal, org, *service);
    let kinds = |service: &Service| PrivateConversations::kinds(principal, org, *service);
    if Service::ALL.iter().all(|service| opens(service) && kinds(service).is_none()) {
        return vec![format!("symbia.evt.*.{org}.>")];
    }
    let subjects = |service: &Service| match kinds(service) {
        None => vec![format!("symbia.evt.{service}.{org}.>")],
        Some(kinds) => kinds.iter().map(|kind| format!("symbia.evt.{service}.{org}.{kind}.*")).collect(),
    };
    Service::ALL.iter().filter(|service| opens(service)).flat_map(subjects).collect()
}

// A handle may look like the id of a user: their inboxes are apart.
fn kind(kind: PrincipalKind) -> &'static str {
    match kind {
        PrincipalKind::User => "user",
        PrincipalKind::Agent => "agent",
        PrincipalKind::Service => "service",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::principal::{AuthType, Membership};

    fn ada(role: &str) -> Principal {
        let of = |id: &str| Membership { id: id.into(), name: id.into(), slug: id.into(), role: role.into() };
        Principal {
            organizations: vec![of("o1"), of("o2")],
            ..Principal::new("ada", PrincipalKind::User, AuthType::Jwt)
        }
    }

    fn of(principal: &Principal) -> Subjects {
        subjects(principal).unwrap()
    }

    fn hears(principal: &Principal, subject: &str) -> bool {
        of(principal).subscribe.iter().any(|allowed| allowed == subject)
    }

    #[test]
    fn a_principal_reaches_its_organizations_and_nothing_else() {
        let grant = of(&ada("member"));
        assert_eq!(grant.publish, ["symbia.cmd.*.o1.>", "symbia.cmd.*.o2.>"]);
        let within = |s: &String| s.contains(".o1.") || s.contains(".o2.") || s == "_INBOX.user.ada.>";
        assert!(grant.subscribe.iter().all(within), "{:?}", grant.subscribe);
        let nobody = Principal::new("eve", PrincipalKind::User, AuthType::Jwt);
        assert!(super::subjects(&nobody).is_none());
        let odd = Membership { id: "o1.>".into(), name: String::new(), slug: String::new(), role: "admin".into() };
        assert!(super::subjects(&Principal { organizations: vec![odd], ..nobody }).is_none());
    }

    #[test]
    fn other_peoples_conversations_are_not_heard() {
        let (member, admin) = (ada("member"), ada("admin"));
        assert!(hears(&member, "symbia.evt.identity.o1.>") && !hears(&member, "symbia.evt.messaging.o1.>"));
        assert!(hears(&admin, "symbia.evt.*.o1.>") && !hears(&admin, "symbia.live.o1.>"));
        let observer = Principal { entitlements: vec!["cap:messaging.observe".into()], ..member };
        assert!(hears(&observer, "symbia.live.o1.>"));
        assert!(hears(&admin, "symbia.stored.*.o1.>") && !hears(&ada("member"), "symbia.stored.messaging.o1.>"));
    }

    #[test]
    fn the_policies_of_a_mesh_and_what_goes_over_it_are_not_heard() {
        let member = ada("member");
        assert!(hears(&member, "symbia.evt.network.o1.node.*") && !hears(&member, "symbia.evt.network.o1.>"));
        assert!(!hears(&member, "symbia.evt.network.o1.policy.*"));
        let reader = Principal { entitlements: vec!["cap:network.policies.read".into()], ..ada("member") };
        assert!(hears(&reader, "symbia.evt.network.o1.policy.*"));
        assert!(!hears(&reader, "symbia.evt.network.o1.routed-event.*"));
        let live = |principal: &Principal| of(principal).subscribe.iter().any(|s| s.starts_with("symbia.mesh."));
        assert!(!live(&ada("admin")));
    }

    #[test]
    fn a_credential_with_scopes_sends_commands_and_hears_their_outcomes() {
        let scoped = Principal { scopes: vec!["cap:identity.read".into()], ..ada("admin") };
        assert_eq!(of(&scoped).subscribe, ["symbia.out.o1.*", "symbia.out.o2.*"]);
    }
}
