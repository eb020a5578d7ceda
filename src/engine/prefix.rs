//! Beginnings that sequences had, kept for those that begin alike.
//!
//! ```text
//! key                 what makes states equal besides inputs: adapters, an encoder's text, the caller's scope
//! node                64 tokens behind the node above it, and their pages; found by the tokens themselves
//! copy of a state     of a recurrent model, behind any number of tokens; with the pages of layers that have attention
//! ```
//! Nothing is found by a hash of tokens, so nothing can be mistaken for another text. A page that only the tree
//! names is given up when pages run out, the one least recently asked for first, from the leaves on; a copy of a
//! state goes with its pages.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use geb_kernels::float::BLOCK;

use super::disk::DiskPages;
use super::key::SeqKey;
use super::options::VECTOR;
use crate::cache::{Full, PageTable, Pages};
use crate::state::State;

/// Least tokens of a page in common for which the page is copied.
const LEAST: usize = 16;

/// A node, and which of those that had its place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct NodeId {
    place: usize,
    made: u64,
}

/// Where a sequence is in the tree.
#[derive(Clone)]
pub(crate) struct Cursor {
    pub(super) key: SeqKey,
    /// The nodes of its whole pages that the tree has.
    pub(super) path: Vec<NodeId>,
}

impl Cursor {
    /// Before the first page.
    pub(super) fn new(key: SeqKey) -> Cursor {
        let path = Vec::new();
        Cursor { key, path }
    }

    /// Whole pages that the tree has of it.
    pub(super) fn len(&self) -> usize {
        self.path.len()
    }

    /// The sequence goes back to its first `tokens`.
    pub(super) fn truncate(&mut self, tokens: usize) {
        self.path.truncate(tokens / BLOCK);
    }

    /// Of the first `tokens`.
    pub(super) fn fork(&self, tokens: usize) -> Cursor {
        let mut fork = self.clone();
        fork.truncate(tokens);
        fork
    }
}

struct Node {
    made: u64,
    parent: Option<NodeId>,
    key: SeqKey,
    tokens: Box<[u32]>,
    pages: Pages,
    children: HashMap<Box<[u32]>, NodeId>,
    /// When it was last asked for.
    used: u64,
    /// Whether the disk has it, or was told.
    saved: bool,
}

/// A state behind some tokens.
pub(super) struct Copy {
    key: SeqKey,
    pub(super) tokens: Vec<u32>,
    pub(super) state: State,
    /// Pages of its tokens, of the layers that have attention.
    pub(super) table: PageTable,
    used: u64,
}

/// What lookups found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PrefixStats {
    /// Tokens that were looked up.
    pub asked: u64,
    /// Of these, tokens that were found.
    pub found: u64,
    /// Pages that were given up for others.
    pub evicted: u64,
}

/// The tree.
#[derive(Default)]
pub(crate) struct PrefixTree {
    nodes: Vec<Option<Node>>,
    vacant: Vec<usize>,
    roots: HashMap<SeqKey, HashMap<Box<[u32]>, NodeId>>,
    /// Nodes without children, least recently asked for first.
    leaves: BTreeSet<(u64, NodeId)>,
    copies: Vec<Copy>,
    /// Bytes that copies may take.
    copies_limit: u64,
    clock: u64,
    pub(super) stats: PrefixStats,
    disk: Option<Arc<DiskPages>>,
}

/// What was found.
struct Found {
    /// Nodes of whole pages, from the root on.
    path: Vec<NodeId>,
    /// A node whose page begins with so many tokens more.
    part: Option<(NodeId, usize)>,
}

impl PrefixTree {
    /// An empty tree, and bytes for copies of states.
    pub(super) fn new(copies_limit: u64) -> PrefixTree {
        PrefixTree {
            copies_limit,
            ..PrefixTree::default()
        }
    }

    /// Where all of it is kept besides.
    pub(super) fn disk(&self) -> Option<&Arc<DiskPages>> {
        self.disk.as_ref()
    }

    /// Keeps it there too from now on.
    pub(super) fn set_disk(&mut self, disk: Arc<DiskPages>) {
        self.disk = Some(disk);
        for (place, node) in self.nodes.iter().enumerate() {
            if let Some(Node { made, .. }) = node {
                self.tell(NodeId { place, made: *made }, true);
            }
        }
        self.nodes
            .iter_mut()
            .flatten()
            .for_each(|n| n.saved = false);
    }

