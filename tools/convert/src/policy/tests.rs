use super::*;

/// Names and dimensions.
type Tensors = Vec<(String, Vec<u64>)>;

/// A model of `layers` layers, untied, with the usual tensors, and its metadata.
fn model(layers: usize, heads: u32, kv: u32) -> (Tensors, Vec<(String, MetaValue)>) {
    let mut tensors = vec![
        (EMBEDDING.to_owned(), vec![512, 1000]),
        (OUTPUT.to_owned(), vec![512, 1000]),
        ("output_norm.weight".to_owned(), vec![512]),
    ];
    for l in 0..layers {
        for part in [
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_up",
            "ffn_down",
        ] {
            tensors.push((format!("blk.{l}.{part}.weight"), vec![512, 512]));
        }
        tensors.push((format!("blk.{l}.attn_norm.weight"), vec![512]));
    }
    let metadata = vec![
        ("general.architecture".to_owned(), "llama".into()),
        ("llama.block_count".to_owned(), (layers as u32).into()),
        ("llama.attention.head_count".to_owned(), heads.into()),
        ("llama.attention.head_count_kv".to_owned(), kv.into()),
    ];
    (tensors, metadata)
}

fn shapes(tensors: &[(String, Vec<u64>)]) -> Vec<Shape<'_>> {
    tensors.iter().map(|t| (t.0.as_str(), &t.1[..])).collect()
}

/// Names of the tensors with type `dtype`.
fn of_type(policy: &Policy, dtype: Dtype) -> Vec<String> {
    let (tensors, metadata) = model(24, 32, 8);
    let types = policy.choose(&shapes(&tensors), &metadata).unwrap();
    let named = tensors.into_iter().zip(types);
    named.filter(|t| t.1.0 == dtype).map(|t| t.0.0).collect()
}

fn single(policy: &Policy, name: &str, dims: &[u64], metadata: &[(String, MetaValue)]) -> Dtype {
    policy.choose(&[(name, dims)], metadata).unwrap()[0].0
}

#[test]
fn every_base_type_can_be_written() {
    let kernels = geb_kernels::Kernels::best().unwrap();
    for m in MIXTURES {
        let plain = matches!(m.base, Dtype::F32 | Dtype::F16 | Dtype::BF16);
        assert!(plain || kernels.writes(m.base), "{}", m.name);
    }
    for (i, m) in MIXTURES.iter().enumerate() {
        let twin = |o: &Mixture| o.name == m.name || o.file_type == m.file_type;
        assert!(!MIXTURES[..i].iter().any(twin), "{}", m.name);
    }
}

#[test]
fn rules_name_mixtures_that_exist_and_each_decides_something() {
    for (names, role, ..) in RULES {
        for name in *names {
            assert!(MIXTURES.iter().any(|m| m.name == *name), "{name} {role:?}");
        }
    }
    for (short, full) in ALIASES {
        assert_eq!(Policy::named(short).unwrap().mixture.name, *full);
    }
    assert!(Policy::named("IQ2_XS").is_err());
}

#[test]
fn layers_with_more_bits() {
    let policy = Policy::named("q4_k_m").unwrap();
    let better = of_type(&policy, Q6_K);
    let layers = [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23];
    let mut want = vec![OUTPUT.to_owned()];
    for l in layers {
        want.push(format!("blk.{l}.attn_v.weight"));
        want.push(format!("blk.{l}.ffn_down.weight"));
    }
    assert_eq!(better, want);
    let small = Policy::named("q4_k_s").unwrap();
    let want = [0, 1, 2, 3].map(|l| format!("blk.{l}.attn_v.weight"));
    let values: Vec<_> = of_type(&small, Q5_K)
        .into_iter()
        .filter(|n| n.contains("attn_v"))
        .collect();
    assert_eq!(values, want);
    assert_eq!(of_type(&small, Q5_K).len(), 4 + 3);
    // Four query heads per key head.
    assert_eq!(
        of_type(&Policy::named("iq4_xs").unwrap(), Q5_K).len(),
        24 + 3
    );
    let weighted = Policy {
        weighted: true,
        ..Policy::named("iq4_xs").unwrap()
    };
    assert_eq!(of_type(&weighted, Q5_K).len(), 24);
    let q2 = Policy::named("q2_k").unwrap();
    assert_eq!(of_type(&q2, Q4_K).len(), 24, "values");
    assert_eq!(of_type(&q2, Q3_K).len(), 48, "ffn_down and attn_output");
}

