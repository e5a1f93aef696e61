//! How often the same thing is told: a guest that makes it happen again and again must not fill the log.

use std::time::Duration;

use crate::devices::GuestTime;

/// How many are told at once, after a rest.
const AT_ONCE: u32 = 16;

/// How many may still be told.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u32,
    every: Duration,
    counted_at: GuestTime,
}

impl Allowance {
    /// Some at once, and then one more each `every`.
    pub fn new(every: Duration) -> Allowance {
        Allowance { left: AT_ONCE, every, counted_at: GuestTime::ZERO }
    }

    /// True when there was one left.
    pub fn spend(&mut self, now: GuestTime) -> bool {
        let earned = (now.since(self.counted_at).as_nanos() / self.every.as_nanos()).min(u128::from(AT_ONCE)) as u32;
        if earned > 0 {
            self.left = (self.left + earned).min(AT_ONCE);
            self.counted_at = now;
        }
        let spent = self.left > 0;
        self.left = self.left.saturating_sub(1);
        spent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_all_the_time_is_told_now_and_then() {
        let mut allowance = Allowance::new(Duration::from_millis(100));
        let told = (1..=10_000).filter(|ms| allowance.spend(GuestTime::from_ns(ms * 1_000_000))).count();
        assert!((100..=116).contains(&told), "{told} of 10,000 in 10 s");
        assert!(allowance.spend(GuestTime::from_ns(20_000_000_000)), "after a rest it may again");
    }
}
