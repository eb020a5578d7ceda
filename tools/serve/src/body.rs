//! Reading a request's body: so many bytes, so much time, so deep.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::{BodyExt, Limited};
use serde_json::{Map, Value};

use crate::beside::beside;
use crate::error::{ApiError, Fault, Result};
use crate::limits;

/// The object in a body.
///
/// # Errors
/// For another type than JSON, a coded body, one that is too long, too slow, too deep, or no object.
pub async fn object(request: Request) -> Result<Map<String, Value>> {
    let headers = request.headers();
    let field = |name| headers.get(name).map(|v| v.to_str().unwrap_or("?"));
    if let Some(kind) = field(CONTENT_TYPE) {
        let plain = kind.split(';').next().unwrap_or("").trim();
        // curl's and many scripts' default is that of a form; ollama's clients send none.
        let json = plain.eq_ignore_ascii_case("application/json")
            || plain.eq_ignore_ascii_case("application/x-www-form-urlencoded");
        if !json {
            let message = format!("Content-Type is {plain}, allowed: application/json");
            return Err(ApiError::new(Fault::MediaType, message));
        }
    }
    if let Some(coding) = field(CONTENT_ENCODING).filter(|c| *c != "identity") {
        let message = format!("Content-Encoding is {coding}, allowed: none");
        return Err(ApiError::new(Fault::MediaType, message));
    }
    let most = limits::BODY_BYTES;
    let too_large = |found: &str| {
        ApiError::new(
            Fault::TooLarge,
            format!("the body has {found} bytes, allowed: at most {most}"),
        )
    };
    if let Some(length) = field(CONTENT_LENGTH).and_then(|l| l.parse::<u64>().ok())
        && length > most as u64
    {
        return Err(too_large(&length.to_string()));
    }
    let all = read(request.into_body(), most);
    let Ok(read) = tokio::time::timeout(limits::BODY_TIME, all).await else {
        let message = format!("the body took more than {} s", limits::BODY_TIME.as_secs());
        return Err(ApiError::new(Fault::Slow, message));
    };
    let bytes = read.map_err(|long| match long {
        true => too_large(&format!("more than {most}")),
        false => ApiError::new(Fault::Invalid, "the body ended before it was whole"),
    })?;
    match bytes.len() > limits::BODY_AT_ONCE {
        true => beside(move || parse(&bytes)).await,
        false => parse(&bytes),
    }
}

/// All bytes; true if there are more than allowed, false if they ended early.
async fn read(body: Body, most: usize) -> Result<Vec<u8>, bool> {
    match Limited::new(body, most).collect().await {
        Ok(all) => Ok(all.to_bytes().to_vec()),
        Err(e) => Err(e
            .downcast_ref::<http_body_util::LengthLimitError>()
            .is_some()),
    }
}

/// The object in a text.
fn parse(bytes: &[u8]) -> Result<Map<String, Value>> {
    let bad = |message: String| ApiError::new(Fault::Invalid, message);
    if depth(bytes) > limits::JSON_DEPTH {
        let most = limits::JSON_DEPTH;
        return Err(bad(format!(
            "the body's JSON is deeper than {most} lists and objects"
        )));
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(bad("the body is no JSON object".into())),
        Err(e) => Err(bad(format!("the body is no valid JSON: {e}"))),
    }
}

/// How many lists and objects are inside each other.
fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut most) = (0usize, 0);
    let (mut text, mut escaped) = (false, false);
    for b in bytes {
        match b {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b'{' | b'[' if !text => {
                depth += 1;
                most = most.max(depth);
            }
            b'}' | b']' if !text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_that_of_lists_and_objects() {
        assert_eq!(depth(br#"{"a":[{"b":"[[[[{"}]}"#), 3);
        assert_eq!(depth(br#""\"[[""#), 0);
        let deep = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
        assert!(parse(deep(limits::JSON_DEPTH - 1).as_bytes()).is_ok());
        assert!(parse(deep(limits::JSON_DEPTH).as_bytes()).is_err());
        assert!(parse(deep(100_000).as_bytes()).is_err());
    }

    #[test]
    fn only_objects_are_bodies() {
        for bad in ["", "[]", "1", "{", "{\"a\":1}x", "null", "\u{feff}{}"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse(b"{}").is_ok());
    }
}
