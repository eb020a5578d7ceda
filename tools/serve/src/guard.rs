//! What every request passes: lengths of its head, host and origin, key; and what every response gets: a number,
//! its error in the client's dialect, a line in the log.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONNECTION, HOST, ORIGIN, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use axum::middleware::Next;
use axum::response::Response;

use crate::app::{App, ENDS};
use crate::error::{ApiError, Dialect, Fault, Result};
use crate::{id, limits, page, routes};

/// Where a connection comes from and arrives.
#[derive(Clone, Copy, Debug)]
pub enum Peer {
    /// Over TCP.
    Tcp {
        /// The client.
        from: SocketAddr,
        /// The server's end.
        to: SocketAddr,
    },
    /// Over a socket of this machine.
    Local,
}

impl Peer {
    /// Who asks where there are no keys.
    pub fn address(self) -> String {
        match self {
            Peer::Tcp { from, .. } => from.ip().to_string(),
            Peer::Local => "socket".into(),
        }
    }
}

/// Paths that need no key: what a monitor and a browser ask first.
fn is_open(path: &str) -> bool {
    path == "/health" || page::has(path)
}

/// The guard of all requests.
pub async fn guard(
    State(app): State<Arc<App>>,
    mut request: Request<Body>,
    next: Next,
) -> Response {
    let started = Instant::now();
    let dialect = Dialect::of(request.uri().path());
    let request_id = id::random("req_");
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let is_chunked = request.headers().contains_key(TRANSFER_ENCODING);
    let mut owner = String::from("-");
    let checked = check(&app, &mut request, &mut owner);
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(error) => error.response(dialect, &request_id),
    };
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        response = error.response(dialect, &request_id);
    } else if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        let error = ApiError::new(Fault::Method, format!("{path} does not take {method}"));
        let allow = response.headers().get("allow").cloned();
        response = error.response(dialect, &request_id);
        if let Some(allow) = allow {
            response.headers_mut().insert("allow", allow);
        }
    }
    let headers = response.headers_mut();
    if is_chunked {
        // A length beside the chunks may have been told to a proxy: nothing that follows is read (RFC 9112, 6.1).
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        headers.insert("x-request-id", value);
    }
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    let status = response.status().as_u16();
    app.metrics.request(routes::counted(&path), status);
    app.log.request(
        &request_id,
        &owner,
        method.as_str(),
        &path,
        status,
        started.elapsed(),
    );
    response
}

/// Refuses what must not be served, and says who asks.
fn check(app: &App, request: &mut Request<Body>, owner: &mut String) -> Result<()> {
    let peer = *request.extensions().get::<Peer>().unwrap_or(&Peer::Local);
    head_length(request)?;
    host(host_of(request)?, peer, &app.options.allowed_hosts)?;
    origin(request.headers(), &app.options.cors_origins)?;
    let path = request.uri().path();
    if app.status() == ENDS && path != "/health" {
        return Err(ApiError::new(Fault::Unavailable, ENDS));
    }
    // A browser asks what it may ask before it sends a key.
    if request.method() == Method::OPTIONS {
        return Ok(());
    }
    let found = app.options.keys.owner(request.headers(), &peer.address());
    match found {
        Some(found) => {
            found.name.clone_into(owner);
            request.extensions_mut().insert(found);
            Ok(())
        }
        None if is_open(request.uri().path()) => Ok(()),
        None => Err(ApiError::new(
            Fault::Key,
            "no valid API key; send it as `Authorization: Bearer KEY` or `x-api-key: KEY`",
        )),
    }
}

/// Counts the bytes of the head.
fn head_length(request: &Request<Body>) -> Result<()> {
    let headers = request.headers();
    let fields: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    let target = request.uri().to_string().len();
    let (found, most) = (fields + target, limits::HEADER_BYTES);
    if found > most {
        let message = format!("the head has {found} bytes, allowed: at most {most}");
        return Err(ApiError::new(Fault::Headers, message));
    }
    Ok(())
}

/// The name in `host[:port]`, without brackets.
fn host_name(text: &str) -> &str {
    let after = text.rfind(']').unwrap_or(0);
    let end = text[after..].rfind(':').map_or(text.len(), |at| after + at);
    text[..end].trim_start_matches('[').trim_end_matches(']')
}

