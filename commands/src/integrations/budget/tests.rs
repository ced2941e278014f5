//! What a budget decides.

use proptest::prelude::*;
use symbia_events::ActorType;

use super::*;
use crate::{
    Membership, Role,
    testing::{AT, given},
};

fn platform() -> Actor {
    Actor::service("integrations")
}

fn member(id: &str, role: Role) -> Actor {
    let orgs = vec![Membership { id: "acme".parse().unwrap(), role }];
    Actor { id: id.into(), kind: ActorType::User, orgs, ..platform() }
}

fn set(limit: u64) -> SetBudget {
    SetBudget {
        budget_id: "b1".into(),
        org_id: "acme".into(),
        scope: BudgetScope::User,
        subject: Some("ada".into()),
        period: BudgetPeriod::Month,
        unit: BudgetUnit::Tokens,
        limit,
    }
}

fn reserve(request: &str, amount: u64) -> ReserveBudget {
    ReserveBudget { budget_id: "b1".into(), request_id: request.into(), amount }
}

fn settle(request: &str, amount: u64) -> SettleBudget {
    SettleBudget { budget_id: "b1".into(), request_id: request.into(), amount }
}

fn history(commands: impl IntoIterator<Item = BudgetCommand>, at: OffsetDateTime) -> Vec<BudgetEvent> {
    let (mut state, mut events) = (Budget::default(), Vec::new());
    for command in commands {
        let decided = state.decide(command, &platform(), at).unwrap().events;
        decided.iter().for_each(|event| state.apply(event));
        events.extend(decided);
    }
    events
}

#[test]
fn a_refusal_names_what_was_counted() {
    let begun =
        history([set(100).into(), reserve("r1", 30).into(), settle("r1", 20).into(), reserve("r2", 50).into()], AT);
    let mut state = Budget::default();
    begun.iter().for_each(|event| state.apply(event));
    let refused = state.decide(reserve("r3", 31).into(), &platform(), AT).unwrap_err();
    assert_eq!(refused.code, "BUDGET_EXCEEDED");
    let expected = "the budget of user ada, 100 tokens per month is used up: 20 spent, 50 kept for 1 requests under way, 31 asked for";
    assert_eq!(refused.message, expected);
    assert!(state.decide(reserve("r3", 30).into(), &platform(), AT).is_ok());
}

#[test]
fn a_request_is_kept_room_for_once_and_settled_once() {
    let begun = history([set(100).into(), reserve("r1", 60).into()], AT);
    given::<Budget>(begun.clone()).when(reserve("r1", 60), &platform()).then([]);
    let settled = history([set(100).into(), reserve("r1", 60).into(), settle("r1", 40).into()], AT);
    given::<Budget>(settled).when(settle("r1", 40), &platform()).then([]);
    given::<Budget>(begun).when(settle("other", 40), &platform()).then([]);
}

#[test]
fn the_limit_reached_is_told_once_and_a_new_month_begins_with_nothing_spent() {
    let full = [set(50).into(), reserve("r1", 50).into(), settle("r1", 70).into()];
    let begun = history(full, AT);
    assert!(matches!(begun.last(), Some(BudgetEvent::BudgetExhausted(e)) if e.spent == 70 && e.window == "2026-01"));
    given::<Budget>(begun.clone()).when(reserve("r2", 1), &platform()).rejected("BUDGET_EXCEEDED");
    let mut state = Budget::default();
    begun.iter().for_each(|event| state.apply(event));
    assert!(state.decide(reserve("r2", 50).into(), &platform(), AT + time::Duration::days(31)).is_ok());
}

#[test]
fn only_admins_of_the_organization_set_budgets_and_only_the_platform_spends() {
    given::<Budget>([]).when(set(1), &member("ada", Role::Member)).rejected("INSUFFICIENT_ROLE");
    let elsewhere = Actor {
        orgs: vec![Membership { id: "other".parse().unwrap(), role: Role::Admin }],
        ..member("eve", Role::Admin)
    };
    given::<Budget>([]).when(set(1), &elsewhere).rejected("INSUFFICIENT_ROLE");
    let begun = history([set(10).into(), reserve("r1", 1).into()], AT);
    for command in [BudgetCommand::from(settle("r1", 0)), reserve("r2", 1).into()] {
        given::<Budget>(begun.clone()).when(command, &member("ada", Role::Admin)).rejected("FORBIDDEN");
    }
    let other = SetBudget { unit: BudgetUnit::Requests, ..set(5) };
    given::<Budget>(begun).when(other, &member("ada", Role::Admin)).rejected("CONFLICT");
}

