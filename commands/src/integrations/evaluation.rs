//! Trying models: what they are tried with, what an answer is worth, and the evaluation aggregate, which tries one model with the
//! cases of one benchmark (integrations.md §16, §25.4).

mod benchmark;
mod cron;
mod grading;
mod meaning;
mod schedule;
mod score;
mod scoring;

pub use benchmark::{Benchmark, BenchmarkConfig, CaseInput, CaseMessage, Evaluator, Expected, ExpectedCall, TestCase};
pub use benchmark::{benchmark, benchmarks};
pub use grading::{Grade, Output, grade, json_in};
pub use meaning::{Meaning, near, to_judge, verdict, verdict_format};
pub use schedule::{
    EvalSchedule, EvalScheduleCommand, RemoveEvalSchedule, RunEvalSchedule, SetEvalSchedule, StopEvalSchedule,
    schedule_id,
};
pub use score::{ModelScore, ModelScoreCommand, UpdateModelScore, score_id};
pub use scoring::{Ended, Marks, Totals, Weights};

use serde::{Deserialize, Serialize};
use symbia_events::integrations::{
    CaseResult, ErrorCategory, EvaluatedCase, EvaluationCancelled, EvaluationCaseScored, EvaluationCompleted,
    EvaluationEvent, EvaluationFailed, EvaluationStarted, RunConfig, Target, ToolCall,
};
use time::OffsetDateTime;

use super::administration::{administers, is_name};
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// Cases of an evaluation that are asked at once.
const PARALLELISM: u32 = 3;
/// How often a case without an answer is tried again.
const RETRIES: u32 = 1;
const OTHERS: &str = "has models tried";

domain_commands! {
    /// What can be done about an evaluation. All but starting and stopping it is the platform's.
    EvaluationCommand: Integrations / "evaluation" {
        /// Tries a model.
        RunEvaluation = "symbia.cmd.integrations.run-evaluation.v1" {
            evaluation_id: String,
            org_id: String,
            provider: String,
            model_id: String,
            benchmark_id: String,
            /// Only these cases; all of them when none is named.
            #[serde(default)]
            test_case_ids: Vec<String>,
            #[serde(default)]
            seed: Option<i64>,
            /// Asks nobody: the expected answers are graded.
            #[serde(default)]
            mock: bool,
            /// Who judges answers whose meaning counts; absent: the default model.
            #[serde(default)]
            judge: Option<Target>,
            /// In whose name, when the platform has it tried.
            #[serde(default)]
            started_by: Option<String>,
        }
        /// A case has its grade.
        ScoreCase = "symbia.cmd.integrations.score-case.v1" { evaluation_id: String, result: CaseResult }
        /// All of them have.
        CompleteEvaluation = "symbia.cmd.integrations.complete-evaluation.v1" { evaluation_id: String }
        /// The model cannot be tried.
        FailEvaluation = "symbia.cmd.integrations.fail-evaluation.v1" {
            evaluation_id: String,
            category: ErrorCategory,
            message: String,
        }
        /// Stops it.
        CancelEvaluation = "symbia.cmd.integrations.cancel-evaluation.v1" { evaluation_id: String, org_id: String }
    }
}

/// An evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    phase: EvaluationPhase,
    started: Option<Box<EvaluationStarted>>,
    results: Vec<CaseResult>,
}

/// Where an evaluation stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EvaluationPhase {
    /// Never started.
    #[default]
    Unknown,
    /// Cases are asked and graded.
    Running,
    /// It has its one end.
    Over,
}

/// The answer that a case expects, as far as one can be made of what it says: what is graded where no model is asked.
#[must_use]
pub fn ideal(case: &TestCase) -> (String, Vec<ToolCall>) {
    let expected = &case.expected;
    let text = expected.content.clone().unwrap_or_else(|| expected.contains.join(" "));
    let call = |(index, call): (usize, &ExpectedCall)| ToolCall {
        id: format!("call_{index}"),
        name: call.name.clone(),
        arguments: call.arguments.clone().map_or_else(|| "{}".to_owned(), |a| serde_json::Value::Object(a).to_string()),
    };
    let calls = expected.function_call.iter().chain(&expected.function_calls).enumerate().map(call).collect();
    (text, calls)
}

fn checked_judge(judge: Option<&Target>) -> Result<(), Rejection> {
    let mut names = judge.into_iter().flat_map(|judge| judge.provider.iter().chain(&judge.model));
    match names.all(|name| is_name(name)) {
        true => Ok(()),
        false => Err(Rejection::invalid("judge: names of 1 to 200 printable characters")),
    }
}

// The benchmark that has these cases.
fn checked_trial(benchmark_id: &str, test_case_ids: &[String]) -> Result<&'static Benchmark, Rejection> {
    let Some(benchmark) = benchmark(benchmark_id) else {
        return Err(Rejection::invalid(format!("benchmarkId: there is no benchmark '{benchmark_id}'")));
    };
    if let Some(unknown) = test_case_ids.iter().find(|id| benchmark.case(id).is_none()) {
        return Err(Rejection::invalid(format!("testCaseIds: '{}' has no case '{unknown}'", benchmark.id)));
    }
    Ok(benchmark)
}

impl Evaluation {
    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> EvaluationPhase {
        self.phase
    }

    /// What it was started with.
    #[must_use]
    pub fn started(&self) -> Option<&EvaluationStarted> {
        self.started.as_deref()
    }

    fn cases(&self) -> &[EvaluatedCase] {
        self.started.as_ref().map_or(&[], |started| &started.cases)
    }

