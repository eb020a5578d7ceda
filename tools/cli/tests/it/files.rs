//! Files that are written and read: what is replaced, what is written through, what is not waited for.

use std::path::Path;

use super::support::*;

/// A small model with a state, as a GGUF file.
fn recurrent(dir: &Path) -> String {
    let path = dir.join("rwkv.gguf");
    let options = geb_convert::Options {
        policy: geb::Dtype::F32.into(),
        ..Default::default()
    };
    geb_convert::convert(&fixture("rwkv7").join("hf"), &path, &options, &mut ()).expect("convert");
    path.to_str().expect("path").to_owned()
}

/// Every command that writes a file named on the command line, without that name.
fn writers(dir: &Path) -> Vec<(&'static str, Vec<String>)> {
    let (model, state) = (model().to_str().expect("path").to_owned(), recurrent(dir));
    let text = dir.join("text.txt");
    std::fs::write(&text, "It was the best of times, ".repeat(60)).expect("written");
    let text = text.to_str().expect("path");
    let words = |line: &str| -> Vec<String> {
        let put = |w: &str| {
            w.replace("MODEL", &model)
                .replace("STATE", &state)
                .replace("TEXT", text)
        };
        line.split(' ').map(put).collect()
    };
    vec![
        ("--out", words("logits -m MODEL --tokens 1,2,3")),
        ("--states", words("probe -m MODEL -p hello")),
        (
            "--out",
            words("imatrix -m MODEL -f TEXT --ctx 64 --chunks 1"),
        ),
        (
            "--save-state",
            words("generate -m STATE --raw -p hello -n 2"),
        ),
        ("--json=", words("compare MODEL MODEL -r 0 -p 16 -n 4 -t 1")),
        ("--md=", words("compare MODEL MODEL -r 0 -p 16 -n 4 -t 1")),
        ("--csv=", words("compare MODEL MODEL -r 0 -p 16 -n 4 -t 1")),
        (
            "--report=",
            words("compare MODEL MODEL -r 0 -p 16 -n 4 -t 1"),
        ),
        ("--save", words("bench --shape smollm2-135m")),
    ]
}

fn with(words: &[String], flag: &str, path: &str, force: bool) -> std::process::Output {
    let mut command = geb_run();
    command.args(words);
    match flag.ends_with('=') {
        true => command.arg(format!("{flag}{path}")),
        false => command.args([flag, path]),
    };
    if force {
        command.arg("--force");
    }
    command.output().expect("geb-run starts")
}

#[test]
fn what_is_not_ours_is_kept() {
    let dir = tempfile::tempdir().expect("folder");
    let out = dir.path().join("out");
    let path = out.to_str().expect("path");
    for (flag, words) in writers(dir.path()) {
        let case = format!("{words:?} {flag}");
        for old in [
            &b"my notes"[..],
            b"{\"mine\": 1}",
            b"a,b\n1,2\n",
            b"\x7fELF\0\0",
            b"GGUF\x03\0\0\0",
        ] {
            std::fs::write(&out, old).expect("written");
            let refused = with(&words, flag, path, false);
            let said = stderr(&refused);
            assert_eq!(refused.status.code(), Some(2), "{case}: {said}");
            assert!(
                said.contains(path) && said.contains("--force"),
                "{case}: {said}"
            );
            assert_eq!(std::fs::read(&out).expect("kept"), old, "{case}");
        }
        // Random weights of a whole model take too long here.
        if words[0] == "bench" {
            continue;
        }
        for (force, old) in [(true, Some("my notes")), (false, None), (false, Some(""))] {
            if let Some(old) = old {
                std::fs::write(&out, old).expect("written");
            }
            let done = with(&words, flag, path, force);
            assert_eq!(done.status.code(), Some(0), "{case}: {}", stderr(&done));
            assert!(std::fs::metadata(&out).expect("there").len() > 20, "{case}");
        }
        std::fs::remove_file(&out).expect("removed");
    }
}

#[cfg(unix)]
#[test]
fn links_and_devices_are_written_through() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let dir = tempfile::tempdir().expect("folder");
    std::fs::create_dir(dir.path().join("real")).expect("folder");
    for (i, (flag, words)) in writers(dir.path()).into_iter().enumerate() {
        if words[0] == "bench" {
            continue;
        }
        let case = format!("{words:?} {flag}");
        let (link, real) = (
            dir.path().join(format!("link{i}")),
            dir.path().join(format!("real/{i}")),
        );
        symlink(&real, &link).expect("a link");
        let done = with(&words, flag, link.to_str().expect("path"), false);
        assert_eq!(done.status.code(), Some(0), "{case}: {}", stderr(&done));
        assert!(
            std::fs::symlink_metadata(&link)
                .expect("there")
                .is_symlink(),
            "{case}"
        );
        assert!(
            std::fs::symlink_metadata(&real).expect("there").is_file(),
            "{case}"
        );
        let device = with(&words, flag, "/dev/null", false);
        // An importance matrix is read back and gone on from.
        let code = if words[0] == "imatrix" { 2 } else { 0 };
        assert_eq!(
            device.status.code(),
            Some(code),
            "{case}: {}",
            stderr(&device)
        );
        let kind = std::fs::metadata("/dev/null").expect("there").file_type();
        assert!(kind.is_char_device(), "{case}");
    }
}

