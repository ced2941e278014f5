//! One exchange, a person's question and the assistant's answer, with every process and server killed at every step of it:
//! one reply, never two, never none.
#![allow(missing_docs, reason = "tests")]

#[path = "exchange/front.rs"]
mod front;
#[cfg(feature = "llama")]
#[path = "exchange/inference.rs"]
mod inference;
#[path = "exchange/stage.rs"]
mod stage;
#[path = "exchange/steps.rs"]
mod steps;
#[path = "exchange/streamed.rs"]
mod streamed;
#[path = "exchange/trace.rs"]
mod trace;
#[path = "../../workers/tests/support/upstream.rs"]
mod upstream;

type Tested = anyhow::Result<()>;
