//! From what was measured to the result.

use geb::gguf::GgufFile;
use geb_eval::{TextRun, weights};

use super::bench::{Bench, kv_name};
use super::state::Measured;
use super::tasks::Task;
use super::{Plan, machine};
use geb_eval::compare::result::{
    Comparison, GroupError, Row, TaskInfo, TextInfo, TypeShare, WorstBlock,
};

/// The result of all rows.
pub fn assemble(
    plan: &Plan<'_>,
    bench: &Bench,
    measured: &Measured,
    texts: Vec<TextInfo>,
    weights: &[Vec<weights::TensorError>],
) -> Comparison {
    let lane = &bench.lanes[bench.widest];
    let reports: Vec<_> = measured.texts.iter().map(TextRun::reports).collect();
    let tasks: Vec<(&Task, &Vec<_>)> = plan.tasks.iter().zip(&measured.tasks).collect();
    let rows = bench.rows.iter().copied().enumerate().map(|(r, (i, kv))| {
        let (candidate, opened) = (plan.file(i), &bench.opened[i]);
        let several = plan.kv.len() > 1 && r > 0;
        let cache = if several {
            format!(" kv {}", kv_name(kv))
        } else {
            String::new()
        };
        let alone = measured.alone.get(r).copied().unwrap_or_default();
        let errors = i.checked_sub(1).and_then(|i| weights.get(i));
        Row {
            name: format!("{}{cache}", candidate.name),
            file: candidate.path.display().to_string(),
            command: candidate.command.clone(),
            kv: lane.sessions[r].kv_type().name().to_owned(),
            peak_memory_bytes: alone.peak_memory_bytes,
            load_s: alone.load_s,
            speed: measured.times.speeds(&plan.speed, &bench.lanes, r),
            tasks: tasks
                .iter()
                .map(|(t, records)| t.score(records, r))
                .collect(),
            texts: reports.iter().filter_map(|t| t.get(r).cloned()).collect(),
            weights: errors.map_or(Vec::new(), |e| groups(e)),
            worst_block: errors.and_then(|e| worst_block(e)),
            ..about(&opened.file)
        }
    });
    Comparison {
        version: env!("CARGO_PKG_VERSION").into(),
        title: plan.title.clone(),
        command: machine::command(),
        date: machine::date(),
        machine: machine::this(lane.sessions[0].kernels().level().name()),
        texts,
        tasks: tasks
            .iter()
            .map(|(t, _)| TaskInfo {
                name: t.name.clone(),
                questions: t.bank.len(),
            })
            .collect(),
        speed: (plan.speed.rounds > 0).then(|| measured.times.info(&plan.speed, &bench.lanes)),
        rows: rows.collect(),
        order: Vec::new(),
        missed: Vec::new(),
        warnings: Vec::new(),
    }
}

/// Size, bits and types of a file.
fn about(file: &GgufFile) -> Row {
    let weights: u64 = file.tensors().map(|t| t.info().elements()).sum();
    let mut by_type = std::collections::BTreeMap::new();
    for t in file.tensors() {
        *by_type.entry(t.dtype().name()).or_insert(0u64) += t.bytes().len() as u64;
    }
    let all: u64 = by_type.values().sum();
    let mut types: Vec<TypeShare> = by_type
        .into_iter()
        .map(|(name, n)| TypeShare {
            name: name.to_owned(),
            share: n as f64 / all.max(1) as f64,
        })
        .collect();
    types.sort_by(|a, b| b.share.total_cmp(&a.share));
    Row {
        bytes: file.file_bytes(),
        bits_per_weight: all as f64 * 8.0 / weights.max(1) as f64,
        types,
        ..Row::default()
    }
}

/// `blk.3.attn_q.weight` is group `attn_q` of layer 3.
fn groups(errors: &[weights::TensorError]) -> Vec<GroupError> {
    let group = |e: &weights::TensorError| {
        let name = e.name.trim_end_matches(".weight");
        let in_layer = name
            .strip_prefix("blk.")
            .and_then(|rest| rest.split_once('.'));
        let (layer, group) = match in_layer {
            Some((layer, group)) => (layer.parse().ok(), group),
            None => (None, name),
        };
        GroupError {
            group: group.to_owned(),
            layer,
            dtype: e.dtype.name().to_owned(),
            error: e.relative(),
        }
    };
    errors.iter().map(group).collect()
}

fn worst_block(errors: &[weights::TensorError]) -> Option<WorstBlock> {
    let worst = errors.iter().max_by(|a, b| a.worst.total_cmp(&b.worst))?;
    Some(WorstBlock {
        tensor: worst.name.clone(),
        index: worst.worst_at,
        error: worst.worst,
    })
}
