//! Events of an organization's probes: which providers are asked now and then whether they are there (integrations.md §28).

use crate::domain_events;

domain_events! {
    /// What can have happened to the probes of an organization.
    ProviderProbesEvent: Integrations / "provider-probes" {
        /// These providers are asked for their models now and then; none: no more.
        ProviderProbesSet = "symbia.integrations.provider-probes.provider-probes-set.v1" {
            probes_id: String,
            /// Counts changes, from 1.
            version: u64,
            providers: Vec<String>,
            /// How long between two.
            every_seconds: u32,
            /// Whose keys, or those shared with the organization, they are asked with.
            by: String,
        }
    }
}