proptest! {
    // Whatever order requests come and end in, no more is promised than there is.
    #[test]
    fn what_is_spent_and_kept_never_passes_the_limit(steps in proptest::collection::vec((0usize..8, 1u64..40), 1..60)) {
        let mut state = Budget::default();
        let run = |state: &mut Budget, command: BudgetCommand| {
            if let Ok(decision) = state.decide(command, &platform(), AT) {
                decision.events.iter().for_each(|event| state.apply(event));
            }
        };
        run(&mut state, set(100).into());
        for (request, amount) in steps {
            let id = format!("r{request}");
            match state.reserved.get(&id).copied() {
                // An answer takes what was kept for it, or less.
                Some(kept) => run(&mut state, settle(&id, amount.min(kept)).into()),
                None => run(&mut state, reserve(&id, amount).into()),
            }
            prop_assert!(state.spent + state.reserved.values().sum::<u64>() <= 100);
        }
    }
}

#[test]
fn what_may_be_under_way_at_once_is_kept_and_never_spent() {
    let two = SetBudget { period: BudgetPeriod::Parallel, unit: BudgetUnit::Requests, limit: 2, ..set(0) };
    let of = |c: SetBudget| Budget::default().decide(c.into(), &platform(), AT);
    assert_eq!(of(SetBudget { unit: BudgetUnit::Tokens, ..two.clone() }).unwrap_err().code, "VALIDATION_FAILED");
    assert_eq!(of(SetBudget { limit: 0, ..two.clone() }).unwrap_err().code, "VALIDATION_FAILED");
    let mut state = Budget::default();
    history([two.into(), reserve("r1", 1).into(), reserve("r2", 1).into()], AT).iter().for_each(|e| state.apply(e));
    let refused = state.decide(reserve("r3", 1).into(), &platform(), AT).unwrap_err();
    assert_eq!(refused.code, TOO_MANY_AT_ONCE);
    assert!(refused.message.contains("2 requests at once is used up: 2 are under way"), "{}", refused.message);
    // A request that comes to its end frees its place, once, as often as that is told.
    let mut settled = state.decide(settle("r1", 1).into(), &platform(), AT).unwrap().events;
    let event = settled.remove(0);
    assert!(settled.is_empty() && matches!(&event, BudgetEvent::BudgetSettled(e) if e.spent == 0), "{event:?}");
    state.apply(&event);
    assert!(state.decide(settle("r1", 1).into(), &platform(), AT).unwrap().events.is_empty());
    assert!(state.decide(reserve("r3", 1).into(), &platform(), AT).is_ok());
}

#[test]
fn refusals_are_told_with_the_limit_by_the_platform_alone() {
    let minute = SetBudget { period: BudgetPeriod::Minute, unit: BudgetUnit::Requests, limit: 7, ..set(0) };
    let mut state = Budget::default();
    history([minute.into()], AT).iter().for_each(|e| state.apply(e));
    let report = |refused| ReportRefusals { budget_id: "b1".into(), counted: 6, refused, request_id: "r9".into() };
    let told = state.decide(report(3).into(), &platform(), AT).unwrap().events;
    let [BudgetEvent::RateLimitExceeded(e)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((e.limit, e.counted, e.refused, e.request_id.as_str()), (7, 6, 3, "r9"));
    assert_eq!((e.subject.as_deref(), e.period), (Some("ada"), BudgetPeriod::Minute));
    assert!(state.decide(report(0).into(), &platform(), AT).unwrap().events.is_empty());
    assert_eq!(state.decide(report(1).into(), &member("ada", Role::Admin), AT).unwrap_err().code, "FORBIDDEN");
    // Nothing of what was removed, nor of what a month holds.
    assert!(Budget::default().decide(report(1).into(), &platform(), AT).unwrap().events.is_empty());
    history([set(1).into()], AT).iter().for_each(|e| state.apply(e));
    assert!(state.decide(report(1).into(), &platform(), AT).unwrap().events.is_empty());
}
