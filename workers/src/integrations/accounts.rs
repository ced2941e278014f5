//! Whose key, whose budget, which price: what the router looks up before it asks a provider.

use std::sync::Arc;

use async_trait::async_trait;
use symbia_commands::integrations::Guards;
use symbia_events::integrations::{BudgetPeriod, BudgetScope, BudgetUnit, Cost, TaskUnits, TokenPrice, Usage};

use super::{provider::ApiKey, routes::RouteTerms};

/// A key of the vault, lent for one call.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The key.
    pub key: ApiKey,
    /// Its id in the vault.
    pub credential_id: String,
    /// It is another one's, shared with the organization.
    pub is_proxy: bool,
}

/// A budget that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetTerms {
    /// Id.
    pub id: String,
    /// Whose use counts.
    pub scope: BudgetScope,
    /// The user, assistant or model.
    pub subject: Option<String>,
    /// How often it begins anew.
    pub period: BudgetPeriod,
    /// What is counted.
    pub unit: BudgetUnit,
    /// How much of it.
    pub limit: u64,
}

/// The price of a model, in millionths of a US dollar for a million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PriceTerms {
    /// For reading.
    pub input: u64,
    /// For writing.
    pub output: u64,
    /// For reading from the provider's cache.
    pub cached_input: Option<u64>,
    /// For a picture, besides its tokens.
    pub image: Option<u64>,
    /// For a request that is a task.
    pub request: Option<u64>,
    /// For a million spoken characters.
    pub characters: Option<u64>,
    /// For an hour of audio that is listened to.
    pub audio_hour: Option<u64>,
    /// Which version of the price.
    pub version: u64,
}

/// What a request takes, or is likely to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Tokens.
    pub usage: Usage,
    /// Pictures that are made.
    pub pictures: u32,
    /// Whether it is a task, whose request as such may have a price.
    pub is_task: bool,
    /// Characters and audio.
    pub units: TaskUnits,
}

impl From<Usage> for Taken {
    fn from(usage: Usage) -> Self {
        Taken { usage, ..Taken::default() }
    }
}

fn share(amount: u64, price: u64, of: u128) -> u64 {
    let cost = (u128::from(amount) * u128::from(price)).div_ceil(of);
    u64::try_from(cost).unwrap_or(u64::MAX)
}

impl PriceTerms {
    /// What tokens cost; parts of a millionth are rounded up.
    #[must_use]
    pub fn of(&self, usage: &Usage) -> Cost {
        self.of_all(&Taken::from(*usage))
    }

    /// What all of it costs: what is read and listened to as input, what is made as output, and the request as such as input.
    #[must_use]
    pub fn of_all(&self, taken: &Taken) -> Cost {
        const AN_HOUR: u128 = 3_600_000;
        let (tokens, units) = (self.tokens().of(&taken.usage), taken.units);
        let request = self.request.filter(|_| taken.is_task).unwrap_or(0);
        let audio = share(units.audio_ms.unwrap_or(0), self.audio_hour.unwrap_or(0), AN_HOUR);
        let input_micros = tokens.input_micros.saturating_add(request).saturating_add(audio);
        let pictures = self.image.unwrap_or(0).saturating_mul(taken.pictures.into());
        let spoken = share(units.characters.unwrap_or(0), self.characters.unwrap_or(0), 1_000_000);
        let output_micros = tokens.output_micros.saturating_add(pictures).saturating_add(spoken);
        let total_micros = input_micros.saturating_add(output_micros);
        Cost { input_micros, output_micros, total_micros, ..tokens }
    }

    /// That of tokens alone.
    #[must_use]
    pub fn tokens(&self) -> TokenPrice {
        TokenPrice { input: self.input, output: self.output, cached_input: self.cached_input, version: self.version }
    }
}

/// Whose request it is.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The organization.
    pub org: &'a str,
    /// The person or agent whose keys and budgets count.
    pub principal: &'a str,
    /// The assistant that asks for them.
    pub assistant: Option<&'a str>,
    /// The API key that it was asked with.
    pub key: Option<&'a str>,
}

impl BudgetTerms {
    /// Whether a request counts.
    #[must_use]
    pub fn counts(&self, asker: &Asker<'_>, model: &str) -> bool {
        let subject = self.subject.as_deref();
        match self.scope {
            BudgetScope::Org => true,
            BudgetScope::User => subject == Some(asker.principal),
            BudgetScope::Key => subject.is_some() && subject == asker.key,
            BudgetScope::Assistant => subject.is_some() && subject == asker.assistant,
            BudgetScope::Model => subject == Some(model),
        }
    }

