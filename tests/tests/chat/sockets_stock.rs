//! The stock client: `socket.io-client` from npm, over each of its transports.
//!
//! `SYMBIA_TEST_NODE_MODULES` names a directory that has it; without one, it is installed once under the target directory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use symbia_events::Service;

use super::stage::House;

const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/socketio");

fn modules() -> PathBuf {
    if let Some(given) = std::env::var_os("SYMBIA_TEST_NODE_MODULES") {
        return given.into();
    }
    let test = std::env::current_exe().unwrap();
    let place = test.ancestors().nth(3).expect("a test runs from a target directory").join("socketio");
    let modules = place.join("node_modules");
    if !modules.join("socket.io-client").exists() {
        fs::create_dir_all(&place).unwrap();
        for file in ["package.json", "package-lock.json"] {
            fs::copy(Path::new(FILES).join(file), place.join(file)).unwrap();
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&place);
        let installed = npm.output().expect("npm is needed: scripts/prepare.sh tests installs it");
        assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    }
    modules
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stock_client_connects_speaks_and_comes_back() {
    let modules = modules();
    let house = House::open().await;
    let ada = house.register("ada").await;
    let grace = house.colleague(&ada, "grace").await;
    for transports in ["polling,websocket", "websocket", "polling"] {
        let id = house.talk(&ada, &[&grace.id]).await;
        let mut node = tokio::process::Command::new("node");
        node.arg(Path::new(FILES).join("client.cjs")).env("NODE_PATH", &modules).kill_on_drop(true);
        node.env("BASE", house.base(Service::Messaging)).env("CONVERSATION", &id).env("TRANSPORTS", transports);
        node.env("ADA", &ada.token).env("GRACE", &grace.token);
        let output = node.output().await.expect("node is needed: scripts/prepare.sh tests installs it");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{transports}: {out}{err}");
        let seen: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(seen["refused"], "Authentication required");
        for call in ["joined", "sent", "edited", "deleted", "control"] {
            assert_eq!(seen[call]["success"], true, "{call}: {seen}");
        }
        assert_eq!((&seen["edited"]["message"]["content"], &seen["paused"]), (&json!("hello"), &json!(true)));
        assert_eq!(seen["outsider"]["error"], "Not a participant");
        let heard: Vec<&Value> =
            seen["heard"].as_array().unwrap().iter().filter(|heard| heard[0] == "message:new").map(|h| &h[1]).collect();
        assert_eq!(heard, ["helo", "one", "two", "three", "last"], "once, and in order: {seen}");
        let named = |name: &str| seen["heard"].as_array().unwrap().iter().any(|heard| heard[0] == name);
        for name in ["message:updated", "message:deleted", "stream.pause", "typing:started", "typing:stopped"] {
            assert!(named(name), "{transports}: {name} was not heard: {seen}");
        }
        let last = if transports == "polling" { "polling" } else { "websocket" };
        assert_eq!(seen["transport"], last);
    }
}
