//! Mixtures of experts beside a direct computation: layers with and without experts in one file,
//! the forms of files that hold experts, shared experts, gating functions, and pruning.
//!
//! The direct computation sees one token: attention then returns the token's own values, and
//! everything else is a page of loops.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::common::tiny::{Tiny, dense_layer, expert_layer};
use geb::calibrate;
use geb::gguf::writer::MetaValue;
use geb::gguf::{GgufFile, Load};
use geb::model::Model;
use geb::model::inputs::InputStats;
use geb::session::{Session, SessionOptions, Want};
use geb::{Dtype, Error};
use geb_convert::{self as convert, Options};
use geb_kernels::Effort;

fn model(tiny: &Tiny) -> Result<Arc<Model>, Error> {
    Model::load(Arc::new(
        GgufFile::from_bytes(tiny.bytes()).expect("a valid file"),
    ))
}

/// Logits of each token alone.
fn singles(model: &Arc<Model>, tokens: &[u32]) -> Vec<Vec<f32>> {
    let options = SessionOptions {
        threads: 2,
        ..Default::default()
    };
    let mut session = Session::new(model.clone(), &options).expect("session");
    let mut one = |t: &u32| {
        session.reset();
        session
            .forward(&[*t], Want::Last)
            .expect("forward")
            .to_vec()
    };
    tokens.iter().map(&mut one).collect()
}

fn equals_the_direct_computation(tiny: &Tiny) {
    let tokens: Vec<u32> = (0..tiny.vocab as u32).collect();
    let model = model(tiny).expect("loads");
    for (t, got) in tokens.iter().zip(singles(&model, &tokens)) {
        let want = tiny.logits(*t as usize);
        for (got, want) in got.iter().zip(&want) {
            assert!((f64::from(*got) - want).abs() < 1e-4, "{got} {want}");
        }
    }
}

/// All tokens at once, in pieces and with several threads.
fn all(model: &Arc<Model>, threads: usize, piece: usize) -> Vec<f32> {
    let options = SessionOptions {
        threads,
        ..Default::default()
    };
    let mut session = Session::new(model.clone(), &options).expect("session");
    let ids: Vec<u32> = (0..90).map(|i| i * 7 % 23).collect();
    let mut out = Vec::new();
    for ids in ids.chunks(piece) {
        out.extend_from_slice(session.forward(ids, Want::All).expect("forward"));
    }
    out
}

/// GLaM: experts in every second layer.
fn glam() -> Tiny {
    let mut tiny = Tiny::new("llama", 4);
    tiny.routing(6, 2);
    for layer in 0..4 {
        match layer % 2 {
            0 => dense_layer(&mut tiny, layer),
            _ => expert_layer(&mut tiny, layer),
        }
    }
    tiny
}

#[test]
fn layers_with_and_without_experts_make_one_model() {
    let tiny = glam();
    equals_the_direct_computation(&tiny);
    let model = model(&tiny).expect("loads");
    let whole = all(&model, 1, 90);
    for (threads, piece) in [(1, 1), (3, 1), (2, 7), (4, 90)] {
        assert!(
            all(&model, threads, piece) == whole,
            "{threads} threads, pieces of {piece}"
        );
    }
}

fn sparse(arch: &str) -> Tiny {
    let mut tiny = Tiny::new(arch, 2);
    tiny.routing(5, 3);
    (0..2).for_each(|layer| expert_layer(&mut tiny, layer));
    tiny
}

#[test]
fn gating_is_what_the_file_says() {
    let mut tiny = sparse("llama");
    tiny.key("expert_gating_func", MetaValue::U32(2));
    tiny.key("expert_weights_norm", MetaValue::Bool(false));
    tiny.key("expert_weights_scale", MetaValue::F32(1.5));
    (tiny.sigmoid, tiny.renormalise, tiny.scale) = (true, false, 1.5);
    equals_the_direct_computation(&tiny);
    tiny.key("expert_weights_norm", MetaValue::Bool(true));
    tiny.renormalise = true;
    equals_the_direct_computation(&tiny);
    tiny.key("expert_gating_func", MetaValue::U32(3));
    let error = model(&tiny).map(|_| ()).unwrap_err().to_string();
    assert!(
        error.contains("expert_gating_func is 3, allowed: 1 (softmax), 2 (sigmoid)"),
        "{error}"
    );
}

#[test]
fn an_expert_for_every_token_is_added() {
    for stored_as_vector in [false, true] {
        let mut tiny = sparse("qwen2moe");
        tiny.renormalise = false;
        tiny.share(24);
        if stored_as_vector {
            tiny.flatten("ffn_gate_inp_shexp");
        }
        equals_the_direct_computation(&tiny);
    }
}

#[test]
fn every_form_of_file_gives_the_same_bits() {
    let tiny = sparse("llama");
    let want = all(&model(&tiny).expect("loads"), 2, 90);
    for form in [Tiny::fused as fn(&Tiny) -> Tiny, Tiny::one_by_one] {
        assert!(all(&model(&form(&tiny)).expect("loads"), 2, 90) == want);
    }
}

