//! The stored-file aggregate: that a file is kept beside the log, whose it is, and that it is gone (integrations.md §28).

use serde::{Deserialize, Serialize};
use symbia_events::{
    Personal,
    integrations::{FileDeleted, FilePurpose, FileStored, StoredFileEvent},
};
use time::OffsetDateTime;

use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// Most bytes of a file that is given.
pub const MAX_FILE: u64 = 200 * 1024 * 1024;
/// Longest name, sealed.
const LONGEST_NAME: usize = 4096;

/// What ids of files begin with, as those of OpenAI do: nothing else that has files is called so.
const PREFIX: &str = "file-";

domain_commands! {
    /// What can be done about a stored file.
    StoredFileCommand: Integrations / "stored-file" {
        /// Its bytes are kept: from now on it can be read.
        StoreFile = "symbia.cmd.integrations.store-file.v1" {
            file_id: String,
            purpose: FilePurpose,
            /// Sealed under the owner's key.
            filename: Personal,
            bytes: u64,
            /// Whose it is, when the platform made it.
            #[serde(default)]
            owner: Option<String>,
            #[serde(default)]
            batch_id: Option<String>,
        }
        /// It is wanted no more.
        DeleteFile = "symbia.cmd.integrations.delete-file.v1" { file_id: String }
    }
}

/// A stored file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoredFile {
    owner: Option<String>,
    deleted: bool,
}

impl StoredFile {
    fn store(&self, c: StoreFile, by: &Actor) -> Result<Decision<StoredFileEvent>, Rejection> {
        if self.owner.is_some() {
            return Err(Rejection::new("CONFLICT", "this file id is in use"));
        }
        if !c.file_id.starts_with(PREFIX) {
            return Err(Rejection::invalid(format!("fileId: begins with {PREFIX}")));
        }
        let owner = c.owner.filter(|_| by.is_platform()).unwrap_or_else(|| by.subject().to_owned());
        if !by.is_platform() && (c.batch_id.is_some() || !FilePurpose::GIVEN.contains(&c.purpose)) {
            let given: Vec<&str> = FilePurpose::GIVEN.iter().map(|purpose| purpose.name()).collect();
            return Err(Rejection::invalid(format!("purpose: one of {}", given.join(", "))));
        }
        if c.filename.kid != owner {
            return Err(Rejection::new("WRONG_KEY", format!("filename: seal it with the key '{owner}'")));
        }
        if c.filename.text_len() > LONGEST_NAME {
            return Err(Rejection::invalid(format!("filename: at most {LONGEST_NAME} bytes")));
        }
        if !by.is_platform() && c.bytes > MAX_FILE {
            return Err(Rejection::new("TOO_LARGE", format!("file: {} bytes, the limit is {MAX_FILE}", c.bytes)));
        }
        let StoreFile { file_id, purpose, filename, bytes, batch_id, .. } = c;
        Ok(Decision::one(FileStored { file_id, purpose, filename, bytes, owner, batch_id }))
    }

    fn delete(&self, c: DeleteFile, by: &Actor) -> Result<Decision<StoredFileEvent>, Rejection> {
        let theirs = by.is_platform() || self.owner.as_deref() == Some(by.subject());
        if self.deleted || self.owner.is_none() || !theirs {
            return Err(Rejection::not_found("file"));
        }
        Ok(Decision::one(FileDeleted { file_id: c.file_id, by: by.id.clone() }))
    }
}

impl Aggregate for StoredFile {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("fileId");
    type Command = StoredFileCommand;
    type Event = StoredFileEvent;

    fn begins(command: &StoredFileCommand) -> bool {
        matches!(command, StoredFileCommand::StoreFile(_))
    }

    fn has_ended(&self) -> bool {
        self.deleted
    }

    fn apply(&mut self, event: &StoredFileEvent) {
        match event {
            StoredFileEvent::FileStored(e) => self.owner = Some(e.owner.clone()),
            StoredFileEvent::FileDeleted(_) => self.deleted = true,
        }
    }

    fn decide(
        &self,
        command: StoredFileCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<StoredFileEvent>, Rejection> {
        match command {
            StoredFileCommand::StoreFile(c) => self.store(c, by),
            StoredFileCommand::DeleteFile(c) => self.delete(c, by),
        }
    }
}

#[cfg(test)]
mod tests {
    use symbia_events::{ActorType, SubjectKey};

    use super::*;
    use crate::testing::given;

    fn person(id: &str) -> Actor {
        Actor { id: id.into(), kind: ActorType::User, ..Actor::service("integrations") }
    }

    fn store(purpose: FilePurpose, kid: &str) -> StoreFile {
        let filename = SubjectKey::from_bytes(kid, [7; 32]).seal("lines.jsonl");
        StoreFile { file_id: "file-1".into(), purpose, filename, bytes: 9, owner: None, batch_id: None }
    }

    #[test]
    fn a_file_is_its_owners_alone_and_goes_once() {
        let (ada, eve) = (person("ada"), person("eve"));
        let stored = store(FilePurpose::Batch, "ada");
        let event = StoredFile::default().decide(stored.clone().into(), &ada, OffsetDateTime::UNIX_EPOCH);
        let event = event.map(|decision| decision.events).unwrap_or_default().remove(0);
        let deleted = FileDeleted { file_id: "file-1".into(), by: "ada".into() };
        let delete = || DeleteFile { file_id: "file-1".into() };
        given::<StoredFile>([event.clone()]).when(delete(), &eve).rejected("NOT_FOUND");
        given::<StoredFile>([event.clone()]).when(delete(), &ada).then([deleted.clone().into()]);
        given::<StoredFile>([event.clone(), deleted.into()]).when(delete(), &ada).rejected("NOT_FOUND");
        given::<StoredFile>([event]).when(stored, &ada).rejected("CONFLICT");
    }

    #[test]
    fn nobody_stores_what_the_platform_makes_or_what_others_sealed() {
        let ada = person("ada");
        given::<StoredFile>([]).when(store(FilePurpose::BatchOutput, "ada"), &ada).rejected("VALIDATION_FAILED");
        given::<StoredFile>([]).when(store(FilePurpose::Batch, "eve"), &ada).rejected("WRONG_KEY");
        let large = StoreFile { bytes: MAX_FILE + 1, ..store(FilePurpose::Batch, "ada") };
        given::<StoredFile>([]).when(large, &ada).rejected("TOO_LARGE");
    }
}
