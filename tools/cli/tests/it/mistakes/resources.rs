//! Resources that fail: full or closed streams, no threads, little address space, a small stack.

use super::{program, said, scratch};
use std::process::{Command, Output};

/// Runs a line of the shell with `$RUN` and `$QUANTIZE`.
fn shell(line: &str) -> Output {
    let of = |name: &str| program(name).get_program().to_owned();
    let inner = program("geb-run");
    let mut command = Command::new("bash");
    command
        .arg("-c")
        .arg(line)
        .env("RUN", of("geb-run"))
        .env("QUANTIZE", of("geb-quantize"));
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
        .current_dir(scratch())
        .output()
        .expect("bash starts")
}

/// The exit code is one of these; one line says why, unless all is well; no panic.
#[track_caller]
fn ends(line: &str, codes: &[i32]) -> String {
    let output = shell(line);
    let err = said(&output);
    let code = output.status.code();
    assert!(
        code.is_some_and(|c| codes.contains(&c)),
        "{line}: {code:?}\n{err}"
    );
    assert!(
        !err.contains("panicked") && !err.contains("internal fault"),
        "{line}\n{err}"
    );
    // The standard library says it again where its own words find no memory, too.
    let refused = usize::from(err.contains("memory allocation"));
    let errors = err
        .lines()
        .filter(|l| l.starts_with("error:") || l.starts_with("geb-quantize: "));
    let errors = refused + errors.filter(|l| !l.contains(": note: ")).count();
    assert!(
        errors == usize::from(code != Some(0)) || !line.contains("2>&2"),
        "{line}\n{err}"
    );
    err
}

const GENERATE: &str = "$RUN generate -m m.gguf --raw -p a -n 2 -t 2";

#[test]
fn a_full_or_closed_stderr_changes_no_exit_code() {
    for stream in ["2>/dev/full", "2>&-"] {
        ends(
            &format!("$QUANTIZE m.gguf s.gguf --type q8_0 {stream}"),
            &[0],
        );
        ends(&format!("$QUANTIZE m.gguf s.gguf {stream}"), &[0]);
        ends(&format!("{GENERATE} {stream}"), &[0]);
        ends(&format!("$RUN inspect none.gguf {stream}"), &[1]);
        ends(&format!("$RUN inspect --nonsense {stream}"), &[2]);
        ends(&format!("$QUANTIZE --nonsense {stream}"), &[2]);
        ends(&format!("$QUANTIZE none.gguf s.gguf {stream}"), &[1]);
        ends(
            &format!("$RUN bench -m m.gguf -p 4 -n 4 -r 1 {stream}"),
            &[0],
        );
    }
}

#[test]
fn a_full_stdout_is_one_line_and_a_closed_one_none() {
    for line in [
        GENERATE,
        "$RUN inspect m.gguf",
        "$RUN --help",
        "$QUANTIZE --help",
        "$QUANTIZE m.gguf s.gguf --type q8_0",
    ] {
        let err = ends(&format!("{line} >/dev/full"), &[1]);
        assert!(err.contains("standard output"), "{line}: {err}");
    }
    for line in [
        GENERATE,
        "$RUN inspect m.gguf --full --json",
        "$RUN --help",
        "$QUANTIZE --help",
        "$RUN systems",
    ] {
        let err = ends(
            &format!("set -o pipefail; {line} | head -c 1 >/dev/null"),
            &[0, 141],
        );
        assert!(!err.contains("error:"), "{line}: {err}");
        ends(&format!("{line} >&-"), &[0]);
    }
    ends("$RUN chat m.gguf --chat-template none.jinja <&-", &[1]);
    ends(
        "echo '{{ messages[0].content }}' > c.jinja; $RUN chat m.gguf --chat-template c.jinja -n 1 <&-",
        &[0],
    );
}

#[test]
fn a_small_stack_is_enough() {
    for kb in [64, 128] {
        ends(&format!("ulimit -s {kb}; {GENERATE}"), &[0]);
        ends(
            &format!("ulimit -s {kb}; $QUANTIZE m.gguf s.gguf --type q8_0"),
            &[0],
        );
        ends(&format!("ulimit -s {kb}; $RUN inspect m.gguf"), &[0]);
    }
}

#[test]
fn little_address_space_is_an_exit_code() {
    // From what the program itself needs to be loaded on: never a signal.
    for command in [GENERATE, "$QUANTIZE m.gguf s.gguf --type q8_0"] {
        let limited = |mb: usize| format!("ulimit -v {}; {command} 2>&2", mb * 1024);
        let loads =
            |mb: &usize| !matches!(shell(&limited(*mb)).status.code(), None | Some(127 | 139));
        let first = (20..2000).step_by(4).find(loads).expect("enough");
        for more in [0, 4, 8, 12, 16, 20, 30, 60, 100, 1000] {
            ends(&limited(first + more), &[0, 1, 5]);
        }
    }
    let err = ends(
        "ulimit -v 3000000; $RUN generate -m m.gguf --raw -p a -n 1 -c 16777216 --ctx-beyond",
        &[5],
    );
    assert!(err.contains("context of 16777216 tokens needs"), "{err}");
}

#[test]
fn a_copy_that_does_not_fit_is_refused_first() {
    // A sparse file larger than the address space, with the header of a model.
    let line = "cp m.gguf huge.gguf && truncate -s 20G huge.gguf && ulimit -v 4000000 && $RUN inspect --load read huge.gguf; c=$?; rm -f huge.gguf; exit $c";
    let err = ends(line, &[5]);
    assert!(
        err.contains("huge.gguf needs 21474836480 bytes, available: ")
            && !err.contains("9223372036854775807"),
        "{err}"
    );
}

/// As another user, whose number of processes can be limited; `None` where that is not possible.
fn as_nobody(line: &str) -> Option<Output> {
    let possible = shell(
        "setpriv --reuid=65533 --regid=65533 --clear-groups test -r \"$PWD/m.gguf\" -a -x \"$RUN\"",
    );
    possible.status.success().then(|| {
        shell(&format!(
            "ulimit -u 1; exec setpriv --reuid=65533 --regid=65533 --clear-groups {line}"
        ))
    })
}

#[test]
fn without_threads_one_line_says_so() {
    let run = |flags: &str| as_nobody(&format!("$RUN generate -m m.gguf --raw -p a -n 2 {flags}"));
    let (Some(two), Some(one)) = (run("-t 2"), run("-t 1")) else {
        println!("NOT RUN: this user cannot become another one");
        return;
    };
    let err = said(&two);
    assert_eq!(two.status.code(), Some(1), "{err}");
    assert!(
        err.contains("cannot start 2 threads") && !err.contains("panicked"),
        "{err}"
    );
    assert_eq!(one.status.code(), Some(0), "{}", said(&one));
    let dry = as_nobody("$QUANTIZE m.gguf --type q8_0 --dry-run").expect("as before");
    assert_eq!(dry.status.code(), Some(0), "{}", said(&dry));
}
