//! `geb-run probe`: states, attention and heads of a model on a text.

use std::time::Instant;

use geb::logits::top_k;
use geb::session::{Session, Want};
use geb::tokenizer::Tokenizer;
use geb_eval::needle::Plan;
use geb_eval::probe::{Attended, Probe, ProbeOptions, heads};
use geb_eval::retrieval::{self, Retrieval};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::args::{KvHow, ProbeArgs};
use crate::eval::encode_text;
use crate::interrupt::Interrupt;
use crate::load::{self, Loaded};
use crate::outputs;
use crate::progress::Progress;
use crate::report::{Failure, Outcome, note, out, out_line, table};

/// What was looked at, and how it is shown.
struct Look<'a> {
    args: &'a ProbeArgs,
    session: &'a mut Session,
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    positions: Vec<usize>,
    text: String,
    json: Value,
}

/// Runs the command.
pub fn run(args: &ProbeArgs, interrupt: &Interrupt) -> Outcome {
    let opened = load::open(&args.model, None)?;
    let tokenizer = load::tokenizer(&opened)?;
    let mut cpu = args.cpu.clone();
    if !matches!(cpu.kv, KvHow::Auto | KvHow::F32) {
        return Err(Failure::usage("--kv is not f32, as probes need it"));
    }
    cpu.kv = KvHow::F32;
    let mut loaded = load::load(opened, &cpu, interrupt, Instant::now())?;
    if args.retrieval {
        return find_retrieval(args, &mut loaded, &tokenizer, interrupt);
    }
    let ids = text_ids(args, &tokenizer)?;
    let last = ids.len() - 1;
    let positions = match args.positions.as_slice() {
        [] if args.states.is_some() && !args.lens && !args.heads => (0..=last).collect(),
        [] => vec![last],
        given => given.to_vec(),
    };
    if let Some(p) = positions.iter().find(|p| **p > last) {
        let message = format!("--positions {p} is not in the text of {} tokens", last + 1);
        return Err(Failure::usage(message));
    }
    let path = loaded.opened.path.clone();
    let mut look = Look {
        json: json!({ "model": path, "heads": heads(loaded.session.model()) }),
        args,
        session: &mut loaded.session,
        tokenizer: &tokenizer,
        ids,
        positions,
        text: String::new(),
    };
    interrupt.during(|| look.all()).map_err(|e| match e {
        Stop::Library(e) => load::at(&path, e),
        Stop::Tool(failure) => failure,
    })?;
    match args.json {
        true => out_line(&look.json.to_string()),
        false => out(&look.text),
    }
}

/// Why a look ends early.
enum Stop {
    Library(geb::Error),
    Tool(Failure),
}

impl From<geb::Error> for Stop {
    fn from(e: geb::Error) -> Stop {
        Stop::Library(e)
    }
}

fn text_ids(args: &ProbeArgs, tokenizer: &Tokenizer) -> Outcome<Vec<u32>> {
    let limit = geb::limits::MAX_PROMPT_BYTES;
    let text = match (&args.prompt, &args.file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => load::read_prompt(path, limit)?,
        (None, None) => String::new(),
    };
    let ids = encode_text(tokenizer, &text, true)?;
    match ids.len() {
        0 | 1 => Err(Failure::usage("the text has fewer than 2 tokens")),
        _ => Ok(ids),
    }
}

