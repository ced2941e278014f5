//! The documents of a service and their addresses (platform.md §11), generated from its routes at start.

use axum::{
    Router,
    http::{HeaderValue, StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use bytes::Bytes;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        Components, Content, Info, OpenApi, Paths, Ref, RefOr, Response, Responses, SecurityRequirement, Server,
        path::{HttpMethod, Operation, Parameter, ParameterBuilder, ParameterIn, PathItem},
        schema::{ObjectBuilder, Type},
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::{discovery::ServiceInfo, error::ErrorBody, llms};

const REDIRECTS: [(&str, &str); 14] = [
    ("/", "/docs/llms.txt"),
    ("/docs", "/docs/llms.txt"),
    ("/docs/", "/docs/llms.txt"),
    ("/openapi.json", "/docs/openapi.json"),
    ("/api/docs", "/docs/openapi.json"),
    ("/api/docs/", "/docs/openapi.json"),
    ("/api/docs/openapi.json", "/docs/openapi.json"),
    ("/.well-known/openapi.json", "/docs/openapi.json"),
    ("/llm.txt", "/docs/llms.txt"),
    ("/llms.txt", "/docs/llms.txt"),
    ("/api/docs/llms.txt", "/docs/llms.txt"),
    ("/llms-full.txt", "/docs/llms-full.txt"),
    ("/api/docs/llms-full.txt", "/docs/llms-full.txt"),
    ("/docs/llm.txt", "/docs/llms.txt"),
];

/// Component key, header and meaning of the scope headers.
const SCOPE_HEADERS: [(&str, &str, &str); 5] = [
    ("OrgId", "X-Org-Id", "Organization that the request acts in"),
    ("ServiceId", "X-Service-Id", "Calling service"),
    ("Env", "X-Env", "Environment label: dev, staging, prod"),
    ("DataClass", "X-Data-Class", "Data classification: none, pii, phi, secret"),
    ("PolicyRef", "X-Policy-Ref", "Policy that the request falls under"),
];

/// Serves the documents, their redirects and service discovery.
pub(super) fn router(info: &ServiceInfo, document: &OpenApi) -> Router {
    let value = serde_json::to_value(document).unwrap_or_default();
    let openapi = text("application/json", value.to_string());
    let bootstrap = text("application/json", info.bootstrap().to_string());
    const PLAIN: &str = "text/plain; charset=utf-8";
    let mut router = Router::new()
        .route("/docs/openapi.json", openapi.clone())
        .route("/api/openapi.json", openapi)
        .route("/docs/llms.txt", text(PLAIN, llms::short(info, &value)))
        .route("/docs/llms-full.txt", text(PLAIN, llms::full(info, &value)))
        .route("/api/bootstrap/service", bootstrap);
    for (from, to) in REDIRECTS {
        router = router.route(from, get(move || async move { (StatusCode::FOUND, [(header::LOCATION, to)]) }));
    }
    router
}

fn text(kind: &'static str, body: String) -> axum::routing::MethodRouter {
    let body = Bytes::from(body);
    get(move || async move { ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], body).into_response() })
}

/// The OpenAPI 3.1 document: the routes under `/api`, then those at the root, then what every service has.
pub(super) fn document(info: &ServiceInfo, api: OpenApi, mut root: OpenApi) -> OpenApi {
    platform_paths(&mut root.paths);
    for item in root.paths.paths.values_mut() {
        item.servers.get_or_insert_with(|| vec![Server::new("/")]);
    }
    let mut document = api.merge_from(root);
    document.info = Info::new(&info.title, &info.version);
    document.info.description = Some(info.description.clone());
    document.servers = Some(vec![Server::new("/api")]);
    document.security.get_or_insert_with(|| {
        ["bearer", "apiKey", "cookie"].map(|name| SecurityRequirement::new(name, Vec::<String>::new())).to_vec()
    });
    document.paths.paths.entry("/bootstrap/service".to_owned()).or_insert_with(|| {
        PathItem::new(HttpMethod::Get, public("Discovery", "Describe this service", "Addresses and capabilities"))
    });
    add_components(document.components.get_or_insert_default());
    for (path, item) in &mut document.paths.paths {
        add_scope_headers(item);
        for (method, operation) in operations(item) {
            operation.operation_id = Some(operation_id(method, path));
            let error = || RefOr::Ref(Ref::from_response_name("Error"));
            operation.responses.responses.entry("default".to_owned()).or_insert_with(error);
        }
    }
    document
}

fn platform_paths(paths: &mut Paths) {
    for (path, tag, summary, success) in [
        ("/health", "Health", "Whether the service takes requests", "Ready"),
        ("/health/live", "Health", "Whether the process lives", "Alive"),
        ("/health/ready", "Health", "Whether the service and what it depends on work", "Ready, with its checks"),
        ("/docs/openapi.json", "Documentation", "This document", "OpenAPI 3.1"),
        ("/docs/llms.txt", "Documentation", "Short description for language models", "Text"),
        ("/docs/llms-full.txt", "Documentation", "Complete description for language models", "Text"),
    ] {
        let item = || PathItem::new(HttpMethod::Get, public(tag, summary, success));
        paths.paths.entry(path.to_owned()).or_insert_with(item);
    }
}

fn public(tag: &str, summary: &str, success: &str) -> Operation {
    Operation::builder()
        .tag(tag)
        .summary(Some(summary))
        .security(SecurityRequirement::default())
        .responses(Responses::builder().response("200", Response::new(success)))
        .build()
}

fn add_components(components: &mut Components) {
    let mut schemas = vec![(ErrorBody::name().into_owned(), ErrorBody::schema())];
    ErrorBody::schemas(&mut schemas);
    components.schemas.extend(schemas);
    let content = Content::new(Some(Ref::from_schema_name(ErrorBody::name())));
    let error = Response::builder().description("What went wrong").content("application/json", content).build();
    components.responses.insert("Error".to_owned(), error.into());
    for (key, name, meaning) in SCOPE_HEADERS {
        components.parameters.insert(key.to_owned(), scope_header(name, meaning).into());
    }
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    for (name, scheme) in [
        ("bearer", SecurityScheme::Http(bearer)),
        ("apiKey", SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key")))),
        ("cookie", SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new("token")))),
    ] {
        components.security_schemes.insert(name.to_owned(), scheme.into());
    }
}

fn scope_header(name: &str, meaning: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .description(Some(meaning))
        .required(utoipa::openapi::Required::False)
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .build()
}

fn add_scope_headers(item: &mut PathItem) {
    let own = item.parameters.get_or_insert_default();
    own.extend(SCOPE_HEADERS.map(|(key, ..)| RefOr::Ref(Ref::new(format!("#/components/parameters/{key}")))));
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let PathItem { get, put, post, delete, options, head, patch, trace, .. } = item;
    let named = [
        ("get", get),
        ("put", put),
        ("post", post),
        ("delete", delete),
        ("options", options),
        ("head", head),
        ("patch", patch),
        ("trace", trace),
    ];
    named.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// `get_orgs_by_id`: unique in the document, as the names of our functions are not.
fn operation_id(method: &str, path: &str) -> String {
    let mut id = method.to_owned();
    for part in path.split(['/', '.', '-']).filter(|part| !part.is_empty()) {
        id.push('_');
        match part.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
            Some(name) => id.extend(["by_", name]),
            None => id.push_str(part),
        }
    }
    id
}
