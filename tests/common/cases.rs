//! Tables of hostile files with the exact error each must give.

use geb::Error;
use geb::gguf::GgufFile;

use super::gguf::File;

/// What must happen.
#[derive(Clone, Debug, PartialEq)]
pub enum Want {
    Ok,
    /// `Error::Format` with this rule and field.
    Rule(u8, String),
    /// `Error::Type`.
    Type,
}

/// Named files with what must happen to them.
pub struct Cases(pub Vec<(String, Vec<u8>, Want)>);

impl Cases {
    pub fn ok(&mut self, name: &str, file: &File) {
        self.bytes(name, file.encode(), Want::Ok);
    }

    pub fn bad(&mut self, name: &str, rule: u8, field: &str, file: &File) {
        self.bytes(name, file.encode(), Want::Rule(rule, field.into()));
    }

    pub fn bytes(&mut self, name: &str, bytes: Vec<u8>, want: Want) {
        self.0.push((name.into(), bytes, want));
    }

    /// Runs all; reports every wrong one.
    pub fn check(self, at_least: usize) {
        assert!(
            self.0.len() >= at_least,
            "{} cases, expected at least {at_least}",
            self.0.len()
        );
        let mut wrong = Vec::new();
        for (name, bytes, want) in self.0 {
            let got = outcome(GgufFile::from_bytes(bytes));
            if got != want {
                wrong.push(format!("{name}: got {got:?}, want {want:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

/// What happened.
pub fn outcome(result: geb::Result<GgufFile>) -> Want {
    match result {
        Ok(_) => Want::Ok,
        Err(Error::Format {
            rule,
            field,
            value,
            allowed,
            ..
        }) => {
            assert!(!value.is_empty() && !allowed.is_empty());
            Want::Rule(rule, field)
        }
        Err(Error::Type { .. }) => Want::Type,
        Err(other) => panic!("unexpected kind: {other}"),
    }
}
