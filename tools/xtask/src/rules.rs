//! The rules that look at one file at a time.

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use crate::source::{File, Findings, Tree, is_test};

/// Lines of a function, from `fn` to the closing brace.
const FUNCTION: usize = 70;
/// Lines of a file.
const FILE: usize = 600;
/// Names that the field has another word for (`docs/terms.md`).
const WORDS: &[&str] = &[
    "Busy",
    "Front",
    "Odds",
    "Residents",
    "Streamed",
    "believe",
    "fronts",
    "pace",
    "prune",
    "seal",
    "snap",
    "soften",
    "wave",
];

/// Functions, their names with those of the types they belong to.
struct Functions<F> {
    inside: Vec<String>,
    each: F,
}

impl<'a, F: FnMut(String, &'a syn::Signature, &'a syn::Block)> Visit<'a> for Functions<F> {
    fn visit_item_fn(&mut self, f: &'a syn::ItemFn) {
        self.one(&f.sig, &f.block);
        self.within(f.sig.ident.to_string(), |v| visit::visit_item_fn(v, f));
    }

    fn visit_impl_item_fn(&mut self, f: &'a syn::ImplItemFn) {
        self.one(&f.sig, &f.block);
        visit::visit_impl_item_fn(self, f);
    }

    fn visit_trait_item_fn(&mut self, f: &'a syn::TraitItemFn) {
        if let Some(block) = &f.default {
            self.one(&f.sig, block);
        }
        visit::visit_trait_item_fn(self, f);
    }

    fn visit_item_impl(&mut self, i: &'a syn::ItemImpl) {
        let name = match &*i.self_ty {
            syn::Type::Path(p) => p.path.segments.last().map(|s| s.ident.to_string()),
            _ => None,
        };
        self.within(name.unwrap_or_default(), |v| visit::visit_item_impl(v, i));
    }

    fn visit_item_mod(&mut self, m: &'a syn::ItemMod) {
        self.within(m.ident.to_string(), |v| visit::visit_item_mod(v, m));
    }
}

impl<'a, F: FnMut(String, &'a syn::Signature, &'a syn::Block)> Functions<F> {
    fn one(&mut self, sig: &'a syn::Signature, block: &'a syn::Block) {
        let mut name = self.inside.join("::");
        if !name.is_empty() {
            name.push_str("::");
        }
        (self.each)(name + &sig.ident.to_string(), sig, block);
    }

    fn within(&mut self, name: String, f: impl FnOnce(&mut Self)) {
        self.inside.push(name);
        f(self);
        self.inside.pop();
    }
}

fn functions<'a>(file: &'a File, each: impl FnMut(String, &'a syn::Signature, &'a syn::Block)) {
    let inside = Vec::new();
    Functions { inside, each }.visit_file(&file.syntax);
}

/// Functions of more than [`FUNCTION`] lines, with the number of their lines.
pub fn long_functions(tree: &Tree) -> Findings {
    let mut found = Findings::new();
    for file in &tree.files {
        functions(file, |name, sig, block| {
            let first = sig.fn_token.span.start().line;
            let lines = block.brace_token.span.close().end().line + 1 - first;
            if lines > FUNCTION {
                found.insert(format!("{} {name}", file.name), lines);
            }
        });
    }
    found
}

/// Files of more than [`FILE`] lines, with the number of their lines.
pub fn long_files(tree: &Tree) -> Findings {
    let lines = |f: &File| (f.name.clone(), f.text.lines().count());
    tree.files
        .iter()
        .map(lines)
        .filter(|(_, n)| *n > FILE)
        .collect()
}

/// Functions that take a tuple of three or more as one parameter.
pub fn tuple_parameters(tree: &Tree) -> Findings {
    let mut found = Findings::new();
    for file in tree.files.iter().filter(|f| !f.name.contains("tests/")) {
        functions(file, |name, sig, _| {
            let is_tuple = |p: &syn::FnArg| match p {
                syn::FnArg::Typed(t) => matches!(&*t.ty, syn::Type::Tuple(t) if t.elems.len() > 1),
                syn::FnArg::Receiver(_) => false,
            };
            let count = sig.inputs.iter().filter(|p| is_tuple(p)).count();
            if count > 0 {
                *found.entry(format!("{} {name}", file.name)).or_default() += count;
            }
        });
    }
    found
}

/// Everything in a file that is not compiled for tests only.
struct Product<'a> {
    literals: Vec<String>,
    idents: Vec<String>,
    unsafes: usize,
    file: &'a File,
}

impl<'a> Product<'a> {
    fn of(file: &'a File) -> Product<'a> {
        let mut product = Product {
            literals: Vec::new(),
            idents: Vec::new(),
            unsafes: 0,
            file,
        };
        product.visit_file(&file.syntax);
        product
    }

    fn tokens(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Group(g) => self.tokens(g.stream()),
                TokenTree::Literal(l) => {
                    if let Ok(text) = syn::parse_str::<syn::LitStr>(&l.to_string()) {
                        self.literals.push(text.value());
                    }
                }
                TokenTree::Ident(i) => self.idents.push(i.to_string()),
                TokenTree::Punct(_) => {}
            }
        }
    }
}

