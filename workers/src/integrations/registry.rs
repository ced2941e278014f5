//! What calls the world for the registry (integrations.md §7, §12, §13.2): finding out what an integration can do, and calling
//! its operations. Every call goes through the egress guard, and takes a key along only where that key belongs.

mod discoverer;
mod frequency;
mod invoker;
mod vault;

pub use self::{
    discoverer::Discoverer,
    frequency::CallLimits,
    invoker::Invoker,
    vault::{Lending, Vault},
};

use symbia_egress::{Blocked, EgressError, InvalidCall, mcp::McpError};
use symbia_events::integrations::ErrorCategory;

use super::provider::Fault;

impl From<EgressError> for Fault {
    fn from(error: EgressError) -> Self {
        let category = match &error {
            // The organization forbids it, not the call's shape.
            EgressError::Blocked(Blocked::Policy(_)) => ErrorCategory::Auth,
            EgressError::Blocked(_) => ErrorCategory::Validation,
            EgressError::Timeout => ErrorCategory::Timeout,
            EgressError::Unreachable | EgressError::Transport => ErrorCategory::Network,
            EgressError::TooLong(_) | EgressError::Redirects(_) => ErrorCategory::Provider,
        };
        Fault::new(category, error.code(), error.to_string())
    }
}

impl From<InvalidCall> for Fault {
    fn from(error: InvalidCall) -> Self {
        Fault::new(ErrorCategory::Validation, "invalid_input", error.to_string())
    }
}

impl From<McpError> for Fault {
    fn from(error: McpError) -> Self {
        match error {
            McpError::Egress(error) => error.into(),
            McpError::Unauthorized => Fault::new(ErrorCategory::Auth, error.code(), error.to_string()),
            // Invalid params, or no such tool (JSON-RPC 2.0 §5.1).
            McpError::Refused(-32602 | -32601) => {
                Fault::new(ErrorCategory::Validation, error.code(), error.to_string())
            }
            McpError::Refused(_) | McpError::Protocol => {
                Fault::new(ErrorCategory::Provider, error.code(), error.to_string())
            }
        }
    }
}