    fn run(&self, c: RunEvaluation, by: &Actor) -> Result<Decision<EvaluationEvent>, Rejection> {
        if self.phase != EvaluationPhase::Unknown {
            return Err(Rejection::new("CONFLICT", "this evaluation id is in use"));
        }
        if [&c.provider, &c.model_id].iter().any(|name| !is_name(name)) {
            return Err(Rejection::invalid("provider, modelId: 1 to 200 printable characters"));
        }
        checked_judge(c.judge.as_ref())?;
        let benchmark = checked_trial(&c.benchmark_id, &c.test_case_ids)?;
        let chosen = |case: &&TestCase| c.test_case_ids.is_empty() || c.test_case_ids.contains(&case.id);
        let case = |case: &TestCase| EvaluatedCase { id: case.id.clone(), weight: case.weight };
        let config = &benchmark.config;
        Ok(Decision::one(EvaluationStarted {
            evaluation_id: c.evaluation_id,
            provider: c.provider,
            model_id: c.model_id,
            benchmark_id: benchmark.id.clone(),
            benchmark_version: benchmark.version.clone(),
            cases: benchmark.test_cases.iter().filter(chosen).map(case).collect(),
            run_config: RunConfig {
                max_tokens: config.max_tokens,
                temperature: config.temperature,
                seed: c.seed.or(config.seed),
                timeout_ms: config.timeout,
                parallelism: PARALLELISM,
                retries: RETRIES,
                mock: c.mock,
            },
            started_by: c.started_by.filter(|_| by.is_platform()).unwrap_or_else(|| by.subject().to_owned()),
            key_id: by.key.clone(),
            judge: c.judge,
        }))
    }

    fn running(&self) -> Result<(), Rejection> {
        match self.phase {
            EvaluationPhase::Unknown => Err(Rejection::not_found("evaluation")),
            EvaluationPhase::Over => Err(Rejection::new("CONFLICT", "the evaluation has its end already")),
            EvaluationPhase::Running => Ok(()),
        }
    }

    // A case has one grade, however often its answer is looked at.
    fn score(&self, c: ScoreCase) -> Result<Decision<EvaluationEvent>, Rejection> {
        self.running()?;
        if self.cases().iter().all(|case| case.id != c.result.test_case_id) {
            return Err(Rejection::not_found("case"));
        }
        if self.results.iter().any(|result| result.test_case_id == c.result.test_case_id) {
            return Ok(Decision::nothing());
        }
        let place = u32::try_from(self.results.len() + 1).unwrap_or(u32::MAX);
        Ok(Decision::one(EvaluationCaseScored { evaluation_id: c.evaluation_id, place, result: c.result }))
    }

    fn complete(&self, c: CompleteEvaluation) -> Result<Decision<EvaluationEvent>, Rejection> {
        self.running()?;
        if self.results.len() < self.cases().len() {
            return Err(Rejection::new("CONFLICT", "not all cases have their grades"));
        }
        let weight = |id: &str| self.cases().iter().find(|case| case.id == id).map_or(0.0, |case| case.weight);
        let weighed: Vec<(f64, CaseResult)> =
            self.results.iter().map(|result| (weight(&result.test_case_id), result.clone())).collect();
        let totals = Totals::of(&weighed);
        Ok(Decision::one(EvaluationCompleted {
            evaluation_id: c.evaluation_id,
            overall_score: totals.overall_score,
            accuracy: totals.accuracy,
            latency_p50_ms: totals.latency_p50_ms,
            latency_p95_ms: totals.latency_p95_ms,
            latency_p99_ms: totals.latency_p99_ms,
            total_input_tokens: totals.input_tokens,
            total_output_tokens: totals.output_tokens,
            cost_micros: totals.cost_micros,
        }))
    }
}

impl Aggregate for Evaluation {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("evaluationId");
    type Command = EvaluationCommand;
    type Event = EvaluationEvent;

    fn apply(&mut self, event: &EvaluationEvent) {
        match event {
            EvaluationEvent::EvaluationStarted(e) => {
                self.phase = EvaluationPhase::Running;
                self.started = Some(Box::new(e.clone()));
            }
            EvaluationEvent::EvaluationCaseScored(e) => {
                // What was answered stays in the log; here the numbers are enough.
                self.results.push(CaseResult { output: None, reason: None, ..e.result.clone() });
            }
            EvaluationEvent::EvaluationCompleted(_)
            | EvaluationEvent::EvaluationFailed(_)
            | EvaluationEvent::EvaluationCancelled(_) => self.phase = EvaluationPhase::Over,
        }
    }

    fn decide(
        &self,
        command: EvaluationCommand,
        by: &Actor,
        _at: OffsetDateTime,
    ) -> Result<Decision<EvaluationEvent>, Rejection> {
        let platforms = || by.is_platform().then_some(()).ok_or_else(|| Rejection::forbidden("the platform grades"));
        match command {
            EvaluationCommand::RunEvaluation(c) => {
                administers(by, &c.org_id, OTHERS)?;
                self.run(c, by)
            }
            EvaluationCommand::CancelEvaluation(c) => {
                administers(by, &c.org_id, OTHERS)?;
                self.running()?;
                Ok(Decision::one(EvaluationCancelled { evaluation_id: c.evaluation_id, by: by.id.clone() }))
            }
            EvaluationCommand::ScoreCase(c) => {
                platforms()?;
                self.score(c)
            }
            EvaluationCommand::CompleteEvaluation(c) => {
                platforms()?;
                self.complete(c)
            }
            EvaluationCommand::FailEvaluation(c) => {
                platforms()?;
                self.running()?;
                let FailEvaluation { evaluation_id, category, message } = c;
                Ok(Decision::one(EvaluationFailed { evaluation_id, category, message }))
            }
        }
    }
}

#[cfg(test)]
mod tests;
