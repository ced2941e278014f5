//! Events of the price book: what a model costs (integrations.md §25.4).

use crate::domain_events;

domain_events! {
    /// What can have happened to the price of a model.
    PriceEvent: Integrations / "price" {
        /// It costs this from now on.
        PriceSet = "symbia.integrations.price.price-set.v1" {
            price_id: String,
            provider: String,
            model: String,
            /// Counts changes, from 1.
            version: u64,
            /// Millionths of a US dollar for a million tokens.
            input_micros_per_m: u64,
            output_micros_per_m: u64,
            /// Absent: as other input.
            cached_input_micros_per_m: Option<u64>,
            /// Millionths of a US dollar for a picture, besides its tokens; absent: none.
            image_micros: Option<u64>,
            /// The same for a request that is reranking, moderation or audio.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            request_micros: Option<u64>,
            /// For a million characters that are spoken.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            character_micros_per_m: Option<u64>,
            /// For an hour of audio that is listened to.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            audio_hour_micros: Option<u64>,
            by: String,
        }
    }
}
