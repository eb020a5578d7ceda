//! jinja2's filters over sequences.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::rc::Rc;

use super::args::{Given, flag, int, some, text};
use super::ast::Operator;
use super::value::{Dict, Items, Text, Value};
use super::vm::Vm;
use super::{Fail, cut, fail};

type Result<T> = std::result::Result<T, Fail>;

/// Sorts with comparisons that can fail; the order of equal ones is kept.
fn sort<T>(
    items: Vec<T>,
    vm: &mut Vm,
    less: &mut impl FnMut(&T, &T, &mut Vm) -> Result<bool>,
) -> Result<Vec<T>> {
    if items.len() < 2 {
        return Ok(items);
    }
    let mut left = items;
    let right = left.split_off(left.len() / 2);
    let (left, right) = (sort(left, vm, less)?, sort(right, vm, less)?);
    let mut out = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let next = if less(b, a, vm)? {
            right.next()
        } else {
            left.next()
        };
        out.extend(next);
    }
    out.extend(left);
    out.extend(right);
    Ok(out)
}

impl Vm<'_> {
    pub(super) fn over_items(&mut self, name: &str, value: &Value, given: Given) -> Result<Value> {
        match name {
            "first" | "last" => {
                given.none(name)?;
                self.end(name, value)
            }
            "list" => {
                given.none(name)?;
                let items = value.elements(self)?;
                self.list(items)
            }
            "items" => {
                given.none(name)?;
                match value {
                    Value::Undefined(_) => Ok(Value::iter(Vec::new())),
                    Value::Dict(dict) => {
                        let view = Value::View(super::value::View::Items, dict.clone());
                        Ok(Value::iter(view.elements(self)?))
                    }
                    _ => fail("Can only get item pairs from a mapping."),
                }
            }
            "reverse" => {
                given.none(name)?;
                self.reverse(value)
            }
            "join" => self.join(value, given),
            "sum" => self.sum(value, given),
            "batch" | "slice" => self.cut_up(name, value, given),
            "sort" => self.sort_filter(value, given),
            "dictsort" => self.dict_sort(value, given),
            "groupby" => self.group(value, given),
            "unique" => self.unique(value, given),
            "min" | "max" => self.extreme(name, value, given),
            "map" => self.map(value, given),
            _ => self.select(name, value, given),
        }
    }

    fn end(&mut self, name: &str, value: &Value) -> Result<Value> {
        if let (Value::Iter(items), "first") = (value, name) {
            let first = items.borrow_mut().pop_front();
            return Ok(
                first.unwrap_or_else(|| Value::undefined("No first item, sequence was empty."))
            );
        }
        if let (Value::Iter(_), "last") = (value, name) {
            return fail("'generator' object is not reversible");
        }
        let items = value.elements(self)?;
        let found = if name == "first" {
            items.first()
        } else {
            items.last()
        };
        let none = || Value::undefined(format!("No {name} item, sequence was empty."));
        Ok(found.cloned().unwrap_or_else(none))
    }

    fn reverse(&mut self, value: &Value) -> Result<Value> {
        if let Value::Text(own) = value {
            self.memory(own.len())?;
            let text = own.chars().rev().collect::<String>().into();
            return Ok(Text {
                text,
                safe: own.safe,
            }
            .into());
        }
        let mut items = value.elements(self)?;
        items.reverse();
        // What cannot be walked through backwards becomes a list.
        match value {
            Value::Iter(_) | Value::Undefined(_) => self.list(items),
            _ => Ok(Value::iter(items)),
        }
    }

    /// The value at a dotted path, as in `attribute='a.b.0'`.
    fn path(&mut self, item: &Value, path: &Value, default: Option<&Value>) -> Result<Value> {
        self.work(1024)?;
        let mut value = item.clone();
        let parts: Vec<Value> = match path {
            Value::None => Vec::new(),
            Value::Text(path) => path
                .split('.')
                .map(|part| part.parse().map_or_else(|_| Value::text(part), Value::Int))
                .collect(),
            other => vec![other.clone()],
        };
        for part in parts {
            value = self.item(&value, &part)?;
            if let Some(default) = default.filter(|_| value.is_undefined()) {
                value = default.clone();
            }
        }
        Ok(value)
    }

    /// What an item is compared by.
    fn sort_key(&mut self, item: &Value, path: &Value, cased: bool) -> Result<Value> {
        let value = self.path(item, path, None)?;
        self.folded(value, cased)
    }

    fn folded(&mut self, value: Value, cased: bool) -> Result<Value> {
        match &value {
            Value::Text(own) if !cased => {
                self.memory(own.len())?;
                Ok(Value::text(own.to_lowercase()))
            }
            _ => Ok(value),
        }
    }

    fn sorted(&mut self, keyed: Vec<(Value, Value)>, reverse: bool) -> Result<Vec<(Value, Value)>> {
        sort(keyed, self, &mut |a, b, vm| {
            let order = a.0.compare(&b.0, vm)?;
            Ok(order
                == Some(if reverse {
                    Ordering::Greater
                } else {
                    Ordering::Less
                }))
        })
    }

    fn sort_filter(&mut self, value: &Value, given: Given) -> Result<Value> {
        let names = ["reverse", "case_sensitive", "attribute"];
        let [reverse, cased, attribute] = given.bind("sort", names, 0)?;
        let attribute = attribute.unwrap_or(Value::None);
        let paths: Vec<Value> = match &attribute {
            Value::Text(all) => all.split(',').map(Value::text).collect(),
            other => vec![other.clone()],
        };
        let mut keyed = Vec::new();
        for item in value.elements(self)? {
            let mut keys = Vec::new();
            for path in &paths {
                keys.push(self.sort_key(&item, path, flag(&cased))?);
            }
            keyed.push((Value::list(keys)?, item));
        }
        let sorted = self.sorted(keyed, flag(&reverse))?;
        self.list(sorted.into_iter().map(|(_, item)| item).collect())
    }

    fn dict_sort(&mut self, value: &Value, given: Given) -> Result<Value> {
        let names = ["case_sensitive", "by", "reverse"];
        let [cased, by, reverse] = given.bind("dictsort", names, 0)?;
        let by = self.or_text(by, "key")?;
        let by_value = match text("dictsort", &by)? {
            "key" => false,
            "value" => true,
            _ => return fail("You can only sort by either \"key\" or \"value\""),
        };
        let Value::Dict(dict) = value else {
            value.defined()?;
            return fail(format!("dictsort does not work on {}", value.type_name()));
        };
        let mut keyed = Vec::new();
        for (key, value) in &dict.entries {
            let by = if by_value { value } else { key };
            let by = self.folded(by.clone(), flag(&cased))?;
            keyed.push((by, Value::tuple(vec![key.clone(), value.clone()])?));
        }
        let sorted = self.sorted(keyed, flag(&reverse))?;
        self.list(sorted.into_iter().map(|(_, pair)| pair).collect())
    }

    /// Sorts the entries of a dict by their keys.
    pub(super) fn sort_by_keys(&mut self, entries: &mut Vec<&(Value, Value)>) -> Result<()> {
        let sorted = sort(std::mem::take(entries), self, &mut |a, b, vm| {
            Ok(a.0.compare(&b.0, vm)? == Some(Ordering::Less))
        })?;
        *entries = sorted;
        Ok(())
    }

    /// A copy in which the keys of all dicts are sorted.
    pub(super) fn sorted_deep(&mut self, value: &Value) -> Result<Value> {
        self.work(256)?;
        Ok(match value {
            Value::Dict(dict) => {
                let mut entries: Vec<_> = dict.entries.iter().collect();
                self.sort_by_keys(&mut entries)?;
                let mut out = Dict::default();
                for (key, value) in entries {
                    out.insert(key.clone(), self.sorted_deep(value)?)?;
                }
                Value::Dict(Rc::new(out))
            }
            Value::List(items) => {
                let items = items.items.iter().map(|i| self.sorted_deep(i));
                Value::list(items.collect::<Result<_>>()?)?
            }
            other => other.clone(),
        })
    }

    fn group(&mut self, value: &Value, given: Given) -> Result<Value> {
        let names = ["attribute", "default", "case_sensitive"];
        let [attribute, default, cased] = given.bind("groupby", names, 1)?;
        let (path, cased) = (attribute.unwrap_or(Value::None), flag(&cased));
        let default = some(&default);
        let mut keyed = Vec::new();
        for item in value.elements(self)? {
            let key = self.path(&item, &path, default)?;
            keyed.push((self.folded(key, cased)?, item));
        }
        let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
        for (key, item) in self.sorted(keyed, false)? {
            match groups.last_mut() {
                Some((last, items)) if last.equals(&key, self)? => items.push(item),
                _ => groups.push((key, vec![item])),
            }
        }
        let mut out = Vec::new();
        for (key, items) in groups {
            let key = if cased {
                key
            } else {
                self.path(&items[0], &path, default)?
            };
            out.push(Value::Group(Items::new(vec![key, Value::list(items)?])?));
        }
        self.list(out)
    }

    fn unique(&mut self, value: &Value, given: Given) -> Result<Value> {
        let [cased, attribute] = given.bind("unique", ["case_sensitive", "attribute"], 0)?;
        let path = attribute.unwrap_or(Value::None);
        let mut seen = HashSet::new();
        let mut out = Vec::new();
        for item in value.elements(self)? {
            if seen.insert(self.sort_key(&item, &path, flag(&cased))?.key()?) {
                out.push(item);
            }
        }
        Ok(Value::iter(out))
    }

    fn extreme(&mut self, name: &str, value: &Value, given: Given) -> Result<Value> {
        let [cased, attribute] = given.bind(name, ["case_sensitive", "attribute"], 0)?;
        let path = attribute.unwrap_or(Value::None);
        let wanted = if name == "min" {
            Ordering::Less
        } else {
            Ordering::Greater
        };
        let mut best: Option<(Value, Value)> = None;
        for item in value.elements(self)? {
            let key = self.sort_key(&item, &path, flag(&cased))?;
            let better = match &best {
                Some((old, _)) => key.compare(old, self)? == Some(wanted),
                None => true,
            };
            if better {
                best = Some((key, item));
            }
        }
        let none = || Value::undefined("No aggregated item, sequence was empty.");
        Ok(best.map_or_else(none, |(_, item)| item))
    }

    fn join(&mut self, value: &Value, given: Given) -> Result<Value> {
        let [separator, attribute] = given.bind("join", ["d", "attribute"], 0)?;
        let separator = match separator {
            Some(separator) => self.str(&separator)?,
            None => String::new(),
        };
        let mut out = String::new();
        for (i, item) in value.elements(self)?.into_iter().enumerate() {
            self.memory(separator.len() + 1)?;
            out.push_str(if i > 0 { &separator } else { "" });
            let item = match some(&attribute) {
                Some(path) => self.path(&item, path, None)?,
                None => item,
            };
            out.push_str(&self.str(&item)?);
        }
        self.text(out)
    }

    fn sum(&mut self, value: &Value, given: Given) -> Result<Value> {
        let [attribute, start] = given.bind("sum", ["attribute", "start"], 0)?;
        let mut total = start.unwrap_or(Value::Int(0));
        if total.as_text().is_some() {
            return fail("sum() can't sum strings [use ''.join(seq) instead]");
        }
        for item in value.elements(self)? {
            let item = match some(&attribute) {
                Some(path) => self.path(&item, path, None)?,
                None => item,
            };
            total = self.operate(Operator::Add, &total, &item)?;
        }
        Ok(total)
    }

    fn cut_up(&mut self, name: &str, value: &Value, given: Given) -> Result<Value> {
        let count_name = if name == "batch" {
            "linecount"
        } else {
            "slices"
        };
        let [count, fill] = given.bind(name, [count_name, "fill_with"], 1)?;
        let count = int(name, &count.unwrap_or(Value::None))?;
        let fill = some(&fill);
        let items = value.elements(self)?;
        let n = usize::try_from(count).unwrap_or(0);
        self.memory(n.min(1 << 30).saturating_mul(size_of::<Value>()))?;
        let mut out: Vec<Vec<Value>> = Vec::new();
        if name == "batch" && n == 0 {
            // jinja2 closes a part only when it has exactly as many elements.
            out.extend((count == 0 && !items.is_empty()).then(Vec::new));
            out.extend(Some(items).filter(|i| !i.is_empty()));
        } else if n == 0 && count == 0 {
            return fail("integer division or modulo by zero");
        } else if name == "batch" {
            out.extend(items.chunks(n).map(<[Value]>::to_vec));
            if let (Some(last), Some(fill)) = (out.last_mut(), fill) {
                last.resize(n, fill.clone());
            }
        } else {
            let (each, extra) = (items.len() / n, items.len() % n);
            let mut items = items.into_iter();
            for i in 0..n {
                let mut part: Vec<Value> =
                    items.by_ref().take(each + usize::from(i < extra)).collect();
                part.extend(fill.filter(|_| i >= extra).cloned());
                out.push(part);
            }
        }
        let lists = out
            .into_iter()
            .map(Value::list)
            .collect::<Result<Vec<_>>>()?;
        Ok(Value::iter(lists))
    }

    fn map(&mut self, value: &Value, mut given: Given) -> Result<Value> {
        if !value.truth() {
            return Ok(Value::iter(Vec::new()));
        }
        let mut out = Vec::new();
        if given.positional.is_empty() {
            let [attribute, default] = given.bind("map", ["attribute", "default"], 0)?;
            let Some(path) = attribute else {
                return fail("map requires a filter argument");
            };
            for item in value.elements(self)? {
                out.push(self.path(&item, &path, some(&default))?);
            }
            return Ok(Value::iter(out));
        }
        let filter = given.positional.remove(0);
        let filter = text("map", &filter)?;
        for item in value.elements(self)? {
            let args = Given {
                positional: given.positional.clone(),
                named: given.named.clone(),
            };
            self.work(1024)?;
            out.push(self.deeper(|vm| vm.filter(filter, &item, args))?);
        }
        Ok(Value::iter(out))
    }

    fn select(&mut self, name: &str, value: &Value, mut given: Given) -> Result<Value> {
        if !value.truth() {
            return Ok(Value::iter(Vec::new()));
        }
        let path = match name {
            "selectattr" | "rejectattr" if given.positional.is_empty() => {
                return fail("Missing parameter for attribute name");
            }
            "selectattr" | "rejectattr" => given.positional.remove(0),
            _ => Value::None,
        };
        let wanted = name.starts_with("select");
        let test = if given.positional.is_empty() {
            None
        } else {
            Some(given.positional.remove(0))
        };
        let mut out = Vec::new();
        for item in value.elements(self)? {
            let subject = self.path(&item, &path, None)?;
            let holds = match &test {
                None => subject.truth(),
                Some(test) => {
                    let Value::Text(test) = test else {
                        return fail(format!("No test named {}", cut(&self.repr(test)?)));
                    };
                    let args = Given {
                        positional: given.positional.clone(),
                        named: given.named.clone(),
                    };
                    self.test(test, &subject, args)?
                }
            };
            if holds == wanted {
                out.push(item);
            }
        }
        Ok(Value::iter(out))
    }
}
