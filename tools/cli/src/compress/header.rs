//! What stands before a compressed text.
//!
//! ```text
//! "GEBTEXT\0", version u32
//! model [16], context u32, length u64, parts u32, text [16]
//! names of level, cache type, model, writer: length u8, bytes
//! content
//! check [8]
//! ```
//! All little-endian. `model` is the beginning of the SHA-256 of the model's shape, of the first bytes of every
//! tensor and of its metadata, `text` that of the text, `check` that of all before it.

use std::collections::BTreeMap;

use geb::kernels::float::KvType;
use geb::kernels::level::Level;
use sha2::{Digest, Sha256};

use geb::error::{Error, Result};
use geb::limits;
use geb::model::Model;
use geb::session::{KvChoice, Session, SessionOptions, identity};

const MAGIC: &[u8; 8] = b"GEBTEXT\0";
const VERSION: u32 = 1;
const CHECK: usize = 8;

/// Who wrote a text, of what, and how it must be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    model: [u8; 16],
    text: [u8; 16],
    /// Positions of the context.
    pub context: usize,
    /// Bytes of the text.
    pub bytes: usize,
    pub(super) parts: u32,
    /// Instruction level.
    pub level: String,
    /// Type of the KV cache.
    pub kv: String,
    /// Name and main type of the model.
    pub name: String,
    /// Version of this library and kind of machine.
    pub writer: String,
}

pub(super) fn bad(field: &str, value: impl ToString, allowed: impl Into<String>) -> Error {
    Error::Compressed {
        field: field.into(),
        value: value.to_string(),
        allowed: allowed.into(),
    }
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn half(hash: [u8; 32]) -> [u8; 16] {
    *hash.first_chunk().unwrap_or(&[0; 16])
}

/// What tells a model from others: weights, hyperparameters, vocabulary; not its names.
fn of_model(model: &Model) -> [u8; 16] {
    let mut sum = Sha256::new();
    sum.update(identity(model));
    for (key, value) in model.file().metadata() {
        if !key.starts_with("general.") {
            sum.update(format!("\0{key} {value:?}"));
        }
    }
    half(sum.finalize().into())
}

/// As a person calls it: the name in the file, else the architecture, and the type of most of its bytes.
fn name_of(model: &Model) -> String {
    let name = model.file().str("general.name").ok().flatten();
    let mut sizes = BTreeMap::new();
    for t in model.file().tensors() {
        *sizes.entry(t.dtype().name()).or_insert(0) += t.bytes().len();
    }
    let most = sizes.into_iter().max_by_key(|(_, bytes)| *bytes);
    let dtype = most.map_or("", |(name, _)| name);
    let name = name.unwrap_or(model.config().arch.name);
    let short: String = name.chars().take(60).collect();
    format!("{short} {dtype}")
}

fn writer() -> String {
    let (version, arch, os) = (
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        std::env::consts::OS,
    );
    format!("geb {version} {arch}-{os}")
}

/// Reads a header.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let cut = || bad("length", "too short", "a whole file");
        let (part, rest) = self.0.split_at_checked(n).ok_or_else(cut)?;
        self.0 = rest;
        Ok(part)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let part = self.take(N)?;
        Ok(*part.first_chunk().unwrap_or(&[0; N]))
    }

    fn text(&mut self) -> Result<String> {
        let [len] = self.array()?;
        let text = std::str::from_utf8(self.take(usize::from(len))?);
        let text = text.map_err(|_| bad("name", "not UTF-8", "UTF-8"))?;
        Ok(text.to_owned())
    }
}

impl Header {
    pub(super) fn new(session: &Session, data: &[u8], parts: usize) -> Header {
        Header {
            model: of_model(session.model()),
            text: half(hash(data)),
            context: session.ctx(),
            bytes: data.len(),
            parts: parts as u32,
            level: session.kernels().level().name().into(),
            kv: session.kv_type().name().into(),
            name: name_of(session.model()),
            writer: writer(),
        }
    }

