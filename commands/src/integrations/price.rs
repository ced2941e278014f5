//! The price of a model: set by operators for everybody (integrations.md §25.4).

use serde::{Deserialize, Serialize};
use symbia_events::{
    AggregateRef, OrgId,
    integrations::{PriceEvent, PriceSet},
};
use time::OffsetDateTime;

use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

domain_commands! {
    /// What can be done about a price.
    PriceCommand: Integrations / "price" {
        /// Sets it. The address is `global`.
        SetPrice = "symbia.cmd.integrations.set-price.v1" {
            price_id: String,
            provider: String,
            model: String,
            /// Millionths of a US dollar for a million tokens.
            input_micros_per_m: u64,
            output_micros_per_m: u64,
            /// Absent: as other input.
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
    }
}

/// The price of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Price {
    version: u64,
}

impl Aggregate for Price {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("priceId");
    type Command = PriceCommand;
    type Event = PriceEvent;

    fn belongs(_command: &PriceCommand, to: &AggregateRef) -> Result<(), Rejection> {
        if to.tenant.as_str() == OrgId::GLOBAL { Ok(()) } else { Err(Rejection::misaddressed(to)) }
    }

    fn apply(&mut self, event: &PriceEvent) {
        let PriceEvent::PriceSet(e) = event;
        self.version = e.version;
    }

    fn decide(
        &self,
        command: PriceCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<PriceEvent>, Rejection> {
        let PriceCommand::SetPrice(c) = command;
        if !by.super_admin && !by.is_platform() {
            return Err(Rejection::new("SUPERADMIN_REQUIRED", "prices are the same for everybody: operators set them"));
        }
        if c.provider.is_empty() || c.model.is_empty() {
            return Err(Rejection::invalid("provider, model: must not be empty"));
        }
        Ok(Decision::one(PriceSet {
            price_id: c.price_id,
            provider: c.provider,
            model: c.model,
            version: self.version + 1,
            input_micros_per_m: c.input_micros_per_m,
            output_micros_per_m: c.output_micros_per_m,
            cached_input_micros_per_m: c.cached_input_micros_per_m,
            image_micros: c.image_micros,
            request_micros: c.request_micros,
            character_micros_per_m: c.character_micros_per_m,
            audio_hour_micros: c.audio_hour_micros,
            by: by.id.clone(),
        }))
    }
}
