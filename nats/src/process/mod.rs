//! Child processes that outlive their own crashes and never outlive us: start, restart with backoff, stop.

mod binary;
mod leftover;
mod log;

pub use binary::{FoundBinary, Version, on_path, version_of};
pub use leftover::{DirectoryLock, end_leftover};
pub use log::tail;
pub use rustix::process::Signal;

use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use rustix::process::{Pid, WaitId, WaitIdOptions, kill_process, waitid};

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// A child that lived this long was healthy: its next crash starts again at the first backoff.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// How long a dropped child may take to obey before it is killed.
const DROP_GRACE: Duration = Duration::from_secs(5);

/// How to start a child, the first time and after each crash.
#[derive(Clone)]
pub struct Launch {
    /// Name in log events.
    pub name: &'static str,
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables added to our own environment.
    pub env: Vec<(OsString, OsString)>,
    /// User and group id to run as, when not ours.
    pub account: Option<(u32, u32)>,
    /// Working directory.
    pub directory: PathBuf,
    /// File that receives standard output and error.
    pub log: PathBuf,
    /// File that names the running child, for [`end_leftover`] after a crash of ours.
    pub pid_file: PathBuf,
    /// Signal that ends the child at once and leaves nothing behind; sent at drop and when our process dies.
    pub quit: Signal,
}

/// A running child under supervision. It is not restarted before [`supervise`](Self::supervise) was called.
/// Dropping it ends the child and waits for that.
pub struct Supervised {
    shared: Arc<Shared>,
    quit: Signal,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    phase: Phase,
    /// The child that runs now; it stays ours to signal until we reap it, which happens under the lock.
    child: Option<Pid>,
    restarts: u64,
    last_exit: Option<ExitStatus>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Supervised,
    Stopping,
    Ended,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.state().child {
            // Fails only for a child that is already dead, which is what was asked for.
            let _ = kill_process(pid, signal);
        }
    }

    /// Asks for the end by `signal`, insists with SIGKILL after `grace`, and returns when the child is gone.
    fn stop(&self, signal: Signal, grace: Duration) {
        {
            let mut state = self.state();
            if state.phase == Phase::Ended {
                return;
            }
            state.phase = Phase::Stopping;
        }
        self.changed.notify_all();
        self.signal(signal);
        if !self.wait_ended(grace) {
            self.signal(Signal::KILL);
            self.wait_ended(grace);
        }
    }

    fn wait_ended(&self, timeout: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.state(), timeout, |state| state.phase != Phase::Ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.phase == Phase::Ended
    }
}

impl Supervised {
    /// Starts the child. Returns as soon as it runs, which does not mean that it is ready.
    pub fn start(launch: Launch) -> io::Result<Self> {
        let state = State { phase: Phase::Starting, child: None, restarts: 0, last_exit: None };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let (started, first) = mpsc::sync_channel(1);
        let quit = launch.quit;
        let thread_shared = shared.clone();
        // A thread of its own, because the kernel's parent-death signal is tied to the thread that spawned the child,
        // and a pooled thread may end long before the process.
        thread::Builder::new().name(launch.name.into()).spawn(move || {
            run(&launch, &thread_shared, &started);
            // Best effort: a pid file left behind is recognised as stale.
            let _ = fs::remove_file(&launch.pid_file);
            let mut state = thread_shared.state();
            state.phase = Phase::Ended;
            thread_shared.changed.notify_all();
        })?;
        first.recv().map_err(|_| io::Error::other("the supervising thread ended early"))??;
        Ok(Self { shared, quit })
    }

    /// From now on a child that dies is started again.
    pub fn supervise(&self) {
        let mut state = self.shared.state();
        if state.phase == Phase::Starting {
            state.phase = Phase::Supervised;
        }
    }

    /// The process id, or `None` while the child is down.
    pub fn pid(&self) -> Option<u32> {
        self.shared.state().child.map(|pid| pid.as_raw_nonzero().get().cast_unsigned())
    }

    /// How often the child was started again after a crash.
    pub fn restarts(&self) -> u64 {
        self.shared.state().restarts
    }

    /// How the child ended, once it did and will not be started again.
    pub fn ended(&self) -> Option<Option<ExitStatus>> {
        let state = self.shared.state();
        (state.phase == Phase::Ended).then_some(state.last_exit)
    }

    /// Sends a signal to the running child, if any.
    pub fn signal(&self, signal: Signal) {
        self.shared.signal(signal);
    }

    /// Sends signals from elsewhere, for as long as the child is supervised.
    pub(crate) fn signaller(&self) -> impl Fn(Signal) + Send + use<> {
        let shared = Arc::downgrade(&self.shared);
        move |signal| {
            if let Some(shared) = shared.upgrade() {
                shared.signal(signal);
            }
        }
    }