impl Look<'_> {
    fn all(&mut self) -> Result<(), Stop> {
        let args = self.args;
        let options = ProbeOptions {
            positions: self.positions.clone(),
            states: args.lens || args.states.is_some(),
            attention: args.heads,
            ablate: Vec::new(),
        };
        let (probe, loss) = self.observe(&options)?;
        let tokens = self.ids.iter().enumerate();
        let token = |(i, id): (usize, &u32)| json!({ "position": i, "id": id, "text": self.tokenizer.piece(*id) });
        self.json["tokens"] = tokens.map(token).collect();
        if args.lens {
            self.lens(&probe)?;
        }
        if args.heads {
            self.heads(&probe.attention);
        }
        if let Some(path) = &args.states {
            self.write_states(&probe, path).map_err(Stop::Tool)?;
        }
        if !args.ablate.is_empty() {
            self.ablate(loss)?;
        }
        Ok(())
    }

    /// Runs the text; the mean of `-log p(token)` over all tokens but the first, nats.
    fn observe(&mut self, options: &ProbeOptions) -> Result<(Probe, f64), Stop> {
        let mut probe = Probe::new(self.session.model(), options)?;
        self.session.reset();
        let (mut nll, vocab) = (0.0, self.session.model().config().vocab);
        for (i, part) in self.ids.chunks(128).enumerate() {
            let logits = self.session.forward_observed(part, Want::All, &mut probe)?;
            let next = &self.ids[128 * i + 1..];
            for (row, id) in logits.chunks_exact(vocab).zip(next) {
                nll -= log_probs(row)[*id as usize];
            }
        }
        Ok((probe, nll / (self.ids.len() - 1) as f64))
    }

    fn piece(&self, position: usize) -> String {
        format!("{:?}", self.tokenizer.piece(self.ids[position]))
    }

    fn lens(&mut self, probe: &Probe) -> Result<(), Stop> {
        let e = self.session.model().config().embedding_length;
        let (mut list, top) = (Vec::new(), self.args.top);
        for (i, &position) in self.positions.clone().iter().enumerate() {
            let mut rows = Vec::new();
            for (depth, states) in probe.states.iter().enumerate() {
                let row = log_probs(self.session.lens(&states[i * e..(i + 1) * e])?);
                let short: Vec<f32> = row.iter().map(|v| *v as f32).collect();
                let best = top_k(&short, top);
                let text = |id: u32| self.tokenizer.piece(id);
                let one = |(id, v): &(u32, f32)| json!({ "id": id, "text": text(*id), "logprob": f64::from(*v) });
                list.push(json!({
                    "position": position,
                    "depth": depth,
                    "top": best.iter().map(one).collect::<Vec<_>>(),
                }));
                let cell = |(id, v): &(u32, f32)| format!("{:?} {:.3}", text(*id), v.exp());
                let cells = best.iter().map(cell);
                rows.push([depth.to_string()].into_iter().chain(cells).collect());
            }
            self.text += &format!("after {} at {position}, by layers:\n", self.piece(position));
            self.text += &table(&rows);
        }
        self.json["lens"] = list.into();
        Ok(())
    }

    fn heads(&mut self, rows: &[Attended]) {
        let mut lines: Vec<Vec<String>> = Vec::new();
        for row in rows {
            let cell = |(at, weight): (u32, f32)| {
                let position = row.first + at as usize;
                format!("{position} {} {weight:.3}", self.piece(position))
            };
            let best = top_k(&row.weights, self.args.top).into_iter().map(cell);
            let name = format!("{}.{}", row.layer, row.head);
            let from = format!("from {}", row.position);
            lines.push([name, from].into_iter().chain(best).collect());
        }
        self.text += &table(&lines);
        let one = |r: &Attended| {
            json!({
                "layer": r.layer,
                "head": r.head,
                "position": r.position,
                "first": r.first,
                "weights": r.weights,
            })
        };
        self.json["attention"] = rows.iter().map(one).collect();
    }

    fn write_states(&mut self, probe: &Probe, path: &std::path::Path) -> Outcome {
        let e = self.session.model().config().embedding_length;
        let floats = probe.states.iter().flatten();
        let bytes: Vec<u8> = floats.flat_map(|v| v.to_le_bytes()).collect();
        let shape = vec![probe.states.len(), self.positions.len(), e];
        let said = format!("{}: states F32 {shape:?}", path.display());
        let data = TensorView::new(Dtype::F32, shape, &bytes)
            .and_then(|view| safetensors::serialize([("states", view)], None))
            .map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
        let over = outputs::STATES.or_any(self.args.force);
        outputs::write(path, &data, over)?;
        self.json["states"] = json!(path);
        if !self.args.output.quiet {
            note(said);
        }
        Ok(())
    }

    fn ablate(&mut self, before: f64) -> Result<(), Stop> {
        let chosen = chosen(&self.args.ablate, &heads(self.session.model())).map_err(Stop::Tool)?;
        let options = ProbeOptions {
            ablate: chosen.clone(),
            ..Default::default()
        };
        let (_, after) = self.observe(&options)?;
        self.text += &format!(
            "without {} heads: loss {before:.4} → {after:.4} nats per token, perplexity {:.3} → {:.3}\n",
            chosen.len(),
            before.exp(),
            after.exp()
        );
        self.json["ablation"] = json!({ "heads": chosen, "loss": before, "loss_without": after });
        Ok(())
    }
}

