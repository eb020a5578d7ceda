//! What goes wrong between a request and its answer, and how each family of clients wants to read it.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use geb::scheduler::Refusal;
use serde_json::{Value, json};

use crate::id;

/// Kinds of faults; each has a status and the names that clients know it by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Malformed, out of range, unsupported.
    Invalid,
    /// More tokens than the context has.
    TooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Most that there may be.
        most: usize,
    },
    /// No key, or a wrong one.
    Key,
    /// A host or origin that is not served.
    Forbidden,
    /// No such path.
    Path,
    /// No such model.
    Model,
    /// A path that wants another method.
    Method,
    /// A body that does not come.
    Slow,
    /// A body that is too large.
    TooLarge,
    /// A body that is no JSON by its own account.
    MediaType,
    /// Too many or too long header fields.
    Headers,
    /// Too many wait.
    Overloaded,
    /// The model is being loaded, or the server ends.
    Unavailable,
    /// Something that the model or this server does not do.
    NotSupported,
    /// A grammar that takes too long.
    TooComplex,
    /// A fault of the server or the model.
    Server,
}

impl Fault {
    /// Status, type and code of OpenAI, type of Anthropic.
    fn names(self) -> (StatusCode, &'static str, Option<&'static str>, &'static str) {
        use StatusCode as S;
        const INVALID: &str = "invalid_request_error";
        match self {
            Self::Invalid => (S::BAD_REQUEST, INVALID, None, INVALID),
            Self::TooLong { .. } => (
                S::BAD_REQUEST,
                INVALID,
                Some("context_length_exceeded"),
                INVALID,
            ),
            Self::Key => (
                S::UNAUTHORIZED,
                "authentication_error",
                Some("invalid_api_key"),
                "authentication_error",
            ),
            Self::Forbidden => (S::FORBIDDEN, "permission_error", None, "permission_error"),
            Self::Path => (S::NOT_FOUND, "not_found_error", None, "not_found_error"),
            Self::Model => (
                S::NOT_FOUND,
                "not_found_error",
                Some("model_not_found"),
                "not_found_error",
            ),
            Self::Method => (S::METHOD_NOT_ALLOWED, INVALID, None, INVALID),
            Self::Slow => (S::REQUEST_TIMEOUT, INVALID, None, INVALID),
            Self::TooLarge => (S::PAYLOAD_TOO_LARGE, INVALID, None, "request_too_large"),
            Self::MediaType => (S::UNSUPPORTED_MEDIA_TYPE, INVALID, None, INVALID),
            Self::Headers => (S::REQUEST_HEADER_FIELDS_TOO_LARGE, INVALID, None, INVALID),
            Self::Overloaded => (
                S::SERVICE_UNAVAILABLE,
                "overloaded_error",
                None,
                "overloaded_error",
            ),
            Self::Unavailable => (
                S::SERVICE_UNAVAILABLE,
                "unavailable_error",
                None,
                "overloaded_error",
            ),
            Self::NotSupported => (S::NOT_IMPLEMENTED, "not_supported_error", None, INVALID),
            Self::TooComplex => (
                S::BAD_REQUEST,
                INVALID,
                Some("constraint_too_complex"),
                INVALID,
            ),
            Self::Server => (S::INTERNAL_SERVER_ERROR, "server_error", None, "api_error"),
        }
    }
}

/// A request that gets no answer, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiError {
    /// What kind of fault.
    pub fault: Fault,
    /// The field at fault.
    pub param: Option<String>,
    /// One sentence: field, value, what was allowed.
    pub message: String,
}

/// Result of a request.
pub type Result<T, E = ApiError> = std::result::Result<T, E>;

/// Who reads an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// `{"error": {message, type, param, code}}`
    OpenAi,
    /// `{"type": "error", "error": {type, message}, "request_id"}`
    Anthropic,
    /// `{"error": "…"}`
    Ollama,
}

