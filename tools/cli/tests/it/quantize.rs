//! The program `geb-quantize`: exit codes, one-line errors, streams, and kills at any moment.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn nano() -> PathBuf {
    root().join("assets/geb-nano/hf")
}

fn quantize() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_geb-quantize"));
    command
        .env_remove("GEB_THREADS")
        .env_remove("GEB_ISA")
        .stdin(Stdio::null());
    command
}

fn run(source: &Path, out: &Path, flags: &[&str]) -> Output {
    quantize()
        .arg(source)
        .arg(out)
        .args(flags)
        .output()
        .unwrap()
}

/// The command fails with `code` and one line that contains `text`.
fn fails(out: &Output, code: i32, text: &str) {
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|l| !l.contains(": note: ")).collect();
    assert!(
        errors.len() == 1 && errors[0].starts_with("geb-quantize: ") && errors[0].contains(text),
        "{stderr}"
    );
}

#[test]
fn a_conversion() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.gguf");
    let done = run(&nano(), &out, &["--type", "q8_0"]);
    assert_eq!(
        done.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let stdout = String::from_utf8(done.stdout).unwrap();
    assert!(
        stdout.contains("Q8_0") && stdout.contains("4196608 weights"),
        "{stdout}"
    );
    // The same bytes again, with other threads, as JSON.
    let again = dir.path().join("n.gguf");
    let done = run(
        &nano(),
        &again,
        &[
            "--type",
            "Q8_0",
            "--threads",
            "3",
            "--json",
            "--no-progress",
        ],
    );
    assert_eq!(done.status.code(), Some(0));
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(report["written"], true);
    assert_eq!(report["file_bytes"], fs::metadata(&again).unwrap().len());
    assert!(fs::read(&out).unwrap() == fs::read(&again).unwrap());
    // From GGUF: F32 first, then Q8_0, gives the same weights; quantized sources need a flag.
    let f32 = dir.path().join("f32.gguf");
    assert!(run(&nano(), &f32, &["--type", "f32"]).status.success());
    let third = dir.path().join("o.gguf");
    assert!(run(&f32, &third, &["--type", "q8_0"]).status.success());
    let tail = |p: &Path| {
        fs::read(p)
            .unwrap()
            .split_off(fs::metadata(p).unwrap().len() as usize - 4_000_000)
    };
    assert!(tail(&out) == tail(&third));
    fails(
        &run(&third, &dir.path().join("p.gguf"), &["--type", "q4_0"]),
        2,
        "--allow-requantize",
    );
    assert!(
        run(
            &third,
            &dir.path().join("p.gguf"),
            &["--type", "q4_0", "--allow-requantize"]
        )
        .status
        .success()
    );
}

