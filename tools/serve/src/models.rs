//! The models of a server: loaded when they are first asked, given up when memory is needed for others.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use geb::chat::ChatTemplate;
use geb::chat::tools::Proof;
use geb::embed::{self, Settings};
use geb::engine::{DiskCache, DiskPages, Engine, Scope, SessionOptions, Stored};
use geb::gguf::{GgufFile, Load};
use geb::kinds;
use geb::model::Model;
use geb::ram;
use geb::scheduler::Scheduler;
use geb::session::Session;
use geb::threads::{self, SharedPool};
use geb::tokenizer::Tokenizer;
use geb_constrain::Grammars;

use crate::error::{ApiError, Fault, Result};
use crate::id;
use crate::log::Log;
use crate::options::{Scaled, ServeOptions, Source};

/// What is told of a model.
#[derive(Clone, Debug)]
pub struct Info {
    /// Architecture.
    pub arch: String,
    /// Length of context that it was trained for.
    pub trained: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Width of a hidden state.
    pub width: usize,
    /// Weights.
    pub params: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// What most of its bytes are.
    pub dtype: String,
}

/// What turns conversations into tokens and tokens into texts.
pub struct Speaker {
    /// The name in answers.
    pub name: String,
    /// Between text and tokens.
    pub tokenizer: Arc<Tokenizer>,
    /// How the model wants conversations.
    pub template: Option<ChatTemplate>,
    /// How it wants those with tools, where that is another way.
    for_tools: Option<ChatTemplate>,
    /// What it is told where a conversation has no system text.
    pub system: Option<String>,
    /// Tokens of the context.
    pub ctx: usize,
    /// Control tokens around what a model reasons and calls.
    pub shown: Vec<u32>,
    /// What its answers can be held to.
    pub grammars: Grammars,
}

/// A model in memory.
pub struct Loaded {
    /// Between texts and tokens.
    pub speaker: Arc<Speaker>,
    /// What answers.
    pub scheduler: Scheduler,
    /// Adapters of all requests.
    pub adapters: Vec<Scaled>,
    /// What is told of it.
    pub info: Info,
    /// Bytes of weights, cache and buffers.
    pub bytes: u64,
    /// Bytes of the cache.
    pub kv_bytes: u64,
    /// Beginnings on disk.
    disk: Option<Arc<DiskPages>>,
    model: Arc<Model>,
    session: SessionOptions,
    /// Embeds; made when it is first asked.
    embedder: Mutex<Option<Session>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Speaker {
    /// A model of this name; `system`: what it is told where a conversation has no system text.
    pub fn new(
        name: String,
        tokenizer: Arc<Tokenizer>,
        template: Option<ChatTemplate>,
        system: Option<String>,
        ctx: usize,
    ) -> Speaker {
        let format = template.as_ref().map(ChatTemplate::reply_format);
        let shown = format.map(|f| f.shown(&tokenizer)).unwrap_or_default();
        Speaker {
            name,
            grammars: Grammars::new(tokenizer.clone()),
            tokenizer,
            template,
            for_tools: None,
            system,
            ctx,
            shown,
        }
    }

    /// It with a template of its own for conversations with tools.
    #[must_use]
    pub fn with_tools(mut self, template: Option<ChatTemplate>) -> Speaker {
        if let Some(template) = &template {
            let shown = template.reply_format().shown(&self.tokenizer);
            let new = shown.iter().filter(|id| !self.shown.contains(id));
            let new: Vec<_> = new.copied().collect();
            self.shown.extend(new);
        }
        self.for_tools = template;
        self
    }

    /// The template of conversations with or without tools.
    pub fn template_of(&self, tools: bool) -> Option<&ChatTemplate> {
        let special = self.for_tools.as_ref().filter(|_| tools);
        special.or(self.template.as_ref())
    }

    /// Whether its template knows tools.
    pub fn has_tools(&self) -> bool {
        let format = self.template_of(true).map(ChatTemplate::reply_format);
        format.is_some_and(|f| *f.proof() != Proof::Unmarked)
    }

    /// Whether its template knows reasoning.
    pub fn reasons(&self) -> bool {
        self.template
            .as_ref()
            .is_some_and(|t| t.reply_format().reasoning().is_some())
    }
}

impl Loaded {
    /// Its file.
    pub fn file(&self) -> &GgufFile {
        self.model.file()
    }

