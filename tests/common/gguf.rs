//! GGUF files made by code, with any field wrong on purpose.
//!
//! ```ignore
//! let bytes = File::new().str("general.architecture", "llama").u32("x", 3)
//!     .tensor("t", Dtype::F32, &[4]).encode();
//! let hostile = File::sample().edit(|f| f.tensors[0].n_dims = Some(5)).encode();
//! ```
//! Counts, lengths and offsets are computed unless set. The encoder shares no code with the
//! library, so that a mistake in one shows against the other.

use geb::Dtype;
use geb::gguf::{GgufFile, Value};

pub const U8: u32 = 0;
pub const I8: u32 = 1;
pub const U16: u32 = 2;
pub const I16: u32 = 3;
pub const U32: u32 = 4;
pub const I32: u32 = 5;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const STR: u32 = 8;
pub const ARRAY: u32 = 9;
pub const U64: u32 = 10;
pub const I64: u32 = 11;
pub const F64: u32 = 12;

/// A string or any bytes with a stated length.
#[derive(Clone, Debug)]
pub struct Text {
    pub len: Option<u64>,
    pub bytes: Vec<u8>,
}

impl From<&str> for Text {
    fn from(s: &str) -> Self {
        Text {
            len: None,
            bytes: s.into(),
        }
    }
}

/// The bytes of a metadata value.
#[derive(Clone, Debug)]
pub enum Val {
    /// Encoded as it stands.
    Raw(Vec<u8>),
    Str(Text),
    Array {
        elem: u32,
        count: Option<u64>,
        items: Vec<Val>,
    },
}

#[derive(Clone, Debug)]
pub struct Key {
    pub name: Text,
    pub ty: u32,
    pub val: Val,
}

#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: Text,
    pub n_dims: Option<u32>,
    pub dims: Vec<u64>,
    pub ty: u32,
    /// `None`: after the tensor before it, aligned.
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

/// A whole file.
#[derive(Clone, Debug)]
pub struct File {
    pub magic: [u8; 4],
    pub version: u32,
    pub n_tensors: Option<u64>,
    pub n_keys: Option<u64>,
    pub keys: Vec<Key>,
    pub tensors: Vec<Tensor>,
    /// Used for padding; independent of the key `general.alignment`.
    pub alignment: usize,
}

/// An integer field of the encoded file.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub at: usize,
    /// 1, 4 or 8 bytes.
    pub width: usize,
}

impl Default for File {
    fn default() -> Self {
        let (n_tensors, n_keys, keys, tensors) = (None, None, Vec::new(), Vec::new());
        File {
            magic: *b"GGUF",
            version: 3,
            n_tensors,
            n_keys,
            keys,
            tensors,
            alignment: 32,
        }
    }
}

impl File {
    pub fn new() -> File {
        File::default()
    }

    /// A valid file with every value type, arrays of every type, and four tensors.
    pub fn sample() -> File {
        let mut file = File::new().str("general.architecture", "test");
        for (name, ty, bytes) in [
            ("u8", U8, 1),
            ("i8", I8, 1),
            ("u16", U16, 2),
            ("i16", I16, 2),
        ] {
            file = file.key(&format!("scalar.{name}"), ty, Val::Raw(vec![5; bytes]));
        }
        file = file
            .u32("scalar.u32", 6)
            .i32("scalar.i32", -7)
            .f32("scalar.f32", 0.5);
        file = file.bool("scalar.bool", true);
        for (name, ty) in [("u64", U64), ("i64", I64), ("f64", F64)] {
            file = file.key(&format!("scalar.{name}"), ty, Val::Raw(vec![9; 8]));
            file = file.array(&format!("array.{name}"), ty, vec![Val::Raw(vec![3; 8]); 2]);
        }
        for (name, ty, bytes) in [
            ("u8", U8, 1),
            ("i8", I8, 1),
            ("u16", U16, 2),
            ("i16", I16, 2),
        ] {
            file = file.array(
                &format!("array.{name}"),
                ty,
                vec![Val::Raw(vec![1; bytes]); 3],
            );
        }
        file = file.array(
            "array.bool",
            BOOL,
            vec![Val::Raw(vec![1]), Val::Raw(vec![0])],
        );
        file = file.array("array.u32", U32, vec![Val::Raw(vec![1, 0, 0, 0]); 2]);
        file = file
            .i32s("array.i32", &[-1, 2])
            .f32s("array.f32", &[1.5, -2.5]);
        file = file.strs("array.string", &["a", "", "\u{e9}t\u{e9}", "dddd"]);
        file = file.array("array.empty", STR, vec![]);
        file.tensor("norm.weight", Dtype::F32, &[4])
            .tensor("q8.weight", Dtype::Q8_0, &[32, 2])
            .tensor("q4k.weight", Dtype::Q4_K, &[256])
            .tensor("f16.weight", Dtype::F16, &[2, 3, 1, 1])
    }

