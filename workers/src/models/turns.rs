//! Whose request is next: organizations take turns, so that the many requests of one do not keep another's waiting.

use std::collections::HashMap;

/// When each organization had its last turn, while requests wait.
#[derive(Debug, Default)]
pub(super) struct Turns {
    last: HashMap<String, u64>,
    number: u64,
}

impl Turns {
    /// Of waiting requests, in the order in which they came and with their organizations, the next: the first one of the
    /// organization whose last turn is longest ago.
    pub(super) fn next<'a>(&self, waiting: impl Iterator<Item = (usize, &'a str)>) -> Option<usize> {
        let next = waiting.min_by_key(|(index, organization)| (self.last.get(*organization).copied(), *index));
        next.map(|(index, _)| index)
    }

    /// An organization had a turn. Where nobody waits any more, nobody has to be remembered.
    pub(super) fn took(&mut self, organization: &str, was_last: bool) {
        if was_last {
            self.last.clear();
        }
        self.number += 1;
        self.last.insert(organization.to_owned(), self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn organizations_take_turns_and_each_keeps_its_order() {
        let (mut turns, mut waiting) = (Turns::default(), vec!["a", "a", "a", "b", "b", "c", "a"]);
        let mut order = Vec::new();
        while let Some(index) = turns.next(waiting.iter().copied().enumerate()) {
            let organization = waiting.remove(index);
            turns.took(organization, waiting.is_empty());
            order.push(organization);
        }
        assert_eq!(order, ["a", "b", "c", "a", "b", "a", "a"]);
        assert!(turns.last.len() == 1, "{turns:?}");
    }
}
