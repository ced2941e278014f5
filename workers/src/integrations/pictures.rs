//! Pictures that are kept beside the log: brought to where a model is asked about them, and kept where one has made them.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use symbia_events::{
    SubjectKey,
    integrations::{ErrorCategory, KeptPicture, Picture, PromptMessage, PromptPart},
};
use symbia_nats::{
    files::FilesError,
    pictures::{INLINE, Pictures, as_data},
};

use super::provider::{Fault, Turn};
use crate::content_keys::Opener;

/// Puts the kept pictures of a prompt where their addresses stand. Only what is sealed under the key of the message that names
/// it is found.
pub(super) async fn bring(
    pictures: &Pictures,
    (org, opener): (&str, &Opener),
    messages: &[PromptMessage],
    turns: &mut [Turn],
) -> Result<Result<(), Fault>, FilesError> {
    for (message, turn) in messages.iter().zip(turns) {
        for part in &mut turn.parts {
            let PromptPart::Image { url } = part else { continue };
            let key = message.more.as_ref().and_then(|more| opener.key(&more.kid));
            if let Err(fault) = brought(pictures, org, key, url).await? {
                return Ok(Err(fault));
            }
        }
    }
    Ok(Ok(()))
}

/// Puts one kept picture where its address stands, if it is one.
pub(super) async fn brought(
    pictures: &Pictures,
    org: &str,
    key: Option<&SubjectKey>,
    url: &mut String,
) -> Result<Result<(), Fault>, FilesError> {
    if !KeptPicture::is_address(url) {
        return Ok(Ok(()));
    }
    let (Some(key), Ok(kept)) = (key, url.parse::<KeptPicture>()) else { return Ok(Err(gone())) };
    match pictures.find(org, &kept, key).await {
        Ok(Some(file)) => *url = as_data(&kept.mime_type, &file),
        Ok(None) | Err(FilesError::Broken | FilesError::Sealed(_) | FilesError::Address(_)) => return Ok(Err(gone())),
        Err(error @ FilesError::Broker(_)) => return Err(error),
    }
    Ok(Ok(()))
}

fn gone() -> Fault {
    let message =
        "a picture of the prompt is not kept any more, or is no picture of whose request it is: send it again";
    Fault::new(ErrorCategory::NotFound, "picture_gone", message)
}

/// Keeps those of the pictures that are too large for an event, and puts their addresses in their place.
pub(super) async fn keep(
    pictures: &Pictures,
    request: (&str, &str),
    key: &SubjectKey,
    made: &mut [Picture],
) -> Result<(), FilesError> {
    for picture in made {
        let large = picture.b64_json.as_ref().filter(|text| text.len() > INLINE);
        // What is no base64 is given on as it came, where it fits.
        let Some(file) = large.and_then(|text| BASE64.decode(text).ok()) else { continue };
        let kept = pictures.keep(request, key, kind(&file), file.into()).await?;
        (picture.url, picture.b64_json) = (Some(kept.to_string()), None);
    }
    Ok(())
}

// By how its file begins.
fn kind(file: &[u8]) -> &'static str {
    match file {
        [0xff, 0xd8, 0xff, ..] => "image/jpeg",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
        _ => "image/png",
    }
}
