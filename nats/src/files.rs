//! Files that came with messages or with requests to models, those that were given to the gateway, and the results of the lines of
//! batches: sealed under a key of their conversation or of whose they are, in parts, in a stream of their own. Without the key they
//! can be read by nobody, and one purge takes all that belong to a conversation, a request or a batch; what was given to the gateway
//! stands alone.

use std::sync::Arc;

use async_nats::{
    Client,
    jetstream::{self, stream},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream as many};
use serde::{Deserialize, Serialize};
use symbia_events::{Personal, SubjectKey, UnsealError, check_token};

use crate::topology::FILES;

/// Bytes of a part.
const PART: usize = 256 * 1024;
/// Parts that are asked for at a time.
const AT_ONCE: usize = 4;

/// Where a file is.
#[derive(Clone, Copy, Debug)]
pub struct Place<'p> {
    /// The organization.
    pub org: &'p str,
    /// The conversation, the request or the batch; of what was given to the gateway, the file itself.
    pub conversation: &'p str,
    /// Its id.
    pub id: &'p str,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// The message or the request that it came with, or what else it is for.
    pub message: String,
    /// As its sender called it.
    pub name: Option<String>,
    /// As its sender said.
    pub mime_type: Option<String>,
    /// What is in it.
    pub bytes: Bytes,
}

/// What a file is besides what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The message or the request that it came with.
    pub message: String,
    /// As its sender called it.
    pub name: Option<String>,
    /// As its sender said.
    pub mime_type: Option<String>,
}

/// What is known of a file before its parts are read: what is sealed as its part 0.
#[derive(Serialize, Deserialize)]
struct Head {
    message: String,
    name: Option<String>,
    mime_type: Option<String>,
    parts: usize,
    /// In bytes.
    #[serde(default)]
    size: Option<u64>,
}

/// A file that is there: what is known of it, and where its parts are.
pub struct Found {
    /// The message that it came with.
    pub message: String,
    /// As its sender called it.
    pub name: Option<String>,
    /// As its sender said.
    pub mime_type: Option<String>,
    /// In bytes, where it is known.
    pub size: Option<u64>,
    parts: usize,
    subject: String,
    stream: stream::Stream<()>,
    key: SubjectKey,
}

impl Found {
    /// What is in it, part by part: no more than a few are held at a time.
    pub fn bytes(self) -> impl Stream<Item = Result<Bytes, FilesError>> + Send + 'static {
        let (from, subject) = (Arc::new((self.stream, self.key)), self.subject);
        let each = move |index: usize| {
            let (from, name) = (Arc::clone(&from), format!("{subject}.{index}"));
            async move {
                let (stream, key) = &*from;
                let sealed = part(stream, name.clone()).await?.ok_or(FilesError::Broken)?;
                Ok(Bytes::from(key.open_bytes(&sealed, &name)?))
            }
        };
        many::iter(1..=self.parts).map(each).buffered(AT_ONCE)
    }

    /// The bytes from `offset` on, so many of them, or those that there are.
    ///
    /// # Errors
    /// [`FilesError`].
    pub async fn range(&self, offset: u64, length: usize) -> Result<Bytes, FilesError> {
        let (part_size, mut range) = (PART as u64, Vec::with_capacity(length));
        let mut index = offset / part_size;
        let mut skip = usize::try_from(offset % part_size).unwrap_or(PART);
        while range.len() < length && index < self.parts as u64 {
            let name = format!("{}.{}", self.subject, index + 1);
            let sealed = part(&self.stream, name.clone()).await?.ok_or(FilesError::Broken)?;
            let bytes = self.key.open_bytes(&sealed, &name)?;
            let end = bytes.len().min(skip + length - range.len());
            range.extend_from_slice(bytes.get(skip..end).ok_or(FilesError::Broken)?);
            (index, skip) = (index + 1, 0);
        }
        Ok(range.into())
    }

    /// All that is in it.
    ///
    /// # Errors
    /// [`FilesError`].
    pub async fn whole(self) -> Result<Bytes, FilesError> {
        let bytes = self.bytes().try_fold(Vec::new(), |mut whole, part| async move {
            whole.extend_from_slice(&part);
            Ok(whole)
        });
        Ok(bytes.await?.into())
    }
}

