//! People at the terminal: `symbia login`, `orgs`, `users`, `agents`, `keys`, `vault`.
#![allow(missing_docs, reason = "tests")]

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use symbia_tests::binary::{Installation, Said, text};

const PASSWORD: &str = "a-CANARY-password";
const SECRET: &str = "sk-CANARY-0123456789abcdef0123456789";

struct Terminal {
    house: Installation,
    identity: String,
}

impl Terminal {
    async fn open() -> anyhow::Result<Self> {
        let mut house = Installation::new()?;
        let ready = house.start_with(&["--memory", "--skip-admin"], &[])?;
        let identity = ready["services"]["identity"].as_str().context("no address")?.to_owned();
        let http = reqwest::Client::new();
        for name in ["ada", "bob"] {
            let body = json!({ "email": format!("{name}@example.test"), "password": PASSWORD, "name": name,
                "orgName": format!("{name} org") });
            http.post(format!("{identity}/api/auth/register")).json(&body).send().await?.error_for_status()?;
        }
        fs::write(house.file("password"), PASSWORD)?;
        fs::write(house.file("secret"), SECRET)?;
        Ok(Terminal { house, identity })
    }

    fn says(&self, arguments: &[&str]) -> anyhow::Result<Said> {
        let home = self.house.file("");
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--identity-url", &self.identity]).collect();
        self.house.run_with(&arguments, &[("HOME", text(&home))])
    }

    fn does(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        self.says(arguments)?.expect(0)?.json()
    }

    fn login(&self, name: &str) -> anyhow::Result<Value> {
        let file = self.house.file("password");
        self.does(&["login", "--email", &format!("{name}@example.test"), "--password-file", text(&file)])
    }
}

fn id(value: &Value) -> anyhow::Result<String> {
    Ok(value["id"].as_str().with_context(|| format!("no id: {value}"))?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn people_work_from_the_terminal() -> anyhow::Result<()> {
    let terminal = Terminal::open().await?;
    terminal.says(&["whoami"])?.expect(4)?;
    ensure!(terminal.login("ada")?["user"]["email"] == "ada@example.test");
    let kept = terminal.house.file(".symbia/credentials.json");
    ensure!(fs::metadata(&kept)?.permissions().mode() & 0o777 == 0o600);
    ensure!(!fs::read_to_string(&kept)?.contains(PASSWORD), "the password is kept");

    let orgs = terminal.does(&["orgs", "list"])?;
    let own = id(&orgs["organizations"][0])?;
    let made = id(&terminal.does(&["orgs", "create", "Another", "--slug", "another"])?)?;
    terminal.does(&["orgs", "add", &made, "bob@example.test", "--role", "viewer"])?;
    let members = terminal.does(&["orgs", "members", &made])?;
    ensure!(members["members"].as_array().is_some_and(|members| members.len() == 2), "{members}");
    let table = terminal.says(&["users", "list", "--org", &made])?.expect(0)?.json()?;
    ensure!(table["users"].as_array().is_some_and(|users| users.len() == 2), "{table}");
    // Only super admins see all.
    terminal.says(&["users", "list"])?.expect(4)?;

    let agent =
        terminal.does(&["agents", "create", "agent:desk", "--org", &own, "--capabilities", "cap:messaging.send"])?;
    ensure!(agent["credential"].as_str().is_some_and(|credential| credential.len() >= 32), "{agent}");
    terminal.does(&["agents", "deactivate", &id(&agent)?])?;
    let agents = terminal.does(&["agents", "list", "--org", &own])?;
    ensure!(agents["agents"][0]["isActive"] == false, "{agents}");
    ensure!(terminal.does(&["agents", "rotate", &id(&agent)?])?["credential"].is_string());
    // Asked for by hand: it is not undone.
    terminal.says(&["agents", "delete", &id(&agent)?])?.expect(2)?;
    terminal.does(&["agents", "delete", &id(&agent)?, "--force"])?;

    let stored =
        terminal.does(&["vault", "store", "openai", "work", "--secret-file", text(&terminal.house.file("secret"))])?;
    let listed = terminal.says(&["vault", "list"])?.expect(0)?.out;
    ensure!(listed.contains("work") && !listed.contains(SECRET), "{listed}");
    terminal.does(&["vault", "delete", &id(&stored)?])?;

    let key = terminal.does(&["keys", "create", "ci", "--scopes", "cap:identity.read", "--org", &own])?;
    let secret = key["key"].as_str().context("no key")?;
    ensure!(!terminal.says(&["keys", "list"])?.expect(0)?.out.contains(secret));
    fs::write(terminal.house.file("key"), secret)?;
    let file = terminal.house.file("key");
    ensure!(terminal.does(&["login", "--api-key-file", text(&file)])?["user"]["email"] == "ada@example.test");
    // Its scope is to read.
    terminal.says(&["orgs", "rename", &own, "By a key"])?.expect(4)?;

    terminal.login("ada")?;
    terminal.does(&["keys", "revoke", &id(&key)?])?;
    terminal.says(&["login", "--api-key-file", text(&file)])?.expect(4)?;
    ensure!(terminal.does(&["logout"])?["ended"] == true);
    ensure!(!fs::read_to_string(&kept)?.contains("token"), "a token is kept");
    let said = terminal.says(&["orgs", "list"])?.expect(4)?;
    ensure!(said.err.contains("symbia login"), "{said:?}");
    fs::write(terminal.house.file("password"), "not the password")?;
    let wrong = terminal.house.file("password");
    terminal.says(&["login", "--email", "ada@example.test", "--password-file", text(&wrong)])?.expect(4)?;
    Ok(())
}
