//! Asking an inference process, and hearing when it has died.

use std::time::Duration;

use async_nats::{Client, StatusCode, Subject, Subscriber};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use futures::StreamExt;
use tokio::time::Instant;
use uuid::Uuid;

use super::{CANCEL, Embed, Failure, Frame, JOBS, Job, Keep, SILENCE, Work};

const AGAIN: Duration = Duration::from_millis(100);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No process listens.
    #[error("no inference process answers; start one with `symbia work --roles inference`")]
    Nobody,
    /// Whoever worked on it is gone without a word: it may be asked again.
    #[error("{0}")]
    Lost(String),
    /// The answer cannot be read.
    #[error("the inference process cannot be understood: {0}; both must be of one version")]
    Malformed(String),
    /// It was refused, or could not be done.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// The way to the inference processes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Inference {
    client: Client,
    patience: Duration,
    keep: Option<Keep>,
}

impl Inference {
    /// Over a connection. Where no process listens, one is looked for until `patience` ends: one that died is started again
    /// within seconds.
    #[must_use]
    pub fn new(client: Client, patience: Duration) -> Self {
        Inference { client, patience, keep: None }
    }

    /// The same, for requests after which a model stays so long.
    #[must_use]
    pub fn keeping(&self, keep: Option<Keep>) -> Self {
        Inference { keep, ..self.clone() }
    }

    /// Something to be done, as it is asked for here.
    #[must_use]
    pub fn job(&self, work: Work, traceparent: Option<String>) -> Job {
        Job { id: Uuid::now_v7().to_string(), work, traceparent, keep: self.keep }
    }

    /// Asks, and waits for the first frame. Dropping what it gives stops the model.
    ///
    /// # Errors
    /// [`AskError::Nobody`], [`AskError::Lost`], [`AskError::Malformed`].
    pub async fn ask(&self, job: &Job) -> Result<Frames, AskError> {
        let until = Instant::now() + self.patience;
        let payload = serde_json::to_vec(job).map_err(|e| AskError::Malformed(e.to_string()))?;
        loop {
            let inbox = self.client.new_inbox();
            let frames = self.client.subscribe(inbox.clone()).await.map_err(|e| away(&e))?;
            self.client.publish_with_reply(JOBS, inbox, payload.clone().into()).await.map_err(|e| away(&e))?;
            let mut frames = Frames { client: self.client.clone(), frames, id: Some(job.id.clone()), first: None };
            if let Some(first) = frames.hear().await? {
                frames.first = Some(first);
                return Ok(frames);
            }
            if Instant::now() >= until {
                return Err(AskError::Nobody);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Asks for what is answered by one frame.
    ///
    /// # Errors
    /// Those of [`Inference::ask`], and [`AskError::Failed`].
    pub async fn once(&self, work: Work) -> Result<Frame, AskError> {
        let job = self.job(work, None);
        let mut frames = self.ask(&job).await?;
        loop {
            match frames.next().await? {
                Frame::Failed(failure) => return Err(failure.into()),
                Frame::Cancelled => return Err(AskError::Lost("the inference process gave up".to_owned())),
                frame if frame.is_terminal() => return Ok(frame),
                _ => {}
            }
        }
    }

    /// Makes vectors: the model's id, one vector for each input, and the tokens of all inputs.
    ///
    /// # Errors
    /// Those of [`Inference::once`].
    pub async fn embed(&self, embed: Embed) -> Result<(String, Vec<Vec<f32>>, u64), AskError> {
        let inputs = embed.inputs.len();
        let mut vectors: Vec<Vec<f32>> = vec![Vec::new(); inputs];
        let job = self.job(Work::Embed(embed), None);
        let mut frames = self.ask(&job).await?;
        loop {
            match frames.next().await? {
                Frame::Vectors { first, vectors: some } => {
                    for (at, encoded) in (first..inputs).zip(some) {
                        vectors[at] = decode_vector(&encoded).ok_or_else(|| AskError::Malformed("a vector".into()))?;
                    }
                }
                Frame::Embedded { model, prompt_tokens } if vectors.iter().all(|vector| !vector.is_empty()) => {
                    return Ok((model, vectors, prompt_tokens));
                }
                Frame::Embedded { .. } => return Err(AskError::Lost("a part of the vectors got lost".to_owned())),
                Frame::Failed(failure) => return Err(failure.into()),
                Frame::Cancelled => return Err(AskError::Lost("the inference process gave up".to_owned())),
                _ => {}
            }
        }
    }
}

/// A vector as it travels.
#[must_use]
pub fn encode_vector(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    BASE64.encode(bytes)
}

fn decode_vector(encoded: &str) -> Option<Vec<f32>> {
    let bytes = BASE64.decode(encoded).ok()?;
    let (numbers, []) = bytes.as_chunks::<4>() else { return None };
    Some(numbers.iter().map(|number| f32::from_le_bytes(*number)).collect())
}

/// The frames of an answer. Dropped before its end, it stops the model.
#[derive(Debug)]
pub struct Frames {
    client: Client,
    frames: Subscriber,
    // Until its end.
    id: Option<String>,
    first: Option<Frame>,
}

impl Frames {
    /// The next frame that is no sign of life.
    ///
    /// # Errors
    /// [`AskError::Lost`] after [`SILENCE`], [`AskError::Malformed`].
    pub async fn next(&mut self) -> Result<Frame, AskError> {
        loop {
            let frame = match self.first.take() {
                Some(first) => first,
                None => self.hear().await?.ok_or_else(silence)?,
            };
            if frame.is_terminal() {
                self.id = None;
            }
            if frame != Frame::Alive {
                return Ok(frame);
            }
        }
    }

    // None: nobody listens.
    async fn hear(&mut self) -> Result<Option<Frame>, AskError> {
        let message = tokio::time::timeout(SILENCE, self.frames.next()).await.map_err(|_| silence())?;
        let message = message.ok_or_else(silence)?;
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            self.id = None;
            return Ok(None);
        }
        if let Some(reply) = message.reply {
            self.reply(reply).await;
        }
        serde_json::from_slice(&message.payload).map(Some).map_err(|e| AskError::Malformed(e.to_string()))
    }

    async fn reply(&self, to: Subject) {
        // Unheard, the process stops the model; the silence is noticed here as well.
        let _ = self.client.publish(to, Vec::new().into()).await;
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let client = self.client.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { client.publish(CANCEL, id.into_bytes().into()).await });
        }
    }
}

fn silence() -> AskError {
    AskError::Lost("the inference process fell silent: it died, or was stopped".to_owned())
}

fn away(error: &dyn std::fmt::Display) -> AskError {
    AskError::Lost(format!("the inference processes cannot be reached: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_arrives_as_it_was_sent() {
        let vector = [0.0, -1.5, f32::MIN_POSITIVE, 3.25e7];
        assert_eq!(decode_vector(&encode_vector(&vector)).as_deref(), Some(vector.as_slice()));
        assert_eq!(decode_vector("AAA="), None);
        assert_eq!(decode_vector("no base64"), None);
    }
}
