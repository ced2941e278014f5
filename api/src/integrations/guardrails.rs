//! Guardrails: what an organization lets into prompts and out of answers (integrations.md §28).

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Actor,
    integrations::{GuardrailCommand, MAX_GUARDRAILS, RemoveGuardrail, SetGuardrail, guardrail_id, may_be_guardrail},
};
use symbia_events::{
    AggregateRef, Service,
    integrations::{
        AllowRule, GuardrailAction, GuardrailRules, LengthRule, PatternRule, PersonalData, PersonalDataRule,
    },
};
use symbia_projections::integrations as model;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{Integrations, errors::refused, usage::Asker};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, routes},
    iso,
};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read, set, remove))
}

/// A guardrail.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Guardrail {
    name: String,
    /// Counts changes, from 1.
    version: i64,
    #[schema(value_type = Object)]
    prompt: GuardrailRules,
    #[schema(value_type = Object)]
    answer: GuardrailRules,
    updated_by: String,
    updated_at: String,
}

impl From<model::Guardrail> for Guardrail {
    fn from(row: model::Guardrail) -> Self {
        Guardrail {
            name: row.name,
            version: row.version,
            prompt: row.prompt.0,
            answer: row.answer.0,
            updated_by: row.set_by,
            updated_at: iso(row.set_at),
        }
    }
}

/// What a guardrail is to look for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewGuardrail {
    /// In prompts, before a provider sees them.
    #[serde(default)]
    prompt: Rules,
    /// In answers, before a reader sees them. While an answer streams, as much of it is held back as may be the beginning of
    /// what is replaced; all of it where a rule blocks, and where an expression has no longest match.
    #[serde(default)]
    answer: Rules,
}

/// What is looked for at one place. An action is `flag` (it goes on record), `redact` (it is replaced, as by `[EMAIL]`) or
/// `block` (the request fails with 422 and the code `guardrail_blocked`).
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rules {
    /// Personal data.
    #[serde(default)]
    pii: Vec<Pii>,
    /// Attempts to give the model other instructions, told by how they are worded; in prompts alone: `flag` or `block`.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "block")]
    injection: Option<GuardrailAction>,
    /// What must not be there.
    #[serde(default)]
    deny: Vec<Deny>,
    /// What must be there: in the last message of the user, or in the answer.
    #[serde(default)]
    allow: Option<Allow>,
    /// How long it may be.
    #[serde(default)]
    max_length: Option<MaxLength>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Pii {
    /// `email`, `phone`, `ssn`, `credit_card` or `ip_address`.
    #[schema(value_type = String, example = "email")]
    kind: PersonalData,
    #[schema(value_type = String, example = "redact")]
    action: GuardrailAction,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Deny {
    /// Names it in events and errors.
    #[schema(example = "projects")]
    name: String,
    /// A regular expression without look-around and back-references.
    #[schema(example = "(?i)\\bproject [a-z]{3,12}\\b")]
    pattern: String,
    #[schema(value_type = String, example = "redact")]
    action: GuardrailAction,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Allow {
    /// Regular expressions, of which one is to match.
    patterns: Vec<String>,
    /// `flag` or `block`.
    #[schema(value_type = String, example = "block")]
    action: GuardrailAction,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MaxLength {
    /// Characters.
    most: u32,
    /// `flag` or `block`.
    #[schema(value_type = String, example = "block")]
    action: GuardrailAction,
}

impl From<Rules> for GuardrailRules {
    fn from(rules: Rules) -> Self {
        let pii = |Pii { kind, action }| PersonalDataRule { kind, action };
        let deny = |Deny { name, pattern, action }| PatternRule { name, pattern, action };
        GuardrailRules {
            pii: rules.pii.into_iter().map(pii).collect(),
            injection: rules.injection,
            deny: rules.deny.into_iter().map(deny).collect(),
            allow: rules.allow.map(|Allow { patterns, action }| AllowRule { patterns, action }),
            max_length: rules.max_length.map(|MaxLength { most, action }| LengthRule { most, action }),
        }
    }
}

fn unknown() -> ApiError {
    ApiError::not_found("Guardrail")
}

fn of_admin(caller: &Caller, scope: &RequestScope, name: &str) -> ApiResult<(Asker, AggregateRef)> {
    let asker = Asker::new(caller, scope)?;
    if !asker.sees_all {
        return Err(ApiError::insufficient_role("admin"));
    }
    if !may_be_guardrail(name) {
        return Err(refused("name", "must be 1 to 64 letters, digits, dots, dashes and underscores"));
    }
    let id = guardrail_id(asker.org.as_str(), name);
    let address = AggregateRef::new(Service::Integrations, asker.org.clone(), "guardrail", &id);
    Ok((asker, address.map_err(ApiError::internal)?))
}

impl Integrations {
    async fn guardrail(&self, asker: &Asker, name: &str) -> ApiResult<Guardrail> {
        let mut tx = self.platform.read(&asker.scope()).await?;
        let found = model::guardrail(&mut tx, asker.org.as_str(), name).await?;
        Ok(found.ok_or_else(unknown)?.into())
    }

    async fn all_guardrails(&self, asker: &Asker) -> ApiResult<Vec<Guardrail>> {
        let mut tx = self.platform.read(&asker.scope()).await?;
        let found = model::guardrails(&mut tx, asker.org.as_str()).await?;
        Ok(found.into_iter().map(Guardrail::from).collect())
    }
}

/// List the guardrails of the organization
#[utoipa::path(get, path = "/integrations/guardrails", tag = "Guardrails",
    responses((status = 200, description = "The guardrails, by their names", body = Vec<Guardrail>)))]
async fn list(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
) -> ApiResult<Json<Vec<Guardrail>>> {
    let asker = Asker::new(&caller, &scope)?;
    Ok(Json(service.all_guardrails(&asker).await?))
}

/// Read a guardrail
#[utoipa::path(get, path = "/integrations/guardrails/{name}", tag = "Guardrails",
    params(("name" = String, Path, description = "Its name")),
    responses((status = 200, description = "The guardrail", body = Guardrail), (status = 404, description = "There is none")))]
