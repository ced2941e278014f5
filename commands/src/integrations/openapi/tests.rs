use serde_json::json;

use super::*;

fn pets() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Pets", "version": "2" },
        "servers": [{ "url": "https://{region}.pets.example/v1", "variables": { "region": { "default": "eu" } } }],
        "paths": {
            "/pets/{petId}": {
                "parameters": [
                    { "name": "petId", "in": "path", "required": true, "schema": { "type": "string" } },
                    { "name": "lang", "in": "query", "schema": { "type": "string" } },
                ],
                "get": {
                    "operationId": "getPet",
                    "summary": "Read a pet",
                    "tags": ["pets"],
                    "parameters": [
                        { "$ref": "#/components/parameters/Trace" },
                        { "name": "lang", "in": "query", "required": true, "schema": { "enum": ["en"] } },
                        { "$ref": "#/components/parameters/Nowhere" },
                    ],
                    "responses": { "200": { "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Pet" } } } } },
                },
                "delete": { "responses": {} },
            },
            "/pets": {
                "post": {
                    "operationId": "createPet",
                    "requestBody": { "required": true, "content": { "application/json": { "schema": {
                        "allOf": [
                            { "$ref": "#/components/schemas/Pet" },
                            { "type": "object", "properties": { "tag": { "type": "string" } }, "required": ["tag"] },
                        ],
                    } } } },
                    "responses": {},
                },
            },
            "/upload": { "post": { "operationId": "createPet", "requestBody": { "content": {
                "multipart/form-data": { "schema": { "type": "object" } } } }, "responses": {} } },
        },
        "components": {
            "parameters": { "Trace": { "name": "X-Trace", "in": "header" } },
            "schemas": { "Pet": {
                "type": "object",
                "required": ["name"],
                "properties": { "name": { "type": "string" }, "friend": { "$ref": "#/components/schemas/Pet" } },
            } },
            "securitySchemes": { "a": { "type": "oauth2" }, "b": { "type": "apiKey" } },
        },
    })
}

#[test]
fn operations_have_names_parameters_and_bodies() {
    let imported = import(&pets(), None, None).unwrap();
    assert_eq!((imported.title.as_str(), imported.auth_type), ("Pets", "apiKey"));
    assert_eq!(imported.server_url.as_deref(), Some("https://eu.pets.example/v1"));
    let named: BTreeMap<&str, &Operation> = imported.operations.iter().map(|o| (o.id.as_str(), o)).collect();
    assert_eq!(named.keys().copied().collect::<Vec<_>>(), ["pet.create", "pet.create.2", "pet.get", "pets.delete"]);
    let get = named["pet.get"];
    let parameters: Vec<_> = get.parameters.iter().map(|p| (p.name.as_str(), p.location, p.required)).collect();
    let (path, query, header) = (Location::Path, Location::Query, Location::Header);
    assert_eq!(parameters, [("petId", path, true), ("lang", query, true), ("X-Trace", header, false)]);
    let answer = get.response_schema.as_ref().unwrap();
    assert_eq!(answer["properties"]["friend"], json!({}), "what names itself ends");
    let body = named["pet.create"].request_body.as_ref().unwrap();
    let schema = body.schema.as_ref().unwrap();
    assert_eq!(schema["required"], json!(["name", "tag"]));
    assert_eq!(schema["properties"]["tag"], json!({ "type": "string" }));
    assert_eq!(named["pet.create.2"].request_body.as_ref().unwrap().content_type, "multipart/form-data");
}

#[test]
fn ids_become_paths() {
    for (id, path) in [
        ("createChatCompletion", "chat.completion.create"),
        ("listModels", "models.list"),
        ("listFineTuningJobs", "fine.tuning.jobs.list"),
        ("getHTTPStatus", "http.status.get"),
        ("chat_completions_create", "chat.completions.create"),
        ("sendMessage", "send.message"),
        ("get", "get"),
        ("pets/find by.Name", "pets.find.by.name"),
        ("..", "operation"),
    ] {
        assert_eq!(operation_path(id), path, "{id}");
    }
    assert_eq!(operation_of_path("/v1/users/{id}/posts", "GET"), "users.posts.get");
    assert_eq!(operation_of_path("/", "GET"), "get");
}

#[test]
fn a_chosen_server_wins_and_a_mere_path_stands_behind_one() {
    let with = |url: &str| json!({ "servers": [{ "url": url }] });
    for (own, chosen, from, expected) in [
        ("https://a.example/v1", None, None, Some("https://a.example/v1")),
        ("https://a.example/v1/", Some("https://b.example"), None, Some("https://b.example")),
        ("/v1", Some("https://b.example/"), None, Some("https://b.example/v1")),
        ("v1", Some("https://b.example"), None, Some("https://b.example/v1")),
        ("/v1", None, Some("https://c.example/docs/openapi.json"), Some("https://c.example/v1")),
        ("/v1", None, None, None),
    ] {
        assert_eq!(names::server(&with(own), false, chosen, from).as_deref(), expected, "{own} {chosen:?}");
    }
}

