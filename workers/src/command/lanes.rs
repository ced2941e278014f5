//! Runs work of one aggregate in order and of different aggregates side by side.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

/// One queue per key that has work, each drained by a task of its own.
pub struct Lanes<T>(Arc<Mutex<HashMap<String, VecDeque<T>>>>);

impl<T> Clone for Lanes<T> {
    fn clone(&self) -> Self {
        Lanes(Arc::clone(&self.0))
    }
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Lanes(Arc::default())
    }
}

impl<T: Send + 'static> Lanes<T> {
    /// Runs `work(item)` after everything pushed under the same key before.
    pub fn push<F, W>(&self, key: String, item: T, work: W)
    where
        W: Fn(T) -> F + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        {
            let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(queue) = lanes.get_mut(&key) {
                queue.push_back(item);
                return;
            }
            lanes.insert(key.clone(), VecDeque::new());
        }
        let lanes = self.clone();
        tokio::spawn(async move {
            let mut next = Some(item);
            while let Some(item) = next {
                work(item).await;
                next = lanes.next(&key);
            }
        });
    }

    // Takes the next item; the queue ends when there is none.
    fn next(&self, key: &str) -> Option<T> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let item = lanes.get_mut(key).and_then(VecDeque::pop_front);
        if item.is_none() {
            lanes.remove(key);
        }
        item
    }

    /// Whether no work is under way.
    pub fn idle(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}
