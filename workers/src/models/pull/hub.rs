//! Repositories of a hub, by the hub's API: which model files they have, and what those must be.

use reqwest::{StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use symbia_events::models::ModelSource;
use symbia_nats::downloads::Repository;

use super::super::directory::split;
use super::fetch::{get, read};
use super::{Inner, PullError, Reason, WantedFile, plain_name};

/// Bytes of an answer of the hub's API at most.
const LONGEST: usize = 8 << 20;

/// An entry of a repository.
#[derive(Deserialize)]
struct Entry {
    path: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    lfs: Option<Lfs>,
}

/// A large file of it.
#[derive(Deserialize)]
struct Lfs {
    oid: String,
    #[serde(default)]
    size: Option<u64>,
}

/// A repository that was found.
#[derive(Deserialize)]
struct Found {
    id: String,
    #[serde(default)]
    downloads: u64,
    #[serde(default)]
    likes: u64,
    #[serde(default)]
    tags: Vec<String>,
}

fn at(inner: &Inner, path: &str) -> Result<Url, PullError> {
    let hub = inner.options.hub.as_str().trim_end_matches('/');
    let url = format!("{hub}/{path}");
    Url::parse(&url).map_err(|error| PullError::new(Reason::Internal, format!("{url} is no address: {error}")))
}

async fn ask<T: DeserializeOwned>(inner: &Inner, url: Url, missing: &str) -> Result<T, PullError> {
    let answer = get(inner, url, 0).await?;
    match answer.status() {
        StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let message = format!("{missing}, or it wants a token (HF_TOKEN)");
            Err(PullError::new(Reason::NotFound, message))
        }
        status if !status.is_success() => {
            Err(PullError::new(Reason::Unreachable, format!("the hub answers {status}: try again later")))
        }
        _ => {
            let body = read(answer, LONGEST).await?;
            let unread = |error: serde_json::Error| {
                PullError::new(Reason::Unreachable, format!("the hub cannot be understood: {error}"))
            };
            serde_json::from_slice(&body).map_err(unread)
        }
    }
}

pub(super) async fn files(inner: &Inner, source: &ModelSource) -> Result<Vec<WantedFile>, PullError> {
    let ModelSource::Hub { repo, file, revision, sha256 } = source else { return Ok(Vec::new()) };
    let revision = revision.as_deref().unwrap_or("main");
    let url = at(inner, &format!("api/models/{repo}/tree/{revision}?recursive=true"))?;
    let missing = format!("there is no repository {repo} with a revision {revision}");
    let entries: Vec<Entry> = ask(inner, url, &missing).await?;
    let entries = choose(repo, file.as_deref().unwrap_or_default(), entries)?;
    let wanted = |entry: Entry| {
        let (oid, size) = entry.lfs.map_or((None, entry.size), |lfs| (Some(lfs.oid), lfs.size));
        let given = sha256.as_ref().map(|digest| digest.to_ascii_lowercase());
        if let (Some(given), Some(oid)) = (&given, &oid)
            && given != oid
        {
            return Err(PullError::new(Reason::Digest, format!("the hub's file has another digest: {oid}")));
        }
        let sha256 = oid.or(given).ok_or_else(|| {
            PullError::new(Reason::Digest, format!("the hub gives no digest of {}: give it", entry.path))
        })?;
        let url = at(inner, &format!("{repo}/resolve/{revision}/{}", entry.path))?;
        let name = plain_name(entry.path.rsplit('/').next().unwrap_or_default())?.to_owned();
        Ok(WantedFile { name, url, sha256, bytes: size })
    };
    entries.into_iter().map(wanted).collect()
}

/// The file that is meant, or the parts of the split one.
fn choose(repo: &str, part: &str, entries: Vec<Entry>) -> Result<Vec<Entry>, PullError> {
    let wanted = part.to_lowercase();
    let fits = |path: &str| path.to_lowercase().ends_with(".gguf") && path.to_lowercase().contains(&wanted);
    let mut fitting: Vec<Entry> = entries.into_iter().filter(|entry| fits(&entry.path)).collect();
    fitting.sort_by(|a, b| a.path.cmp(&b.path));
    // A whole name means that file, though it is a part of others' names.
    let whole = |entry: &Entry| entry.path == part || entry.path.rsplit('/').next() == Some(part);
    if let Some(exact) = fitting.iter().position(whole) {
        fitting = vec![fitting.swap_remove(exact)];
    }
    let stem = |entry: &Entry| {
        let stem = &entry.path[..entry.path.len() - ".gguf".len()];
        split(stem).map(|(name, count)| (name.to_owned(), count))
    };
    let first = fitting.first().and_then(stem);
    let is_split = |(name, count): &(String, usize)| {
        fitting.len() == *count && fitting.iter().all(|entry| stem(entry).is_some_and(|(other, _)| other == *name))
    };
    match fitting.len() {
        0 if part.is_empty() => Err(PullError::new(Reason::NotFound, format!("{repo} has no .gguf file"))),
        0 => Err(PullError::new(Reason::NotFound, format!("{repo} has no .gguf file with {part:?} in its name"))),
        1 => Ok(fitting),
        _ if first.as_ref().is_some_and(is_split) => Ok(fitting),
        _ => {
            let names: Vec<&str> = fitting.iter().map(|entry| entry.path.as_str()).collect();
            let message = format!("{repo} has several models, say which file: {}", names.join(", "));
            Err(PullError::new(Reason::NotFound, message))
        }
    }
}

pub(super) async fn search(inner: &Inner, query: &str, limit: u32) -> Result<Vec<Repository>, PullError> {
    let mut url = at(inner, "api/models")?;
    let limit = limit.to_string();
    let asked =
        [("search", query), ("filter", "gguf"), ("sort", "downloads"), ("direction", "-1"), ("limit", limit.as_str())];
    url.query_pairs_mut().extend_pairs(asked);
    let found: Vec<Found> = ask(inner, url, "the hub cannot be searched").await?;
    let repository = |found: Found| Repository {
        license: found.tags.iter().find_map(|tag| tag.strip_prefix("license:")).map(str::to_owned),
        repo: found.id,
        downloads: found.downloads,
        likes: found.likes,
    };
    Ok(found.into_iter().map(repository).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(part: &str, paths: &[&str]) -> Result<Vec<String>, Reason> {
        let entries = paths.iter().map(|path| Entry { path: (*path).to_owned(), size: None, lfs: None });
        let chosen = choose("org/name", part, entries.collect()).map_err(|error| error.reason)?;
        Ok(chosen.into_iter().map(|entry| entry.path).collect())
    }

    #[test]
    fn one_model_is_meant_or_it_is_asked_which() {
        let all = ["README.md", "m.Q4_K_M.gguf", "m.Q8_0.gguf"];
        assert_eq!(chosen("q4_k_m", &all), Ok(vec!["m.Q4_K_M.gguf".to_owned()]));
        assert_eq!(chosen("", &all), Err(Reason::NotFound));
        assert_eq!(chosen("F16", &all), Err(Reason::NotFound));
        assert_eq!(chosen("m.gguf", &["m.gguf", "x/m.gguf.gguf"]), Ok(vec!["m.gguf".to_owned()]));
        let parts = ["b/big-00001-of-00002.gguf", "b/big-00002-of-00002.gguf"];
        assert_eq!(chosen("", &parts), Ok(parts.map(str::to_owned).to_vec()));
        assert_eq!(chosen("", &["big-00001-of-00003.gguf", "big-00002-of-00003.gguf"]), Err(Reason::NotFound));
    }
}
