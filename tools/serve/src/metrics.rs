//! What is counted, in the words of vLLM after `geb_`; no text of a request is in it.

use std::fmt::Error;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use geb::scheduler::SchedulerStats;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::models::Loaded;

type Labels = Vec<(&'static str, String)>;

/// Counters and histograms of a server.
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<Labels, Counter>,
    finished: Family<Labels, Counter>,
    prompt: Counter,
    cached: Counter,
    queries: Counter,
    queued: Histogram,
    first: Histogram,
    between: Histogram,
    whole: Histogram,
    gauges: Gauges,
}

/// What is read off the models when somebody asks.
#[derive(Default)]
struct Gauges {
    running: Gauge,
    waiting: Gauge,
    kv_bytes: Gauge,
    kv_usage: Gauge<f64, AtomicU64>,
    loaded: Gauge,
    steps: Gauge<f64, AtomicU64>,
    rows: Gauge<f64, AtomicU64>,
    tokens: Gauge<f64, AtomicU64>,
    cancelled: Gauge<f64, AtomicU64>,
    preemptions: Gauge<f64, AtomicU64>,
    panics: Gauge<f64, AtomicU64>,
    passing: Gauge<f64, AtomicU64>,
}

/// From a thousandth of a second to about half an hour.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 21))
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Metrics {
            registry: Mutex::default(),
            requests: Family::default(),
            finished: Family::default(),
            prompt: Counter::default(),
            cached: Counter::default(),
            queries: Counter::default(),
            queued: seconds(),
            first: seconds(),
            between: seconds(),
            whole: seconds(),
            gauges: Gauges::default(),
        };
        let mut registry = Registry::with_prefix("geb");
        let r = &mut registry;
        r.register(
            "http_requests",
            "Responses by path and status",
            metrics.requests.clone(),
        );
        r.register(
            "request_success",
            "Answers by their end",
            metrics.finished.clone(),
        );
        r.register("prompt_tokens", "Tokens of prompts", metrics.prompt.clone());
        r.register(
            "prefix_cache_hits",
            "Of these, found and not computed again",
            metrics.cached.clone(),
        );
        r.register(
            "prefix_cache_queries",
            "Prompts looked up",
            metrics.queries.clone(),
        );
        r.register(
            "request_queue_time_seconds",
            "From a request to its first pass",
            metrics.queued.clone(),
        );
        r.register(
            "time_to_first_token_seconds",
            "From a request to its first token",
            metrics.first.clone(),
        );
        r.register(
            "inter_token_latency_seconds",
            "Between two tokens of an answer",
            metrics.between.clone(),
        );
        r.register(
            "e2e_request_latency_seconds",
            "From a request to its end",
            metrics.whole.clone(),
        );
        metrics.gauges.register(r);
        *metrics
            .registry
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = registry;
        metrics
    }
}

impl Gauges {
    fn register(&self, r: &mut Registry) {
        r.register(
            "num_requests_running",
            "Requests that are being answered",
            self.running.clone(),
        );
        r.register(
            "num_requests_waiting",
            "Requests that wait",
            self.waiting.clone(),
        );
        r.register(
            "kv_cache_bytes",
            "Bytes of the caches of loaded models",
            self.kv_bytes.clone(),
        );
        r.register(
            "kv_cache_usage_perc",
            "Share of the cache that requests hold, of the model where it is largest; 1 is all",
            self.kv_usage.clone(),
        );
        r.register("models_loaded", "Models in memory", self.loaded.clone());
        r.register("steps", "Passes of loaded models", self.steps.clone());
        r.register(
            "iteration_tokens",
            "Rows of these passes",
            self.rows.clone(),
        );
        r.register("generation_tokens", "Tokens chosen", self.tokens.clone());
        r.register(
            "requests_cancelled",
            "Requests whose client has left",
            self.cancelled.clone(),
        );
        r.register(
            "num_preemptions",
            "How often a request made room for older ones",
            self.preemptions.clone(),
        );
        r.register("panics", "Panics that were caught", self.panics.clone());
        r.register("step_seconds", "Time in passes", self.passing.clone());
    }

    fn set(&self, stats: &[SchedulerStats]) {
        let sum = |f: fn(&SchedulerStats) -> usize| stats.iter().map(f).sum::<usize>();
        self.running.set(sum(|s| s.running) as i64);
        self.waiting.set(sum(|s| s.waiting) as i64);
        let usage = stats
            .iter()
            .map(|s| s.pages_held as f64 / s.pages.max(1) as f64);
        self.kv_usage.set(usage.fold(0.0, f64::max));
        self.steps.set(sum(|s| s.steps) as f64);
        self.rows.set(sum(|s| s.rows) as f64);
        self.tokens.set(sum(|s| s.tokens) as f64);
        self.cancelled.set(sum(|s| s.cancelled) as f64);
        self.preemptions.set(sum(|s| s.preemptions) as f64);
        self.panics.set(sum(|s| s.panics) as f64);
        self.passing
            .set(stats.iter().map(|s| s.passing.as_secs_f64()).sum());
    }
}

impl Metrics {
    /// A response has begun.
    pub fn request(&self, path: &str, status: u16) {
        let labels = vec![("path", path.to_owned()), ("status", status.to_string())];
        self.requests.get_or_create(&labels).inc();
    }

    /// A request has entered after so long, with so many tokens, of which some were found.
    pub fn started(&self, waited: Duration, prompt: usize, cached: usize) {
        self.queued.observe(waited.as_secs_f64());
        self.prompt.inc_by(prompt as u64);
        self.cached.inc_by(cached as u64);
        self.queries.inc();
    }

    /// The first token of an answer has come.
    pub fn first_token(&self, time: Duration) {
        self.first.observe(time.as_secs_f64());
    }

    /// Another one has.
    pub fn next_token(&self, time: Duration) {
        self.between.observe(time.as_secs_f64());
    }

    /// An answer has ended.
    pub fn finished(&self, reason: &str, time: Duration) {
        self.whole.observe(time.as_secs_f64());
        let labels = vec![("finished_reason", reason.to_owned())];
        self.finished.get_or_create(&labels).inc();
    }

    /// All of it as Prometheus reads it.
    ///
    /// # Errors
    /// Those of writing a text.
    pub fn text(&self, loaded: &[std::sync::Arc<Loaded>]) -> Result<String, Error> {
        let stats: Vec<_> = loaded.iter().map(|l| l.scheduler.stats()).collect();
        self.gauges.set(&stats);
        self.gauges.loaded.set(loaded.len() as i64);
        self.gauges
            .kv_bytes
            .set(loaded.iter().map(|l| l.kv_bytes as i64).sum());
        let mut text = String::new();
        let registry = self
            .registry
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        encode(&mut text, &registry)?;
        Ok(text)
    }
}