async fn read(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(name): Path<String>,
) -> ApiResult<Json<Guardrail>> {
    let asker = Asker::new(&caller, &scope)?;
    Ok(Json(service.guardrail(&asker, &name).await?))
}

/// Set a guardrail (admins of the organization)
///
/// All guardrails of an organization, at most 20, count for all its requests to models, within a second; calls of providers' own
/// APIs are not passed on. What they find is on record, never with the text.
#[utoipa::path(put, path = "/integrations/guardrails/{name}", tag = "Guardrails", request_body = NewGuardrail,
    params(("name" = String, Path, description = "1 to 64 letters, digits, dots, dashes and underscores")),
    responses((status = 200, description = "The guardrail", body = Guardrail),
        (status = 400, description = "A field is not valid"), (status = 403, description = "Not an admin of the organization"),
        (status = 409, description = "There are 20 already")))]
async fn set(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(name): Path<String>,
    Json(new): Json<NewGuardrail>,
) -> ApiResult<Json<Guardrail>> {
    let (asker, address) = of_admin(&caller, &scope, &name)?;
    let others = service.all_guardrails(&asker).await?;
    if others.len() >= MAX_GUARDRAILS && others.iter().all(|other| other.name != name) {
        let text = format!("an organization has at most {MAX_GUARDRAILS} guardrails: remove one first");
        return Err(ApiError::new(StatusCode::CONFLICT, "TOO_MANY_GUARDRAILS", text));
    }
    let command = GuardrailCommand::from(SetGuardrail {
        guardrail_id: address.id.clone(),
        org_id: asker.org.to_string(),
        name: name.clone(),
        prompt: new.prompt.into(),
        answer: new.answer.into(),
    });
    service.platform.submit(&address, &command, &Actor::from(&*caller), &scope).await?;
    Ok(Json(service.guardrail(&asker, &name).await?))
}

/// Remove a guardrail (admins of the organization)
#[utoipa::path(delete, path = "/integrations/guardrails/{name}", tag = "Guardrails",
    params(("name" = String, Path, description = "Its name")),
    responses((status = 204, description = "Removed"), (status = 404, description = "There is none"),
        (status = 403, description = "Not an admin of the organization")))]
async fn remove(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(name): Path<String>,
) -> ApiResult<StatusCode> {
    let (asker, address) = of_admin(&caller, &scope, &name)?;
    let command =
        GuardrailCommand::from(RemoveGuardrail { guardrail_id: address.id.clone(), org_id: asker.org.to_string() });
    service.platform.submit(&address, &command, &Actor::from(&*caller), &scope).await?;
    Ok(StatusCode::NO_CONTENT)
}
