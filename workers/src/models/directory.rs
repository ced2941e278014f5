//! The models of a directory (models.md §8): every complete `.gguf` file of it, the broken ones with the reason.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};
use symbia_nats::inference::{Details, ModelState, ModelStatus};

use super::gguf;

/// How deep folders in the model directory are looked through.
const DEPTH: usize = 4;

/// A model and where its file is.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "llama"), allow(dead_code, reason = "only the engine deletes"))]
pub(super) struct Found {
    pub(super) model: ModelStatus,
    /// Its file, or the first of them.
    pub(super) path: PathBuf,
    /// The other parts of a split one.
    pub(super) others: Vec<PathBuf>,
}

/// A file, or the parts of a split one.
#[derive(Clone, Debug, Default, PartialEq)]
struct Files {
    paths: Vec<PathBuf>,
    /// How many there should be.
    expected: usize,
}

/// Lists the models by id. An error when the directory itself cannot be read.
pub fn scan(directory: &Path) -> std::io::Result<Vec<ModelStatus>> {
    Ok(read(directory, &BTreeMap::new())?.into_values().map(|found| found.model).collect())
}

/// Looks at one file: what it is, or why it cannot be used.
pub fn check(path: &Path) -> Result<Details, String> {
    let header = gguf::read(path).map_err(|error| error.to_string())?;
    details("", &[header])?.ok_or_else(|| "belongs to another model and is none itself".to_owned())
}

/// SHA-256 of a file in hexadecimal. It takes as long as reading it.
pub(super) fn digest(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(&buffer[..read]);
    }
}

/// The models with their paths; files that are among the `known` and have not changed are not read again. Files of the same id
/// are told apart by their paths.
pub(super) fn read(directory: &Path, known: &BTreeMap<String, Found>) -> std::io::Result<BTreeMap<String, Found>> {
    let mut models: BTreeMap<String, Found> = BTreeMap::new();
    for (name, files) in groups(directory)? {
        let Some(mut found) = inspect(directory, &name, &files, known) else { continue };
        if models.contains_key(&found.model.id) {
            found.model.id = format!("{}-{:08x}", found.model.id, fnv(&found.model.filename));
            tracing::warn!(file = found.model.filename, id = found.model.id, "another file has the same id");
        }
        models.insert(found.model.id.clone(), found);
    }
    Ok(models)
}

/// The model that a name means: exactly that id or file, else the first whose name begins with it and a dot.
#[cfg(feature = "llama")]
pub(super) fn find<'m>(models: &'m BTreeMap<String, Found>, name: &str) -> Option<&'m Found> {
    let exact = models.values().find(|found| found.model.id == name || found.model.name == name);
    exact.or_else(|| models.values().find(|found| found.model.is_called(name)))
}

/// The id of a file (models.md §8): lower case, and a dash for everything else than letters, digits and dashes.
pub(super) fn id_of(stem: &str) -> String {
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    stem.to_lowercase().chars().map(plain).collect()
}