    /// The structure of a file that was read: the same bytes come out again.
    pub fn decode(file: &GgufFile) -> File {
        let mut out = File::new();
        out.alignment = file.index().alignment as usize;
        for (name, value) in file.metadata() {
            out = match value {
                Value::Array(a) if a.elem as u32 == STR => {
                    let texts = a.strings().map(|s| {
                        let (len, bytes) = (None, s.to_vec());
                        Val::Str(Text { len, bytes })
                    });
                    out.array(name, STR, texts.collect())
                }
                Value::Array(a) => {
                    let (count, items) = (Some(a.len as u64), vec![Val::Raw(a.raw().to_vec())]);
                    let elem = a.elem as u32;
                    out.key(name, ARRAY, Val::Array { elem, count, items })
                }
                Value::Str(s) => out.str(name, s),
                v => {
                    let bytes: Vec<u8> = match v {
                        Value::U8(v) => v.to_le_bytes().into(),
                        Value::I8(v) => v.to_le_bytes().into(),
                        Value::U16(v) => v.to_le_bytes().into(),
                        Value::I16(v) => v.to_le_bytes().into(),
                        Value::U32(v) => v.to_le_bytes().into(),
                        Value::I32(v) => v.to_le_bytes().into(),
                        Value::F32(v) => v.to_le_bytes().into(),
                        Value::U64(v) => v.to_le_bytes().into(),
                        Value::I64(v) => v.to_le_bytes().into(),
                        Value::F64(v) => v.to_le_bytes().into(),
                        Value::Bool(v) => vec![v.into()],
                        Value::Str(_) | Value::Array(_) => unreachable!("matched above"),
                    };
                    out.key(name, v.ty() as u32, Val::Raw(bytes))
                }
            };
        }
        for t in file.tensors() {
            let info = t.info();
            out = out.tensor_with(&info.name, info.dtype, &info.dims, t.bytes().to_vec());
        }
        out
    }

    pub fn key(mut self, name: &str, ty: u32, val: Val) -> File {
        self.keys.push(Key {
            name: name.into(),
            ty,
            val,
        });
        self
    }

    pub fn str(self, name: &str, value: &str) -> File {
        self.key(name, STR, Val::Str(value.into()))
    }

    pub fn u32(self, name: &str, value: u32) -> File {
        self.key(name, U32, Val::Raw(value.to_le_bytes().into()))
    }

    pub fn i32(self, name: &str, value: i32) -> File {
        self.key(name, I32, Val::Raw(value.to_le_bytes().into()))
    }

    pub fn f32(self, name: &str, value: f32) -> File {
        self.key(name, F32, Val::Raw(value.to_le_bytes().into()))
    }

    pub fn bool(self, name: &str, value: bool) -> File {
        self.key(name, BOOL, Val::Raw(vec![value.into()]))
    }

    pub fn array(self, name: &str, elem: u32, items: Vec<Val>) -> File {
        self.key(
            name,
            ARRAY,
            Val::Array {
                elem,
                count: None,
                items,
            },
        )
    }

    pub fn strs(self, name: &str, items: &[&str]) -> File {
        self.array(
            name,
            STR,
            items.iter().map(|&s| Val::Str(s.into())).collect(),
        )
    }

    pub fn i32s(self, name: &str, items: &[i32]) -> File {
        self.array(
            name,
            I32,
            items
                .iter()
                .map(|v| Val::Raw(v.to_le_bytes().into()))
                .collect(),
        )
    }

