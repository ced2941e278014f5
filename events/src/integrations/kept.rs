//! The address of a picture that is kept beside the log, since it is too large for an event: it stands where an address on
//! the web or the picture itself would, and says what the picture is, so that none can take its place.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

const SCHEME: &str = "symbia-file:";
/// Longest name of a kind of file.
const LONGEST_KIND: usize = 100;

/// Where a picture is, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptPicture {
    /// The request that it came with, or came of.
    pub request_id: String,
    /// SHA-256 of its file, in hex.
    pub sha256: String,
    /// Bytes of its file.
    pub bytes: usize,
    /// Its kind, e.g. `image/png`.
    pub mime_type: String,
}

/// It is no address of a kept picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no address of a picture that is kept")]
pub struct NotKept;

impl KeptPicture {
    /// The address of a picture.
    #[must_use]
    pub fn of(request_id: &str, mime_type: &str, file: &[u8]) -> Self {
        let sha256 = Sha256::digest(file).iter().map(|byte| format!("{byte:02x}")).collect();
        KeptPicture { request_id: request_id.to_owned(), sha256, bytes: file.len(), mime_type: mime_type.to_owned() }
    }

    /// Whether an address is one of a kept picture.
    #[must_use]
    pub fn is_address(url: &str) -> bool {
        url.starts_with(SCHEME)
    }

    /// Whether a file is the picture.
    #[must_use]
    pub fn is(&self, file: &[u8]) -> bool {
        KeptPicture::of(&self.request_id, &self.mime_type, file) == *self
    }
}

impl fmt::Display for KeptPicture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KeptPicture { request_id, sha256, bytes, mime_type } = self;
        write!(f, "{SCHEME}{request_id}/{sha256}?bytes={bytes}&type={mime_type}")
    }
}

impl FromStr for KeptPicture {
    type Err = NotKept;

    fn from_str(url: &str) -> Result<Self, NotKept> {
        let read = || {
            let (path, terms) = url.strip_prefix(SCHEME)?.split_once('?')?;
            let (request_id, sha256) = path.split_once('/')?;
            let (bytes, mime_type) = terms.strip_prefix("bytes=")?.split_once("&type=")?;
            let is_digest =
                sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            let is_kind = |b: u8| b.is_ascii_alphanumeric() || b"/.+-".contains(&b);
            let is_kind = mime_type.len() <= LONGEST_KIND && mime_type.bytes().all(is_kind);
            (is_digest && is_kind).then_some(())?;
            Some(KeptPicture {
                request_id: request_id.to_owned(),
                sha256: sha256.to_owned(),
                bytes: bytes.parse().ok()?,
                mime_type: mime_type.to_owned(),
            })
        };
        read().ok_or(NotKept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_one_picture_and_is_read_back() {
        let kept = KeptPicture::of("r1", "image/svg+xml", b"<svg/>");
        let url = kept.to_string();
        assert!(KeptPicture::is_address(&url) && kept.is(b"<svg/>") && !kept.is(b"<svg >"));
        assert_eq!(url.parse(), Ok(kept));
        for wrong in [
            "https://example.test/1.png".to_owned(),
            url.replace("bytes=6", "bytes=-1"),
            url.replace("svg+xml", "svg;x=y"),
            url.replace("/", ""),
            url.replace("symbia-file:r1/", "symbia-file:r1/x"),
        ] {
            assert_eq!(wrong.parse::<KeptPicture>(), Err(NotKept), "{wrong}");
        }
    }
}
