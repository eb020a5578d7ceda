//! Ctrl-C: the first one asks the work to stop, the second one leaves at once.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use crate::report;

static PRESSED: AtomicU32 = AtomicU32::new(0);
static WORKING: AtomicBool = AtomicBool::new(false);
static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// The flag of the program's handler, for what outlives a call.
pub fn flag() -> Arc<AtomicBool> {
    FLAG.get_or_init(Default::default).clone()
}

/// The flag that sessions and loops look at.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Installs the handler. Called once, from `main`.
    pub fn install() -> Interrupt {
        let flag = flag();
        let seen = flag.clone();
        // Without a handler Ctrl-C still ends the program, only less politely.
        _ = ctrlc::set_handler(move || {
            seen.store(true, Ordering::SeqCst);
            let presses = PRESSED.fetch_add(1, Ordering::SeqCst) + 1;
            if presses >= 2 || !WORKING.load(Ordering::SeqCst) {
                std::process::exit(130);
            }
        });
        Interrupt(flag)
    }

    /// The flag itself, for [`geb::session::SessionOptions`].
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }

    /// Runs `work`; while it runs, one Ctrl-C sets the flag instead of ending the program.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.store(false, Ordering::SeqCst);
        PRESSED.store(0, Ordering::SeqCst);
        WORKING.store(true, Ordering::SeqCst);
        let result = work();
        WORKING.store(false, Ordering::SeqCst);
        result
    }

    /// True after Ctrl-C during the last [`Self::during`].
    pub fn pressed(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Ends the work with exit code 130 if Ctrl-C was pressed.
    pub fn check(&self) -> report::Outcome {
        if self.pressed() {
            Err(report::Failure::interrupted())
        } else {
            Ok(())
        }
    }
}
