//! Circles of files: each uses, through others, what uses it.

use std::collections::{BTreeMap, BTreeSet};

use crate::modules::Modules;
use crate::source::{Findings, Tree};

/// Every file that is in a circle.
pub fn find(tree: &Tree) -> Findings {
    let mut found = Findings::new();
    for one in &tree.crates {
        let uses = Modules::of(tree, one).uses();
        let names = in_circles(tree.files.len(), &uses).into_iter();
        found.extend(names.map(|f| (tree.files[f].name.clone(), 1)));
    }
    found
}

/// Prints what ties every circle: file, file, and the names that the first uses of the second.
pub fn print(tree: &Tree) {
    for one in &tree.crates {
        let uses = Modules::of(tree, one).uses();
        for ((from, to), names) in &uses {
            if reached(*to, &uses).contains(from) {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let (from, to) = (&tree.files[*from].name, &tree.files[*to].name);
                println!("{from} -> {to}: {}", names.join(", "));
            }
        }
    }
}

type Edges = BTreeMap<(usize, usize), BTreeSet<String>>;

/// The nodes that can be reached from themselves.
fn in_circles(nodes: usize, edges: &Edges) -> Vec<usize> {
    let reaches_itself = |start: &usize| reached(*start, edges).contains(start);
    (0..nodes).filter(reaches_itself).collect()
}

/// The nodes that can be reached from `start`.
fn reached(start: usize, edges: &Edges) -> BTreeSet<usize> {
    let mut seen = BTreeSet::new();
    let mut open = vec![start];
    while let Some(at) = open.pop() {
        for (_, to) in edges.range((at, 0)..(at + 1, 0)).map(|(pair, _)| pair) {
            if seen.insert(*to) {
                open.push(*to);
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Crate, File};

    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let file = |(name, text): &(&str, &str)| File {
            name: (*name).into(),
            text: (*text).into(),
            syntax: syn::parse_file(text).unwrap(),
        };
        let tree = Tree {
            files: files.iter().map(file).collect(),
            crates: vec![Crate {
                root: "src/lib.rs".into(),
                folder: "src/".into(),
            }],
        };
        find(&tree).into_keys().collect()
    }

    #[test]
    fn a_circle_goes_through_re_exports_to_the_file_that_defines() {
        let files = [
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a/mod.rs", "mod c; pub use c::C; pub struct A;"),
            ("src/a/c.rs", "use crate::b::B; pub struct C(B);"),
            ("src/b.rs", "pub struct B; fn f(c: crate::a::C) {}"),
        ];
        assert_eq!(circles(&files), ["src/a/c.rs", "src/b.rs"]);
    }

    #[test]
    fn parents_that_only_hand_out_names_are_in_none() {
        let files = [
            ("src/lib.rs", "mod a;"),
            ("src/a/mod.rs", "mod c; pub use c::C; pub struct A;"),
            (
                "src/a/c.rs",
                "use super::A; pub struct C(A); #[cfg(test)] mod t { use super::super::*; }",
            ),
        ];
        assert_eq!(circles(&files), [""; 0]);
    }

    #[test]
    fn globs_macros_and_inline_modules_are_followed() {
        let files = [
            ("src/lib.rs", "mod a; mod b; mod c;"),
            (
                "src/a.rs",
                "use crate::b::*; fn f() { assert!(g(1), \"x\"); } pub fn h() {}",
            ),
            (
                "src/b.rs",
                "pub fn g(n: u8) -> bool { true } mod i { fn k() { crate::c::m() } }",
            ),
            ("src/c.rs", "pub fn m() { crate::a::h() }"),
        ];
        assert_eq!(circles(&files), ["src/a.rs", "src/b.rs", "src/c.rs"]);
    }
}
