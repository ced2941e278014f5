//! Which of several targets is asked first; the others follow when it is at fault (integrations.md §28).

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use moka::sync::Cache;
use symbia_events::integrations::{Balance, Strategy};

/// How long it is remembered how fast a target was.
const REMEMBERED: Duration = Duration::from_secs(600);
const MOST: u64 = 10_000;
const MINUTE: Duration = Duration::from_secs(60);
/// Times of which one in twenty is longer, and fewest to tell that from.
const RECENT: usize = 100;
const FEWEST: usize = 10;
/// How much the last answer counts beside those before it.
const LAST: f64 = 0.3;

/// How targets fare in this process. Cheap to clone.
#[derive(Clone)]
pub(super) struct Standings {
    under_way: Arc<Mutex<HashMap<String, usize>>>,
    latency: Cache<String, f64>,
    recent: Cache<String, Arc<Mutex<VecDeque<f64>>>>,
    taken: Cache<String, Taken>,
    granted: Cache<String, f64>,
}

/// What a target took in about the last minute: it counts less the longer ago it was.
#[derive(Clone, Copy, Debug)]
struct Taken {
    requests: f64,
    tokens: f64,
    at: Instant,
}

impl Taken {
    fn now(self) -> Self {
        let left = (-self.at.elapsed().as_secs_f64() / MINUTE.as_secs_f64()).exp();
        Taken { requests: self.requests * left, tokens: self.tokens * left, at: Instant::now() }
    }
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
    /// How much of what it is granted is used, 0 to 1.
    pub used: f64,
    /// Tokens of the last minute.
    pub tokens: f64,
    /// In place of chance: the same number for the same conversation, 0 to 1.
    pub drawn: Option<f64>,
}

/// One request under way, until it is dropped.
pub(super) struct Busy {
    standings: Standings,
    target: String,
}

impl Default for Standings {
    fn default() -> Self {
        let latency = Cache::builder().max_capacity(MOST).time_to_live(REMEMBERED).build();
        let taken = Cache::builder().max_capacity(MOST).time_to_live(REMEMBERED).build();
        let granted = Cache::builder().max_capacity(MOST).time_to_live(MINUTE).build();
        let recent = Cache::builder().max_capacity(MOST).time_to_idle(REMEMBERED).build();
        Standings { under_way: Arc::default(), latency, recent, taken, granted }
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
        let recent = self.recent.get_with_by_ref(target, Arc::default);
        let mut times = recent.lock().unwrap_or_else(PoisonError::into_inner);
        if times.len() == RECENT {
            times.pop_front();
        }
        times.push_back(ms);
        drop(times);
        let before = self.latency.get(target);
        self.latency.insert(target.to_owned(), before.map_or(ms, |before| before + LAST * (ms - before)));
    }

    /// How long it lately took at most in 19 of 20 cases; none while too few are known.
    pub fn p95_ms(&self, target: &str) -> Option<f64> {
        let recent = self.recent.get(target)?;
        let mut times: Vec<f64> = recent.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        times.sort_by(f64::total_cmp);
        let place = (times.len() * 95).div_ceil(100).checked_sub(1)?;
        times.get(place).copied().filter(|_| times.len() >= FEWEST)
    }

    /// It answered, and took so many tokens; its provider may have told how much of what it grants is used.
    pub fn answered(&self, target: &str, tokens: u64, used: Option<f64>) {
        let before = self.taken.get(target).map(Taken::now);
        let (requests, before) = before.map_or((0.0, 0.0), |before| (before.requests, before.tokens));
        let taken = Taken { requests: requests + 1.0, tokens: before + tokens as f64, at: Instant::now() };
        self.taken.insert(target.to_owned(), taken);
        if let Some(used) = used {
            self.granted.insert(target.to_owned(), used);
        }
    }

    /// Its provider grants no more for a while.
    pub fn used_up(&self, target: &str) {
        self.granted.insert(target.to_owned(), 1.0);
    }

    /// How much of what it is granted is used, and the tokens of the last minute. `most`: requests that it may have in one.
    pub fn usage(&self, target: &str, most: Option<u32>) -> (f64, f64) {
        let taken = self.taken.get(target).map(Taken::now);
        let of_limit = taken.zip(most).map_or(0.0, |(taken, most)| taken.requests / f64::from(most.max(1)));
        let used = self.granted.get(target).unwrap_or(0.0).max(of_limit.min(1.0));
        (used, taken.map_or(0.0, |taken| taken.tokens))
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
            return ((f64::INFINITY, place as f64, 0.0), target);
        }
        // The smallest of times that pass at rates like the weights: each is first as often as its weight says.
        let chance = -(1.0 - standing.drawn.unwrap_or_else(rand::random::<f64>)).ln() / weight;
        let first = match balance.strategy {
            Strategy::Priority => place as f64,
            Strategy::SimpleShuffle | Strategy::Sticky => 0.0,
            Strategy::LeastBusy => standing.load as f64 / weight,
            Strategy::LowestLatency => standing.latency_ms.unwrap_or(0.0),
            Strategy::LowestCost => standing.price.map_or(f64::MAX, |price| price as f64),
            // Shares that differ by less than a hundredth are the same.
            Strategy::UsageBased => (standing.used * 100.0).floor(),
        };
        let second = if balance.strategy == Strategy::UsageBased { standing.tokens / weight } else { 0.0 };
        ((first, second, chance), target)
    };
    let mut ranked: Vec<_> = targets.into_iter().enumerate().map(rank).collect();
    ranked.sort_by(|((a, b, c), _), ((x, y, z), _)| a.total_cmp(x).then(b.total_cmp(y)).then(c.total_cmp(z)));
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
    fn how_long_it_takes_at_most_is_known_from_several_cases_and_forgets_old_ones() {
        let standings = Standings::default();
        (1..=9).for_each(|ms| standings.took("a", f64::from(ms)));
        assert_eq!(standings.p95_ms("a"), None);
        standings.took("a", 1000.0);
        assert_eq!(standings.p95_ms("a"), Some(1000.0));
        (1..=100).for_each(|ms| standings.took("a", f64::from(ms)));
        assert_eq!((standings.p95_ms("a"), standings.p95_ms("b")), (Some(95.0), None));
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
        let standing =
            |target, latency_ms, price| (target, Standing { load: 9, latency_ms, price, ..Standing::default() });
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
    fn who_has_most_left_is_asked_first_and_a_conversation_stays_where_it_is() {
        let standings = Standings::default();
        standings.answered("a", 10, Some(0.9));
        standings.answered("b", 5_000, Some(0.2));
        standings.answered("c", 100, None);
        let standing = |target: &'static str, most| {
            let (used, tokens) = standings.usage(target, most);
            (target, Standing { used, tokens, ..Standing::default() })
        };
        let used = balance(Strategy::UsageBased, &[]);
        let targets = || vec![standing("a", None), standing("b", None), standing("c", None), standing("d", None)];
        assert_eq!(order(targets(), &used), ["d", "c", "b", "a"]);
        standings.used_up("c");
        assert_eq!(order(targets(), &used), ["d", "b", "a", "c"]);
        assert_eq!(order(vec![standing("b", Some(2)), standing("a", Some(1))], &used), ["b", "a"], "half of its limit");

        let drawn = |target, drawn| (target, Standing { drawn: Some(drawn), ..Standing::default() });
        let sticky =
            |weights: &[u32]| order(vec![drawn("a", 0.7), drawn("b", 0.5)], &balance(Strategy::Sticky, weights));
        assert!((0..20).all(|_| sticky(&[]) == ["b", "a"]) && sticky(&[9, 1]) == ["a", "b"]);
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
