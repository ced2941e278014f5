//! Answers the gateway's enquiries: which models a provider has, with whose key is asked for them, and how many tokens a
//! prompt is. The protocol is in [`symbia_nats::enquiry`].

use std::{sync::Arc, time::Duration};

use async_nats::{Client, Message};
use futures::StreamExt;
use moka::sync::Cache;
use symbia_events::integrations::{ErrorCategory, Sampling, Target};
use symbia_nats::{
    enquiry::{ENQUIRIES, Enquiry, Found, GROUP, Prompt as Asked, What},
    pictures::Pictures,
};
use tokio_util::sync::CancellationToken;

use super::{
    accounts::{Accounts, Asker, Lease},
    balance::Standings,
    guarding::{blocked, screen_prompt},
    pictures::bring,
    provider::{Fault, Prompt, Provider, Providers},
    router::{erased, opened},
    routes::{Candidate, Chooser},
};
use crate::content_keys::{ContentKeys, kids};

/// How long a list of models is kept, one that could not be had as well.
const KEPT: Duration = Duration::from_secs(60);
const MOST_KEPT: u64 = 1000;
/// Longest time for one, and for a list of models.
const PATIENCE: Duration = Duration::from_secs(10);
const LIST_PATIENCE: Duration = Duration::from_secs(4);
/// Enquiries at a time.
const AT_ONCE: usize = 16;
/// Pause before subscribing is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// Answers enquiries. Cheap to clone.
#[derive(Clone)]
pub struct Enquiries {
    client: Client,
    providers: Providers,
    accounts: Arc<dyn Accounts>,
    content_keys: ContentKeys,
    pictures: Pictures,
    // By organization, principal and provider: what a key sees is its owner's to know.
    lists: Cache<(String, String, String), Found>,
}

impl Enquiries {
    /// Over providers and the keys for them.
    #[must_use]
    pub fn new(client: Client, providers: Providers, accounts: Arc<dyn Accounts>, content_keys: ContentKeys) -> Self {
        let lists = Cache::builder().max_capacity(MOST_KEPT).time_to_live(KEPT).build();
        let pictures = Pictures::new(client.clone());
        Enquiries { client, providers, accounts, content_keys, pictures, lists }
    }

    /// Answers until it is stopped.
    pub async fn run(self, stop: CancellationToken) {
        let answering = async {
            loop {
                match self.client.queue_subscribe(ENQUIRIES, GROUP.to_owned()).await {
                    Ok(enquiries) => enquiries.for_each_concurrent(AT_ONCE, |message| self.answer(message)).await,
                    Err(error) => tracing::warn!(%error, "enquiries are not heard"),
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::select! { () = answering => {}, () = stop.cancelled() => {} }
    }

    async fn answer(&self, message: Message) {
        let Some(reply) = message.reply else { return };
        let Ok(enquiry) = serde_json::from_slice::<Enquiry>(&message.payload) else { return };
        let found = tokio::time::timeout(PATIENCE, self.found(&enquiry)).await;
        let found = found.unwrap_or_else(|_| failed(Fault::timeout("the provider did not answer", PATIENCE)));
        let payload = serde_json::to_vec(&found).unwrap_or_default();
        // Who asked hears nothing, and does without.
        let _ = self.client.publish(reply, payload.into()).await;
    }

    async fn found(&self, enquiry: &Enquiry) -> Found {
        let asker = Asker { org: &enquiry.org, principal: &enquiry.principal, assistant: None, key: None };
        match &enquiry.what {
            What::Models(provider) => {
                let key = (enquiry.org.clone(), enquiry.principal.clone(), provider.clone());
                if let Some(list) = self.lists.get(&key) {
                    return list;
                }
                let list = tokio::time::timeout(LIST_PATIENCE, self.models(&asker, provider)).await;
                let late = |_| Err(Fault::timeout("the provider told no models", LIST_PATIENCE));
                let list = list.unwrap_or_else(late).unwrap_or_else(failed);
                // What our own models are, and for whom, changes at once.
                if self.providers.find(Some(provider)).is_ok_and(|provider| provider.takes_key()) {
                    self.lists.insert(key, list.clone());
                }
                list
            }
            What::Tokens(prompt) => self.tokens(&asker, prompt).await.unwrap_or_else(failed),
        }
    }

    async fn models(&self, asker: &Asker<'_>, provider: &str) -> Result<Found, Fault> {
        let provider = self.providers.find(Some(provider))?;
        let lease = self.lease(asker, &**provider).await?;
        Ok(Found::Models(provider.models(asker.org, lease.as_ref().map(|lease| &lease.key)).await?))
    }

    async fn tokens(&self, asker: &Asker<'_>, asked: &Asked) -> Result<Found, Fault> {
        let Candidate { provider, model, .. } = self.first(asker.org, asked).await?;
        let more = asked.messages.iter().filter_map(|message| message.more.as_ref());
        let sealed = asked.messages.iter().map(|m| &m.content).chain(more).chain(&asked.options);
        let opener = self.content_keys.opener(kids(sealed)).await.map_err(|_| erased())?;
        let (mut turns, mut options) = opened(&opener, &asked.messages, asked.options.as_ref())?;
        let terms = self.accounts.terms(asker.org).await.map_err(|error| unavailable("guardrails", &error))?;
        if let Some(guards) = &terms.guards
            && let found = screen_prompt(guards, &mut turns, &mut options, &mut Sampling::default())
            && let Some(fault) = blocked(&found, "prompt")
        {
            return Err(fault);
        }
        let brought = bring(&self.pictures, (asker.org, &opener), &asked.messages, &mut turns).await;
        brought.map_err(|error| unavailable("pictures", &error.into()))??;
        let prompt = Prompt {
            org: asker.org.to_owned(),
            request_id: String::new(),
            attempt: 0,
            model,
            turns,
            sampling: Sampling::default(),
            options,
        };
        if !provider.counts() {
            return Ok(Found::Tokens { tokens: prompt.estimated_tokens(), estimated: true });
        }
        let lease = self.lease(asker, &*provider).await?;
        let tokens = provider.count(&prompt, lease.as_ref().map(|lease| &lease.key)).await?;
        Ok(Found::Tokens { tokens, estimated: false })
    }

    // What a request would ask first.
    async fn first(&self, org: &str, asked: &Asked) -> Result<Candidate, Fault> {
        let target = Target { provider: asked.provider.clone(), model: asked.model.clone() };
        let chooser = Chooser {
            providers: &self.providers,
            accounts: &*self.accounts,
            standings: &Standings::default(),
            usual: |provider| provider.default_model().to_owned(),
            able: None,
            conversation: &|| String::new(),
        };
        let chosen = chooser.choose(org, &target, &[], None).await.map_err(|error| unavailable("routes", &error))??;
        chosen.into_iter().next().ok_or_else(|| Fault::new(ErrorCategory::NotFound, "no_provider", "no model is named"))
    }

    async fn lease(&self, asker: &Asker<'_>, provider: &dyn Provider) -> Result<Option<Lease>, Fault> {
        if !provider.takes_key() {
            return Ok(None);
        }
        self.accounts.lease(asker, provider.key(), None).await.map_err(|error| unavailable("keys", &error))
    }
}

fn unavailable(what: &str, error: &anyhow::Error) -> Fault {
    tracing::warn!(%error, what, "not looked up");
    Fault::new(ErrorCategory::Internal, "unavailable", format!("{what} cannot be looked up at the moment; try again"))
}

fn failed(fault: Fault) -> Found {
    Found::Failed { category: fault.category, code: fault.code, message: fault.message }
}