#[test]
fn files_that_contradict_themselves_are_refused() {
    let refused = |change: fn(&mut Tiny), text: &str| {
        let mut tiny = sparse("llama");
        change(&mut tiny);
        let error = model(&tiny).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    refused(
        |t| t.key("expert_used_count", MetaValue::U32(6)),
        "expert_used_count is 6, allowed: at most 5",
    );
    refused(
        |t| t.key("expert_count", MetaValue::U32(0)),
        "there is no llama.expert_count",
    );
    refused(
        |t| t.key("expert_count", MetaValue::U32(4)),
        "ffn_gate_exps.weight: shape [5, 16, 32], expected [4, 16, 32]",
    );
    refused(
        |t| t.key("expert_feed_forward_length", MetaValue::U32(32)),
        "ffn_up_exps.weight: shape [5, 16, 32], expected [5, 32, 32]",
    );
    refused(
        |t| t.remove("blk.1.ffn_down_exps.weight"),
        "blk.1.ffn_down_exps.weight: missing",
    );
}

#[test]
fn only_the_experts_in_use_count_as_work() {
    let tiny = glam();
    let model = model(&tiny).expect("loads");
    let sizes: BTreeMap<&str, u64> = tiny.sizes();
    let mut want = 0;
    for (name, elements) in &sizes {
        want += match name {
            n if !n.contains("blk.") || n.contains("norm") => 0,
            n if n.contains("_exps") => elements / 6 * 2,
            _ => *elements,
        };
    }
    assert_eq!(model.products_per_token(), want);
    let unused: u64 = sizes
        .iter()
        .filter(|s| s.0.contains("_exps"))
        .map(|s| s.1 / 6 * 4)
        .sum();
    let all: u64 = sizes.values().sum();
    // All is F32; of the embedding one row is read.
    let table = sizes["token_embd.weight"];
    assert_eq!(model.bytes_per_token(), 4 * (all - unused - table));
}

/// Converts `tiny` to F32 without the experts that are not in `keep`.
fn pruned(tiny: &Tiny, keep: &str) -> Result<Vec<u8>, Error> {
    let dir = tempfile::tempdir().expect("temporary folder");
    let source = dir.path().join("all.gguf");
    std::fs::write(&source, tiny.bytes()).expect("writes");
    let options = Options {
        policy: Dtype::F32.into(),
        keep_experts: Some(keep.parse()?),
        ..Options::default()
    };
    Ok(convert::convert_to_vec(&source, &options)?.0)
}

#[test]
fn a_pruned_file_is_the_model_of_the_experts_that_are_left() {
    let whole = glam();
    let bytes = pruned(&whole, "0,2-3 3:1,4,5").expect("converts");
    let mut left = whole.clone();
    left.experts = 3;
    for (name, (shape, values)) in &mut left.tensors {
        let keep = if name.contains("blk.3.") {
            [1, 4, 5]
        } else {
            [0, 2, 3]
        };
        if name.contains("_exps") || name.contains("gate_inp") {
            let each = values.len() / shape[0];
            shape[0] = 3;
            *values = keep.map(|x| &values[x * each..(x + 1) * each]).concat();
        }
    }
    let file = GgufFile::from_bytes(bytes).expect("own file");
    for (name, (_, values)) in &left.tensors {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert!(file.tensor(name).expect(name).bytes() == bytes, "{name}");
    }
    let model = Model::load(Arc::new(file)).expect("loads");
    let tokens: Vec<u32> = (0..left.vocab as u32).collect();
    for (t, got) in tokens.iter().zip(singles(&model, &tokens)) {
        for (got, want) in got.iter().zip(left.logits(*t as usize)) {
            assert!((f64::from(*got) - want).abs() < 1e-4, "{got} {want}");
        }
    }
}

#[test]
fn pruning_refuses_what_the_file_has_not() {
    let cases = [
        ("0,6", "6, allowed: 0..6"),
        ("0,1 3:0", "1 in layer 3, allowed: 2 as in the other layers"),
        ("0,1 2:0,1", "layer 2, allowed: a layer with experts"),
        ("1:0,1", "0 in layer 3"),
    ];
    for (keep, text) in cases {
        let error = pruned(&glam(), keep).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    let error = pruned(&glam().one_by_one(), "0,1").unwrap_err().to_string();
    assert!(error.contains("one tensor of three dimensions"), "{error}");
    let mut dense = Tiny::new("llama", 1);
    dense_layer(&mut dense, 0);
    let error = pruned(&dense, "0").unwrap_err().to_string();
    assert!(error.contains("the source has no experts"), "{error}");
}

/// Experts on disk: the same bits with room for two of six experts, and no more than the limit held.
#[test]
fn limited_memory_changes_nothing_but_what_is_held() {
    let tiny = glam();
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("glam.gguf");
    std::fs::write(&path, tiny.bytes()).expect("writes");
    let open = |load| {
        let file = GgufFile::open(&path, load).expect("opens");
        Model::load(Arc::new(file)).expect("loads")
    };
    let (mapped, copied) = (open(Load::Map), open(Load::Copy));
    let want = all(&mapped, 2, 90);
    let options = |max_ram| SessionOptions {
        threads: 2,
        max_ram: Some(max_ram),
        ..Default::default()
    };
    // The message of a limit that is too low tells the lowest one, rounded.
    let refused = |model: &Arc<Model>, limit| {
        let error = Session::new(model.clone(), &options(limit)).map(|_| ());
        error.unwrap_err().to_string()
    };
    let error = refused(&mapped, 1000);
    assert!(error.contains("is 0.0 MB, allowed: at least "), "{error}");
    for part in [
        "weights that every token uses",
        "cache and buffers",
        "the 2 experts of a token in one layer",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert!(refused(&copied, 1 << 30).contains("mapped file"));
    let memory = Session::new(mapped.clone(), &options(1 << 30))
        .expect("session")
        .memory();
    let sizes = tiny.sizes();
    let experts: u64 = sizes
        .iter()
        .filter(|s| s.0.contains("_exps"))
        .map(|s| 4 * s.1)
        .sum();
    // Two layers of six experts.
    let one = experts / 12;
    let lowest = memory.weights - experts + memory.kv + memory.scratch + 2 * one;
    refused(&mapped, lowest - 1);
    for (limit, piece) in [
        (lowest, 1),
        (lowest, 90),
        (lowest + 3 * one, 1),
        (1 << 30, 90),
    ] {
        let mut session = Session::new(mapped.clone(), &options(limit)).expect("session");
        let ids: Vec<u32> = (0..90).map(|i| i * 7 % 23).collect();
        let mut got = Vec::new();
        for ids in ids.chunks(piece) {
            got.extend_from_slice(session.forward(ids, Want::All).expect("forward"));
            let s = session.streamed().expect("a limit");
            assert!(
                s.held <= s.budget && s.budget == limit - (lowest - 2 * one),
                "{s:?}"
            );
        }
        assert!(got == want, "limit {limit}, pieces of {piece}");
        let s = session.streamed().expect("a limit");
        match limit {
            l if l == lowest && piece == 90 => assert!(s.read >= experts, "{s:?}"),
            l if l == lowest => assert!(s.read > 10 * experts, "{s:?}"),
            1073741824 => assert!(s.read <= experts && s.held == s.read, "{s:?}"),
            _ => assert!(s.found > 0, "{s:?}"),
        }
    }
}

/// The experts of a layer have sums of their own, of the tokens that reached them; one that none
/// reached does not stop the quantizer.
#[test]
fn statistics_count_the_tokens_of_each_expert() {
    let tiny = sparse("llama");
    let model = model(&tiny).expect("loads");
    let mut session = Session::new(model.clone(), &SessionOptions::default()).expect("session");
    let mut stats = InputStats::new(&model, false).expect("memory");
    let ids = [4, 4, 4, 4];
    session.observe(&ids, &mut stats).expect("runs");
    stats.end_chunk().expect("finite");
    let find = |name: &str| {
        let mut inputs = stats.inputs().iter();
        inputs
            .find(|i| i.names.iter().any(|n| n == name))
            .expect("an input")
    };
    let (router, experts) = (
        find("blk.0.ffn_gate_inp.weight"),
        find("blk.0.ffn_up_exps.weight"),
    );
    assert_eq!(experts.names.len(), 2);
    assert_eq!(experts.tokens.len(), 5);
    // Four equal tokens, though at different positions: some experts have none.
    assert_eq!(experts.tokens.iter().sum::<u64>(), 12);
    assert!(experts.tokens.contains(&0), "{:?}", experts.tokens);
    let n = router.cols;
    for c in 0..n {
        let all: f32 = (0..5).map(|x| experts.squares[x * n + c]).sum();
        assert!((all - 3.0 * router.squares[c]).abs() <= 1e-5 * all, "{c}");
    }
    let dir = tempfile::tempdir().expect("temporary folder");
    let (matrix, source) = (dir.path().join("m.gguf"), dir.path().join("s.gguf"));
    std::fs::write(&source, tiny.bytes()).expect("writes");
    let origin = calibrate::Origin::new(&dir.path().join("text"), "text", 4);
    calibrate::write(&matrix, &origin, 1, &stats).expect("writes");
    let file = GgufFile::open(&matrix, Load::Map).expect("opens");
    let sums = file
        .tensor("blk.0.ffn_down_exps.weight.in_sum2")
        .expect("a tensor");
    assert_eq!(sums.info().dims, [16, 5]);
    let convert = |threads, keep: Option<&str>| {
        let options = Options {
            policy: Dtype::Q4_0.into(),
            imatrix: Some(matrix.clone()),
            search: Effort::Fast,
            threads: Some(threads),
            keep_experts: keep.map(|k| k.parse().expect("a list")),
            ..Options::default()
        };
        convert::convert_to_vec(&source, &options)
    };
    let bytes = convert(1, None).expect("converts").0;
    assert!(bytes == convert(3, None).expect("converts").0);
    // The statistics of a file before it is pruned are not those of the pruned one.
    let error = convert(1, Some("0,1")).unwrap_err().to_string();
    assert!(error.contains("is 5, allowed: 2"), "{error}");
}
