//! The scores of a model for a task: what its evaluations say of it, summed up when an admin has that done.

use serde::{Deserialize, Serialize};
use symbia_events::integrations::{ModelScoreEvent, ModelScoreUpdated, TaskType};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Marks, Weights};
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands, integrations::administration::administers};

domain_commands! {
    /// What can be done about scores.
    ModelScoreCommand: Integrations / "model-score" {
        /// Sums them up anew. Each is 0 to 100; the composite one follows from them.
        UpdateModelScore = "symbia.cmd.integrations.update-model-score.v1" {
            score_id: String,
            org_id: String,
            provider: String,
            model_id: String,
            task_type: TaskType,
            quality_score: f64,
            speed_score: f64,
            cost_score: f64,
            reliability_score: f64,
            evaluation_ids: Vec<String>,
        }
    }
}

/// The id of a model's scores for a task.
#[must_use]
pub fn score_id(org: &str, provider: &str, model: &str, task: TaskType) -> String {
    let name = serde_json::json!(["model-score", org, provider, model, task]).to_string();
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
}

/// The scores of a model for a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelScore {}

impl Aggregate for ModelScore {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("scoreId");
    type Command = ModelScoreCommand;
    type Event = ModelScoreEvent;

    fn apply(&mut self, _event: &ModelScoreEvent) {}

    fn decide(
        &self,
        command: ModelScoreCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<ModelScoreEvent>, Rejection> {
        let ModelScoreCommand::UpdateModelScore(c) = command;
        administers(by, &c.org_id, "has its models scored")?;
        if c.score_id != score_id(&c.org_id, &c.provider, &c.model_id, c.task_type) {
            return Err(Rejection::invalid("scoreId: that of the model and the task"));
        }
        let marks = [c.quality_score, c.speed_score, c.cost_score, c.reliability_score];
        if !marks.iter().all(|mark| (0.0..=100.0).contains(mark)) {
            return Err(Rejection::invalid("scores: 0 to 100"));
        }
        if c.evaluation_ids.is_empty() {
            return Err(Rejection::invalid("evaluationIds: at least one"));
        }
        let [quality, speed, cost, reliability] = marks;
        let composite_score = Marks { quality, speed, cost, reliability }.composite(&Weights::default());
        Ok(Decision::one(ModelScoreUpdated {
            score_id: c.score_id,
            provider: c.provider,
            model_id: c.model_id,
            task_type: c.task_type,
            quality_score: c.quality_score,
            speed_score: c.speed_score,
            cost_score: c.cost_score,
            reliability_score: c.reliability_score,
            composite_score,
            evaluation_ids: c.evaluation_ids,
            by: by.id.clone(),
        }))
    }
}