/// The host that a request names: that of its target, else that of its only `Host` (RFC 9112, 3.2).
fn host_of<B>(request: &Request<B>) -> Result<Option<&str>> {
    let mut all = request.headers().get_all(HOST).iter();
    let (first, more) = (all.next(), all.count());
    if more > 0 || first.is_none() && request.version() >= Version::HTTP_11 {
        let found = more + usize::from(first.is_some());
        let message = format!("the request has {found} Host fields, allowed: one");
        return Err(ApiError::new(Fault::Invalid, message));
    }
    let target = request.uri().authority().map(|a| a.as_str());
    Ok(target.or(first.map(|v| v.to_str().unwrap_or(""))))
}

/// A page of another site may not reach this server by a name of its own (DNS rebinding).
fn host(named: Option<&str>, peer: Peer, allowed: &[String]) -> Result<()> {
    let Peer::Tcp { to, .. } = peer else {
        return Ok(());
    };
    let Some(named) = named else {
        // HTTP/1.0 has none, and no browser speaks it.
        return Ok(());
    };
    let name = host_name(named).to_ascii_lowercase();
    let loopback = |ip: IpAddr| ip.is_loopback() || ip == to.ip();
    let known = name == "localhost"
        || name.ends_with(".localhost")
        || name.parse().is_ok_and(loopback)
        || allowed.iter().any(|a| a.eq_ignore_ascii_case(&name));
    if known {
        return Ok(());
    }
    let message =
        format!("Host is {name:?}, allowed: localhost, the address, or one of --allowed-host");
    Err(ApiError::new(Fault::Forbidden, message))
}

/// A page of another origin may ask only if it was named.
fn origin(headers: &HeaderMap, allowed: &[String]) -> Result<()> {
    let Some(value) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let origin = value.to_str().unwrap_or("");
    let own = headers.get(HOST).and_then(|h| h.to_str().ok());
    let site = origin.split_once("://").map(|(_, site)| site);
    if site.is_some() && site == own || allowed.iter().any(|a| a == origin) {
        return Ok(());
    }
    let message =
        format!("Origin is {origin:?}, allowed: the server's own, or one of --cors-origin");
    Err(ApiError::new(Fault::Forbidden, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let fields = all
            .iter()
            .map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap()));
        fields.collect()
    }

    #[test]
    fn hosts_are_names_of_this_machine() {
        let peer = Peer::Tcp {
            from: "192.0.2.9:1".parse().unwrap(),
            to: "192.0.2.1:8080".parse().unwrap(),
        };
        let allowed = ["models.example".to_owned()];
        let good = |name: &str| host(Some(name), peer, &allowed).is_ok();
        for name in [
            "localhost",
            "localhost:8080",
            "127.0.0.1:8080",
            "127.9.9.9",
            "[::1]:8080",
            "[::1]",
            "192.0.2.1:8080",
            "MODELS.example",
            "models.example:443",
            "a.localhost",
        ] {
            assert!(good(name), "{name}");
        }
        for name in [
            "evil.example",
            "localhost.evil.example",
            "192.0.2.2",
            "[::2]:80",
            "",
            "127.0.0.1.evil.example",
            "evil.example:8080",
            "xlocalhost",
            "[::1].evil.example",
        ] {
            assert!(!good(name), "{name}");
        }
        assert!(host(Some("evil.example"), Peer::Local, &[]).is_ok());
        assert!(host(None, peer, &[]).is_ok());
    }

    #[test]
    fn a_request_names_one_host() {
        let of = |target: &str, version: Version, hosts: &[&str]| {
            let mut request = Request::builder().uri(target).version(version);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            let request = request.body(()).unwrap();
            host_of(&request).map(|h| h.map(str::to_owned))
        };
        let (old, new) = (Version::HTTP_10, Version::HTTP_11);
        let named = |name: &str| Ok(Some(name.to_owned()));
        assert_eq!(of("/", new, &["a:1"]), named("a:1"));
        assert_eq!(of("/", old, &[]), Ok(None));
        assert_eq!(of("http://b/x", new, &["a"]), named("b"));
        assert!(of("/", new, &[]).is_err());
        assert!(of("/", new, &["a", "a"]).is_err() && of("/", old, &["a", "b"]).is_err());
    }

    #[test]
    fn origins_are_the_servers_own_or_named() {
        let allowed = ["https://chat.example".to_owned()];
        let good = |origin: &str| {
            let fields = headers(&[("host", "localhost:8080"), ("origin", origin)]);
            origin_ok(&fields, &allowed)
        };
        fn origin_ok(h: &HeaderMap, allowed: &[String]) -> bool {
            origin(h, allowed).is_ok()
        }
        assert!(good("http://localhost:8080") && good("https://chat.example"));
        for bad in [
            "http://localhost:8081",
            "http://evil.example",
            "null",
            "https://chat.example.evil",
            "",
        ] {
            assert!(!good(bad), "{bad}");
        }
    }
}
