//! Adapters of the PEFT library to GGUF: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Matrices get their names from the table of the base checkpoint's family, by the very list of tensors
//! that its conversion makes. So B's rows are cut and reordered as those of the matrix are, and a matrix
//! joined from several gets a block of B (and rows of A) from each.

use std::collections::BTreeMap;
use std::path::Path;

use geb_kernels::dtype::Dtype;
use serde_json::Value;

use super::checkpoint::{Checkpoint, float_type};
use super::dequant;
use super::folder::{Fields, Folder, bad, short};
use super::hyper::Hyper;
use super::item::Output;
use super::layout::GebLayout;
use super::names;
use super::rows::RowMap;
use geb::adapter::{ALPHA, LowRank};
use geb::error::{Error, Result};
use geb::gguf::writer::{self, Plan};
use geb::limits::{MAX_ADAPTER_RANK, MAX_SHOWN_PROBLEMS};

const CONFIG: &str = "adapter_config.json";

/// A value, or why a tensor does not fit.
type Fits<T> = std::result::Result<T, String>;

/// A converted adapter.
pub struct Converted {
    /// `general.architecture`.
    pub architecture: String,
    /// `adapter.lora.alpha`.
    pub alpha: f32,
    /// The changes; `alpha / rank` is part of none of them.
    pub parts: Vec<LowRank>,
}

/// How a module's factor follows from its rank.
struct Settings {
    alpha: f64,
    rank: f64,
    /// Divide by the root of the rank.
    root: bool,
    /// Alphas of single modules.
    alphas: Vec<(String, f64)>,
}

/// The tensors of one module: numbers in the adapter's list.
#[derive(Default)]
struct Module {
    a: Option<usize>,
    b: Option<usize>,
    m: Option<usize>,
    used: bool,
}

/// One module, read: A `[rank, cols]`, B `[rows, rank]`, m `[rows]`, and its factor s.
struct Low {
    rank: usize,
    cols: usize,
    rows: usize,
    a: Vec<f32>,
    b: Vec<f32>,
    m: Option<Vec<f32>>,
    factor: f64,
}

/// Converts the adapter in `folder` for the checkpoint folder `base` and writes `out`.
///
/// # Errors
/// [`Error::Checkpoint`] and [`Error::Unsupported`] for what the folders say, [`Error::Tensors`] with all
/// modules that do not fit the base, and those of writing.
pub fn convert(folder: &Path, base: &Path, layout: &GebLayout, out: &Path) -> Result<Converted> {
    let adapter = read(folder, base, layout)?;
    let mut plan = Plan::default();
    plan.push_meta("general.type", "adapter")
        .push_meta("general.architecture", adapter.architecture.as_str())
        .push_meta("general.name", Folder::new(folder).name())
        .push_meta("adapter.type", "lora")
        .push_meta(ALPHA, adapter.alpha)
        .push_meta("geb.version", env!("CARGO_PKG_VERSION"));
    let mut data: Vec<&[f32]> = Vec::new();
    for p in &adapter.parts {
        let [rows, cols, rank] = [p.rows, p.cols, p.rank].map(|n| n as u64);
        let name = |end: &str| format!("{}.{end}", p.tensor);
        plan.push_tensor(name("lora_a"), Dtype::F32, [cols, rank]);
        plan.push_tensor(name("lora_b"), Dtype::F32, [rank, rows]);
        data.extend([&p.a[..], &p.b[..]]);
        if let Some(m) = &p.magnitude {
            plan.push_tensor(name("lora_m"), Dtype::F32, [rows]);
            data.push(m);
        }
    }
    writer::write_file(out, &plan, &mut |i, to| {
        let bytes: Vec<u8> = data[i].iter().flat_map(|v| v.to_le_bytes()).collect();
        to.write_all(&bytes).map_err(Error::io(out))
    })?;
    Ok(adapter)
}

/// Reads an adapter and gives it the names and rows of the base's conversion.
fn read(folder: &Path, base: &Path, layout: &GebLayout) -> Result<Converted> {
    let folder = Folder::new(folder);
    let settings = Settings::read(&folder)?;
    let base = Folder::new(base);
    let config = base.json("config.json")?;
    let known = "the configuration of the base checkpoint";
    let config = config.ok_or_else(|| bad("config.json", "file", "absent", known))?;
    let hyper = Hyper::read(&config)?;
    let mut checkpoint = Checkpoint::open(&base)?;
    dequant::decode(&mut checkpoint, &base, &config)?;
    let outputs = names::outputs(&checkpoint, &hyper, layout)?;
    let weights =
        Checkpoint::open_one(&folder, &["adapter_model.safetensors", "adapter_model.bin"])?;
    let mut problems = Vec::new();
    let mut modules = modules(&weights, &mut problems);
    let mut parts = Vec::new();
    // A file has one alpha; it is such that most B stay as they are.
    let alpha = settings.alpha
        * if settings.root {
            settings.rank.sqrt()
        } else {
            1.0
        };
    for output in outputs.iter().filter(|o| o.name.ends_with(".weight")) {
        let of = |part: &super::Part| {
            let name = &checkpoint.tensors()[part.tensor].name;
            let name = bare(name.strip_suffix(".weight").unwrap_or(name));
            modules.contains_key(name).then(|| name.to_owned())
        };
        let found: Vec<Option<String>> = output.parts().iter().map(of).collect();
        if found.iter().all(Option::is_none) {
            continue;
        }
        let mut lows = Vec::new();
        for name in &found {
            let module = name.as_ref().and_then(|n| Some((n, modules.get_mut(n)?)));
            lows.push(module.map(|(name, module)| {
                module.used = true;
                module.read(&weights, name, &settings)
            }));
        }
        let lows: Fits<Vec<_>> = lows.into_iter().map(Option::transpose).collect();
        match lows.and_then(|lows| join(output, &lows, alpha)) {
            Ok(part) => parts.push(part),
            Err(why) => problems.push(format!("  {}: {why}", output.name)),
        }
    }
    for (name, _) in modules.iter().filter(|m| !m.1.used) {
        problems.push(format!("  {name}: the base has no such matrix"));
    }
    if problems.is_empty() {
        return Ok(Converted {
            architecture: hyper.architecture(layout).into(),
            alpha: alpha as f32,
            parts,
        });
    }
    problems.truncate(MAX_SHOWN_PROBLEMS);
    Err(Error::Tensors(problems))
}

