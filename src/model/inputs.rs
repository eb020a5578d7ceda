//! Statistics of what goes into the linear layers, for calibration.
//!
//! For each distinct input (query, key and value share one, gate and up share one) with columns
//! `x[t]`: `sum over t of x[t][c]^2`, and if asked for `sum over t of x[t][i] x[t][j]`. Both are sums over
//! tokens in order, formed in F64 (squares) or by the float product (which adds in one order), and
//! rounded to F32 once per chunk or batch: neither threads nor instruction levels change a bit, and
//! a state read back from a file goes on exactly where it stopped.

use std::collections::HashMap;

use geb_kernels::dtype::Dtype;
use geb_kernels::mat::MatMut;
use geb_kernels::team::Leader;
use geb_kernels::{ActKind, Activations, Kernels};

use super::Model;
use super::observer::Observer;
use super::weights::{Layer, Linear, QMatrix};
use crate::error::{Error, Result};
use crate::ram;

/// Columns of the second moments that are computed at a time.
const PANEL: usize = 256;
/// Outputs of one claim of a thread.
const STEP: usize = 16;

/// The sums of one input; of the inputs of a layer's experts, those of one role together.
pub struct Input {
    /// The tensors that read it; the first one names it.
    pub names: Vec<String>,
    /// Columns.
    pub cols: usize,
    /// Tokens seen, by each of the matrices: one, or as many as there are experts.
    pub tokens: Vec<u64>,
    /// Sums of squares, `[matrices, cols]`.
    pub squares: Vec<f32>,
    /// Second moments, `[cols, cols]`, symmetric; empty if not asked for, and for experts.
    pub moments: Vec<f32>,
    /// Squares and tokens of the chunk that is being added.
    chunk: (Vec<f64>, Vec<u64>),
}

/// The sums of all inputs of a model's layers and of its output matrix.
pub struct InputStats {
    inputs: Vec<Input>,
    /// Where the bytes of a weight start; which input it reads, and as which matrix.
    readers: HashMap<usize, (usize, usize)>,
    /// A batch with tokens as columns, and products of a panel.
    turned: Vec<f32>,
    product: Vec<f32>,
    acts: Activations,
}

/// The inputs of a model's layers and of its output matrix.
fn inputs(model: &Model) -> impl Iterator<Item = Vec<&[Linear]>> {
    let w = model.weights();
    let output = vec![std::slice::from_ref(&w.output)];
    w.layers.iter().flat_map(Layer::inputs).chain([output])
}

fn cols(groups: &[&[Linear]]) -> usize {
    let first = groups.first().and_then(|g| g.first());
    first.map_or(0, |w| w.weight.cols)
}

/// Second moments of an input: those of experts would take as much room as their weights.
fn moments(groups: &[&[Linear]], covariance: bool) -> usize {
    let wanted = covariance && groups.len() == 1;
    if wanted { cols(groups).pow(2) } else { 0 }
}

impl InputStats {
    /// Zeros for each input of a matrix of `model`; `covariance` asks for second moments too.
    ///
    /// # Errors
    /// [`Error::Memory`] when they do not fit.
    pub fn new(model: &Model, covariance: bool) -> Result<InputStats> {
        let needed = Self::bytes(model, covariance);
        ram::check(|| "statistics of all inputs".into(), needed)?;
        let names: HashMap<usize, String> = model
            .file()
            .tensors()
            .map(|t| (t.info().range.start, t.info().name.clone()))
            .collect();
        let mut stats = InputStats {
            inputs: Vec::new(),
            readers: HashMap::new(),
            turned: Vec::new(),
            product: Vec::new(),
            acts: Activations::default(),
        };
        let mut add = |groups: &[&[Linear]]| {
            let (cols, matrices) = (cols(groups), groups.len());
            let mut of = Vec::new();
            for (matrix, group) in groups.iter().enumerate() {
                for start in group.iter().map(|w| w.weight.range.start) {
                    stats.readers.insert(start, (stats.inputs.len(), matrix));
                    of.extend(names.get(&start).cloned());
                }
            }
            stats.inputs.push(Input {
                names: of,
                cols,
                tokens: vec![0; matrices],
                squares: vec![0.0; matrices * cols],
                moments: vec![0.0; moments(groups, covariance)],
                chunk: (vec![0.0; matrices * cols], vec![0; matrices]),
            });
        };
        // Experts that are tensors of their own have statistics of their own.
        let named = |g: &&[Linear]| names.contains_key(&g[0].weight.range.start);
        for groups in inputs(model) {
            if groups.iter().all(named) {
                groups.iter().for_each(|g| add(&[*g]));
            } else {
                add(&groups);
            }
        }
        Ok(stats)
    }

