//! Who enters, who reads how much, who makes room: pure answers from lists. No clocks, no threads.

use std::collections::BTreeMap;

/// A request that waits, in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Who asks: owners are served in turn.
    pub owner: u64,
    /// When it entered for the first time, if it had to make room since; lower is older.
    pub ticket: Option<u64>,
}

/// A request that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// When it entered for the first time; lower is older.
    pub ticket: u64,
    /// Rows that it has to read before it answers; 0 if it answers, or must not go on now.
    pub left: usize,
}

/// Decides what a step consists of. It decides when something is computed, never what.
pub trait Policy: Send {
    /// Which of those that wait enter, in this order: at most `places`, each only if `fits` says so.
    fn admit(
        &mut self,
        waiting: &[Waiting],
        places: usize,
        fits: &mut dyn FnMut(usize) -> bool,
    ) -> Vec<usize>;

    /// How many rows each of those that run reads in a step of at most `rows` rows of prompts.
    fn read(&mut self, running: &[Running], rows: usize) -> Vec<usize>;

    /// Who gives its pages to the others; none if nobody may.
    fn preempt(&mut self, running: &[Running]) -> Option<usize>;
}

/// Those that had to make room come back first, oldest first; owners take turns. Half of the rows to the oldest
/// prompt, half to the one with least left. The youngest makes room, and never the oldest.
#[derive(Debug, Default)]
pub struct Fair {
    /// By owner: when it was served last.
    served: BTreeMap<u64, u64>,
    turn: u64,
}

impl Fair {
    /// The next of those that wait and were not chosen yet.
    fn next(&self, waiting: &[Waiting], chosen: &[usize]) -> Option<usize> {
        let left = (0..waiting.len()).filter(|i| !chosen.contains(i));
        left.min_by_key(|i| {
            let w = &waiting[*i];
            let back = w.ticket.unwrap_or(u64::MAX);
            (back, self.served.get(&w.owner).copied().unwrap_or(0), *i)
        })
    }
}

impl Policy for Fair {
    fn admit(
        &mut self,
        waiting: &[Waiting],
        places: usize,
        fits: &mut dyn FnMut(usize) -> bool,
    ) -> Vec<usize> {
        let mut chosen = Vec::new();
        while chosen.len() < places {
            // One that does not fit yet is not overtaken: it would wait for ever.
            let Some(i) = self.next(waiting, &chosen).filter(|i| fits(*i)) else {
                break;
            };
            self.turn += 1;
            self.served.insert(waiting[i].owner, self.turn);
            chosen.push(i);
        }
        // An owner that waits for nothing is forgotten, or the list would grow for ever.
        self.served
            .retain(|owner, _| waiting.iter().any(|w| w.owner == *owner));
        chosen
    }

