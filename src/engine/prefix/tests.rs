//! The pool, its tables and the tree against a naive model: a million random operations.

use std::collections::HashMap;

use geb_kernels::float::KvType;

use super::*;
use crate::cache::{Layout, PagePlan, PagePool, Part};
use crate::model::LayerSizes;
use crate::model::arch::MixerKind;

/// A generator of numbers that look random (Knuth's MMIX constants).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// What a position holds: depends on the key and all tokens up to it.
fn content(before: u32, token: u32) -> u32 {
    (before ^ token).wrapping_mul(0x9e37_79b1).rotate_left(13) | 1
}

/// A sequence: what it should hold, and its pages.
struct Held {
    key: u8,
    tokens: Vec<u32>,
    contents: Vec<u32>,
    cursor: Option<Cursor>,
    table: PageTable,
}

/// Layers 0 and 1 see all positions, layer 2 the last 100.
const WINDOW: usize = 100;
const LAYERS: usize = 3;
/// Elements of a head.
const WIDTH: usize = 16;

struct Naive {
    dice: Dice,
    pool: PagePool,
    tree: PrefixTree,
    held: Vec<Held>,
    found: usize,
    evicted: usize,
    copied: usize,
    full: usize,
}

impl Naive {
    fn new() -> Naive {
        let layers = [LayerSizes {
            mixer: MixerKind::Attention,
            head_count: 1,
            head_count_kv: 1,
            head_size: WIDTH,
            feed_forward_length: 16,
        }; LAYERS];
        let of = |l: usize| (Part::Layers, if l == 2 { WINDOW } else { usize::MAX });
        let layout = Layout::of(&layers, KvType::F32, of);
        Naive {
            dice: Dice(1),
            pool: PagePool::new(PagePlan::new(layout, 512, 64, 4)).expect("a pool"),
            tree: PrefixTree::new(0),
            held: Vec::new(),
            found: 0,
            evicted: 0,
            copied: 0,
            full: 0,
        }
    }

    /// One that begins: four texts of few tokens, so that beginnings meet.
    fn begin(&mut self) {
        let key = self.dice.below(2) as u8;
        let mut cursor = Cursor {
            key: SeqKey([key; 32]),
            path: Vec::new(),
        };
        let mut table = self.pool.table();
        let text = self.dice.below(4) as u32;
        let tokens: Vec<u32> = (0..self.dice.below(400))
            .map(|i| self.token(text, i))
            .collect();
        let n = self.tree.take(&mut cursor, &mut table, &tokens);
        assert!(n <= tokens.len());
        self.found += n;
        let mut held = Held {
            key,
            tokens: Vec::new(),
            contents: Vec::new(),
            cursor: Some(cursor),
            table,
        };
        tokens[..n].iter().for_each(|t| held.push(*t));
        self.held.push(held);
    }

    /// Mostly the token of a text, sometimes another.
    fn token(&mut self, text: u32, at: usize) -> u32 {
        match self.dice.below(150) {
            0 => 9,
            _ => text + u32::from(at.is_multiple_of(7)),
        }
    }

    /// A sequence grows by some tokens, whose layers are written.
    fn grow(&mut self, i: usize) {
        let (first, text) = (self.held[i].tokens.len(), self.dice.below(4) as u32);
        let n = (1 + self.dice.below(64)).min(512 - first);
        let new: Vec<u32> = (first..first + n).map(|at| self.token(text, at)).collect();
        let held = &mut self.held[i];
        while let Err(lacking) = self
            .pool
            .prepare(&mut held.table, Part::Layers, first..first + n)
        {
            if !self.tree.evict_for(lacking) {
                self.full += 1;
                return;
            }
            self.evicted += 1;
        }
        new.iter().for_each(|t| held.push(*t));
        for layer in 0..LAYERS {
            for w in self.pool.written(layer, &[(&held.table, first..first + n)]) {
                let words: &mut [u32] = bytemuck::cast_slice_mut(w.layer);
                for p in w.positions {
                    words[BLOCK * WIDTH + p % BLOCK * WIDTH] = held.contents[p] ^ layer as u32;
                }
            }
        }
        if let Some(cursor) = &mut held.cursor
            && !self.tree.remember(cursor, &mut held.table, &held.tokens)
        {
            held.cursor = None;
        }
    }

    fn fork(&mut self, i: usize) {
        let of = &self.held[i];
        let at = self.dice.below(of.tokens.len() + 1);
        if of.table.keeps(at) < at {
            return;
        }
        self.copied += 1;
        self.held.push(Held {
            key: of.key,
            tokens: of.tokens[..at].to_vec(),
            contents: of.contents[..at].to_vec(),
            cursor: of.cursor.as_ref().map(|c| c.fork(at)),
            table: of.table.share(at),
        });
    }

    fn back(&mut self, i: usize) {
        let held = &mut self.held[i];
        let n = self.dice.below(held.tokens.len() + 1);
        let n = held.table.keeps(n);
        held.table.truncate(n);
        held.tokens.truncate(n);
        held.contents.truncate(n);
        if let Some(cursor) = &mut held.cursor {
            cursor.truncate(n);
        }
    }

    /// What the next token sees is what was written for this sequence, in every layer.
    fn check(&self, i: usize) {
        let held = &self.held[i];
        let end = held.tokens.len();
        for layer in 0..LAYERS {
            let from = if layer == 2 {
                (end + 1).saturating_sub(WINDOW)
            } else {
                0
            };
            for p in from..end {
                let found = self.pool.view(&held.table).rows(layer, 0).value(p)[0].to_bits();
                assert_eq!(
                    found,
                    held.contents[p] ^ layer as u32,
                    "layer {layer} at {p} of {end}"
                );
            }
        }
    }
}

impl Held {
    fn push(&mut self, token: u32) {
        let before = self
            .contents
            .last()
            .copied()
            .unwrap_or(u32::from(self.key) + 7);
        self.contents.push(content(before, token));
        self.tokens.push(token);
    }
}

#[test]
fn pool_and_tree_equal_a_naive_model() {
    let mut naive = Naive::new();
    let mut sums: HashMap<usize, usize> = HashMap::new();
    for step in 0..1_000_000 {
        let choice = naive.dice.below(16);
        let some = naive.held.len();
        if some == 0 || (choice < 2 && some < 12) {
            naive.begin();
            continue;
        }
        let i = naive.dice.below(some);
        *sums.entry(choice).or_default() += 1;
        match choice {
            0..=3 => drop(naive.held.swap_remove(i)),
            4 if some < 12 => naive.fork(i),
            5 => naive.back(i),
            6 => naive.check(i),
            _ if naive.held[i].tokens.len() < 512 => naive.grow(i),
            _ => drop(naive.held.swap_remove(i)),
        }
        if step % 10_000 == 0 {
            (0..naive.held.len()).for_each(|i| naive.check(i));
        }
    }
    let Naive {
        found,
        evicted,
        copied,
        full,
        ..
    } = naive;
    assert!(
        found > 100_000 && evicted > 10_000 && copied > 10_000 && full > 100,
        "{found} {evicted} {copied} {full}"
    );
    // When all are gone, the tree alone holds pages, and it can give up all of them.
    naive.held.clear();
    let (free, all) = naive.pool.free();
    assert_eq!(free + naive.tree.len(), all);
    while naive.tree.evict() {}
    let (free, all) = naive.pool.free();
    assert_eq!((free, naive.tree.len()), (all, 0));
    assert!(sums.len() > 10, "{sums:?}");
}
