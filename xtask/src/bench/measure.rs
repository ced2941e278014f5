//! How rates and latencies are taken: lanes of work side by side, ours and raw in turn, medians.

use std::{
    collections::VecDeque,
    future::Future,
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::task::JoinSet;

use super::{
    Scale,
    table::{Row, Target},
};

/// What one round gave.
#[derive(Debug)]
pub struct Load {
    /// Steps per second.
    pub rate: f64,
    latencies: Vec<Duration>,
}

impl Load {
    /// Steps that were taken.
    pub fn steps(&self) -> usize {
        self.latencies.len()
    }

    /// The latency that `share` of the steps stayed within, in microseconds.
    pub fn micros(&self, share: f64) -> f64 {
        percentile(&self.latencies, share).as_secs_f64() * 1e6
    }
}

/// Work for one or more lanes; each lane goes round its own items, one step at a time.
#[derive(Debug)]
pub struct Lanes<T>(Vec<VecDeque<T>>);

impl<T: Send + 'static> Lanes<T> {
    /// Deals the items out to `count` lanes.
    pub fn deal(items: impl IntoIterator<Item = T>, count: usize) -> Self {
        let mut lanes: Vec<VecDeque<T>> = (0..count).map(|_| VecDeque::new()).collect();
        for (index, item) in items.into_iter().enumerate() {
            lanes[index % count].push_back(item);
        }
        Lanes(lanes)
    }

    /// Runs all lanes for `round`. `step` takes an item and gives it back.
    pub async fn run<F>(&mut self, round: Duration, step: impl Fn(T) -> F + Clone + Send + 'static) -> Result<Load>
    where
        F: Future<Output = Result<T>> + Send,
    {
        self.each(step, Duration::ZERO, move |_, began| began.elapsed() < round).await
    }

    /// The same with a pause before each step.
    pub async fn run_paced<F>(
        &mut self,
        round: Duration,
        pause: Duration,
        step: impl Fn(T) -> F + Clone + Send + 'static,
    ) -> Result<Load>
    where
        F: Future<Output = Result<T>> + Send,
    {
        self.each(step, pause, move |_, began| began.elapsed() < round).await
    }

    /// Runs every item `times` times.
    pub async fn run_times<F>(&mut self, times: usize, step: impl Fn(T) -> F + Clone + Send + 'static) -> Result<Load>
    where
        F: Future<Output = Result<T>> + Send,
    {
        let longest = self.0.iter().map(VecDeque::len).max().unwrap_or(0);
        self.each(step, Duration::ZERO, move |done, _| done < longest * times).await
    }

    async fn each<F>(
        &mut self,
        step: impl Fn(T) -> F + Clone + Send + 'static,
        pause: Duration,
        go_on: impl Fn(usize, Instant) -> bool + Clone + Send + 'static,
    ) -> Result<Load>
    where
        F: Future<Output = Result<T>> + Send,
    {
        let mut tasks = JoinSet::new();
        let began = Instant::now();
        for mut lane in self.0.drain(..) {
            let (step, go_on) = (step.clone(), go_on.clone());
            tasks.spawn(async move {
                let mut latencies = Vec::new();
                while go_on(latencies.len(), began) {
                    let Some(item) = lane.pop_front() else { break };
                    if !pause.is_zero() {
                        tokio::time::sleep(pause).await;
                    }
                    let at = Instant::now();
                    lane.push_back(step(item).await?);
                    latencies.push(at.elapsed());
                }
                anyhow::Ok((lane, latencies))
            });
        }
        let mut latencies = Vec::new();
        while let Some(done) = tasks.join_next().await {
            let (lane, mut of_lane) = done??;
            self.0.push(lane);
            latencies.append(&mut of_lane);
        }
        Ok(Load { rate: latencies.len() as f64 / began.elapsed().as_secs_f64(), latencies })
    }
}

/// The value that `share` of all stay within.
pub fn percentile<T: Ord + Copy + Default>(values: &[T], share: f64) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let index = ((sorted.len() as f64 - 1.0) * share).round().max(0.0) as usize;
    sorted.get(index).copied().unwrap_or_default()
}

/// Median of figures.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Figures of ours and raw, taken in turn so that both see the same state of the machine.
#[derive(Debug, Default)]
pub struct Pairs(Vec<(f64, f64)>);

impl Pairs {
    /// Measures both in turn, as often as the scale says.
    pub async fn take(
        scale: &Scale,
        mut ours: impl AsyncFnMut() -> Result<f64>,
        mut raw: impl AsyncFnMut() -> Result<f64>,
    ) -> Result<Self> {
        let mut pairs = Vec::new();
        for _ in 0..scale.rounds {
            let raw = raw().await?;
            pairs.push((ours().await?, raw));
        }
        Ok(Pairs(pairs))
    }

    /// Adds a round.
    pub fn push(&mut self, ours: f64, raw: f64) {
        self.0.push((ours, raw));
    }

    /// The row: medians, and the median of the rounds' ratios.
    pub fn row(&self, name: &'static str, what: impl Into<String>, unit: &'static str, target: Target) -> Row {
        let of = |figure: fn(&(f64, f64)) -> f64| median(&self.0.iter().map(figure).collect::<Vec<_>>());
        Row {
            name,
            what: what.into(),
            ours: of(|pair| pair.0),
            raw: Some(of(|pair| pair.1)),
            ratio: Some(of(|pair| pair.0 / pair.1)),
            unit,
            target,
        }
    }
}
