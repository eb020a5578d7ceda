//! The pickle of a PyTorch checkpoint: a list of tensors and where their elements lie.
//!
//! The pickle is not unpickled. A stack machine knows the opcodes that a dictionary of tensors
//! needs and a closed list of names; anything else is refused by name. Nothing is executed,
//! values nest at most [`MAX_NESTING`] deep, and no function here recurses on the data.

use std::collections::HashMap;
use std::rc::Rc;

use geb_kernels::dtype::Dtype;

use super::folder::bad;
use super::tensor::Elem;
use geb::error::{Error, Result};
use geb::limits;

/// Depth of tuples in tuples; a tensor record needs 2.
const MAX_NESTING: u8 = 8;
/// Values on the stack; PyTorch writes dictionaries in batches of 1,000 entries.
const MAX_STACK: usize = 262_144;
/// Values in the memo and in all containers together; a tensor needs about 12.
const MAX_VALUES: usize = 16 * limits::MAX_CHECKPOINT_TENSORS;

/// Storage classes: name, type, bytes per element.
pub(super) const STORAGES: &[(&str, Elem, u64)] = &[
    ("FloatStorage", Elem::Float(Dtype::F32), 4),
    ("HalfStorage", Elem::Float(Dtype::F16), 2),
    ("BFloat16Storage", Elem::Float(Dtype::BF16), 2),
    ("DoubleStorage", Elem::Float(Dtype::F64), 8),
    ("LongStorage", Elem::Other("I64"), 8),
    ("IntStorage", Elem::Other("I32"), 4),
    ("ShortStorage", Elem::Other("I16"), 2),
    ("CharStorage", Elem::Other("I8"), 1),
    ("ByteStorage", Elem::Other("U8"), 1),
    ("BoolStorage", Elem::Other("BOOL"), 1),
];

/// The names a pickle may refer to.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(usize),
}

#[derive(Clone, Debug)]
pub(super) struct Storage {
    /// Position in [`STORAGES`].
    pub class: usize,
    /// Name of its entry in the archive.
    pub key: Rc<str>,
    /// Elements it claims to hold.
    pub elements: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub storage: Rc<Storage>,
    /// First element in the storage.
    pub offset: u64,
    pub shape: Vec<u64>,
}

/// A value of the machine. Containers are indices, so that dropping one never recurses.
#[derive(Clone, Debug)]
enum Val {
    Mark,
    None,
    Bool,
    Int(i64),
    Float,
    Str(Rc<str>),
    /// Items and their nesting depth.
    Tuple(Rc<[Val]>, u8),
    Dict(usize),
    List,
    Global(Global),
    Storage(Rc<Storage>),
    Tensor(Rc<Tensor>),
}

impl Val {
    fn name(&self) -> &'static str {
        match self {
            Val::Mark => "a mark",
            Val::None => "None",
            Val::Bool => "a bool",
            Val::Int(_) => "an integer",
            Val::Float => "a float",
            Val::Str(_) => "a string",
            Val::Tuple(..) => "a tuple",
            Val::Dict(_) => "a dictionary",
            Val::List => "a list",
            Val::Global(_) => "a class or function",
            Val::Storage(_) => "a storage",
            Val::Tensor(_) => "a tensor",
        }
    }

    fn depth(&self) -> u8 {
        if let Val::Tuple(_, depth) = self {
            *depth
        } else {
            0
        }
    }
}

/// One entry of the dictionary a checkpoint is: name, and where its elements lie in which storage.
#[derive(Debug)]
pub(super) struct Found {
    pub name: Rc<str>,
    pub tensor: Rc<Tensor>,
}

struct Machine<'a> {
    file: &'a str,
    data: &'a [u8],
    pos: usize,
    stack: Vec<Val>,
    memo: HashMap<u32, Val>,
    dicts: Vec<Vec<(Val, Val)>>,
    values: usize,
}

impl<'a> Machine<'a> {
    fn bad(&self, what: &str, value: impl ToString, allowed: &str) -> Error {
        bad(
            self.file,
            format!("pickle byte {}: {what}", self.pos),
            value,
            allowed,
        )
    }

