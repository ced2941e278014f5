//! What the inference process takes is what it says that it takes.

use std::{collections::HashSet, path::Path, time::Duration};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use symbia_nats::inference::{Census, Embed, Frame, Inference, Message, Request, Status, Work};
use symbia_tests::{
    apart::{Apart, Plan},
    cluster::TestServers,
};

use super::stage::shipped;

type Tested = anyhow::Result<()>;

const PLAN: &Plan = &[("inference", &["work", "--roles", "inference"])];
const PATIENCE: Duration = Duration::from_secs(120);
const SEQUENCES: u32 = 32;
const CONTEXT: u32 = 1024;

/// The small model with another length of context written into its file: it says nothing sensible, but takes as much as one.
fn stretch(directory: &Path) -> anyhow::Result<()> {
    let mut file = std::fs::read(shipped().join("pico-chat.q8_0.gguf"))?;
    let key = b"llama.context_length";
    let at = file.windows(key.len()).position(|window| window == key).context("no length")? + key.len() + 4;
    file[at..at + 4].copy_from_slice(&CONTEXT.to_le_bytes());
    Ok(std::fs::write(directory.join("long.gguf"), file)?)
}

/// A process with some models, and what it took before it loaded one.
struct Measured {
    apart: Apart,
    inference: Inference,
    census: Census,
    before: u64,
}

impl Measured {
    async fn start(models: &Path) -> anyhow::Result<Self> {
        let variables = [
            ("MODELS_PATH", models.display().to_string()),
            ("MODELS_PARALLEL_SLOTS", SEQUENCES.to_string()),
            ("MODELS_DEFAULT_CTX", CONTEXT.to_string()),
        ];
        let apart = Apart::with(TestServers::start().await?, PLAN, &variables)?;
        let nats = apart.nats().await?;
        let (inference, census) = (Inference::new(nats.clone(), PATIENCE), Census::listen(nats));
        ensure!(census.wait_until(PATIENCE, |all| !all.is_empty()).await, "no process\n{}", apart.logs());
        let before = apart.roles[0].resident()?;
        Ok(Measured { apart, inference, census, before })
    }

    /// What is taken is what is accounted, a tenth more or less.
    async fn check(&self, what: &str) -> Tested {
        let is_loaded = |all: &[Status]| all.iter().flat_map(|told| &told.models).any(|model| model.loaded.is_some());
        ensure!(self.census.wait_until(PATIENCE, is_loaded).await, "nothing is loaded");
        let taken = self.apart.roles[0].resident()? - self.before;
        let told = self.census.workers();
        let loaded = told.iter().flat_map(|told| &told.models).find_map(|model| model.loaded).context("gone")?;
        let used = told.iter().map(|told| told.memory_used).sum::<u64>();
        let (most, least) = (used * 11 / 10, used * 9 / 10);
        println!("{what}: {taken} bytes are taken of {loaded:?}");
        ensure!((least..=most).contains(&taken), "{what}: {taken} bytes are taken, not {least} to {most}: {loaded:?}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_accounted_for_is_what_is_taken() -> Tested {
    let directory = tempfile::tempdir()?;
    stretch(directory.path())?;
    let measured = Measured::start(directory.path()).await?;
    // Each begins in another way, so that none has anything of another's, and is as long as a context.
    let inference = &measured.inference;
    let asked = (0..SEQUENCES).map(|n| async move {
        let text = format!("{n}{n} {}", "Anna likes tea. ".repeat(CONTEXT as usize / 10));
        let messages = vec![Message::new("user", text)];
        let request =
            Request { model: Some("long".into()), max_tokens: None, ignore_eos: true, ..Request::new(messages) };
        inference.once(Work::Generate(Box::new(request))).await
    });
    let mut lengths = HashSet::new();
    for answer in try_join_all(asked).await? {
        let Frame::Completed(completed) = answer else { anyhow::bail!("no answer: {answer:?}") };
        lengths.insert(completed.usage.prompt_tokens + completed.usage.completion_tokens);
    }
    ensure!(lengths == HashSet::from([CONTEXT]), "full contexts: {lengths:?}");
    measured.check("32 full contexts").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_vectors_is_accounted_for_as_well() -> Tested {
    let directory = tempfile::tempdir()?;
    std::fs::copy(shipped().join("all-minilm-l6-v2.q8_0.gguf"), directory.path().join("minilm.gguf"))?;
    let measured = Measured::start(directory.path()).await?;
    let inputs = vec!["word ".repeat(500); 4];
    measured.inference.embed(Embed { model: Some("minilm".into()), inputs, ..Embed::default() }).await?;
    measured.check("4 long texts").await
}
