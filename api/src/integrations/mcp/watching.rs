//! Subscribing to resources: a session is told of each change of one until it wants to hear of it no more. What is written of it is
//! the address and a digest of what was there, so that any process tells of it.

use std::hash::{DefaultHasher, Hash, Hasher};

use rmcp::ErrorData;
use serde_json::{Value, json};
use symbia_nats::subscriptions::SubscriptionsError;

use super::{Tools, resources::tells_changes};

/// Resources that a session hears of.
const MOST: usize = 100;
/// What is not there, or not for the caller, has this digest.
const NOTHING: u64 = 0;

/// A digest that is the same in every process.
pub(super) fn digest(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.to_string().hash(&mut hasher);
    hasher.finish()
}

fn away(error: &SubscriptionsError) -> ErrorData {
    tracing::warn!(%error, "a session cannot subscribe");
    ErrorData::internal_error("the broker does not answer: ask again", None)
}

impl Tools {
    fn in_session(&self) -> Result<&str, ErrorData> {
        let none = "only a session is told of changes: send the Mcp-Session-Id that 'initialize' was answered with";
        self.session.as_deref().ok_or_else(|| ErrorData::invalid_request(none, None))
    }

    /// From now on the session hears of a resource.
    pub(super) async fn hears_of(&self, uri: &str) -> Result<(), ErrorData> {
        let session = self.in_session()?;
        let there = digest(&json!(self.resource(uri).await?));
        if !tells_changes(uri) {
            let message = format!("'{uri}' is read at another server, which does not tell here when it changes");
            return Err(ErrorData::invalid_params(message, None));
        }
        let mut full = false;
        let add = self.service.subscriptions.change(session, |subscribed| {
            full = subscribed.len() >= MOST && !subscribed.contains_key(uri);
            !full && subscribed.insert(uri.to_owned(), there) != Some(there)
        });
        add.await.map_err(|error| away(&error))?;
        if full {
            return Err(ErrorData::invalid_params(format!("a session hears of {MOST} resources at most"), None));
        }
        Ok(())
    }

    /// It hears of it no more.
    pub(super) async fn hears_no_more_of(&self, uri: &str) -> Result<(), ErrorData> {
        let session = self.in_session()?;
        let gone = self.service.subscriptions.change(session, |subscribed| subscribed.remove(uri).is_some());
        gone.await.map_err(|error| away(&error))
    }

    /// The digest of what is in a resource now; an error: nobody can tell.
    pub(super) async fn digest_of(&self, uri: &str) -> Result<u64, ErrorData> {
        match self.resource(uri).await {
            Ok(contents) => Ok(digest(&json!(contents))),
            Err(error) if error.code == rmcp::model::ErrorCode::RESOURCE_NOT_FOUND => Ok(NOTHING),
            Err(error) => Err(error),
        }
    }
}