    /// The whole file.
    pub(super) fn write(&self, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(content.len() + 200);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.model);
        out.extend_from_slice(&(self.context as u32).to_le_bytes());
        out.extend_from_slice(&(self.bytes as u64).to_le_bytes());
        out.extend_from_slice(&self.parts.to_le_bytes());
        out.extend_from_slice(&self.text);
        for name in [&self.level, &self.kv, &self.name, &self.writer] {
            let end = name.floor_char_boundary(255);
            out.push(end as u8);
            out.extend_from_slice(&name.as_bytes()[..end]);
        }
        out.extend_from_slice(content);
        let check = hash(&out);
        out.extend_from_slice(&check[..CHECK]);
        out
    }

    /// Header and content of a file.
    ///
    /// # Errors
    /// [`Error::Compressed`] for a file of another kind or version, and one that was changed or cut off.
    pub fn read(file: &[u8]) -> Result<(Header, &[u8])> {
        let mut cursor = Cursor(file);
        if cursor.array::<8>().is_ok_and(|magic| magic != *MAGIC) {
            return Err(bad("kind of file", "unknown", "a text compressed by geb"));
        }
        let version = u32::from_le_bytes(cursor.array()?);
        if version != VERSION {
            return Err(bad("version", version, VERSION.to_string()));
        }
        let end = file.len().saturating_sub(CHECK);
        let (body, check) = file.split_at(end);
        if hash(body)[..CHECK] != *check {
            let allowed = "that of the file's content; it was changed or cut off";
            return Err(bad("check", "another one", allowed));
        }
        let mut cursor = Cursor(body.get(MAGIC.len() + 4..).unwrap_or(&[]));
        let model = cursor.array()?;
        let context = u32::from_le_bytes(cursor.array()?) as usize;
        let bytes = u64::from_le_bytes(cursor.array()?);
        let parts = u32::from_le_bytes(cursor.array()?);
        let text = cursor.array()?;
        let [level, kv, name, writer] = [
            cursor.text()?,
            cursor.text()?,
            cursor.text()?,
            cursor.text()?,
        ];
        let most = limits::MAX_TEXT_BYTES;
        if bytes > most as u64 || u64::from(parts) > bytes {
            let value = format!("{bytes} bytes in {parts} parts");
            return Err(bad("text", value, format!("at most {most} bytes")));
        }
        let header = Header {
            model,
            text,
            context,
            bytes: bytes as usize,
            parts,
            level,
            kv,
            name,
            writer,
        };
        Ok((header, cursor.0))
    }

    /// How a session must run to read the text; a level that this machine has not is left to it.
    ///
    /// # Errors
    /// [`Error::Compressed`] for a type of the KV cache that is not known.
    pub fn options(&self) -> Result<SessionOptions> {
        let kinds = [
            (KvType::F32, KvChoice::F32),
            (KvType::F16, KvChoice::F16),
            (KvType::Q8_0, KvChoice::Q8_0),
        ];
        let kv = kinds.iter().find(|(t, _)| t.name() == self.kv);
        let (_, kv) = kv.ok_or_else(|| bad("KV cache type", &self.kv, "f32, f16 or q8_0"))?;
        let level = Level::from_name(&self.level);
        Ok(SessionOptions {
            ctx: Some(self.context),
            beyond: true,
            kv: *kv,
            level: level.filter(|l| Level::available().contains(l)),
            ..Default::default()
        })
    }

    /// Refuses another model than the one that the text was compressed with, by name.
    ///
    /// # Errors
    /// [`Error::Request`].
    pub fn check_model(&self, model: &Model) -> Result<()> {
        if of_model(model) == self.model {
            return Ok(());
        }
        let given = name_of(model);
        let value = match given == self.name {
            true => format!("another {given}"),
            false => given,
        };
        self.refuse("model", value, &self.name)
    }

    /// Refuses a session that would compute other logits.
    pub(super) fn check(&self, session: &Session) -> Result<()> {
        self.check_model(session.model())?;
        let (ctx, kv) = (session.ctx(), session.kv_type().name());
        if ctx != self.context {
            return self.refuse("context", ctx.to_string(), &self.context.to_string());
        }
        if kv != self.kv {
            return self.refuse("KV cache type", kv.into(), &self.kv);
        }
        Ok(())
    }

    fn refuse(&self, what: &str, value: String, allowed: &str) -> Result<()> {
        Err(Error::Request {
            what: what.into(),
            value,
            allowed: format!("{allowed}, with which the text was compressed"),
        })
    }

    /// The text is not what was compressed, though the file is whole.
    pub(super) fn strayed(&self) -> Error {
        let allowed = format!(
            "the text that was compressed; this machine computes other probabilities than {} at level {}",
            self.writer, self.level
        );
        bad("result", "another text", allowed)
    }

    /// The text, if it is the one that was compressed.
    pub(super) fn finish(&self, out: Vec<u8>) -> Result<Vec<u8>> {
        match out.len() == self.bytes && half(hash(&out)) == self.text {
            true => Ok(out),
            false => Err(self.strayed()),
        }
    }
}
