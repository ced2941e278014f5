//! The real binary on a data directory of a test's own.

use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::RecvTimeoutError,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde_json::Value;
use tempfile::TempDir;

/// Ports of the services: what an offset is added to.
const PORTS: [u16; 9] = [5001, 5002, 5003, 5004, 5005, 5006, 5007, 5008, 5054];
/// How long `symbia up` may take on a busy machine.
const READY: Duration = Duration::from_secs(120);
/// How often it is started where it ends at once.
const STARTS: usize = 3;

/// The program under test: `SYMBIA_TEST_BIN`, else the one beside the tests' own.
pub fn program() -> anyhow::Result<PathBuf> {
    let path = match std::env::var_os("SYMBIA_TEST_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            let test = std::env::current_exe()?;
            let target = test.ancestors().nth(2).context("the test does not run from a target directory")?;
            target.join("symbia")
        }
    };
    if !path.exists() {
        bail!("{} is missing: `./test.sh` builds it, or `cargo build -p symbia --no-default-features`", path.display());
    }
    Ok(path)
}

/// What a finished command said.
#[derive(Debug)]
pub struct Said {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// The JSON on standard output.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.out).with_context(|| format!("no JSON: {self:?}"))
    }

    /// Itself, when the exit code is as expected.
    pub fn expect(self, code: i32) -> anyhow::Result<Self> {
        if self.code != code {
            bail!("exit code {} instead of {code}\n{}\n{}", self.code, self.out, self.err);
        }
        Ok(self)
    }
}

/// A data directory, and the `symbia up` that may run on it. Dropping it ends the process and removes the directory.
pub struct Installation {
    program: PathBuf,
    up: Option<Child>,
    log: Option<PathBuf>,
    dir: TempDir,
}

impl Installation {
    /// An empty one.
    pub fn new() -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix("symbia-test-")?;
        // For root the database runs as another account, which must get in.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711))?;
        Ok(Installation { program: program()?, up: None, log: None, dir })
    }

    /// A new one with the keys of another.
    pub fn with_keys_of(other: &Installation) -> anyhow::Result<Self> {
        let new = Self::new()?;
        let (from, to) = (other.data().join("keys"), new.data().join("keys"));
        fs::create_dir_all(&to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
        Ok(new)
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A path for the test's own files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What `symbia up` logs goes into a file from now on.
    pub fn log_to(&mut self, file: &Path) {
        self.log = Some(file.to_owned());
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--data-dir").arg(self.data()).arg("--json").args(arguments);
        command.env_remove("SYMBIA_NATS_URL").env_remove("DATABASE_URL");
        command
    }

    /// Starts `symbia up` and waits until it is ready; gives what it said then.
    pub fn start(&mut self) -> anyhow::Result<Value> {
        self.start_with(&["--skip-admin"], &[])
    }

    /// The same with tokens signed by a secret and without models: neither a signing key nor what was found in a directory
    /// stands in the log, so that its messages can be counted.
    pub fn start_counted(&mut self) -> anyhow::Result<Value> {
        let secret = "87321fbe8fdd08a4b9ec5e770515e6d4b0e14a996b5d1b126f134c402fbd22c1";
        let models = self.file("no-models");
        fs::create_dir_all(&models)?;
        self.start_with(&["--skip-admin"], &[("SESSION_SECRET", secret), ("MODELS_PATH", text(&models))])
    }

    /// The same with further arguments and variables.
    pub fn start_with(&mut self, arguments: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Value> {
        // Ports that were free may be another test's by now.
        for _ in 0..STARTS {
            if let Some(ready) = self.started(arguments, variables)? {
                return Ok(ready);
            }
        }
        bail!("symbia up did not become ready");
    }

    // None: it has ended.
    fn started(&mut self, arguments: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Option<Value>> {
        let offset = free_offset()?.to_string();
        let mut command = self.command(&["up", "--nats-port", "0", "--port-offset", &offset]);
        command.args(arguments).envs(variables.iter().copied());
        if let Some(log) = &self.log {
            command.stderr(fs::File::options().create(true).append(true).open(log)?);
        }
        let mut up = command.stdout(Stdio::piped()).spawn()?;
        let out = up.stdout.take().context("no standard output")?;
        self.up = Some(up);
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            BufReader::new(out).lines().map_while(Result::ok).for_each(|line| _ = sender.send(line));
        });
        let deadline = Instant::now() + READY;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Ok(ready) = serde_json::from_str::<Value>(&line) {
                        return Ok(Some(ready));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let ended = self.up.take().map(|mut up| up.wait()).transpose()?;
                    eprintln!("symbia up ended before it was ready: {ended:?}");
                    return Ok(None);
                }
                Err(RecvTimeoutError::Timeout) => bail!("symbia up did not become ready"),
            }
        }
    }

    /// Tells `symbia up` to stop and waits for it.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut up) = self.up.take() else { return Ok(()) };
        Command::new("kill").arg("-TERM").arg(up.id().to_string()).status()?;
        let status = up.wait()?;
        if !status.success() {
            bail!("symbia up ended with {status}");
        }
        Ok(())
    }

    /// Ends `symbia up` as a crash does (SIGKILL).
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let Some(mut up) = self.up.take() else { return Ok(()) };
        up.kill()?;
        up.wait()?;
        Ok(())
    }

    /// Runs a subcommand to its end.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<Said> {
        self.run_with(arguments, &[])
    }

    /// The same with variables.
    pub fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Said> {
        let mut command = self.command(arguments);
        let Output { status, stdout, stderr } =
            command.envs(variables.iter().copied()).current_dir(self.dir.path()).output()?;
        Ok(Said {
            code: status.code().unwrap_or(-1),
            out: String::from_utf8(stdout)?,
            err: String::from_utf8_lossy(&stderr).into_owned(),
        })
    }

    /// Starts it, to be spoken with over its standard input and output.
    pub fn spawn(&self, arguments: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Child> {
        let mut command = self.command(arguments);
        command.envs(variables.iter().copied()).current_dir(self.dir.path());
        Ok(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    }

    /// The same with something to read on standard input, which then ends.
    pub fn run_fed(&self, arguments: &[&str], variables: &[(&str, &str)], input: &str) -> anyhow::Result<Said> {
        let mut process = self.spawn(arguments, variables)?;
        process.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
        let Output { status, stdout, stderr } = process.wait_with_output()?;
        Ok(Said {
            code: status.code().unwrap_or(-1),
            out: String::from_utf8(stdout)?,
            err: String::from_utf8_lossy(&stderr).into_owned(),
        })
    }

    /// Addresses of the running `symbia up`, with the platform's own credentials: `nats_url`, `database_url`.
    pub fn running(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.data().join("run.json"))?)?)
    }

    /// The broker as the platform itself sees it.
    pub async fn nats(&self) -> anyhow::Result<async_nats::Client> {
        let address: async_nats::ServerAddr = self.running()?["nats_url"].as_str().context("no broker")?.parse()?;
        let (user, password) = (address.username().context("no user")?, address.password().context("no password")?);
        let options = async_nats::ConnectOptions::new().user_and_password(user.to_owned(), password.to_owned());
        Ok(options.connect(address).await?)
    }

    /// Founds an organization.
    pub fn found(&self, number: u32) -> anyhow::Result<Value> {
        let id = organization(number);
        let data = format!(
            r#"{{"orgId":"{id}","name":"Org {number}","slug":"org-{number}","membershipId":"m{number}","ownerId":"u{number}"}}"#
        );
        let (kind, address) =
            ("symbia.cmd.identity.create-organization.v1", format!("identity/{id}/organization/{id}"));
        self.run(&["command", "send", kind, &address, &data])?.expect(0)?.json()
    }

    /// Gives an organization another name.
    pub fn rename(&self, number: u32, name: &str) -> anyhow::Result<Value> {
        let id = organization(number);
        let data = format!(r#"{{"orgId":"{id}","name":"{name}"}}"#);
        let (kind, address) =
            ("symbia.cmd.identity.rename-organization.v1", format!("identity/{id}/organization/{id}"));
        self.run(&["command", "send", kind, &address, &data])?.expect(0)?.json()
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if self.stop().is_err() {
            eprintln!("symbia up did not end as it should");
        }
        // For root the database may lie elsewhere.
        if let Ok(place) = fs::read_to_string(self.data().join("postgres/postgres.location")) {
            let _ = fs::remove_dir_all(place);
        }
    }
}