#[test]
fn swagger_2_is_read() {
    let document = json!({
        "swagger": "2.0", "info": { "title": "Old", "version": "1" }, "host": "old.example", "basePath": "/api",
        "schemes": ["http", "https"],
        "securityDefinitions": { "k": { "type": "basic" } },
        "paths": { "/x": {
            "post": { "operationId": "send_it", "parameters": [
                { "in": "body", "name": "b", "required": true, "schema": { "$ref": "#/definitions/B" } },
                { "in": "query", "name": "q", "type": "integer" },
            ], "responses": { "200": { "schema": { "type": "string" } } } },
            "put": { "operationId": "put_it", "parameters": [
                { "in": "formData", "name": "f", "type": "string", "required": true } ], "responses": {} },
        } },
        "definitions": { "B": { "type": "object" } },
    });
    let imported = import(&document, None, None).unwrap();
    assert_eq!(imported.server_url.as_deref(), Some("https://old.example/api"));
    assert_eq!(imported.auth_type, "basic");
    let post = imported.operations.iter().find(|o| o.id == "send.it").unwrap();
    assert_eq!(post.request_body.as_ref().unwrap().schema, Some(json!({ "type": "object" })));
    assert_eq!(post.parameters[0].schema, Some(json!({ "type": "integer" })));
    assert_eq!(post.response_schema, Some(json!({ "type": "string" })));
    let put = imported.operations.iter().find(|o| o.id == "put.it").unwrap();
    assert_eq!(put.request_body.as_ref().unwrap().content_type, "application/x-www-form-urlencoded");
}

#[test]
fn yaml_is_read_and_bombs_are_not() {
    let yaml = b"openapi: 3.0.0\ninfo: {title: T, version: '1'}\npaths:\n  /x:\n    get:\n      operationId: getX\n      responses:\n        200:\n          description: ok\n          content: {application/json: {schema: {type: string}}}\n";
    let imported = import(&parse(yaml).unwrap(), Some("https://x.example"), None).unwrap();
    assert_eq!(imported.operations[0].id, "x.get");
    assert_eq!(imported.operations[0].response_schema, Some(json!({ "type": "string" })));
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..30 {
        let items = vec![format!("*a{}", i - 1); 10].join(", ");
        bomb.push_str(&format!("a{i}: &a{i} [{items}]\n"));
    }
    assert!(matches!(parse(bomb.as_bytes()), Err(ImportError::Unreadable(_))));
    assert!(matches!(parse("[".repeat(100_000).as_bytes()), Err(ImportError::Unreadable(_))));
    let deep = format!("{}{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    assert!(matches!(parse(deep.as_bytes()), Err(ImportError::Unreadable(_))));
    assert_eq!(parse(&vec![b' '; MAX_DOCUMENT + 1]), Err(ImportError::TooLong));
}

#[test]
fn what_is_no_document_and_what_has_no_end_is_told() {
    assert_eq!(import(&json!({}), None, None), Err(ImportError::NotOpenApi));
    assert_eq!(import(&json!({ "openapi": "3.0.0" }), None, None), Err(ImportError::NotOpenApi));
    assert_eq!(import(&json!({ "openapi": "4.0" }), None, None), Err(ImportError::Version("4.0".into())));
    let paths: serde_json::Map<String, Value> =
        (0..=MAX_OPERATIONS).map(|i| (format!("/{i}"), json!({ "get": {} }))).collect();
    assert_eq!(import(&json!({ "openapi": "3.0.0", "paths": paths }), None, None), Err(ImportError::TooMany));
    // Each schema names the next one twice: a tree of 2^40 leaves in a few lines.
    let schemas: serde_json::Map<String, Value> = (0..40)
        .map(|i| {
            let next = json!({ "$ref": format!("#/components/schemas/S{}", i + 1) });
            (format!("S{i}"), json!({ "type": "object", "properties": { "a": next, "b": next } }))
        })
        .collect();
    let body = json!({ "content": { "application/json": { "schema": { "$ref": "#/components/schemas/S0" } } } });
    let bomb = json!({ "openapi": "3.0.0", "paths": { "/x": { "post": { "requestBody": body } } }, "components": { "schemas": schemas } });
    let imported = import(&bomb, None, None).unwrap();
    assert!(serde_json::to_vec(&imported.operations).unwrap().len() < 100_000);
    let round = json!({ "openapi": "3.0.0", "paths": { "/x": { "$ref": "#/paths/~1x" } } });
    assert_eq!(import(&round, None, None).unwrap().operations, []);
}