    /// Says to the disk whether a page is in memory.
    fn tell(&self, id: NodeId, holds: bool) {
        if let (Some(disk), Some(node)) = (&self.disk, self.node(id)) {
            disk.set_held(&node.key, &self.beginning(id), holds);
        }
    }

    /// All tokens up to the end of a page.
    pub(super) fn beginning(&self, id: NodeId) -> Vec<u32> {
        let above = |n: &&Node| n.parent.and_then(|id| self.node(id));
        let path: Vec<&Node> = std::iter::successors(self.node(id), above).collect();
        path.iter().rev().flat_map(|n| &n.tokens).copied().collect()
    }

    /// A page that the disk has not yet.
    pub(super) fn unsaved(&self, id: NodeId) -> Option<(SeqKey, &Pages)> {
        let node = self.node(id).filter(|n| !n.saved)?;
        Some((node.key, &node.pages))
    }

    /// The disk has it.
    pub(super) fn set_saved(&mut self, id: NodeId) {
        if let Some(node) = self.node_mut(id) {
            node.saved = true;
        }
    }

    fn node(&self, id: NodeId) -> Option<&Node> {
        let node = self.nodes.get(id.place)?.as_ref();
        node.filter(|n| n.made == id.made)
    }

    fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        let node = self.nodes.get_mut(id.place)?.as_mut();
        node.filter(|n| n.made == id.made)
    }

    /// Children of a node, or of the root of a key.
    fn children(&self, key: &SeqKey, of: Option<NodeId>) -> Option<&HashMap<Box<[u32]>, NodeId>> {
        match of {
            None => self.roots.get(key),
            Some(id) => self.node(id).map(|n| &n.children),
        }
    }

    /// The longest known beginning of `tokens`.
    fn find(&self, key: &SeqKey, tokens: &[u32]) -> Found {
        let (whole, rest) = tokens.as_chunks::<BLOCK>();
        let mut path: Vec<NodeId> = Vec::new();
        let child = |path: &[NodeId], block: &[u32]| {
            self.children(key, path.last().copied())?
                .get(block)
                .copied()
        };
        while let Some(id) = whole.get(path.len()).and_then(|b| child(&path, b)) {
            path.push(id);
        }
        let next = whole.get(path.len()).map_or(rest, |b| b);
        let common = |block: &[u32]| block.iter().zip(next).take_while(|(a, b)| a == b).count();
        let children = self.children(key, path.last().copied());
        let parts = children
            .into_iter()
            .flatten()
            .map(|(block, id)| (*id, common(block)));
        // Of equal ones the older, so that the choice does not depend on the order of a map.
        let part = parts.max_by_key(|(id, n)| (*n, std::cmp::Reverse(id.made)));
        let part = part.filter(|(_, n)| *n >= LEAST);
        Found { path, part }
    }

    /// Notes that these nodes were asked for now, a child before its parent.
    fn touch(&mut self, path: &[NodeId]) {
        for id in path.iter().rev() {
            self.clock += 1;
            let now = self.clock;
            let Some(node) = self.node_mut(*id) else {
                continue;
            };
            let (before, leaf) = (
                std::mem::replace(&mut node.used, now),
                node.children.is_empty(),
            );
            if leaf {
                self.leaves.remove(&(before, *id));
                self.leaves.insert((now, *id));
            }
        }
    }

    /// Adds a page below `parent`; the node that is there already, if there is one.
    fn add(&mut self, cursor: &Cursor, tokens: &[u32], pages: Pages) -> Option<NodeId> {
        let parent = cursor.path.last().copied();
        let known = match parent {
            None => self.roots.entry(cursor.key).or_default(),
            // What it went on from may have been given up.
            Some(above) => &self.node(above)?.children,
        };
        if let Some(known) = known.get(tokens) {
            return Some(*known);
        }
        self.clock += 1;
        let made = self.clock;
        let place = self.vacant.pop().unwrap_or(self.nodes.len());
        let id = NodeId { place, made };
        match parent {
            None => {
                self.roots
                    .entry(cursor.key)
                    .or_default()
                    .insert(tokens.into(), id);
            }
            Some(above) => {
                let node = self.node_mut(above)?;
                node.children.insert(tokens.into(), id);
                let used = node.used;
                self.leaves.remove(&(used, above));
            }
        }
        let node = Node {
            made,
            parent,
            key: cursor.key,
            tokens: tokens.into(),
            pages,
            children: HashMap::new(),
            used: made,
            saved: false,
        };
        match self.nodes.get_mut(place) {
            Some(slot) => *slot = Some(node),
            None => self.nodes.push(Some(node)),
        }
        self.leaves.insert((made, id));
        self.tell(id, true);
        Some(id)
    }

    /// Gives an empty table the whole pages of the longest known beginning of `tokens`.
    pub(super) fn follow(&self, cursor: &mut Cursor, table: &mut PageTable, tokens: &[u32]) {
        cursor.path = self.find(&cursor.key, tokens).path;
        for node in cursor.path.iter().filter_map(|id| self.node(*id)) {
            table.push(&node.pages);
        }
    }

    /// Pages of the cursor that have not been given up since it passed them.
    pub(super) fn left(&self, cursor: &Cursor) -> usize {
        let held = |id: &&NodeId| self.node(**id).is_some();
        cursor.path.iter().take_while(held).count()
    }

    /// Adds a page that was on disk behind those of the cursor; false where they have been given up.
    pub(super) fn restore(&mut self, cursor: &mut Cursor, tokens: &[u32], pages: Pages) -> bool {
        let Some(id) = self.add(cursor, tokens, pages) else {
            return false;
        };
        self.set_saved(id);
        cursor.path.push(id);
        true
    }

    /// Gives an empty table the pages of the longest known beginning of `tokens`; returns its length.
    pub(super) fn take(
        &mut self,
        cursor: &mut Cursor,
        table: &mut PageTable,
        tokens: &[u32],
    ) -> usize {
        let Found { path, part } = self.find(&cursor.key, tokens);
        for node in path.iter().filter_map(|id| self.node(*id)) {
            table.push(&node.pages);
        }
        let mut held = path.len() * BLOCK;
        self.touch(&path);
        if let Some((id, more)) = part {
            if let Some(node) = self.node(id) {
                table.push(&node.pages);
                held += more;
            }
            self.touch(&[id]);
        }
        cursor.path = path;
        held
    }

    /// Adds the whole pages of `tokens` that the tree has not yet; where it has an equal page already, the
    /// table goes on with that one. False where no more can be added: behind vectors, and behind pages that were
    /// given up.
    pub(super) fn remember(
        &mut self,
        cursor: &mut Cursor,
        table: &mut PageTable,
        tokens: &[u32],
    ) -> bool {
        let (whole, _) = tokens.as_chunks::<BLOCK>();
        while let Some(tokens) = whole.get(cursor.path.len()) {
            let block = cursor.path.len();
            let pages = table.block(block).filter(|_| !tokens.contains(&VECTOR));
            let Some(id) = pages.and_then(|pages| self.add(cursor, tokens, pages)) else {
                return false;
            };
            if let Some(known) = self.node(id) {
                table.replace(block, &known.pages);
            }
            cursor.path.push(id);
        }
        true
    }

    /// Gives up a leaf: the one least recently asked for whose pages nobody else names, else one that such pages
    /// wait for; false if there is none.
    pub(super) fn evict(&mut self) -> bool {
        let alone = |id: &NodeId| self.node(*id).is_some_and(|n| n.pages.alone());
        let mut leaves = self.leaves.iter().map(|(_, id)| *id);
        let leaf = leaves.find(alone).or_else(|| self.leaf_below(Pages::alone));
        leaf.is_some_and(|leaf| self.give_up(leaf)) || self.give_up_copy()
    }

    /// Gives up the copy of a state least recently asked for, of those that name pages; false if there is none.
    fn give_up_copy(&mut self) -> bool {
        let copies = self.copies.iter().enumerate();
        let with_pages = copies.filter(|(_, c)| c.table.blocks() > 0);
        let oldest = with_pages.min_by_key(|(_, c)| c.used).map(|(i, _)| i);
        let Some(oldest) = oldest else {
            return false;
        };
        let blocks = self.copies[oldest].table.blocks();
        self.forget(oldest);
        self.stats.evicted += blocks as u64;
        true
    }

    /// Gives up a copy of a state, by number.
    fn forget(&mut self, copy: usize) {
        let gone = self.copies.swap_remove(copy);
        if let Some(disk) = &self.disk {
            disk.set_held(&gone.key, &gone.tokens, false);
        }
    }

    /// Gives up a leaf for who writes and finds no page: where [`PrefixTree::evict`] has none, one that pages wait
    /// for of which the one that is lacking comes free.
    pub(super) fn evict_for(&mut self, full: Full) -> bool {
        self.evict() || {
            let leaf = self.leaf_below(|pages| pages.frees(full));
            leaf.is_some_and(|leaf| self.give_up(leaf))
        }
    }

    /// A leaf that is such a node, or below one. A sequence gives up pages behind its window while it holds later
    /// ones: then the tree's names of those that it holds go, so that those above them can.
    fn leaf_below(&self, is: impl Fn(&Pages) -> bool) -> Option<NodeId> {
        let is = |id: NodeId| self.node(id).is_some_and(|n| is(&n.pages));
        let above = |id: &NodeId| self.node(*id).and_then(|n| n.parent);
        let below = |id: NodeId| std::iter::successors(Some(id), above).any(is);
        let mut leaves = self.leaves.iter().map(|(_, id)| *id);
        leaves.find(|id| below(*id))
    }

    /// Gives up a leaf.
    fn give_up(&mut self, id: NodeId) -> bool {
        self.tell(id, false);
        let Some(node) = self.nodes[id.place].take() else {
            return false;
        };
        self.leaves.remove(&(node.used, id));
        self.vacant.push(id.place);
        self.stats.evicted += 1;
        match node.parent {
            None => {
                if let Some(roots) = self.roots.get_mut(&node.key) {
                    roots.remove(&node.tokens);
                    if roots.is_empty() {
                        self.roots.remove(&node.key);
                    }
                }
            }
            Some(above) => {
                if let Some(parent) = self.node_mut(above) {
                    parent.children.remove(&node.tokens);
                    let (used, leaf) = (parent.used, parent.children.is_empty());
                    if leaf {
                        self.leaves.insert((used, above));
                    }
                }
            }
        }
        true
    }

    /// Pages of a group that only the tree names: as many can be given up.
    pub(super) fn evictable(&self, group: usize) -> usize {
        let nodes = self.nodes.iter().flatten();
        let alone = nodes.filter(|n| n.pages.alone_in(group)).count();
        alone + PageTable::only_in(&self.tables(), group)
    }

    /// The pages of the copies of states.
    pub(super) fn tables(&self) -> Vec<&PageTable> {
        self.copies.iter().map(|c| &c.table).collect()
    }

    /// Blocks of pages in the tree.
    pub(super) fn len(&self) -> usize {
        self.nodes.len() - self.vacant.len()
    }

    /// The longest text with a state that `tokens` begin with.
    pub(super) fn copy_of(&mut self, key: &SeqKey, tokens: &[u32]) -> Option<&Copy> {
        self.clock += 1;
        let fits = |c: &&mut Copy| c.key == *key && tokens.starts_with(&c.tokens);
        let best = self
            .copies
            .iter_mut()
            .filter(fits)
            .max_by_key(|c| c.tokens.len())?;
        best.used = self.clock;
        Some(best)
    }

    /// Keeps a state and the pages of its tokens, and gives up others for it as the limit asks; false if it is not
    /// kept, or was before.
    pub(super) fn keep(
        &mut self,
        key: SeqKey,
        tokens: &[u32],
        state: State,
        table: PageTable,
    ) -> bool {
        let is = |c: &Copy| c.key == key && c.tokens == tokens;
        let each = 8 * state.values().len() as u64;
        let most = (self.copies_limit / each.max(1)) as usize;
        if most == 0 || self.copies.iter().any(is) {
            return false;
        }
        self.clock += 1;
        while self.copies.len() >= most {
            let oldest = self.copies.iter().enumerate().min_by_key(|(_, c)| c.used);
            let Some(oldest) = oldest.map(|(i, _)| i) else {
                break;
            };
            self.forget(oldest);
        }
        if let Some(disk) = &self.disk {
            disk.set_held(&key, tokens, true);
        }
        self.copies.push(Copy {
            key,
            tokens: tokens.to_vec(),
            state,
            table,
            used: self.clock,
        });
        true
    }
}

#[cfg(test)]
mod tests;
