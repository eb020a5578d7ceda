//! `geb-run inspect`: what is in a file, how large it is, and whether it can be run.

use std::sync::Arc;

use geb::chat::ChatTemplate;
use geb::gguf::{GgufFile, TensorView, Value};
use geb::kernels::Kernels;
use geb::model::Model;
use geb::model::weights::Ffn;
use geb::scales::{Scan, scan};
use geb::session::{Session, SessionOptions};
use geb::shown::Shown;
use geb::sparsity::{PACKED_FROM, Zeros, marked};
use geb::tokenizer::Tokenizer;
use serde_json::{Value as Json, json};

use crate::args::InspectArgs;
use crate::load::{self, Opened};
use crate::report::{Failure, Outcome, bytes, count, out, out_line, table};

/// Elements of an array shown without `--full`.
const SHOWN_ELEMENTS: usize = 6;
/// Characters of a string shown without `--full`.
const SHOWN_CHARS: usize = 80;

/// Several tensors together.
struct Sum {
    name: &'static str,
    tensors: u64,
    weights: u64,
    bytes: u64,
    /// `--sparsity`
    zeros: Option<Zeros>,
}

impl Sum {
    fn new(name: &'static str) -> Sum {
        Sum {
            name,
            tensors: 0,
            weights: 0,
            bytes: 0,
            zeros: None,
        }
    }

    fn bits_per_weight(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.weights.max(1) as f64
    }

    fn to_json(&self) -> Json {
        json!({
            "tensors": self.tensors,
            "weights": self.weights,
            "bytes": self.bytes,
            "bits_per_weight": self.bits_per_weight(),
            "zeros": self.zeros.map(|z| z.zeros),
            "zero_percent": self.zeros.map(|z| z.percent()),
            "empty_group_percent": self.zeros.map(|z| z.empty_percent()),
        })
    }
}

/// What a tensor is for, by its name.
fn group(name: &str, dims: usize) -> &'static str {
    const GROUPS: &[(&str, &str)] = &[
        ("token_embd", "embedding"),
        (".attn", "attention"),
        (".ffn", "feed-forward"),
        (".ssm", "state space"),
    ];
    match name {
        "output.weight" => "output",
        _ if dims < 2 || name.contains("_norm") => "norms and vectors",
        _ => GROUPS
            .iter()
            .find(|g| name.contains(g.0))
            .map_or("other", |g| g.1),
    }
}

/// What experts a model has.
struct Experts {
    count: usize,
    used: usize,
    layers: usize,
    all_layers: usize,
    /// Weights of the layers that a token is multiplied with.
    products: u64,
}

/// What was found out about a file.
struct Facts<'a> {
    file: &'a GgufFile,
    /// Weights in all tensors.
    parameters: u64,
    tensor_bytes: u64,
    /// `(tensor, reason)` of those that have no kernel.
    no_kernel: Vec<(&'a str, String)>,
    /// The model, where it loads.
    model: Option<Arc<Model>>,
    /// Why `generate` would refuse the file.
    refused: Option<String>,
    /// `--verify`: per tensor.
    scans: Option<Vec<Scan>>,
    /// `--sparsity`: per tensor.
    zeros: Option<Vec<Option<Zeros>>>,
}

/// Runs the command.
pub fn run(args: &InspectArgs) -> Outcome {
    let opened = load::open_any(&args.model, args.path.as_deref())?;
    let facts = Facts::collect(&opened, args)?;
    if args.json {
        out_line(&facts.to_json(&opened).to_string())?;
    } else {
        out(&facts.to_text(&opened, args.full))?;
    }
    let bad = facts
        .scans
        .iter()
        .flatten()
        .filter(|s| matches!(s, Scan::Bad { .. }))
        .count();
    if bad > 0 {
        let mut failure = Failure::new(format!("{bad} tensors hold NaN or infinite numbers"));
        failure.code = 3;
        return Err(
            failure.hint("the file is damaged or was made from broken weights: convert it again")
        );
    }
    Ok(())
}

