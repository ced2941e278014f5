//! Any server that speaks OpenAI's API: OpenAI itself, Hugging Face's router, and servers of one's own (integrations.md §8.1,
//! 8.3). Chat completions are always streamed, embeddings are not.

mod audio;
mod body;
mod drawing;
mod moderating;
mod ranking;
mod reading;

use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use serde_json::{Value, json};
use symbia_events::integrations::{AnswerFormat, DroppedParam, ErrorCategory, TaskKind, Usage};
use symbia_nats::enquiry::ListedModel;

use self::reading::Reading;
use super::{
    provider::{
        Answer, ApiKey, Deltas, Drawing, Drawn, Fault, Inputs, Moderated, Moderating, Prompt, Provider, Ranked,
        Ranking, Speaking, Spoken, Transcribed, Transcribing, Vectors, not_done,
    },
    upstream::{Call, Server, content_type, quota_used},
};
use crate::egress_policies::EgressPolicies;

/// Where OpenAI is.
pub const OPENAI: &str = "https://api.openai.com/v1";
/// Where Hugging Face's router is.
pub const HUGGING_FACE: &str = "https://router.huggingface.co/v1";
/// Longest answer of a server that does not stream.
const MAX_BODY: usize = 2 * 1024 * 1024;
/// Longest list of vectors or models, as JSON.
const MAX_VECTORS: usize = 8 * 1024 * 1024;

/// How a server is asked.
#[derive(Clone, Debug)]
pub struct OpenAiOptions {
    /// Base URL, with its version: `https://api.openai.com/v1`.
    pub base_url: String,
    /// The installation's own key; servers of one's own often need none.
    pub key: Option<ApiKey>,
    /// The model of a request that names none.
    pub default_model: String,
    /// The same for embeddings.
    pub default_embedding_model: String,
    /// The same for pictures.
    pub default_image_model: String,
    /// The same for reranking; none: it has to be named.
    pub default_rerank_model: Option<String>,
    /// The same for moderation.
    pub default_moderation_model: String,
    /// The same for speech.
    pub default_speech_model: String,
    /// The same for transcription and translation.
    pub default_transcription_model: String,
    /// Longest silence of the server, before the first byte and between two.
    pub idle: Duration,
}

impl OpenAiOptions {
    /// A server, with the models `gpt-4o-mini` and `text-embedding-3-small` unless told otherwise, and a minute of patience.
    #[must_use]
    pub fn new(base_url: &str, key: Option<ApiKey>) -> Self {
        OpenAiOptions {
            base_url: base_url.trim_end_matches('/').to_owned(),
            key,
            default_model: "gpt-4o-mini".to_owned(),
            default_embedding_model: "text-embedding-3-small".to_owned(),
            default_image_model: "gpt-image-1".to_owned(),
            default_rerank_model: None,
            default_moderation_model: "omni-moderation-latest".to_owned(),
            default_speech_model: "gpt-4o-mini-tts".to_owned(),
            default_transcription_model: "whisper-1".to_owned(),
            idle: Duration::from_secs(60),
        }
    }

