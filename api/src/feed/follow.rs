//! What a follower asks for: where to begin, of which services, aggregates and types.

use serde::Deserialize;
use symbia_events::{OrgId, Service, check_token};

use super::position::{Cursor, From};
use crate::http::{ApiError, ApiResult};

/// Most aggregates that one feed may name: the broker keeps a subject filter for each.
const MAX_AGGREGATES: usize = 64;

/// The parameters of a feed. Lists are separated by commas.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FollowQuery {
    /// `latest` (default), `earliest`, or the `cursor` of the last item, e.g. `identity:12,messaging:40.1`.
    #[param(example = "latest")]
    pub from: Option<String>,
    /// Only events of these services, e.g. `identity,messaging`. Default: those that `from` names, else all.
    pub service: Option<String>,
    /// Only events of these aggregates: `<kind>` or `<kind>/<id>`, e.g. `organization,user/42`.
    pub aggregate: Option<String>,
    /// Only events of these types; a final `*` stands for any ending, e.g. `symbia.messaging.message.*`.
    #[serde(rename = "type")]
    #[param(rename = "type")]
    pub event_type: Option<String>,
    /// The organization, where the header X-Org-Id cannot be sent; `global` (super admins only) for what belongs to none.
    pub tenant: Option<String>,
    /// Why an operator follows an organization that is not theirs, where the header X-Access-Reason cannot be sent.
    pub reason: Option<String>,
    /// `true`: also what is not stored (token deltas, typing, presence), as `live` items without a position.
    #[serde(default)]
    #[param(default = false)]
    pub live: bool,
}

/// A feed's parameters, checked.
#[derive(Debug)]
pub(crate) struct Follow {
    pub from: From,
    pub services: Vec<Service>,
    pub aggregates: Vec<(String, Option<String>)>,
    pub types: Vec<String>,
}

impl Follow {
    pub fn new(query: &FollowQuery) -> ApiResult<Self> {
        let from: From = match query.from.as_deref() {
            None => From::Latest,
            Some(text) => text.parse().map_err(|e| ApiError::invalid("from", "format", format!("{e}")))?,
        };
        let mut services = Vec::new();
        for name in list(query.service.as_deref(), "service")? {
            let service = name.parse().map_err(|e| ApiError::invalid("service", "enum", format!("names an {e}")))?;
            if !services.contains(&service) {
                services.push(service);
            }
        }
        match &from {
            From::Cursor(cursor) if services.is_empty() => services = cursor.places().map(|(s, _)| s).collect(),
            From::Cursor(cursor) => all_named(cursor, &services)?,
            _ if services.is_empty() => services = Service::ALL.to_vec(),
            _ => {}
        }
        let mut aggregates = Vec::new();
        for text in list(query.aggregate.as_deref(), "aggregate")? {
            let (kind, id) = text.split_once('/').map_or((text, None), |(kind, id)| (kind, Some(id)));
            if check_token(kind).is_err() || id.is_some_and(|id| check_token(id).is_err()) {
                return Err(ApiError::invalid("aggregate", "format", "must be <kind> or <kind>/<id>"));
            }
            aggregates.push((kind.to_owned(), id.map(str::to_owned)));
        }
        if aggregates.len() > MAX_AGGREGATES {
            let message = format!("must name at most {MAX_AGGREGATES} aggregates");
            return Err(ApiError::invalid("aggregate", "length", message));
        }
        let types: Vec<String> = list(query.event_type.as_deref(), "type")?.into_iter().map(str::to_owned).collect();
        if types.iter().any(|t| t.trim_end_matches('*').contains('*') || t.ends_with("**")) {
            return Err(ApiError::invalid("type", "format", "may have a * only at its end"));
        }
        Ok(Self { from, services, aggregates, types })
    }

