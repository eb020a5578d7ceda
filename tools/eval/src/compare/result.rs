//! What a comparison found, as plain numbers: the table, the page and the JSON are made of it.

use crate::{Divergence, Report};
use serde::Serialize;

use super::loss::Finding;

/// Middle and quarters of repeated measurements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Middle value.
    pub median: f64,
    /// A quarter of the measurements is below.
    pub low: f64,
    /// A quarter is above.
    pub high: f64,
}

impl Spread {
    /// Of all values; `None` without any. Quartiles by linear interpolation.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let x = share * (sorted.len() as f64 - 1.0);
            let (i, part) = (x.floor() as usize, x.fract());
            let next = sorted[(i + 1).min(sorted.len() - 1)];
            sorted[i] + part * (next - sorted[i])
        };
        (!values.is_empty()).then(|| Spread {
            median: at(0.5),
            low: at(0.25),
            high: at(0.75),
        })
    }

    /// Distance of the quarters, share of the middle.
    pub fn width(&self) -> f64 {
        (self.high - self.low) / self.median
    }
}

/// A row: the base or a candidate with one type of KV cache.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// Type or file name; the cache type where several were asked for.
    pub name: String,
    /// The file.
    pub file: String,
    /// The command that makes this file, if it was made here.
    pub command: Option<String>,
    /// Size of the file.
    pub bytes: u64,
    /// Over all tensors.
    pub bits_per_weight: f64,
    /// Tensor types and their shares of the bytes, largest first.
    pub types: Vec<TypeShare>,
    /// Type of the KV cache.
    pub kv: String,
    /// Highest resident memory of a process that runs this row alone, mapped weights included.
    pub peak_memory_bytes: Option<u64>,
    /// Time from opening the file to a session in that process.
    pub load_s: Option<f64>,
    /// Per number of threads.
    pub speed: Vec<Speed>,
    /// Per text.
    pub texts: Vec<Report>,
    /// Per task.
    pub tasks: Vec<TaskScore>,
    /// Difference of the weights from the base, per group and layer.
    pub weights: Vec<GroupError>,
    /// The block of weights that differs most from the base.
    pub worst_block: Option<WorstBlock>,
    /// No other row is better in one of size, speed, divergence and as good in the others.
    pub pareto: bool,
    /// How much is lost on the texts; `None` for the base and without texts.
    pub finding: Option<Finding>,
    /// In plain words.
    pub verdict: String,
}

/// Bytes of one tensor type.
#[derive(Clone, Debug, Serialize)]
pub struct TypeShare {
    /// Name of the type.
    pub name: String,
    /// Share of the tensor bytes, 0..=1.
    pub share: f64,
}

/// Speed of a row with one number of threads.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Speed {
    /// Worker threads.
    pub threads: usize,
    /// Tokens per second.
    pub prefill: Spread,
    /// Tokens per second.
    pub decode: Spread,
    /// Seconds until the logits of a prompt are there (median).
    pub first_token_s: f64,
    /// Ratios to the base of the same round.
    pub prefill_ratio: Spread,
    /// Ratios to the base of the same round.
    pub decode_ratio: Spread,
    /// Weights and cache read while decoding.
    pub decode_gb_s: f64,
    /// Share of what the machine can read; `None` for a model that fits into caches.
    pub decode_share: Option<f64>,
}

/// Answers of a row to multiple choice questions.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TaskScore {
    /// Questions.
    pub questions: u64,
    /// Share answered right, with its 95 % interval.
    pub accuracy: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Right by the base, wrong here.
    pub lost: u64,
    /// Wrong by the base, right here.
    pub gained: u64,
    /// Another answer, wrong before and after.
    pub moved: u64,
    /// McNemar's test of `lost` against `gained`.
    pub mcnemar_p: f64,
}

/// Relative difference of the weights of one kind in one layer from those of the base.
#[derive(Clone, Debug, Serialize)]
pub struct GroupError {
    /// `attn_q`, `ffn_down`, `token_embd`, …
    pub group: String,
    /// The layer; `None` for what belongs to none.
    pub layer: Option<usize>,
    /// Type in the candidate.
    pub dtype: String,
    /// ‖x − y‖ / ‖x‖.
    pub error: f64,
}

/// Where a candidate differs most.
#[derive(Clone, Debug, Serialize)]
pub struct WorstBlock {
    /// The tensor.
    pub tensor: String,
    /// Index of its first weight.
    pub index: u64,
    /// ‖x − y‖ / ‖x‖ of 32 weights.
    pub error: f64,
}

/// A text.
#[derive(Clone, Debug, Serialize)]
pub struct TextInfo {
    /// File name without folder.
    pub name: String,
    /// As given.
    pub file: String,
    /// Tokens of the whole text.
    pub tokens: usize,
    /// Evaluated windows.
    pub windows: usize,
    /// Tokens of a window.
    pub window: usize,
    /// First counted position.
    pub count_from: usize,
}

/// A task.
#[derive(Clone, Debug, Serialize)]
pub struct TaskInfo {
    /// Format and folder.
    pub name: String,
    /// Questions.
    pub questions: usize,
}

/// How speed was measured, and what the machine did meanwhile.
#[derive(Clone, Debug, Serialize)]
pub struct SpeedInfo {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Decoded tokens.
    pub decode: usize,
    /// Rounds that count.
    pub rounds: usize,
    /// Measured read bandwidth per number of threads.
    pub read_gb_s: Vec<(usize, f64)>,
    /// Share of the machine's CPU time that other programs had.
    pub others: Option<f64>,
    /// Share that the hypervisor gave to other machines.
    pub stolen: Option<f64>,
}

/// The machine.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Machine {
    /// Name of the processor, cores, quota.
    pub cpu: String,
    /// Instruction level of the kernels.
    pub isa: String,
    /// Operating system.
    pub system: String,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
}

/// A gate that a row missed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Missed {
    /// The row.
    pub row: String,
    /// What it was, and what was asked.
    pub what: String,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Version of this program.
    pub version: String,
    /// What is compared.
    pub title: String,
    /// The command line.
    pub command: String,
    /// When it ended, UTC.
    pub date: String,
    /// Where.
    pub machine: Machine,
    /// The texts.
    pub texts: Vec<TextInfo>,
    /// The tasks.
    pub tasks: Vec<TaskInfo>,
    /// The method of the speed columns, if measured.
    pub speed: Option<SpeedInfo>,
    /// The base first.
    pub rows: Vec<Row>,
    /// Per text, candidates by their divergence.
    pub order: Vec<String>,
    /// Gates that were missed.
    pub missed: Vec<Missed>,
    /// What makes the numbers doubtful.
    pub warnings: Vec<String>,
}

impl Row {
    /// Against the base, on text `i`; `None` for the base itself.
    pub fn divergence(&self, i: usize) -> Option<&Divergence> {
        self.texts.get(i)?.against_base.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarters() {
        let s = Spread::of(&[4.0, 1.0, 3.0, 2.0, 5.0]).expect("values");
        assert_eq!((s.low, s.median, s.high), (2.0, 3.0, 4.0));
        assert_eq!(s.width(), 2.0 / 3.0);
        let one = Spread::of(&[7.0]).expect("a value");
        assert_eq!((one.low, one.median, one.high), (7.0, 7.0, 7.0));
        assert_eq!(Spread::of(&[]), None);
    }
}