impl Dialect {
    /// Whose path it is.
    pub fn of(path: &str) -> Dialect {
        if path.starts_with("/v1/messages") {
            Dialect::Anthropic
        } else if path.starts_with("/api/") {
            Dialect::Ollama
        } else {
            Dialect::OpenAi
        }
    }
}

impl ApiError {
    /// A fault without a field.
    pub fn new(fault: Fault, message: impl Into<String>) -> Self {
        Self {
            fault,
            param: None,
            message: message.into(),
        }
    }

    /// A field that is malformed.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            fault: Fault::Invalid,
            param: Some(param.into()),
            message: message.into(),
        }
    }

    /// A field with a value that is not allowed.
    pub fn wrong(param: &str, value: &Value, allowed: &str) -> Self {
        let mut shown = value.to_string();
        if let Some((at, _)) = shown.char_indices().nth(80) {
            shown.truncate(at);
            shown.push('…');
        }
        Self::field(param, format!("{param} is {shown}, allowed: {allowed}"))
    }

    /// More tokens than the context has.
    pub fn too_long(param: &str, tokens: usize, ctx: usize) -> Self {
        Self {
            fault: Fault::TooLong { tokens, most: ctx },
            param: Some(param.into()),
            message: format!(
                "This model's maximum context length is {ctx} tokens. However, your messages resulted in {tokens} tokens."
            ),
        }
    }

    /// An error of the library that a client's value has caused, or that the server has.
    pub fn of(param: &str, error: &geb::Error) -> Self {
        use geb::Error as E;
        match error {
            E::Request { .. } | E::Template(_) | E::Constraint(_) => {
                Self::field(param, error.to_string())
            }
            E::Slow { .. } => Self {
                param: Some(param.into()),
                ..Self::new(Fault::TooComplex, error.to_string())
            },
            E::Unsupported { .. } => Self::new(Fault::NotSupported, error.to_string()),
            E::Memory { .. } | E::Pages { .. } => Self::new(Fault::Overloaded, error.to_string()),
            E::Interrupted => Self::new(Fault::Unavailable, "the server ends"),
            _ => Self::new(Fault::Server, error.to_string()),
        }
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.fault.names().0
    }

    /// The body as a client of this family reads it.
    pub fn body(&self, dialect: Dialect, request_id: &str) -> Value {
        let (_, kind, code, anthropic) = self.fault.names();
        match dialect {
            Dialect::OpenAi => json!({ "error": {
                "message": self.message, "type": kind, "param": self.param, "code": code,
            } }),
            Dialect::Anthropic => json!({
                "type": "error",
                "error": { "type": anthropic, "message": self.told() },
                "request_id": request_id,
            }),
            Dialect::Ollama => json!({ "error": self.message }),
        }
    }

    /// The message as agents look for it.
    fn told(&self) -> String {
        match self.fault {
            Fault::TooLong { tokens, most } => {
                format!("prompt is too long: {tokens} tokens > {most} maximum")
            }
            _ => self.message.clone(),
        }
    }

    /// The response to a client of this family.
    pub fn response(&self, dialect: Dialect, request_id: &str) -> Response {
        let mut status = self.status();
        if dialect == Dialect::Anthropic && self.fault == Fault::Overloaded {
            // Its clients wait and try again at 529.
            status = StatusCode::from_u16(529).unwrap_or(status);
        }
        let mut response = (status, axum::Json(self.body(dialect, request_id))).into_response();
        if matches!(self.fault, Fault::Overloaded | Fault::Unavailable) {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let fault = match refusal {
            Refusal::Full { .. } => Fault::Overloaded,
            Refusal::Closed => Fault::Unavailable,
        };
        Self::new(fault, refusal.to_string())
    }
}

/// Errors that leave a handler are written by [`crate::guard`], which knows the dialect: they travel beside an
/// empty response.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.response(Dialect::OpenAi, &id::random("req_"));
        response.extensions_mut().insert(self);
        response
    }
}