    /// Bytes that [`InputStats::new`] takes for `model`.
    pub fn bytes(model: &Model, covariance: bool) -> u64 {
        let one = |groups: Vec<&[Linear]>| {
            let sums = 12 * cols(&groups) * groups.len();
            (sums + 4 * moments(&groups, covariance)) as u64
        };
        inputs(model).map(one).sum()
    }

    /// The inputs, in the order of the layers.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// The inputs, to continue from sums read from a file.
    pub fn inputs_mut(&mut self) -> &mut [Input] {
        &mut self.inputs
    }

    /// Ends a chunk: its squares join the sums.
    ///
    /// # Errors
    /// [`Error::NonFinite`] naming the tensor.
    pub fn end_chunk(&mut self) -> Result<()> {
        for input in &mut self.inputs {
            let (squares, tokens) = &mut input.chunk;
            for (sum, part) in input.squares.iter_mut().zip(squares) {
                *sum = (f64::from(*sum) + *part) as f32;
                *part = 0.0;
            }
            for (sum, part) in input.tokens.iter_mut().zip(tokens) {
                *sum += std::mem::take(part);
            }
            for values in [&input.squares, &input.moments] {
                if let Some(i) = values.iter().position(|v| !v.is_finite()) {
                    let name = input.names.first().map_or("", String::as_str);
                    return Err(Error::NonFinite {
                        what: format!("statistics of the input of {name}"),
                        index: i as u64,
                        value: values[i],
                    });
                }
            }
        }
        Ok(())
    }
}

impl Observer for InputStats {
    fn input(
        &mut self,
        weight: &QMatrix,
        x: &[f32],
        (kernels, lead): (&'static Kernels, &mut Leader<'_>),
    ) {
        let Some(&(at, matrix)) = self.readers.get(&weight.range.start) else {
            return;
        };
        let input = &mut self.inputs[at];
        let (cols, n) = (input.cols, x.len() / input.cols);
        input.chunk.1[matrix] += n as u64;
        let sums = &mut input.chunk.0[matrix * cols..(matrix + 1) * cols];
        lead.chunks_mut(sums, 64, |i, sums, _| {
            for row in x.chunks_exact(cols) {
                for (sum, x) in sums.iter_mut().zip(&row[64 * i..]) {
                    *sum += f64::from(*x) * f64::from(*x);
                }
            }
        });
        if input.moments.is_empty() {
            return;
        }
        self.turned.resize(cols * n, 0.0);
        lead.chunks_mut(&mut self.turned, n, |c, column, _| {
            for (t, v) in column.iter_mut().enumerate() {
                *v = x[t * cols + c];
            }
        });
        let turned = &self.turned[..];
        self.acts.reshape(kernels, ActKind::F32, cols, n);
        let (shape, bytes) = (self.acts.shape(), self.acts.tile_bytes());
        lead.chunks_mut(self.acts.bytes_mut(), bytes, |i, tile, _| {
            kernels.fill_tile(shape, i, turned, tile)
        });
        let (acts, weights): (_, &[u8]) = (&self.acts, bytemuck::cast_slice(turned));
        self.product.resize(cols * PANEL.min(cols), 0.0);
        for first in (0..cols).step_by(PANEL) {
            let width = PANEL.min(cols - first);
            let product = &mut self.product[..cols * width];
            let out = MatMut::new(product, cols, width, width);
            lead.columns([out], STEP, |_, c, block, local| {
                let rows = 4 * n * (first + c)..4 * n * (first + c + block.cols());
                let part = &weights[rows];
                kernels.mat_mul(Dtype::F32, part, n, acts, block, &mut local.panel);
            });
            let product = &*product;
            lead.chunks_mut(&mut input.moments, cols * STEP, |i, rows, _| {
                let products = product[i * STEP * width..].chunks_exact(width);
                for (row, product) in rows.chunks_exact_mut(cols).zip(products) {
                    for (sum, p) in row[first..].iter_mut().zip(product) {
                        *sum += p;
                    }
                }
            });
        }
    }
}