#[test]
fn a_dry_run_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let done = quantize()
        .current_dir(dir.path())
        .arg(nano().canonicalize().unwrap())
        .args(["-t", "q4_0", "-n"])
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(0));
    let stdout = String::from_utf8(done.stdout).unwrap();
    let line = stdout
        .lines()
        .find(|l| l.starts_with("output.weight"))
        .unwrap();
    assert!(
        line.contains("Q6_K") && line.contains("output matrix"),
        "{line}"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.gguf");
    let q8 = ["--type", "q8_0"];
    assert_eq!(quantize().output().unwrap().status.code(), Some(2));
    assert_eq!(run(&nano(), &out, &["--type", "q9"]).status.code(), Some(2));
    assert_eq!(
        run(&nano(), &out, &["--type", "q8_0", "--threads", "0"])
            .status
            .code(),
        Some(2)
    );
    fails(&run(Path::new("/nowhere"), &out, &q8), 1, "/nowhere");
    fails(&run(dir.path(), &out, &q8), 3, "config.json");
    let text = dir.path().join("x.txt");
    fs::write(&text, "x".repeat(100)).unwrap();
    fails(&run(&text, &out, &q8), 3, "x.txt is a text file");
    // Output that is a file of the source, directly and through links.
    let copy = dir.path().join("hf");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(nano()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let weights = copy.join("model.safetensors");
    let before = fs::read(&weights).unwrap();
    fails(&run(&copy, &weights, &q8), 2, "a file of the source");
    #[cfg(unix)]
    {
        let link = dir.path().join("link.gguf");
        std::os::unix::fs::symlink(&weights, &link).unwrap();
        fails(&run(&copy, &link, &q8), 2, "a file of the source");
        let hard = dir.path().join("hard.gguf");
        fs::hard_link(&weights, &hard).unwrap();
        fails(&run(&copy, &hard, &q8), 2, "a file of the source");
    }
    assert!(fs::read(&weights).unwrap() == before);
    fails(&run(&nano(), dir.path(), &q8), 2, "directory");
    let bad_isa = quantize()
        .arg(nano())
        .arg(&out)
        .args(q8)
        .env("GEB_ISA", "mmx")
        .output()
        .unwrap();
    assert_eq!(
        bad_isa.status.code(),
        Some(2),
        "{}",
        String::from_utf8_lossy(&bad_isa.stderr)
    );
    assert!(!out.exists());
}

#[test]
fn the_probe_ranks_layouts() {
    let text = root().join("assets/geb-nano/eval-en.txt");
    let done = quantize()
        .arg("probe")
        .arg(nano())
        .arg("--text")
        .arg(text)
        .args(["--tokens", "60"])
        .output()
        .unwrap();
    assert_eq!(
        done.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let stdout = String::from_utf8(done.stdout).unwrap();
    assert!(
        stdout.contains("least loss: --geb-kv interleaved --geb-rope full-half --geb-mlp gate-up"),
        "{stdout}"
    );
}

/// What stands where a file is to be written: its own kind is replaced, anything else only when told to.
#[test]
fn what_is_not_ours_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (out, report) = (dir.path().join("m.gguf"), dir.path().join("r.json"));
    let report_flags = ["--type", "q8_0", "--report", report.to_str().unwrap()];
    let adapter = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x0c\0\0\0\0\0\0\0general.type\x08\0\0\0\x07\0\0\0\0\0\0\0adapter";
    for old in [
        &b"my notes"[..],
        b"PK\x03\x04 archive",
        b"{\"a\": 1}",
        adapter,
    ] {
        for path in [&out, &report] {
            let _ = (fs::remove_file(&out), fs::remove_file(&report));
            fs::write(path, old).unwrap();
            let done = run(&nano(), &out, &report_flags);
            let name = path.file_name().unwrap().to_str().unwrap();
            fails(&done, 2, name);
            fails(&done, 2, "--force");
            assert_eq!(fs::read(path).unwrap(), old);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }
    let forced = [
        "--force",
        "--type",
        "q8_0",
        "--report",
        report.to_str().unwrap(),
    ];
    fs::write(&out, "my notes").unwrap();
    assert!(run(&nano(), &out, &forced).status.success());
    // Both are of their kind now, and an empty file is nothing.
    for empty in [false, true] {
        if empty {
            fs::write(&out, "").unwrap();
            fs::write(&report, "").unwrap();
        }
        assert!(run(&nano(), &out, &report_flags).status.success());
        assert!(fs::read(&out).unwrap().starts_with(b"GGUF"));
        assert!(fs::read(&report).unwrap().starts_with(b"{"));
    }
}

/// Links and devices keep their names, whatever is written to them.
#[cfg(unix)]
#[test]
fn links_and_devices_are_written_through() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("real")).unwrap();
    symlink("real/m.gguf", at("m.gguf")).unwrap();
    symlink("real/r.json", at("r.json")).unwrap();
    let report = at("r.json");
    let flags = ["--type", "q8_0", "--report", report.to_str().unwrap()];
    for _ in 0..2 {
        assert!(run(&nano(), &at("m.gguf"), &flags).status.success());
        for name in ["m.gguf", "r.json"] {
            assert!(fs::symlink_metadata(at(name)).unwrap().is_symlink());
            assert!(
                fs::symlink_metadata(at("real").join(name))
                    .unwrap()
                    .is_file()
            );
        }
    }
    assert_eq!(fs::read_dir(at("real")).unwrap().count(), 2);
    symlink("/dev/null", at("null")).unwrap();
    for device in ["/dev/null", at("null").to_str().unwrap()] {
        let done = run(
            &nano(),
            &at("m.gguf"),
            &["--type", "q8_0", "--report", device],
        );
        assert!(done.status.success());
        assert!(
            fs::metadata("/dev/null")
                .unwrap()
                .file_type()
                .is_char_device()
        );
    }
    let both = run(
        &nano(),
        &at("m.gguf"),
        &["--type", "q8_0", "--report", "/dev/stdout"],
    );
    let text = String::from_utf8(both.stdout).unwrap();
    assert!(
        text.starts_with("{\n  \"written\"") && text.contains("weights"),
        "{text}"
    );
    // Standard output that is a file: what was there before and after stays in order.
    let log = fs::File::create(at("log")).unwrap();
    let mut command = quantize();
    command
        .arg(nano())
        .arg(at("m.gguf"))
        .args(["--type", "q8_0", "--report", "/dev/stdout"]);
    assert!(command.stdout(log).status().unwrap().success());
    assert_eq!(fs::read_to_string(at("log")).unwrap(), text);
    let full = run(
        &nano(),
        &at("m.gguf"),
        &["--type", "q8_0", "--report", "/dev/full"],
    );
    fails(&full, 1, "/dev/full");
    for refused in ["/dev/null", "/dev/stdout", "/dev/fd/1"] {
        fails(
            &run(&nano(), Path::new(refused), &["--type", "q8_0"]),
            2,
            "not a regular file",
        );
    }
}

