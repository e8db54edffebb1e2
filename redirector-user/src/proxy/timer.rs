//! A hierarchical timing wheel: one timer per connection, set and cancelled in
//! constant time, without allocation once it has grown to the number of
//! connections.
//!
//! Times are milliseconds since the worker started. Four levels of 64 slots
//! reach 4.6 hours; a later deadline waits in the last slot and is put back
//! when that comes round, so every deadline is exact to the millisecond.

const LEVELS: usize = 4;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// The furthest a deadline can lie ahead of the wheel and have its own slot.
const HORIZON: u64 = (SLOTS as u64 - 1) << (SLOT_BITS * (LEVELS as u32 - 1));
const NONE: u32 = u32::MAX;

/// A key's place in the list of its slot.
#[derive(Clone, Copy)]
struct Node {
    deadline: u64,
    prev: u32,
    next: u32,
    /// `level * SLOTS + slot`, or [`NONE`] while no timer is set.
    slot: u32,
}

const UNSET: Node = Node { deadline: 0, prev: NONE, next: NONE, slot: NONE };

/// Timers by small dense keys.
pub(super) struct Wheel {
    nodes: Vec<Node>,
    heads: [u32; LEVELS * SLOTS],
    occupied: [u64; LEVELS],
    /// Everything before this has fired.
    elapsed: u64,
}

impl Wheel {
    pub fn new() -> Self {
        Self { nodes: Vec::new(), heads: [NONE; LEVELS * SLOTS], occupied: [0; LEVELS], elapsed: 0 }
    }

    /// Sets (or moves) the timer of `key`. A deadline that has passed fires at
    /// the next [`expire`](Self::expire).
    pub fn set(&mut self, key: u32, deadline: u64) {
        self.cancel(key);
        let index = key as usize;
        if self.nodes.len() <= index {
            self.nodes.resize(index + 1, UNSET);
        }
        self.nodes[index].deadline = deadline;
        self.link(key);
    }

    /// Takes the timer of `key` away, if one is set.
    pub fn cancel(&mut self, key: u32) {
        let Some(&Node { prev, next, slot, .. }) = self.nodes.get(key as usize) else { return };
        if slot == NONE {
            return;
        }
        if prev == NONE {
            self.heads[slot as usize] = next;
            if next == NONE {
                self.occupied[slot as usize / SLOTS] &= !(1 << (slot as usize % SLOTS));
            }
        } else {
            self.nodes[prev as usize].next = next;
        }
        if next != NONE {
            self.nodes[next as usize].prev = prev;
        }
        self.nodes[key as usize] = UNSET;
    }

    /// When [`expire`](Self::expire) has to be called next: no later than the
    /// earliest deadline.
    pub fn next(&self) -> Option<u64> {
        self.next_slot().map(|(_, _, start)| start)
    }

    /// Moves the wheel on to `now`; the keys whose deadline has come are added
    /// to `fired`, and their timers are no longer set.
    pub fn expire(&mut self, now: u64, fired: &mut Vec<u32>) {
        while let Some((level, slot, start)) = self.next_slot() {
            if start > now {
                break;
            }
            self.elapsed = self.elapsed.max(start);
            let slot = level * SLOTS + slot;
            let mut key = std::mem::replace(&mut self.heads[slot], NONE);
            self.occupied[level] &= !(1 << (slot % SLOTS));
            while key != NONE {
                let node = self.nodes[key as usize];
                if node.deadline <= now {
                    self.nodes[key as usize] = UNSET;
                    fired.push(key);
                } else {
                    self.link(key);
                }
                key = node.next;
            }
        }
        self.elapsed = self.elapsed.max(now);
    }

    /// Puts `key` into the slot of its deadline.
    fn link(&mut self, key: u32) {
        let when = self.nodes[key as usize].deadline.clamp(self.elapsed, self.elapsed + HORIZON);
        // The level is that of the highest bit in which the two differ.
        let differ = (when ^ self.elapsed) | (SLOTS as u64 - 1);
        let level = (((63 - differ.leading_zeros()) / SLOT_BITS) as usize).min(LEVELS - 1);
        let slot = (when >> (SLOT_BITS * level as u32)) as usize % SLOTS;
        self.occupied[level] |= 1 << slot;
        let slot = level * SLOTS + slot;
        let head = std::mem::replace(&mut self.heads[slot], key);
        if head != NONE {
            self.nodes[head as usize].prev = key;
        }
        let node = &mut self.nodes[key as usize];
        (node.prev, node.next, node.slot) = (NONE, head, slot as u32);
    }

    /// The first occupied slot, and when it begins.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        (0..LEVELS)
            .filter(|&level| self.occupied[level] != 0)
            .map(|level| {
                let shift = SLOT_BITS * level as u32;
                let here = (self.elapsed >> shift) as usize % SLOTS;
                let ahead = self.occupied[level].rotate_right(here as u32).trailing_zeros() as u64;
                let start = ((self.elapsed >> shift) + ahead) << shift;
                (level, (here + ahead as usize) % SLOTS, start.max(self.elapsed))
            })
            .min_by_key(|&(level, _, start)| (start, level))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Moves a wheel through time the way a worker does, and says when each
    /// key fired.
    fn run(wheel: &mut Wheel, until: u64) -> Vec<(u64, u32)> {
        let mut all = Vec::new();
        let mut fired = Vec::new();
        while let Some(now) = wheel.next().filter(|&now| now <= until) {
            wheel.expire(now, &mut fired);
            all.extend(fired.drain(..).map(|key| (now, key)));
        }
        wheel.expire(until, &mut fired);
        assert!(fired.is_empty(), "next() named a time after a deadline");
        all
    }

    #[test]
    fn every_timer_fires_at_its_deadline() {
        let mut wheel = Wheel::new();
        let mut fired = Vec::new();
        wheel.expire(12_345, &mut fired);
        let mut random = fastrand::Rng::with_seed(7);
        let mut expected: Vec<_> = (0..5_000u32)
            .map(|key| {
                let bits = random.u32(1..26);
                (12_345 + random.u64(0..1 << bits), key)
            })
            .collect();
        for &(deadline, key) in &expected {
            wheel.set(key, deadline);
        }
        let mut got = run(&mut wheel, u64::MAX >> 1);
        expected.sort_unstable();
        got.sort_unstable();
        assert_eq!(got, expected);
    }

    #[test]
    fn a_cancelled_timer_does_not_fire_and_a_moved_one_fires_once() {
        let mut wheel = Wheel::new();
        for key in 0..10 {
            wheel.set(key, 100);
        }
        for key in [0, 4, 9] {
            wheel.cancel(key);
        }
        wheel.set(5, 5_000);
        wheel.cancel(77);
        let fired = run(&mut wheel, 10_000);
        let mut early: Vec<_> = fired.iter().filter(|f| f.0 == 100).map(|f| f.1).collect();
        early.sort_unstable();
        assert_eq!(early, [1, 2, 3, 6, 7, 8]);
        assert_eq!(fired.last(), Some(&(5_000, 5)));
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn a_deadline_in_the_past_fires_at_once() {
        let mut wheel = Wheel::new();
        let mut fired = Vec::new();
        wheel.expire(1_000, &mut fired);
        wheel.set(3, 10);
        assert_eq!(wheel.next(), Some(1_000));
        wheel.expire(1_000, &mut fired);
        assert_eq!(fired, [3]);
    }
}