    /// Whose it is, for people.
    #[must_use]
    pub fn whose(&self) -> String {
        let subject = self.subject.as_deref().unwrap_or_default();
        match self.scope {
            BudgetScope::Org => "the organization".to_owned(),
            BudgetScope::User => format!("user {subject}"),
            BudgetScope::Key => format!("key {subject}"),
            BudgetScope::Assistant => format!("assistant {subject}"),
            BudgetScope::Model => format!("model {subject}"),
        }
    }
}

/// What an organization has set for all its requests; looked up at once.
#[derive(Clone, Debug)]
pub struct OrgTerms {
    /// Its budgets.
    pub budgets: Arc<[BudgetTerms]>,
    /// Its guardrails, if it has any.
    pub guards: Option<Arc<Guards>>,
}

/// Looks it up. An error means that nobody could be asked; the request waits.
#[async_trait]
pub trait Accounts: Send + Sync + 'static {
    /// Lends a key for a provider: the one that is named, else the principal's own, else one shared with the organization.
    /// That it is lent is on record before it is.
    async fn lease(&self, asker: &Asker<'_>, provider: &str, named: Option<&str>) -> anyhow::Result<Option<Lease>>;
    /// The budgets of an organization.
    async fn budgets(&self, org: &str) -> anyhow::Result<Arc<[BudgetTerms]>>;
    /// The budgets and guardrails of an organization.
    async fn terms(&self, org: &str) -> anyhow::Result<OrgTerms> {
        Ok(OrgTerms { budgets: self.budgets(org).await?, guards: None })
    }
    /// The scopes of an API key, which may name the models that it may ask; none where the key is not accepted any more.
    async fn scopes(&self, key: &str) -> anyhow::Result<Option<Arc<[String]>>>;
    /// The price of a model.
    async fn price(&self, provider: &str, model: &str) -> anyhow::Result<Option<PriceTerms>>;
    /// The route of an organization with this name.
    async fn route(&self, _org: &str, _alias: &str) -> anyhow::Result<Option<Arc<RouteTerms>>> {
        Ok(None)
    }
}

/// No keys, no budgets, no prices.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoAccounts;

#[async_trait]
impl Accounts for NoAccounts {
    async fn lease(&self, _asker: &Asker<'_>, _provider: &str, _named: Option<&str>) -> anyhow::Result<Option<Lease>> {
        Ok(None)
    }

    async fn budgets(&self, _org: &str) -> anyhow::Result<Arc<[BudgetTerms]>> {
        Ok(Arc::from([]))
    }

    async fn scopes(&self, _key: &str) -> anyhow::Result<Option<Arc<[String]>>> {
        Ok(Some(Arc::from([])))
    }

    async fn price(&self, _provider: &str, _model: &str) -> anyhow::Result<Option<PriceTerms>> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_tokens_have_a_price_of_their_own_and_nothing_is_rounded_away() {
        let price = PriceTerms {
            input: 2_500_000,
            output: 10_000_000,
            cached_input: Some(1_250_000),
            image: Some(7),
            request: Some(2000),
            characters: Some(15_000_000),
            audio_hour: Some(360_000),
            version: 3,
        };
        let usage = Usage {
            prompt_tokens: 1000,
            completion_tokens: 10,
            total_tokens: 1010,
            cached_prompt_tokens: Some(400),
            estimated: false,
        };
        let expected = Cost { input_micros: 2000, output_micros: 100, total_micros: 2100, price_version: 3 };
        assert_eq!(price.of(&usage), expected);
        assert_eq!(price.of_all(&Taken { pictures: 2, ..usage.into() }).total_micros, 2114);
        let spoken = TaskUnits { characters: Some(11), audio_ms: None };
        let heard = TaskUnits { characters: None, audio_ms: Some(90_001) };
        let task = |units| price.of_all(&Taken { is_task: true, units, ..Taken::default() });
        assert_eq!((task(spoken).input_micros, task(spoken).output_micros), (2000, 165));
        assert_eq!((task(heard).input_micros, task(heard).output_micros), (11_001, 0));
        let one = Usage { prompt_tokens: 1, total_tokens: 1, ..Usage::default() };
        assert_eq!(PriceTerms { input: 20_000, ..price }.of(&one).input_micros, 1);
    }
}