    /// Loads a model.
    ///
    /// # Errors
    /// Those of opening and checking its file, and of memory.
    pub fn open(source: &Source, options: &ServeOptions, shared: &Common) -> geb::Result<Loaded> {
        let file = Arc::new(GgufFile::open(&source.path, options.load)?);
        kinds::check_model(&file)?;
        let tokenizer = Arc::new(Tokenizer::from_gguf(&file)?);
        let piece = |id: Option<u32>| id.map(|id| tokenizer.piece(id)).unwrap_or_default();
        let (template, for_tools) = match &source.template {
            Some(text) => {
                let (bos, eos) = (piece(tokenizer.bos()), piece(tokenizer.eos()));
                (Some(ChatTemplate::from_source(text, &bos, &eos)?), None)
            }
            None => (
                ChatTemplate::from_gguf(&file)?,
                ChatTemplate::for_tools(&file)?,
            ),
        };
        let info = Info::of(&file);
        let model = Model::load(file)?;
        let session = planned(&model, options, &shared.pool)?;
        let mut engine = Engine::new(model.clone(), &session)?;
        let disk = shared
            .disk
            .clone()
            .map(|disk| engine.set_disk_cache(disk))
            .transpose()?;
        let adapters = adapters(&model, &source.adapters)?;
        let config = model.config();
        let info = Info {
            arch: config.arch.name.to_string(),
            trained: config.context_length,
            vocab: config.vocab,
            width: config.embedding_length,
            ..info
        };
        let (ctx, kv_bytes) = (engine.ctx(), engine.kv_bytes());
        let scheduler = Scheduler::new(engine, tokenizer.clone(), options.scheduler.clone())?;
        let speaker = Speaker::new(
            source.name.clone(),
            tokenizer,
            template,
            source.system.clone(),
            ctx,
        );
        Ok(Loaded {
            speaker: Arc::new(speaker.with_tools(for_tools)),
            scheduler,
            adapters,
            bytes: info.bytes + kv_bytes,
            kv_bytes,
            disk,
            info,
            model,
            session,
            embedder: Mutex::new(None),
        })
    }

    /// What is on disk of the beginning of a prompt. Reads files: not for a task.
    pub fn stored(&self, scope: &Scope, prompt: &[u32]) -> Option<Arc<Stored>> {
        let disk = self.disk.as_ref()?;
        let adapters: Vec<_> = self.adapters.iter().map(|(a, s)| (&**a, *s)).collect();
        // What cannot be read is computed.
        let key = disk.key(scope, &adapters, &[]).ok()?;
        let stored = disk.read(&key, prompt);
        (stored.tokens() > 0).then(|| Arc::new(stored))
    }

