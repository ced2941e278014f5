//! A model without weights: it says what it was told last, always the same, word by word. With it the platform and its tests run
//! where no model can (models.md §10), and in builds without the engine.

use async_nats::{Client, Message as Received, Subject, SubscribeError};
use futures::StreamExt;
use sha2::{Digest, Sha256};
use symbia_nats::inference::{
    BEAT, CENSUS, Choice, Completed, Details, Embed, Failure, FailureKind, FinishReason, Format, Frame, GROUP, Inspect,
    Inspected, JOBS, Job, LoadedModel, ModelState, ModelStatus, Piece, Request, STATUS, Status, ToolCall, ToolChoice,
    Usage, Work, encode_vector,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::text::Output;

/// The model's id.
pub const ID: &str = "stub-echo";
/// Its other name.
pub const NAME: &str = "stub/echo";
const DIMENSIONS: usize = 32;
const CONTEXT: u32 = 4096;

/// Serves jobs until `stop`.
///
/// # Errors
/// The broker is away.
pub async fn run(client: Client, stop: CancellationToken) -> Result<(), SubscribeError> {
    let worker = Uuid::now_v7().to_string();
    let mut jobs = client.queue_subscribe(JOBS, GROUP.to_owned()).await?;
    let mut censuses = client.subscribe(CENSUS).await?;
    let mut beat = tokio::time::interval(BEAT);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = beat.tick() => send(&client, STATUS.into(), &status(&worker, false)).await,
            Some(_) = censuses.next() => send(&client, STATUS.into(), &status(&worker, false)).await,
            job = jobs.next() => match job {
                Some(job) => _ = tokio::spawn(serve(client.clone(), job)),
                None => break,
            },
        }
    }
    send(&client, STATUS.into(), &status(&worker, true)).await;
    let _ = client.flush().await;
    Ok(())
}

async fn send(client: &Client, to: Subject, what: &impl serde::Serialize) {
    if let Err(error) = client.publish(to, serde_json::to_vec(what).unwrap_or_default().into()).await {
        tracing::warn!(%error, "the stub model is not heard");
    }
}

fn status(worker: &str, draining: bool) -> Status {
    let build = env!("CARGO_PKG_VERSION").to_owned();
    Status { worker: worker.to_owned(), build, threads: 1, models: vec![model()], draining, ..Status::default() }
}

fn model() -> ModelStatus {
    let capabilities = ["chat", "completion", "embedding", "function_calling"];
    ModelStatus {
        id: ID.to_owned(),
        name: NAME.to_owned(),
        filename: NAME.to_owned(),
        digest: Some(hex(NAME)),
        details: Some(Details {
            title: "Echo".to_owned(),
            architecture: "stub".to_owned(),
            context_length: CONTEXT.into(),
            embedding_length: DIMENSIONS as u64,
            generates: true,
            capabilities: capabilities.map(str::to_owned).to_vec(),
            ..Details::default()
        }),
        state: ModelState::Loaded,
        loaded: Some(LoadedModel { context_tokens: CONTEXT, parallel: 1, ..LoadedModel::default() }),
        ..ModelStatus::default()
    }
}

fn hex(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn serve(client: Client, message: Received) {
    let Some(reply) = message.reply else { return };
    let frames = match serde_json::from_slice::<Job>(&message.payload) {
        Ok(job) => answer(job.work),
        Err(error) => Err(invalid(format!("the job cannot be read: {error}"))),
    };
    for frame in frames.unwrap_or_else(|failure| vec![Frame::Failed(failure)]) {
        send(&client, reply.clone(), &frame).await;
    }
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::InvalidRequest, message)
}

fn answer(work: Work) -> Result<Vec<Frame>, Failure> {
    known(match &work {
        Work::Generate(request) => request.model.as_deref(),
        Work::Embed(embed) => embed.model.as_deref(),
        Work::Load(load) => Some(&load.model),
        Work::Inspect(inspect) => Some(&inspect.model),
    })?;
    match work {
        Work::Generate(request) => generate(&request),
        Work::Embed(embed) => Ok(vectors(&embed)),
        Work::Load(_) => Ok(vec![Frame::Loaded(Box::new(model()))]),
        Work::Inspect(inspect) => Ok(vec![Frame::Inspected(inspected(inspect)?)]),
    }
}

fn known(name: Option<&str>) -> Result<(), Failure> {
    match name.filter(|name| !name.is_empty()) {
        None => Ok(()),
        Some(name) if model().is_called(name) => Ok(()),
        Some(name) => {
            let message = format!("there is no model {name:?}; here is {ID} only, since MODELS_STUB is set");
            Err(Failure::new(FailureKind::ModelNotFound, message))
        }
    }
}

/// A text's words with the space before them: they are the tokens.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(' ')
}

fn count(text: &str) -> u32 {
    u32::try_from(words(text).count()).unwrap_or(u32::MAX)
}

