//! In which form a template wants tool calls of earlier answers; found by rendering some (`proof`).

/// The form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chat) struct Forms {
    pub content: NoContent,
    pub arguments: ArgumentsAs,
    pub several: Several,
    pub preamble: Preamble,
    pub calls: CallsAs,
}

/// What stands for the content of a message that has calls only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chat) enum NoContent {
    Null,
    Empty,
    Absent,
}

/// What arguments are given as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chat) enum ArgumentsAs {
    Object,
    Text,
}

/// Whether several calls of one answer stand in one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chat) enum Several {
    Together,
    /// Each in a message of its own, its result behind it.
    Apart,
}

/// What becomes of calls in a message that has content, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chat) enum Preamble {
    Kept,
    /// The calls are lost: the content goes instead.
    Lost,
}

/// What calls are to a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chat) enum CallsAs {
    /// Calls.
    Calls,
    /// Text: it knows none.
    Text,
}

impl Forms {
    /// What most templates take.
    pub const USUAL: Forms = Forms {
        content: NoContent::Empty,
        arguments: ArgumentsAs::Object,
        several: Several::Together,
        preamble: Preamble::Kept,
        calls: CallsAs::Calls,
    };
}