    /// The subjects to follow in a service's stream. The tenant stands in each of them, so that the broker sends nothing of
    /// another; none overlaps another, which the broker would refuse.
    pub fn subjects(&self, service: Service, tenant: &OrgId) -> Vec<String> {
        let all = format!("symbia.evt.{service}.{tenant}");
        let mut subjects: Vec<String> = self
            .aggregates
            .iter()
            .filter(|(kind, id)| id.is_none() || !self.aggregates.contains(&(kind.clone(), None)))
            .map(|(kind, id)| format!("{all}.{kind}.{}", id.as_deref().unwrap_or("*")))
            .collect();
        if subjects.is_empty() {
            return vec![format!("{all}.>")];
        }
        subjects.sort_unstable();
        subjects.dedup();
        subjects
    }
}

/// Whether an event type is among those asked for; no patterns = all.
pub(super) fn type_matches(patterns: &[String], event_type: &str) -> bool {
    patterns.is_empty()
        || patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => event_type.starts_with(prefix),
            None => event_type == pattern,
        })
}

// A service without a place would begin somewhere, with a gap or a flood: ask instead.
fn all_named(cursor: &Cursor, services: &[Service]) -> ApiResult<()> {
    match services.iter().find(|service| cursor.get(**service).is_none()) {
        None => Ok(()),
        Some(service) => {
            let message =
                format!("has no place for {service}: add {service}:0 for all its events, or ask for fewer services");
            Err(ApiError::invalid("from", "required", message))
        }
    }
}

fn list<'t>(text: Option<&'t str>, name: &str) -> ApiResult<Vec<&'t str>> {
    let items: Vec<&str> = text.into_iter().flat_map(|text| text.split(',')).map(str::trim).collect();
    if items.iter().any(|item| item.is_empty()) {
        return Err(ApiError::invalid(name, "format", "must be a list separated by commas, without empty entries"));
    }
    Ok(items)
}

#[cfg(test)]
#[allow(clippy::expect_used, reason = "tests")]
mod tests {
    use symbia_events::{OrgId, Service};

    use super::{Follow, FollowQuery, type_matches};

    fn follow(from: Option<&str>, service: Option<&str>, aggregate: Option<&str>) -> Result<Follow, String> {
        let text = |t: Option<&str>| t.map(str::to_owned);
        let query = FollowQuery {
            from: text(from),
            service: text(service),
            aggregate: text(aggregate),
            ..FollowQuery::default()
        };
        Follow::new(&query).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn a_cursor_says_which_services_are_followed() {
        assert_eq!(follow(None, None, None).map(|f| f.services), Ok(Service::ALL.to_vec()));
        let named = follow(Some("identity:1,models:2"), None, None).map(|f| f.services);
        assert_eq!(named, Ok(vec![Service::Identity, Service::Models]));
        let fewer = follow(Some("identity:1,models:2"), Some("models,models"), None).map(|f| f.services);
        assert_eq!(fewer, Ok(vec![Service::Models]));
        let error = follow(Some("identity:1"), Some("identity,models"), None).expect_err("no place for models");
        assert_eq!(error, "from has no place for models: add models:0 for all its events, or ask for fewer services");
    }

    #[test]
    fn the_tenant_stands_in_every_subject_and_no_two_overlap() {
        let subjects = |aggregate| {
            let org: OrgId = "org-a".parse().expect("an id");
            follow(None, None, aggregate).map(|f| f.subjects(Service::Identity, &org))
        };
        assert_eq!(subjects(None), Ok(vec!["symbia.evt.identity.org-a.>".to_owned()]));
        assert_eq!(
            subjects(Some("user/2,user/1,organization/1,organization,user/2")),
            Ok(["organization.*", "user.1", "user.2"].map(|s| format!("symbia.evt.identity.org-a.{s}")).to_vec())
        );
        for bad in ["user/*", "user/>", "a.b", "user/", "/1", "user,,", "user/1/2"] {
            assert!(subjects(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn types_match_word_for_word_or_by_prefix() {
        let patterns = ["a.b.v1".to_owned(), "c.*".to_owned()];
        for (event_type, expected) in [("a.b.v1", true), ("a.b.v12", false), ("c.d", true), ("c", false)] {
            assert_eq!(type_matches(&patterns, event_type), expected, "{event_type}");
        }
        assert!(type_matches(&[], "anything"));
    }
}
