//! Which providers are asked, with the installation's own keys, whether they are there (integrations.md §28).

use std::time::Duration;

use symbia_workers::integrations::ProbeOptions;

use super::{ConfigError, invalid, number, text};

const PROVIDERS: &str = "SYMBIA_PROBE_PROVIDERS";
const SECONDS: &str = "SYMBIA_PROBE_SECONDS";
/// No provider is asked more often.
const LEAST: u64 = 60;

/// None, until some are named.
pub(super) fn of_environment() -> Result<ProbeOptions, ConfigError> {
    let seconds = number::<u64>(SECONDS)?.unwrap_or(300);
    if !(LEAST..=86_400).contains(&seconds) {
        return Err(invalid(SECONDS, format!("'{seconds}' is not 60 to 86400")));
    }
    let named = text(PROVIDERS)?.unwrap_or_default();
    let named = named.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
    Ok(ProbeOptions { providers: named.collect(), every: Duration::from_secs(seconds) })
}
