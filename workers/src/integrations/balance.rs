//! Which of several targets is asked first; the others follow when it is at fault (integrations.md §28).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use symbia_events::integrations::{Balance, Strategy};

/// Requests that are under way here, by target. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Load(Arc<Mutex<HashMap<String, usize>>>);

/// One request under way, until it is dropped.
pub(super) struct Busy {
    load: Load,
    target: String,
}

impl Load {
    /// A request begins.
    pub fn begin(&self, target: String) -> Busy {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(target.clone()).or_default() += 1;
        Busy { load: self.clone(), target }
    }

    /// How many are under way.
    pub fn of(&self, target: &str) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(target).copied().unwrap_or(0)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut load = self.load.0.lock().unwrap_or_else(PoisonError::into_inner);
        match load.get_mut(&self.target) {
            Some(count) if *count > 1 => *count -= 1,
            _ => _ = load.remove(&self.target),
        }
    }
}

/// Targets in the order in which they are asked. Without a weight one has 1; one of weight 0 is asked last.
pub(super) fn order<T>(targets: Vec<T>, balance: &Balance, load: impl Fn(&T) -> usize) -> Vec<T> {
    let weight = |place: usize| f64::from(balance.weights.get(place).copied().unwrap_or(1));
    let rank = |(place, target): (usize, T)| {
        let weight = weight(place);
        // The smallest of times that pass at rates like the weights: each is first as often as its weight says.
        let chance = if weight > 0.0 { -(1.0 - rand::random::<f64>()).ln() / weight } else { f64::INFINITY };
        let busy = match balance.strategy {
            Strategy::SimpleShuffle => 0.0,
            Strategy::LeastBusy if weight > 0.0 => load(&target) as f64 / weight,
            Strategy::LeastBusy => f64::INFINITY,
        };
        ((busy, chance), target)
    };
    let mut ranked: Vec<_> = targets.into_iter().enumerate().map(rank).collect();
    ranked.sort_by(|((a, x), _), ((b, y), _)| a.total_cmp(b).then(x.total_cmp(y)));
    ranked.into_iter().map(|(_, target)| target).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balance(strategy: Strategy, weights: &[u32]) -> Balance {
        Balance { strategy, weights: weights.to_vec() }
    }

    #[test]
    fn each_is_first_as_often_as_its_weight_says() {
        let balance = balance(Strategy::SimpleShuffle, &[3, 1, 0]);
        let first = |_| order(vec!["a", "b", "c"], &balance, |_| 0);
        let orders: Vec<_> = (0..4000).map(first).collect();
        let led = |name: &str| orders.iter().filter(|order| order[0] == name).count();
        assert!((2800..3200).contains(&led("a")) && led("c") == 0, "{} {}", led("a"), led("b"));
        assert!(orders.iter().all(|order| order[2] == "c"));
    }

    #[test]
    fn the_least_busy_is_first_by_its_weight() {
        let load = Load::default();
        let busy: Vec<Busy> = ["a", "a", "b"].map(|target| load.begin(target.to_owned())).into();
        let ordered =
            |weights: &[u32]| order(vec!["a", "b"], &balance(Strategy::LeastBusy, weights), |target| load.of(target));
        assert_eq!((ordered(&[]), ordered(&[4, 1])), (vec!["b", "a"], vec!["a", "b"]));
        drop(busy);
        assert_eq!((load.of("a"), load.of("b")), (0, 0));
    }
}
