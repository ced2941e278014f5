//! The event envelope: CloudEvents 1.0 with the platform's attributes (platform.md §26.3), written in canonical form.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};

use crate::{AggregateRef, CommandId, DecodeError, DomainEvent, KeyRing, OrgId, Service, SignatureError, canonical};

/// `prevhash` of an aggregate's first event.
pub const GENESIS: &str = "genesis";
/// Largest `data` of an event, in bytes (platform.md §26.3). Larger payloads go to object storage by digest.
pub const MAX_DATA: usize = 256 * 1024;

/// What an envelope needs beside its data, so that it is written without growing the buffer.
const ENVELOPE_BYTES: usize = 1536;

/// What kind of principal acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ActorType {
    /// A person.
    User,
    /// Software acting on its own account.
    Agent,
    /// A service of the platform.
    Service,
    /// The platform itself (timers, first run).
    System,
    /// Nobody known.
    Anonymous,
}

/// How the actor proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuthMethod {
    /// A signed token.
    Jwt,
    /// An API key.
    ApiKey,
    /// A session cookie.
    Session,
    /// A service token.
    Service,
}

/// Who, why and in which trace: the attributes that all events of one commit share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Acting principal.
    pub actor_id: String,
    /// Its kind.
    pub actor_type: ActorType,
    /// Set on impersonation: the principal acted for.
    pub on_behalf_of: Option<String>,
    /// How it authenticated.
    pub auth_method: AuthMethod,
    /// The command decided.
    pub command_id: CommandId,
    /// Groups everything that one request set off.
    pub correlation_id: String,
    /// Id of the event or command that this one follows from.
    pub causation_id: String,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// Data classification: none, pii, phi or secret.
    pub data_class: Option<String>,
    /// Environment label.
    pub env: Option<String>,
    /// Policy pointer for audit.
    pub policy_ref: Option<String>,
    /// When it was decided: the command's time.
    pub at: OffsetDateTime,
}

/// One signed event. Fields are declared in the order of their names: serialized as they stand they are canonical JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the attributes are described in platform.md §26.3 and docs/EVENTS.md")]
pub struct Event {
    pub actorid: String,
    pub actortype: ActorType,
    pub aggregateid: String,
    pub aggregatetype: String,
    pub aggregateversion: u32,
    pub authmethod: AuthMethod,
    pub causationid: String,
    pub commandid: CommandId,
    pub correlationid: String,
    pub data: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataclass: Option<String>,
    pub datacontenttype: String,
    pub dataschema: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hmac: String,
    pub hmackid: String,
    pub id: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onbehalfof: Option<String>,
    pub orgid: OrgId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policyref: Option<String>,
    pub prevhash: String,
    pub source: String,
    pub specversion: String,
    pub subject: String,
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    #[serde(rename = "type")]
    pub event_type: String,
}

impl Event {
    /// The aggregate the event belongs to; fails when source, kind or id are no valid address.
    pub fn aggregate(&self) -> Result<AggregateRef, DecodeError> {
        let service = self.service().ok_or_else(|| DecodeError::Envelope(format!("source '{}'", self.source)))?;
        AggregateRef::new(service, self.orgid.clone(), &self.aggregatetype, &self.aggregateid)
            .map_err(|e| DecodeError::Envelope(e.to_string()))
    }

    /// The service that wrote it, from `source`.
    #[must_use]
    pub fn service(&self) -> Option<Service> {
        self.source.strip_prefix("symbia/")?.parse().ok()
    }

    /// Reads `data` as an event of type `E`.
    pub fn decode<E: DomainEvent>(&self) -> Result<E, DecodeError> {
        E::from_data(&self.event_type, self.data.get())
    }
}

/// SHA-256 of an event's canonical bytes, base64url: the next event's `prevhash`, and the leaf of a seal.
#[must_use]
pub fn hash(bytes: &[u8]) -> String {
    BASE64URL.encode(Sha256::digest(bytes))
}

/// An event ready to be stored: signed, and the exact bytes that were signed and hashed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The event.
    pub event: Arc<Event>,
    /// Canonical JSON of the event, with `hmac`.
    pub bytes: Bytes,
    /// [`hash`] of `bytes`.
    pub hash: String,
}

/// Signs the events of one commit and chains them behind the aggregate's last event.
pub fn sign_commit<E: DomainEvent>(
    keys: &KeyRing,
    aggregate: &AggregateRef,
    context: &Context,
    version: u32,
    prevhash: &str,
    events: &[E],
) -> Result<Vec<Signed>, EncodeError> {
    let events = events.iter().map(|e| Ok((e.event_type().to_owned(), e.to_data()?)));
    sign_data(keys, aggregate, context, version, prevhash, events.collect::<Result<_, EncodeError>>()?)
}

