//! Answers as they are sent: all at once, or piece by piece.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::Value;

use crate::beside::{beside, json, written};
use crate::error::{ApiError, Result};
use crate::limits;
use crate::reply::{Replies, Reply, Step};

/// How the parts of a stream are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// Server-sent events.
    Events,
    /// A line each.
    Lines,
}

/// What is to be sent next.
#[derive(Default)]
pub struct Frames(Vec<u8>);

impl Frames {
    /// A server-sent event without a name.
    pub fn data(&mut self, value: &Value) {
        self.0
            .extend_from_slice(format!("data: {value}\n\n").as_bytes());
    }

    /// A server-sent event with a name.
    pub fn event(&mut self, name: &str, value: &Value) {
        self.0
            .extend_from_slice(format!("event: {name}\ndata: {value}\n\n").as_bytes());
    }

    /// A line.
    pub fn line(&mut self, value: &Value) {
        self.0.extend_from_slice(format!("{value}\n").as_bytes());
    }

    /// Text as it is.
    pub fn raw(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }
}

/// Writes answers in a dialect.
pub trait Writer: Send + 'static {
    /// How parts of a stream are told apart.
    fn framing(&self) -> Framing {
        Framing::Events
    }

    /// An answer has been let in.
    fn started(&mut self, _n: usize, _reply: &Reply, _out: &mut Frames) {}

    /// An answer has grown.
    fn grown(&mut self, n: usize, reply: &Reply, step: &Step, out: &mut Frames);

    /// An answer is whole.
    fn done(&mut self, n: usize, reply: &Reply, out: &mut Frames);

    /// All are whole.
    fn end(&mut self, replies: &[&Reply], out: &mut Frames);

    /// An error after the first byte; the last thing that is sent.
    fn error(&mut self, error: &ApiError, out: &mut Frames);

    /// What keeps a silent stream alive.
    fn ping(&mut self, out: &mut Frames) {
        out.raw(": ping\n\n");
    }

    /// The body of a response that is sent at once.
    fn whole(&mut self, replies: &[&Reply]) -> Value;
}

/// Whether an answer is sent at once or as it comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sending {
    /// When it is whole.
    AtOnce,
    /// Piece by piece.
    Streaming,
}

/// The response of answers.
///
/// # Errors
/// What an answer that is sent at once fails with.
pub async fn respond(
    mut replies: Replies,
    mut writer: impl Writer,
    sending: Sending,
) -> Result<Response> {
    if sending == Sending::AtOnce {
        replies.whole().await?;
        // Of many answers with many log-probabilities it takes seconds.
        let text = beside(move || written(&writer.whole(&replies.all()))).await?;
        return Ok(json(text));
    }
    let kind = match writer.framing() {
        Framing::Events => "text/event-stream; charset=utf-8",
        Framing::Lines => "application/x-ndjson",
    };
    let flow = Flow {
        replies,
        writer,
        ended: false,
    };
    let frames = stream::unfold(flow, |mut flow| async move {
        let bytes = flow.next().await?;
        Some((Ok::<_, Infallible>(bytes), flow))
    });
    let mut response = Body::from_stream(frames).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that collect an answer before they pass it on make a stream useless.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// A stream under way.
struct Flow<W> {
    replies: Replies,
    writer: W,
    ended: bool,
}

impl<W: Writer> Flow<W> {
    /// The next bytes, never none; nothing when all is said.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = Frames::default();
        while out.0.is_empty() {
            if self.ended {
                return None;
            }
            let Ok(next) = tokio::time::timeout(limits::PING, self.replies.next()).await else {
                self.writer.ping(&mut out);
                continue;
            };
            match next {
                None => {
                    self.writer.end(&self.replies.all(), &mut out);
                    self.ended = true;
                }
                Some((n, step)) => self.write(n, &step, &mut out),
            }
        }
        Some(out.0.into())
    }

    fn write(&mut self, n: usize, step: &Step, out: &mut Frames) {
        let reply = self.replies.reply(n);
        match step {
            Step::Started => self.writer.started(n, reply, out),
            Step::Grown { .. } => self.writer.grown(n, reply, step, out),
            Step::Done => self.writer.done(n, reply, out),
            Step::Failed(error) => {
                self.writer.error(error, out);
                self.ended = true;
            }
        }
    }
}