/// Natural logarithms of the softmax of a row.
fn log_probs(row: &[f32]) -> Vec<f64> {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|v| f64::from(v - most).exp()).sum();
    let less = f64::from(most) + sum.ln();
    row.iter().map(|v| f64::from(*v) - less).collect()
}

/// `3.1`, `8.*` or `all` as layers and heads; `heads` has those of each layer.
fn chosen(typed: &[String], heads: &[usize]) -> Outcome<Vec<(usize, usize)>> {
    let mut all = Vec::new();
    let of = |layer: usize| (0..heads[layer]).map(move |head| (layer, head));
    for word in typed {
        let bad = || {
            let message = format!("--ablate {word} is no head of this model");
            Failure::usage(message).hint(format!(
                "LAYER.HEAD with layers 0 to {}, LAYER.* or all",
                heads.len() - 1
            ))
        };
        if word == "all" {
            all.extend((0..heads.len()).flat_map(of));
            continue;
        }
        let (layer, head) = word.split_once('.').ok_or_else(bad)?;
        let layer = layer.parse().ok().filter(|l| *l < heads.len());
        let layer: usize = layer.ok_or_else(bad)?;
        if head == "*" {
            all.extend(of(layer));
            continue;
        }
        let head = head.parse().ok().filter(|h| *h < heads[layer]);
        all.push((layer, head.ok_or_else(bad)?));
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// `--retrieval`.
fn find_retrieval(
    args: &ProbeArgs,
    loaded: &mut Loaded,
    tokenizer: &Tokenizer,
    interrupt: &Interrupt,
) -> Outcome {
    let plan = Plan {
        lengths: args.lengths.clone(),
        depths: args.depths.iter().map(|d| f64::from(*d) / 100.0).collect(),
        needles: args.needles,
        haystack: None,
    };
    let mut progress = Progress::new("needles", "prompts", &args.output);
    let total = plan.trials();
    let mut observe = |done| {
        progress.update(done, total);
        !interrupt.pressed()
    };
    let path = loaded.opened.path.clone();
    let session = &mut loaded.session;
    let found = interrupt.during(|| retrieval::run(session, tokenizer, &plan, &mut observe));
    let found = found.map_err(|e| load::at(&path, e))?;
    drop(progress);
    if args.json {
        let scores = |(l, heads): (usize, &Vec<usize>)| -> Vec<f64> {
            (0..heads.len()).map(|h| found.score(l, h)).collect()
        };
        let scores: Vec<_> = found.hits.iter().enumerate().map(scores).collect();
        let value = json!({ "model": path, "retrieval": found, "scores": scores });
        return out_line(&value.to_string());
    }
    out(&retrieval_text(&found, args.top))
}

fn retrieval_text(found: &Retrieval, top: usize) -> String {
    let ranking = found.ranking();
    let share = |least: f64| ranking.iter().filter(|r| r.2 >= least).count();
    let mut text = format!(
        "{} answer tokens, {} of them predicted; of {} heads {} copy a tenth or more, {} half or more\n",
        found.tokens,
        found.predicted,
        ranking.len(),
        share(0.1),
        share(0.5)
    );
    let line =
        |(l, h, score): &(usize, usize, f64)| vec![format!("{l}.{h}"), format!("{score:.3}")];
    let mut rows = vec![vec!["head".to_owned(), "score".to_owned()]];
    rows.extend(ranking.iter().take(top).map(line));
    text += &table(&rows);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_named_by_layer_and_number() {
        let typed = |text: &str| -> Vec<String> { text.split(',').map(str::to_owned).collect() };
        let found = |text| chosen(&typed(text), &[2, 0, 3]).ok();
        assert_eq!(found("2.1,0.0"), Some(vec![(0, 0), (2, 1)]));
        assert_eq!(found("0.*,0.1"), Some(vec![(0, 0), (0, 1)]));
        assert_eq!(found("all").map(|all| all.len()), Some(5));
        for wrong in ["3.0", "0.2", "1.0", "0", "x.1", "0.-1", ""] {
            assert_eq!(found(wrong), None, "{wrong}");
        }
    }
}
