//! What the other side tells of what was said there: that it arrived, was read, or will not arrive.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use symbia_events::integrations::{ChannelChatEvent, ChannelReceipt, ChannelReceiptNoted};

use super::NoteChannelReceipt;
use crate::{Decision, Rejection};

/// Parts of which it may be told what became of them: the last ones.
const AWAITED: usize = 64;

/// A part that was said there, and what was told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SaidPart {
    delivery_id: String,
    vendor_message_id: String,
    receipt: Option<ChannelReceipt>,
}

/// The parts that were said last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SaidParts(VecDeque<SaidPart>);

impl SaidParts {
    pub fn said(&mut self, delivery_id: &str, vendor_message_id: &str) {
        if self.0.len() == AWAITED {
            self.0.pop_front();
        }
        let (delivery_id, vendor_message_id) = (delivery_id.to_owned(), vendor_message_id.to_owned());
        self.0.push_back(SaidPart { delivery_id, vendor_message_id, receipt: None });
    }

    pub fn told(&mut self, vendor_message_id: &str, receipt: ChannelReceipt) {
        for part in self.0.iter_mut().filter(|part| part.vendor_message_id == vendor_message_id) {
            part.receipt = Some(receipt);
        }
    }

    // What comes earlier than what was told before is nothing new.
    pub fn receipt(
        &self,
        c: NoteChannelReceipt,
        connection_id: &str,
        is_being_said: bool,
    ) -> Result<Decision<ChannelChatEvent>, Rejection> {
        let Some(part) = self.0.iter().find(|part| part.vendor_message_id == c.vendor_message_id) else {
            // The other side may be faster than the log.
            if is_being_said {
                return Err(Rejection::new("CONFLICT", "it is being said: tell it again later"));
            }
            return Ok(Decision::nothing());
        };
        if part.receipt.is_some_and(|known| known >= c.receipt) {
            return Ok(Decision::nothing());
        }
        Ok(Decision::one(ChannelReceiptNoted {
            chat_key: c.chat_key,
            connection_id: connection_id.to_owned(),
            delivery_id: part.delivery_id.clone(),
            vendor_message_id: c.vendor_message_id,
            receipt: c.receipt,
            code: c.code,
        }))
    }
}
