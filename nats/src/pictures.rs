//! Pictures of requests to models that are too large for an event: kept as files of the request, sealed under the key of whose
//! request it is. The event names them by an address that says what they are.

use async_nats::Client;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use symbia_events::{
    SubjectKey,
    integrations::{KeptPicture, PromptPart},
};

use crate::files::{File, Files, FilesError, Place};

/// Most bytes of a picture as text that an event holds itself.
pub const INLINE: usize = 24 * 1024;
/// What a picture is of which nobody said what it is.
const USUAL: &str = "image/jpeg";

/// The pictures. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pictures(Files);

/// It is no `data:<mime>;base64,<data>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an image is an https URL, or data:<mime>;base64,<data>")]
pub struct NoPicture;

/// A picture of a prompt could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// It is none.
    #[error(transparent)]
    NoPicture(#[from] NoPicture),
    /// It is elsewhere, and its address is no address.
    #[error("the address of an image is too long")]
    Long,
    /// The broker does not do it.
    #[error(transparent)]
    Files(#[from] FilesError),
}

impl Pictures {
    /// Over a connection.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Pictures(Files::new(client))
    }

    /// Keeps a picture of a request, under the address that is given back. It goes by what is in it: keeping it again changes
    /// nothing, and another one never takes its place.
    ///
    /// # Errors
    /// [`FilesError`].
    pub async fn keep(
        &self,
        (org, request_id): (&str, &str),
        key: &SubjectKey,
        mime_type: &str,
        bytes: Bytes,
    ) -> Result<KeptPicture, FilesError> {
        let kept = KeptPicture::of(request_id, mime_type, &bytes);
        let at = Place { org, conversation: request_id, id: &kept.sha256 };
        let (message, mime_type) = (request_id.to_owned(), Some(mime_type.to_owned()));
        self.0.keep(&at, key, &File { message, name: None, mime_type, bytes }).await?;
        Ok(kept)
    }

    /// Keeps what of a message is too large for an event, and names it there. Gives whether anything was.
    ///
    /// # Errors
    /// [`KeepError`].
    pub async fn keep_large(
        &self,
        (org, request_id): (&str, &str),
        key: &SubjectKey,
        parts: &mut [PromptPart],
    ) -> Result<bool, KeepError> {
        let mut kept_any = false;
        for part in parts {
            if let PromptPart::Image { url } = part {
                kept_any |= self.keep_one((org, request_id), key, url).await?;
            }
        }
        Ok(kept_any)
    }

    /// Keeps one picture that is too large for an event, and names it there. Gives whether it was.
    ///
    /// # Errors
    /// [`KeepError`].
    pub async fn keep_one(
        &self,
        (org, request_id): (&str, &str),
        key: &SubjectKey,
        url: &mut String,
    ) -> Result<bool, KeepError> {
        if url.len() <= INLINE {
            return Ok(false);
        }
        let (kind, file) = read_data(url)?.ok_or(KeepError::Long)?;
        *url = self.keep((org, request_id), key, kind, file).await?.to_string();
        Ok(true)
    }

    /// A kept picture, if it is there still.
    ///
    /// # Errors
    /// [`FilesError`]; what is there and is another one is [`Broken`](FilesError::Broken).
    pub async fn find(&self, org: &str, kept: &KeptPicture, key: &SubjectKey) -> Result<Option<Bytes>, FilesError> {
        let at = Place { org, conversation: &kept.request_id, id: &kept.sha256 };
        let Some(file) = self.0.find(&at, key).await? else { return Ok(None) };
        let bytes = file.whole().await?;
        if kept.is(&bytes) { Ok(Some(bytes)) } else { Err(FilesError::Broken) }
    }

    /// Forgets the pictures of a request.
    ///
    /// # Errors
    /// [`FilesError`].
    pub async fn forget(&self, org: &str, request_id: &str) -> Result<(), FilesError> {
        self.0.forget(org, request_id).await
    }
}

/// The kind and the file of a picture that is its own address; none where the address is another one.
///
/// # Errors
/// [`NoPicture`] when it begins as one and is none.
pub fn read_data(url: &str) -> Result<Option<(&str, Bytes)>, NoPicture> {
    let Some(data) = url.strip_prefix("data:") else { return Ok(None) };
    let (kind, data) = data.split_once(";base64,").ok_or(NoPicture)?;
    let named = |b: u8| b.is_ascii_alphanumeric() || b"/.+-".contains(&b);
    if kind.len() > 100 || !kind.bytes().all(named) {
        return Err(NoPicture);
    }
    let file = BASE64.decode(data).map_err(|_| NoPicture)?;
    Ok(Some((if kind.is_empty() { USUAL } else { kind }, file.into())))
}

/// The address that a picture itself is.
#[must_use]
pub fn as_data(mime_type: &str, file: &[u8]) -> String {
    format!("data:{mime_type};base64,{}", BASE64.encode(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_read_from_their_addresses() {
        let (kind, file) = read_data("data:image/png;base64,aGk=").unwrap_or_default().unwrap_or_default();
        assert_eq!((kind, file.as_ref()), ("image/png", b"hi".as_slice()));
        assert_eq!(as_data(kind, &file), "data:image/png;base64,aGk=");
        assert_eq!(read_data("data:;base64,").map(|read| read.map(|(kind, _)| kind)), Ok(Some(USUAL)));
        assert_eq!(read_data("https://example.test/1.png"), Ok(None));
        for wrong in ["data:image/png,aGk=", "data:image/png;base64,a!", "data:a b;base64,aGk=", "data:"] {
            assert_eq!(read_data(wrong), Err(NoPicture), "{wrong}");
        }
    }
}
