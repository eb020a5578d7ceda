//! Runs a tree. Every step counts as work and every value as memory; the budgets of one rendering
//! bound both, so no clock is needed.

use std::rc::Rc;
use std::sync::Arc;

use super::args::Given;
use super::ast::{Args, Body, Call, Comparison, Expr, For, Macro, Node, Post, Stmt, Target};
use super::state::{FUNCTIONS, LoopState};
use super::value::{Dict, Value};
use super::{Fail, exhausted, fail};
use crate::limits;

type Result<T> = std::result::Result<T, Fail>;

/// How a statement ended.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Flow {
    Next,
    Break,
    Continue,
}

/// Names of one block.
#[derive(Default)]
struct Scope {
    names: Vec<(Arc<str>, Value)>,
    parent: Option<usize>,
    /// Whether a macro refers to it, so that it has to stay.
    kept: bool,
}

/// One rendering.
pub(super) struct Vm<'t> {
    globals: &'t [(Arc<str>, Value)],
    scopes: Vec<Scope>,
    scope: usize,
    pub(super) namespaces: Vec<Rc<Dict>>,
    pub(super) loops: Vec<LoopState>,
    out: String,
    depth: usize,
    line: u32,
    steps: u64,
    work: usize,
    memory: usize,
}

/// Renders a tree with these names.
pub(super) fn render(body: &Body, globals: &[(Arc<str>, Value)]) -> Result<String> {
    let mut vm = Vm {
        globals,
        scopes: vec![Scope::default()],
        scope: 0,
        namespaces: Vec::new(),
        loops: Vec::new(),
        out: String::new(),
        depth: 0,
        line: 1,
        steps: limits::TEMPLATE_FUEL,
        work: limits::TEMPLATE_WORK,
        memory: limits::TEMPLATE_MEMORY_BYTES,
    };
    match vm.body(body) {
        Ok(_) => Ok(vm.out),
        Err(failure) => Err(failure.at(vm.line)),
    }
}

