//! How a program starts and ends: on a stack of its own size, with one line and a documented exit code
//! whatever happens. Nothing here panics when a stream is closed or full.

use std::backtrace::BacktraceStatus;
use std::io::Write;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Stack of the program, whatever `ulimit -s` says: pages are taken when they are used.
const STACK_BYTES: usize = 16 << 20;
/// Exit code of a fault of the program itself.
const EXIT_FAULT: i32 = 1;
/// Characters of a panic's message that are shown.
const MAX_SHOWN: usize = 300;

/// Whether a thread has panicked.
static PANICKED: AtomicBool = AtomicBool::new(false);
/// What the last panic said, in one line.
static MESSAGE: Mutex<String> = Mutex::new(String::new());

/// Runs a program and returns its exit code. `prefix` begins its lines on standard error. A panic is one line;
/// `RUST_BACKTRACE=1` shows more.
pub fn run(prefix: &str, body: impl FnOnce() -> i32 + Send) -> i32 {
    geb::mmap::install_sigbus_handler();
    geb::mmap::install_abort_handler(after_abort);
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        remember(info);
        if std::backtrace::Backtrace::capture().status() == BacktraceStatus::Captured {
            usual(info);
        }
    }));
    let body = Mutex::new(Some(body));
    // Whoever comes first takes the body: the thread, or this one where the system starts none.
    let once = || {
        let body = body.lock().map_or(None, |mut b| b.take());
        body.map(|body| catch_unwind(AssertUnwindSafe(body)))
    };
    let ended = std::thread::scope(|scope| {
        let own = std::thread::Builder::new().stack_size(STACK_BYTES);
        match own.spawn_scoped(scope, once) {
            Ok(thread) => thread.join().ok().flatten(),
            Err(_) => once(),
        }
    });
    match ended {
        Some(Ok(code)) => code,
        _ => {
            let message = MESSAGE
                .lock()
                .map_or_else(|e| e.into_inner().clone(), |m| m.clone());
            complain(format_args!(
                "{prefix} internal fault: {message}; please report it"
            ));
            EXIT_FAULT
        }
    }
}

/// Writes a line to standard error; ignores one that is closed or full.
pub fn complain(line: impl std::fmt::Display) {
    _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Keeps what a panic says.
fn remember(info: &PanicHookInfo<'_>) {
    PANICKED.store(true, Ordering::SeqCst);
    let text = info.payload_as_str().unwrap_or("a panic without a message");
    let shown: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown: String = shown
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_SHOWN)
        .collect();
    let at = info.location().map_or(String::new(), |l| format!(" ({l})"));
    if let Ok(mut message) = MESSAGE.lock() {
        *message = shown + &at;
    }
}

/// The exit code of an abort: the fault itself, when a thread panicked while it panicked; else memory or stack
/// have run out.
fn after_abort() -> i32 {
    match PANICKED.load(Ordering::SeqCst) {
        true => EXIT_FAULT,
        false => geb::mmap::EXIT_MEMORY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_exit_code_and_one_line() {
        assert_eq!(run("x:", || 3), 3);
        assert_eq!(run("x:", || panic!("on\npurpose {}", 1)), EXIT_FAULT);
        let message = MESSAGE.lock().expect("message").clone();
        assert!(
            message.starts_with("on purpose 1 (") && message.contains("shield.rs"),
            "{message}"
        );
        assert_eq!(after_abort(), EXIT_FAULT);
    }
}
