//! Names, flags, commands and types as people type them who come from other programs.

use super::{Case, all, scratch};

#[test]
fn names_that_are_no_files() {
    std::fs::copy(scratch().join("m.gguf"), scratch().join("bare.gguf")).expect("a copy");
    all(
        "Names given as a model",
        &[
            Case(
                "geb-run https://example.org/m.gguf",
                &["is a URL", "curl -LO https://example.org/m.gguf"],
                1,
            ),
            Case(
                "geb-run chat hf://Qwen/Qwen2.5-0.5B",
                &["Hugging Face Hub", "hf download Qwen/Qwen2.5-0.5B"],
                1,
            ),
            Case(
                "geb-run hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
                &["hf download bartowski/Llama-3.2-1B-Instruct-GGUF"],
                1,
            ),
            Case(
                "geb-run https://huggingface.co/a/b/blob/main/c.gguf",
                &["hf download a/b c.gguf"],
                1,
            ),
            Case(
                "geb-run Qwen/Qwen2.5-0.5B",
                &["Hugging Face Hub", "geb-quantize Qwen2.5-0.5B model.gguf"],
                1,
            ),
            Case(
                "geb-run run llama3.2:1b",
                &["llama3.2:1b is a name of ollama", "--modelfile"],
                1,
            ),
            Case("geb-run smolm2", &["did you mean the model `smollm2`"], 1),
            Case(
                "geb-run SmolLM2-135M-Instruct",
                &["did you mean the model `smollm2`"],
                1,
            ),
            Case(
                "geb-run smollm2",
                &["not downloaded yet", "geb-run pull smollm2"],
                1,
            ),
            Case("geb-run generate -m bare --raw -p a -n 1 -q", &[], 0),
            Case(
                "geb-run chat bear.gguf",
                &["bear.gguf: no such file", "did you mean bare.gguf?"],
                1,
            ),
            Case(
                "geb-run chat nowhere/x.gguf",
                &["nowhere/x.gguf: no such file"],
                1,
            ),
            Case(
                "geb-run chta",
                &["did you mean the command: geb-run chat"],
                1,
            ),
            Case(
                "geb-quantize Qwen/Qwen2.5-0.5B o.gguf",
                &["Qwen/Qwen2.5-0.5B", "Hugging Face Hub", "hf download"],
                2,
            ),
            Case(
                "geb-quantize https://example.org/m.gguf o.gguf",
                &["a URL"],
                2,
            ),
            Case("geb-quantize llama3.2:1b o.gguf", &["a name of ollama"], 2),
        ],
    );
}

#[test]
fn samplers_of_other_programs() {
    let flags = [
        "--tfs 1.0",
        "--typical-p 0.9",
        "--top-n-sigma -1",
        "--dry-multiplier 0.8 --dry-base 1.75 --dry-allowed-length 2 --dry-penalty-last-n -1",
        "--dry-sequence-breaker none --dry-sequence-breaker \\n",
        "--mirostat 2 --mirostat-lr 0.1 --mirostat-ent 5.0",
        "--xtc-probability 0.5 --xtc-threshold 0.1 --dynatemp-range 0.2 --dynatemp-exp 1.0",
        "--presence-penalty 0.5 --frequency-penalty -0.5",
        "--logit-bias 9=1 --logit-bias 8-2 -l 7+1",
    ]
    .map(|flags| format!("geb-run generate -m m.gguf --raw -p a -n 1 {flags}"));
    let cases: Vec<Case<'_>> = flags.iter().map(|line| Case(line, &[], 0)).collect();
    all("Samplers that are taken", &cases);
}

