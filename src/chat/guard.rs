//! Rewrites a template so that every step that can build a large or deep value goes through
//! `bounds`.
//!
//! minijinja bounds steps and nesting, not bytes: thirty times `{% set a = a ~ a %}` is a
//! gigabyte, `"x" * 100000000` even before the first step, and long chains of operators or
//! `elif` overflow the stack. So a source is cut into tokens and counted, parsed, and
//! printed again with
//! - `~`, `+`, `*` and `in` as calls of functions that count bytes,
//! - filters, slices, calls, lists and maps followed by a filter that counts the result,
//! - raw text as expressions, so that the formatter sees all output.
//!
//! White space control has been applied by the parser, so the printed form has no text
//! outside of tags; line breaks inside of tags keep the line numbers of messages.

use std::fmt::Write as _;

use minijinja::machinery::ast::{
    BinOpKind, Call, CallArg, Compare, CompareOpKind, Expr, Filter, ForLoop, IfExpr, Macro, Map,
    SetBlock, Slice, Stmt, UnaryOpKind, WithBlock,
};
use minijinja::machinery::{Span, Token, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use crate::limits;

/// Filters whose result is made while it is looked at.
const LAZY: [&str; 5] = ["map", "select", "selectattr", "reject", "rejectattr"];

/// Names that only this module writes.
const RESERVED: &str = "__geb";

fn refused(what: &str) -> Error {
    Error::new(ErrorKind::SyntaxError, what.to_owned())
}

/// The rewritten source; it is to be compiled without any white space control.
pub(super) fn rewrite(source: &str, syntax: SyntaxConfig) -> Result<String, Error> {
    count(source, &syntax)?;
    let tree = parse(source, "chat", syntax)?;
    let mut printer = Printer {
        out: String::with_capacity(2 * source.len()),
        line: 1,
    };
    printer.stmt(&tree)?;
    Ok(printer.out)
}

/// Bounds what makes the parser and its trees recurse: tokens of one tag, and `elif`s.
fn count(source: &str, syntax: &SyntaxConfig) -> Result<(), Error> {
    let (mut tokens, mut branches) = (0, 0);
    for token in tokenize(source, false, syntax.clone()) {
        match token?.0 {
            Token::TemplateData(_) | Token::VariableStart | Token::BlockStart => tokens = 0,
            Token::Ident("elif") => branches += 1,
            _ => {}
        }
        tokens += 1;
        if tokens > limits::MAX_TAG_TOKENS || branches > limits::MAX_ELIFS {
            return Err(refused("a tag or a chain of branches is too long"));
        }
    }
    Ok(())
}

struct Printer {
    out: String,
    line: usize,
}

impl Printer {
    fn text(&mut self, text: &str) {
        self.out.push_str(text);
    }

    /// Begins a tag on the line where the source had it.
    fn open(&mut self, delimiter: &str, span: Span) {
        self.text(delimiter);
        while self.line < span.start_line as usize {
            self.out.push('\n');
            self.line += 1;
        }
        self.out.push(' ');
    }

    fn stmts(&mut self, list: &[Stmt<'_>]) -> Result<(), Error> {
        list.iter().try_for_each(|s| self.stmt(s))
    }

    fn stmt(&mut self, stmt: &Stmt<'_>) -> Result<(), Error> {
        match stmt {
            Stmt::Template(t) => self.stmts(&t.children)?,
            Stmt::EmitRaw(raw) => {
                self.open("{{", raw.span());
                self.literal(raw.raw);
                self.text(" }}");
            }
            Stmt::EmitExpr(e) => {
                self.open("{{", e.span());
                self.expr(&e.expr)?;
                self.text(" }}");
            }
            Stmt::ForLoop(f) => self.for_loop(f.span(), f)?,
            Stmt::IfCond(_) => self.branches(stmt)?,
            Stmt::WithBlock(w) => self.with_block(w.span(), w)?,
            Stmt::Set(s) => {
                self.open("{%", s.span());
                self.text("set ");
                self.target(&s.target)?;
                self.text(" = ");
                self.expr(&s.expr)?;
                self.text(" %}");
            }
            Stmt::SetBlock(s) => self.set_block(s.span(), s)?,
            Stmt::FilterBlock(f) => {
                self.open("{%", f.span());
                self.text("filter ");
                if let Expr::Filter(filter) = &f.filter {
                    self.filter_chain(filter)?;
                }
                self.block(" %}", &f.body, "endfilter")?;
            }
            Stmt::Macro(m) => {
                self.open("{%", m.span());
                self.text("macro ");
                self.name(m.name)?;
                self.parameters(m)?;
                self.block(" %}", &m.body, "endmacro")?;
            }
            Stmt::CallBlock(c) => {
                self.open("{%", c.span());
                self.text("call");
                self.parameters(&c.macro_decl)?;
                self.text(" ");
                self.call(&c.call)?;
                self.block(" %}", &c.macro_decl.body, "endcall")?;
            }
            Stmt::Do(d) => {
                self.open("{%", d.span());
                self.text("do ");
                self.call(&d.call)?;
                self.text(" %}");
            }
            Stmt::Continue(_) => self.text("{% continue %}"),
            Stmt::Break(_) => self.text("{% break %}"),
            _ => {
                return Err(refused(
                    "blocks, imports and escaping have no place in a chat template",
                ));
            }
        }
        Ok(())
    }

    fn block(&mut self, end_of_tag: &str, body: &[Stmt<'_>], end: &str) -> Result<(), Error> {
        self.text(end_of_tag);
        self.stmts(body)?;
        let _ = write!(self.out, "{{% {end} %}}");
        Ok(())
    }

    /// An `if` with its `elif`s as a loop, not as nested blocks.
    fn branches(&mut self, mut stmt: &Stmt<'_>) -> Result<(), Error> {
        let mut word = "if ";
        while let Stmt::IfCond(branch) = stmt {
            self.open("{%", branch.span());
            self.text(word);
            self.expr(&branch.expr)?;
            self.text(" %}");
            self.stmts(&branch.true_body)?;
            match branch.false_body.as_slice() {
                [] => break,
                [next @ Stmt::IfCond(_)] => (stmt, word) = (next, "elif "),
                body => {
                    self.text("{% else %}");
                    self.stmts(body)?;
                    break;
                }
            }
        }
        self.text("{% endif %}");
        Ok(())
    }

    fn name(&mut self, name: &str) -> Result<(), Error> {
        if name.starts_with(RESERVED) {
            return Err(refused("names that begin with __geb are reserved"));
        }
        self.text(name);
        Ok(())
    }

    /// What is assigned to: a name, an attribute, or several in parentheses.
    fn target(&mut self, target: &Expr<'_>) -> Result<(), Error> {
        let items = match target {
            Expr::Var(v) => return self.name(v.id),
            Expr::GetAttr(a) => {
                self.target(&a.expr)?;
                self.text(".");
                return self.name(a.name);
            }
            Expr::List(l) => &l.items,
            Expr::Tuple(t) => &t.items,
            _ => return Err(refused("cannot assign to this expression")),
        };
        self.text("(");
        for item in items {
            self.target(item)?;
            self.text(", ");
        }
        self.text(")");
        Ok(())
    }

    fn parameters(&mut self, m: &Macro<'_>) -> Result<(), Error> {
        let first_default = m.args.len().saturating_sub(m.defaults.len());
        self.text("(");
        for (i, arg) in m.args.iter().enumerate() {
            self.target(arg)?;
            if let Some(default) = i.checked_sub(first_default).and_then(|d| m.defaults.get(d)) {
                self.text("=");
                self.expr(default)?;
            }
            self.text(", ");
        }
        self.text(")");
        Ok(())
    }

    fn arguments(&mut self, args: &[CallArg<'_>]) -> Result<(), Error> {
        self.text("(");
        for (i, arg) in args.iter().enumerate() {
            if i > 0 {
                self.text(", ");
            }
            match arg {
                CallArg::Pos(e) => self.expr(e)?,
                CallArg::Kwarg(name, e) => {
                    self.text(name);
                    self.text("=");
                    self.expr(e)?;
                }
                CallArg::PosSplat(e) => {
                    self.text("*");
                    self.expr(e)?;
                }
                CallArg::KwargSplat(e) => {
                    self.text("**");
                    self.expr(e)?;
                }
            }
        }
        self.text(")");
        Ok(())
    }

    fn call(&mut self, call: &Call<'_>) -> Result<(), Error> {
        self.expr(&call.expr)?;
        self.arguments(&call.args)
    }

    /// `a(..)|__geb_out|b(..)|__geb_out` without the value in front.
    fn filter_chain(&mut self, filter: &Filter<'_>) -> Result<(), Error> {
        if let Some(Expr::Filter(inner)) = &filter.expr {
            self.filter_chain(inner)?;
            self.text("|");
            // Python's are generators, which have no JSON.
            if filter.name == "tojson" && LAZY.contains(&inner.name) {
                self.text("__geb_lazy|");
            }
        }
        self.name(filter.name)?;
        self.arguments(&filter.args)?;
        self.text("|__geb_out");
        Ok(())
    }

    fn literal(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.text("\\\""),
                '\\' => self.text("\\\\"),
                '\n' => self.text("\\n"),
                '\r' => self.text("\\r"),
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }

    fn constant(&mut self, value: &Value) -> Result<(), Error> {
        match value.kind() {
            ValueKind::String => self.literal(value.as_str().unwrap_or_default()),
            ValueKind::None => self.text("none"),
            ValueKind::Bool => self.text(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => {
                let _ = write!(self.out, "({value})");
            }
            kind => return Err(refused(&format!("a constant of kind {kind}"))),
        }
        Ok(())
    }

    fn list(&mut self, items: &[Expr<'_>]) -> Result<(), Error> {
        for item in items {
            self.expr(item)?;
            self.text(", ");
        }
        Ok(())
    }

    /// An operand whose size counts as work.
    fn operand(&mut self, e: &Expr<'_>) -> Result<(), Error> {
        self.expr(e)?;
        if !matches!(e, Expr::Const(_)) {
            self.text("|__geb_in");
        }
        Ok(())
    }

    /// Prints an expression so that it can stand anywhere.
    fn expr(&mut self, e: &Expr<'_>) -> Result<(), Error> {
        match e {
            Expr::Var(v) => self.name(v.id),
            Expr::Const(c) => self.constant(&c.value),
            Expr::Slice(s) => self.slice(s),
            Expr::UnaryOp(u) => {
                self.text(match u.op {
                    UnaryOpKind::Not => "(not ",
                    UnaryOpKind::Neg => "(-",
                });
                self.expr(&u.expr)?;
                self.text(")");
                Ok(())
            }
            Expr::BinOp(b) => self.binary(b.op, &b.left, &b.right),
            Expr::Compare(c) => self.compare(c),
            Expr::IfExpr(i) => self.conditional(i),
            Expr::Filter(f) => self.filtered(f),
            Expr::Test(t) => {
                self.text("(");
                self.operand(&t.expr)?;
                self.text(" is ");
                self.name(t.name)?;
                if !t.args.is_empty() {
                    self.arguments(&t.args)?;
                }
                self.text(")");
                Ok(())
            }
            Expr::GetAttr(a) => {
                self.expr(&a.expr)?;
                self.text(".");
                self.text(a.name);
                Ok(())
            }
            Expr::GetItem(i) => {
                self.text("(");
                self.operand(&i.expr)?;
                self.text(")[");
                self.expr(&i.subscript_expr)?;
                self.text("]");
                Ok(())
            }
            Expr::Call(c) => self.call(c),
            Expr::List(l) => {
                self.text("([");
                self.list(&l.items)?;
                self.text("]|__geb_out)");
                Ok(())
            }
            Expr::Tuple(t) => {
                self.text("((");
                self.list(&t.items)?;
                self.text(")|__geb_out)");
                Ok(())
            }
            Expr::Map(m) => self.map(m),
        }
    }

    fn binary(&mut self, op: BinOpKind, left: &Expr<'_>, right: &Expr<'_>) -> Result<(), Error> {
        let (begin, between) = match op {
            BinOpKind::Add => ("__geb_add(", ", "),
            BinOpKind::Concat => ("__geb_cat(", ", "),
            BinOpKind::Mul => ("__geb_mul(", ", "),
            BinOpKind::ScAnd => ("(", " and "),
            BinOpKind::ScOr => ("(", " or "),
            BinOpKind::Eq => ("(", " == "),
            BinOpKind::Ne => ("(", " != "),
            BinOpKind::Lt => ("(", " < "),
            BinOpKind::Lte => ("(", " <= "),
            BinOpKind::Gt => ("(", " > "),
            BinOpKind::Gte => ("(", " >= "),
            BinOpKind::In => ("(", " in "),
            BinOpKind::Sub => ("(", " - "),
            BinOpKind::Div => ("(", " / "),
            BinOpKind::FloorDiv => ("(", " // "),
            BinOpKind::Rem => ("(", " % "),
            BinOpKind::Pow => ("(", " ** "),
        };
        self.text(begin);
        // Operators of one kind associate to the left: one call or one pair of parentheses
        // for a whole chain, which keeps nesting below the parser's limit.
        let chains = |k| {
            matches!(
                k,
                BinOpKind::Add | BinOpKind::Concat | BinOpKind::ScAnd | BinOpKind::ScOr
            )
        };
        let mut parts = vec![right];
        let mut first = left;
        while let Expr::BinOp(inner) = first
            && chains(op)
            && std::mem::discriminant(&inner.op) == std::mem::discriminant(&op)
        {
            parts.push(&inner.right);
            first = &inner.left;
        }
        let short_circuit = matches!(op, BinOpKind::ScAnd | BinOpKind::ScOr);
        let mut print = |e| {
            if short_circuit {
                self.expr(e)
            } else {
                self.operand(e)
            }
        };
        print(first)?;
        for part in parts.into_iter().rev() {
            self.text(between);
            if short_circuit {
                self.expr(part)?
            } else {
                self.operand(part)?
            }
        }
        self.text(")");
        Ok(())
    }

    /// `for`, with its condition and `else`.
    fn for_loop(&mut self, span: Span, f: &ForLoop<'_>) -> Result<(), Error> {
        self.open("{%", span);
        self.text("for ");
        self.target(&f.target)?;
        self.text(" in ");
        self.expr(&f.iter)?;
        self.text("|__geb_each");
        if let Some(filter) = &f.filter_expr {
            self.text(" if ");
            self.expr(filter)?;
        }
        self.text(if f.recursive { " recursive %}" } else { " %}" });
        self.stmts(&f.body)?;
        if !f.else_body.is_empty() {
            self.text("{% else %}");
            self.stmts(&f.else_body)?;
        }
        self.text("{% endfor %}");
        Ok(())
    }

    /// `set` with a body.
    fn set_block(&mut self, span: Span, s: &SetBlock<'_>) -> Result<(), Error> {
        self.open("{%", span);
        self.text("set ");
        self.target(&s.target)?;
        if let Some(Expr::Filter(filter)) = &s.filter {
            self.text("|");
            self.filter_chain(filter)?;
        }
        self.block(" %}", &s.body, "endset")?;
        Ok(())
    }

    /// `with`.
    fn with_block(&mut self, span: Span, w: &WithBlock<'_>) -> Result<(), Error> {
        self.open("{%", span);
        self.text("with");
        for (i, (target, value)) in w.assignments.iter().enumerate() {
            self.text(if i == 0 { " " } else { ", " });
            self.target(target)?;
            self.text(" = ");
            self.expr(value)?;
        }
        self.block(" %}", &w.body, "endwith")?;
        Ok(())
    }

    /// `a[b:c:d]`.
    fn slice(&mut self, s: &Slice<'_>) -> Result<(), Error> {
        self.text("(");
        self.operand(&s.expr)?;
        self.text("|__geb_slice(");
        for part in [&s.start, &s.stop, &s.step] {
            match part {
                Some(part) => self.expr(part)?,
                None => self.text("none"),
            }
            self.text(", ");
        }
        self.text(")|__geb_out)");
        Ok(())
    }

    /// `a if b else c`.
    fn conditional(&mut self, i: &IfExpr<'_>) -> Result<(), Error> {
        self.text("(");
        self.expr(&i.true_expr)?;
        self.text(" if ");
        self.expr(&i.test_expr)?;
        if let Some(other) = &i.false_expr {
            self.text(" else ");
            self.expr(other)?;
        }
        self.text(")");
        Ok(())
    }

    /// `a < b == c`.
    fn compare(&mut self, c: &Compare<'_>) -> Result<(), Error> {
        self.text("(");
        self.operand(&c.expr)?;
        for op in &c.ops {
            self.text(comparison(op.op));
            self.operand(&op.expr)?;
        }
        self.text(")");
        Ok(())
    }

    /// A value with its filters.
    fn filtered(&mut self, f: &Filter<'_>) -> Result<(), Error> {
        let mut base = f.expr.as_ref();
        while let Some(Expr::Filter(inner)) = base {
            base = inner.expr.as_ref();
        }
        self.text("(");
        base.iter().try_for_each(|b| self.operand(b))?;
        self.text("|");
        self.filter_chain(f)?;
        self.text(")");
        Ok(())
    }

    /// `{a: b}`.
    fn map(&mut self, m: &Map<'_>) -> Result<(), Error> {
        self.text("({");
        for (key, value) in m.keys.iter().zip(&m.values) {
            self.expr(key)?;
            self.text(": ");
            self.expr(value)?;
            self.text(", ");
        }
        self.text("}|__geb_out)");
        Ok(())
    }
}

fn comparison(op: CompareOpKind) -> &'static str {
    match op {
        CompareOpKind::Eq => " == ",
        CompareOpKind::Ne => " != ",
        CompareOpKind::Lt => " < ",
        CompareOpKind::Lte => " <= ",
        CompareOpKind::Gt => " > ",
        CompareOpKind::Gte => " >= ",
        CompareOpKind::In => " in ",
        CompareOpKind::NotIn => " not in ",
    }
}