impl<'a> Facts<'a> {
    fn collect(opened: &'a Opened, args: &InspectArgs) -> Outcome<Self> {
        let file: &GgufFile = &opened.file;
        let kernels = Kernels::best().map_err(Failure::usage)?;
        let no_kernel = |t: &TensorView<'_>| !kernels.supports(t.dtype());
        let reason = |t: TensorView<'a>| {
            (
                t.info().name.as_str(),
                format!("no kernel for type {}", t.dtype()),
            )
        };
        let (model, refused) = opens(opened);
        Ok(Self {
            file,
            parameters: file.tensors().map(|t| t.info().elements()).sum(),
            tensor_bytes: file.tensors().map(|t| t.bytes().len() as u64).sum(),
            no_kernel: file.tensors().filter(no_kernel).map(reason).collect(),
            model,
            refused,
            scans: (args.verify)
                .then(|| file.tensors().map(|t| scan(t.dtype(), t.bytes())).collect()),
            zeros: (args.sparsity)
                .then(|| file.tensors().map(|t| Zeros::of(&t, kernels)).collect()),
        })
    }

    /// `None` for a dense model.
    fn experts(&self) -> Option<Experts> {
        let model = self.model.as_ref()?;
        let routing = model.config().experts.as_ref()?;
        let layers = &model.weights().layers;
        let sparse = layers
            .iter()
            .filter(|l| matches!(l.ffn.body, Ffn::Experts(_)));
        Some(Experts {
            count: routing.count,
            used: routing.used,
            layers: sparse.count(),
            all_layers: layers.len(),
            products: model.products_per_token(),
        })
    }

    /// The matrices that the file marks as having enough zeros to be packed.
    fn sparse(&self) -> Vec<&str> {
        let mut names: Vec<&str> = marked(self.file, &mut Vec::new()).into_iter().collect();
        names.sort_unstable();
        names
    }

    fn bits_per_weight(&self) -> f64 {
        if self.parameters == 0 {
            0.0
        } else {
            self.tensor_bytes as f64 * 8.0 / self.parameters as f64
        }
    }

    /// The tensors together by a name of theirs, largest first.
    fn sums(&self, name: impl Fn(&TensorView<'_>) -> &'static str) -> Vec<Sum> {
        let mut sums: Vec<Sum> = Vec::new();
        for (i, t) in self.file.tensors().enumerate() {
            let name = name(&t);
            let at = sums.iter().position(|s| s.name == name);
            let at = at.unwrap_or_else(|| {
                sums.push(Sum::new(name));
                sums.len() - 1
            });
            sums[at].tensors += 1;
            sums[at].weights += t.info().elements();
            sums[at].bytes += t.bytes().len() as u64;
            if let Some(zeros) = self.zeros_of(i) {
                sums[at].zeros.get_or_insert_default().add(&zeros);
            }
        }
        sums.sort_by_key(|s| std::cmp::Reverse(s.bytes));
        sums
    }

    fn zeros_of(&self, tensor: usize) -> Option<Zeros> {
        *self.zeros.as_ref()?.get(tensor)?
    }

    fn types(&self) -> Vec<Sum> {
        self.sums(|t| t.dtype().name())
    }

    fn groups(&self) -> Vec<Sum> {
        self.sums(|t| group(&t.info().name, t.info().dims.len()))
    }

    fn sum_table(&self, sums: &[Sum]) -> String {
        let row = |s: &Sum| {
            let share = s.bytes as f64 * 100.0 / self.tensor_bytes.max(1) as f64;
            let mut row = vec![
                format!("  {}", s.name),
                format!("{} tensors", s.tensors),
                format!("{} weights", count(s.weights)),
                bytes(s.bytes),
                format!("{share:.1} %"),
                format!("{:.2} bits per weight", s.bits_per_weight()),
            ];
            row.extend(s.zeros.iter().map(zeros_text));
            row
        };
        table(&sums.iter().map(row).collect::<Vec<_>>())
    }

    fn to_text(&self, opened: &Opened, full: bool) -> String {
        let index = self.file.index();
        let mut text = format!(
            "{}\n  GGUF version {}, {}, {} tensors, {} parameters, {:.2} bits per weight\n",
            Shown::list(&opened.path.to_string_lossy()),
            index.version,
            bytes(self.file.file_bytes()),
            index.tensors.len(),
            count(self.parameters),
            self.bits_per_weight(),
        );
        text.push_str(&format!("  runs here: {}\n", self.verdict()));
        if let Some(e) = self.experts() {
            text.push_str(&format!(
                "  experts: {} of {} work on a token, in {} of {} layers; it meets {} of the weights\n",
                e.used,
                e.count,
                e.layers,
                e.all_layers,
                count(e.products),
            ));
        }
        let sparse = self.sparse();
        if !sparse.is_empty() {
            text.push_str(&format!(
                "  sparse: {} matrices have {PACKED_FROM} % zeros or more; they are packed where that is \
                 faster (--sparse)\n",
                sparse.len()
            ));
        }
        for (name, reason) in &self.no_kernel {
            text.push_str(&format!("    {}: {reason}\n", Shown::name(name)));
        }
        text.push_str("\nGroups\n");
        text.push_str(&self.sum_table(&self.groups()));
        text.push_str("\nTypes\n");
        text.push_str(&self.sum_table(&self.types()));
        text.push_str("\nMetadata\n");
        for (key, value) in self.file.metadata() {
            let key = Shown::name(key);
            text.push_str(&format!("  {key} = {}\n", value_text(value, full)));
        }
        text.push_str("\nTensors (dimensions: contiguous one first)\n");
        text.push_str(&table(&self.tensor_rows()));
        text
    }

    fn tensor_rows(&self) -> Vec<Vec<String>> {
        let row = |(i, t): (usize, TensorView<'_>)| {
            let dims: Vec<String> = t.info().dims.iter().map(u64::to_string).collect();
            let mut row = vec![
                format!("  {}", t.info().name),
                t.dtype().name().to_owned(),
                dims.join(" × "),
                bytes(t.bytes().len() as u64),
            ];
            row.extend(
                self.scans
                    .as_ref()
                    .and_then(|s| s.get(i))
                    .map(|s| scan_text(*s)),
            );
            row.extend(self.zeros_of(i).iter().map(zeros_text));
            row
        };
        self.file.tensors().enumerate().map(row).collect()
    }

    fn verdict(&self) -> String {
        match (&self.refused, self.no_kernel.len()) {
            (None, 0) => "yes".into(),
            (None, n) => {
                format!("not fully: {n} tensors have no kernel (convert with geb-quantize)")
            }
            (Some(why), _) => format!("no: {}", why.replace('\n', "; ")),
        }
    }

    fn to_json(&self, opened: &Opened) -> Json {
        let index = self.file.index();
        let tensors = self.file.tensors().enumerate().map(|(i, t)| {
            let mut entry = json!({
                "name": t.info().name,
                "type": t.dtype().name(),
                "dims": t.info().dims,
                "bytes": t.bytes().len(),
                "offset": t.info().range.start,
            });
            if let Some(scan) = self.scans.as_ref().and_then(|s| s.get(i)) {
                entry["scan"] = scan_text(*scan).into();
            }
            if let Some(zeros) = self.zeros_of(i) {
                entry["zeros"] = zeros.zeros.into();
            }
            entry
        });
        let sums = |sums: Vec<Sum>| -> serde_json::Map<_, _> {
            let entry = |s: Sum| (s.name.to_owned(), s.to_json());
            sums.into_iter().map(entry).collect()
        };
        let not_runnable = self
            .no_kernel
            .iter()
            .map(|(name, why)| json!({ "tensor": name, "reason": why }));
        json!({
            "path": opened.path,
            "version": index.version,
            "alignment": index.alignment,
            "file_bytes": self.file.file_bytes(),
            "parameters": self.parameters,
            "bits_per_weight": self.bits_per_weight(),
            "runs": self.refused.is_none() && self.no_kernel.is_empty(),
            "refused": self.refused,
            "experts": self.experts().map(|e| json!({
                "count": e.count,
                "used": e.used,
                "layers": e.layers,
                "weights_per_token": e.products,
            })),
            "sparse": self.sparse(),
            "not_runnable": not_runnable.collect::<Vec<_>>(),
            "warnings": index.warnings,
            "groups": sums(self.groups()),
            "types": sums(self.types()),
            "metadata": self.file.metadata().map(|(k, v)| (k.to_owned(), value_json(v))).collect::<serde_json::Map<_, _>>(),
            "tensors": tensors.collect::<Vec<_>>(),
        })
    }
}

