//! The routing of an event: who gets it, by which contract, and what the policies say (network.md §8.6). Pure: the router,
//! the simulation and the tests ask the same function, and equal input gives equal output.

use std::collections::{BTreeMap, BTreeSet};

use symbia_events::network::{Action, AppliedPolicy, Boundary, BridgeType, Candidate, NodeType, Verdict};
pub use symbia_events::network::{ContractView, NodeView};
use time::OffsetDateTime;

use super::{Inputs, MESSAGING, PolicySet, covers};

/// Most times that policies send a call on.
const MOST_ROUTES: usize = 4;

/// A bridge as routing sees it.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub struct BridgeView {
    pub id: String,
    pub bridge_type: BridgeType,
    pub endpoint: String,
    pub event_types: Vec<String>,
    pub active: bool,
}

/// The node that stands for a bridge.
#[must_use]
pub fn bridge_node(bridge_id: &str) -> String {
    format!("bridge:{bridge_id}")
}

/// What a deployment decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Calls to the outside that no policy decides about are let through; else only those from or to a bridge are.
    pub allow_extra: bool,
    /// An answer to an event needs no contract.
    pub replies: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { allow_extra: false, replies: true }
    }
}

/// An organization's mesh at one moment.
#[derive(Default)]
pub struct MeshView {
    nodes: BTreeMap<String, NodeView>,
    contracts: BTreeMap<String, Vec<ContractView>>,
    bridges: Vec<BridgeView>,
    /// The policies that count.
    pub policies: PolicySet,
}

impl MeshView {
    /// Puts a mesh together.
    #[must_use]
    pub fn new(
        nodes: impl IntoIterator<Item = (String, NodeView)>,
        contracts: impl IntoIterator<Item = ContractView>,
        bridges: Vec<BridgeView>,
        policies: PolicySet,
    ) -> Self {
        let mut by_source: BTreeMap<String, Vec<ContractView>> = BTreeMap::new();
        for contract in contracts {
            by_source.entry(contract.from.clone()).or_default().push(contract);
        }
        MeshView { nodes: nodes.into_iter().collect(), contracts: by_source, bridges, policies }
    }

    /// A node.
    #[must_use]
    pub fn node(&self, id: &str) -> Option<&NodeView> {
        self.nodes.get(id)
    }

    /// How many events in a second a contract lets pass, if it says so.
    #[must_use]
    pub fn limit(&self, source: &str, contract: &str) -> Option<u32> {
        let mut contracts = self.contracts.get(source).into_iter().flatten();
        contracts.find(|known| known.id == contract)?.max_events_per_second
    }

    fn bridge(&self, node: &str) -> Option<&BridgeView> {
        let id = node.strip_prefix("bridge:")?;
        self.bridges.iter().find(|bridge| bridge.id == id && bridge.active)
    }

    fn outside(&self, node: &str) -> bool {
        let known = self.node(node).map(|found| found.node_type);
        known == Some(NodeType::Bridge) || node == "integrations" || self.bridge(node).is_some()
    }

    // Where a target takes events, unless there is none such.
    fn endpoint(&self, node: &str) -> Option<&str> {
        let known = self.node(node).map(|found| found.endpoint.as_str());
        let known = known.or_else(|| self.bridge(node).map(|bridge| bridge.endpoint.as_str()));
        known.or((node == MESSAGING).then_some(""))
    }
}

/// An event to be routed; its sender owns its source.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub struct MeshEvent<'e> {
    pub event_type: &'e str,
    pub source: &'e str,
    pub target: Option<&'e str>,
    pub target_entity: Option<&'e str>,
    pub run_id: &'e str,
    pub boundary: Boundary,
    /// The source of the event that this one answers, which its own source received in the same run.
    pub reply_to: Option<&'e str>,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// By target, in order of their ids; a lone explicit one first.
    pub candidates: Vec<Candidate>,
}

impl Decided {
    /// Whether somebody gets the event.
    #[must_use]
    pub fn delivers(&self) -> bool {
        self.candidates.iter().any(|candidate| candidate.verdict.delivers())
    }
}

/// Decides who gets an event.
#[must_use]
pub fn route(event: &MeshEvent<'_>, view: &MeshView, options: Options, at: OffsetDateTime) -> Decided {
    let targets = targets(event, view, at);
    let case = Case { event, view, policies: &view.policies, options, at };
    Decided { candidates: targets.into_iter().map(|target| case.decide(target, None)).collect() }
}

