//! Which models an API key may ask: its scopes that begin with `model:` name them.

/// What such scopes begin with; then `provider/model`, a model of any provider, or the beginning of one and `*`.
pub const MODEL_SCOPE: &str = "model:";

/// Whether a key with these scopes may ask a model. One that names no models may ask any.
#[must_use]
pub fn may_ask(scopes: &[String], provider: &str, model: &str) -> bool {
    let full = format!("{provider}/{model}");
    let fits = |named: &str| match named.strip_suffix('*') {
        Some(beginning) => full.starts_with(beginning) || model.starts_with(beginning),
        None => named == full || named == model,
    };
    let mut named = scopes.iter().filter_map(|scope| scope.strip_prefix(MODEL_SCOPE)).peekable();
    named.peek().is_none() || named.any(fits)
}

/// Whether one may ask for a route: where its name is named, or every model of it may be asked.
#[must_use]
pub fn may_ask_route<'m>(scopes: &[String], alias: &str, models: impl IntoIterator<Item = (&'m str, &'m str)>) -> bool {
    names_route(scopes, alias) || models.into_iter().all(|(provider, model)| may_ask(scopes, provider, model))
}

/// Whether these scopes name a route, or no models at all.
#[must_use]
pub fn names_route(scopes: &[String], alias: &str) -> bool {
    may_ask(scopes, "", alias)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_asks_the_models_that_its_scopes_name_or_any() {
        let may = |scopes: &[&str], provider, model| {
            may_ask(&scopes.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(), provider, model)
        };
        assert!(may(&[], "openai", "gpt-4o") && may(&["cap:catalog.read"], "openai", "gpt-4o"));
        let scopes = ["model:openai/gpt-4o*", "model:pico-chat", "role:member"];
        assert!(may(&scopes, "openai", "gpt-4o-mini") && may(&scopes, "symbia-labs", "pico-chat"));
        assert!(!may(&scopes, "openai", "o3") && !may(&scopes, "symbia-labs", "pico-chat-2"));
        assert!(!may(&scopes, "huggingface", "x/gpt-4o"));
        let routes = |scopes: &[&str]| {
            let scopes: Vec<String> = scopes.iter().map(|s| (*s).to_owned()).collect();
            may_ask_route(&scopes, "smart", [("openai", "a"), ("anthropic", "b")])
        };
        assert!(routes(&[]) && routes(&["model:smart"]) && routes(&["model:openai/*", "model:b"]));
        assert!(!routes(&["model:openai/*"]) && !routes(&["model:other"]));
        assert!(may(&["model:*"], "anthropic", "claude-3-5-haiku"));
    }
}
