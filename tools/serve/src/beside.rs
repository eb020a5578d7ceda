//! What takes a while, on another thread than the one that serves all.

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde_json::Value;

use crate::error::{ApiError, Fault, Result};

/// Does it while the thread of this task serves others.
///
/// # Errors
/// Those of `work`; a panic in it.
pub(crate) async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| ApiError::new(Fault::Server, e.to_string()))?
}

/// A response of JSON that is written already.
pub(crate) fn json(text: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(text));
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A value as JSON.
///
/// # Errors
/// Those of writing it.
pub(crate) fn written(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| ApiError::new(Fault::Server, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_that_waits_serves_others() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let (told, tell) = std::sync::mpsc::channel();
        let work = beside(move || {
            let said: u32 = tell.recv().expect("another task says it meanwhile");
            Ok((said, std::thread::current().id()))
        });
        let other = async move { told.send(7) };
        let (done, sent) = runtime.block_on(async { tokio::join!(work, other) });
        sent.expect("somebody listens");
        let (said, thread) = done.expect("no panic");
        assert_eq!(said, 7);
        assert_ne!(thread, std::thread::current().id());
    }

    #[test]
    fn a_panic_is_a_fault_of_the_server() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let fail = || -> Result<()> { panic!("on purpose") };
        let error = runtime.block_on(beside(fail)).expect_err("it panics");
        assert_eq!(error.fault, Fault::Server);
    }
}