impl Settings {
    fn read(folder: &Folder) -> Result<Settings> {
        let absent = || {
            bad(
                CONFIG,
                "file",
                "absent",
                "the configuration of a PEFT adapter",
            )
        };
        let config = folder.json(CONFIG)?.ok_or_else(absent)?;
        let fields = Fields {
            file: CONFIG,
            value: &config,
        };
        let unsupported = |value: String, known: &str| {
            Err(Error::Unsupported {
                what: "adapter",
                value,
                known: known.into(),
            })
        };
        let kind = fields.str(&["peft_type"])?.unwrap_or("LORA");
        if kind != "LORA" {
            return unsupported(format!("peft_type {kind}"), "LORA (with use_dora too)");
        }
        let bias = fields.str(&["bias"])?.unwrap_or("none");
        if bias != "none" {
            return unsupported(format!("bias {bias}"), "none");
        }
        let empty =
            |v: &Value| v.as_array().is_some_and(Vec::is_empty) || v.as_bool() == Some(false);
        for key in [
            "modules_to_save",
            "trainable_token_indices",
            "lora_bias",
            "alora_invocation_tokens",
        ] {
            if let Some((_, value)) = fields.get(&[key]).filter(|(_, v)| !empty(v)) {
                return unsupported(
                    format!("{key} {}", short(value)),
                    "changes of matrices alone",
                );
            }
        }
        let range = 1e-6..=1e6;
        let alpha = fields.float(&["lora_alpha"], range.clone())?;
        let pattern = fields.object("alpha_pattern");
        let mut alphas = Vec::new();
        for (key, value) in pattern.iter().filter_map(|p| p.value.as_object()).flatten() {
            let plain = key
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b));
            let value = value.as_f64().filter(|v| range.contains(v) && plain);
            let value = value.ok_or_else(|| {
                bad(
                    CONFIG,
                    "alpha_pattern",
                    short(&Value::from(key.clone())),
                    "names of modules and numbers",
                )
            })?;
            alphas.push((key.clone(), value));
        }
        Ok(Settings {
            alpha: alpha.ok_or_else(|| bad(CONFIG, "lora_alpha", "absent", "a number"))?,
            rank: fields.need_uint(&["r"], 1..=MAX_ADAPTER_RANK)? as f64,
            root: fields.bool("use_rslora")?.unwrap_or(false),
            alphas,
        })
    }

    /// s of a module.
    fn factor(&self, module: &str, rank: usize) -> f64 {
        let ends = |key: &str| {
            let rest = module.strip_suffix(key);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let own = self.alphas.iter().find(|(key, _)| ends(key));
        let rank = rank as f64;
        own.map_or(self.alpha, |a| a.1) / if self.root { rank.sqrt() } else { rank }
    }
}

/// The adapter's tensors by module.
fn modules(weights: &Checkpoint, problems: &mut Vec<String>) -> BTreeMap<String, Module> {
    let mut out: BTreeMap<String, Module> = BTreeMap::new();
    for (i, t) in weights.tensors().iter().enumerate() {
        let name = t.name.strip_prefix("base_model.model.").unwrap_or(&t.name);
        let name = name.strip_suffix(".weight").unwrap_or(name);
        let name = bare(name.strip_suffix(".default").unwrap_or(name));
        match name.rsplit_once('.') {
            Some((module, "lora_A")) => out.entry(module.into()).or_default().a = Some(i),
            Some((module, "lora_B")) => out.entry(module.into()).or_default().b = Some(i),
            Some((module, "lora_magnitude_vector")) => {
                out.entry(module.into()).or_default().m = Some(i);
            }
            _ => problems.push(format!(
                "  {}: not lora_A, lora_B or lora_magnitude_vector",
                t.name
            )),
        }
    }
    out
}