// Groups split files by the name they have in common. Sorted, so that ids do not depend on the order on disk.
fn groups(directory: &Path) -> std::io::Result<BTreeMap<String, Files>> {
    let root = directory.canonicalize()?;
    let mut groups: BTreeMap<String, Files> = BTreeMap::new();
    let mut folders = vec![(root.clone(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if depth == 0 => return Err(error),
            Err(_) => continue,
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            // A link out of the directory would make any file readable.
            let Some(real) = path.canonicalize().ok().filter(|real| real.starts_with(&root)) else { continue };
            if real.is_dir() && depth + 1 < DEPTH {
                folders.push((path, depth + 1));
            } else if real.is_file()
                && let Some(stem) = stem(&path)
            {
                let place = path.parent().and_then(|parent| parent.strip_prefix(&root).ok());
                let place = place.map(|place| place.join("")).unwrap_or_default();
                let (name, expected) = match split(stem) {
                    Some((name, count)) => (name, count),
                    None => (stem, 1),
                };
                let group = groups.entry(format!("{}{name}", place.display())).or_default();
                group.expected = expected;
                group.paths.push(path);
            }
        }
    }
    groups.values_mut().for_each(|files| files.paths.sort());
    Ok(groups)
}

fn stem(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    let (stem, extension) = name.rsplit_once('.')?;
    extension.eq_ignore_ascii_case("gguf").then_some(stem)
}

/// `name-00001-of-00003` is a part of `name`, and one of 3.
pub(super) fn split(stem: &str) -> Option<(&str, usize)> {
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    (digits(count) && digits(number)).then_some((name, count.parse().ok()?))
}

// None of what belongs to another model and is none itself: a projector, an adapter.
fn inspect(directory: &Path, name: &str, files: &Files, known: &BTreeMap<String, Found>) -> Option<Found> {
    let (path, others) = files.paths.split_first()?;
    let (path, others) = (path.clone(), others.to_vec());
    let stem = name.rsplit(std::path::MAIN_SEPARATOR).next().unwrap_or(name);
    let root = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let mut model = ModelStatus {
        id: id_of(stem),
        name: stem.to_owned(),
        filename: path.strip_prefix(&root).unwrap_or(&path).display().to_string(),
        ..ModelStatus::default()
    };
    for file in &files.paths {
        let Ok(metadata) = file.metadata() else { continue };
        model.bytes += metadata.len();
        let changed = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        model.modified = model.modified.max(changed.map_or(0, |at| at.as_secs()));
    }
    let same = |known: &&Found| {
        known.path == path && known.model.bytes == model.bytes && known.model.modified == model.modified
    };
    if let Some(known) = known.values().find(same) {
        return Some(Found { model: ModelStatus { id: model.id, ..known.model.clone() }, path, others });
    }
    if files.paths.len() != files.expected {
        model.state = ModelState::Incomplete;
        model.reason = Some(format!("{} of {} parts are here", files.paths.len(), files.expected));
        return Some(Found { model, path, others });
    }
    // Of a split file the first part has the metadata; every part has tensors of its own.
    let headers: Result<Vec<_>, _> = files.paths.iter().map(|file| gguf::read(file)).collect();
    match headers.map_err(|error| error.to_string()).and_then(|headers| details(stem, &headers)) {
        Ok(Some(details)) => model.details = Some(details),
        Ok(None) => return None,
        Err(reason) => {
            model.state = ModelState::Error;
            model.reason = Some(reason);
        }
    }
    Some(Found { model, path, others })
}

fn details(stem: &str, headers: &[gguf::Header]) -> Result<Option<Details>, String> {
    let header = headers.first().ok_or("is no file")?;
    let architecture = header.text("general.architecture").ok_or("names no architecture: it is not a model")?;
    let of = |key: &str| header.number(&format!("{architecture}.{key}"));
    if architecture == "clip" || matches!(header.text("general.type"), Some("mmproj" | "adapter")) {
        return Ok(None);
    }
    let context_length =
        of("context_length").filter(|n| *n > 0).ok_or("gives no context length: it is not a language model")?;
    let vocabulary = header.list_len("tokenizer.ggml.tokens").filter(|n| *n > 0);
    let vocabulary = vocabulary.ok_or("has no vocabulary: it is not a complete model")?;
    let encodes = header.flag(&format!("{architecture}.attention.causal")) == Some(false)
        || architecture.starts_with("t5")
        || architecture.contains("bert");
    // Mean, first and last token; of a reranker there are no vectors.
    let pools = of("pooling_type").is_some_and(|pooling| (1..=3).contains(&pooling));
    let generates = !encodes && !pools;
    let template = header.text("tokenizer.chat_template").unwrap_or_default();
    let abilities = [
        ("chat", generates),
        ("completion", generates),
        ("embedding", !generates),
        ("function_calling", generates && template.contains("<tool_call>")),
        ("reasoning", generates && template.contains("<think>")),
    ];
    Ok(Some(Details {
        title: header.text("general.name").unwrap_or(stem).to_owned(),
        architecture: architecture.to_owned(),
        license: header.text("general.license").map(str::to_owned),
        quantization: header.number("general.file_type").map(quantization),
        parameters: headers.iter().map(|header| header.parameters).fold(0, u64::saturating_add),
        context_length,
        vocabulary,
        embedding_length: of("embedding_length").unwrap_or_default(),
        attention_heads: of("attention.head_count").unwrap_or_default(),
        generates,
        capabilities: abilities.into_iter().filter(|(_, able)| *able).map(|(name, _)| name.to_owned()).collect(),
        cache_bytes_per_token: if generates { cache_bytes_per_token(of) } else { 0 },
    }))
}

// Keys and values of all layers, two bytes each. What the header does not say is taken as llama.cpp takes it.
fn cache_bytes_per_token(of: impl Fn(&str) -> Option<u64>) -> u64 {
    let heads = of("attention.head_count").unwrap_or(1).max(1);
    let of_head = of("embedding_length").unwrap_or_default() / heads;
    let shared = of("attention.head_count_kv").unwrap_or(heads);
    let (key, value) = (of("attention.key_length"), of("attention.value_length"));
    let numbers = key.unwrap_or(of_head).saturating_add(value.unwrap_or(of_head));
    numbers.saturating_mul(shared).saturating_mul(of("block_count").unwrap_or_default()).saturating_mul(2)
}

/// `llama_ftype` of llama.h.
fn quantization(file_type: u64) -> String {
    let name = match file_type {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        25 => "IQ4_NL",
        30 => "IQ4_XS",
        32 => "BF16",
        other => return format!("type {other}"),
    };
    name.to_owned()
}

// FNV-1a: enough to tell a few paths apart.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_original() {
        for (stem, id) in [
            ("Llama-3.2-3B-Q4_K_M", "llama-3-2-3b-q4-k-m"),
            ("mistral-7b-instruct-v0.2.Q4_K_M", "mistral-7b-instruct-v0-2-q4-k-m"),
            ("phi-2.Q4_K_M", "phi-2-q4-k-m"),
            ("a  b", "a--b"),
        ] {
            assert_eq!(id_of(stem), id);
        }
    }

    #[test]
    fn ids_of_a_thousand_names_follow_the_rule_character_by_character() {
        let mut state = 7_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..1000 {
            // What is printed of ASCII, and a few characters beyond it.
            let any = |n: u64| u8::try_from(n).map_or('é', |n| if n < 95 { char::from(b' ' + n) } else { 'Ж' });
            let length = 1 + random(40);
            let stem: String = (0..length).map(|_| any(random(300))).collect();
            let id = stem.bytes().filter_map(|byte| match byte {
                b'A'..=b'Z' => Some(char::from(byte + 32)),
                b'a'..=b'z' | b'0'..=b'9' | b'-' => Some(char::from(byte)),
                // One dash for a character, however many bytes it has.
                0x80..=0xbf => None,
                _ => Some('-'),
            });
            let id: String = id.collect();
            assert_eq!(id_of(&stem), id, "{stem:?}");
            assert_eq!(id_of(&id), id, "an id is its own id");
        }
    }

    #[test]
    fn parts_are_one_model_and_a_link_out_of_the_directory_is_none() {
        let (directory, elsewhere) = (tempfile::tempdir(), tempfile::tempdir());
        let (Ok(directory), Ok(elsewhere)) = (directory, elsewhere) else { unreachable!("no temporary directory") };
        let write = |name: &str| assert!(std::fs::write(directory.path().join(name), b"GGUF").is_ok());
        write("big-00001-of-00003.gguf");
        write("big-00003-of-00003.gguf");
        write("upper.GGUF");
        write("half.gguf.part");
        let secret = elsewhere.path().join("secret.gguf");
        assert!(std::fs::write(&secret, b"GGUF").is_ok());
        assert!(std::os::unix::fs::symlink(&secret, directory.path().join("link.gguf")).is_ok());
        assert!(std::fs::create_dir(directory.path().join("deep")).is_ok());
        write("deep/upper.gguf");

        let models = scan(directory.path()).unwrap_or_default();
        let states: Vec<_> = models.iter().map(|m| (m.name.as_str(), m.state)).collect();
        let expected = [("big", ModelState::Incomplete), ("upper", ModelState::Error), ("upper", ModelState::Error)];
        assert_eq!(states, expected);
        assert_eq!(models[0].reason.as_deref(), Some("2 of 3 parts are here"));
        assert!(models[2].id.starts_with("upper-") && models[1].id == "upper", "{models:?}");
    }
}