    /// The vector of a text's tokens, `[width]`, of length 1. Takes as long as it takes: not for a task.
    ///
    /// # Errors
    /// As [`embed::embed`].
    pub fn embed(&self, ids: &[u32]) -> geb::Result<Vec<f32>> {
        let mut place = lock(&self.embedder);
        let session = match &mut *place {
            Some(session) => session,
            empty => {
                let options = SessionOptions {
                    streams: 1,
                    kv_memory: None,
                    ..self.session.clone()
                };
                empty.insert(Session::new(self.model.clone(), &options)?)
            }
        };
        embed::embed(session, ids, 0, Settings::of(&self.model)?)
    }
}

/// The pages that a model gets: half of what memory there is, at least one context, at most one for each stream.
fn planned(
    model: &Model,
    options: &ServeOptions,
    pool: &OnceLock<SharedPool>,
) -> geb::Result<SessionOptions> {
    let mut session = options.session.clone();
    session.streams = options.scheduler.streams;
    if session.threads == 0 {
        let best = (options.threads)(model.bytes_per_token());
        session.threads = best.unwrap_or_else(threads::default_threads);
    }
    if pool.get().is_none() {
        // Two that come here at once make one too many, which is dropped.
        _ = pool.set(SharedPool::new(session.threads)?);
    }
    session.pool = pool.get().cloned();
    if session.kv_memory.is_none() {
        let one = Engine::kv_bytes_for(
            model,
            &SessionOptions {
                streams: 1,
                ..session.clone()
            },
        )?;
        let all = one.saturating_mul(session.streams as u64);
        let half = ram::available(Path::new("/")).map_or(all, |free| free / 2);
        session.kv_memory = Some(half.clamp(one, all));
    }
    Ok(session)
}

/// Opens adapters of a model.
fn adapters(model: &Arc<Model>, paths: &[(std::path::PathBuf, f32)]) -> geb::Result<Vec<Scaled>> {
    let open = |(path, scale): &(std::path::PathBuf, f32)| {
        let file = GgufFile::open(path, Load::Map)?;
        Ok((Arc::new(model.adapter(&file)?), *scale))
    };
    paths.iter().map(open).collect()
}

impl Info {
    /// What a file tells without being loaded.
    fn of(file: &GgufFile) -> Info {
        let mut bytes = std::collections::BTreeMap::<&str, u64>::new();
        let mut params = 0;
        for tensor in file.tensors() {
            params += tensor.info().elements();
            *bytes.entry(tensor.dtype().name()).or_default() += tensor.bytes().len() as u64;
        }
        let most = bytes.iter().max_by_key(|(_, n)| **n);
        Info {
            arch: String::new(),
            trained: 0,
            vocab: 0,
            width: 0,
            params,
            bytes: file.file_bytes(),
            dtype: most.map(|(name, _)| (*name).to_owned()).unwrap_or_default(),
        }
    }
}

/// A model that is served, in memory or not.
struct Entry {
    source: Source,
    created: u64,
    /// Held while it is loaded, so that everybody waits for the same.
    place: tokio::sync::Mutex<Option<Arc<Loaded>>>,
    used: Mutex<Instant>,
}

/// What all models use.
pub struct Common {
    /// Threads; as many as the first model wants.
    pool: OnceLock<SharedPool>,
    /// Beginnings for later runs.
    disk: Option<Arc<DiskCache>>,
}

/// All models of a server.
pub struct Models {
    entries: Vec<Arc<Entry>>,
    common: Arc<Common>,
    options: Arc<ServeOptions>,
}

impl Models {
    /// None of them in memory yet.
    pub fn new(
        sources: Vec<Source>,
        options: Arc<ServeOptions>,
        disk: Option<Arc<DiskCache>>,
    ) -> Models {
        let entry = |source| {
            Arc::new(Entry {
                source,
                created: id::now(),
                place: tokio::sync::Mutex::new(None),
                used: Mutex::new(Instant::now()),
            })
        };
        Models {
            entries: sources.into_iter().map(entry).collect(),
            common: Arc::new(Common {
                pool: OnceLock::new(),
                disk,
            }),
            options,
        }
    }

    /// Names and when they began to be served.
    pub fn names(&self) -> impl Iterator<Item = (&str, u64)> {
        self.entries.iter().map(|e| (&*e.source.name, e.created))
    }

    /// Bytes of the file of a model.
    pub fn file_bytes(&self, name: &str) -> u64 {
        let entry = self.entries.iter().find(|e| e.source.name == name);
        entry
            .and_then(|e| std::fs::metadata(&e.source.path).ok())
            .map_or(0, |m| m.len())
    }

    /// Those that are in memory and not being loaded now.
    pub fn loaded(&self) -> Vec<Arc<Loaded>> {
        let all = self.entries.iter();
        all.filter_map(|e| e.place.try_lock().ok()?.clone())
            .collect()
    }

    /// The model of a name; the first one if there is none.
    fn find(&self, name: Option<&str>) -> Result<&Arc<Entry>> {
        let Some(name) = name.filter(|n| !n.is_empty()) else {
            return self.entries.first().ok_or_else(|| unknown("", self));
        };
        let plain = name.strip_suffix(":latest").unwrap_or(name);
        let own = self.entries.iter().find(|e| e.source.name == plain);
        let alias = || {
            let aliases = &self.options.aliases;
            let fits = aliases
                .iter()
                .any(|pattern| matches(pattern, plain) || matches(pattern, name));
            self.entries.first().filter(|_| fits)
        };
        own.or_else(alias).ok_or_else(|| unknown(name, self))
    }

    /// The name that answers carry, without loading anything.
    ///
    /// # Errors
    /// For a name that is not served.
    pub fn name(&self, name: &str) -> Result<(&str, u64)> {
        let entry = self.find(Some(name))?;
        Ok((&entry.source.name, entry.created))
    }

    /// The model of a name, the first one for none, in memory.
    ///
    /// # Errors
    /// For a name that is not served; for a model that cannot be loaded.
    pub async fn get(self: &Arc<Self>, name: Option<&str>) -> Result<Arc<Loaded>> {
        let entry = self.find(name)?.clone();
        *lock(&entry.used) = Instant::now();
        if let Ok(place) = entry.place.try_lock()
            && let Some(loaded) = &*place
        {
            return Ok(loaded.clone());
        }
        let all = self.clone();
        // Loading goes on when the one who asked first has left.
        let load = tokio::spawn(async move { all.load(&entry).await });
        let loaded = load
            .await
            .map_err(|e| ApiError::new(Fault::Server, e.to_string()))?;
        loaded.map_err(|e| ApiError::new(Fault::Server, format!("the model cannot be loaded: {e}")))
    }