    pub fn f32s(self, name: &str, items: &[f32]) -> File {
        self.array(
            name,
            F32,
            items
                .iter()
                .map(|v| Val::Raw(v.to_le_bytes().into()))
                .collect(),
        )
    }

    /// A tensor with a fixed byte pattern as data.
    pub fn tensor(self, name: &str, dtype: Dtype, dims: &[u64]) -> File {
        let blocks = dims.iter().product::<u64>() as usize / dtype.block_len();
        let data = (0..blocks * dtype.block_bytes())
            .map(|i| (i * 7 + 3) as u8)
            .collect();
        self.tensor_with(name, dtype, dims, data)
    }

    pub fn tensor_with(mut self, name: &str, dtype: Dtype, dims: &[u64], data: Vec<u8>) -> File {
        let (n_dims, dims, ty, offset) = (None, dims.to_vec(), dtype.id(), None);
        self.tensors.push(Tensor {
            name: name.into(),
            n_dims,
            dims,
            ty,
            offset,
            data,
        });
        self
    }

    /// Changes anything.
    pub fn edit(mut self, change: impl FnOnce(&mut File)) -> File {
        change(&mut self);
        self
    }

    /// Drops a key.
    pub fn without(mut self, name: &str) -> File {
        self.keys.retain(|k| k.name.bytes != name.as_bytes());
        self
    }

    /// Replaces type and value of a key, which keeps its place; appends it when absent.
    pub fn with(mut self, name: &str, ty: u32, val: Val) -> File {
        match self
            .keys
            .iter_mut()
            .find(|k| k.name.bytes == name.as_bytes())
        {
            Some(key) => (key.ty, key.val) = (ty, val),
            None => return self.key(name, ty, val),
        }
        self
    }

    pub fn encode(&self) -> Vec<u8> {
        self.encode_fields().0
    }

    /// The bytes and the places of all counts, lengths, types, dimensions and offsets.
    pub fn encode_fields(&self) -> (Vec<u8>, Vec<Field>) {
        let mut out = Encoder::default();
        out.raw(&self.magic);
        out.u32(self.version);
        out.u64(self.n_tensors.unwrap_or(self.tensors.len() as u64));
        out.u64(self.n_keys.unwrap_or(self.keys.len() as u64));
        for key in &self.keys {
            out.text(&key.name);
            out.u32(key.ty);
            out.val(&key.val);
        }
        let mut at = 0;
        for t in &self.tensors {
            out.text(&t.name);
            out.u32(t.n_dims.unwrap_or(t.dims.len() as u32));
            t.dims.iter().for_each(|&d| out.u64(d));
            out.u32(t.ty);
            out.u64(t.offset.unwrap_or(at as u64));
            at = (at + t.data.len()).next_multiple_of(self.alignment);
        }
        for t in &self.tensors {
            out.pad(self.alignment);
            out.raw(&t.data);
        }
        if !self.tensors.is_empty() {
            out.pad(self.alignment);
        }
        (out.bytes, out.fields)
    }
}

#[derive(Default)]
struct Encoder {
    bytes: Vec<u8>,
    fields: Vec<Field>,
}

impl Encoder {
    fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    fn u32(&mut self, v: u32) {
        self.fields.push(Field {
            at: self.bytes.len(),
            width: 4,
        });
        self.raw(&v.to_le_bytes());
    }

    fn u64(&mut self, v: u64) {
        self.fields.push(Field {
            at: self.bytes.len(),
            width: 8,
        });
        self.raw(&v.to_le_bytes());
    }

    fn text(&mut self, text: &Text) {
        self.u64(text.len.unwrap_or(text.bytes.len() as u64));
        self.raw(&text.bytes);
    }

    fn val(&mut self, val: &Val) {
        match val {
            Val::Raw(bytes) => {
                if matches!(bytes.len(), 1 | 4 | 8) {
                    self.fields.push(Field {
                        at: self.bytes.len(),
                        width: bytes.len(),
                    });
                }
                self.raw(bytes);
            }
            Val::Str(text) => self.text(text),
            Val::Array { elem, count, items } => {
                self.u32(*elem);
                self.u64(count.unwrap_or(items.len() as u64));
                items.iter().for_each(|i| self.val(i));
            }
        }
    }

    fn pad(&mut self, alignment: usize) {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(alignment), 0);
    }
}
