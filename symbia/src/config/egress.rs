//! Where calls to addresses that others chose may go (integrations.md §17.4).

use symbia_egress::Rules;
use zeroize::Zeroizing;

use super::{ConfigError, invalid, text};

/// In development, servers on this machine are called too. Never those that the platform itself stands on.
pub(super) fn rules(production: bool) -> Result<Rules, ConfigError> {
    let usual = || if production { Rules::default() } else { Rules::development() };
    let mut own = Vec::new();
    for variable in ["SYMBIA_NATS_URL", "SYMBIA_NATS_MONITOR_URL", "SYMBIA_NATS_CALLOUT_URL", "DATABASE_URL"] {
        for url in text(variable)?.map(Zeroizing::new).iter().flat_map(|list| list.split(',')) {
            let host = reqwest::Url::parse(url.trim()).ok().and_then(|url| url.host_str().map(str::to_owned));
            own.extend(host.filter(|host| host != "localhost"));
        }
    }
    Ok(listed("SYMBIA_EGRESS_ALLOW")?.unwrap_or_else(usual).denying(own))
}

/// The rules that a variable lists.
pub(super) fn listed(variable: &str) -> Result<Option<Rules>, ConfigError> {
    let parse = |list: String| {
        Rules::parse(&list).map_err(|entry| {
            let what = "is neither a network (10.0.0.0/8) nor a host (models.example, *.example)";
            invalid(variable, format!("'{entry}' {what}"))
        })
    };
    text(variable)?.map(parse).transpose()
}