/// What other policies would say about a call that was decided before: it keeps the contract that it had. None when its
/// target was refused before any policy was asked.
#[must_use]
pub fn reconsider(
    event: &MeshEvent<'_>,
    recorded: &Candidate,
    view: &MeshView,
    policies: &PolicySet,
    options: Options,
    at: OffsetDateTime,
) -> Option<Candidate> {
    let asked = recorded.verdict.delivers()
        || matches!(recorded.verdict, Verdict::Deny | Verdict::RouteCycle)
        || (recorded.final_target != recorded.target && recorded.verdict != Verdict::RateLimited);
    let case = Case { event, view, policies, options, at };
    asked.then(|| case.decide(recorded.target.clone(), Some(recorded)))
}

fn targets(event: &MeshEvent<'_>, view: &MeshView, at: OffsetDateTime) -> Vec<String> {
    if let Some(entity) = event.target_entity {
        // Of several nodes that an entity lives on, the first by id takes its events.
        let on = view.nodes.iter().find(|(_, node)| node.entity_id.as_deref() == Some(entity));
        return on.map(|(id, _)| id.clone()).into_iter().collect();
    }
    if let Some(target) = event.target {
        return vec![target.to_owned()];
    }
    let mut found = BTreeSet::new();
    for contract in view.contracts.get(event.source).into_iter().flatten() {
        if !covers_type(contract, event.event_type) || ended(contract, at) {
            continue;
        }
        if contract.to == "*" {
            found.extend(view.nodes.keys().filter(|id| *id != event.source).cloned());
        } else {
            found.insert(contract.to.clone());
        }
    }
    if event.boundary == Boundary::Extra {
        let forwards = |bridge: &&BridgeView| {
            bridge.active && bridge.event_types.iter().any(|pattern| covers(pattern, event.event_type))
        };
        found.extend(view.bridges.iter().filter(forwards).map(|bridge| bridge_node(&bridge.id)));
    }
    // A contract counts for a boundary; who is farther away than the event goes is not asked.
    found.retain(|target| {
        let boundary = boundary_to(event, view, target);
        let contracts = view.contracts.get(event.source).into_iter().flatten();
        let mut reaching =
            contracts.filter(|c| reaches(c, target) && covers_type(c, event.event_type) && !ended(c, at));
        reaching.any(|c| c.boundaries.contains(&boundary)) || view.bridge(target).is_some()
    });
    found.into_iter().collect()
}

fn covers_type(contract: &ContractView, event_type: &str) -> bool {
    contract.allowed_event_types.iter().any(|pattern| covers(pattern, event_type))
}

fn reaches(contract: &ContractView, target: &str) -> bool {
    contract.to == target || (contract.to == "*" && contract.from != target)
}

fn ended(contract: &ContractView, at: OffsetDateTime) -> bool {
    contract.expires_at.is_some_and(|end| end <= at)
}

// What the sender says, but never nearer than the nodes are.
fn boundary_to(event: &MeshEvent<'_>, view: &MeshView, target: &str) -> Boundary {
    let bridge = |node: &str| {
        view.node(node).is_some_and(|found| found.node_type == NodeType::Bridge) || view.bridge(node).is_some()
    };
    if bridge(event.source) || bridge(target) { Boundary::Extra } else { event.boundary }
}

#[derive(Clone, Copy)]
struct Case<'c> {
    event: &'c MeshEvent<'c>,
    view: &'c MeshView,
    policies: &'c PolicySet,
    options: Options,
    at: OffsetDateTime,
}

/// The contract that lets the source send the event to a target.
enum Permission<'c> {
    By(&'c ContractView),
    Reply,
    Ended(String),
    None,
}

