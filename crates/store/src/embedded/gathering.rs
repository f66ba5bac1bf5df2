//! How many requests the writer waits for before it writes a batch.
//!
//! Pure. One, as long as one at a time comes: a lone writer is not delayed. Where several come together it asks for more
//! and more of them, and settles at three quarters of what came in time. Not here: the wait (`writer`).

/// Batches after one that was waited for in vain until more are asked for again.
const SETTLED: u32 = 64;
/// Nobody waits for more.
const MOST: usize = 256;

/// What the writer has seen lately.
pub(super) struct Gathering {
    wanted: usize,
    settled: u32,
}

impl Default for Gathering {
    fn default() -> Self {
        Self { wanted: 1, settled: 0 }
    }
}

impl Gathering {
    /// How many to wait for, for a while.
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// Notes how many there were when the wait was over.
    pub fn came(&mut self, count: usize) {
        if count < self.wanted {
            // Some of those who are left will be late again.
            self.wanted = (count * 3 / 4).max(1);
            self.settled = SETTLED;
        } else if self.settled > 0 {
            self.settled -= 1;
        } else if count > 1 {
            self.wanted = (self.wanted * 2).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is waited for, with clients of whom so many come within the wait.
    fn after(gathering: &mut Gathering, batches: u32, come: usize) -> usize {
        for _ in 0..batches {
            gathering.came(come);
        }
        gathering.wanted()
    }

    #[test]
    fn it_waits_for_nobody_who_does_not_come() {
        let mut gathering = Gathering::default();
        assert_eq!(after(&mut gathering, 1000, 1), 1, "a lone writer");
        // In the sum of many batches hardly one waits in vain.
        let mut in_vain = 0;
        for _ in 0..1000 {
            in_vain += u32::from(gathering.wanted() > 40);
            gathering.came(40);
        }
        assert!(in_vain <= 16, "{in_vain}");
        assert!((16..=40).contains(&gathering.wanted()), "{}", gathering.wanted());
        assert_eq!(after(&mut gathering, 1, 1), 1, "they are gone: the one who is left waits once");
        assert_eq!(after(&mut gathering, 1000, 1), 1);
        assert_eq!(after(&mut gathering, 1000, 2_000), MOST);
    }
}
