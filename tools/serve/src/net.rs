//! Connections: HTTP/1.1 over TCP or a socket of this machine, each with limits on silence and stalls.
//!
//! When all places are taken, the connection that has waited longest for a request to be whole makes room: those
//! that are slow on purpose cannot keep others out.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::time::Sleep;
use tower_service::Service;

use crate::guard::Peer;
use crate::limits;

/// Where connections come from.
pub enum Listener {
    /// An address and port.
    Tcp(TcpListener),
    /// A path.
    #[cfg(unix)]
    Unix(tokio::net::UnixListener),
}

/// A stream of bytes both ways.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Listener {
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                // Each token is a packet of its own.
                stream.set_nodelay(true)?;
                let to = stream.local_addr()?;
                Ok((Box::new(stream), Peer::Tcp { from, to }))
            }
            #[cfg(unix)]
            Self::Unix(listener) => Ok((Box::new(listener.accept().await?.0), Peer::Local)),
        }
    }
}

/// A connection that is open.
#[derive(Default)]
struct Place {
    /// Requests that are being answered; at none it waits for the next.
    busy: AtomicUsize,
    /// Of these, requests whose body has not come yet.
    coming: AtomicUsize,
    /// Ends it.
    leave: Notify,
}

impl Place {
    /// Whether it waits for a request to be whole.
    fn waits(&self) -> bool {
        let n = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        n(&self.busy) == n(&self.coming)
    }
}

/// Places of connections, oldest first.
#[derive(Clone, Default)]
struct Places(Arc<Mutex<Vec<Arc<Place>>>>);

impl Places {
    fn all(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Place>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place; the connection that has waited longest leaves for it. None if all are being answered.
    fn take(&self) -> Option<Arc<Place>> {
        let mut all = self.all();
        if all.len() >= limits::CONNECTIONS {
            let idle = all.iter().position(|p| p.waits())?;
            all.remove(idle).leave.notify_one();
        }
        let place = Arc::<Place>::default();
        all.push(place.clone());
        Some(place)
    }

    /// Whether any request is being answered.
    fn are_busy(&self) -> bool {
        self.all()
            .iter()
            .any(|p| p.busy.load(Ordering::Relaxed) > 0)
    }

    fn give_back(&self, place: &Arc<Place>) {
        self.all().retain(|p| !Arc::ptr_eq(p, place));
    }
}

/// Counts a request until its answer is sent.
struct Unsent(Arc<Place>);

impl Unsent {
    fn new(place: &Arc<Place>) -> Self {
        place.busy.fetch_add(1, Ordering::Relaxed);
        Self(place.clone())
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a request until its body has come, or nobody waits for it.
struct Coming(Arc<Place>);

impl Coming {
    fn new(place: &Arc<Place>) -> Self {
        place.coming.fetch_add(1, Ordering::Relaxed);
        Self(place.clone())
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.coming.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves until `drain` says true, then until all answers are sent or `patience` is over; what asks meanwhile is
/// told so by the guard.
pub async fn serve(
    listener: Listener,
    router: Router,
    mut drain: watch::Receiver<bool>,
    patience: Duration,
) {
    let places = Places::default();
    let end = async {
        _ = drain.wait_for(|d| *d).await;
        let last = Instant::now() + patience;
        while places.are_busy() && Instant::now() < last {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut end = std::pin::pin!(end);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = end.as_mut() => return,
        };
        let Ok((stream, peer)) = accepted else {
            // No descriptor is left: others will end.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Some(place) = places.take() else {
            tokio::spawn(refuse(stream));
            continue;
        };
        let (router, places) = (router.clone(), places.clone());
        tokio::spawn(async move {
            connection(stream, peer, router, &place).await;
            places.give_back(&place);
        });
    }
}

/// All places are taken by those that are being answered.
async fn refuse(mut stream: Box<dyn Stream>) {
    let body = r#"{"error":{"message":"too many connections","type":"overloaded_error","param":null,"code":null}}"#;
    let head = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-type: application/json";
    let text = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let sent = tokio::time::timeout(Duration::from_secs(1), stream.write_all(text.as_bytes()));
    if let Ok(Ok(())) = sent.await {
        linger(stream).await;
    }
}

/// Reads what a client still sends, for a while: a connection that is closed under it takes the response along.
async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let (time, most) = limits::LINGER;
    let rest = async {
        _ = stream.shutdown().await;
        let mut bytes = vec![0; 16 << 10];
        let mut read = 0;
        while let Ok(n @ 1..) = stream.read(&mut bytes).await {
            read += n;
            if read > most {
                break;
            }
        }
    };
    _ = tokio::time::timeout(time, rest).await;
}

/// A connection until it ends.
async fn connection(stream: Box<dyn Stream>, peer: Peer, router: Router, place: &Arc<Place>) {
    let answer = service_fn(|mut request: hyper::Request<Incoming>| {
        let busy = Unsent::new(place);
        request.extensions_mut().insert(peer);
        let coming = Coming::new(place);
        let request = request.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _ = &coming;
                frame
            }))
        });
        let answer = router.clone().call(request);
        async move {
            let response: Response = answer
                .await
                .unwrap_or_else(|never: Infallible| match never {});
            // The place is busy until the last byte of the body.
            Ok::<_, Infallible>(response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _ = &busy;
                    frame
                }))
            }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEAD_TIME)
        .max_headers(limits::HEADERS)
        .max_buf_size(limits::BUFFER_BYTES)
        .serve_connection(TokioIo::new(Patient::new(stream)), answer);
    let whole = async {
        // A client that breaks off, or breaks the rules, has been told what there is to tell.
        if let Ok(parts) = connection.without_shutdown().await {
            linger(parts.io.into_inner()).await;
        }
    };
    tokio::select! {
        () = whole => {}
        () = place.leave.notified() => {}
    }
}

/// A stream whose writes fail when the other side takes nothing for [`limits::WRITE_TIME`].
struct Patient {
    stream: Box<dyn Stream>,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: Box<dyn Stream>) -> Self {
        let stalled = None;
        Self { stream, stalled }
    }

    /// The outcome of a write, or an error if it has waited too long.
    fn watch<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.stalled = None;
            return done;
        }
        let new = || Box::pin(tokio::time::sleep(limits::WRITE_TIME));
        let sleep = self.stalled.get_or_insert_with(new);
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(cx, done)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.watch(cx, done)
    }
}
