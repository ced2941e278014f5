//! The OpenAPI documents: as committed, sound in themselves, and the same as what is served.

use std::{collections::BTreeSet, fs, net::Ipv4Addr, path::PathBuf};

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::Value;
use symbia_events::Service;

use crate::{Platform, Tested};

const METHODS: [&str; 7] = ["get", "put", "post", "delete", "patch", "head", "options"];

pub async fn check(platform: &Platform, service: Service) -> Tested {
    let document = platform.json(service, "/docs/openapi.json").await?;
    committed(service, &document)?;
    sound(&document).with_context(|| format!("the document of {service}"))?;
    described(service, &document).with_context(|| format!("the document of {service}"))?;
    served(platform, service, &document).await
}

// Pretty, so that a change can be read.
fn committed(service: Service, document: &Value) -> Tested {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/openapi/{service}.json"));
    let text = serde_json::to_string_pretty(document)? + "\n";
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::create_dir_all(file.parent().context("no directory")?)?;
        fs::write(&file, &text)?;
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    ensure!(
        found == text,
        "docs/openapi/{service}.json is not what the code says: run `UPDATE_DOCS=1 cargo test -p symbia-tests --test documents`"
    );
    Ok(())
}

// The rules of OpenAPI 3.1 that a generator can break.
fn sound(document: &Value) -> Tested {
    ensure!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1.")));
    for member in ["title", "version", "description"] {
        ensure!(document["info"][member].as_str().is_some_and(|text| !text.is_empty()), "info.{member}");
    }
    references(document, document)?;
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(document)? {
        let at = format!("{method} {path}");
        ensure!(operation["responses"].as_object().is_some_and(|responses| responses.len() > 1), "{at}: responses");
        for (status, response) in operation["responses"].as_object().into_iter().flatten() {
            let known = status == "default" || status.parse::<u16>().is_ok_and(|status| (100..600).contains(&status));
            ensure!(known && (response["description"].is_string() || response["$ref"].is_string()), "{at}: {status}");
        }
        ensure!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{at}: summary");
        if let Some(id) = operation["operationId"].as_str() {
            ensure!(ids.insert(id.to_owned()), "{at}: operationId {id} is there twice");
        }
        let own = operation["parameters"].as_array().into_iter().flatten();
        let of_path = document["paths"][path]["parameters"].as_array().into_iter().flatten();
        let in_path = own.chain(of_path).filter(|parameter| parameter["in"] == "path");
        let declared: BTreeSet<&str> = in_path.filter_map(|parameter| parameter["name"].as_str()).collect();
        let named = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        ensure!(declared == named, "{at}: parameters {declared:?}");
    }
    Ok(())
}

// Every `$ref` leads somewhere.
fn references(document: &Value, part: &Value) -> Tested {
    match part {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                let target = reference.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
                ensure!(target.is_some(), "{reference} leads nowhere");
            }
            members.values().try_for_each(|value| references(document, value))
        }
        Value::Array(items) => items.iter().try_for_each(|value| references(document, value)),
        _ => Ok(()),
    }
}

fn operations(document: &Value) -> anyhow::Result<Vec<(&str, &str, &Value)>> {
    let paths = document["paths"].as_object().context("no paths")?;
    let of =
        |(path, item)| METHODS.into_iter().filter_map(move |method| Some((path, method, Value::get(item, method)?)));
    Ok(paths.iter().map(|(path, item)| (path.as_str(), item)).flat_map(of).collect())
}

// Every handler that is described in the code is in the document: none was left out when the router was put together.
fn described(service: Service, document: &Value) -> Tested {
    let documented: BTreeSet<(&str, &str)> =
        operations(document)?.into_iter().map(|(path, method, _)| (method, path)).collect();
    let mut folders = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../api/src/{service}"))];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            // What identity serves at other services' doors is in their documents, and Ollama's port has one of its own.
            let of_ollama = path.with_extension("").iter().any(|part| part == "ollama");
            if of_ollama || path.ends_with("identity/front.rs") {
                continue;
            }
            let code = fs::read_to_string(&path)?;
            for attribute in code.split("#[utoipa::path(").skip(1) {
                let several = attribute.strip_prefix("method(").and_then(|rest| rest.split_once(')'));
                let methods = several
                    .map_or(attribute.split(',').next(), |(methods, _)| Some(methods))
                    .unwrap_or_default()
                    .split(',');
                let route = attribute.split_once("path = \"").and_then(|(_, rest)| rest.split_once('"'));
                let (route, _) = route.with_context(|| format!("{}: a handler without path", path.display()))?;
                for method in methods.map(str::trim) {
                    ensure!(documented.contains(&(method, route)), "{}: {method} {route} is not in it", path.display());
                }
            }
        }
    }
    Ok(())
}

// Every operation is a route: it is neither unknown nor refused for its method. And no documented path takes another method.
async fn served(platform: &Platform, service: Service, document: &Value) -> Tested {
    let documented: BTreeSet<(&str, &str)> =
        operations(document)?.into_iter().map(|(path, method, _)| (path, method)).collect();
    let mut asked = 0_u32;
    for (path, item) in document["paths"].as_object().context("no paths")? {
        let server = item["servers"][0]["url"].as_str().unwrap_or("/api").trim_end_matches('/');
        let filled: Vec<&str> = path
            .split('/')
            .map(|part| if part.starts_with('{') { "00000000-0000-4000-8000-000000000000" } else { part })
            .collect();
        let url = platform.url(service, &format!("{server}{}", filled.join("/")))?;
        for method in ["get", "put", "post", "delete", "patch"] {
            let verb: Method = method.to_uppercase().parse()?;
            asked += 1;
            // Each from an address of its own: what is limited per address is not what is asked here.
            let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + asked);
            let request = platform.http.request(verb, &url).header("X-Forwarded-For", address.to_string());
            let answer = request.send().await?;
            let status = answer.status().as_u16();
            let refused = status == 405 || answer.text().await?.contains("Route not found");
            let expected = documented.contains(&(path, method));
            ensure!(refused != expected, "{service} {method} {path}: {status}, documented: {expected}");
        }
    }
    Ok(())
}
