//! Failures of templates.

/// Why a template could not be read or rendered.
#[derive(Debug)]
pub(in crate::chat) struct Fail {
    message: String,
    line: Option<u32>,
    /// Whether a budget is used up: trying again would take as long.
    pub exhausted: bool,
}

impl Fail {
    pub(super) fn syntax(message: impl Into<String>, line: u32) -> Fail {
        Fail {
            message: message.into(),
            line: Some(line),
            exhausted: false,
        }
    }

    /// With the line, if it has none yet.
    pub(super) fn at(self, line: u32) -> Fail {
        Fail {
            line: self.line.or(Some(line)),
            ..self
        }
    }
}

impl std::fmt::Display for Fail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        match self.line {
            Some(line) => write!(f, " (in chat:{line})"),
            None => Ok(()),
        }
    }
}

pub(super) fn fail<T>(message: impl Into<String>) -> Result<T, Fail> {
    Err(Fail {
        message: message.into(),
        line: None,
        exhausted: false,
    })
}

/// The end of a budget.
pub(super) fn exhausted<T>(message: impl Into<String>) -> Result<T, Fail> {
    Err(Fail {
        message: message.into(),
        line: None,
        exhausted: true,
    })
}

/// The beginning of a foreign text, for messages.
pub(super) fn cut(text: &str) -> String {
    match text.char_indices().nth(300) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
