//! The installation's own clients at providers of accounts (integrations.md §14).

use symbia_commands::integrations::PRESETS;
use symbia_projections::integrations::{OwnClient, OwnClients};
use zeroize::Zeroizing;

use super::{ConfigError, invalid, text};

/// `OAUTH_<PROVIDER>_CLIENT_ID` and `_SECRET`, or the same without `OAUTH_`, for the providers whose addresses are known.
pub(super) fn own_clients() -> Result<OwnClients, ConfigError> {
    own_clients_of(&|name| text(name))
}

fn own_clients_of(variable: &dyn Fn(&str) -> Result<Option<String>, ConfigError>) -> Result<OwnClients, ConfigError> {
    let mut own = OwnClients::default();
    for preset in PRESETS {
        for prefix in ["OAUTH_", ""] {
            let base = format!("{prefix}{}_CLIENT", preset.provider.to_uppercase());
            let (id_name, secret_name) = (format!("{base}_ID"), format!("{base}_SECRET"));
            match (variable(&id_name)?, variable(&secret_name)?.map(Zeroizing::new)) {
                (None, None) => continue,
                (Some(client_id), Some(secret)) => {
                    let (display_name, endpoints) = (preset.name.to_owned(), preset.endpoints());
                    own = own.with(preset.provider, OwnClient { display_name, endpoints, client_id, secret });
                    break;
                }
                // Other programs may have a variable of the shorter name.
                _ if prefix.is_empty() => continue,
                (Some(_), None) => return Err(invalid(&id_name, format!("goes together with {secret_name}"))),
                (None, Some(_)) => return Err(invalid(&secret_name, format!("goes together with {id_name}"))),
            }
        }
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(set: &[(&str, &str)]) -> Result<Vec<(String, String)>, String> {
        let variable = |name: &str| Ok(set.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned()));
        let own = own_clients_of(&variable).map_err(|error| error.to_string())?;
        Ok(own.all("acme").map(|client| (client.id, client.client_id)).collect())
    }

    #[test]
    fn a_client_has_an_id_and_a_secret_under_either_name() {
        let github = [("GITHUB_CLIENT_ID", "b"), ("GITHUB_CLIENT_SECRET", "s")];
        let both = [&github[..], &[("OAUTH_GITHUB_CLIENT_ID", "a"), ("OAUTH_GITHUB_CLIENT_SECRET", "s")]].concat();
        let named = |id: &str| Ok(vec![("github".to_owned(), id.to_owned())]);
        assert_eq!((own(&github), own(&both)), (named("b"), named("a")));
        assert_eq!((own(&[("GITHUB_CLIENT_ID", "b")]), own(&[])), (Ok(Vec::new()), Ok(Vec::new())));
        let half = own(&[("OAUTH_SLACK_CLIENT_ID", "a")]);
        assert!(half.is_err_and(|error| error.contains("OAUTH_SLACK_CLIENT_SECRET")));
    }
}
