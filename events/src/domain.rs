//! What an event type is: a payload struct, its CloudEvents `type`, and its schema. [`domain_events!`] declares them.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{EncodeError, Service, SignatureError};

/// The events of one kind of aggregate. Implemented by [`domain_events!`](crate::domain_events).
pub trait DomainEvent: Clone + std::fmt::Debug + Send + Sync + Sized + 'static {
    /// The service that owns the aggregate.
    const SERVICE: Service;
    /// Kind of aggregate, the token in subjects.
    const AGGREGATE: &'static str;

    /// CloudEvents `type`: `symbia.<service>.<aggregate>.<event-in-kebab>.v<n>`.
    fn event_type(&self) -> &'static str;
    /// Canonical JSON of the payload.
    fn to_data(&self) -> Result<Box<RawValue>, EncodeError>;
    /// Reads the payload of an event of the given `type`, upcasting older versions.
    fn from_data(event_type: &str, data: &str) -> Result<Self, DecodeError>;
    /// Types and schemas, for the documents.
    fn types() -> Vec<MessageType>;
}

/// One event or command type with the JSON schema of its data.
#[derive(Clone, Debug, Serialize)]
pub struct MessageType {
    /// CloudEvents `type`.
    pub name: &'static str,
    /// JSON schema (2020-12) of `data`.
    pub schema: schemars::Schema,
    /// Owning service.
    pub service: Service,
    /// Kind of aggregate.
    pub aggregate: &'static str,
}

/// Why an event cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are no event envelope of ours.
    #[error("no event envelope: {0}")]
    Envelope(String),
    /// The key belongs to another role than the source the event names.
    #[error("source '{origin}' must not be signed with key '{kid}'")]
    ForeignKey {
        /// The CloudEvents source.
        origin: String,
        /// The key id.
        kid: String,
    },
    /// The signature does not verify.
    #[error(transparent)]
    Signature(SignatureError),
    /// The type is none that this build knows.
    #[error("unknown event type '{0}': it was written by a newer version; upgrade this one")]
    UnknownType(String),
    /// The payload does not have the shape of its type.
    #[error("the data of a '{event_type}' is malformed: {reason}")]
    Data {
        /// The type.
        event_type: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A value that is no JSON.
    #[error("malformed JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Reads a payload; the error names the type.
pub fn read_data<T: DeserializeOwned>(event_type: &str, data: &str) -> Result<T, DecodeError> {
    serde_json::from_str(data)
        .map_err(|e| DecodeError::Data { event_type: event_type.to_owned(), reason: e.to_string() })
}

/// Declares the events of one kind of aggregate: a payload struct each (camelCase on the wire, additive fields only) and
/// the enum over them. See `identity/user.rs` for an example.
#[macro_export]
macro_rules! domain_events {
    (
        $(#[$outer:meta])*
        $enum:ident: $service:ident / $aggregate:literal {
            $( $(#[$meta:meta])* $event:ident = $type:literal { $( $(#[$fmeta:meta])* $field:ident: $ty:ty ),* $(,)? } )*
        }
    ) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
            #[serde(rename_all = "camelCase")]
            #[allow(missing_docs, reason = "payload fields are named as in the service's specification")]
            pub struct $event { $( $(#[$fmeta])* pub $field: $ty ),* }
            impl From<$event> for $enum {
                fn from(event: $event) -> Self { $enum::$event(event) }
            }
        )*
        $(#[$outer])*
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "each variant wraps the payload of the same name")]
        #[allow(clippy::large_enum_variant, reason = "an event is moved a few times; a box would cost each of them")]
        pub enum $enum { $( $event($event) ),* }

        impl $crate::DomainEvent for $enum {
            const SERVICE: $crate::Service = $crate::Service::$service;
            const AGGREGATE: &'static str = $aggregate;

            fn event_type(&self) -> &'static str {
                match self { $( $enum::$event(_) => $type ),* }
            }

            fn to_data(&self) -> Result<Box<serde_json::value::RawValue>, $crate::EncodeError> {
                Ok(match self { $( $enum::$event(event) => $crate::canonical::to_raw(event)? ),* })
            }

            fn from_data(event_type: &str, data: &str) -> Result<Self, $crate::DecodeError> {
                let (event_type, data) = $crate::upcast::upcast(event_type, data)?;
                match event_type.as_ref() {
                    $( $type => $crate::read_data::<$event>(&event_type, &data).map($enum::$event), )*
                    _ => Err($crate::DecodeError::UnknownType(event_type.into_owned())),
                }
            }

            fn types() -> Vec<$crate::MessageType> {
                vec![ $( $crate::MessageType {
                    name: $type,
                    schema: schemars::schema_for!($event),
                    service: $crate::Service::$service,
                    aggregate: $aggregate,
                } ),* ]
            }
        }
    };
}