/// Marks processes: children inherit the variable, whatever account they run as.
pub struct Mark(String);

impl Mark {
    /// Name of the variable.
    pub const VARIABLE: &str = "SYMBIA_TEST_MARK";

    /// A mark that nobody else has.
    #[must_use]
    pub fn new() -> Self {
        Mark(uuid::Uuid::new_v4().to_string())
    }

    /// The variable with its value.
    #[must_use]
    pub fn variable(&self) -> (&str, &str) {
        (Self::VARIABLE, &self.0)
    }

    /// Command lines of the processes that carry it.
    pub fn processes(&self) -> anyhow::Result<Vec<String>> {
        let mark = format!("{}={}", Self::VARIABLE, self.0);
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let process = entry?.path();
            let read = |file: &str| fs::read(process.join(file)).unwrap_or_default();
            // Also other accounts' and processes that end meanwhile: those cannot be read.
            if read("environ").split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
                found.push(String::from_utf8_lossy(&read("cmdline")).replace('\0', " "));
            }
        }
        Ok(found)
    }
}

impl Default for Mark {
    fn default() -> Self {
        Self::new()
    }
}

fn organization(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// An offset that makes every service's port a free one. Two tests that choose the same at the same time are unlikely enough.
pub fn free_offset() -> anyhow::Result<u16> {
    for _ in 0..200 {
        let offset = rand::random_range(2000..27_000);
        if PORTS.iter().all(|port| TcpListener::bind(("0.0.0.0", port + offset)).is_ok()) {
            return Ok(offset);
        }
    }
    bail!("no free ports")
}

/// Waits until a condition holds, at most half a minute.
pub async fn until<F: Future<Output = anyhow::Result<bool>>>(
    what: &str,
    condition: impl Fn() -> F,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition().await? {
        if Instant::now() > deadline {
            bail!("still not so after 30 s: {what}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}
