//! The log: a line per request, never a text of one.

use std::io::Write;
use std::time::Duration;

use serde_json::json;

use crate::id::{self, date};
use crate::options::LogForm;

/// Writes to standard error.
#[derive(Clone, Copy, Debug)]
pub struct Log(pub LogForm);

impl Log {
    /// A request that was answered, or whose answer has begun.
    pub fn request(
        self,
        id: &str,
        owner: &str,
        method: &str,
        path: &str,
        status: u16,
        time: Duration,
    ) {
        let (at, ms) = (date(id::now()), time.as_millis());
        // A path comes from a client: it stays on its line and cannot steer a terminal.
        let path = geb::shown::Shown::list(path).to_string();
        let line = match self.0 {
            LogForm::Off => return,
            LogForm::Text => format!("{at} {status} {method} {path} {ms} ms {owner} {id}"),
            LogForm::Json => json!({
                "time": at, "status": status, "method": method, "path": path, "ms": ms as u64, "owner": owner, "id": id,
            })
            .to_string(),
        };
        self.line(&line);
    }

    /// Something that the operator should know.
    pub fn note(self, text: &str) {
        match self.0 {
            LogForm::Off => {}
            LogForm::Text => self.line(text),
            LogForm::Json => {
                self.line(&json!({ "time": date(id::now()), "note": text }).to_string())
            }
        }
    }

    fn line(self, text: &str) {
        // A closed standard error is no reason to serve nobody.
        _ = writeln!(std::io::stderr().lock(), "{text}");
    }
}
