//! Events of a log seal: the Merkle root that closes an hour of a service's event stream.

use crate::domain_events;

domain_events! {
    /// What can have happened to the seals of a service's stream. The aggregate's id is the service's name.
    SealEvent: Logging / "seal" {
        /// A stretch of the stream is closed; no event in it can change without the root showing it.
        LogSealed = "symbia.logging.seal.log-sealed.v1" {
            service: String,
            from_sequence: u64,
            to_sequence: u64,
            /// Number of events in the stretch.
            events: u64,
            /// RFC 6962 root over the hashes of its events in stream order, base64url.
            root: String,
            /// The seal before, empty for the first.
            previous_root: String,
            /// RFC 3339: the end of the time that is sealed.
            sealed_through: String,
        }
    }
}