/// The name without that of the trunk, which checkpoints and adapters of a bare trunk leave out.
fn bare(name: &str) -> &str {
    let trunks = ["model.", "transformer."];
    trunks
        .iter()
        .find_map(|t| name.strip_prefix(t))
        .unwrap_or(name)
}

impl Module {
    fn read(&self, weights: &Checkpoint, name: &str, settings: &Settings) -> Fits<Low> {
        let (Some(a), Some(b)) = (self.a, self.b) else {
            return Err("lora_A or lora_B is missing".into());
        };
        let shape = |i: usize| &weights.tensors()[i].shape[..];
        let (&[rank, cols], &[rows, also]) = (shape(a), shape(b)) else {
            return Err(format!(
                "A {:?} and B {:?}, expected matrices",
                shape(a),
                shape(b)
            ));
        };
        let fits = self.m.is_none_or(|m| shape(m) == [rows]);
        if rank != also || !(1..=MAX_ADAPTER_RANK).contains(&rank) || !fits {
            return Err(format!(
                "A [{rank}, {cols}], B [{rows}, {also}] and magnitudes do not fit"
            ));
        }
        let floats = |i| floats(weights, i).map_err(|e| e.to_string());
        Ok(Low {
            rank: rank as usize,
            cols: cols as usize,
            rows: rows as usize,
            a: floats(a)?,
            b: floats(b)?,
            m: self.m.map(floats).transpose()?,
            factor: settings.factor(name, rank as usize),
        })
    }
}

/// The change of an output tensor: one module for each part, if it has one.
fn join(output: &Output, lows: &[Option<Low>], alpha: f64) -> Fits<LowRank> {
    let &[cols, rows] = &output.dims[..] else {
        return Err("adapters of tensors that are no matrices cannot be converted".into());
    };
    let (cols, rows) = (cols as usize, rows as usize);
    let given = || lows.iter().flatten();
    let rank: usize = given().map(|l| l.rank).sum();
    let magnitudes = given().any(|l| l.m.is_some());
    if magnitudes
        && !lows
            .iter()
            .all(|l| l.as_ref().is_some_and(|l| l.m.is_some()))
    {
        return Err("magnitudes of some rows only".into());
    }
    let mut part = LowRank {
        tensor: output.name.clone(),
        rows,
        cols,
        rank,
        a: Vec::with_capacity(rank * cols),
        b: Vec::with_capacity(rank * rows),
        magnitude: magnitudes.then(Vec::new),
    };
    let mut before = 0;
    for (source, low) in output.parts().iter().zip(lows) {
        let Some(low) = low else {
            part.b.resize(part.b.len() + rank * source.rows.len(), 0.0);
            continue;
        };
        let last = (0..source.rows.len()).map(|i| source.rows.at(i)).max();
        if low.cols != cols || last.is_some_and(|last| last >= low.rows) {
            let (r, c) = (low.rows, low.cols);
            return Err(format!(
                "A and B of a matrix [{r}, {c}], expected [{rows}, {cols}]"
            ));
        }
        for row in low.a.chunks_exact(cols.max(1)) {
            part.a.extend((0..cols).map(|i| row[source.column(i)]));
        }
        // The file's alpha / rank times this is s.
        let factor = low.factor * rank as f64 / alpha;
        append_b(&mut part, low, &source.rows, before, factor);
        if let (Some(out), Some(m)) = (&mut part.magnitude, &low.m) {
            out.extend((0..source.rows.len()).map(|i| m[source.rows.at(i)]));
        }
        before += low.rank;
    }
    if part.b.len() != rank * rows {
        return Err(format!(
            "rows of {} parts, expected {rows}",
            output.parts().len()
        ));
    }
    Ok(part)
}

/// Appends rows of a module's B to those of `part`, from column `before` on.
fn append_b(part: &mut LowRank, low: &Low, rows: &RowMap, before: usize, factor: f64) {
    for i in 0..rows.len() {
        let at = part.b.len();
        part.b.resize(at + part.rank, 0.0);
        let from = rows.at(i) * low.rank;
        let from = &low.b[from..from + low.rank];
        for (to, v) in part.b[at + before..].iter_mut().zip(from) {
            *to = (factor * f64::from(*v)) as f32;
        }
    }
}

/// The finite values of a tensor.
fn floats(weights: &Checkpoint, i: usize) -> Result<Vec<f32>> {
    let t = &weights.tensors()[i];
    let dtype = float_type(t)?;
    let n: u64 = t.shape.iter().product();
    let bytes = dtype.row_bytes(n as usize).filter(|_| dtype != Dtype::F64);
    let bytes = bytes.ok_or_else(|| Error::Unsupported {
        what: "adapter type",
        value: format!("{dtype} of {}", t.name),
        known: "F32, F16, BF16".into(),
    })?;
    let (mut raw, mut out) = (vec![0; bytes], vec![0.0; n as usize]);
    weights.read(i, 0, &mut raw)?;
    super::machine::kernels()?.dequantize(dtype, &raw, &mut out);
    match out.iter().position(|v| !v.is_finite()) {
        None => Ok(out),
        Some(at) => Err(Error::NonFinite {
            what: format!("tensor {}", t.name),
            index: at as u64,
            value: out[at],
        }),
    }
}
