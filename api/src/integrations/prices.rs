//! The price book: what models cost. The same for everybody, and set by operators.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Actor,
    integrations::{PriceCommand, SetPrice},
};
use symbia_events::{AggregateRef, OrgId, Service};
use symbia_projections::{Scope, integrations as model};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::Integrations;
use crate::{
    http::{ApiError, ApiResult, Caller, Json, RequestScope, Validation, routes},
    iso,
};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(list, set))
}

/// A price, in millionths of a US dollar for a million tokens.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Price {
    provider: String,
    model: String,
    /// Counts changes, from 1.
    version: i64,
    input_micros_per_m: i64,
    output_micros_per_m: i64,
    cached_input_micros_per_m: Option<i64>,
    /// For a picture, besides its tokens.
    image_micros: Option<i64>,
    /// For a request that is reranking, moderation or audio.
    request_micros: Option<i64>,
    /// For a million characters that are spoken.
    character_micros_per_m: Option<i64>,
    /// For an hour of audio that is listened to.
    audio_hour_micros: Option<i64>,
    set_at: String,
}

impl From<model::Price> for Price {
    fn from(row: model::Price) -> Self {
        Price {
            provider: row.provider,
            model: row.model,
            version: row.version,
            input_micros_per_m: row.input_micros_per_m,
            output_micros_per_m: row.output_micros_per_m,
            cached_input_micros_per_m: row.cached_input_micros_per_m,
            image_micros: row.image_micros,
            request_micros: row.request_micros,
            character_micros_per_m: row.character_micros_per_m,
            audio_hour_micros: row.audio_hour_micros,
            set_at: iso(row.set_at),
        }
    }
}

/// A price to set.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewPrice {
    #[schema(example = "openai")]
    provider: String,
    #[schema(example = "gpt-4o-mini")]
    model: String,
    /// For reading a million tokens.
    #[schema(example = 150_000)]
    input_micros_per_m: u64,
    /// For writing a million tokens.
    #[schema(example = 600_000)]
    output_micros_per_m: u64,
    /// For reading a million from the provider's cache; absent: as other input.
    #[serde(default)]
    cached_input_micros_per_m: Option<u64>,
    /// For a picture, besides its tokens.
    #[serde(default)]
    image_micros: Option<u64>,
    /// For a request that is reranking, moderation or audio.
    #[serde(default)]
    request_micros: Option<u64>,
    /// For a million characters that are spoken.
    #[serde(default)]
    character_micros_per_m: Option<u64>,
    /// For an hour of audio that is listened to.
    #[serde(default)]
    audio_hour_micros: Option<u64>,
}

/// List prices
#[utoipa::path(get, path = "/integrations/prices", tag = "Prices",
    responses((status = 200, description = "The prices", body = Vec<Price>)))]
async fn list(State(service): State<Integrations>, _caller: Caller) -> ApiResult<Json<Vec<Price>>> {
    let mut tx = service.platform.read(&Scope::platform()).await?;
    Ok(Json(model::prices(&mut tx).await?.into_iter().map(Price::from).collect()))
}

/// Set the price of a model (operators)
///
/// It counts for requests from now on; what was asked before keeps the cost that it had.
#[utoipa::path(put, path = "/integrations/prices", tag = "Prices", request_body = NewPrice,
    responses((status = 200, description = "The price", body = Price), (status = 400, description = "A field is not valid"),
        (status = 403, description = "Not an operator")))]
async fn set(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(new): Json<NewPrice>,
) -> ApiResult<Json<Price>> {
    caller.require_super_admin()?;
    let mut rules = Validation::new();
    rules.length("provider", &new.provider, 1, 100).length("model", &new.model, 1, 200);
    let most = |price: u64| price <= 1_000_000_000_000;
    let named = [
        new.cached_input_micros_per_m,
        new.image_micros,
        new.request_micros,
        new.character_micros_per_m,
        new.audio_hour_micros,
    ];
    let prices = [new.input_micros_per_m, new.output_micros_per_m];
    rules.check(
        prices.into_iter().chain(named.into_iter().flatten()).all(most),
        "inputMicrosPerM",
        "range",
        "and the others must be at most a million dollars",
    );
    rules.finish()?;
    let name = serde_json::json!([new.provider, new.model]).to_string();
    let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string();
    let address =
        AggregateRef::new(Service::Integrations, OrgId::global(), "price", &id).map_err(ApiError::internal)?;
    let command = PriceCommand::from(SetPrice {
        price_id: id,
        provider: new.provider.clone(),
        model: new.model.clone(),
        input_micros_per_m: new.input_micros_per_m,
        output_micros_per_m: new.output_micros_per_m,
        cached_input_micros_per_m: new.cached_input_micros_per_m,
        image_micros: new.image_micros,
        request_micros: new.request_micros,
        character_micros_per_m: new.character_micros_per_m,
        audio_hour_micros: new.audio_hour_micros,
    });
    service.platform.submit(&address, &command, &Actor::from(&*caller), &scope).await?;
    let mut tx = service.platform.read(&Scope::platform()).await?;
    let found = model::price(&mut tx, &new.provider, &new.model).await?;
    Ok(Json(found.ok_or_else(|| ApiError::not_found("Price"))?.into()))
}