    fn read(&mut self, running: &[Running], rows: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..running.len())
            .filter(|i| running[*i].left > 0)
            .collect();
        order.sort_by_key(|i| running[*i].ticket);
        let least = order.iter().copied().min_by_key(|i| running[*i].left);
        let halves = [
            (order.first().copied(), rows.div_ceil(2)),
            (least, rows / 2),
        ];
        let halves = halves.into_iter().filter_map(|(i, most)| Some((i?, most)));
        let rest: Vec<_> = order.iter().map(|i| (*i, rows)).collect();
        let (mut reads, mut free) = (vec![0; running.len()], rows);
        for (i, most) in halves.chain(rest) {
            let n = most.min(free).min(running[i].left - reads[i]);
            reads[i] += n;
            free -= n;
        }
        reads
    }

    fn preempt(&mut self, running: &[Running]) -> Option<usize> {
        let oldest = running.iter().map(|r| r.ticket).min()?;
        let all = running.iter().enumerate();
        all.filter(|(_, r)| r.ticket > oldest)
            .max_by_key(|(_, r)| r.ticket)
            .map(|(i, _)| i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn waiting(owners: &[u64]) -> Vec<Waiting> {
        let new = |owner: &u64| Waiting {
            owner: *owner,
            ticket: None,
        };
        owners.iter().map(new).collect()
    }

    /// Who enters one after the other, each leaving at once, while nobody comes.
    fn order(policy: &mut Fair, mut list: Vec<Waiting>) -> Vec<u64> {
        let mut owners = Vec::new();
        while let [i] = policy.admit(&list, 1, &mut |_| true)[..] {
            owners.push(list.remove(i).owner);
        }
        owners
    }

    #[test]
    fn owners_take_turns_whoever_asks_most() {
        let list = waiting(&[1, 1, 1, 1, 2, 2, 3]);
        assert_eq!(order(&mut Fair::default(), list), [1, 2, 3, 1, 2, 1, 1]);
    }

    #[test]
    fn who_made_room_comes_back_first() {
        let mut list = waiting(&[1, 2, 3, 4]);
        list[3].ticket = Some(9);
        list[2].ticket = Some(4);
        assert_eq!(order(&mut Fair::default(), list), [3, 4, 1, 2]);
    }

    #[test]
    fn one_that_does_not_fit_is_not_overtaken() {
        let mut policy = Fair::default();
        let list = waiting(&[1, 2, 3]);
        let mut asked = Vec::new();
        let chosen = policy.admit(&list, 3, &mut |i| {
            asked.push(i);
            i != 1
        });
        assert_eq!((chosen, asked), (vec![0], vec![0, 1]));
        // It has lost no turn by it.
        assert_eq!(policy.admit(&list[1..], 1, &mut |_| true), [0]);
    }

    fn running() -> impl Strategy<Value = Vec<Running>> {
        let left = prop_oneof![Just(0usize), 1..40usize, 1..3000usize];
        proptest::collection::vec(left, 0..40).prop_map(|lefts| {
            let new = |(i, left)| Running {
                ticket: (i as u64 * 7919) % 101,
                left,
            };
            lefts.into_iter().enumerate().map(new).collect()
        })
    }

    proptest! {
        #[test]
        fn rows_are_used_up_and_shared_by_halves(list in running(), rows in 0..600usize) {
            let reads = Fair::default().read(&list, rows);
            let left: usize = list.iter().map(|r| r.left).sum();
            prop_assert_eq!(reads.iter().sum::<usize>(), rows.min(left));
            prop_assert!(reads.iter().zip(&list).all(|(n, r)| *n <= r.left));
            let reading = || (0..list.len()).filter(|i| list[*i].left > 0);
            if let Some(oldest) = reading().min_by_key(|i| list[*i].ticket) {
                prop_assert!(reads[oldest] >= list[oldest].left.min(rows.div_ceil(2)));
            }
            if let Some(least) = reading().map(|i| list[i].left).min() {
                let got = reading().filter(|i| list[*i].left == least).map(|i| reads[i]).max();
                prop_assert!(got >= Some(least.min(rows / 2)));
            }
        }

        #[test]
        fn the_youngest_makes_room_and_never_the_oldest(mut list in running()) {
            let mut policy = Fair::default();
            let oldest = list.iter().map(|r| r.ticket).min();
            let mut last = u64::MAX;
            while let Some(i) = policy.preempt(&list) {
                let out = list.remove(i).ticket;
                prop_assert!(out < last && Some(out) != oldest);
                last = out;
            }
            prop_assert!(list.len() <= 1 && list.first().map(|r| r.ticket) == oldest);
        }

        #[test]
        fn nobody_waits_for_ever(owners in proptest::collection::vec(0..6u64, 1..60), places in 1..5usize) {
            let (mut policy, mut list) = (Fair::default(), waiting(&owners));
            let mut served = Vec::new();
            while !list.is_empty() {
                let mut chosen = policy.admit(&list, places, &mut |_| true);
                prop_assert!(!chosen.is_empty() && chosen.len() <= places);
                served.extend(chosen.iter().map(|i| list[*i].owner));
                chosen.sort_unstable_by(|a, b| b.cmp(a));
                for i in chosen {
                    list.remove(i);
                }
            }
            // Between two turns of an owner every other one that waits has at most two.
            for (i, owner) in served.iter().enumerate() {
                let until = served[i + 1..].iter().position(|o| o == owner);
                let between = &served[i + 1..i + 1 + until.unwrap_or(0)];
                for other in 0..6 {
                    prop_assert!(between.iter().filter(|o| **o == other).count() <= 1);
                }
            }
        }
    }
}