/// A file could not be kept, or not be read.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The broker does not do it.
    #[error("the broker keeps or gives no files: {0}")]
    Broker(String),
    /// An id that is no part of an address.
    #[error("'{0}' addresses no file")]
    Address(String),
    /// A part is missing, or is another one's.
    #[error("the file is not whole")]
    Broken,
    /// It is sealed under another key.
    #[error(transparent)]
    Sealed(#[from] UnsealError),
}

/// A file could not be kept as it came.
#[derive(Debug, thiserror::Error)]
pub enum KeepError<E> {
    /// It broke off.
    #[error("it broke off")]
    Source(E),
    /// It is longer than it may be.
    #[error("it is too long")]
    TooLong,
    /// It cannot be kept.
    #[error(transparent)]
    Files(#[from] FilesError),
}

fn broker(error: impl std::fmt::Display) -> FilesError {
    FilesError::Broker(error.to_string())
}

/// What the bytes of a file are called that stands for itself.
const CONTENT: &str = "content";

impl<'p> Place<'p> {
    /// Where a file is that came with no message: one of the gateway's.
    #[must_use]
    pub fn stored(org: &'p str, file: &'p str) -> Self {
        Place { org, conversation: file, id: CONTENT }
    }
}

impl Place<'_> {
    fn subject(&self) -> Result<String, FilesError> {
        let Place { org, conversation, id } = self;
        Ok(format!("{}.{}", of_conversation(org, conversation)?, checked(id)?))
    }
}

fn checked(token: &str) -> Result<&str, FilesError> {
    check_token(token).map_err(|_| FilesError::Address(token.chars().take(64).collect()))
}

fn of_conversation(org: &str, conversation: &str) -> Result<String, FilesError> {
    Ok(format!("symbia.file.{}.{}", checked(org)?, checked(conversation)?))
}

/// The files. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Files(jetstream::Context);

impl Files {
    /// Over a connection; the stream is made with the others.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Files(jetstream::new(client))
    }

    /// Keeps a file; one that is there already is replaced.
    ///
    /// # Errors
    /// [`FilesError`].
    pub async fn keep(&self, at: &Place<'_>, key: &SubjectKey, file: &File) -> Result<(), FilesError> {
        let subject = at.subject()?;
        let each = |(index, bytes): (usize, &[u8])| {
            let name = format!("{subject}.{}", index + 1);
            let sealed = key.seal_bytes(bytes, &name);
            self.put(name, sealed)
        };
        let parts = file.bytes.chunks(PART).enumerate().map(each);
        many::iter(parts).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        // Last, so that what is found is whole.
        let parts = file.bytes.len().div_ceil(PART);
        let (message, name, mime_type) = (file.message.clone(), file.name.clone(), file.mime_type.clone());
        let head = Head { message, name, mime_type, parts, size: u64::try_from(file.bytes.len()).ok() };
        self.put_head(&subject, key, &head).await
    }

    async fn put_head(&self, subject: &str, key: &SubjectKey, head: &Head) -> Result<(), FilesError> {
        let head = key.seal(&serde_json::to_string(head).map_err(broker)?);
        self.put(format!("{subject}.0"), serde_json::to_vec(&head).map_err(broker)?).await
    }

    /// Keeps a file as it comes, a part at a time: no more than that is held. Gives its length in bytes, at most `most`. What
    /// broke off, or was given up, is found by nobody; [`Files::discard`] removes what there is of it.
    ///
    /// # Errors
    /// [`KeepError`].
    pub async fn keep_from<E: Send>(
        &self,
        at: &Place<'_>,
        key: &SubjectKey,
        about: About,
        most: u64,
        bytes: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<u64, KeepError<E>> {
        let (mut writer, mut bytes) = (self.begin(at, key)?, std::pin::pin!(bytes));
        while let Some(some) = bytes.next().await {
            let some = some.map_err(KeepError::Source)?;
            if writer.size().saturating_add(some.len() as u64) > most {
                return Err(KeepError::TooLong);
            }
            writer.write(&some).await?;
        }
        Ok(writer.finish(about).await?)
    }

    /// Removes a file, or what there is of it; who cannot just now leaves it sealed.
    pub async fn discard(&self, at: &Place<'_>) {
        if let Err(error) = self.remove(at).await {
            tracing::warn!(id = at.id, %error, "a file is not removed");
        }
    }

    /// Removes a file, or what there is of it.
    ///
    /// # Errors
    /// [`FilesError`].
    pub async fn remove(&self, at: &Place<'_>) -> Result<(), FilesError> {
        self.purge(format!("{}.>", at.subject()?)).await
    }

    async fn purge(&self, filter: String) -> Result<(), FilesError> {
        let stream = self.0.get_stream_no_info(FILES).await.map_err(broker)?;
        stream.purge().filter(filter).await.map(drop).map_err(broker)
    }

    async fn put(&self, subject: String, payload: Vec<u8>) -> Result<(), FilesError> {
        let receipt = self.0.publish(subject, payload.into()).await.map_err(broker)?;
        receipt.await.map(drop).map_err(broker)
    }

    /// Begins with a file that comes piece by piece; it is there when it is [finished](Writer::finish).
    ///
    /// # Errors
    /// [`FilesError`].
    pub fn begin(&self, at: &Place<'_>, key: &SubjectKey) -> Result<Writer, FilesError> {
        let (files, subject, key) = (self.clone(), at.subject()?, key.clone());
        Ok(Writer { files, subject, key, piece: Vec::with_capacity(PART), parts: 0, size: 0 })
    }

    /// A file, if it is there.
    ///
    /// # Errors
    /// [`FilesError`].
    pub async fn find(&self, at: &Place<'_>, key: &SubjectKey) -> Result<Option<Found>, FilesError> {
        let (subject, stream) = (at.subject()?, self.0.get_stream_no_info(FILES).await.map_err(broker)?);
        let Some(head) = part(&stream, format!("{subject}.0")).await? else { return Ok(None) };
        let head: Personal = serde_json::from_slice(&head).map_err(|_| FilesError::Broken)?;
        let head: Head = serde_json::from_str(&key.open(&head)?).map_err(|_| FilesError::Broken)?;
        let Head { message, name, mime_type, parts, size } = head;
        Ok(Some(Found { message, name, mime_type, size, parts, subject, stream, key: key.clone() }))
    }

    /// Forgets the files of a conversation, a request or a batch.
    ///
    /// # Errors
    /// [`FilesError`].
    pub async fn forget(&self, org: &str, conversation: &str) -> Result<(), FilesError> {
        self.purge(format!("{}.>", of_conversation(org, conversation)?)).await
    }
}

