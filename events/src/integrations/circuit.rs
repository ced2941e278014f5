//! Events of a circuit: a model that failed again and again is left alone for a while (integrations.md §17.2, §25.4).

use super::ErrorCategory;
use crate::domain_events;

domain_events! {
    /// What can have happened to a circuit.
    CircuitEvent: Integrations / "circuit" {
        /// The model is not asked until then; then by one request, to see.
        ProviderCircuitOpened = "symbia.integrations.circuit.provider-circuit-opened.v1" {
            circuit_id: String,
            provider: String,
            model: String,
            /// Whose key it is about; absent: the installation's.
            credential_id: Option<String>,
            /// Failures in a row.
            failures: u32,
            last_category: ErrorCategory,
            /// RFC 3339.
            open_until: String,
        }
        /// The model answered again.
        ProviderCircuitClosed = "symbia.integrations.circuit.provider-circuit-closed.v1" { circuit_id: String }
        /// Somebody says that it may be asked.
        ProviderCircuitReset = "symbia.integrations.circuit.provider-circuit-reset.v1" {
            circuit_id: String,
            by: String,
        }
    }
}
