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
    pub models: String,
    pub messaging: String,
    pub network: String,
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
        Self::with(Installation::new()?, &["--skip-admin"], vendor.clone(), &vendor.variables())
    }

    /// With a Telegram of the tests' own.
    pub async fn with_telegram(base: &str) -> anyhow::Result<Self> {
        Self::with(Installation::new()?, &["--skip-admin"], Vendor::start().await?, &[("TELEGRAM_BASE_URL", base)])
    }

    /// The same once more, after it died.
    pub async fn restart_with_telegram(&mut self, base: &str) -> anyhow::Result<()> {
        self.restart_with(&[("TELEGRAM_BASE_URL", base)])
    }

    /// The same once more, after it ended, with these variables.
    pub fn restart_with(&mut self, variables: &[(&str, &str)]) -> anyhow::Result<()> {
        let ready = self.house.start_with(&["--skip-admin"], variables)?;
        self.find(&ready)
    }

    fn find(&mut self, ready: &Value) -> anyhow::Result<()> {
        for (service, base) in [
            ("identity", &mut self.identity),
            ("integrations", &mut self.gateway),
            ("models", &mut self.models),
            ("messaging", &mut self.messaging),
            ("network", &mut self.network),
        ] {
            let found = ready["services"][service].as_str();
            found.with_context(|| format!("no address of {service}: {ready}"))?.clone_into(base);
        }
        Ok(())
    }

    /// The same with further variables.
    pub async fn with_variables(more: &[(&str, &str)]) -> anyhow::Result<Self> {
        let vendor = Vendor::start().await?;
        let usual = vendor.variables();
        Self::with(Installation::new()?, &["--skip-admin"], vendor.clone(), &[&usual[..], more].concat())
    }

    /// Without a vendor: nobody asks the one that is there.
    #[cfg(feature = "llama")]
    pub async fn alone() -> anyhow::Result<Self> {
        Self::with(Installation::new()?, &["--skip-admin"], Vendor::start().await?, &[])
    }

    /// The same, with no model.
    #[cfg(feature = "llama")]
    pub async fn without_models() -> anyhow::Result<Self> {
        let house = Installation::new()?;
        let models = house.file("no-models");
        std::fs::create_dir(&models)?;
        let variables = [("MODELS_PATH", models.to_str().context("a path")?)];
        Self::with(house, &["--skip-admin"], Vendor::start().await?, &variables)
    }

    /// The same, with a super admin.
    #[cfg(feature = "llama")]
    pub async fn administered() -> anyhow::Result<(Self, Person)> {
        Self::with_admin(Vendor::start().await?, &[]).await
    }

    /// The same, asking the vendor.
    pub async fn administered_with_vendor() -> anyhow::Result<(Self, Person)> {
        let vendor = Vendor::start().await?;
        Self::with_admin(vendor.clone(), &vendor.variables()).await
    }

    async fn with_admin(vendor: Vendor, variables: &[(&str, &str)]) -> anyhow::Result<(Self, Person)> {
        let house = Installation::new()?;
        let password = house.file("password");
        std::fs::write(&password, "root's password")?;
        let file = password.to_str().context("a path")?;
        let admin = ["--admin-name", "root", "--admin-email", "root@example.test", "--admin-org", "root"];
        let stage = Self::with(house, &[&admin[..], &["--admin-password-file", file]].concat(), vendor, variables)?;
        let body = json!({ "email": "root@example.test", "password": "root's password" });
        let root = stage.enter("login", body).await?;
        Ok((stage, root))
    }

    /// An installation, with these arguments and variables.
    pub fn with(
        mut house: Installation,
        arguments: &[&str],
        vendor: Vendor,
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let ready = house.start_with(arguments, variables)?;
        let [identity, gateway, models, messaging, network] = [const { String::new() }; 5];
        let http = reqwest::Client::new();
        let mut stage = Stage { house, vendor, identity, gateway, models, messaging, network, http };
        stage.find(&ready)?;
        Ok(stage)
    }

    /// Ends the installation as a crash does, and starts it again, with the same vendor.
    pub fn crash(self) -> anyhow::Result<Self> {
        let Stage { mut house, vendor, .. } = self;
        house.kill()?;
        Self::with(house, &["--skip-admin"], vendor.clone(), &vendor.variables())
    }

    /// Makes an API key of somebody's: its id, and itself.
    pub async fn mint(&self, who: &Person, scopes: Value) -> anyhow::Result<(String, String)> {
        let new = json!({ "name": "for the shop", "scopes": scopes, "expiresInDays": 30 });
        let minted = self.http.post(format!("{}/api/api-keys", self.identity)).bearer_auth(&who.token).json(&new);
        let minted: Value = minted.send().await?.error_for_status()?.json().await?;
        let text = |name: &str| minted[name].as_str().map(str::to_owned).context("a key without it");
        Ok((text("id")?, text("key")?))
    }

    pub async fn register(&self, name: &str) -> anyhow::Result<Person> {
        let body = json!({ "email": format!("{name}@example.test"), "password": format!("{name}'s password"),
            "name": name, "orgName": name });
        self.enter("register", body).await
    }

    async fn enter(&self, door: &str, body: Value) -> anyhow::Result<Person> {
        let request = self.http.post(format!("{}/api/auth/{door}", self.identity)).json(&body);
        let said: Value = request.send().await?.error_for_status()?.json().await?;
        let text = |value: &Value| value.as_str().map(str::to_owned).context("a registration without it");
        Ok(Person {
            id: text(&said["user"]["id"])?,
            token: text(&said["token"])?,
            org: text(&said["organization"]["id"]).or_else(|_| text(&said["user"]["organizations"][0]["id"]))?,
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
        self.asked(&self.gateway, who, org, method, path, body).await
    }

    /// Asks another service.
    pub async fn ask_at(
        &self,
        base: &str,
        who: &Person,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Answered> {
        self.asked(base, who, None, method, path, body).await
    }

    async fn asked(
        &self,
        base: &str,
        who: &Person,
        org: Option<&str>,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Answered> {
        let mut request = self.http.request(method.parse()?, format!("{base}{path}")).bearer_auth(&who.token);
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
