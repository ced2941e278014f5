//! The models of a directory: every `*.gguf` file, the broken ones with the reason.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::gguf;

/// A file of the model directory.
#[derive(Clone, Debug, Serialize)]
pub struct Model {
    /// The file's name without `.gguf`; requests name a model by it, or by the part before its first dot.
    pub name: String,
    /// Where the file is.
    #[serde(skip)]
    pub path: PathBuf,
    /// The file's length in bytes.
    pub bytes: u64,
    /// What its metadata says, or why it cannot be used.
    pub details: Result<Details, String>,
}

/// What a model's metadata says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Details {
    /// `general.name`, or the file's name.
    pub title: String,
    /// `general.architecture`, for example `llama`.
    pub architecture: String,
    /// Tokens of context that the model was trained on.
    pub context_length: u64,
    /// Tokens in its vocabulary.
    pub vocabulary: u64,
    /// Whether it generates text; otherwise it embeds.
    pub generates: bool,
}

/// Lists the models, sorted by name. An error when the directory itself cannot be read.
pub fn scan(directory: &Path) -> std::io::Result<Vec<Model>> {
    Ok(files(directory)?.into_iter().map(|(name, path)| inspect(name, path)).collect())
}

/// The model that `name` means: the file of that name, else the first whose name begins with `name` and a dot.
#[cfg_attr(not(feature = "llama"), allow(dead_code, reason = "only the engine looks one up"))]
pub(super) fn find(directory: &Path, name: &str) -> std::io::Result<Option<(String, PathBuf)>> {
    let files = files(directory)?;
    let begins = |stem: &str| stem.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    let index = files.iter().position(|(stem, _)| stem == name);
    let index = index.or_else(|| files.iter().position(|(stem, _)| begins(stem)));
    Ok(index.and_then(|index| files.into_iter().nth(index)))
}

fn files(directory: &Path) -> std::io::Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".gguf"))
            && path.is_file()
        {
            files.push((name.to_owned(), path));
        }
    }
    files.sort();
    Ok(files)
}

/// Reads one file's header.
pub(super) fn inspect(name: String, path: PathBuf) -> Model {
    let bytes = path.metadata().map_or(0, |metadata| metadata.len());
    let details = gguf::read(&path).map_err(|error| error.to_string()).and_then(|header| details(&name, &header));
    Model { name, path, bytes, details }
}

fn details(name: &str, header: &gguf::Header) -> Result<Details, String> {
    let architecture = header.text("general.architecture").ok_or("names no architecture: it is not a model")?;
    let context_length = header
        .number(&format!("{architecture}.context_length"))
        .filter(|tokens| *tokens > 0)
        .ok_or("gives no context length: it is not a language model")?;
    let vocabulary = header.list_len("tokenizer.ggml.tokens").filter(|tokens| *tokens > 0);
    let encodes = header.flag(&format!("{architecture}.attention.causal")) == Some(false)
        || architecture.starts_with("t5")
        || architecture.contains("bert");
    Ok(Details {
        title: header.text("general.name").unwrap_or(name).to_owned(),
        architecture: architecture.to_owned(),
        context_length,
        vocabulary: vocabulary.ok_or("has no vocabulary: it is not a complete model")?,
        generates: !encodes,
    })
}