impl Case<'_> {
    fn permission(&self, target: &str, boundary: Boundary) -> Permission<'_> {
        let mut ended_one = None;
        for contract in self.view.contracts.get(self.event.source).into_iter().flatten() {
            let fits = reaches(contract, target)
                && contract.boundaries.contains(&boundary)
                && covers_type(contract, self.event.event_type);
            if fits && !ended(contract, self.at) {
                return Permission::By(contract);
            }
            if fits {
                ended_one = Some(contract.id.clone());
            }
        }
        if self.options.replies && self.event.reply_to == Some(target) {
            return Permission::Reply;
        }
        ended_one.map_or(Permission::None, Permission::Ended)
    }

    // Whether the event may and can go to a node at all.
    fn reach(&self, found: &mut Candidate, node: &str) -> Result<(), (Verdict, Option<&'static str>)> {
        let endpoint = self.view.endpoint(node).ok_or((Verdict::UnknownNode, None))?;
        endpoint.clone_into(&mut found.endpoint);
        found.boundary = boundary_to(self.event, self.view, node);
        match self.permission(node, found.boundary) {
            Permission::By(contract) => {
                found.contract_id = Some(contract.id.clone());
                found.redact.clone_from(&contract.redact);
            }
            Permission::Reply => (found.contract_id, found.redact) = (None, Vec::new()),
            Permission::Ended(id) => {
                found.contract_id = Some(id);
                return Err((Verdict::ExpiredContract, None));
            }
            Permission::None => return Err((Verdict::NoContract, None)),
        }
        if self.view.bridge(node).is_some_and(|bridge| bridge.bridge_type != BridgeType::Webhook) {
            return Err((Verdict::UnsupportedBridge, Some("unsupported_bridge_type")));
        }
        Ok(())
    }

    fn default_refuses(&self, target: &str, boundary: Boundary) -> bool {
        boundary == Boundary::Extra
            && !self.options.allow_extra
            && !self.view.outside(self.event.source)
            && !self.view.outside(target)
    }

    fn decide(&self, target: String, recorded: Option<&Candidate>) -> Candidate {
        let mut found = Candidate {
            boundary: boundary_to(self.event, self.view, &target),
            verdict: Verdict::Deliver,
            contract_id: None,
            applied: Vec::new(),
            final_target: target.clone(),
            endpoint: String::new(),
            mapping: None,
            redact: Vec::new(),
            reason: None,
            target,
        };
        let mut visited = vec![found.target.clone()];
        loop {
            let now = found.final_target.clone();
            match recorded.filter(|_| visited.len() == 1) {
                // The contract of a call that was redirected is that with whom it went to in the end.
                Some(before) => found.boundary = before.boundary,
                None => {
                    if let Err((verdict, reason)) = self.reach(&mut found, &now) {
                        return refused(found, verdict, reason);
                    }
                }
            }
            match self.ask(&mut found, &now) {
                Next::Done => return found,
                // It goes there already.
                Next::To(to) if to == now => return found,
                Next::To(to) if visited.contains(&to) || visited.len() > MOST_ROUTES => {
                    return refused(found, Verdict::RouteCycle, Some("route_cycle"));
                }
                Next::To(to) => {
                    visited.push(to.clone());
                    found.verdict = Verdict::Redirect;
                    found.final_target = to;
                }
            }
        }
    }

    fn ask(&self, found: &mut Candidate, target: &str) -> Next {
        let MeshEvent { source, event_type, run_id, .. } = *self.event;
        let inputs = Inputs { source, target, event_type, boundary: found.boundary, run_id };
        let evaluation = self.policies.evaluate(&inputs);
        found.applied.extend(evaluation.matched.iter().map(|rule| AppliedPolicy {
            policy_id: rule.id.clone(),
            version: rule.version,
            action: rule.action.name().to_owned(),
            mode: rule.mode,
            target: target.to_owned(),
            decisive: evaluation.decisive.is_some_and(|decisive| std::ptr::eq(decisive, *rule)),
        }));
        match evaluation.decisive.map(|rule| &rule.action) {
            Some(Action::Deny { reason }) => {
                deny(found, reason.as_deref().unwrap_or("policy_denied"));
                Next::Done
            }
            Some(Action::Route { to }) => Next::To(to.clone()),
            Some(Action::Transform { mapping }) => {
                found.verdict = Verdict::Transform;
                found.mapping = Some(mapping.clone());
                Next::Done
            }
            Some(Action::Allow | Action::Log { .. }) => Next::Done,
            None => {
                if self.default_refuses(target, found.boundary) {
                    deny(found, "no policy lets calls to the outside pass");
                }
                Next::Done
            }
        }
    }
}

enum Next {
    Done,
    To(String),
}

fn deny(found: &mut Candidate, reason: &str) {
    (found.verdict, found.reason) = (Verdict::Deny, Some(reason.to_owned()));
}

fn refused(mut found: Candidate, verdict: Verdict, reason: Option<&str>) -> Candidate {
    (found.verdict, found.reason) = (verdict, reason.map(str::to_owned));
    found
}

#[cfg(test)]
mod tests;
