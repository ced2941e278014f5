//! Where models are got from, and how many.

use reqwest::Url;
use symbia_workers::models::pull::Options;
use zeroize::Zeroizing;

use super::{Config, ConfigError, invalid, number, text};
use crate::inference::models_dir;

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
            offline: text("MODELS_OFFLINE")?.as_deref() == Some("true"),
        })
    }
}

impl Config {
    /// How models are got into the model directory.
    pub fn pull_options(&self) -> anyhow::Result<Options> {
        let Downloads { hub, hub_token, most_bytes, offline } = self.downloads.clone();
        Ok(Options { dir: models_dir(self)?, hub, hub_token, rules: self.egress.clone(), most_bytes, offline })
    }
}