/// A file under way: no more than a part of it is held at a time.
pub struct Writer {
    files: Files,
    subject: String,
    key: SubjectKey,
    piece: Vec<u8>,
    parts: usize,
    size: u64,
}

impl Writer {
    /// Bytes so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What comes next.
    ///
    /// # Errors
    /// [`FilesError`].
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), FilesError> {
        self.size += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PART - self.piece.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == PART {
                self.put().await?;
            }
        }
        Ok(())
    }

    async fn put(&mut self) -> Result<(), FilesError> {
        self.parts += 1;
        let name = format!("{}.{}", self.subject, self.parts);
        let sealed = self.key.seal_bytes(&self.piece, &name);
        self.piece.clear();
        self.files.put(name, sealed).await
    }

    /// That was all; gives how many bytes.
    ///
    /// # Errors
    /// [`FilesError`].
    pub async fn finish(mut self, about: About) -> Result<u64, FilesError> {
        let About { message, name, mime_type } = about;
        if !self.piece.is_empty() {
            self.put().await?;
        }
        let head = Head { message, name, mime_type, parts: self.parts, size: Some(self.size) };
        self.files.put_head(&self.subject, &self.key, &head).await?;
        Ok(self.size)
    }
}

// Any replica gives what it has, and may be behind: that there is nothing is true when the stream's leader says so.
async fn part<I>(stream: &stream::Stream<I>, subject: String) -> Result<Option<Bytes>, FilesError> {
    match stream.direct_get_last_for_subject(subject.as_str()).await {
        Ok(message) => return Ok(Some(message.payload)),
        Err(error) if error.kind() == stream::DirectGetErrorKind::NotFound => {}
        Err(error) => return Err(broker(error)),
    }
    match stream.get_last_raw_message_by_subject(&subject).await {
        Ok(message) => Ok(Some(message.payload)),
        Err(error) if error.kind() == stream::LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(broker(error)),
    }
}
