//! A kept file that is removed unless somebody is to have it, also where whoever sent or reads it went away.

use symbia_nats::files::{Files, Place};

/// What is to be removed of a file when this is dropped, as long as it is not [`kept`](Leftover::kept).
pub(super) struct Leftover {
    files: Files,
    org: String,
    conversation: String,
    id: String,
    /// Whether it stays.
    pub kept: bool,
}

impl Leftover {
    pub fn new(files: &Files, at: &Place<'_>) -> Self {
        let [org, conversation, id] = [at.org, at.conversation, at.id].map(str::to_owned);
        Leftover { files: files.clone(), org, conversation, id, kept: false }
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.kept {
            return;
        }
        let files = self.files.clone();
        let [org, conversation, id] = [&mut self.org, &mut self.conversation, &mut self.id].map(std::mem::take);
        runtime.spawn(async move {
            files.discard(&Place { org: &org, conversation: &conversation, id: &id }).await;
        });
    }
}