    /// Loads the first model.
    ///
    /// # Errors
    /// As [`Loaded::open`].
    pub async fn preload(&self) -> geb::Result<()> {
        match self.entries.first() {
            Some(first) => self.load(&first.clone()).await.map(drop),
            None => Ok(()),
        }
    }

    async fn load(&self, entry: &Arc<Entry>) -> Result<Arc<Loaded>, geb::Error> {
        let mut place = entry.place.lock().await;
        if let Some(loaded) = &*place {
            return Ok(loaded.clone());
        }
        self.make_room(entry);
        let (source, options) = (entry.source.clone(), self.options.clone());
        let common = self.common.clone();
        let work = tokio::task::spawn_blocking(move || Loaded::open(&source, &options, &common));
        let begun = Instant::now();
        let loaded = work.await.map_err(|e| geb::Error::Panic(e.to_string()))??;
        Log(self.options.log).note(&format!(
            "loaded {} in {:.1} s: {} of weights, {} of cache for {} requests of {} tokens",
            loaded.speaker.name,
            begun.elapsed().as_secs_f64(),
            megabytes(loaded.info.bytes),
            megabytes(loaded.kv_bytes),
            self.options.scheduler.streams,
            loaded.speaker.ctx,
        ));
        if let Some(template) = &loaded.speaker.template {
            Log(self.options.log).note(&template.reply_format().describe());
        }
        Ok(place.insert(Arc::new(loaded)).clone())
    }

    /// Gives up those that were not used for longest and answer nobody, until `new` fits beside the others.
    fn make_room(&self, new: &Arc<Entry>) {
        let Some(most) = self.options.max_ram else {
            return;
        };
        let file = std::fs::metadata(&new.source.path).map_or(0, |m| m.len());
        let mut others: Vec<_> = self
            .entries
            .iter()
            .filter(|e| !Arc::ptr_eq(e, new))
            .collect();
        others.sort_by_key(|e| *lock(&e.used));
        let held = |e: &&Arc<Entry>| Some(e.place.try_lock().ok()?.as_ref()?.bytes);
        let mut sum: u64 = others.iter().filter_map(held).sum::<u64>() + file;
        for entry in others {
            if sum <= most {
                break;
            }
            sum -= entry.give_up();
        }
    }

    /// Gives the model of a name up if it answers nobody; whether it is in memory no more.
    ///
    /// # Errors
    /// For a name that is not served.
    pub fn give_up(&self, name: &str) -> Result<bool> {
        let entry = self.find(Some(name))?;
        Ok(entry.give_up() > 0 || entry.place.try_lock().is_ok_and(|p| p.is_none()))
    }
}

impl Entry {
    /// Gives it up if it answers nobody: the bytes that it held.
    fn give_up(&self) -> u64 {
        let Ok(mut place) = self.place.try_lock() else {
            return 0;
        };
        let idle = place.as_ref().is_some_and(|l| Arc::strong_count(l) == 1);
        let Some(loaded) = idle.then(|| place.take()).flatten() else {
            return 0;
        };
        let bytes = loaded.bytes;
        // Its thread ends with its last step, which nobody here waits for.
        tokio::task::spawn_blocking(move || drop(loaded));
        bytes
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1_000_000))
}

fn unknown(name: &str, models: &Models) -> ApiError {
    let names: Vec<_> = models.names().map(|(n, _)| n).collect();
    let message = format!(
        "model {name:?} is not served, allowed: {} (further names: --alias)",
        names.join(", ")
    );
    ApiError {
        param: Some("model".into()),
        ..ApiError::new(Fault::Model, message)
    }
}

/// Whether `text` is what `pattern` describes; `*` stands for any letters.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            let starts = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            starts.into_iter().any(|at| matches(after, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names() {
        for (pattern, text, good) in [
            ("*", "", true),
            ("*", "gpt-4", true),
            ("claude-*", "claude-3", true),
            ("claude-*", "xclaude-3", false),
            ("a*c", "abcc", true),
            ("a*c", "ab", false),
            ("m", "m", true),
            ("m", "mm", false),
        ] {
            assert_eq!(matches(pattern, text), good, "{pattern} {text}");
        }
    }
}
