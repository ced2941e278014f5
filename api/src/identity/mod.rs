//! The identity service: principals, tenants, sessions (identity.md). It is the example that the other services follow:
//! [`service`] assembles the routes of one area per file over the shared [`Platform`].

mod access;
mod accounts;
mod acting;
mod addresses;
mod admin_orgs;
mod admin_users;
mod agent_auth;
mod agent_enrolment;
mod agents;
mod api_keys;
mod applications;
mod approvals;
mod audit_logs;
mod authenticator;
mod authorize;
mod broker_access;
mod broker_watch;
mod cache;
mod clients;
mod credentials;
mod delegations;
mod discovery;
mod email;
mod enrolment;
mod entities;
mod entity_links;
mod exchange;
mod factors;
mod front;
mod grants;
mod internal;
mod invitations;
mod key_scopes;
mod keys;
mod licence;
mod links;
mod locks;
mod login;
mod mailing;
mod members;
mod named;
mod oauth;
mod orgs;
mod owned;
mod pages;
mod paging;
mod passwords;
mod plans;
mod presence;
mod principals;
mod project_services;
mod projects;
mod recovery;
mod scoped_entitlements;
mod service_auth;
mod sessions;
mod shapes;
mod sign_in_page;
mod signing;
mod tokens;

use std::sync::Arc;

use axum::http::Method;
use serde_json::Map;
use symbia_events::Service;
use utoipa_axum::router::OpenApiRouter;

pub use authenticator::{ApiKeysAsBearer, Directory};
pub use broker_access::answer_broker;
pub use email::key as email_key;
pub(crate) use front::front;
pub use keys::{SigningKey, SigningKeys, TokenError, VerifyingKey};
pub(crate) use named::{AGENTS, TOKENS, named};
pub(crate) use pages::{escaped, page};
pub(crate) use service_auth::service_of;
pub use tokens::{AUDIENCE, Act, Claims, IssueError, Issued, MayAct, Subject, Tokens};

use crate::{
    http::{
        Health, ServiceApp,
        discovery::ServiceInfo,
        rate::{RateLimits, RouteClass},
        server::ServerConfig,
        shared_rate::SharedBuckets,
    },
    platform::Platform,
};
use passwords::Passwords;

/// Version of the API.
const VERSION: &str = "1.0.0";

/// What the handlers work with.
#[derive(Clone)]
struct Identity {
    platform: Platform,
    directory: Directory,
    passwords: Passwords,
}

/// The service, to be built and served.
#[must_use]
pub fn service(platform: Platform, health: Health, config: ServerConfig) -> ServiceApp {
    platform.watch(&health, Service::Identity);
    let tokens = platform.tokens.clone();
    health.check("signingKey", move || {
        let signs = tokens.keys().is_none_or(|keys| keys.signer().is_some());
        async move { if signs { Ok(Map::new()) } else { Err("there is no key to sign tokens with".to_owned()) } }
    });
    let directory = Directory::new(platform.clone());
    let settings = &platform.settings;
    let limits = limits(&platform);
    let passwords = Passwords::new(settings.bcrypt_cost);
    let identity = Identity { passwords, directory: directory.clone(), platform };
    let api = OpenApiRouter::new()
        .merge(accounts::routes())
        .merge(sessions::routes())
        .merge(signing::routes())
        .merge(login::routes())
        .merge(delegations::routes())
        .merge(approvals::routes())
        .merge(oauth::routes())
        .merge(recovery::routes())
        .merge(addresses::routes())
        .merge(factors::routes())
        .merge(locks::routes())
        .merge(principals::routes())
        .merge(orgs::routes())
        .merge(members::routes())
        .merge(invitations::routes())
        .merge(plans::routes())
        .merge(licence::routes())
        .merge(projects::routes())
        .merge(applications::routes())
        .merge(project_services::routes())
        .merge(scoped_entitlements::routes())
        .merge(admin_users::routes())
        .merge(admin_orgs::routes())
        .merge(grants::routes())
        .merge(audit_logs::routes())
        .merge(agent_auth::routes())
        .merge(agents::routes())
        .merge(api_keys::routes())
        .merge(credentials::routes())
        .merge(entities::routes())
        .merge(entity_links::routes())
        .merge(internal::routes())
        .merge(discovery::routes());
    ServiceApp::new(info(), health, config)
        .api(api.with_state(identity.clone()).layer(axum::middleware::from_fn(key_scopes::gate)))
        .root(
            discovery::root()
                .merge(oauth::root())
                .merge(authorize::root())
                .merge(sign_in_page::root())
                .with_state(identity),
        )
        .authenticator(Arc::new(directory))
        .rate_limits(limits)
}

fn limits(platform: &Platform) -> RateLimits {
    let buckets = Arc::new(SharedBuckets::new(platform.nats.clone()));
    RateLimits::new(Service::Identity, buckets, platform.settings.rates, class_of)
}

fn class_of(method: &Method, route: &str) -> RouteClass {
    match route {
        "/api/auth/register"
        | "/api/auth/user/register"
        | "/api/auth/login"
        | "/api/auth/user/login"
        | "/api/auth/agent/register"
        | "/api/auth/agent/login"
        | "/api/auth/login/mfa"
        | "/api/auth/forgot-password"
        | "/api/auth/reset-password"
        | "/api/auth/verify-email"
        | "/api/bootstrap/claim"
        | "/oauth/sign-in"
            if method == Method::POST =>
        {
            RouteClass::Auth
        }
        "/api/oauth/token" | "/api/auth/introspect" | "/api/auth/verify-api-key" => RouteClass::Verify,
        "/api/admin/plans" if method == Method::GET => RouteClass::Standard,
        _ if route.starts_with("/api/admin/") => RouteClass::Admin,
        _ => RouteClass::Standard,
    }
}

fn info() -> ServiceInfo {
    let description = "Users, organizations, memberships and sessions of the platform.";
    ServiceInfo {
        version: VERSION.to_owned(),
        highlights: [
            "Access tokens are JWTs signed with Ed25519; the key set is at /.well-known/jwks.json",
            "A token is bound to a session and refused within a second of its end",
            "API keys act for their creator and within their scopes; revoked ones are refused at once",
            "Refresh tokens work once; presenting one again ends the session",
        ]
        .map(str::to_owned)
        .to_vec(),
        endpoints: vec![
            ("auth", "/api/auth"),
            ("users", "/api/users"),
            ("orgs", "/api/orgs"),
            ("agents", "/api/agents"),
            ("apiKeys", "/api/api-keys"),
            ("projects", "/api/projects"),
            ("applications", "/api/applications"),
            ("services", "/api/services"),
            ("entitlements", "/api/scoped-entitlements"),
            ("admin", "/api/admin"),
        ],
        jwks: Some("/.well-known/jwks.json".to_owned()),
        ..ServiceInfo::new(Service::Identity, "Symbia Identity", description)
    }
}
