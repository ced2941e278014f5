//! What those who want a model of this installation and the inference processes say to each other, over core NATS.
//!
//! A [`Job`] is a request to a queue group, its answer a sequence of [`Frame`]s to the reply subject. Nothing of it is
//! stored: what must last (a completion, a load that was asked for) is an event before it becomes a job, and whoever follows
//! that event asks again until it has its end. So it does not matter who is killed when:
//!
//! - no inference process: the broker says at once that nobody listens, and the asker asks again until its patience ends;
//! - the process dies: [`Frame::Alive`] stops coming, and after [`SILENCE`] the asker knows that the job is lost;
//! - the asker dies: [`Frame::Alive`] is itself a request, to which nobody listens any more, and the model is stopped;
//! - the broker dies: both sides see silence.
//!
//! A work queue (`SYMBIA_JOB`) would keep jobs of askers that are gone, and need the same heartbeats besides.
//!
//! Each process tells its [`Status`] every [`BEAT`], and at once when something changes or somebody asks at [`CENSUS`].

mod ask;
mod census;
mod frame;
mod nearness;
mod order;
mod request;
mod status;

use std::time::Duration;

pub use ask::{AskError, Frames, Inference, encode_vector};
pub use census::Census;
pub use frame::*;
pub use nearness::nearest;
pub use order::*;
pub use request::*;
pub use status::*;

/// Where jobs go; the processes share them as one queue group.
pub const JOBS: &str = "symbia.inference.job";
/// The queue group.
pub const GROUP: &str = "inference";
/// Where cancellations go, to every process; the payload is the job's id.
pub const CANCEL: &str = "symbia.inference.cancel";
/// Where every process tells its [`Status`].
pub const STATUS: &str = "symbia.inference.status";
/// Who publishes here hears the status of every process at [`STATUS`].
pub const CENSUS: &str = "symbia.inference.census";
/// Where [`Unload`]s go, to every process.
pub const UNLOAD: &str = "symbia.inference.unload";
/// Where [`Order`]s go, to every process.
pub const ORDERS: &str = "symbia.inference.order";
/// How often a process says of each job that it is alive.
pub const HEARTBEAT: Duration = Duration::from_millis(500);
/// Silence after which the other side is taken for dead.
pub const SILENCE: Duration = Duration::from_secs(2);
/// How often a process tells its status.
pub const BEAT: Duration = Duration::from_secs(1);
/// A process whose last status is older is gone.
pub const GONE: Duration = Duration::from_millis(3500);