    /// Hugging Face's router, or a server in its place.
    #[must_use]
    pub fn hugging_face(base_url: &str, key: Option<ApiKey>) -> Self {
        OpenAiOptions {
            default_model: "meta-llama/Llama-3.2-3B-Instruct".to_owned(),
            default_embedding_model: "sentence-transformers/all-MiniLM-L6-v2".to_owned(),
            ..OpenAiOptions::new(base_url, key)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavour {
    OpenAi,
    HuggingFace,
}

/// The providers `openai` and `huggingface`.
#[derive(Clone, Debug)]
pub struct OpenAi {
    flavour: Flavour,
    options: OpenAiOptions,
    server: Server,
}

impl OpenAi {
    /// The provider `openai`; fails when no HTTP client can be made, or the base URL is none.
    pub fn new(options: OpenAiOptions) -> Result<Self, String> {
        Self::of(Flavour::OpenAi, options)
    }

    /// The provider `huggingface`; fails for the same reasons.
    pub fn hugging_face(options: OpenAiOptions) -> Result<Self, String> {
        Self::of(Flavour::HuggingFace, options)
    }

    fn of(flavour: Flavour, options: OpenAiOptions) -> Result<Self, String> {
        let server = Server::new(&options.base_url, options.key.clone(), options.idle)?;
        Ok(OpenAi { flavour, options, server })
    }

    /// The same, which calls for organizations only what their policies let out.
    #[must_use]
    pub fn narrowed(self, policies: EgressPolicies) -> Self {
        OpenAi { server: self.server.narrowed(policies), ..self }
    }

    fn is_vendors(&self) -> bool {
        [OPENAI, HUGGING_FACE].contains(&self.options.base_url.as_str())
    }

    // Servers of one's own often need no key; the two that are not do.
    fn call<'a>(&'a self, org: &'a str, key: Option<&'a ApiKey>) -> Result<Call<'a>, Fault> {
        let call = self.server.call(org, key);
        if call.key().is_none() && self.is_vendors() {
            return Err(no_key(self.key()));
        }
        Ok(call)
    }

    // For a task that it does, by a model that is named.
    fn task<'a>(
        &'a self,
        kind: TaskKind,
        (org, model): (&'a str, &str),
        key: Option<&'a ApiKey>,
    ) -> Result<Call<'a>, Fault> {
        if !self.does(kind) {
            return Err(not_done(self.key(), kind));
        }
        if model.is_empty() {
            let message = format!("provider '{}' has no usual model for this: name one, as '{0}/<model>'", self.key());
            return Err(Fault::new(ErrorCategory::Validation, "no_model", message));
        }
        self.call(org, key)
    }

    async fn vectors_of_openai(&self, call: Call<'_>, inputs: &Inputs) -> Result<(String, Value, Option<u64>), Fault> {
        let mut body = json!({ "model": inputs.model, "input": inputs.texts, "encoding_format": "float" });
        if let Some(dimensions) = inputs.dimensions {
            body["dimensions"] = json!(dimensions);
        }
        let response = call.post(format!("{}/embeddings", call.base_url()), &body, |r| authorized(r, call)).await?;
        let mut said = call.json(response, MAX_VECTORS).await?;
        let Some(data) = said["data"].as_array_mut() else { return Err(call.invalid("it has no 'data'")) };
        data.sort_by_key(|item| item["index"].as_u64());
        let vectors = data.iter_mut().map(|item| item["embedding"].take()).collect();
        let model = said["model"].as_str().unwrap_or(&inputs.model).to_owned();
        Ok((model, vectors, said["usage"]["prompt_tokens"].as_u64()))
    }

    // The router itself has no embeddings; its feature extraction does.
    async fn vectors_of_hugging_face(&self, call: Call<'_>, inputs: &Inputs) -> Result<(String, Value), Fault> {
        let base = call.base_url().trim_end_matches("/v1");
        let url = format!("{base}/hf-inference/models/{}/pipeline/feature-extraction", inputs.model);
        let response = call.post(url, &json!({ "inputs": inputs.texts }), |r| authorized(r, call)).await?;
        Ok((inputs.model.clone(), call.json(response, MAX_VECTORS).await?))
    }
}

/// Nobody has a key for a provider.
pub(super) fn no_key(provider: &str) -> Fault {
    let variable = provider.to_uppercase();
    let message = format!(
        "there is no key for provider '{provider}': keep one with POST /api/credentials (provider \"{provider}\"), or start \
         the platform with {variable}_API_KEY"
    );
    Fault::new(ErrorCategory::Auth, "no_key", message)
}

fn authorized(request: reqwest::RequestBuilder, call: Call<'_>) -> reqwest::RequestBuilder {
    match call.key() {
        Some(key) => request.bearer_auth(key),
        None => request,
    }
}