    fn bytes(&mut self, n: usize) -> Result<&'a [u8]> {
        let rest = &self.data[self.pos..];
        if n > rest.len() {
            return Err(self.bad(
                "operand",
                format!("{n} bytes"),
                "operands inside the pickle",
            ));
        }
        self.pos += n;
        Ok(&rest[..n])
    }

    fn int<const N: usize>(&mut self) -> Result<u64> {
        let mut le = [0; 8];
        le[..N].copy_from_slice(self.bytes(N)?);
        Ok(u64::from_le_bytes(le))
    }

    fn string(&mut self, len: u64) -> Result<Rc<str>> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let text = std::str::from_utf8(self.bytes(len)?);
        text.map(Into::into)
            .map_err(|_| self.bad("string", "not UTF-8", "UTF-8"))
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.data[self.pos..];
        let Some(len) = rest.iter().take(256).position(|&b| b == b'\n') else {
            return Err(self.bad("name", "unterminated", "a line of at most 255 bytes"));
        };
        self.pos += len + 1;
        std::str::from_utf8(&rest[..len]).map_err(|_| self.bad("name", "not UTF-8", "UTF-8"))
    }

    fn push(&mut self, v: Val) -> Result<()> {
        if self.stack.len() >= MAX_STACK {
            return Err(self.bad("stack", "too deep", "at most 262144 values"));
        }
        self.stack.push(v);
        Ok(())
    }

    fn pop(&mut self) -> Result<Val> {
        match self.stack.pop() {
            Some(Val::Mark) | None => Err(self.bad("stack", "empty", "a value")),
            Some(v) => Ok(v),
        }
    }

    /// The values above the last mark; the mark is removed.
    fn pop_mark(&mut self) -> Result<Vec<Val>> {
        let at = self.stack.iter().rposition(|v| matches!(v, Val::Mark));
        let at = at.ok_or_else(|| self.bad("stack", "without a mark", "a mark"))?;
        let items = self.stack.split_off(at + 1);
        self.stack.pop();
        Ok(items)
    }

    fn count(&mut self, n: usize) -> Result<()> {
        self.values = self.values.saturating_add(n);
        if self.values > MAX_VALUES {
            return Err(self.bad("values", "too many", "at most 1048576 values"));
        }
        Ok(())
    }

    fn tuple(&mut self, items: Vec<Val>) -> Result<()> {
        let depth = 1 + items.iter().map(Val::depth).max().unwrap_or(0);
        if depth > MAX_NESTING {
            return Err(self.bad("tuple", format!("nested {depth} deep"), "at most 8"));
        }
        self.count(items.len())?;
        self.push(Val::Tuple(items.into(), depth))
    }

    fn tuple_of(&mut self, n: usize) -> Result<()> {
        let mut items = Vec::with_capacity(n);
        for _ in 0..n {
            items.push(self.pop()?);
        }
        items.reverse();
        self.tuple(items)
    }

    fn memoize(&mut self, slot: u64) -> Result<()> {
        let Some(top) = self
            .stack
            .last()
            .filter(|v| !matches!(v, Val::Mark))
            .cloned()
        else {
            return Err(self.bad("memo", "an empty stack", "a value"));
        };
        let slot = u32::try_from(slot).map_err(|_| self.bad("memo", slot, "a 32-bit slot"))?;
        self.count(1)?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, slot: u64) -> Result<()> {
        let v = u32::try_from(slot)
            .ok()
            .and_then(|s| self.memo.get(&s))
            .cloned();
        let v = v.ok_or_else(|| self.bad("memo", slot, "a slot that was filled"))?;
        self.push(v)
    }

    fn dict(&mut self) -> Result<()> {
        self.count(1)?;
        self.dicts.push(Vec::new());
        self.push(Val::Dict(self.dicts.len() - 1))
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        let global = match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch", class) => match STORAGES.iter().position(|s| s.0 == class) {
                Some(i) => Global::Storage(i),
                None => return Err(self.unknown_global(module, name)),
            },
            _ => return Err(self.unknown_global(module, name)),
        };
        self.push(Val::Global(global))
    }

    fn unknown_global(&self, module: &str, name: &str) -> Error {
        let cut = |s: &str| s.chars().take(60).collect::<String>();
        let allowed = "collections.OrderedDict, torch._utils._rebuild_tensor_v2, torch._utils._rebuild_parameter, torch.*Storage";
        self.bad("global", format!("{}.{}", cut(module), cut(name)), allowed)
    }

    fn set_items(&mut self, items: Vec<Val>) -> Result<()> {
        let Some(&Val::Dict(at)) = self.stack.last() else {
            let found = self.stack.last().map_or("nothing", Val::name);
            return Err(self.bad("target of SETITEMS", found, "a dictionary"));
        };
        if !items.len().is_multiple_of(2) {
            return Err(self.bad("SETITEMS", "an odd number of values", "pairs"));
        }
        self.count(items.len())?;
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            self.dicts[at].push((key, value));
        }
        Ok(())
    }

    /// `torch.save` writes storages as `('storage', class, key, location, elements)`.
    fn storage(&mut self) -> Result<()> {
        let id = self.pop()?;
        let Val::Tuple(items, _) = &id else {
            return Err(self.bad("persistent id", id.name(), "a tuple"));
        };
        match items.as_ref() {
            [
                Val::Str(tag),
                Val::Global(Global::Storage(class)),
                Val::Str(key),
                Val::Str(_),
                Val::Int(n),
            ] if tag.as_ref() == "storage" && *n >= 0 => {
                let storage = Storage {
                    class: *class,
                    key: key.clone(),
                    elements: *n as u64,
                };
                self.push(Val::Storage(storage.into()))
            }
            _ => Err(self.bad(
                "persistent id",
                "of another form",
                "('storage', class, key, location, elements)",
            )),
        }
    }

    fn reduce(&mut self) -> Result<()> {
        let args = self.pop()?;
        let callee = self.pop()?;
        let (Val::Global(global), Val::Tuple(args, _)) = (&callee, &args) else {
            return Err(self.bad(
                "REDUCE",
                format!("{} with {}", callee.name(), args.name()),
                "a known function and a tuple",
            ));
        };
        match (global, args.as_ref()) {
            (Global::OrderedDict, []) => self.dict(),
            (Global::RebuildParameter, [tensor @ Val::Tensor(_), ..]) => self.push(tensor.clone()),
            (
                Global::RebuildTensor,
                [
                    Val::Storage(s),
                    Val::Int(offset),
                    Val::Tuple(size, _),
                    Val::Tuple(stride, _),
                    ..,
                ],
            ) => {
                let shape = self.dims(size)?;
                let stride = self.dims(stride)?;
                if !contiguous(&shape, &stride) {
                    return Err(self.bad(
                        "stride",
                        format!("{stride:?} for size {shape:?}"),
                        "a contiguous tensor",
                    ));
                }
                let offset =
                    u64::try_from(*offset).map_err(|_| self.bad("offset", *offset, "0 or more"))?;
                self.push(Val::Tensor(
                    Tensor {
                        storage: s.clone(),
                        offset,
                        shape,
                    }
                    .into(),
                ))
            }
            (global, _) => Err(self.bad(
                "REDUCE",
                format!("{global:?} with other arguments"),
                "the arguments torch.save writes",
            )),
        }
    }

    fn dims(&self, items: &[Val]) -> Result<Vec<u64>> {
        let int = |v: &Val| match v {
            Val::Int(n) => u64::try_from(*n).ok(),
            _ => None,
        };
        let dims: Option<Vec<u64>> = items.iter().map(int).collect();
        dims.ok_or_else(|| {
            self.bad(
                "size or stride",
                "not a tuple of sizes",
                "integers of 0 or more",
            )
        })
    }

    /// BUILD sets attributes (`_metadata` of a state dict): dropped.
    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        match (self.stack.last(), &state) {
            (Some(Val::Dict(_)), Val::Dict(_) | Val::None) => Ok(()),
            (Some(v), _) => Err(self.bad("target of BUILD", v.name(), "a dictionary")),
            (None, _) => Err(self.bad("stack", "empty", "a value")),
        }
    }

    /// Runs to STOP and returns the value on top.
    fn run(&mut self) -> Result<Val> {
        loop {
            let op = self.bytes(1)?[0];
            match op {
                b'.' => return self.pop(),
                0x80 => {
                    let version = self.int::<1>()?;
                    if !(2..=5).contains(&version) {
                        return Err(self.bad("protocol", version, "2..=5"));
                    }
                }
                0x95 => drop(self.int::<8>()?),
                b'(' => self.push(Val::Mark)?,
                b'N' => self.push(Val::None)?,
                0x88 | 0x89 => self.push(Val::Bool)?,
                b'K' | b'M' | b'J' | 0x8a | b'G' => self.number(op)?,
                b'X' | 0x8c => {
                    let len = if op == b'X' {
                        self.int::<4>()?
                    } else {
                        self.int::<1>()?
                    };
                    let text = self.string(len)?;
                    self.push(Val::Str(text))?;
                }
                b'q' | b'r' | 0x94 => {
                    let slot = match op {
                        b'q' => self.int::<1>()?,
                        b'r' => self.int::<4>()?,
                        _ => self.memo.len() as u64,
                    };
                    self.memoize(slot)?;
                }
                b'h' | b'j' => {
                    let slot = if op == b'h' {
                        self.int::<1>()?
                    } else {
                        self.int::<4>()?
                    };
                    self.recall(slot)?;
                }
                b')' => self.tuple(Vec::new())?,
                b't' => {
                    let items = self.pop_mark()?;
                    self.tuple(items)?;
                }
                0x85..=0x87 => self.tuple_of(usize::from(op - 0x84))?,
                _ => self.container(op)?,
            }
        }
    }

    fn number(&mut self, op: u8) -> Result<()> {
        let v = match op {
            b'K' => self.int::<1>()? as i64,
            b'M' => self.int::<2>()? as i64,
            b'J' => i64::from(self.int::<4>()? as u32 as i32),
            b'G' => {
                self.bytes(8)?;
                return self.push(Val::Float);
            }
            _ => {
                let len = self.int::<1>()? as usize;
                if len > 8 {
                    return Err(self.bad("LONG1", format!("{len} bytes"), "at most 8 bytes"));
                }
                let bytes = self.bytes(len)?;
                let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
                let mut le = [if negative { 0xff } else { 0 }; 8];
                le[..len].copy_from_slice(bytes);
                i64::from_le_bytes(le)
            }
        };
        self.push(Val::Int(v))
    }

    fn container(&mut self, op: u8) -> Result<()> {
        match op {
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.global(module, name)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&module, &name) {
                    (Val::Str(m), Val::Str(n)) => self.global(m, n),
                    _ => Err(self.bad("STACK_GLOBAL", module.name(), "two strings")),
                }
            }
            b'R' => self.reduce(),
            b'Q' => self.storage(),
            b'}' => self.dict(),
            b']' => self.push(Val::List),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(vec![key, value])
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(items)
            }
            // Lists occur only inside `_metadata`, which is dropped.
            b'a' => self.pop().map(drop),
            b'e' => self.pop_mark().map(drop),
            b'b' => self.build(),
            _ => Err(self.bad(
                "opcode",
                format!("0x{op:02x}"),
                "the opcodes of a dictionary of tensors",
            )),
        }
    }
}

