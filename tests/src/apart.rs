//! The roles of the platform as processes of the real binary, on servers of a test's own. What dies is started again as a
//! process supervisor would do it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use async_nats::{Client, ConnectOptions};
use symbia_events::{KeyRing, Service};
use symbia_nats::process::free_port;

use crate::{binary::program, cluster::TestServers};

/// A process that plays one role.
pub struct Role {
    /// What it does, for messages.
    pub name: &'static str,
    arguments: Vec<&'static str>,
    environment: Vec<(String, String)>,
    program: PathBuf,
    log: PathBuf,
    process: Option<Child>,
}

impl Role {
    /// Starts the process; its log goes on in the same file.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(command.spawn().with_context(|| format!("cannot start {}", self.name))?);
        Ok(())
    }

    /// Ends the process as a crash does (SIGKILL).
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Fails only when it is gone, which is what was asked for.
            _ = process.kill();
            _ = process.wait();
        }
    }

    /// What it logged since it was started the first time.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Bytes of memory that the process has (Linux).
    pub fn resident(&self) -> anyhow::Result<u64> {
        let id = self.process.as_ref().with_context(|| format!("{} does not run", self.name))?.id();
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    /// Whether the process runs.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| matches!(process.try_wait(), Ok(None)))
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Roles by name, with the arguments of their processes.
pub type Plan = [(&'static str, &'static [&'static str])];

/// A platform whose roles run apart.
pub struct Apart {
    /// In the order of their plan; by default two command workers, the projector and the identity API.
    pub roles: Vec<Role>,
    /// Broker and database.
    pub servers: TestServers,
    ports: BTreeMap<Service, u16>,
}

/// Index of the projector in [`Apart::roles`].
pub const PROJECTOR: usize = 2;
/// Index of the identity API in [`Apart::roles`].
pub const API: usize = 3;

const DEFAULT: &Plan = &[
    ("worker 1", &["work", "--roles", "command,seal"]),
    ("worker 2", &["work", "--roles", "command"]),
    ("projector", &["project"]),
    ("API", &["serve", "--services", "identity"]),
];

impl Apart {
    /// Migrates, and starts every role.
    pub async fn start() -> anyhow::Result<Self> {
        Self::on(TestServers::start().await?)
    }

    /// The same on servers that run.
    pub fn on(servers: TestServers) -> anyhow::Result<Self> {
        Self::with(servers, DEFAULT, &[])
    }

    /// The same with other roles and further variables.
    pub fn with(servers: TestServers, plan: &Plan, variables: &[(&str, String)]) -> anyhow::Result<Self> {
        let mut ports = BTreeMap::new();
        for service in Service::ALL {
            ports.insert(service, free_port()?);
        }
        let mut apart = Apart { roles: Vec::new(), servers, ports };
        apart.run(&["migrate"])?;
        for (name, arguments) in plan {
            apart.add(name, arguments, variables)?;
        }
        Ok(apart)
    }

    /// Starts one more role, with further variables.
    pub fn add(
        &mut self,
        name: &'static str,
        arguments: &[&'static str],
        variables: &[(&str, String)],
    ) -> anyhow::Result<()> {
        let mut environment = self.environment();
        environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let mut role = Role {
            name,
            arguments: arguments.to_vec(),
            environment,
            program: program()?,
            log: self.servers.dir().join(format!("{}.log", name.replace(' ', "-"))),
            process: None,
        };
        role.start()?;
        self.roles.push(role);
        Ok(())
    }

    fn environment(&self) -> Vec<(String, String)> {
        let pairs = [
            ("SYMBIA_DATA_DIR", self.data().display().to_string()),
            ("SYMBIA_NATS_URL", self.servers.nats_url()),
            ("DATABASE_URL", self.servers.database_url()),
            ("HOST", "127.0.0.1".to_owned()),
            // Each writer has an address of its own, so that no rate limit is met.
            ("SYMBIA_TRUSTED_PROXIES", "127.0.0.0/8".to_owned()),
            ("BCRYPT_COST", "4".to_owned()),
        ];
        let pairs = pairs.into_iter().map(|(name, value)| (name.to_owned(), value));
        pairs.chain(self.ports.iter().map(|(service, port)| (service.port_variable(), port.to_string()))).collect()
    }

    /// The role of a name.
    pub fn role(&mut self, name: &str) -> anyhow::Result<&mut Role> {
        self.roles.iter_mut().find(|role| role.name == name).with_context(|| format!("no role '{name}'"))
    }

    /// The data directory that all roles share, for the keys.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.servers.dir().join("data")
    }

    /// Address of a service's API.
    #[must_use]
    pub fn base(&self, service: Service) -> String {
        format!("http://127.0.0.1:{}", self.ports[&service])
    }

    /// Address of the identity API.
    #[must_use]
    pub fn api(&self) -> String {
        self.base(Service::Identity)
    }

    /// Runs a subcommand to its end; what it printed, when it succeeded.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(program()?).args(arguments).envs(self.environment()).output()?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        anyhow::ensure!(output.status.success(), "symbia {arguments:?} ended with {}\n{out}\n{err}", output.status);
        Ok(out.into_owned())
    }

    /// The platform's keys.
    pub fn keys(&self) -> anyhow::Result<KeyRing> {
        Ok(KeyRing::from_json(&fs::read_to_string(self.data().join("keys/ring.json"))?)?)
    }

    /// A connection to the broker that heals as quickly as the platform's own.
    pub async fn nats(&self) -> anyhow::Result<Client> {
        let options = ConnectOptions::new()
            .request_timeout(Some(Duration::from_secs(2)))
            .reconnect_delay_callback(|_| Duration::from_millis(50));
        Ok(options.connect(self.servers.nats_url()).await?)
    }

    /// Status of the API's readiness, or `None` when it does not answer.
    pub async fn readiness(&self) -> Option<u16> {
        reqwest::get(format!("{}/health/ready", self.api())).await.ok().map(|answer| answer.status().as_u16())
    }

    /// The end of every role's log, for the message of a test that fails.
    #[must_use]
    pub fn logs(&self) -> String {
        let last = |text: String| {
            text.lines().rev().take(15).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        self.roles.iter().map(|role| format!("--- {}\n{}\n", role.name, last(role.log()))).collect()
    }
}