#[async_trait]
impl Provider for OpenAi {
    fn key(&self) -> &'static str {
        match self.flavour {
            Flavour::OpenAi => "openai",
            Flavour::HuggingFace => "huggingface",
        }
    }

    fn aliases(&self) -> &'static [&'static str] {
        match self.flavour {
            Flavour::OpenAi => &["openai-compatible"],
            Flavour::HuggingFace => &["hugging-face", "hf"],
        }
    }

    fn default_model(&self) -> &str {
        &self.options.default_model
    }

    fn default_embedding_model(&self) -> Option<&str> {
        Some(&self.options.default_embedding_model)
    }

    fn default_image_model(&self) -> Option<&str> {
        (self.flavour == Flavour::OpenAi).then_some(&*self.options.default_image_model)
    }

    fn is_ready(&self) -> bool {
        self.server.has_key() || !self.is_vendors()
    }

    fn dropped(&self, prompt: &Prompt) -> Vec<DroppedParam> {
        body::dropped(prompt)
    }

    async fn complete(&self, prompt: &Prompt, key: Option<&ApiKey>, deltas: Deltas<'_>) -> Result<Answer, Fault> {
        // Servers of one's own often know grammars.
        if matches!(prompt.options.format, Some(AnswerFormat::Grammar { .. })) && self.is_vendors() {
            let message =
                format!("provider '{}' has no grammars: ask for a JSON schema, or another provider", self.key());
            return Err(Fault::new(ErrorCategory::Validation, "unsupported_parameter", message));
        }
        let call = self.call(&prompt.org, key)?;
        let with = |r: reqwest::RequestBuilder| authorized(r.header("Accept", "text/event-stream"), call);
        let response = call.post(format!("{}/chat/completions", call.base_url()), &body::body(prompt), with).await?;
        let headers = response.headers().clone();
        let quota_used = quota_used(&headers);
        let mut reading = Reading::new(call, headers, prompt);
        if content_type(response.headers()).starts_with("application/json") {
            reading.take(call.json(response, MAX_BODY).await?, deltas)?;
        } else {
            call.frames(response, |data| reading.frame(data, &mut *deltas)).await?;
        }
        Ok(Answer { quota_used, ..reading.end()? })
    }

    async fn models(&self, org: &str, key: Option<&ApiKey>) -> Result<Vec<ListedModel>, Fault> {
        let call = self.call(org, key)?;
        let response = call.get(format!("{}/models", call.base_url()), |r| authorized(r, call)).await?;
        let said = call.json(response, MAX_VECTORS).await?;
        reading::models(&said, self.options.base_url == OPENAI).ok_or_else(|| call.invalid("it has no 'data'"))
    }

    async fn embed(&self, inputs: &Inputs, key: Option<&ApiKey>) -> Result<Vectors, Fault> {
        let call = self.call(&inputs.org, key)?;
        let (model, vectors, counted) = match self.flavour {
            Flavour::OpenAi => self.vectors_of_openai(call, inputs).await?,
            Flavour::HuggingFace => {
                let (model, vectors) = self.vectors_of_hugging_face(call, inputs).await?;
                (model, vectors, None)
            }
        };
        let vectors =
            reading::vectors(&vectors, inputs.texts.len()).ok_or_else(|| call.invalid("its vectors are none"))?;
        let bytes: usize = inputs.texts.iter().map(String::len).sum();
        let tokens = counted.unwrap_or((bytes as u64).div_ceil(4));
        let usage =
            Usage { prompt_tokens: tokens, total_tokens: tokens, estimated: counted.is_none(), ..Usage::default() };
        Ok(Vectors { model, vectors, usage })
    }

    async fn draw(&self, drawing: Drawing<'_>, key: Option<&ApiKey>) -> Result<Drawn, Fault> {
        // Hugging Face's router has no such path.
        if self.flavour == Flavour::HuggingFace {
            let message = format!("provider '{}' makes no pictures; name another provider", self.key());
            return Err(Fault::new(ErrorCategory::Validation, "no_images", message));
        }
        let call = self.call(drawing.org, key)?.patient(drawing::PATIENCE);
        let url = format!("{}/images/generations", call.base_url());
        let response = call.post(url, &drawing::body(&drawing), |r| authorized(r, call)).await?;
        let said = call.json(response, drawing::MAX_BODY).await?;
        drawing::drawn(&said, &drawing).ok_or_else(|| call.invalid("it has no pictures"))
    }

    fn does(&self, kind: TaskKind) -> bool {
        match kind {
            // OpenAI itself has no such path, servers with its API do.
            TaskKind::Rerank => self.flavour == Flavour::OpenAi && !self.is_vendors(),
            TaskKind::Moderation | TaskKind::Speech | TaskKind::Transcription | TaskKind::Translation => {
                self.flavour == Flavour::OpenAi
            }
        }
    }

    fn default_model_for(&self, kind: TaskKind) -> Option<&str> {
        let usual = match kind {
            TaskKind::Rerank => self.options.default_rerank_model.as_deref(),
            TaskKind::Moderation => Some(self.options.default_moderation_model.as_str()),
            TaskKind::Speech => Some(self.options.default_speech_model.as_str()),
            TaskKind::Transcription | TaskKind::Translation => Some(self.options.default_transcription_model.as_str()),
        };
        usual.filter(|_| self.does(kind))
    }

    async fn moderate(&self, moderating: Moderating<'_>, key: Option<&ApiKey>) -> Result<Moderated, Fault> {
        let call = self.task(TaskKind::Moderation, (moderating.org, moderating.model), key)?;
        let url = format!("{}/moderations", call.base_url());
        let response = call.post(url, &moderating::body(&moderating), |r| authorized(r, call)).await?;
        let said = call.json(response, MAX_BODY).await?;
        moderating::moderated(&said, &moderating).ok_or_else(|| call.invalid("its results are none"))
    }

    async fn speak<'a>(&'a self, speaking: Speaking<'a>, key: Option<&'a ApiKey>) -> Result<Spoken<'a>, Fault> {
        let call = self.task(TaskKind::Speech, (speaking.org, speaking.model), key)?.patient(audio::PATIENCE);
        let url = format!("{}/audio/speech", call.base_url());
        let response = call.post(url, &audio::speech(&speaking), |r| authorized(r, call)).await?;
        let media_type = audio::audio_type(content_type(response.headers()), speaking.input.media_type());
        let media_type = media_type.ok_or_else(|| call.invalid("it is no audio"))?;
        Ok(Spoken { media_type, audio: call.pieces(response) })
    }

    async fn transcribe(&self, transcribing: Transcribing<'_>, key: Option<&ApiKey>) -> Result<Transcribed, Fault> {
        let Transcribing { org, kind, model, input, .. } = transcribing;
        let call = self.task(kind, (org, model), key)?.patient(audio::PATIENCE);
        let path = if kind == TaskKind::Translation { "translations" } else { "transcriptions" };
        let (media_type, length, form) = audio::form(transcribing);
        let with = |request: reqwest::RequestBuilder| {
            let request = request.header(CONTENT_TYPE, media_type).header(CONTENT_LENGTH, length);
            authorized(request.body(form), call)
        };
        let response = call.post_as(format!("{}/audio/{path}", call.base_url()), with).await?;
        if content_type(response.headers()).starts_with("text/html") {
            return Err(call.invalid("it is a page for people (text/html)"));
        }
        let said = call.text(response, MAX_BODY).await?;
        audio::transcribed(said, model, input).ok_or_else(|| call.invalid("it has no 'text'"))
    }

    async fn rerank(&self, ranking: Ranking<'_>, key: Option<&ApiKey>) -> Result<Ranked, Fault> {
        let call = self.task(TaskKind::Rerank, (ranking.org, ranking.model), key)?;
        let url = format!("{}/rerank", call.base_url());
        let response = call.post(url, &ranking::body(&ranking), |r| authorized(r, call)).await?;
        let said = call.json(response, MAX_BODY).await?;
        ranking::ranked(&said, &ranking).ok_or_else(|| call.invalid("its results are none"))
    }
}
