//! The page to chat in: files that are part of the program, and the policy that a browser holds them to.

use axum::Router;
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
    REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest, Sha256};

/// What the page may do: ask its own server, show what is its own, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What ollama's clients look for at `/`.
const HEARTBEAT: &str = "Ollama is running";

/// A file of the page.
struct File {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

macro_rules! files {
    ($($path:literal $name:literal $kind:literal)*) => {
        &[$(File {
            path: $path,
            kind: concat!("text/", $kind, "; charset=utf-8"),
            text: include_str!(concat!("../web/", $name)),
        }),*]
    };
}

static FILES: &[File] = files! {
    "/" "index.html" "html"
    "/style.css" "style.css" "css"
    "/theme.js" "theme.js" "javascript"
    "/app.js" "app.js" "javascript"
    "/answer.js" "answer.js" "javascript"
    "/api.js" "api.js" "javascript"
    "/dom.js" "dom.js" "javascript"
    "/list.js" "list.js" "javascript"
    "/markdown.js" "markdown.js" "javascript"
    "/message.js" "message.js" "javascript"
    "/settings.js" "settings.js" "javascript"
    "/store.js" "store.js" "javascript"
    "/tokens.js" "tokens.js" "javascript"
    "/transfer.js" "transfer.js" "javascript"
    "/tree.js" "tree.js" "javascript"
    "/markdown-it.js" "markdown-it.js" "javascript"
    "/markdown-it.LICENSE.txt" "markdown-it.LICENSE.txt" "plain"
};

/// Whether a path is one of the page's files, which need no key: the page asks for it.
pub fn has(path: &str) -> bool {
    FILES.iter().any(|f| f.path == path)
}

/// The paths of the page.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, file| {
        let tag = file.tag();
        let answer = move |headers: HeaderMap| {
            let response = file.response(&headers, &tag);
            async { response }
        };
        router.route(file.path, get(answer))
    })
}

impl File {
    /// A name of what it holds, so that a browser that has it need not get it again.
    fn tag(&self) -> String {
        let digest = Sha256::digest(self.text);
        let digits: String = digest[..16].iter().map(|b| format!("{b:02x}")).collect();
        format!("\"{digits}\"")
    }

    /// The file; at `/` the page for browsers, a line for everyone else.
    fn response(&self, asked: &HeaderMap, tag: &str) -> Response {
        let field = |name: HeaderName| asked.get(name).and_then(|v| v.to_str().ok());
        let negotiated = [(VARY, HeaderValue::from_static("accept"))];
        if self.path == "/" && !field(ACCEPT).is_some_and(|a| a.contains("text/html")) {
            return (negotiated, HEARTBEAT).into_response();
        }
        let known = field(IF_NONE_MATCH).is_some_and(|tags| tags.contains(tag));
        let headers = [
            (CONTENT_TYPE, self.kind),
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
            (CACHE_CONTROL, "no-cache"),
            (ETAG, tag),
        ];
        match known {
            true => (StatusCode::NOT_MODIFIED, headers, negotiated).into_response(),
            false => (headers, negotiated, self.text).into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The most that all files together may have.
    const BYTES: usize = 300_000;

    fn file(path: &str) -> &'static File {
        FILES.iter().find(|f| f.path == path).unwrap()
    }

    /// The page's own scripts.
    fn scripts() -> impl Iterator<Item = &'static File> {
        let own = |f: &&File| f.path.ends_with(".js") && f.path != "/markdown-it.js";
        FILES.iter().filter(own)
    }

    /// What stands between two texts, each time.
    fn between<'t>(
        text: &'t str,
        before: &'t str,
        after: &'t str,
    ) -> impl Iterator<Item = &'t str> {
        let parts = text.split(before).skip(1);
        parts.filter_map(move |part| part.split_once(after).map(|(found, _)| found))
    }

    fn asked(fields: &[(HeaderName, &str)]) -> HeaderMap {
        let pair = |(name, value): &(HeaderName, &str)| (name.clone(), value.parse().unwrap());
        fields.iter().map(pair).collect()
    }

    #[test]
    fn everything_that_the_page_asks_for_is_there() {
        let page = file("/").text;
        let mut names: Vec<_> = between(page, "src=\"", "\"").collect();
        names.extend(between(page, "rel=\"stylesheet\" href=\"", "\""));
        for script in scripts() {
            names.extend(between(script.text, "from \"./", "\""));
            names.extend(between(script.text, "import \"./", "\""));
        }
        assert!(names.len() > 20, "{names:?}");
        for name in names {
            assert!(has(&format!("/{name}")), "{name}");
        }
        let bytes: usize = FILES.iter().map(|f| f.text.len()).sum();
        assert!(bytes <= BYTES, "{bytes} bytes");
    }

    #[test]
    fn nothing_comes_from_elsewhere_and_no_text_becomes_html() {
        let own = FILES.iter().filter(|f| !f.path.starts_with("/markdown-it"));
        for f in own {
            for scheme in ["http://", "https://", "//cdn"] {
                // The names of SVG are no addresses; the link to a site is that of a model's text.
                let elsewhere = f.text.split(scheme).skip(1);
                let bad = elsewhere.filter(|rest| !rest.starts_with("www.w3.org/2000/svg"));
                assert_eq!(bad.count(), 0, "{} has {scheme}", f.path);
            }
        }
        for sink in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ] {
            let found: Vec<_> = scripts().filter(|f| f.text.contains(sink)).collect();
            let places: Vec<_> = found
                .iter()
                .map(|f| (f.path, f.text.matches(sink).count()))
                .collect();
            let allowed: &[_] = if sink == "innerHTML" {
                &[("/markdown.js", 1)]
            } else {
                &[]
            };
            assert_eq!(places, allowed, "{sink}");
        }
        assert!(
            !file("/").text.contains("style=\""),
            "the policy refuses styles in attributes"
        );
    }

    #[test]
    fn the_vendored_file_is_the_one_that_its_licence_names() {
        let digest = Sha256::digest(file("/markdown-it.js").text);
        let digits: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        assert!(
            file("/markdown-it.LICENSE.txt").text.contains(&digits),
            "{digits}"
        );
    }

    #[test]
    fn browsers_get_the_page_and_others_a_heartbeat() {
        let page = file("/");
        let tag = page.tag();
        let browser = page.response(&asked(&[(ACCEPT, "text/html,*/*;q=0.8")]), &tag);
        assert_eq!(browser.status(), StatusCode::OK);
        let field = |name: HeaderName| browser.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(field(CONTENT_TYPE), "text/html; charset=utf-8");
        assert!(field(CONTENT_SECURITY_POLICY).starts_with("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri"));
        assert_eq!(field(X_CONTENT_TYPE_OPTIONS), "nosniff");
        assert_eq!((field(ETAG), field(VARY)), (tag.clone(), "accept".into()));
        for fields in [&[][..], &[(ACCEPT, "*/*")], &[(ACCEPT, "application/json")]] {
            let other = page.response(&asked(fields), &tag);
            assert_eq!(other.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
            assert!(!other.headers().contains_key(ETAG));
        }
        let again = page.response(
            &asked(&[(ACCEPT, "text/html"), (IF_NONE_MATCH, &tag)]),
            &tag,
        );
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        let script = file("/app.js");
        assert_ne!(script.tag(), tag);
        let script = script.response(&asked(&[(IF_NONE_MATCH, &tag)]), &script.tag());
        assert_eq!(
            script.headers()[CONTENT_TYPE],
            "text/javascript; charset=utf-8"
        );
        assert_eq!(script.status(), StatusCode::OK);
    }
}
