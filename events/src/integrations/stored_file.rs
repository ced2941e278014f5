//! Events of a file that somebody gave to the gateway, or that it made for them. What is in it is kept beside the log, sealed
//! under the owner's key (integrations.md §28).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Personal, domain_events};

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FilePurpose {
    /// The requests of a batch.
    Batch,
    /// What came of a batch.
    BatchOutput,
    /// Pictures for models that see.
    Vision,
    /// Anything that requests use.
    UserData,
    /// What models are tried with.
    Evals,
}

impl FilePurpose {
    /// Those that a file can be given with.
    pub const GIVEN: [FilePurpose; 4] =
        [FilePurpose::Batch, FilePurpose::Vision, FilePurpose::UserData, FilePurpose::Evals];

    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FilePurpose::Batch => "batch",
            FilePurpose::BatchOutput => "batch_output",
            FilePurpose::Vision => "vision",
            FilePurpose::UserData => "user_data",
            FilePurpose::Evals => "evals",
        }
    }
}

domain_events! {
    /// What can have happened to a stored file.
    StoredFileEvent: Integrations / "stored-file" {
        /// It is kept whole.
        FileStored = "symbia.integrations.stored-file.file-stored.v1" {
            file_id: String,
            purpose: FilePurpose,
            /// As its owner calls it.
            filename: Personal,
            bytes: u64,
            /// Whose it is: under whose key it is sealed, and who may read it.
            owner: String,
            /// The batch that it came of.
            batch_id: Option<String>,
        }
        /// It is gone.
        FileDeleted = "symbia.integrations.stored-file.file-deleted.v1" {
            file_id: String,
            by: String,
        }
    }
}
