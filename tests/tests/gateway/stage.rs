//! An installation that asks a vendor of the tests' own, and people who use it.

use anyhow::Context;
use serde_json::{Value, json};
use symbia_tests::binary::Installation;

use crate::vendor::Vendor;

pub struct Stage {
    pub house: Installation,
    pub vendor: Vendor,
    pub identity: String,
    pub gateway: String,
    pub http: reqwest::Client,
}

/// Somebody with an organization of their own.
pub struct Person {
    pub id: String,
    pub token: String,
    pub org: String,
}

/// What was answered.
pub struct Answered {
    pub status: u16,
    pub body: Value,
}

impl Stage {
    pub async fn open() -> anyhow::Result<Self> {
        let vendor = Vendor::start().await?;
        Self::with(vendor.clone(), &vendor.variables()).await
    }

    /// Without a vendor: nobody asks the one that is there.
    #[cfg(feature = "llama")]
    pub async fn alone() -> anyhow::Result<Self> {
        Self::with(Vendor::start().await?, &[]).await
    }

    async fn with(vendor: Vendor, variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut house = Installation::new()?;
        let ready = house.start_with(&["--skip-admin"], variables)?;
        let base = |service: &str| -> anyhow::Result<String> {
            Ok(ready["services"][service]
                .as_str()
                .with_context(|| format!("no address of {service}: {ready}"))?
                .to_owned())
        };
        let (identity, gateway) = (base("identity")?, base("integrations")?);
        Ok(Stage { house, vendor, identity, gateway, http: reqwest::Client::new() })
    }

    pub async fn register(&self, name: &str) -> anyhow::Result<Person> {
        let body = json!({ "email": format!("{name}@example.test"), "password": format!("{name}'s password"),
            "name": name, "orgName": name });
        let request = self.http.post(format!("{}/api/auth/register", self.identity)).json(&body);
        let said: Value = request.send().await?.error_for_status()?.json().await?;
        let text = |value: &Value| value.as_str().map(str::to_owned).context("a registration without it");
        Ok(Person {
            id: text(&said["user"]["id"])?,
            token: text(&said["token"])?,
            org: text(&said["organization"]["id"])?,
        })
    }

    /// Asks the gateway.
    pub async fn ask(&self, who: &Person, method: &str, path: &str, body: Option<Value>) -> anyhow::Result<Answered> {
        self.ask_in(who, None, method, path, body).await
    }

    /// The same in another organization than one's own.
    pub async fn ask_in(
        &self,
        who: &Person,
        org: Option<&str>,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Answered> {
        let mut request = self.http.request(method.parse()?, format!("{}{path}", self.gateway)).bearer_auth(&who.token);
        if let Some(org) = org {
            request = request.header("x-org-id", org);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        Ok(Answered { status, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) })
    }
}