/// Everything that `generate` does before it reads a prompt: the model, and why it would refuse the file.
fn opens(opened: &Opened) -> (Option<Arc<Model>>, Option<String>) {
    let model = Model::load(opened.file.clone());
    let rest = |model: &Arc<Model>| -> geb::Result<()> {
        Tokenizer::from_gguf(&opened.file)?;
        ChatTemplate::from_gguf(&opened.file)?;
        Session::fits(model, &SessionOptions::default())
    };
    let refused = match &model {
        Ok(model) => rest(model).err(),
        Err(_) => None,
    };
    match (model, refused) {
        (Err(e), _) => (None, Some(e.to_string())),
        (Ok(model), Some(e)) => (Some(model), Some(e.to_string())),
        (Ok(model), None) if !model.config().causal => {
            let why = "its tokens see those after them: embeddings only (geb-run embed)";
            (Some(model), Some(why.into()))
        }
        (Ok(model), None) => (Some(model), None),
    }
}

fn zeros_text(zeros: &Zeros) -> String {
    let (zero, empty) = (zeros.percent(), zeros.empty_percent());
    format!("{zero:.1} % zeros ({empty:.1} % of 32 in a row)")
}

fn scan_text(scan: Scan) -> String {
    match scan {
        Scan::Clean => "finite".into(),
        Scan::Bad { blocks, first } => format!("{blocks} bad blocks, first {first}"),
        Scan::Unknown => "not scanned".into(),
    }
}