#[test]
fn output_matrix() {
    for (name, want) in [
        ("q4_0", Q6_K),
        ("q5_1", Q6_K),
        ("q3_k_s", Q6_K),
        ("q8_0", Q8_0),
        ("mxfp4", Q8_0),
        ("f16", Dtype::F16),
    ] {
        let policy = Policy::named(name).unwrap();
        assert_eq!(single(&policy, OUTPUT, &[512, 100], &[]), want, "{name}");
        assert_eq!(single(&policy, EMBEDDING, &[512, 100], &[]), want, "{name}");
        let two: [Shape<'_>; 2] = [(EMBEDDING, &[512, 100]), (OUTPUT, &[512, 100])];
        let types = policy.choose(&two, &[]).unwrap();
        assert_eq!(
            (types[0].0, types[1].0),
            (policy.mixture.base, want),
            "{name}"
        );
        let pure = Policy {
            pure: true,
            ..policy
        };
        assert_eq!(single(&pure, OUTPUT, &[512, 100], &[]), pure.mixture.base);
    }
}

#[test]
fn rows_that_do_not_fill_blocks() {
    for (name, cols, want) in [
        ("q4_k_m", 512, Q4_K),
        ("q4_k_m", 96, Dtype::Q5_0),
        ("q4_k_m", 90, Dtype::F16),
        ("q6_k", 96, Q8_0),
        ("q2_k_s", 96, IQ4_NL),
        ("q4_0", 172, Dtype::F16),
        ("tq1_0", 96, Dtype::Q4_0),
    ] {
        let policy = Policy::named(name).unwrap();
        let got = single(&policy, "blk.3.attn_q.weight", &[cols, 64], &[]);
        assert_eq!(got, want, "{name} {cols}");
    }
    let q4 = Policy::named("q4_k_m").unwrap();
    for (name, dims) in [
        ("blk.0.attn_q.bias", &[512u64][..]),
        ("blk.0.attn_norm.weight", &[512, 1]),
        ("blk.0.attn_q_norm.weight", &[512, 8]),
        ("blk.0.ffn_gate_inp.weight", &[512, 8]),
    ] {
        assert_eq!(single(&q4, name, dims, &[]), Dtype::F32, "{name}");
    }
}

#[test]
fn experts_and_the_large_llama() {
    let (mut tensors, mut metadata) = model(80, 64, 8);
    let q3 = Policy::named("q3_k_s").unwrap();
    let types = q3.choose(&shapes(&tensors), &metadata).unwrap();
    let all = |types: &[(Dtype, Reason)], tensors: &[(String, Vec<u64>)], part: &str| {
        let hit = tensors.iter().zip(types).filter(|t| t.0.0.contains(part));
        let mut types: Vec<_> = hit.map(|t| t.1.0).collect();
        types.dedup();
        types
    };
    assert_eq!(all(&types, &tensors, "attn_v"), [Q5_K]);
    assert_eq!(all(&types, &tensors, "attn_k"), [Q3_K]);
    metadata.push(("llama.expert_count".into(), 8u32.into()));
    tensors.truncate(100);
    let types = q3.choose(&shapes(&tensors), &metadata).unwrap();
    assert_eq!(all(&types, &tensors, "attn_v"), [Q8_0]);
    assert_eq!(all(&types, &tensors, "attn_k"), [Q8_0]);
    assert_eq!(all(&types, &tensors, "attn_output"), [Q5_K]);
}

#[test]
fn wishes() {
    let re = |p: &str| Regex::new(p).unwrap();
    let policy = Policy {
        overrides: vec![(re("attn_[qk]"), Q8_0), (re("attn_k"), Dtype::Q4_0)],
        keep_f32: vec![re(r"blk\.0\.attn_q")],
        output: Some(Dtype::BF16),
        embedding: Some(Dtype::Q5_0),
        ..Policy::named("q4_k_m").unwrap()
    };
    assert_eq!(of_type(&policy, Q8_0).len(), 47, "the first match decides");
    assert_eq!(of_type(&policy, Dtype::BF16), [OUTPUT]);
    assert_eq!(of_type(&policy, Dtype::Q5_0), [EMBEDDING]);
    assert!(of_type(&policy, Dtype::F32).contains(&"blk.0.attn_q.weight".into()));
    assert_eq!(
        policy.to_string(),
        r"type q4_k_m; output bf16; embedding q5_0; attn_[qk]=q8_0; attn_k=q4_0; keep blk\.0\.attn_q"
    );
    // Tied: the output type holds for the embedding, and then there is no other.
    let tied = Policy {
        output: Some(Dtype::BF16),
        ..Policy::named("q4_0").unwrap()
    };
    assert_eq!(single(&tied, EMBEDDING, &[512, 9], &[]), Dtype::BF16);
}

#[test]
fn a_wish_that_no_tensor_meets_is_an_error_that_says_so() {
    let re = |p: &str| vec![Regex::new(p).unwrap()];
    let base = || Policy::named("q4_0").unwrap();
    let cases = [
        (
            Policy {
                overrides: vec![(Regex::new("ffn_dwon").unwrap(), Q8_0)],
                ..base()
            },
            "overrides is ffn_dwon=Q8_0",
        ),
        (
            Policy {
                keep_f32: re("attn_norm"),
                ..base()
            },
            "keep_f32 is attn_norm",
        ),
        (
            Policy {
                output: Some(Q8_0),
                ..base()
            },
            "output is Q8_0",
        ),
        (
            Policy {
                embedding: Some(Q8_0),
                ..base()
            },
            "embedding is Q8_0",
        ),
    ];
    let tensors: [Shape<'_>; 2] = [
        ("blk.0.ffn_down.weight", &[512, 512]),
        ("blk.0.attn_norm.weight", &[512]),
    ];
    for (policy, text) in cases {
        let error = policy.choose(&tensors, &[]).unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}");
    }
    let error = Policy {
        embedding: Some(Dtype::IQ2_XS),
        ..base()
    };
    let error = error.choose(&tensors, &[]).unwrap_err().to_string();
    assert!(
        error.starts_with("unsupported output type: IQ2_XS"),
        "{error}"
    );
}