impl<'a> Visit<'a> for Product<'a> {
    fn visit_item(&mut self, item: &'a syn::Item) {
        let attributes = match item {
            syn::Item::Fn(i) => &i.attrs,
            syn::Item::Mod(i) => &i.attrs,
            syn::Item::Impl(i) => &i.attrs,
            syn::Item::Use(i) => &i.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    /// Documentation may name flags.
    fn visit_attribute(&mut self, a: &'a syn::Attribute) {
        if !a.path().is_ident("doc") {
            visit::visit_attribute(self, a);
        }
    }

    fn visit_lit_str(&mut self, l: &'a syn::LitStr) {
        self.literals.push(l.value());
    }

    fn visit_ident(&mut self, i: &'a proc_macro2::Ident) {
        self.idents.push(i.to_string());
    }

    fn visit_macro(&mut self, m: &'a syn::Macro) {
        self.tokens(m.tokens.clone());
    }

    fn visit_meta_list(&mut self, m: &'a syn::MetaList) {
        self.tokens(m.tokens.clone());
    }

    fn visit_expr_unsafe(&mut self, e: &'a syn::ExprUnsafe) {
        self.unsafes += 1;
        visit::visit_expr_unsafe(self, e);
    }

    fn visit_signature(&mut self, s: &'a syn::Signature) {
        self.unsafes += usize::from(s.unsafety.is_some());
        visit::visit_signature(self, s);
    }
}

/// A count per file, of those that have any.
fn per_file<'a>(
    files: impl Iterator<Item = &'a File>,
    count: impl Fn(&Product) -> usize,
) -> Findings {
    let one = |f: &File| (f.name.clone(), count(&Product::of(f)));
    files.map(one).filter(|(_, n)| *n > 0).collect()
}

/// Texts of the library with a word that begins with two dashes.
pub fn flags(tree: &Tree) -> Findings {
    let names_flag = |text: &String| {
        let mut words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        words.any(|w| w.len() > 3 && w.starts_with("--") && w.as_bytes()[2].is_ascii_lowercase())
    };
    per_file(tree.library(), |p| {
        p.literals.iter().filter(|t| names_flag(t)).count()
    })
}

/// `unsafe` outside the kernels and the module that maps files.
pub fn misplaced_unsafe(tree: &Tree) -> Findings {
    let outside = |f: &&File| {
        (["src/", "tools/", "lab/"]
            .iter()
            .any(|p| f.name.starts_with(p)))
            && !f.name.contains("mmap")
    };
    per_file(tree.files.iter().filter(outside), |p| p.unsafes)
}

/// Notes that name no check.
pub fn vouching(tree: &Tree) -> Findings {
    per_file(tree.library(), |p| {
        let vouches = |line: &&str| line.contains("//") && line.contains("caller vouches");
        p.file.text.lines().filter(vouches).count()
    })
}

/// Names that the field has another word for.
pub fn words(tree: &Tree) -> Findings {
    let product = |f: &&File| !f.name.contains("tests/") && !f.name.starts_with("tools/xtask/");
    per_file(tree.files.iter().filter(product), |p| {
        p.idents
            .iter()
            .filter(|i| WORDS.contains(&i.as_str()))
            .count()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Tree {
        let file = File {
            name: "src/a.rs".into(),
            text: text.into(),
            syntax: syn::parse_file(text).unwrap(),
        };
        Tree {
            files: vec![file],
            crates: Vec::new(),
        }
    }

    #[test]
    fn flags_are_found_in_texts_and_macros_but_not_in_documentation_or_tests() {
        let text = "/// Like `--type`.\nfn f() { g(\"use --type\"); h!(\"{} --ctx\", 1); i(\"a -- b --\"); }
            #[cfg(test)] mod t { fn f() { g(\"--no\"); } }";
        assert_eq!(flags(&tree(text)), Findings::from([("src/a.rs".into(), 2)]));
    }

    #[test]
    fn functions_are_measured_from_fn_to_brace() {
        let body = "\n".repeat(69);
        let text = format!(
            "struct A;\nimpl A {{\n /// Doc.\n fn b() {{{body}\n}}\nfn c() {{{body}}}\n}}\n"
        );
        let found = long_functions(&tree(&text));
        assert_eq!(found, Findings::from([("src/a.rs A::b".into(), 71)]));
    }

    #[test]
    fn tuples_words_and_unsafe_are_counted() {
        let t = tree("fn f(a: (u8, u8), b: u8) { let wave = unsafe { g() }; }\nunsafe fn g() {}");
        assert_eq!(tuple_parameters(&t).values().sum::<usize>(), 1);
        assert_eq!(words(&t).values().sum::<usize>(), 1);
        assert_eq!(misplaced_unsafe(&t).values().sum::<usize>(), 2);
    }
}
