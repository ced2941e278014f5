//! Where models are got from, and how many.

use reqwest::Url;
use symbia_events::models::ModelSource;
use symbia_workers::models::pull::Options;
use zeroize::Zeroizing;

use super::{Config, ConfigError, invalid, number, text};
use crate::inference::models_dir;

const BOOTSTRAP: &str = "MODELS_BOOTSTRAP";

/// How models are got over the network.
#[derive(Clone, Debug)]
pub struct Downloads {
    hub: Url,
    /// For repositories that need one.
    hub_token: Option<Zeroizing<String>>,
    /// Bytes that the model directory may take; none without a limit.
    most_bytes: Option<u64>,
    /// Nothing is got over the network.
    offline: bool,
    /// What is got when the installation begins.
    first: Vec<ModelSource>,
}

impl Downloads {
    pub(super) fn of_environment() -> Result<Self, ConfigError> {
        let hub = text("HF_ENDPOINT")?.unwrap_or_else(|| "https://huggingface.co".to_owned());
        let hub = Url::parse(&hub).map_err(|error| invalid("HF_ENDPOINT", format!("is no address: {error}")))?;
        if !matches!(hub.scheme(), "http" | "https") {
            return Err(invalid("HF_ENDPOINT", "must be an http or https address"));
        }
        Ok(Downloads {
            hub,
            hub_token: text("HF_TOKEN")?.or(text("HUGGINGFACE_TOKEN")?).map(Zeroizing::new),
            most_bytes: number::<u64>("MODELS_DISK_LIMIT_MB")?.map(|mib| mib.saturating_mul(1 << 20)),
            first: text(BOOTSTRAP)?.as_deref().map(first).transpose()?.unwrap_or_default(),
            offline: text("MODELS_OFFLINE")?.as_deref() == Some("true"),
        })
    }
}

/// `hf:ORG/NAME`, `hf:ORG/NAME:FILE` or `package:NAME`, with commas between; or `none`.
fn first(text: &str) -> Result<Vec<ModelSource>, ConfigError> {
    let source = |entry: &str| match entry.split_once(':') {
        Some(("hf", rest)) if rest.contains('/') => {
            let (repo, file) = rest.split_once(':').map_or((rest, None), |(repo, file)| (repo, Some(file.to_owned())));
            Ok(ModelSource::Hub { repo: repo.to_owned(), file, revision: None, sha256: None })
        }
        Some(("package", name)) => Ok(ModelSource::Package { name: name.to_owned() }),
        _ => Err(invalid(BOOTSTRAP, format!("'{entry}' is none of hf:ORG/NAME, hf:ORG/NAME:FILE, package:NAME, none"))),
    };
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty() && *entry != "none");
    entries.map(source).collect()
}

impl Config {
    /// The models that are got when the installation begins; none where nothing may be.
    pub fn first_models(&self) -> Vec<ModelSource> {
        if self.downloads.offline { Vec::new() } else { self.downloads.first.clone() }
    }

    /// How models are got into the model directory.
    pub fn pull_options(&self) -> anyhow::Result<Options> {
        let Downloads { hub, hub_token, most_bytes, offline, .. } = self.downloads.clone();
        Ok(Options { dir: models_dir(self)?, hub, hub_token, rules: self.egress.clone(), most_bytes, offline })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_models_are_repositories_and_packages() {
        let hub = |file: Option<&str>| ModelSource::Hub {
            repo: "a/b".to_owned(),
            file: file.map(str::to_owned),
            revision: None,
            sha256: None,
        };
        let smol = ModelSource::Package { name: "smollm2".to_owned() };
        assert_eq!(
            first("hf:a/b, hf:a/b:Q4_K_M,package:smollm2").ok(),
            Some(vec![hub(None), hub(Some("Q4_K_M")), smol])
        );
        assert_eq!(first("none").ok(), Some(Vec::new()));
        for wrong in ["a/b", "hf:b", "url:a/b"] {
            assert!(first(wrong).is_err_and(|error| error.to_string().contains(wrong)), "{wrong}");
        }
    }
}