#[test]
fn flags_of_other_programs() {
    let run = "geb-run generate -m m.gguf --raw -p a -n 1";
    let with = |flags: &str| format!("{run} {flags}");
    let taken: Vec<String> = [
        "-ngl 99",
        "--n-gpu-layers 0",
        "--mlock",
        "--no-mmap",
        "-b 512",
        "-ub 512",
        "-fa",
        "-fa on",
        "--flash-attn",
        "--color",
        "--jinja",
        "--ctx-size 32",
        "--temperature 0",
        "--repeat-penalty 1.1",
        "-tb 4",
        "-no-cnv",
        "--no-warmup",
        "--seed -1",
        "--mirostat 0",
        "--numa distribute",
        "-sm none",
        "-r END",
        "--no-display-prompt",
        "-c 0",
        "-t 0",
        "-i",
    ]
    .map(with)
    .to_vec();
    let cases: Vec<Case<'_>> = taken.iter().map(|line| Case(line, &[], 0)).collect();
    all("Flags that are taken", &cases);
    let refused: Vec<(String, &str)> = [
        ("-hf a/b", "hf download"),
        ("-hf a/b:Q4_K_M", "hf download"),
        ("-mu https://x", "hf download"),
        ("--tfs 0.5", "--repeat-penalty"),
        ("--samplers top_k", "one order"),
        ("--grammar-file x", "grammar"),
        ("-np 4", "geb-run serve"),
        ("--mmproj x.gguf", "text only"),
        ("-ctk q8_0", "--kv"),
        ("--rope-freq-base 1e6", "--ctx-beyond"),
        ("--promt x", "--prompt"),
    ]
    .map(|(flags, says)| (with(flags), says))
    .to_vec();
    let says: Vec<[&str; 1]> = refused.iter().map(|(_, says)| [*says]).collect();
    let cases: Vec<Case<'_>> = refused
        .iter()
        .zip(&says)
        .map(|((line, _), says)| Case(line, says, 2))
        .collect();
    all("Flags that are answered", &cases);
    all(
        "Flags of a chat",
        &[
            Case(
                "geb-run -m m.gguf -cnv -p hello -n 1 -ngl 99 --chat-template none.jinja",
                &["none.jinja"],
                1,
            ),
            Case(
                "geb-run generate -m m.gguf --n-predict 1 --raw -p a -q",
                &[],
                0,
            ),
            Case("geb-quantize m.gguf q.gguf --outtype q8_0", &[], 0),
            Case(
                "geb-quantize m.gguf --outfile q.gguf --outtype q8_0",
                &[],
                0,
            ),
            Case("geb-quantize m.gguf q.gguf Q8_0", &[], 0),
            Case("geb-quantize m.gguf q.gguf q8_0 2", &[], 0),
            Case(
                "geb-quantize m.gguf q.gguf --type q8_0 --vocab-only",
                &["--vocab-only"],
                2,
            ),
        ],
    );
}

#[test]
fn commands_of_other_programs() {
    std::fs::copy(
        scratch().join("m.gguf"),
        scratch().join("cache").join("kept.gguf"),
    )
    .expect("a copy");
    all(
        "Commands",
        &[
            Case("geb-run help", &["Examples:"], 0),
            Case("geb-run help bench", &["geb-run bench"], 0),
            Case("geb-run version", &["geb-run 0."], 0),
            Case("geb-run list", &["kept.gguf", "geb-run pull smollm2"], 0),
            Case("geb-run ls", &["kept.gguf"], 0),
            Case("geb-run show m.gguf", &["llama"], 0),
            Case("geb-run serve -m none.gguf", &["none.gguf"], 1),
            Case("geb-run server -m none.gguf", &["none.gguf"], 1),
            Case("geb-run ps", &["nothing runs in the background"], 2),
            Case(
                "geb-run stop llama3.2",
                &["nothing runs in the background"],
                2,
            ),
            Case("geb-run rm x", &["geb-run list"], 2),
            Case("geb-run create x -f Modelfile", &["geb-quantize"], 2),
            Case("geb-run quantize m.gguf", &["geb-quantize"], 2),
            Case("geb-run train", &["not trained"], 2),
            Case("geb-run push x", &["geb-run pull"], 2),
            Case("geb-quantize help", &["Examples:"], 0),
            Case("geb-quantize version", &["geb-quantize 0."], 0),
            Case("geb-quantize run m.gguf", &["geb-run chat"], 2),
            Case("geb-quantize inspect m.gguf", &["geb-run inspect"], 2),
        ],
    );
}

#[test]
fn types() {
    all(
        "Types",
        &[
            Case(
                "geb-quantize m.gguf t.gguf",
                &["no --type: q4_k_m", "q8_0"],
                0,
            ),
            Case("geb-quantize m.gguf t.gguf --type Q4_K_M", &[], 0),
            Case("geb-quantize m.gguf t.gguf --type fp16", &[], 0),
            Case("geb-quantize m.gguf t.gguf --type q4-k-m", &[], 0),
            Case(
                "geb-quantize m.gguf t.gguf --type q4",
                &["did you mean q4_k_m or q4_0?"],
                2,
            ),
            Case(
                "geb-quantize m.gguf t.gguf --type int4",
                &["did you mean q4_k_m or q4_0?"],
                2,
            ),
            Case(
                "geb-quantize m.gguf t.gguf --type int8",
                &["did you mean q8_0?"],
                2,
            ),
            Case(
                "geb-quantize m.gguf t.gguf --type 8bit",
                &["did you mean q8_0?"],
                2,
            ),
            Case(
                "geb-quantize m.gguf t.gguf --type q4_k_xl",
                &["did you mean q4_k_m or q4_0?"],
                2,
            ),
            Case("geb-quantize m.gguf t.gguf --type best", &["known: f32"], 2),
            Case(
                "geb-quantize m.gguf t.gguf --type q8_0 --output-type q6",
                &["did you mean q6_k?"],
                2,
            ),
            Case(
                "geb-run compare m.gguf q4",
                &["did you mean q4_k_m or q4_0?"],
                2,
            ),
            Case("geb-run compare m.gguf int8", &["did you mean q8_0?"], 2),
        ],
    );
}