#[test]
fn words_of_others_are_understood_or_answered() {
    for (typed, name) in [
        ("fp16", "F16"),
        ("Float32", "F32"),
        ("bfloat16", "BF16"),
        ("q4-k-m", "Q4_K_M"),
        ("Q5_K", "Q5_K_M"),
    ] {
        assert_eq!(Policy::named(typed).unwrap().mixture.name, name, "{typed}");
    }
    for (typed, near) in [
        ("q4", "q4_k_m or q4_0"),
        ("int4", "q4_k_m or q4_0"),
        ("4bit", "q4_k_m or q4_0"),
        ("nf4", "q4_k_m or q4_0"),
        ("q4_k_xl", "q4_k_m or q4_0"),
        ("UD-Q4_K_XL", "q4_k_m or q4_0"),
        ("int8", "q8_0"),
        ("8bit", "q8_0"),
        ("fp8", "q8_0"),
        ("q6", "q6_k"),
        ("iq3_xs", "q3_k_m or q3_k_l"),
        ("q2_k_xl", "q2_k"),
    ] {
        let error = Policy::named(typed).unwrap_err().to_string();
        assert!(error.contains(&format!("did you mean {near}?")), "{error}");
    }
    for other in ["smollm2", "model-4", "best", "", "llama3"] {
        assert!(similar(other).is_empty(), "{other}");
    }
    let error = Policy::named("best").unwrap_err().to_string();
    assert!(
        error.contains("Q4_K_M") && !error.contains("did you mean"),
        "{error}"
    );
    // What is proposed exists.
    for name in BY_BITS.iter().flat_map(|b| b.1) {
        assert!(Policy::named(name).is_ok(), "{name}");
    }
}
