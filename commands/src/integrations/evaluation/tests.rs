//! What an evaluation decides.

use symbia_events::{
    ActorType,
    integrations::{ModelScoreEvent, TaskType},
};

use super::*;
use crate::{
    Membership, Role,
    testing::{AT, given},
};

fn member(role: Role) -> Actor {
    let orgs = vec![Membership { id: "acme".parse().unwrap(), role }];
    Actor { id: "ada".into(), kind: ActorType::User, orgs, ..platform() }
}

fn platform() -> Actor {
    Actor::service("integrations")
}

fn run() -> RunEvaluation {
    RunEvaluation {
        evaluation_id: "e1".into(),
        org_id: "acme".into(),
        provider: "openai".into(),
        model_id: "gpt".into(),
        benchmark_id: "routing.hybrid-decision".into(),
        test_case_ids: Vec::new(),
        seed: Some(7),
        mock: false,
        judge: None,
        started_by: None,
    }
}

fn result(case: &str, score: f64) -> CaseResult {
    CaseResult {
        test_case_id: case.into(),
        request_id: None,
        output: None,
        passed: score > 0.5,
        score,
        reason: None,
        latency_ms: 100,
        input_tokens: 1,
        output_tokens: 1,
        cost_micros: None,
        error: None,
    }
}

fn scored(case: &str, score: f64) -> EvaluationCommand {
    ScoreCase { evaluation_id: "e1".into(), result: result(case, score) }.into()
}

#[test]
fn an_admin_has_a_model_tried_with_the_cases_of_a_benchmark() {
    given::<Evaluation>([]).when(run(), &member(Role::Member)).rejected("INSUFFICIENT_ROLE");
    let admin = member(Role::Admin);
    let started = Evaluation::default().decide(run().into(), &admin, AT).unwrap().events;
    let [EvaluationEvent::EvaluationStarted(e)] = &started[..] else { panic!("{started:?}") };
    let config = &e.run_config;
    assert_eq!((e.cases.len(), config.seed, config.timeout_ms, config.max_tokens), (2, Some(7), 15_000, Some(200)));
    assert_eq!((config.parallelism, config.retries, e.started_by.as_str()), (3, 1, "ada"));
    let refused = |c: RunEvaluation| given::<Evaluation>([]).when(c, &admin).rejected("VALIDATION_FAILED");
    refused(RunEvaluation { benchmark_id: "routing.nothing".into(), ..run() });
    refused(RunEvaluation { test_case_ids: vec!["nothing".into()], ..run() });
    refused(RunEvaluation { model_id: String::new(), ..run() });
    given::<Evaluation>(started).when(run(), &admin).rejected("CONFLICT");
    let keyed = Actor { key: Some("k1".into()), ..admin };
    let events = Evaluation::default().decide(run().into(), &keyed, AT).unwrap().events;
    let [EvaluationEvent::EvaluationStarted(e)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(e.key_id.as_deref(), Some("k1"), "whose limits count is forgotten");
}

#[test]
fn each_case_has_one_grade_and_all_of_them_one_end() {
    let mut state = Evaluation::default();
    let mut then = |command: EvaluationCommand, by: &Actor| {
        let decided = state.decide(command, by, AT).map(|decision| decision.events).map_err(|r| r.code)?;
        decided.iter().for_each(|event| state.apply(event));
        Ok::<_, std::borrow::Cow<'static, str>>(decided)
    };
    let (admin, complete) = (member(Role::Admin), || CompleteEvaluation { evaluation_id: "e1".into() }.into());
    assert_eq!(then(scored("x", 1.0), &platform()).unwrap_err(), "NOT_FOUND");
    then(run().into(), &admin).unwrap();
    let cases: Vec<String> =
        benchmark("routing.hybrid-decision").unwrap().test_cases.iter().map(|case| case.id.clone()).collect();
    assert_eq!(then(scored(&cases[0], 1.0), &admin).unwrap_err(), "FORBIDDEN");
    assert_eq!(then(scored("other", 1.0), &platform()).unwrap_err(), "NOT_FOUND");
    let first = then(scored(&cases[1], 0.4), &platform()).unwrap();
    assert!(matches!(&first[..], [EvaluationEvent::EvaluationCaseScored(e)] if e.place == 1), "{first:?}");
    assert!(then(scored(&cases[1], 1.0), &platform()).unwrap().is_empty(), "graded twice");
    assert_eq!(then(complete(), &platform()).unwrap_err(), "CONFLICT");
    then(scored(&cases[0], 1.0), &platform()).unwrap();
    let end = then(complete(), &platform()).unwrap();
    let [EvaluationEvent::EvaluationCompleted(e)] = &end[..] else { panic!("{end:?}") };
    assert!((e.overall_score - 0.7).abs() < 1e-9 && e.accuracy == 0.5, "{e:?}");
    let cancel = CancelEvaluation { evaluation_id: "e1".into(), org_id: "acme".into() };
    assert_eq!(then(cancel.into(), &admin).unwrap_err(), "CONFLICT");
}

#[test]
fn a_score_is_its_models_and_its_composite_follows() {
    let update = || UpdateModelScore {
        score_id: score_id("acme", "openai", "gpt", TaskType::Code),
        org_id: "acme".into(),
        provider: "openai".into(),
        model_id: "gpt".into(),
        task_type: TaskType::Code,
        quality_score: 100.0,
        speed_score: 80.0,
        cost_score: 40.0,
        reliability_score: 60.0,
        evaluation_ids: vec!["e1".into()],
    };
    let admin = member(Role::Admin);
    given::<ModelScore>([]).when(update(), &member(Role::Member)).rejected("INSUFFICIENT_ROLE");
    given::<ModelScore>([])
        .when(UpdateModelScore { speed_score: 101.0, ..update() }, &admin)
        .rejected("VALIDATION_FAILED");
    let other = UpdateModelScore { model_id: "other".into(), ..update() };
    given::<ModelScore>([]).when(other, &admin).rejected("VALIDATION_FAILED");
    let events = ModelScore::default().decide(update().into(), &admin, AT).unwrap().events;
    let [ModelScoreEvent::ModelScoreUpdated(e)] = &events[..] else { panic!() };
    assert!((e.composite_score - 76.0).abs() < 1e-9, "{}", e.composite_score);
}
