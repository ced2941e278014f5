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
/// The longest that a message waits for one.
const LONGEST: Duration = Duration::from_secs(2);
/// So much came along lately that it is not kept.
const NO_ROOM: &str = "no_room";

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
        of: &ChannelConnection,
        message: &Message<'_>,
        attachments: &mut [Attachment],
    ) -> anyhow::Result<()> {
        for (index, attachment) in attachments.iter_mut().enumerate() {
            let data = attachment.data.take().and_then(|data| BASE64.decode(data).ok());
            let Some(data) = data.filter(|data| data.len() <= MOST) else { continue };
            attachment.size = u64::try_from(data.len()).ok();
            if !self.0.floods.has_room(of, attachment.size.unwrap_or_default()).await? {
                attachment.left = Some(NO_ROOM.to_owned());
                continue;
            }
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
        // Who erases the conversation destroys its key, and then what is kept: what was kept between the two, or behind them, is
        // found here.
        if self.0.secrets.subject_key(message.key.kid()).await?.is_none() {
            self.0.files.forget(message.org, message.conversation).await?;
            anyhow::bail!("the conversation was erased meanwhile");
        }
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
            let kept = match (&attachment.kept, &attachment.left, &line) {
                (Some(id), ..) => Ok(id.clone()),
                (None, Some(code), _) => Err(Refused::lasting(code)),
                (None, None, Err(refused)) => Err(refused.clone()),
                (None, None, Ok(line)) => match self.brought(of, line, attachment).await {
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

impl Channels {
    // Room is set aside for what a file may have, and given back as far as it has less.
    async fn brought(&self, of: &ChannelConnection, line: &Line, attachment: &Attachment) -> Result<Bytes, Refused> {
        let uncounted = |error: anyhow::Error| {
            tracing::warn!(connection = of.id, error = format!("{error:#}"), "room for a file cannot be counted");
            Refused::lasting("not_kept")
        };
        let most = attachment.size.unwrap_or(MOST as u64);
        if most > MOST as u64 {
            return Err(Refused::lasting("too_long"));
        }
        if !self.0.floods.has_room(of, most).await.map_err(uncounted)? {
            return Err(Refused::lasting(NO_ROOM));
        }
        let fetched = fetched(line, attachment).await;
        let needed = fetched.as_ref().map_or(0, |bytes| bytes.len() as u64);
        self.0.floods.needed(of, most, needed).await.map_err(uncounted)?;
        fetched
    }
}

async fn fetched(line: &Line, attachment: &Attachment) -> Result<Bytes, Refused> {
    let mut attempt = 1;
    loop {
        match line.file(attachment, MOST).await {
            // Whoever is asked to wait for long keeps no message back for it.
            Err(refused)
                if refused.passing && attempt < ATTEMPTS && refused.after.is_none_or(|wait| wait <= LONGEST) =>
            {
                attempt += 1;
                tokio::time::sleep(refused.after.unwrap_or(PAUSE)).await;
            }
            fetched => return fetched,
        }
    }
}