impl Vm<'_> {
    /// Announces `bytes` of new values before they are made.
    pub(super) fn memory(&mut self, bytes: usize) -> Result<()> {
        match self.memory.checked_sub(bytes) {
            Some(left) => self.memory = left,
            None => return exhausted("the template needs too much memory"),
        }
        Ok(())
    }

    /// Counts bytes and elements that are looked at.
    pub(super) fn work(&mut self, steps: usize) -> Result<()> {
        match self.work.checked_sub(steps) {
            Some(left) => self.work = left,
            None => return exhausted("the template needs too much time"),
        }
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        match self.steps.checked_sub(1) {
            Some(left) => self.steps = left,
            None => return exhausted("the template takes too many steps"),
        }
        Ok(())
    }

    /// A new text, counted.
    pub(super) fn text(&mut self, text: impl Into<Rc<str>>) -> Result<Value> {
        let text = text.into();
        self.memory(text.len())?;
        Ok(Value::text(text))
    }

    /// The argument, or another value in its place.
    pub(super) fn or_text(&mut self, value: Option<Value>, default: &str) -> Result<Value> {
        match value {
            Some(value) => Ok(value),
            None => self.text(default),
        }
    }

    /// A new list, counted.
    pub(super) fn list(&mut self, items: Vec<Value>) -> Result<Value> {
        self.memory(items.len().saturating_mul(size_of::<Value>()))?;
        Value::list(items)
    }

    /// Runs something one level deeper.
    pub(super) fn deeper<T>(&mut self, part: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= limits::MAX_TEMPLATE_CALLS {
            return fail("blocks and calls are nested too deeply");
        }
        self.depth += 1;
        let result = part(self);
        self.depth -= 1;
        result
    }

    fn emit(&mut self, text: &str) -> Result<()> {
        if text.len() > limits::MAX_RENDERED_BYTES.saturating_sub(self.out.len()) {
            return exhausted(format!(
                "output of more than {} bytes",
                limits::MAX_RENDERED_BYTES
            ));
        }
        self.out.push_str(text);
        Ok(())
    }

    /// What a part of the template renders.
    pub(super) fn capture(&mut self, part: impl FnOnce(&mut Self) -> Result<()>) -> Result<Value> {
        let outer = std::mem::take(&mut self.out);
        let result = part(self);
        let text = std::mem::replace(&mut self.out, outer);
        result?;
        self.text(text)
    }

    // Names.

    /// Runs something in a new scope below `parent`.
    pub(super) fn scoped<T>(
        &mut self,
        parent: usize,
        part: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let before = self.scope;
        self.scope = self.scopes.len();
        self.memory(size_of::<Scope>())?;
        self.scopes.push(Scope {
            names: Vec::new(),
            parent: Some(parent),
            kept: false,
        });
        let own = self.scope;
        let result = part(self);
        self.scope = before;
        if own + 1 == self.scopes.len() && !self.scopes[own].kept {
            self.scopes.pop();
        }
        result
    }

    /// Keeps the scope and those around it for a macro.
    fn keep_scope(&mut self) {
        let mut at = Some(self.scope);
        while let Some(scope) = at {
            self.scopes[scope].kept = true;
            at = self.scopes[scope].parent;
        }
    }

    pub(super) fn set(&mut self, name: &Arc<str>, value: Value) {
        let names = &mut self.scopes[self.scope].names;
        match names.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => names.push((name.clone(), value)),
        }
    }

    fn lookup(&self, name: &str) -> Result<Value> {
        match self.find(name) {
            Some(value) => Ok(value),
            None if name == "self" => fail("`self` is not available in chat templates"),
            None => Ok(Value::undefined(format!(
                "'{}' is undefined",
                super::cut(name)
            ))),
        }
    }

    fn find(&self, name: &str) -> Option<Value> {
        let mut at = Some(self.scope);
        while let Some(scope) = at {
            let scope = &self.scopes[scope];
            if let Some((_, value)) = scope.names.iter().find(|(n, _)| **n == *name) {
                return Some(value.clone());
            }
            at = scope.parent;
        }
        if let Some((_, value)) = self.globals.iter().find(|(n, _)| **n == *name) {
            return Some(value.clone());
        }
        FUNCTIONS
            .iter()
            .find(|f| **f == name)
            .map(|f| Value::Function(f))
    }

    pub(super) fn assign(&mut self, target: &Target, value: Value) -> Result<()> {
        match target {
            Target::Name(name) => self.set(name, value),
            Target::Attribute(name, attribute) => match self.lookup(name)? {
                Value::Namespace(id) => self.set_in_namespace(id, attribute, value)?,
                _ => return fail("cannot assign attribute on non-namespace object"),
            },
            Target::Tuple(targets) => {
                let items = value.elements(self)?;
                if items.len() != targets.len() {
                    let (n, m) = (targets.len(), items.len());
                    return fail(format!("{m} values for {n} names (expected {n})"));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.assign(target, item)?;
                }
            }
        }
        Ok(())
    }

    // Statements.

    pub(super) fn body(&mut self, body: &Body) -> Result<Flow> {
        self.deeper(|vm| {
            for node in body {
                match vm.statement(node)? {
                    Flow::Next => {}
                    other => return Ok(other),
                }
            }
            Ok(Flow::Next)
        })
    }

    fn statement(&mut self, node: &Node) -> Result<Flow> {
        self.step()?;
        self.line = node.line;
        match &node.stmt {
            Stmt::Data(text) => self.emit(text)?,
            Stmt::Print(values) => self.print(values)?,
            Stmt::If(branches, otherwise) => {
                for (condition, body) in branches {
                    if self.eval(condition)?.truth() {
                        return self.body(body);
                    }
                }
                return self.body(otherwise);
            }
            Stmt::For(f) => {
                let items = self.eval(&f.items)?;
                self.for_loop(f, &items, self.scope, 0)?;
            }
            Stmt::Set(target, value) => {
                let value = self.eval(value)?;
                self.assign(target, value)?;
            }
            Stmt::SetBlock(target, filters, body) => {
                let value = self.filtered(filters, body)?;
                self.assign(target, value)?;
            }
            Stmt::FilterBlock(filters, body) => {
                let value = self.filtered(filters, body)?;
                let text = self.str(&value)?;
                self.emit(&text)?;
            }
            Stmt::With(values, body) => return self.with(values, body),
            Stmt::Macro(m) => {
                self.keep_scope();
                let value = Value::Macro(m.clone(), self.scope);
                if let Some(name) = &m.name {
                    self.set(name, value);
                }
            }
            Stmt::CallBlock(call, m) => self.call_block(call, m)?,
            Stmt::Scope(body) => return self.scoped(self.scope, |vm| vm.body(body)),
            Stmt::Break => return Ok(Flow::Break),
            Stmt::Continue => return Ok(Flow::Continue),
            Stmt::Refused(tag) => {
                return fail(format!("`{tag}` has no place in a chat template"));
            }
        }
        Ok(Flow::Next)
    }

    fn print(&mut self, values: &[Expr]) -> Result<()> {
        for value in values {
            let value = self.eval(value)?;
            match &value {
                Value::Text(text) => {
                    self.work(text.len())?;
                    self.emit(text)?;
                }
                other => {
                    let text = self.str(other)?;
                    self.emit(&text)?;
                }
            }
        }
        Ok(())
    }

    fn filtered(&mut self, filters: &[Call], body: &Body) -> Result<Value> {
        let scope = self.scope;
        let mut value = self.capture(|vm| vm.scoped(scope, |vm| vm.body(body)).map(drop))?;
        for filter in filters {
            value = self.apply_filter(value, filter)?;
        }
        Ok(value)
    }

    fn with(&mut self, values: &[(Target, Expr)], body: &Body) -> Result<Flow> {
        let mut all = Vec::new();
        for (target, value) in values {
            all.push((target, self.eval(value)?));
        }
        self.scoped(self.scope, |vm| {
            for (target, value) in all {
                vm.assign(target, value)?;
            }
            vm.body(body)
        })
    }

    fn call_block(&mut self, call: &Expr, m: &Arc<Macro>) -> Result<()> {
        let Expr::Postfix(base, posts) = call else {
            return fail("`call` needs a call");
        };
        let Some((Post::Call(args), posts)) = posts.split_last() else {
            return fail("`call` needs a call");
        };
        self.keep_scope();
        let caller = Value::Macro(m.clone(), self.scope);
        let callee = self.postfix(base, posts)?;
        let mut given = self.args(args)?;
        given.named.push(("caller".into(), caller));
        let value = self.call(&callee, given)?;
        let text = self.str(&value)?;
        self.emit(&text)
    }

    /// Runs a loop; returns what its names are resolved in.
    pub(super) fn for_loop(
        &mut self,
        f: &Arc<For>,
        items: &Value,
        scope: usize,
        depth: usize,
    ) -> Result<()> {
        let id = self.new_loop(f, items, scope, depth)?;
        let mut none = true;
        while let Some(item) = self.next_in_loop(id)? {
            none = false;
            self.step()?;
            let flow = self.scoped(scope, |vm| {
                vm.assign(&f.target, item)?;
                vm.set(&"loop".into(), Value::Loop(id));
                vm.body(&f.body)
            })?;
            if flow == Flow::Break {
                break;
            }
        }
        if none && !f.otherwise.is_empty() {
            self.scoped(scope, |vm| vm.body(&f.otherwise))?;
        }
        self.end_loop(id);
        Ok(())
    }

    // Expressions.

    pub(super) fn eval(&mut self, e: &Expr) -> Result<Value> {
        self.step()?;
        match e {
            Expr::None => Ok(Value::None),
            Expr::Bool(b) => Ok(Value::Bool(*b)),
            Expr::Int(i) => Ok(Value::Int(*i)),
            Expr::Float(f) => Ok(Value::Float(*f)),
            Expr::Text(text) => self.text(&**text),
            Expr::Name(name) => self.lookup(name),
            other => self.deeper(|vm| vm.compound(other)),
        }
    }

    fn compound(&mut self, e: &Expr) -> Result<Value> {
        match e {
            Expr::Tuple(items) => Value::tuple(self.all(items)?),
            Expr::List(items) => Value::list(self.all(items)?),
            Expr::Dict(items) => self.dict(items),
            Expr::Chain(first, rest) => {
                let mut value = self.eval(first)?;
                for (operator, other) in rest {
                    let other = self.eval(other)?;
                    value = self.operate(*operator, &value, &other)?;
                }
                Ok(value)
            }
            Expr::Concat(parts) => self.concat(parts),
            Expr::And(parts) => self.short(parts, false),
            Expr::Or(parts) => self.short(parts, true),
            Expr::Not(value) => Ok(Value::Bool(!self.eval(value)?.truth())),
            Expr::Minus(value) => {
                let value = self.eval(value)?;
                self.negate(&value)
            }
            Expr::Plus(value) => {
                let value = self.eval(value)?;
                self.plus(&value)
            }
            Expr::Compare(first, rest) => self.comparison(first, rest),
            Expr::If(parts) => {
                let (condition, yes, no) = &**parts;
                match (self.eval(condition)?.truth(), no) {
                    (true, _) => self.eval(yes),
                    (false, Some(no)) => self.eval(no),
                    (false, None) => Ok(Value::undefined(
                        "the inline if-expression evaluated to false and no else section was defined.",
                    )),
                }
            }
            Expr::Postfix(base, posts) => self.postfix(base, posts),
            simple => self.eval(simple),
        }
    }

    fn all(&mut self, items: &[Expr]) -> Result<Vec<Value>> {
        self.memory(items.len().saturating_mul(size_of::<Value>()))?;
        items.iter().map(|e| self.eval(e)).collect()
    }

    fn dict(&mut self, items: &[(Expr, Expr)]) -> Result<Value> {
        let mut dict = Dict::default();
        self.memory(items.len().saturating_mul(4 * size_of::<Value>()))?;
        for (key, value) in items {
            let (key, value) = (self.eval(key)?, self.eval(value)?);
            dict.insert(key, value)?;
        }
        Ok(Value::Dict(Rc::new(dict)))
    }

    fn concat(&mut self, parts: &[Expr]) -> Result<Value> {
        let mut out = String::new();
        for part in parts {
            let value = self.eval(part)?;
            match &value {
                Value::Text(text) => {
                    self.memory(text.len())?;
                    self.work(text.len())?;
                    out.push_str(text);
                }
                other => out.push_str(&self.str(other)?),
            }
        }
        self.text(out)
    }

    /// `and` and `or`: the first value that decides, else the last.
    fn short(&mut self, parts: &[Expr], decides: bool) -> Result<Value> {
        let mut value = Value::None;
        for part in parts {
            value = self.eval(part)?;
            if value.truth() == decides {
                break;
            }
        }
        Ok(value)
    }

    fn comparison(&mut self, first: &Expr, rest: &[(Comparison, Expr)]) -> Result<Value> {
        let mut left = self.eval(first)?;
        for (comparison, right) in rest {
            let right = self.eval(right)?;
            if !self.compares(*comparison, &left, &right)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    /// A value and what is done with it.
    fn postfix(&mut self, base: &Expr, posts: &[Post]) -> Result<Value> {
        let mut value = self.eval(base)?;
        for post in posts {
            self.step()?;
            value = self.post(value, post)?;
        }
        Ok(value)
    }

    fn post(&mut self, value: Value, post: &Post) -> Result<Value> {
        match post {
            Post::Attribute(name) => self.attribute(&value, name),
            Post::Item(key) => {
                let key = self.eval(key)?;
                self.item(&value, &key)
            }
            Post::Slice(parts) => {
                let mut bounds = [None, None, None];
                for (bound, part) in bounds.iter_mut().zip(&**parts) {
                    if let Some(part) = part {
                        *bound = Some(self.eval(part)?);
                    }
                }
                self.slice(&value, bounds)
            }
            Post::Call(args) => {
                let given = self.args(args)?;
                self.call(&value, given)
            }
            Post::Filter(filter) => self.apply_filter(value, filter),
            Post::Test(test, negated) => {
                let given = self.args(&test.args)?;
                let holds = self.test(&test.name, &value, given)?;
                Ok(Value::Bool(holds != *negated))
            }
        }
    }

    fn apply_filter(&mut self, value: Value, filter: &Call) -> Result<Value> {
        let given = self.args(&filter.args)?;
        self.filter(&filter.name, &value, given)
    }

    fn args(&mut self, args: &Args) -> Result<Given> {
        let mut given = Given {
            positional: self.all(&args.positional)?,
            named: Vec::new(),
        };
        for (name, value) in &args.named {
            given.named.push((Rc::from(&**name), self.eval(value)?));
        }
        if let Some(more) = &args.more {
            let more = self.eval(more)?;
            given.positional.extend(more.elements(self)?);
        }
        if let Some(more) = &args.more_named {
            let Value::Dict(more) = self.eval(more)? else {
                return fail("argument after ** must be a mapping");
            };
            for (key, value) in &more.entries {
                let Value::Text(name) = key else {
                    return fail("keywords must be strings");
                };
                if given.named.iter().any(|(n, _)| **n == **name) {
                    return fail(format!("two values for the argument {}", super::cut(name)));
                }
                given.named.push((name.text.clone(), value.clone()));
            }
        }
        Ok(given)
    }
}
