//! `geb-run bench --rows`: a pass over the weights for n sequences, one token each, which is what a server and
//! guesses live on, and its share of what the machine could do.

use std::time::Instant;

use geb::Dtype;
use geb::engine::{Engine, Span};
use geb::model::Model;
use geb::session::{Segment, Sequence, Want};
use geb::threads;
use serde_json::{Value, json};

use crate::args::BenchArgs;
use crate::interrupt::Interrupt;
use crate::limits::{Beside, LARGE};
use crate::load::{self, Opened};
use crate::progress::Progress;
use crate::rates;
use crate::report::{self, Outcome, bytes, out};
use crate::streams::ids;

/// Passes of so many rows.
struct Row {
    rows: usize,
    seconds: Vec<f64>,
    /// What one pass reads: the weights once (of experts, those of one token), the cache of every sequence.
    bytes: f64,
    /// Multiplications and additions of one pass's products, the output matrix included.
    operations: f64,
}

/// Measures with each number of rows, in turn, so that a slow moment hits all of them.
pub fn run(args: &BenchArgs, opened: &Opened, interrupt: &Interrupt) -> Outcome {
    let at = |e| load::at(&opened.path, e);
    let model = Model::load(opened.file.clone()).map_err(at)?;
    let most = args.rows.iter().copied().max().unwrap_or(1);
    let passes = args.rows.len() * (args.reps as usize + 1);
    let mut options = load::engine_options(&model, &args.cpu, interrupt)?;
    // A step has at most as many rows as the context has positions.
    let ctx = options.ctx.or(Some((args.depth + passes).max(most)));
    (options.ctx, options.streams) = (ctx, most);
    if options.threads == 0 {
        options.threads = threads::default_threads();
    }
    let mut engine = Engine::new(model, &options).map_err(at)?;
    let mut beside = Beside::new(engine.kernels(), options.threads);
    let measured = interrupt.during(|| measure(&mut engine, args, most, &mut beside, opened));
    interrupt.check()?;
    let rows = measured.map_err(at)?;
    let shown = Report {
        args,
        opened,
        engine: &engine,
        threads: options.threads,
        beside,
        rows,
    };
    if args.json {
        report::out_line(&shown.to_json().to_string())
    } else {
        out(&shown.to_text())
    }
}

/// All rounds; sequences grow by a token with each pass that they are in.
fn measure(
    engine: &mut Engine,
    args: &BenchArgs,
    most: usize,
    beside: &mut Beside,
    opened: &Opened,
) -> geb::Result<Vec<Row>> {
    let mut sequences = Vec::with_capacity(most);
    for i in 0..most {
        let text = ids(engine.model(), args.depth, i);
        sequences.push(prepared(engine, &text)?);
    }
    let id = ids(engine.model(), 1, most);
    let mut all: Vec<Row> = args
        .rows
        .iter()
        .map(|&n| Row::new(engine, &sequences[0], n, args.depth))
        .collect();
    let mut progress = Progress::new("bench", "rounds", &args.output);
    for round in 0..=args.reps as usize {
        for row in &mut all {
            let start = Instant::now();
            pass(engine, &mut sequences[..row.rows], &id, Want::Last)?;
            // The first round warms up.
            if round > 0 {
                row.seconds.push(start.elapsed().as_secs_f64());
            }
        }
        if round > 0 {
            beside.measure(opened.file.data());
        }
        progress.update(round + 1, args.reps as usize + 1);
    }
    Ok(all)
}

/// A sequence that has read `ids`; with an encoder, also a text of one token.
fn prepared(engine: &mut Engine, ids: &[u32]) -> geb::Result<Sequence> {
    let mut seq = engine.sequence()?;
    if engine.model().config().encoder.is_some() {
        engine.encode(&mut seq, &[0])?;
    }
    for part in ids.chunks(engine.batch()) {
        pass(engine, std::slice::from_mut(&mut seq), part, Want::None)?;
    }
    Ok(seq)
}

