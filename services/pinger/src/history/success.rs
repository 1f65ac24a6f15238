//! Pongs and losses of the last hour, by the second.

use std::collections::VecDeque;

/// How many seconds are kept.
const MAX_SECONDS: u64 = 3600;

/// How many pings of some time succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Success {
    /// Pongs.
    pub pongs: u64,
    /// Lost pings.
    pub lost: u64,
}

impl Success {
    /// Counts a ping.
    pub fn add(&mut self, is_pong: bool) {
        let count = if is_pong { &mut self.pongs } else { &mut self.lost };
        *count += 1;
    }

    /// Pings.
    pub fn pings(self) -> u64 {
        self.pongs + self.lost
    }
}

/// The seconds of the last hour in which pings ended, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Seconds(VecDeque<Second>);

#[derive(Debug)]
struct Second {
    at: u64,
    pongs: u32,
    lost: u32,
}

impl Seconds {
    /// Adds a ping that ended in the second `now`.
    pub(super) fn add(&mut self, now: u64, is_pong: bool) {
        while self.0.front().is_some_and(|second| second.at + MAX_SECONDS <= now) {
            self.0.pop_front();
        }
        if self.0.back().is_none_or(|second| second.at != now) {
            self.0.push_back(Second { at: now, pongs: 0, lost: 0 });
        }
        if let Some(second) = self.0.back_mut() {
            let count = if is_pong { &mut second.pongs } else { &mut second.lost };
            *count = count.saturating_add(1);
        }
    }

    /// The sum of the last `seconds` until `now`.
    pub(super) fn last(&self, now: u64, seconds: u64) -> Success {
        let recent = self.0.iter().rev().take_while(|second| second.at + seconds > now);
        recent.fold(Success::default(), |sum, second| Success {
            pongs: sum.pongs + u64::from(second.pongs),
            lost: sum.lost + u64::from(second.lost),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_up_the_last_seconds_and_forgets_what_is_older_than_an_hour() {
        let mut seconds = Seconds::default();
        for now in 0..2 * MAX_SECONDS {
            seconds.add(now, true);
            seconds.add(now, now % 10 != 0);
        }
        let now = 2 * MAX_SECONDS - 1;
        assert_eq!(seconds.last(now, 60), Success { pongs: 114, lost: 6 });
        assert_eq!(seconds.last(now, MAX_SECONDS), Success { pongs: 6840, lost: 360 });
        assert_eq!(seconds.last(now, 10 * MAX_SECONDS).pings(), 7200);
        assert_eq!(seconds.last(now + 60, 60), Success::default());
        assert_eq!(Seconds::default().last(0, 60), Success::default());
    }
}
