//! Benchmarks: cases that a model is tried with, and what is expected of it. Those of the platform's own are data beside this file.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbia_events::integrations::{PromptRole, TaskType, Tool};

/// How long a case may take when its benchmark does not say, milliseconds.
const TIMEOUT: u64 = 30_000;

/// The rule by which an answer is graded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "named as in integrations.md §16")]
pub enum Evaluator {
    Exact,
    Contains,
    Semantic,
    JsonSchema,
    FunctionCall,
    Regex,
    Custom,
}

/// A call that is expected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedCall {
    /// The tool.
    pub name: String,
    /// The arguments that it must have; others may be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Map<String, Value>>,
}

/// What is expected of an answer. Which of it counts, the evaluator says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Expected {
    /// The text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// A regular expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// What must be in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contains: Vec<String>,
    /// What must not be in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_contains: Vec<String>,
    /// The call that must be asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_call: Option<ExpectedCall>,
    /// The calls that must all be asked for. With neither, none may be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub function_calls: Vec<ExpectedCall>,
    /// What a judge looks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub criteria: Option<String>,
    /// JSON schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
}

/// A message of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseMessage {
    /// Who speaks.
    pub role: PromptRole,
    /// What they say.
    pub content: String,
}

/// What a model is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaseInput {
    /// A conversation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<CaseMessage>,
    /// A question behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Tools at the model's disposal; without any, those of the benchmark.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestCase {
    /// Id within its benchmark.
    pub id: String,
    /// What it tries.
    pub name: String,
    /// The same in more words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What a model is given.
    pub input: CaseInput,
    /// What is expected of it.
    pub expected: Expected,
    /// How that is graded.
    pub evaluator: Evaluator,
    /// How much it counts beside the others.
    #[serde(default = "one")]
    pub weight: f64,
    /// Words to find it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

fn one() -> f64 {
    1.0
}

/// How the cases of a benchmark are asked.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BenchmarkConfig {
    /// Longest answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// How much chance there is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Where the chance begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// How long a case may take, milliseconds.
    #[serde(default = "timeout")]
    pub timeout: u64,
}

fn timeout() -> u64 {
    TIMEOUT
}

/// A benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Benchmark {
    /// Its task and its name, with a dot between.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// What it tries.
    pub description: String,
    /// Of its cases.
    pub version: String,
    /// What a model must be good at.
    pub task_type: TaskType,
    /// The same in finer terms.
    pub category: String,
    /// Who wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What a model is told before every case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Tools that it has in every case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    /// How it is asked.
    pub config: BenchmarkConfig,
    /// The cases.
    pub test_cases: Vec<TestCase>,
}

impl Benchmark {
    /// A case by its id.
    #[must_use]
    pub fn case(&self, id: &str) -> Option<&TestCase> {
        self.test_cases.iter().find(|case| case.id == id)
    }

    /// What is said in a case, the benchmark's own words first.
    #[must_use]
    pub fn messages(&self, case: &TestCase) -> Vec<(PromptRole, String)> {
        let system = self.system.iter().map(|said| (PromptRole::System, said.clone()));
        let said = case.input.messages.iter().map(|said| (said.role, said.content.clone()));
        let prompt = case.input.prompt.iter().map(|said| (PromptRole::User, said.clone()));
        system.chain(said).chain(prompt).collect()
    }

    /// The tools of a case.
    #[must_use]
    pub fn tools<'a>(&'a self, case: &'a TestCase) -> &'a [Tool] {
        if case.input.tools.is_empty() { &self.tools } else { &case.input.tools }
    }
}

