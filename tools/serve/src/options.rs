//! What a server is told when it starts.

use std::path::PathBuf;
use std::time::Duration;

use geb::adapter::Adapter;
use geb::engine::SessionOptions;
use geb::gguf::Load;
use geb::scheduler::SchedulerOptions;

use crate::keys::Keys;

/// A model that can be asked.
#[derive(Clone, Debug)]
pub struct Source {
    /// What answers call it.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// Adapters beside its weights, each with a scale.
    pub adapters: Vec<(PathBuf, f32)>,
    /// The source of a chat template in the place of the file's.
    pub template: Option<String>,
    /// What it is told where a conversation has no system text.
    pub system: Option<String>,
}

/// Where a server listens.
#[derive(Clone, Debug)]
pub enum Address {
    /// A host and a port; 0 takes a free one.
    Tcp(String, u16),
    /// A socket of this machine.
    Socket(PathBuf),
}

/// Who shares what was computed with whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CacheScope {
    /// Each key, or each address without keys, has its own.
    #[default]
    Key,
    /// All share: how soon an answer begins tells what others have asked.
    All,
}

/// The form of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogForm {
    /// A line for people.
    #[default]
    Text,
    /// An object per line.
    Json,
    /// Nothing.
    Off,
}

/// How to serve.
#[derive(Clone)]
pub struct ServeOptions {
    /// Where.
    pub address: Address,
    /// Further names of the first model, `*` stands for any letters.
    pub aliases: Vec<String>,
    /// Who may ask.
    pub keys: Keys,
    /// Without keys, be reachable from other machines.
    pub no_auth: bool,
    /// Names that a `Host` may be besides those of this machine.
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may ask.
    pub cors_origins: Vec<String>,
    /// How models run. Cancelling is the server's own.
    pub session: SessionOptions,
    /// Threads for a model of so many bytes per token, where none are asked for.
    pub threads: fn(u64) -> Option<usize>,
    /// How files come into memory.
    pub load: Load,
    /// How requests share a model.
    pub scheduler: SchedulerOptions,
    /// Bytes that loaded models may take together; more are given up, least recently used first.
    pub max_ram: Option<u64>,
    /// Where beginnings are kept for later runs, and how many bytes of them.
    pub cache_disk: Option<(PathBuf, u64)>,
    /// Who shares what was computed.
    pub cache_scope: CacheScope,
    /// How long answers may go on after the end was asked for.
    pub drain: Duration,
    /// Refuse fields that are not known, instead of naming them.
    pub strict: bool,
    /// The form of the log.
    pub log: LogForm,
}

/// An adapter with its scale.
pub(crate) type Scaled = (std::sync::Arc<Adapter>, f32);
