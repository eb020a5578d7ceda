//! What the reader of replies tells.

/// Something that a reply says, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyEvent {
    /// Text for the person.
    Content(String),
    /// Text of the reasoning.
    Reasoning(String),
    /// A tool call begins.
    CallStarted {
        /// Its place among the calls of the reply, from 0.
        index: usize,
        /// Its id.
        id: String,
        /// The function.
        name: String,
    },
    /// More of the arguments of the call that has begun: pieces of one JSON object.
    CallArguments {
        /// The call.
        index: usize,
        /// The piece.
        text: String,
    },
    /// The call is whole: its arguments are a JSON object.
    CallFinished {
        /// The call.
        index: usize,
    },
    /// What has begun is no call; its text follows as content. Only with [`Delivery::InPieces`].
    CallDropped {
        /// The call.
        index: usize,
    },
}

/// When a call is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// When it is whole: then it is one.
    #[default]
    Whole,
    /// As it comes. A reply that is cut off inside a call ends with [`ReplyEvent::CallDropped`].
    InPieces,
}

/// A whole tool call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// Its id.
    pub id: String,
    /// The function.
    pub name: String,
    /// The text of a JSON object.
    pub arguments: String,
}

/// A reply, put together from its events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Text for the person.
    pub content: String,
    /// The reasoning.
    pub reasoning: String,
    /// The calls.
    pub calls: Vec<ToolCall>,
}

impl Reply {
    /// Adds what an event brings.
    pub fn add(&mut self, event: ReplyEvent) {
        match event {
            ReplyEvent::Content(text) => self.content.push_str(&text),
            ReplyEvent::Reasoning(text) => self.reasoning.push_str(&text),
            ReplyEvent::CallStarted { id, name, .. } => self.calls.push(ToolCall {
                id,
                name,
                arguments: String::new(),
            }),
            ReplyEvent::CallArguments { text, .. } => {
                if let Some(call) = self.calls.last_mut() {
                    call.arguments.push_str(&text);
                }
            }
            ReplyEvent::CallFinished { .. } => {}
            ReplyEvent::CallDropped { .. } => _ = self.calls.pop(),
        }
    }
}