/// Row-major without gaps; the stride of a dimension of length 1 has no meaning.
fn contiguous(shape: &[u64], stride: &[u64]) -> bool {
    if shape.len() != stride.len() {
        return false;
    }
    if shape.contains(&0) {
        return true;
    }
    let mut expected = Some(1u64);
    for (&d, &s) in shape.iter().zip(stride).rev() {
        if d != 1 && Some(s) != expected {
            return false;
        }
        expected = expected.and_then(|e| e.checked_mul(d));
    }
    true
}

/// The tensors of a pickle that holds one dictionary of them.
pub(super) fn tensors_of(file: &str, pickle: &[u8]) -> Result<Vec<Found>> {
    let mut m = Machine {
        file,
        data: pickle,
        pos: 0,
        stack: Vec::new(),
        memo: HashMap::new(),
        dicts: Vec::new(),
        values: 0,
    };
    let top = m.run()?;
    let Val::Dict(at) = top else {
        return Err(bad(file, "content", top.name(), "a dictionary of tensors"));
    };
    let entries = std::mem::take(&mut m.dicts[at]);
    entries
        .into_iter()
        .map(|(key, value)| match (key, value) {
            (Val::Str(name), Val::Tensor(tensor)) => Ok(Found { name, tensor }),
            (Val::Str(name), other) => {
                let cut: String = name.chars().take(80).collect();
                Err(bad(file, cut, other.name(), "a tensor"))
            }
            (key, _) => Err(bad(file, "key", key.name(), "a string")),
        })
        .collect()
}
