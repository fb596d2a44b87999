//! What a month's polls may cost: counted, and refused when it is used up.

use super::runner::Failure;
use crate::limit::Timestamp;
use crate::stats::Polls;
use std::sync::Arc;

/// The budget of one source.
pub struct Budget {
    polls: Arc<Polls>,
    most: u64,
    /// Of one item, in billionths of a dollar.
    price: u64,
    used: u64,
    month: String,
}

impl Budget {
    /// At most `most` items in a calendar month (UTC), at `price` billionths of a dollar each.
    pub fn new(polls: Arc<Polls>, most: u64, price: u64) -> Self {
        Self { polls, most, price, used: 0, month: String::new() }
    }

    /// Takes `items` of it.
    ///
    /// # Errors
    /// If that is more than is left this month. A restart begins anew.
    pub fn spend(&mut self, items: u64, now: Timestamp) -> Result<(), Failure> {
        let month: String = now.rfc3339().chars().take(7).collect();
        if month != self.month {
            (self.month, self.used) = (month, 0);
        }
        if self.used.saturating_add(items) > self.most {
            let message = format!(
                "the month's budget of {} billed items is used up; usage rests until the next",
                self.most
            );
            return Err(Failure::from(message));
        }
        self.note(items);
        Ok(())
    }

    /// Counts what has been billed already.
    pub fn note(&mut self, items: u64) {
        self.used = self.used.saturating_add(items);
        self.polls.billed.add(items);
        self.polls.nano_dollars.add(items * self.price);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_ends_and_begins_anew_with_the_month() {
        let polls = Arc::new(Polls::default());
        let mut budget = Budget::new(polls.clone(), 10, 10);
        let november = Timestamp::from_secs(1_796_000_000);
        assert!(budget.spend(8, november).is_ok());
        assert!(budget.spend(3, november).is_err(), "refused whole, not in part");
        assert!(budget.spend(2, november).is_ok());
        assert!(budget.spend(10, Timestamp::from_secs(1_798_700_000)).is_ok());
        assert_eq!((polls.billed.get(), polls.nano_dollars.get()), (20, 200));
    }
}