/// Inputs that never end, that nobody writes, or that lead elsewhere.
#[cfg(unix)]
#[test]
fn endless_and_waiting_inputs() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.gguf");
    let pipe = dir.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let name = pipe.to_str().unwrap();
    let q8 = ["--type", "q8_0"];
    let with = |flag: &str, path: &str| run(&nano(), &out, &["--type", "q8_0", flag, path]);
    fails(&with("--chat-template", "/dev/zero"), 2, "/dev/zero");
    fails(&with("--imatrix", name), 2, "not a regular file");
    fails(&with("--imatrix", "/dev/zero"), 2, "not a regular file");
    fails(&run(&pipe, &out, &q8), 2, "not a regular file");
    fails(
        &run(Path::new("/dev/zero"), &out, &q8),
        2,
        "not a regular file",
    );
    // A pipe with a writer is a file like any other.
    let writing = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::write(pipe, "{{ messages }}").unwrap()
    });
    assert!(with("--chat-template", name).status.success());
    writing.join().unwrap();
    // One that nobody writes is waited for, until the user has enough.
    for signal in ["INT", "TERM"] {
        let mut child = quantize();
        child
            .arg(nano())
            .arg(&out)
            .args(["--type", "q8_0", "--chat-template", name]);
        let mut child = child.stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(400));
        assert!(child.try_wait().unwrap().is_none());
        let kill = Command::new("kill")
            .args(["-s", signal, &child.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
        let started = Instant::now();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{signal}");
        assert!(started.elapsed() < Duration::from_secs(2));
    }
}

/// Killed at any moment: the target is absent, old, or complete; the next run cleans up.
#[test]
fn kills_at_random_moments() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.gguf");
    let flags = ["--type", "q4_0", "--no-progress"];
    let start = Instant::now();
    assert!(run(&nano(), &out, &flags).status.success());
    let whole = start.elapsed().as_micros() as u64;
    let new = fs::read(&out).unwrap();
    let (mut seed, mut cut) = (7u64, 0);
    for i in 0..40 {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let old = i % 2 == 0;
        if old {
            fs::write(&out, b"GGUF: old").unwrap();
        } else {
            let _ = fs::remove_file(&out);
        }
        let mut child = quantize()
            .arg(nano())
            .arg(&out)
            .args(flags)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros((seed >> 33) % whole));
        let _ = child.kill();
        cut += usize::from(!child.wait().unwrap().success());
        match fs::read(&out) {
            Ok(bytes) => assert!(
                bytes == new || (old && bytes == b"GGUF: old"),
                "kill {i}: {} bytes",
                bytes.len()
            ),
            Err(_) => assert!(!old, "kill {i}: the old file is gone"),
        }
    }
    println!("40 runs, {cut} killed before their end");
    assert!(run(&nano(), &out, &flags).status.success());
    assert!(fs::read(&out).unwrap() == new);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "leftovers");
}

