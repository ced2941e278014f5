//! What is known: read models in PostgreSQL, folded from the log.

pub mod assistants;
mod columns;
mod commit;
mod feed;
pub mod identity;
pub mod integrations;
mod lookups;
pub mod messaging;
pub mod models;
pub mod network;
mod observed;
mod position;
mod projection;
mod projector;
mod read;
mod rebuild;
pub mod schema;
pub mod secrets;
pub mod server;
mod state;
mod statistics;
mod status;
pub mod vault;

pub use commit::fold_batch;
pub use feed::{Keys, fixed_keys};
pub use position::{Positions, subject as position_subject};
pub use projection::{FoldError, FoldEvent, Migration, Projection};
pub use projector::{Projector, ProjectorHandle, ProjectorOptions, ProjectorStatus};
pub use read::{ReadError, ReadPool, Reading, Scope};
pub use rebuild::{OnProgress, Progress, RebuildError, Rebuilder, Rebuilt, TableCheck, Verified};
pub use schema::{MigrateError, Migrated, check, migrate};
pub use state::{TableState, schema_hash};
pub use status::{ProjectionStatus, StreamStatus, list};
