//! Files that come along with what is said in a chat: they are fetched, and kept under the key of the conversation, before the
//! message is said here.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use serde_json::{Value, json};
use symbia_events::SubjectKey;
use symbia_nats::files::{File, Place};
use symbia_projections::integrations::ChannelConnection;
use uuid::Uuid;

use super::{
    Channels,
    line::{Account, Line},
    messenger::Refused,
    update::Attachment,
};

/// Most bytes of a file: what Telegram gives a bot.
const MOST: usize = 20 * 1024 * 1024;
/// Attempts at fetching one, and the pause between two.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

/// The message that files belong to.
pub(super) struct Message<'m> {
    pub org: &'m str,
    pub conversation: &'m str,
    pub id: &'m str,
    pub key: &'m SubjectKey,
}

impl Message<'_> {
    // The same each time.
    fn file(&self, index: usize) -> String {
        Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("file {} {index}", self.id).as_bytes()).to_string()
    }
}

impl Channels {
    /// Keeps the files that came with the message itself, so that it goes on without them.
    pub(super) async fn keeps_inline(
        &self,
        message: &Message<'_>,
        attachments: &mut [Attachment],
    ) -> anyhow::Result<()> {
        for (index, attachment) in attachments.iter_mut().enumerate() {
            let data = attachment.data.take().and_then(|data| BASE64.decode(data).ok());
            let Some(data) = data.filter(|data| data.len() <= MOST) else { continue };
            attachment.size = u64::try_from(data.len()).ok();
            attachment.kept = Some(self.keep(message, index, attachment, data.into()).await?);
        }
        Ok(())
    }

    async fn keep(
        &self,
        message: &Message<'_>,
        index: usize,
        attachment: &Attachment,
        bytes: Bytes,
    ) -> anyhow::Result<String> {
        let id = message.file(index);
        let at = Place { org: message.org, conversation: message.conversation, id: &id };
        let (name, mime_type) = (attachment.filename.clone(), attachment.mime_type.clone());
        let file = File { message: message.id.to_owned(), name, mime_type, bytes };
        self.0.files.keep(&at, message.key, &file).await?;
        Ok(id)
    }

    /// Keeps the files, and gives what is told of them: where each is, or why it is not here.
    pub(super) async fn kept(
        &self,
        of: &ChannelConnection,
        message: &Message<'_>,
        attachments: &[Attachment],
    ) -> anyhow::Result<Vec<Value>> {
        if attachments.is_empty() {
            return Ok(Vec::new());
        }
        let line = self.line(Account::from(of)).await?;
        let mut told = Vec::new();
        for (index, attachment) in attachments.iter().enumerate() {
            let mut about = json!({ "type": attachment.kind, "mimeType": attachment.mime_type,
                "filename": attachment.filename, "size": attachment.size });
            let kept = match (&attachment.kept, &line) {
                (Some(id), _) => Ok(id.clone()),
                (None, Err(refused)) => Err(refused.clone()),
                (None, Ok(line)) => match fetched(line, attachment).await {
                    Ok(bytes) => {
                        about["size"] = json!(bytes.len());
                        // The message is not kept back for it.
                        self.keep(message, index, attachment, bytes).await.map_err(|error| {
                            tracing::warn!(connection = of.id, error = format!("{error:#}"), "a file cannot be kept");
                            Refused::lasting("not_kept")
                        })
                    }
                    Err(refused) => Err(refused),
                },
            };
            match kept {
                Ok(id) => {
                    about["url"] = json!(format!("/api/conversations/{}/files/{id}", message.conversation));
                    about["fileId"] = json!(id);
                }
                Err(refused) => {
                    tracing::info!(connection = of.id, code = refused.code, "a file of a chat is not here");
                    about["error"] = json!(refused.code);
                }
            }
            told.push(about);
        }
        Ok(told)
    }
}

async fn fetched(line: &Line, attachment: &Attachment) -> Result<Bytes, Refused> {
    if attachment.size.is_some_and(|size| size > MOST as u64) {
        return Err(Refused::lasting("too_long"));
    }
    let mut attempt = 1;
    loop {
        match line.file(attachment, MOST).await {
            Err(refused) if refused.passing && attempt < ATTEMPTS => {
                attempt += 1;
                tokio::time::sleep(refused.after.unwrap_or(PAUSE).min(PAUSE * 4)).await;
            }
            fetched => return fetched,
        }
    }
}