#[cfg(unix)]
#[test]
fn an_interrupt_cleans_up() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.gguf");
    let start = Instant::now();
    assert!(run(&nano(), &out, &["--type", "q4_0"]).status.success());
    let whole = start.elapsed().as_micros() as u64;
    fs::write(&out, b"GGUF: old").unwrap();
    for i in 0..10 {
        let mut child = quantize()
            .arg(nano())
            .arg(&out)
            .args(["--type", "q4_0"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(whole * i / 10));
        let _ = Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status();
        let status = child.wait().unwrap();
        // Before the handler is installed the signal ends the process itself.
        assert!(matches!(status.code(), Some(0 | 130) | None), "{status}");
        if status.code() == Some(130) {
            assert_eq!(fs::read(&out).unwrap(), b"GGUF: old");
        }
        if status.code().is_some() {
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "leftovers");
        }
        fs::write(&out, b"GGUF: old").unwrap();
    }
}

#[test]
fn mixtures_and_types_of_single_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.gguf");
    let report = dir.path().join("errors.json");
    let flags = [
        "--type",
        "q4_k",
        "--tensor-type",
        "attn_[qk]=q5_k",
        "--embedding-type",
        "q8_0",
        "--keep-f32",
        r"blk\.0\.ffn_up",
        "--report",
        report.to_str().unwrap(),
    ];
    let done = run(&nano(), &out, &flags);
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let json: serde_json::Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    assert_eq!(json["type"], "Q4_K_M");
    let tensors = json["tensors"].as_array().unwrap();
    let of = |name: &str| tensors.iter().find(|t| t["name"] == name).unwrap();
    for (name, dtype) in [
        ("token_embd.weight", "Q8_0"),
        ("output.weight", "Q6_K"),
        ("blk.0.attn_q.weight", "Q5_K"),
        ("blk.0.attn_k.weight", "Q5_K"),
        ("blk.0.attn_output.weight", "Q4_K"),
        ("blk.0.ffn_up.weight", "F32"),
        ("blk.0.attn_norm.weight", "F32"),
    ] {
        let t = of(name);
        assert_eq!(t["to"], dtype, "{name}");
        let exact = t["error"]["relative_rms"].as_f64().unwrap() == 0.0;
        assert_eq!(exact, dtype == "F32", "{name}");
        let worst = t["worst_block"]["rms"].as_f64().unwrap();
        assert!((worst > 0.0) != exact, "{name}");
    }
    assert_eq!(of("blk.0.attn_q.weight")["bits_per_weight"], 5.5);
    assert_eq!(of("blk.0.attn_q.weight")["reason"], "as asked");
    for (flag, value, text) in [
        (
            "--tensor-type",
            "attn_z=q8_0",
            "--tensor-type is attn_z=Q8_0 (no matrix",
        ),
        (
            "--keep-f32",
            "attn_norm",
            "--keep-f32 is attn_norm (no matrix",
        ),
    ] {
        let failed = run(&nano(), &out, &["--type", "q4_0", flag, value]);
        fails(&failed, 2, text);
    }
    for (flag, value) in [
        ("--tensor-type", "attn_q=iq2_xs"),
        ("--tensor-type", "attn_q"),
        ("--tensor-type", "(=q8_0"),
        ("--split-max-size", "2T"),
        ("--split-max-size", "0"),
    ] {
        let failed = run(&nano(), &out, &["--type", "q4_0", flag, value]);
        assert_eq!(failed.status.code(), Some(2), "{flag} {value}");
    }
}

