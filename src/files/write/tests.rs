use std::io::Read;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

use super::*;

const OURS: Over = Over {
    name: "a text of ours",
    is: |head| head.starts_with(b"ours"),
};

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a folder").flatten();
    let mut names: Vec<String> = entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn only_what_is_ours_is_replaced() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out");
    let cases: [(Option<&[u8]>, Over, bool); 7] = [
        (None, Over::NOTHING, true),
        (Some(b""), Over::NOTHING, true),
        (Some(b"ours, old"), OURS, true),
        (Some(b"ours, old"), Over::NOTHING, false),
        (Some(b"a letter"), OURS, false),
        (Some(b"a letter"), Over::ANY, true),
        (Some(b"\xff\xfe\0"), OURS, false),
    ];
    for (old, over, allowed) in cases {
        let _ = fs::remove_file(&path);
        if let Some(old) = old {
            fs::write(&path, old).expect("written");
        }
        let result = write(&path, b"ours, new", over);
        let want: &[u8] = if allowed {
            b"ours, new"
        } else {
            old.unwrap_or(b"")
        };
        assert_eq!(result.is_ok(), allowed, "{old:?} {}: {result:?}", over.name);
        assert_eq!(fs::read(&path).expect("a file"), want);
        assert_eq!(names(dir.path()), ["out"]);
        if let Err(e) = result {
            assert!(matches!(e, Error::Occupied { .. }), "{e}");
            let text = e.to_string();
            assert!(text.contains("out") && text.contains(over.name), "{text}");
        }
    }
}

#[test]
fn links_are_written_through() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("other")).expect("a folder");
    fs::write(at("other/file"), "ours").expect("written");
    symlink("other/file", at("relative")).expect("a link");
    symlink(at("relative"), at("chain")).expect("a link");
    symlink("other/new", at("dangling")).expect("a link");
    symlink("round", at("round")).expect("a link");
    symlink("other", at("folder")).expect("a link");
    let before = names(dir.path());
    write(&at("chain"), b"ours 1", OURS).expect("written");
    assert_eq!(fs::read(at("other/file")).expect("a file"), b"ours 1");
    write(&at("dangling"), b"ours 2", OURS).expect("written");
    assert_eq!(fs::read(at("other/new")).expect("a file"), b"ours 2");
    for name in ["round", "folder", "other", ".", "other/.."] {
        let error = write(&at(name), b"", Over::ANY).expect_err(name);
        assert!(matches!(error, Error::Request { .. }), "{name}: {error}");
    }
    for name in ["none/file", "other/file/x"] {
        let error = write(&at(name), b"", Over::ANY).expect_err(name);
        assert!(matches!(error, Error::Io { .. }), "{name}: {error}");
    }
    assert!(
        fs::symlink_metadata(at("chain"))
            .expect("a link")
            .is_symlink()
    );
    assert_eq!(names(dir.path()), before);
    assert_eq!(names(&at("other")), ["file", "new"]);
}

#[test]
fn devices_and_pipes_are_written_through() {
    let dir = tempfile::tempdir().expect("a folder");
    let (pipe, link) = (dir.path().join("pipe"), dir.path().join("null"));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .expect("a pipe");
    symlink("/dev/null", &link).expect("a link");
    for path in [Path::new("/dev/null"), &link] {
        write(path, b"gone", Over::NOTHING).expect("written");
    }
    assert!(
        fs::metadata("/dev/null")
            .expect("a device")
            .file_type()
            .is_char_device()
    );
    let full = write(Path::new("/dev/full"), b"more", Over::NOTHING);
    assert!(matches!(full, Err(Error::Io { .. })), "{full:?}");
    let reading = {
        let pipe = pipe.clone();
        std::thread::spawn(move || fs::read(pipe).expect("read"))
    };
    let long = vec![7; 1 << 20];
    write(&pipe, &long, Over::NOTHING).expect("written");
    assert!(reading.join().expect("no panic") == long);
    assert!(fs::metadata(&pipe).expect("a pipe").file_type().is_fifo());
    assert_eq!(names(dir.path()), ["null", "pipe"]);
}

#[test]
fn an_open_descriptor_is_appended_to_and_keeps_its_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("log");
    let mut file = OpenOptions::new();
    let mut file = file
        .read(true)
        .write(true)
        .create(true)
        .open(&path)
        .expect("a file");
    file.write_all(b"first ").expect("written");
    use std::os::fd::AsRawFd;
    let named = PathBuf::from(format!("/dev/fd/{}", file.as_raw_fd()));
    write(&named, b"second", Over::NOTHING).expect("written");
    let mut text = String::new();
    fs::File::open(&path)
        .expect("a file")
        .read_to_string(&mut text)
        .expect("read");
    assert_eq!(text, "first second");
    assert_eq!(names(dir.path()), ["log"]);
}

#[test]
fn the_mode_of_the_old_file_stays() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("out");
    for mode in [0o600, 0o640, 0o444, 0o755] {
        fs::write(&path, "ours").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        write(&path, b"ours", OURS).expect("written");
        let now = fs::metadata(&path).expect("a file").permissions().mode() & 0o777;
        assert_eq!(now, mode);
        fs::remove_file(&path).expect("removed");
    }
}

#[test]
fn leftovers_go_unless_somebody_holds_them() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let stay = [
        ".out.geb-new-00000000000000001",
        ".out.geb-new-x",
        ".other.geb-new-0000000000000001",
        "out.geb-new-0000000000000001",
    ];
    for name in stay {
        fs::write(at(name), "part").expect("written");
    }
    for name in [
        ".out.geb-new-0123456789abcdef",
        ".out.geb-new-fedcba9876543210",
    ] {
        fs::write(at(name), "part").expect("written");
    }
    let held = File::open(at(".out.geb-new-fedcba9876543210")).expect("a file");
    held.lock().expect("a lock");
    write(&at("out"), b"x", Over::NOTHING).expect("written");
    assert!(!at(".out.geb-new-0123456789abcdef").exists());
    assert!(at(".out.geb-new-fedcba9876543210").exists());
    assert!(stay.iter().all(|name| at(name).exists()));
}

#[test]
fn a_long_name_is_written_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("é".repeat(127));
    write(&path, b"x", Over::NOTHING).expect("written");
    assert_eq!(names(dir.path()).len(), 1);
}
