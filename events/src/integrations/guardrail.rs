//! Events of a guardrail: what an organization lets into prompts and out of answers (integrations.md §28).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain_events;

/// Personal data that can be told by its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PersonalData {
    /// An address of e-mail.
    Email,
    /// A telephone number.
    Phone,
    /// A social security number of the USA.
    Ssn,
    /// The number of a payment card, with its check digit.
    CreditCard,
    /// An address of the Internet Protocol, version 4 or 6.
    IpAddress,
}

/// What is done when a rule fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GuardrailAction {
    /// It goes on record, and nothing else happens.
    Flag,
    /// What was found is replaced.
    Redact,
    /// The request fails.
    Block,
}

/// Looks for one kind of personal data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PersonalDataRule {
    /// What.
    pub kind: PersonalData,
    /// What is done with it.
    pub action: GuardrailAction,
}

/// Looks for what a regular expression matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PatternRule {
    /// Names it in events and errors.
    pub name: String,
    /// The expression.
    pub pattern: String,
    /// What is done with a match.
    pub action: GuardrailAction,
}

/// Wants one of several regular expressions to match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AllowRule {
    /// The expressions.
    pub patterns: Vec<String>,
    /// What is done when none matches: `flag` or `block`.
    pub action: GuardrailAction,
}

/// Limits the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LengthRule {
    /// Characters.
    pub most: u32,
    /// What is done with more: `flag` or `block`.
    pub action: GuardrailAction,
}

/// What is looked for at one place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GuardrailRules {
    /// Personal data.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pii: Vec<PersonalDataRule>,
    /// Attempts to give the model other instructions: `flag` or `block`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub injection: Option<GuardrailAction>,
    /// What must not be there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<PatternRule>,
    /// What must be there: in the last message of the user, or in the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<AllowRule>,
    /// How long it may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<LengthRule>,
}

impl GuardrailRules {
    /// Whether nothing is looked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == GuardrailRules::default()
    }
}

/// Where a guardrail looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GuardrailHook {
    /// At the prompt, before a model sees it.
    Prompt,
    /// At the answer, before a reader sees it.
    Answer,
}

/// A rule that fired. It never has what was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuardrailFinding {
    /// Name of the guardrail.
    pub guardrail: String,
    /// Its version.
    pub version: u64,
    /// The rule: `pii.email`, `injection.ignore-instructions`, `deny.<name>`, `allow` or `maxLength`.
    pub rule: String,
    /// What was done.
    pub action: GuardrailAction,
    /// How often it fired.
    pub count: u32,
    /// Where: `messages[0]`, `tools`, `format`, `answer`, `reasoning`, `toolCalls`; the first few places.
    pub places: Vec<String>,
}

domain_events! {
    /// What can have happened to a guardrail.
    GuardrailEvent: Integrations / "guardrail" {
        /// It looks for this from now on.
        GuardrailSet = "symbia.integrations.guardrail.guardrail-set.v1" {
            guardrail_id: String,
            name: String,
            /// Counts changes, from 1.
            version: u64,
            /// What is looked for in prompts.
            prompt: GuardrailRules,
            /// What is looked for in answers.
            answer: GuardrailRules,
            by: String,
        }
        /// It looks for nothing any more.
        GuardrailRemoved = "symbia.integrations.guardrail.guardrail-removed.v1" {
            guardrail_id: String,
            by: String,
        }
    }
}