/// [`sign_commit`] of events given as type and canonical data.
pub fn sign_data(
    keys: &KeyRing,
    aggregate: &AggregateRef,
    context: &Context,
    version: u32,
    prevhash: &str,
    events: Vec<(String, Box<RawValue>)>,
) -> Result<Vec<Signed>, EncodeError> {
    let mut prevhash = prevhash.to_owned();
    let mut signed = Vec::with_capacity(events.len());
    for (index, (event_type, data)) in events.into_iter().enumerate() {
        if data.get().len() > MAX_DATA {
            return Err(EncodeError::TooLarge(data.get().len()));
        }
        let next = version + u32::try_from(index).map_err(|_| EncodeError::TooMany)? + 1;
        let event = Event {
            actorid: context.actor_id.clone(),
            actortype: context.actor_type,
            aggregateid: aggregate.id.clone(),
            aggregatetype: aggregate.kind.clone(),
            aggregateversion: next,
            authmethod: context.auth_method,
            causationid: context.causation_id.clone(),
            commandid: context.command_id,
            correlationid: context.correlation_id.clone(),
            data,
            dataclass: context.data_class.clone(),
            datacontenttype: "application/json".to_owned(),
            dataschema: format!("urn:{}", event_type.replace('.', ":")),
            env: context.env.clone(),
            hmac: String::new(),
            hmackid: keys.active_id(aggregate.service.name()),
            id: context.command_id.event_id(context.at, aggregate, index),
            onbehalfof: context.on_behalf_of.clone(),
            orgid: aggregate.tenant.clone(),
            policyref: context.policy_ref.clone(),
            prevhash: std::mem::take(&mut prevhash),
            source: format!("symbia/{}", aggregate.service),
            specversion: "1.0".to_owned(),
            subject: aggregate.path(),
            time: context.at,
            traceparent: context.traceparent.clone(),
            event_type,
        };
        let one = sign(keys, aggregate.service, event)?;
        prevhash.clone_from(&one.hash);
        signed.push(one);
    }
    Ok(signed)
}

fn sign(keys: &KeyRing, service: Service, mut event: Event) -> Result<Signed, EncodeError> {
    let mut bytes = Vec::with_capacity(event.data.get().len() + ENVELOPE_BYTES);
    serde_json::to_writer(&mut bytes, &event)?;
    (_, event.hmac) = keys.sign(service.name(), &bytes);
    let at = find_last(&bytes, b",\"hmackid\":").ok_or(EncodeError::TooMany)?;
    bytes.splice(at..at, hmac_member(&event.hmac).into_bytes());
    let hash = hash(&bytes);
    Ok(Signed { event: Arc::new(event), bytes: bytes.into(), hash })
}

fn hmac_member(hmac: &str) -> String {
    format!(",\"hmac\":\"{hmac}\"")
}

/// Parses one event and verifies its signature before anything looks at `data`.
///
/// The quick way takes the bytes as they stand with the `hmac` member cut out; when that fails the event is brought into
/// canonical form and checked again, so that a re-formatted but unchanged event still verifies.
pub fn verify(keys: &KeyRing, bytes: &[u8]) -> Result<Signed, DecodeError> {
    verify_own(keys, Bytes::copy_from_slice(bytes))
}

/// The same of bytes that are not held for others, too.
pub(crate) fn verify_own(keys: &KeyRing, bytes: Bytes) -> Result<Signed, DecodeError> {
    let event: Event = serde_json::from_slice(&bytes).map_err(|e| DecodeError::Envelope(e.to_string()))?;
    let role = event.hmackid.split_once('.').map(|(_, role)| role);
    if event.service().map(Service::name) != role {
        return Err(DecodeError::ForeignKey { origin: event.source, kid: event.hmackid });
    }
    let parts = cut_hmac(&bytes, &event.hmac);
    if parts.is_some_and(|parts| keys.verify_parts(&event.hmackid, &parts, &event.hmac).is_ok()) {
        return Ok(Signed { event: Arc::new(event), hash: hash(&bytes), bytes });
    }
    let mut value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|e| DecodeError::Envelope(e.to_string()))?;
    let bytes = canonical::to_vec(&value)?;
    if let Some(object) = value.as_object_mut() {
        object.remove("hmac");
    }
    keys.verify(&event.hmackid, &canonical::to_vec(&value)?, &event.hmac)?;
    // What was verified is what is read: members that stood twice stand once now.
    let event: Event = serde_json::from_slice(&bytes).map_err(|e| DecodeError::Envelope(e.to_string()))?;
    let hash = hash(&bytes);
    Ok(Signed { event: Arc::new(event), bytes: bytes.into(), hash })
}

// What was signed: the bytes before the `hmac` member and those behind it.
fn cut_hmac<'a>(bytes: &'a [u8], hmac: &str) -> Option<[&'a [u8]; 2]> {
    let member = hmac_member(hmac);
    let at = find_last(bytes, member.as_bytes())?;
    let rest = &bytes[at + member.len()..];
    // Anywhere else than in its canonical place the bytes are not those that were hashed.
    rest.starts_with(b",\"hmackid\":").then_some([&bytes[..at], rest])
}

// From the end: `data` stands before these members and may contain the same text, what follows them are plain strings,
// in which a quote is escaped.
fn find_last(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    let first = *pattern.first()?;
    memchr::memrchr_iter(first, bytes).find(|at| bytes[*at..].starts_with(pattern))
}

/// Why an event cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The payload is no JSON.
    #[error("the event cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The payload is above [`MAX_DATA`].
    #[error(
        "the event's data has {0} bytes, above the limit of 262144; store the content as an object and refer to it"
    )]
    TooLarge(usize),
    /// The aggregate's version would pass 2³²−1.
    #[error("the aggregate has too many events")]
    TooMany,
}

impl From<SignatureError> for DecodeError {
    fn from(error: SignatureError) -> Self {
        DecodeError::Signature(error)
    }
}
