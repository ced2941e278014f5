//! Which of several targets is asked first; the others follow when it is at fault (integrations.md §28).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use moka::sync::Cache;
use symbia_events::integrations::{Balance, Strategy};

/// How long it is remembered how fast a target was.
const REMEMBERED: Duration = Duration::from_secs(600);
const MOST: u64 = 10_000;
/// How much the last answer counts beside those before it.
const LAST: f64 = 0.3;

/// How targets fare in this process. Cheap to clone.
#[derive(Clone)]
pub(super) struct Standings {
    under_way: Arc<Mutex<HashMap<String, usize>>>,
    latency: Cache<String, f64>,
}

/// What one target is chosen by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standing {
    /// Requests under way.
    pub load: usize,
    /// Time to the first token.
    pub latency_ms: Option<f64>,
    /// Of a million tokens read and a million written, in millionths of a US dollar.
    pub price: Option<u64>,
}

/// One request under way, until it is dropped.
pub(super) struct Busy {
    standings: Standings,
    target: String,
}

impl Default for Standings {
    fn default() -> Self {
        let latency = Cache::builder().max_capacity(MOST).time_to_live(REMEMBERED).build();
        Standings { under_way: Arc::default(), latency }
    }
}

impl Standings {
    /// A request begins.
    pub fn begin(&self, target: String) -> Busy {
        *self.under_way.lock().unwrap_or_else(PoisonError::into_inner).entry(target.clone()).or_default() += 1;
        Busy { standings: self.clone(), target }
    }

    /// How many are under way.
    pub fn load(&self, target: &str) -> usize {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).get(target).copied().unwrap_or(0)
    }

    /// How long it lately took to begin an answer.
    pub fn latency_ms(&self, target: &str) -> Option<f64> {
        self.latency.get(target)
    }

    /// It took so long to begin one, or was given up after so long.
    pub fn took(&self, target: &str, ms: f64) {
        let before = self.latency.get(target);
        self.latency.insert(target.to_owned(), before.map_or(ms, |before| before + LAST * (ms - before)));
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut under_way = self.standings.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        match under_way.get_mut(&self.target) {
            Some(count) if *count > 1 => *count -= 1,
            _ => _ = under_way.remove(&self.target),
        }
    }
}

/// Targets in the order in which they are asked. Without a weight one has 1; one of weight 0 is asked last.
pub(super) fn order<T>(targets: Vec<(T, Standing)>, balance: &Balance) -> Vec<T> {
    let weight = |place: usize| f64::from(balance.weights.get(place).copied().unwrap_or(1));
    let rank = |(place, (target, standing)): (usize, (T, Standing))| {
        let weight = weight(place);
        if weight <= 0.0 {
            return ((f64::INFINITY, place as f64), target);
        }
        // The smallest of times that pass at rates like the weights: each is first as often as its weight says.
        let chance = -(1.0 - rand::random::<f64>()).ln() / weight;
        let first = match balance.strategy {
            Strategy::Priority => place as f64,
            Strategy::SimpleShuffle => 0.0,
            Strategy::LeastBusy => standing.load as f64 / weight,
            Strategy::LowestLatency => standing.latency_ms.unwrap_or(0.0),
            Strategy::LowestCost => standing.price.map_or(f64::MAX, |price| price as f64),
        };
        ((first, chance), target)
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

    fn plain<T>(target: T) -> (T, Standing) {
        (target, Standing::default())
    }

    #[test]
    fn each_is_first_as_often_as_its_weight_says() {
        let balance = balance(Strategy::SimpleShuffle, &[3, 1, 0]);
        let first = |_| order(["a", "b", "c"].map(plain).into(), &balance);
        let orders: Vec<_> = (0..4000).map(first).collect();
        let led = |name: &str| orders.iter().filter(|order| order[0] == name).count();
        assert!((2800..3200).contains(&led("a")) && led("c") == 0, "{} {}", led("a"), led("b"));
        assert!(orders.iter().all(|order| order[2] == "c"));
    }

    #[test]
    fn the_least_busy_is_first_by_its_weight() {
        let standings = Standings::default();
        let busy: Vec<Busy> = ["a", "a", "b"].map(|target| standings.begin(target.to_owned())).into();
        let standing = |target| (target, Standing { load: standings.load(target), ..Standing::default() });
        let ordered = |weights: &[u32]| order(["a", "b"].map(standing).into(), &balance(Strategy::LeastBusy, weights));
        assert_eq!((ordered(&[]), ordered(&[4, 1])), (vec!["b", "a"], vec!["a", "b"]));
        drop(busy);
        assert_eq!((standings.load("a"), standings.load("b")), (0, 0));
    }

    #[test]
    fn the_first_named_the_quickest_or_the_cheapest_is_asked_first() {
        let standing = |target, latency_ms, price| (target, Standing { load: 9, latency_ms, price });
        let targets = || {
            vec![standing("a", Some(50.0), Some(300)), standing("b", Some(20.0), None), standing("c", None, Some(7))]
        };
        let ordered = |strategy, weights: &[u32]| order(targets(), &balance(strategy, weights));
        assert_eq!(ordered(Strategy::Priority, &[]), ["a", "b", "c"]);
        assert_eq!(ordered(Strategy::Priority, &[0, 1, 1]), ["b", "c", "a"]);
        assert_eq!(ordered(Strategy::LowestLatency, &[]), ["c", "b", "a"]);
        assert_eq!(ordered(Strategy::LowestCost, &[]), ["c", "a", "b"]);
    }

    #[test]
    fn a_slow_answer_counts_but_not_alone() {
        let standings = Standings::default();
        assert_eq!(standings.latency_ms("a"), None);
        standings.took("a", 100.0);
        standings.took("a", 200.0);
        assert_eq!(standings.latency_ms("a"), Some(130.0));
    }
}