const BUILT_IN: [&str; 10] = [
    include_str!("benchmarks/routing-intent-classification.yaml"),
    include_str!("benchmarks/routing-hybrid-decision.yaml"),
    include_str!("benchmarks/code-security-detection.yaml"),
    include_str!("benchmarks/code-performance-suggestions.yaml"),
    include_str!("benchmarks/reasoning-fact-checking.yaml"),
    include_str!("benchmarks/reasoning-logical-analysis.yaml"),
    include_str!("benchmarks/reasoning-multi-step.yaml"),
    include_str!("benchmarks/function-calling-tool-selection.yaml"),
    include_str!("benchmarks/function-calling-parameter-extraction.yaml"),
    include_str!("benchmarks/function-calling-multi-tool.yaml"),
];

// That each of them can be read is tested.
static BENCHMARKS: LazyLock<Vec<Benchmark>> =
    LazyLock::new(|| BUILT_IN.into_iter().filter_map(|text| serde_saphyr::from_str(text).ok()).collect());

/// The platform's own benchmarks.
#[must_use]
pub fn benchmarks() -> &'static [Benchmark] {
    &BENCHMARKS
}

/// One of them by its id.
#[must_use]
pub fn benchmark(id: &str) -> Option<&'static Benchmark> {
    BENCHMARKS.iter().find(|benchmark| benchmark.id == id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use symbia_events::integrations::ToolCall;

    use super::*;
    use crate::integrations::evaluation::{Output, grade, ideal};

    #[test]
    fn the_built_in_benchmarks_are_those_of_the_contract() {
        for text in BUILT_IN {
            serde_saphyr::from_str::<Benchmark>(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        }
        let shown: Vec<_> = benchmarks()
            .iter()
            .map(|b| (b.id.as_str(), b.test_cases.len(), b.config.max_tokens.unwrap_or(0), b.config.timeout / 1000))
            .collect();
        let expected = [
            ("routing.intent-classification", 11, 100, 10),
            ("routing.hybrid-decision", 2, 200, 15),
            ("code.security-detection", 7, 500, 20),
            ("code.performance-suggestions", 4, 500, 20),
            ("reasoning.fact-checking", 4, 300, 15),
            ("reasoning.logical-analysis", 4, 400, 15),
            ("reasoning.multi-step", 3, 500, 20),
            ("function_calling.tool-selection", 4, 300, 15),
            ("function_calling.parameter-extraction", 3, 400, 15),
            ("function_calling.multi-tool", 2, 500, 20),
        ];
        assert_eq!(shown, expected);
        for benchmark in benchmarks() {
            let ids: BTreeSet<&str> = benchmark.test_cases.iter().map(|case| case.id.as_str()).collect();
            assert_eq!(ids.len(), benchmark.test_cases.len(), "{}: two cases of one id", benchmark.id);
            assert_eq!((benchmark.version.as_str(), benchmark.config.temperature), ("1.0.0", Some(0.0)));
            assert!(benchmark.system.is_some(), "{}: a model is told nothing of its task", benchmark.id);
            let task = serde_json::to_value(benchmark.task_type).unwrap();
            assert_eq!(task, benchmark.id.split('.').next().unwrap());
        }
    }

    #[test]
    fn an_answer_as_it_is_expected_passes_and_silence_does_not() {
        for benchmark in benchmarks() {
            for case in &benchmark.test_cases {
                let (text, calls): (String, Vec<ToolCall>) = ideal(case);
                let graded = grade(case, Output { text: &text, calls: &calls });
                assert!(graded.passed && graded.score > 0.99, "{} {}: {graded:?} of {text}", benchmark.id, case.id);
                let silence = grade(case, Output { text: "", calls: &[] });
                let none_wanted = case.expected.function_call.is_none() && case.expected.function_calls.is_empty();
                let calls_nothing = case.evaluator == Evaluator::FunctionCall && none_wanted;
                assert!(calls_nothing || !silence.passed, "{} {}: silence passes", benchmark.id, case.id);
                assert!(!benchmark.messages(case).is_empty());
                for name in case.expected.function_call.iter().chain(&case.expected.function_calls).map(|c| &c.name) {
                    assert!(benchmark.tools(case).iter().any(|tool| tool.name == *name), "{name} is no tool");
                }
            }
        }
    }
}
