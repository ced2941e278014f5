//! A connected client: who it is, and the calls of it that wait.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use serde_json::{Value, json};
use socketioxide::{
    extract::{AckSender, SocketRef},
    socket::Sid,
};
use time::OffsetDateTime;

use super::handshake::Credential;
use crate::{
    http::{Caller, RequestScope, principal::PrincipalKind, request::TrustedProxies},
    identity::{AGENTS, TOKENS},
};

/// Calls of one client that may wait for their turn.
const WAITING_MAX: usize = 64;

/// A connected client.
pub struct Peer {
    /// The connection.
    pub id: Sid,
    pub(super) credential: Credential,
    scope: RequestScope,
    /// The organization that it named with the handshake.
    org: Option<String>,
    caller: RwLock<Caller>,
    checked_at: AtomicI64,
    ending: AtomicBool,
    ends_at: Option<i64>,
    calls: Mutex<Calls>,
}

/// A call that waits for its turn.
pub(super) struct Call {
    pub name: String,
    /// `None`: they cannot be read.
    pub arguments: Option<Vec<Value>>,
    pub ack: AckSender,
}

struct Calls {
    /// Somebody serves them, or will when the client has been welcomed.
    served: bool,
    waiting: VecDeque<Call>,
}

/// The answer to a call that was not done.
pub(crate) fn refused(error: &str, code: &str) -> Value {
    json!({ "success": false, "error": error, "code": code })
}

impl Peer {
    pub(super) fn new(socket: &SocketRef, credential: Credential, caller: Caller, auth: &Value) -> Self {
        let parts = socket.req_parts();
        let scope = parts.extensions.get::<RequestScope>().cloned();
        Peer {
            id: socket.id,
            ends_at: credential.ends_at(),
            credential,
            org: auth.get("orgId").and_then(Value::as_str).filter(|org| !org.is_empty()).map(str::to_owned),
            scope: scope.unwrap_or_else(|| RequestScope::new(parts, &TrustedProxies::default())),
            caller: RwLock::new(caller),
            checked_at: AtomicI64::new(OffsetDateTime::now_utc().unix_timestamp()),
            ending: AtomicBool::new(false),
            calls: Mutex::new(Calls { served: true, waiting: VecDeque::new() }),
        }
    }

    /// Who it is, as was last seen.
    pub fn caller(&self) -> Caller {
        self.caller.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The scope of one call: ids of its own, the labels of the handshake.
    pub fn scope(&self, call: &str) -> RequestScope {
        self.scope.of_call(call, self.org.as_deref())
    }

    /// Whether nobody knows who it is.
    pub fn is_nobody(&self) -> bool {
        self.credential.is_none()
    }

    /// True when it is another than before.
    pub(super) fn seen(&self, caller: Caller, now: i64) -> bool {
        self.checked_at.store(now, Ordering::Relaxed);
        let mut known = self.caller.write().unwrap_or_else(PoisonError::into_inner);
        let changed = **known != *caller;
        *known = caller;
        changed
    }

    pub(super) fn checked_at(&self) -> i64 {
        self.checked_at.load(Ordering::Relaxed)
    }

    pub(super) fn has_ended(&self, now: i64) -> bool {
        self.ends_at.is_some_and(|end| end <= now)
    }

    /// Takes the task of ending the connection, which only one gets.
    pub(super) fn begin_ending(&self) -> bool {
        !self.ending.swap(true, Ordering::Relaxed)
    }

    /// Whether one of these ids is its principal's, its session's, or those of what it acts by.
    pub(super) fn is_among(&self, ids: &HashSet<String>) -> bool {
        let caller = self.caller();
        let delegation = caller.acting.as_ref().map(|acting| &acting.delegation);
        let agent = caller.acting.as_ref().map(|acting| &acting.agent);
        let own = [Some(&caller.id), caller.agent_id.as_ref(), caller.session_id.as_ref(), caller.key_id.as_ref()];
        let by_agent = caller.kind == PrincipalKind::Agent || caller.acting.is_some();
        (by_agent && ids.contains(AGENTS))
            || (caller.key_id.is_none() && ids.contains(TOKENS))
            || own.into_iter().chain([delegation, agent]).flatten().any(|id| ids.contains(id))
    }

    /// Takes a call. It is given back when nobody serves this client's calls: the asker is to.
    pub(super) fn queue(&self, call: Call) -> Option<Call> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if !calls.served {
            calls.served = true;
            return Some(call);
        }
        if calls.waiting.len() < WAITING_MAX {
            calls.waiting.push_back(call);
            return None;
        }
        drop(calls);
        let _ = call.ack.send(&refused("Too many calls wait for their answers", "RATE_LIMIT_EXCEEDED"));
        None
    }

    /// The next call; when there is none, nobody serves them any more.
    pub(super) fn next(&self) -> Option<Call> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let next = calls.waiting.pop_front();
        calls.served = next.is_some();
        next
    }
}
