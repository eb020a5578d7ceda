//! The writer: what it writes reads back, and whatever fails leaves the old output alone.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use geb::gguf::writer::{MetaValue, Plan, same_file, write_file, write_to};
use geb::gguf::{GgufFile, Load};
use geb::{Dtype, Error, Result};

fn plan() -> Plan {
    let mut plan = Plan::default();
    plan.push_meta("general.architecture", "test")
        .push_meta("a.list", vec!["x".to_owned(), String::new()]);
    plan.push_tensor("a", Dtype::Q8_0, [64, 2])
        .push_tensor("b", Dtype::F32, [3]);
    plan
}

fn data(i: usize) -> Vec<u8> {
    if i == 0 {
        vec![7u8; 136]
    } else {
        vec![9u8; 12]
    }
}

fn fill(i: usize, out: &mut dyn Write) -> Result<()> {
    out.write_all(&data(i)).map_err(Error::io("data"))
}

/// A folder with an old output in it.
struct Old {
    dir: tempfile::TempDir,
    path: PathBuf,
}

impl Old {
    fn new() -> Old {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        fs::write(&path, "old").unwrap();
        Old { dir, path }
    }

    /// The old file is untouched and nothing else is there.
    fn assert_intact(&self) {
        assert_eq!(fs::read(&self.path).unwrap(), b"old");
        assert_eq!(names(self.dir.path()), ["m.gguf"]);
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn written_file_reads_back() {
    let old = Old::new();
    write_file(&old.path, &plan(), &mut fill).unwrap();
    let file = GgufFile::open(&old.path, Load::Map).unwrap();
    assert_eq!(file.str("general.architecture").unwrap(), Some("test"));
    assert_eq!(file.tensor("a").unwrap().bytes(), data(0));
    assert_eq!(file.tensor("b").unwrap().bytes(), data(1));
    assert_eq!(file.index().version, 3);
    let mut memory = Vec::new();
    write_to(&mut memory, &plan(), &mut fill).unwrap();
    assert_eq!(memory, fs::read(&old.path).unwrap());
    assert_eq!(memory.len() % 32, 0);
    assert_eq!(names(old.dir.path()), ["m.gguf"]);
    let mut copy = Plan::default();
    copy.copy_meta(&file, |key, _| key != "a.list")
        .set_meta("general.architecture", "x")
        .set_meta("n", 1u32);
    assert_eq!(
        copy.metadata,
        [
            ("general.architecture".into(), "x".into()),
            ("n".into(), MetaValue::U32(1))
        ]
    );
}

/// A plan with nothing but metadata, and an empty plan.
#[test]
fn files_without_tensors() {
    for plan in [
        Plan::default(),
        Plan {
            tensors: vec![],
            ..plan()
        },
    ] {
        let mut out = Vec::new();
        write_to(&mut out, &plan, &mut |_, _| panic!("no tensors")).unwrap();
        let file = GgufFile::from_bytes(out).unwrap();
        assert_eq!(file.metadata().count(), plan.metadata.len());
    }
}

/// The plan with one more key.
fn with_key(key: &str, value: impl Into<MetaValue>) -> Plan {
    let mut plan = plan();
    plan.push_meta(key, value);
    plan
}

/// The plan with one more tensor.
fn with_tensor(name: &str, dtype: Dtype, dims: &[u64]) -> Plan {
    let mut plan = plan();
    plan.push_tensor(name, dtype, dims);
    plan
}

/// The plan obeys the rules of the reader, by number and field.
#[test]
fn bad_plans() {
    let (long_key, long_name) = ("k".repeat(65_536), "n".repeat(65));
    let t = |dims: &[u64]| with_tensor("t", Dtype::F32, dims);
    let cases: Vec<(Plan, u8, &str)> = vec![
        (with_key("", 1u8), 4, "key 2"),
        (with_key(&long_key, 1u8), 4, "key 2: length"),
        (with_key("a.list", 1u8), 4, "key"),
        (with_key("s", "x".repeat((16 << 20) + 1)), 5, "s: length"),
        (
            with_key("v", vec![0u8; (16 << 20) + 1]),
            5,
            "v: array length",
        ),
        (with_key("general.alignment", 0u32), 6, "general.alignment"),
        (with_key("general.alignment", 48u32), 6, "general.alignment"),
        (with_key("general.alignment", 32u64), 6, "general.alignment"),
        (with_tensor("", Dtype::F32, &[1]), 7, "tensor 2: name"),
        (
            with_tensor(&long_name, Dtype::F32, &[1]),
            7,
            "tensor 2: name: length",
        ),
        (with_tensor("a", Dtype::F32, &[1]), 7, "tensor name"),
        (t(&[]), 7, "tensor t: dimension count"),
        (t(&[1; 5]), 7, "tensor t: dimension count"),
        (t(&[1, 0]), 7, "tensor t: dimension 1"),
        (t(&[1 << 41]), 7, "tensor t: dimension 0"),
        (t(&[1 << 40, 1 << 40]), 7, "tensor t: element count"),
        (
            with_tensor("t", Dtype::Q4_K, &[255]),
            8,
            "tensor t: row length",
        ),
    ];
    let old = Old::new();
    for (plan, rule, field) in cases {
        let never = &mut |_: usize, _: &mut dyn Write| panic!("nothing may be written");
        match write_file(&old.path, &plan, never) {
            Err(Error::Format {
                rule: r, field: f, ..
            }) => {
                assert_eq!((r, f.as_str()), (rule, field))
            }
            other => panic!("rule {rule}, {field}: {other:?}"),
        }
        old.assert_intact();
    }
}

#[test]
fn plans_that_are_too_large() {
    let rule = |plan: Plan| match plan.layout() {
        Err(Error::Format { rule, field, .. }) => (rule, field),
        other => panic!("{other:?}"),
    };
    let (mut keys, mut tensors, mut sum) = (plan(), plan(), Plan::default());
    for i in 0..65_535 {
        keys.push_meta(format!("{i}"), 1u8);
        tensors.push_tensor(format!("{i}"), Dtype::I8, [1]);
    }
    assert_eq!(rule(keys), (3, "key count".into()));
    assert_eq!(rule(tensors), (3, "tensor count".into()));
    // 2^15 tensors of 2^50 bytes: every one legal, the sum is no file size.
    for i in 0..1 << 15 {
        sum.push_tensor(format!("{i}"), Dtype::F32, [1 << 40, 1 << 8]);
    }
    assert_eq!(rule(sum).0, 9);
}

#[test]
fn alignment_comes_from_the_metadata() {
    for align in [8u32, 32, 128, 65_536] {
        let mut plan = plan();
        plan.push_meta("general.alignment", align);
        let layout = plan.layout().unwrap();
        assert!(
            layout
                .tensors
                .iter()
                .all(|t| t.start % u64::from(align) == 0)
        );
        let mut out = Vec::new();
        write_to(&mut out, &plan, &mut fill).unwrap();
        assert_eq!(out.len() as u64, layout.file_bytes);
        assert_eq!(GgufFile::from_bytes(out).unwrap().index().alignment, align);
    }
}

#[test]
fn fill_must_keep_to_the_plan() {
    let old = Old::new();
    let verify = |fill: &mut dyn FnMut(usize, &mut dyn Write) -> Result<()>, text: &str| {
        match write_file(&old.path, &plan(), fill) {
            Err(Error::Verify(e)) => assert!(e.contains(text), "{e}"),
            other => panic!("{other:?}"),
        }
        old.assert_intact();
        assert!(matches!(
            write_to(&mut Vec::new(), &plan(), fill),
            Err(Error::Verify(_))
        ));
    };
    verify(
        &mut |i, w| w.write_all(&data(i)[1..]).map_err(Error::io("x")),
        "tensor a: 135 bytes",
    );
    verify(&mut |_, _| Ok(()), "tensor a: 0 bytes");
    verify(
        &mut |i, w| {
            w.write_all(&[data(i), vec![0]].concat())
                .map_err(Error::io("x"))
        },
        "more than 136",
    );
    // The refusal is not lost when the caller drops it.
    let mut forgetful = |i: usize, w: &mut dyn Write| {
        w.write_all(&data(i)).map_err(Error::io("x"))?;
        let _ = w.write(b"more");
        Ok(())
    };
    verify(&mut forgetful, "more than 136");
    // An error of the caller passes through as it is.
    let error = write_file(&old.path, &plan(), &mut |_, _| Err(Error::Interrupted));
    assert!(matches!(error, Err(Error::Interrupted)));
    old.assert_intact();
}

/// A `Write` that takes one byte at a time, with an interruption before each.
struct Slow(Vec<u8>, bool);

impl Write for Slow {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        self.0.extend(&buf[..buf.len().min(1)]);
        Ok(buf.len().min(1))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A `Write` that fails, or takes nothing, after some bytes.
struct Failing(usize, bool);

impl Write for Failing {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = buf.len().min(self.0);
        self.0 -= n;
        if n == 0 && self.1 {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(n)
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn short_and_failing_writes() {
    let mut whole = Vec::new();
    write_to(&mut whole, &plan(), &mut fill).unwrap();
    let mut slow = Slow(Vec::new(), false);
    write_to(&mut slow, &plan(), &mut fill).unwrap();
    assert_eq!(slow.0, whole);
    for room in 0..whole.len() {
        for hard in [true, false] {
            let result = write_to(&mut Failing(room, hard), &plan(), &mut fill);
            let Err(Error::Io { path, source }) = result else {
                panic!("room for {room}: {result:?}")
            };
            let kind = if hard {
                io::ErrorKind::StorageFull
            } else {
                io::ErrorKind::WriteZero
            };
            assert_eq!((path.as_path(), source.kind()), (Path::new("output"), kind));
        }
    }
    write_to(&mut Failing(whole.len(), true), &plan(), &mut fill).unwrap();
}

#[test]
fn refused_targets() {
    let old = Old::new();
    let dir = old.dir.path();
    fs::create_dir(dir.join("folder")).unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(dir.join("pipe"))
            .status()
            .unwrap()
            .success()
    );
    symlink("round", dir.join("round")).unwrap();
    symlink("folder", dir.join("to-folder")).unwrap();
    symlink("/dev/null", dir.join("to-device")).unwrap();
    let before = names(dir);
    for name in [
        "folder",
        "round",
        "to-folder",
        "to-device",
        "pipe",
        "folder/..",
        ".",
    ] {
        let result = write_file(&dir.join(name), &plan(), &mut fill);
        assert!(
            matches!(result, Err(Error::Request { .. })),
            "{name}: {result:?}"
        );
    }
    for path in ["/dev/full", "/dev/null", "/", ""] {
        let result = write_file(Path::new(path), &plan(), &mut fill);
        assert!(
            matches!(result, Err(Error::Request { .. })),
            "{path}: {result:?}"
        );
    }
    for name in [
        "none/m.gguf".to_owned(),
        "m.gguf/x".to_owned(),
        "n".repeat(255),
    ] {
        let result = write_file(&dir.join(&name), &plan(), &mut fill);
        assert!(
            matches!(result, Err(Error::Io { .. })),
            "{name}: {result:?}"
        );
    }
    assert_eq!(names(dir), before);
    assert_eq!(fs::read(&old.path).unwrap(), b"old");
}

#[test]
fn links_are_written_through() {
    let old = Old::new();
    let dir = old.dir.path();
    let other = dir.join("other");
    fs::create_dir(&other).unwrap();
    symlink(&old.path, other.join("link")).unwrap();
    symlink("link", other.join("chain")).unwrap();
    symlink("new.gguf", other.join("dangling")).unwrap();
    let before = names(&other);
    write_file(&other.join("chain"), &plan(), &mut fill).unwrap();
    let whole = fs::read(&old.path).unwrap();
    assert!(whole.starts_with(b"GGUF"));
    assert_eq!(names(&other), before);
    write_file(&other.join("dangling"), &plan(), &mut fill).unwrap();
    assert!(fs::read(other.join("new.gguf")).unwrap() == whole);
    for name in ["link", "chain", "dangling"] {
        assert!(fs::symlink_metadata(other.join(name)).unwrap().is_symlink());
    }
}

#[test]
fn the_mode_of_an_old_file_stays() {
    use std::os::unix::fs::PermissionsExt;
    let old = Old::new();
    fs::set_permissions(&old.path, fs::Permissions::from_mode(0o640)).unwrap();
    write_file(&old.path, &plan(), &mut fill).unwrap();
    let mode = fs::metadata(&old.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}

/// A shared folder is no way to make a run write elsewhere: partial names are never followed.
#[test]
fn a_planted_link_is_not_followed() {
    let old = Old::new();
    let dir = old.dir.path();
    let victim = dir.join("victim");
    fs::write(&victim, "precious").unwrap();
    let own = std::process::id();
    for suffix in ["", ".journal"] {
        symlink(
            &victim,
            dir.join(format!(".m.gguf.geb-partial-{own}{suffix}")),
        )
        .unwrap();
    }
    let result = write_file(&old.path, &plan(), &mut fill);
    assert!(result.is_err() || fs::read(&old.path).unwrap().starts_with(b"GGUF"));
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
}

#[test]
fn same_file_sees_through_links() {
    let old = Old::new();
    let dir = old.dir.path();
    symlink(&old.path, dir.join("soft")).unwrap();
    fs::hard_link(&old.path, dir.join("hard")).unwrap();
    fs::write(dir.join("copy"), "old").unwrap();
    for (name, same) in [
        ("m.gguf", true),
        ("soft", true),
        ("hard", true),
        ("copy", false),
        ("none", false),
    ] {
        assert_eq!(
            same_file(&old.path, &dir.join(name)).unwrap(),
            same,
            "{name}"
        );
    }
    assert!(!same_file(&dir.join("none"), &dir.join("none")).unwrap());
}

#[test]
fn leftovers_of_dead_processes_are_removed() {
    let old = Old::new();
    let dir = old.dir.path();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let dead = child.id();
    child.wait().unwrap();
    let make = |name: String| fs::write(dir.join(&name), "part").map(|()| name).unwrap();
    make(format!(".m.gguf.geb-partial-{dead}"));
    make(format!(".m.gguf.geb-partial-{}", std::process::id()));
    let mut stay = vec![
        make(".m.gguf.geb-partial-1".into()), // process 1 lives
        make(".m.gguf.geb-partial-".into()),
        make(".m.gguf.geb-partial-x".into()),
        make(format!(".other.gguf.geb-partial-{dead}")),
        make(format!("m.gguf.geb-partial-{dead}")),
        "m.gguf".into(),
    ];
    // A locked one belongs to a writer that this machine's process list may not show.
    let locked = make(".m.gguf.geb-partial-4000000000".into());
    let lock = fs::File::open(dir.join(&locked)).unwrap();
    lock.lock().unwrap();
    stay.push(locked.clone());
    stay.sort();
    write_file(&old.path, &plan(), &mut fill).unwrap();
    assert_eq!(names(dir), stay);
    drop(lock);
    write_file(&old.path, &plan(), &mut fill).unwrap();
    stay.retain(|n| *n != locked);
    assert_eq!(names(dir), stay);
}

#[test]
fn a_panic_in_fill_removes_the_temporary_file() {
    let old = Old::new();
    let path = old.path.clone();
    let result =
        std::thread::spawn(move || write_file(&path, &plan(), &mut |_, _| panic!("on purpose")))
            .join();
    assert!(result.is_err());
    old.assert_intact();
    write_file(&old.path, &plan(), &mut fill).unwrap();
}

#[test]
fn one_writer_per_target() {
    let old = Old::new();
    let mut inner = None;
    let result = write_file(&old.path, &plan(), &mut |i, w| {
        inner = Some(write_file(&old.path, &plan(), &mut fill));
        fill(i, w)
    });
    assert!(matches!(inner, Some(Err(Error::Request { .. }))));
    result.unwrap();
    assert_eq!(names(old.dir.path()), ["m.gguf"]);
}

/// Bytes that changed on their way to the disk are noticed before the old file is gone.
#[test]
fn damage_is_noticed() {
    let old = Old::new();
    let temp = old
        .dir
        .path()
        .join(format!(".m.gguf.geb-partial-{}", std::process::id()));
    let mut plan = plan();
    // Larger than the write buffer, so that the first bytes are on disk when `fill` returns.
    plan.push_tensor("big", Dtype::I8, [4 << 20])
        .push_tensor("last", Dtype::I8, [1]);
    let layout = plan.layout().unwrap();
    let big = layout.tensors[2].clone();
    for at in [
        5,
        40,
        70,
        layout.tensors[0].start - 1,
        layout.tensors[0].start,
        big.start - 1,
        big.start + 9,
    ] {
        let result = write_file(&old.path, &plan, &mut |i, w| match i {
            2 => w.write_all(&vec![3; 4 << 20]).map_err(Error::io("x")),
            3 => {
                let file = fs::OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(&temp)
                    .unwrap();
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
                w.write_all(&[1]).map_err(Error::io("x"))
            }
            _ => fill(i, w),
        });
        if at < layout.header.len() as u64 {
            // The header is written last: what was there before does not matter.
            result.unwrap();
            let file = GgufFile::open(&old.path, Load::Map).unwrap();
            assert!(file.data().starts_with(&layout.header), "byte {at}");
            fs::write(&old.path, "old").unwrap();
            continue;
        }
        assert!(
            matches!(result, Err(Error::Verify(_))),
            "byte {at}: {result:?}"
        );
        old.assert_intact();
    }
    // Replaced under its name while it is written.
    let result = write_file(&old.path, &plan, &mut |i, w| match i {
        2 => w.write_all(&vec![3; 4 << 20]).map_err(Error::io("x")),
        3 => {
            fs::remove_file(&temp).unwrap();
            fs::write(&temp, "foreign").unwrap();
            w.write_all(&[1]).map_err(Error::io("x"))
        }
        _ => fill(i, w),
    });
    assert!(result.is_err());
    assert_eq!(fs::read(&old.path).unwrap(), b"old");
}