/// A value on one line.
fn value_text(value: Value<'_>, full: bool) -> String {
    let Value::Array(array) = value else {
        return scalar_text(value, full);
    };
    let shown = if full { array.len } else { SHOWN_ELEMENTS };
    let items: Vec<String> = array
        .iter()
        .take(shown)
        .map(|v| scalar_text(v, full))
        .collect();
    let more = if array.len > shown { ", …" } else { "" };
    format!(
        "{} × {} [{}{more}]",
        array.len,
        array.elem.name(),
        items.join(", ")
    )
}

fn scalar_text(value: Value<'_>, full: bool) -> String {
    match value {
        Value::Str(s) if !full && s.chars().count() > SHOWN_CHARS => {
            let start: String = s.chars().take(SHOWN_CHARS).collect();
            format!("{start:?}… ({} characters)", s.chars().count())
        }
        Value::Str(s) => format!("{s:?}"),
        Value::F32(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        Value::Bool(v) => v.to_string(),
        v => v.as_int().map(|i| i.to_string()).unwrap_or_default(),
    }
}

/// A value as JSON; numbers that JSON cannot express (NaN, infinity) become strings.
fn value_json(value: Value<'_>) -> Json {
    match value {
        Value::Array(a) => a.iter().map(value_json).collect(),
        Value::Str(s) => s.into(),
        Value::Bool(b) => b.into(),
        Value::F32(v) => float_json(f64::from(v)),
        Value::F64(v) => float_json(v),
        Value::U64(v) => v.into(),
        v => v.as_int().and_then(|i| i64::try_from(i).ok()).into(),
    }
}

fn float_json(v: f64) -> Json {
    serde_json::Number::from_f64(v).map_or_else(|| v.to_string().into(), Json::Number)
}