fn generate(request: &Request) -> Result<Vec<Frame>, Failure> {
    let last = request.messages.iter().rev().find(|message| message.role == "user" || message.role == "tool");
    let said =
        request.prompt.as_ref().or(last.map(|message| &message.content)).ok_or_else(|| invalid("nothing is said"))?;
    let prompt_tokens = request.messages.iter().map(|message| count(&message.content)).sum::<u32>() + count(said);
    if prompt_tokens >= CONTEXT {
        let message = format!("the prompt has {prompt_tokens} tokens, {} too many", prompt_tokens - CONTEXT + 1);
        return Err(Failure::new(FailureKind::PromptTooLong { tokens: prompt_tokens, limit: CONTEXT - 1 }, message));
    }
    let text = match &request.format {
        Format::Text => said.clone(),
        Format::Json => serde_json::json!({ "echo": said }).to_string(),
        Format::Schema(_) | Format::Grammar(_) => {
            let message = "the stub model has no shapes but JSON";
            return Err(Failure::new(FailureKind::InvalidFormat, message));
        }
    };
    let tool = match &request.tool_choice {
        ToolChoice::Required => request.tools.first(),
        ToolChoice::Function(name) => request.tools.iter().find(|tool| tool.name == *name),
        ToolChoice::Auto | ToolChoice::None => None,
    };
    let (pieces, choice, completion_tokens) = match tool {
        Some(tool) => {
            let call =
                ToolCall { id: format!("call_{}", tool.name), name: tool.name.clone(), arguments: "{}".to_owned() };
            let finish_reason = FinishReason::ToolCalls;
            let choice = Choice { tool_calls: vec![call.clone()], finish_reason, ..Choice::default() };
            (vec![Piece::ToolCall(call)], choice, 1)
        }
        None => spoken(&text, request),
    };
    let choices = request.choices.max(1);
    let usage = Usage { prompt_tokens, cached_tokens: 0, completion_tokens: completion_tokens * choices };
    let delta =
        |piece: &Piece| (0..choices).map(|choice| Frame::Delta { choice, piece: piece.clone() }).collect::<Vec<_>>();
    let mut frames = vec![Frame::Started { prompt_tokens, cached_tokens: 0 }];
    frames.extend(pieces.iter().flat_map(delta));
    let choices = vec![choice; choices as usize];
    frames.push(Frame::Completed(Box::new(Completed { model: ID.to_owned(), choices, usage, ..Completed::default() })));
    Ok(frames)
}

/// The text as far as it may be said.
fn spoken(text: &str, request: &Request) -> (Vec<Piece>, Choice, u32) {
    let most = request.max_tokens.map_or(usize::MAX, |most| most as usize);
    let mut output = Output::new(request.stop.clone());
    let (mut pieces, mut choice, mut tokens) = (Vec::new(), Choice::default(), 0u32);
    let mut say = |text: String| {
        if !text.is_empty() {
            choice.text.push_str(&text);
            pieces.push(Piece::Text(text));
        }
    };
    let mut stopped = false;
    for word in words(text).take(most) {
        tokens += 1;
        let piece = output.push(word.as_bytes());
        say(piece.text);
        stopped = piece.stopped;
        if stopped {
            break;
        }
    }
    if !stopped {
        say(output.finish().text);
    }
    if !stopped && (tokens as usize) < words(text).count() {
        choice.finish_reason = FinishReason::Length;
    }
    (pieces, choice, tokens)
}

fn vectors(embed: &Embed) -> Vec<Frame> {
    let vector = |text: &String| {
        let numbers = Sha256::digest(text).iter().map(|byte| f32::from(*byte) - 127.5).collect::<Vec<_>>();
        let length = numbers.iter().map(|number| number * number).sum::<f32>().sqrt();
        encode_vector(&numbers.iter().map(|number| number / length).collect::<Vec<_>>())
    };
    let prompt_tokens = embed.inputs.iter().map(|text| u64::from(count(text))).sum();
    let vectors = embed.inputs.iter().map(vector).collect();
    vec![Frame::Vectors { first: 0, vectors }, Frame::Embedded { model: ID.to_owned(), prompt_tokens }]
}

fn inspected(Inspect { what, .. }: Inspect) -> Result<Inspected, Failure> {
    Ok(match what {
        Inspected::Text(text) => Inspected::Tokens((0..count(&text)).collect()),
        Inspected::Tokens(_) => return Err(invalid("the stub model has no vocabulary")),
        Inspected::Chat(messages, _) => {
            Inspected::Text(messages.iter().map(|message| format!("{}: {}\n", message.role, message.content)).collect())
        }
    })
}

#[cfg(test)]
mod tests {
    use symbia_nats::inference::Message;

    use super::*;

    fn said(request: Request) -> Option<Choice> {
        match generate(&request).ok()?.pop()? {
            Frame::Completed(completed) => completed.choices.into_iter().next(),
            _ => None,
        }
    }

    #[test]
    fn it_says_what_it_was_told_within_the_limits_of_the_request() {
        let ask = || Request::new(vec![Message::new("system", "x"), Message::new("user", "one two three")]);
        let choice = said(ask()).unwrap_or_default();
        assert_eq!((choice.text.as_str(), choice.finish_reason), ("one two three", FinishReason::Stop));
        let cut = said(Request { max_tokens: Some(2), ..ask() }).unwrap_or_default();
        assert_eq!((cut.text.as_str(), cut.finish_reason), ("one two ", FinishReason::Length));
        let stopped = said(Request { stop: vec!["o th".into()], ..ask() }).unwrap_or_default();
        assert_eq!((stopped.text.as_str(), stopped.finish_reason), ("one tw", FinishReason::Stop));
        assert!(known(Some("stub/echo")).is_ok() && known(None).is_ok() && known(Some("pico-chat")).is_err());
    }
}
