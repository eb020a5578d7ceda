//! Loops, namespaces, macros and functions.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::args::{self, Given, int, text};
use super::ast::{For, Macro};
use super::state::LoopState;
use super::value::{Dict, Text, Value, range_len};
use super::vm::Vm;
use super::{Fail, cut, fail};
use crate::limits;

type Result<T> = std::result::Result<T, Fail>;

impl Vm<'_> {
    pub(super) fn new_loop(
        &mut self,
        f: &Arc<For>,
        items: &Value,
        scope: usize,
        depth: usize,
    ) -> Result<usize> {
        self.memory(size_of::<LoopState>())?;
        let sized = items.len().filter(|_| f.condition.is_none());
        let source = items.elements(self)?.into_iter();
        self.loops.push(LoopState {
            f: f.clone(),
            scope,
            source,
            filtered: f.condition.is_some(),
            length: sized,
            index: 0,
            before: None,
            current: None,
            after: None,
            changed: None,
            depth,
        });
        Ok(self.loops.len() - 1)
    }

    /// Gives back what a loop that has ended held.
    pub(super) fn end_loop(&mut self, id: usize) {
        let state = &mut self.loops[id];
        state.source = Vec::new().into_iter();
        if state.after.is_none() {
            state.after = Some(None);
        }
    }

    /// The next element that passes the condition.
    fn pull(&mut self, id: usize) -> Result<Option<Value>> {
        loop {
            let state = &mut self.loops[id];
            let Some(item) = state.source.next() else {
                return Ok(None);
            };
            let (f, scope) = (state.f.clone(), state.scope);
            let Some(condition) = f.condition.as_ref().filter(|_| state.filtered) else {
                return Ok(Some(item));
            };
            let passes = self.scoped(scope, |vm| {
                vm.assign(&f.target, item.clone())?;
                Ok(vm.eval(condition)?.truth())
            })?;
            if passes {
                return Ok(Some(item));
            }
        }
    }

    pub(super) fn next_in_loop(&mut self, id: usize) -> Result<Option<Value>> {
        let next = match self.loops[id].after.take() {
            Some(next) => next,
            None => self.pull(id)?,
        };
        let state = &mut self.loops[id];
        if next.is_some() {
            state.index += 1;
            state.before = std::mem::replace(&mut state.current, next.clone());
        }
        Ok(next)
    }

    fn peek(&mut self, id: usize) -> Result<Option<Value>> {
        if self.loops[id].after.is_none() {
            let next = self.pull(id)?;
            self.loops[id].after = Some(next);
        }
        Ok(self.loops[id].after.clone().flatten())
    }

    fn loop_length(&mut self, id: usize) -> Result<usize> {
        if let Some(length) = self.loops[id].length {
            return Ok(length);
        }
        let mut rest = Vec::new();
        while let Some(item) = self.pull(id)? {
            rest.push(item);
        }
        let state = &mut self.loops[id];
        let peeked = usize::from(matches!(state.after, Some(Some(_))));
        let length = rest.len() + state.index + peeked;
        (state.filtered, state.length) = (false, Some(length));
        state.source = rest.into_iter();
        Ok(length)
    }

    /// The turn a loop is in, and how many there are.
    pub(super) fn loop_place(&mut self, id: usize) -> Result<(usize, usize)> {
        Ok((self.loops[id].index, self.loop_length(id)?))
    }

    /// What a loop over a `loop` itself would see: jinja2 gives pairs and moves on; refused.
    pub(super) fn rest_of_loop(&mut self, _: usize) -> Result<Vec<Value>> {
        fail("loops over `loop` are not available")
    }

    /// An attribute of `loop`.
    pub(super) fn loop_attribute(&mut self, id: usize, name: &str) -> Result<Option<Value>> {
        let index = self.loops[id].index;
        let number = |n: usize| Some(Value::Int(n as i128));
        Ok(match name {
            "index" => number(index),
            "index0" => Some(Value::Int(index as i128 - 1)),
            "first" => Some(Value::Bool(index == 1)),
            "last" => Some(Value::Bool(self.peek(id)?.is_none())),
            "length" => number(self.loop_length(id)?),
            "revindex" => Some(Value::Int(
                (self.loop_length(id)? + 1) as i128 - index as i128,
            )),
            "revindex0" => Some(Value::Int(self.loop_length(id)? as i128 - index as i128)),
            "depth" => number(self.loops[id].depth + 1),
            "depth0" => number(self.loops[id].depth),
            "previtem" if index == 1 => Some(Value::undefined("there is no previous item")),
            "previtem" => self.loops[id].before.clone(),
            "nextitem" => {
                let next = self.peek(id)?;
                Some(next.unwrap_or_else(|| Value::undefined("there is no next item")))
            }
            "cycle" | "changed" => Some(Value::Method(Rc::new((Value::Loop(id), name.into())))),
            _ => None,
        })
    }

    pub(super) fn loop_method(&mut self, id: usize, name: &str, given: Given) -> Result<Value> {
        let values = given.positional;
        if name == "changed" {
            let old = self.loops[id].changed.take();
            let mut same = old.as_ref().is_some_and(|old| old.len() == values.len());
            for (a, b) in old.iter().flatten().zip(&values) {
                same = same && a.equals(b, self)?;
            }
            self.loops[id].changed = Some(values);
            return Ok(Value::Bool(!same));
        }
        let at = self.loops[id].index.saturating_sub(1);
        match values.len() {
            0 => fail("no items for cycling given"),
            n => Ok(values[at % n].clone()),
        }
    }

    // Namespaces.

    pub(super) fn namespace_dict(&self, id: usize) -> Result<Rc<Dict>> {
        Ok(self.namespaces[id].clone())
    }

    pub(super) fn set_in_namespace(&mut self, id: usize, name: &str, value: Value) -> Result<()> {
        if name.starts_with('_') {
            return fail(format!("a namespace cannot hold '{}'", cut(name)));
        }
        let dict = &mut self.namespaces[id];
        match Rc::get_mut(dict) {
            Some(dict) => dict.insert(Value::text(name), value),
            None => fail("a namespace is in use"),
        }
    }

    fn namespace(&mut self, given: Given) -> Result<Value> {
        let limit = limits::MAX_TEMPLATE_NAMESPACES;
        if self.namespaces.len() >= limit {
            return fail(format!("more than {limit} namespaces"));
        }
        let dict = self.dict_of(given)?;
        for (key, _) in &dict.entries {
            if key.as_text().is_some_and(|k| k.starts_with('_')) {
                return fail("names in a namespace cannot begin with an underscore");
            }
        }
        self.namespaces.push(Rc::new(dict));
        Ok(Value::Namespace(self.namespaces.len() - 1))
    }

    /// `dict(...)`
    fn dict_of(&mut self, given: Given) -> Result<Dict> {
        let mut dict = Dict::default();
        if given.positional.len() > 1 {
            return fail("dict takes at most one value");
        }
        for value in given.positional {
            match &value {
                Value::Dict(other) => {
                    self.memory(other.entries.len() * 4 * size_of::<Value>())?;
                    for (key, value) in &other.entries {
                        dict.insert(key.clone(), value.clone())?;
                    }
                }
                pairs => {
                    for pair in pairs.elements(self)? {
                        let mut pair = pair.elements(self)?;
                        let (Some(value), Some(key), None) = (pair.pop(), pair.pop(), pair.pop())
                        else {
                            return fail("dict needs pairs");
                        };
                        dict.insert(key, value)?;
                    }
                }
            }
        }
        for (name, value) in given.named {
            dict.insert(Value::text(name), value)?;
        }
        Ok(dict)
    }

    // Calls.

    pub(super) fn call(&mut self, callee: &Value, given: Given) -> Result<Value> {
        match callee {
            Value::Macro(m, scope) => {
                let (m, scope) = (m.clone(), *scope);
                self.deeper(|vm| vm.call_macro(&m, scope, given))
            }
            Value::Function(name) => self.function(name, given),
            Value::Method(method) => {
                let method = method.clone();
                self.method(&method.0, &method.1, given)
            }
            Value::Loop(id) => self.recurse(*id, given),
            Value::Joiner(joiner) => {
                given.none("joiner")?;
                let used = joiner.1.replace(true);
                Ok(if used {
                    Value::Text(joiner.0.clone())
                } else {
                    Value::text("")
                })
            }
            other => {
                other.defined()?;
                fail(format!("'{}' object is not callable", other.type_name()))
            }
        }
    }

    /// `loop(items)` of a recursive loop.
    fn recurse(&mut self, id: usize, given: Given) -> Result<Value> {
        let (f, scope, depth) = {
            let state = &self.loops[id];
            (state.f.clone(), state.scope, state.depth)
        };
        if !f.recursive {
            return fail("the loop must have the 'recursive' marker to be called recursively");
        }
        let [items] = given.bind("loop", ["iterable"], 1)?;
        let items = items.unwrap_or(Value::None);
        self.deeper(|vm| vm.capture(|vm| vm.for_loop(&f, &items, scope, depth + 1)))
    }

    fn call_macro(&mut self, m: &Arc<Macro>, scope: usize, mut given: Given) -> Result<Value> {
        let n = m.parameters.len();
        let name = m.name.as_deref().unwrap_or("caller");
        let mut values: Vec<Option<Value>> = Vec::new();
        let rest = given.positional.split_off(given.positional.len().min(n));
        values.extend(given.positional.into_iter().map(Some));
        let mut take = |name: &str| {
            let at = given.named.iter().position(|(n, _)| **n == *name)?;
            Some(given.named.remove(at).1)
        };
        for parameter in &m.parameters[values.len()..] {
            values.push(take(parameter));
        }
        let caller = m.caller.then(|| take("caller"));
        if let Some((extra, _)) = given.named.first().filter(|_| !m.kwargs) {
            return fail(format!(
                "macro '{name}' takes no keyword argument '{}'",
                cut(extra)
            ));
        }
        if !rest.is_empty() && !m.varargs {
            return fail(format!(
                "macro '{name}' takes not more than {n} argument(s)"
            ));
        }
        let named = given.named;
        self.scoped(scope, |vm| {
            if let Some(caller) = caller {
                let none = || Value::undefined("No caller defined");
                let caller = caller
                    .filter(|c| !matches!(c, Value::None))
                    .unwrap_or_else(none);
                vm.set(&"caller".into(), caller);
            }
            if m.kwargs {
                let pairs = named.into_iter().map(|(k, v)| (Value::text(k), v));
                vm.set(&"kwargs".into(), Value::Dict(Rc::new(Dict::new(pairs)?)));
            }
            if m.varargs {
                vm.set(&"varargs".into(), Value::tuple(rest)?);
            }
            let first_default = n - m.defaults.len();
            for (i, (parameter, value)) in m.parameters.iter().zip(values).enumerate() {
                let value = match (value, i.checked_sub(first_default)) {
                    (Some(value), _) => value,
                    (None, Some(default)) => vm.eval(&m.defaults[default])?,
                    (None, None) => {
                        Value::undefined(format!("parameter '{parameter}' was not provided"))
                    }
                };
                vm.set(parameter, value);
            }
            vm.capture(|vm| vm.body(&m.body).map(drop))
        })
    }

    fn function(&mut self, name: &str, given: Given) -> Result<Value> {
        match name {
            "range" => self.range(given),
            "dict" => Ok(Value::Dict(Rc::new(self.dict_of(given)?))),
            "namespace" => self.namespace(given),
            "cycler" => {
                let Given { positional, named } = given;
                if positional.is_empty() || !named.is_empty() {
                    return fail("cycler needs at least one item, and no names");
                }
                let Value::Tuple(items) = Value::tuple(positional)? else {
                    return fail("cycler needs items");
                };
                Ok(Value::Cycler(Rc::new((items, Cell::new(0)))))
            }
            "joiner" => {
                let [separator] = given.bind("joiner", ["sep"], 0)?;
                let separator = self.or_text(separator, ", ")?;
                match separator {
                    Value::Text(text) => Ok(Value::Joiner(Rc::new((text, Cell::new(false))))),
                    other => fail(format!("joiner needs a text, not {}", other.type_name())),
                }
            }
            "raise_exception" => {
                let [message] = given.bind("raise_exception", ["message"], 1)?;
                let message = self.str(&message.unwrap_or(Value::None))?;
                fail(cut(&message))
            }
            "strftime_now" => {
                let [format] = given.bind("strftime_now", ["format"], 1)?;
                let format = format.unwrap_or(Value::None);
                let format = text("strftime_now", &format)?;
                if format.len() > 4096 {
                    return fail("strftime_now needs a format of at most 4096 bytes");
                }
                let text = super::super::clock::now().strftime(format);
                self.text(text)
            }
            other => fail(format!("`{other}` is not available in chat templates")),
        }
    }

    fn range(&mut self, given: Given) -> Result<Value> {
        let [a, b, c] = given.bind("range", ["<start>", "<stop>", "<step>"], 1)?;
        let a = i128::from(int("range", &a.unwrap_or(Value::None))?);
        let (first, end) = match &b {
            Some(end) => (a, int("range", end)?.into()),
            None => (0, a),
        };
        let step = i128::from(args::int_or("range", &c, 1)?);
        if step == 0 {
            return fail("range needs a step other than 0");
        }
        let range = [first, end, step];
        let (count, limit) = (range_len(&range), limits::MAX_TEMPLATE_RANGE);
        if count > limit {
            return fail(format!("a range of {count} numbers, allowed: {limit}"));
        }
        Ok(Value::Range(Rc::new(range)))
    }

    /// A method of a cycler.
    pub(super) fn cycle(
        &mut self,
        cycler: &(Rc<super::value::Items>, Cell<usize>),
        name: &str,
    ) -> Value {
        let (items, at) = cycler;
        if name == "reset" {
            at.set(0);
            return Value::None;
        }
        let value = items.items[at.get()].clone();
        at.set((at.get() + 1) % items.items.len());
        value
    }
}

impl From<Text> for Value {
    fn from(text: Text) -> Value {
        Value::Text(text)
    }
}
