//! `symbia chat` as a person uses it: the real binary against a whole platform, with a model that follows a script.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, missing_docs, reason = "tests")]

#[path = "../../tests/tests/chat/model.rs"]
mod model;
#[path = "../../tests/tests/chat/stage.rs"]
mod stage;

use std::{os::unix::fs::PermissionsExt, process::Stdio, sync::atomic::Ordering, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use stage::{House, PASSWORD, eventually};
use symbia_events::Service;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    time::timeout,
};

const SOON: Duration = Duration::from_secs(60);

/// Somebody at a terminal, with a home directory.
struct Terminal {
    house: House,
    home: tempfile::TempDir,
}

impl Terminal {
    async fn of_ada() -> Self {
        let house = House::open().await;
        house.register("ada").await;
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("password"), PASSWORD).unwrap();
        std::fs::set_permissions(home.path().join("password"), PermissionsExt::from_mode(0o600)).unwrap();
        Terminal { house, home }
    }

    fn chat(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_symbia"));
        let password = self.home.path().join("password");
        command.env_clear().env("HOME", self.home.path()).current_dir(self.home.path()).arg("chat");
        command.args(["--identity-url", self.house.base(Service::Identity)]);
        command.args(["--messaging-url", self.house.base(Service::Messaging)]);
        for argument in arguments {
            match *argument {
                "PASSWORD" => command.arg(&password),
                argument => command.arg(argument),
            };
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Runs it to its end: exit code, standard output, standard error.
    async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = timeout(SOON, self.chat(arguments).output()).await.expect("it ends").unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_and_the_session_kept_for_the_next() {
    let ada = Terminal::of_ada().await;
    let sign_in = ["--email", "ada@example.test", "--password-file", "PASSWORD"];
    let (code, out, err) = ada.run(&[&sign_in[..], &["count"]].concat()).await;
    assert_eq!((code, out.as_str()), (0, "one two three\n"), "{err}");
    let conversation = err.trim().strip_prefix("conversation ").expect("it tells which conversation").to_owned();
    let kept = ada.home.path().join(".symbia/credentials.json");
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);

    let (code, out, err) = ada.run(&["--json", "--conversation", &conversation, "help"]).await;
    assert_eq!(code, 0, "{err}");
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&told["status"], &told["messages"][0]["sequence"]), (&"completed".into(), &4.into()));

    let mut child = ada.chat(&["--conversation", &conversation]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"count\n\ncount again\n").await.unwrap();
    let output = timeout(SOON, child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "one two three\none two three\n");
    assert_eq!(output.status.code(), Some(0));

    let (code, out, _) = ada.run(&["--assistant", "nobody", "hello?"]).await;
    assert_eq!(code, 1);
    assert!(out.contains("no such assistant"), "{out}");
    let (code, _, err) = ada.run(&["--conversation", "nowhere", "hello?"]).await;
    assert!(code == 1 && err.contains("There is no such conversation"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_sign_in_is_told_why() {
    let ada = Terminal::of_ada().await;
    let (code, _, err) = ada.run(&["hello"]).await;
    assert!(code == 1 && err.contains("--password-file"), "{err}");
    let wrong = ["--email", "eve@example.test", "--password-file", "PASSWORD", "hello"];
    let (code, _, err) = ada.run(&wrong).await;
    assert!(code == 1 && err.contains("not signed in"), "{err}");
    assert!(!ada.home.path().join(".symbia").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_stops_the_model_before_it_leaves() {
    let ada = Terminal::of_ada().await;
    let arguments = ["--email", "ada@example.test", "--password-file", "PASSWORD", "wait"];
    let mut child = ada.chat(&arguments).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut shown = [0; 4];
    timeout(SOON, out.read_exact(&mut shown)).await.expect("the answer begins").unwrap();
    assert_eq!(&shown, b"one ");
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let ended = timeout(SOON, child.wait_with_output()).await.expect("it leaves").unwrap();
    assert_eq!(ended.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("(stopped)"));
    eventually("the model is stopped", || async {
        (ada.house.model.given_up.load(Ordering::SeqCst) == 1).then_some(())
    })
    .await;
}