/// The same tokens for each of the sequences.
fn pass(
    engine: &mut Engine,
    sequences: &mut [Sequence],
    ids: &[u32],
    want: Want,
) -> geb::Result<()> {
    let input = Segment::Tokens(ids);
    let mut spans: Vec<_> = sequences
        .iter_mut()
        .map(|seq| Span { seq, input, want })
        .collect();
    let failed = engine.step(&mut spans)?.failed;
    match failed.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

impl Row {
    fn new(engine: &Engine, seq: &Sequence, rows: usize, depth: usize) -> Row {
        let (model, c) = (engine.model(), engine.model().config());
        let products = model.products_per_token() + (c.embedding_length * c.vocab) as u64;
        let cache = rows as u64 * engine.kv_bytes_seen(seq, depth + 1);
        Row {
            rows,
            seconds: Vec::new(),
            bytes: (model.bytes_per_token() + cache) as f64,
            operations: 2.0 * rows as f64 * products as f64,
        }
    }

    fn median(&self) -> f64 {
        rates::median(self.seconds.clone()).unwrap_or(0.0)
    }
}

/// What was measured, to be shown.
struct Report<'a> {
    args: &'a BenchArgs,
    opened: &'a Opened,
    engine: &'a Engine,
    threads: usize,
    beside: Beside,
    rows: Vec<Row>,
}

impl Report<'_> {
    /// Seconds that a pass takes at least; `None` for a model that caches could hold.
    fn bound(&self, row: &Row) -> Option<f64> {
        let file = &self.opened.file;
        let main =
            Dtype::from_name(load::main_type(file)).filter(|_| file.file_bytes() >= LARGE)?;
        let act = self.engine.kernels().act_kind(main);
        self.beside.limits().bound(act, row.bytes, row.operations)
    }

    fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let ms: Vec<f64> = row.seconds.iter().map(|s| 1e3 * s).collect();
            json!({
                "rows": row.rows,
                "ms": 1e3 * row.median(),
                "ms_all": ms,
                "tok_s": row.rows as f64 / row.median(),
                "bound_ms": self.bound(row).map(|s| 1e3 * s),
                "roofline_share": self.bound(row).map(|s| s / row.median()),
            })
        });
        let mut all = json!({
            "model": self.opened.path,
            "type": load::main_type(&self.opened.file),
            "isa": self.engine.kernels().level().name(),
            "threads": self.threads,
            "depth_tokens": self.args.depth,
            "reps": self.args.reps,
            "rows": rows.collect::<Vec<_>>(),
        });
        let limits = self.beside.limits().to_json();
        if let (Some(all), Value::Object(limits)) = (all.as_object_mut(), limits) {
            all.extend(limits);
        }
        all
    }

    fn to_text(&self) -> String {
        let (file, args) = (&self.opened.file, self.args);
        let mut text = format!(
            "model      {}\n           {}, {}\nmachine    {}, {} threads\npasses     a token for each of n sequences with {} before it, and its logits; medians of {}\n{}\n",
            self.opened.path.display(),
            load::main_type(file),
            bytes(file.file_bytes()),
            self.engine.kernels().level().name(),
            self.threads,
            args.depth,
            args.reps,
            self.beside.to_text(),
        );
        let mut lines = vec![
            ["rows", "ms", "tok/s", "bound ms", "share"]
                .map(String::from)
                .to_vec(),
        ];
        for row in &self.rows {
            let (time, bound) = (row.median(), self.bound(row));
            let show = |v: Option<String>| v.unwrap_or("-".into());
            lines.push(vec![
                row.rows.to_string(),
                format!("{:.2}", 1e3 * time),
                report::rate(row.rows as f64 / time),
                show(bound.map(|s| format!("{:.2}", 1e3 * s))),
                show(bound.map(|s| format!("{:.0} %", 100.0 * s / time))),
            ]);
        }
        text.push_str(&report::table(&lines));
        text
    }
}