#[test]
fn the_same_bytes_at_every_level_and_for_any_threads() {
    let dir = tempfile::tempdir().unwrap();
    for dtype in ["q4_k_m", "q3_k_l", "iq4_xs", "q5_1", "bf16"] {
        let mut first: Option<Vec<u8>> = None;
        let mut compared = 0;
        for (level, threads) in [
            ("scalar", "1"),
            ("avx2", "3"),
            ("avxvnni", "2"),
            ("avx512vnni", "2"),
            ("neon", "2"),
            ("neondot", "2"),
        ] {
            let out = dir.path().join("m.gguf");
            let mut command = quantize();
            command.arg(nano()).arg(&out);
            command.args(["--type", dtype, "--threads", threads]);
            let done = command.env("GEB_ISA", level).output().unwrap();
            if !done.status.success() {
                // A level this machine does not have.
                fails(&done, 2, "GEB_ISA");
                continue;
            }
            let bytes = fs::read(&out).unwrap();
            assert!(
                *first.get_or_insert_with(|| bytes.clone()) == bytes,
                "{dtype} {level}"
            );
            compared += 1;
        }
        assert!(compared > 1 || !cfg!(target_arch = "x86_64"), "{dtype}");
    }
}

#[test]
fn parts_hashes_and_their_check() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.gguf");
    let flags = ["--type", "q8_0", "--split-max-size", "2M", "--resume"];
    assert!(run(&nano(), &out, &flags).status.success());
    assert!(!out.exists());
    let first = dir.path().join("m-00001-of-00003.gguf");
    let last = dir.path().join("m-00003-of-00003.gguf");
    let verify = |file: &Path| quantize().arg("verify").arg(file).output().unwrap();
    let done = verify(&first);
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    assert!(String::from_utf8_lossy(&done.stdout).ends_with(": as written\n"));
    let mut bytes = fs::read(&last).unwrap();
    let at = bytes.len() - 100;
    bytes[at] ^= 1;
    fs::write(&last, bytes).unwrap();
    let text = "1 of 39 tensors are not what was written: output.weight";
    fails(&verify(&first), 1, text);
    fs::remove_file(&last).unwrap();
    fails(&verify(&first), 1, "part 3 of 3 is missing");
}

#[test]
fn adapters_and_kept_layers() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let peft = path("peft");
    fs::create_dir(&peft).unwrap();
    let config = r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 2}"#;
    fs::write(peft.join("adapter_config.json"), config).unwrap();
    let (a, b) = (vec![1u8; 256 * 4], vec![2u8; 256 * 4]);
    let view = |shape: [usize; 2], data| {
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), data).unwrap()
    };
    let stem = "base_model.model.transformer.encoder.layers.0.self_attention.query";
    let tensors = [
        (format!("{stem}.lora_A.weight"), view([1, 256], &a)),
        (format!("{stem}.lora_B.weight"), view([256, 1], &b)),
    ];
    let file = peft.join("adapter_model.safetensors");
    safetensors::serialize_to_file(tensors, None, &file).unwrap();
    let out = path("adapter.gguf");
    let done = (quantize()
        .arg("adapter")
        .arg(&peft)
        .arg(&out)
        .arg("--base")
        .arg(nano()))
    .output()
    .unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success() && text.contains("llama: 1 matrices, rank 1 to 1"),
        "{text}"
    );
    let merge = |adapter: String| {
        let mut command = quantize();
        command
            .arg("merge")
            .arg(nano())
            .arg(adapter)
            .arg(path("m.gguf"));
        command.args(["--type", "q8_0"]).output().unwrap()
    };
    let done = merge(format!("{}=0.5", out.display()));
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let merged = fs::read(path("m.gguf")).unwrap();
    let done = run(&nano(), &path("n.gguf"), &["--type", "q8_0"]);
    assert!(done.status.success() && merged != fs::read(path("n.gguf")).unwrap());
    fails(&merge("no-such.gguf".into()), 1, "no-such.gguf");
    fails(
        &merge(path("n.gguf").display().to_string()),
        3,
        "general.type is model",
    );

    let done = run(
        &nano(),
        &path("k.gguf"),
        &["--type", "q8_0", "--keep-layers", "0-1,3"],
    );
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    assert!(
        fs::metadata(path("k.gguf")).unwrap().len() < fs::metadata(path("n.gguf")).unwrap().len()
    );
    let refused = run(
        &nano(),
        &path("k.gguf"),
        &["--type", "q8_0", "--keep-layers", "3-4"],
    );
    fails(&refused, 2, "layers to keep");
}
