//! The modules of one crate: which names each has, and in which file a path is defined.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};

use crate::source::{Crate, File, Tree, is_test};

/// A path inside the crate, from its root.
type Path = Vec<String>;

/// Steps of following names; a circle of imports ends here.
const DEPTH: usize = 32;

/// What a module has.
#[derive(Default)]
struct Module {
    /// Number of its file in the tree.
    file: usize,
    items: BTreeSet<String>,
    children: BTreeSet<String>,
    /// Name to path.
    imports: BTreeMap<String, Path>,
    globs: Vec<Path>,
}

/// All modules of a crate.
pub struct Modules<'a> {
    tree: &'a Tree,
    modules: BTreeMap<Path, Module>,
}

impl<'a> Modules<'a> {
    /// The modules below a crate's root.
    pub fn of(tree: &'a Tree, of: &Crate) -> Modules<'a> {
        let mut all = Modules {
            tree,
            modules: BTreeMap::new(),
        };
        for (number, file) in tree.files.iter().enumerate() {
            let below = file.name.strip_prefix(&of.folder);
            let other_root = below.is_some_and(|b| b.starts_with("bin/"));
            if let Some(below) = below.filter(|_| !other_root) {
                let path = match file.name == of.root {
                    true => Vec::new(),
                    false => module_path(below),
                };
                all.read(path, number, &file.syntax.items);
            }
        }
        let paths: Vec<Path> = all.modules.keys().cloned().collect();
        for path in paths.iter().filter(|p| !p.is_empty()) {
            let (name, parent) = path.split_last().expect("not the root");
            if let Some(parent) = all.modules.get_mut(parent) {
                parent.children.insert(name.clone());
            }
        }
        all
    }

    fn read(&mut self, path: Path, file: usize, items: &[syn::Item]) {
        let mut module = Module {
            file,
            ..Module::default()
        };
        for item in items {
            match item {
                syn::Item::Use(u) if !is_test(&u.attrs) => {
                    let mut prefix = Vec::new();
                    imports(&u.tree, &mut prefix, &mut |prefix, name| {
                        let full = absolute(&path, prefix);
                        match name {
                            Some(name) => _ = module.imports.insert(name, full),
                            None => module.globs.push(full),
                        }
                    });
                }
                syn::Item::Mod(m) => {
                    if let (false, Some((_, inner))) = (is_test(&m.attrs), &m.content) {
                        let below = path.iter().cloned().chain([m.ident.to_string()]);
                        self.read(below.collect(), file, inner);
                    }
                }
                item => module.items.extend(item_name(item)),
            }
        }
        self.modules.insert(path, module);
    }

    /// Every pair of files of which the first uses something that the second defines, and what.
    pub fn uses(&self) -> BTreeMap<(usize, usize), BTreeSet<String>> {
        let mut pairs: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (path, module) in &self.modules {
            let mut used = Used {
                paths: Vec::new(),
                depth: 0,
            };
            used.visit_items(self.items(path, &self.tree.files[module.file]));
            for one in &used.paths {
                let to = self.resolve(path, one, DEPTH);
                if let Some(to) = to.filter(|to| *to != module.file) {
                    pairs
                        .entry((module.file, to))
                        .or_default()
                        .insert(one.join("::"));
                }
            }
        }
        pairs
    }

    /// The items of a module, which may stand in the file of one above it.
    fn items(&self, path: &Path, file: &'a File) -> &'a [syn::Item] {
        let mut items: &[syn::Item] = &file.syntax.items;
        let outer = (0..=path.len()).find(|n| {
            let module = self.modules.get(&path[..*n]);
            module.is_some_and(|m| std::ptr::eq(&self.tree.files[m.file], file))
        });
        for name in &path[outer.unwrap_or(path.len())..] {
            let inner = items.iter().find_map(|i| match i {
                syn::Item::Mod(m) if m.ident == name => m.content.as_ref().map(|c| &c.1),
                _ => None,
            });
            items = inner.map_or(&[], |v| v);
        }
        items
    }

    /// The file that defines what `path` means in module `at`; none for a module or a foreign name.
    fn resolve(&self, at: &Path, path: &[String], depth: usize) -> Option<usize> {
        let first = path.first()?;
        if matches!(first.as_str(), "crate" | "self" | "super") {
            return self.find(&[], &absolute(at, path), depth);
        }
        self.find(at, path, depth)
    }

    /// As [`Modules::resolve`], where the path goes down from module `at`.
    fn find(&self, at: &[String], path: &[String], depth: usize) -> Option<usize> {
        let module = self.modules.get(at)?;
        let ((first, rest), depth) = (path.split_first()?, depth.checked_sub(1)?);
        if module.items.contains(first) {
            return Some(module.file);
        }
        if module.children.contains(first) {
            let below: Path = at.iter().chain([first]).cloned().collect();
            return self.find(&below, rest, depth);
        }
        if let Some(import) = module.imports.get(first) {
            let full: Path = import.iter().chain(rest).cloned().collect();
            return self.find(&[], &full, depth);
        }
        let through = |glob: &Path| {
            let full: Path = glob.iter().chain(path).cloned().collect();
            self.find(&[], &full, depth)
        };
        module.globs.iter().find_map(through)
    }
}

/// `a/b.rs` and `a/b/mod.rs` are `a::b`.
fn module_path(below: &str) -> Path {
    let stem = below.trim_end_matches(".rs");
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    stem.split('/').map(str::to_owned).collect()
}

/// A path from the root of the crate; a path that begins with another name is one of module `at` or foreign.
fn absolute(at: &[String], path: &[String]) -> Path {
    let mut full: Path = at.to_vec();
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        match first.as_str() {
            "crate" => full.clear(),
            "self" => {}
            "super" => _ = full.pop(),
            _ => break,
        }
        rest = after;
    }
    full.extend(rest.iter().cloned());
    full
}

/// Calls `each` with the path and the name of every import, without a name for a glob.
fn imports(tree: &syn::UseTree, at: &mut Path, each: &mut impl FnMut(&[String], Option<String>)) {
    match tree {
        syn::UseTree::Path(p) => {
            at.push(p.ident.to_string());
            imports(&p.tree, at, each);
            at.pop();
        }
        syn::UseTree::Name(n) if n.ident == "self" => each(at, at.last().cloned()),
        syn::UseTree::Name(n) => {
            let name = n.ident.to_string();
            at.push(name.clone());
            each(at, Some(name));
            at.pop();
        }
        syn::UseTree::Rename(r) => {
            at.push(r.ident.to_string());
            each(at, Some(r.rename.to_string()));
            at.pop();
        }
        syn::UseTree::Glob(_) => each(at, None),
        syn::UseTree::Group(g) => g.items.iter().for_each(|t| imports(t, at, each)),
    }
}

fn item_name(item: &syn::Item) -> Option<String> {
    let name = match item {
        syn::Item::Const(i) => &i.ident,
        syn::Item::Enum(i) => &i.ident,
        syn::Item::Fn(i) => &i.sig.ident,
        syn::Item::Macro(i) => i.ident.as_ref()?,
        syn::Item::Static(i) => &i.ident,
        syn::Item::Struct(i) => &i.ident,
        syn::Item::Trait(i) => &i.ident,
        syn::Item::Type(i) => &i.ident,
        syn::Item::Union(i) => &i.ident,
        _ => return None,
    };
    Some(name.to_string())
}

/// The paths that code uses. Re-exports are none: a module that hands out another's names does not read it.
struct Used {
    paths: Vec<Path>,
    /// Inline modules are visited on their own.
    depth: usize,
}

impl Used {
    fn visit_items(&mut self, items: &[syn::Item]) {
        for item in items {
            match item {
                syn::Item::Mod(_) | syn::Item::Use(_) => {}
                syn::Item::Fn(f) if is_test(&f.attrs) => {}
                item => self.visit_item(item),
            }
        }
    }
}

impl Visit<'_> for Used {
    fn visit_item_mod(&mut self, _: &syn::ItemMod) {}

    fn visit_path(&mut self, p: &syn::Path) {
        let names = p.segments.iter().map(|s| s.ident.to_string());
        self.paths.push(names.collect());
        visit::visit_path(self, p);
    }

    fn visit_macro(&mut self, m: &syn::Macro) {
        self.visit_path(&m.path);
        let parser = syn::punctuated::Punctuated::<syn::Expr, syn::Token![,]>::parse_terminated;
        let inner = m
            .parse_body_with(parser)
            .ok()
            .filter(|_| self.depth < DEPTH);
        if let Some(expressions) = inner {
            self.depth += 1;
            expressions.iter().for_each(|e| self.visit_expr(e));
            self.depth -= 1;
        }
    }
}