/// `/save` of the chat keeps what is there.
#[test]
fn a_chat_is_saved_over_chats_only() {
    use std::io::Write;
    let dir = tempfile::tempdir().expect("folder");
    let out = dir.path().join("chat.json");
    let template = dir.path().join("template");
    std::fs::write(
        &template,
        "{% for m in messages %}{{ m.content }}{% endfor %}",
    )
    .expect("written");
    let chat = |line: &str| {
        let mut command = geb_run();
        command.args([
            "chat",
            "-m",
            model().to_str().expect("path"),
            "-n",
            "1",
            "--chat-template",
        ]);
        let mut child = command
            .arg(&template)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("starts");
        let mut stdin = child.stdin.take().expect("stdin");
        stdin.write_all(line.as_bytes()).expect("written");
        drop(stdin);
        stderr(&child.wait_with_output().expect("ends"))
    };
    std::fs::write(&out, "my notes").expect("written");
    let said = chat(&format!("/save {}\n", out.display()));
    assert!(
        said.contains("a text file of 8 bytes") && said.contains("/save --force"),
        "{said}"
    );
    assert_eq!(std::fs::read(&out).expect("kept"), b"my notes");
    for word in ["--force ", ""] {
        let said = chat(&format!("/save {word}{}\n", out.display()));
        assert!(said.contains("saved 0 messages"), "{said}");
    }
}

/// Inputs that never end or that nobody writes.
#[cfg(unix)]
#[test]
fn endless_and_waiting_inputs() {
    let dir = tempfile::tempdir().expect("folder");
    let pipe = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    let (pipe, state) = (pipe.to_str().expect("path"), recurrent(dir.path()));
    let zero = run(&[
        "generate",
        "-m",
        &state,
        "--raw",
        "-p",
        "x",
        "-n",
        "1",
        "--load-state",
        "/dev/zero",
    ]);
    exits(&zero, 2);
    assert!(stderr(&zero).contains("/dev/zero"), "{}", stderr(&zero));
    for words in [
        &["generate", "--raw", "-n", "1", "-f", "/dev/zero"][..],
        &[
            "generate",
            "-n",
            "1",
            "-p",
            "x",
            "--chat-template",
            "/dev/zero",
        ],
        &["probe", "--lens", "-f", "/dev/zero"],
        &["compress", "/dev/zero", "-o", "/dev/null"],
    ] {
        let done = run_on_model(words);
        exits(&done, 2);
        assert!(
            stderr(&done).contains("/dev/zero"),
            "{words:?}: {}",
            stderr(&done)
        );
    }
    let template = dir.path().join("template");
    std::fs::write(&template, "{{ messages[0].content }}").expect("written");
    let mut chat = geb_run();
    chat.args(["chat", "-m", &state, "--chat-template"])
        .arg(&template);
    let endless = std::fs::File::open("/dev/zero").expect("a device");
    let done = chat.stdin(endless).output().expect("geb-run starts");
    exits(&done, 2);
    assert!(
        stderr(&done).contains("a line is longer"),
        "{}",
        stderr(&done)
    );
    for words in [
        vec!["inspect", pipe],
        vec!["generate", "-m", pipe, "-p", "x"],
        vec!["generate", "-m", &state, "--lora", pipe, "-p", "x"],
    ] {
        exits(&run(&words), 2);
    }
    // `<(command)` of a shell.
    let writing = std::thread::spawn({
        let pipe = pipe.to_owned();
        move || std::fs::write(pipe, "hello").expect("written")
    });
    exits(
        &run_on_model(&["generate", "--raw", "-n", "1", "-f", pipe]),
        0,
    );
    writing.join().expect("no panic");
    // One that nobody writes ends with the user's patience.
    for signal in ["INT", "TERM"] {
        let mut command = geb_run();
        command.args(["generate", "-m", &state, "--raw", "-n", "1", "-f", pipe]);
        let mut child = command
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("starts");
        std::thread::sleep(std::time::Duration::from_millis(400));
        assert!(child.try_wait().expect("asked").is_none());
        let id = child.id().to_string();
        let kill = std::process::Command::new("kill")
            .args(["-s", signal, &id])
            .status();
        assert!(kill.expect("kill").success());
        assert_eq!(child.wait().expect("ends").code(), Some(130), "{signal}");
    }
}