    /// Ends the child by `signal`, by SIGKILL after `grace`, and returns when it is gone.
    pub async fn stop(&self, signal: Signal, grace: Duration) {
        let shared = self.shared.clone();
        // The task cannot panic; were the runtime shutting down, drop would still end the child.
        let _ = tokio::task::spawn_blocking(move || shared.stop(signal, grace)).await;
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.shared.stop(self.quit, DROP_GRACE);
    }
}

fn run(launch: &Launch, shared: &Shared, started: &mpsc::SyncSender<io::Result<()>>) {
    let mut backoff = FIRST_BACKOFF;
    let mut first = true;
    loop {
        let born = Instant::now();
        match spawn(launch, shared, first) {
            Ok(None) => return,
            Ok(Some(child)) => {
                if first {
                    // The receiver waits for exactly this message.
                    let _ = started.send(Ok(()));
                }
                await_end(child, shared);
            }
            Err(error) if first => {
                let _ = started.send(Err(error));
                return;
            }
            Err(error) => tracing::warn!(process = launch.name, %error, "could not start again"),
        }
        first = false;
        if born.elapsed() > HEALTHY_AFTER {
            backoff = FIRST_BACKOFF;
        }
        let state = shared.state();
        if state.phase != Phase::Supervised {
            return;
        }
        let exit = state.last_exit.map(|status| status.to_string());
        tracing::warn!(process = launch.name, exit, log = %launch.log.display(), ?backoff, "died; starting again");
        let pause = shared.changed.wait_timeout_while(state, backoff, |state| state.phase == Phase::Supervised);
        drop(pause);
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
    }
}

/// `None` when the child should no longer be started.
fn spawn(launch: &Launch, shared: &Shared, first: bool) -> io::Result<Option<Child>> {
    let mut state = shared.state();
    if state.phase == Phase::Stopping {
        return Ok(None);
    }
    let output = log::open(&launch.log)?;
    let mut command = match death_wrapper() {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", name_of(launch.quit), "--"]).arg(&launch.program);
            command
        }
        None => Command::new(&launch.program),
    };
    command
        .args(&launch.args)
        .envs(launch.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&launch.directory)
        // A group of its own: Ctrl-C in the terminal is for us, and we decide in which order things end.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    if let Some((uid, gid)) = launch.account {
        command.uid(uid).gid(gid);
    }
    let child = command.spawn()?;
    state.child = Some(Pid::from_child(&child));
    state.restarts += u64::from(!first);
    drop(state);
    if let Err(error) = fs::write(&launch.pid_file, child.id().to_string()) {
        tracing::warn!(process = launch.name, file = %launch.pid_file.display(), %error, "could not note the process id");
    }
    tracing::debug!(process = launch.name, pid = child.id(), "started");
    Ok(Some(child))
}

/// Waits without reaping first, so that no one signals a process id that the system has given to somebody else.
fn await_end(mut child: Child, shared: &Shared) {
    let id = WaitId::Pid(Pid::from_child(&child));
    while let Err(rustix::io::Errno::INTR) = waitid(id.clone(), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {}
    let mut state = shared.state();
    state.child = None;
    state.last_exit = child.wait().ok();
}

/// `setpriv` wants names, and only these two end a server at once.
fn name_of(quit: Signal) -> &'static str {
    if quit == Signal::QUIT { "QUIT" } else { "KILL" }
}

/// `setpriv` of util-linux, when it can ask the kernel to signal a child at our death (BusyBox's cannot).
/// Without it a child survives our SIGKILL until the next start ends it.
fn death_wrapper() -> Option<&'static PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let works = |path: &PathBuf| {
        let probe = Command::new(path).args(["--pdeathsig", "KILL", "--", "true"]).stderr(Stdio::null()).status();
        probe.is_ok_and(|status| status.success())
    };
    FOUND.get_or_init(|| on_path("setpriv").into_iter().find(works)).as_ref()
}

/// A TCP port that is free on 127.0.0.1. It lies below the range that systems hand out to outgoing connections, so
/// that a server which restarts finds its port again.
pub fn free_port() -> io::Result<u16> {
    for _ in 0..200 {
        let (random, ..) = uuid::Uuid::new_v4().as_fields();
        let port = 16_384 + (random % 14_000) as u16;
        if port_is_free(port)? {
            return Ok(port);
        }
    }
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Whether a server could listen on this port of 127.0.0.1 now.
pub fn port_is_free(port: u16) -> io::Result<bool> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(false),
        Err(error) => Err(error),
    }
}
