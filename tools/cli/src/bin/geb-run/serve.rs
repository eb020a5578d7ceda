//! `geb-run serve`: from flags to a server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use geb::gguf::Load;
use geb::scheduler::SchedulerOptions;
use geb_serve::{Address, CacheScope, Keys, LogForm, ServeError, ServeOptions, Source, serve};

use crate::args::{LoadHow, LogHow, ScopeHow, ServeArgs};
use crate::interrupt::Interrupt;
use crate::report::{Failure, Outcome, note};
use crate::{demo, load, model_path, settings};

/// How the built-in model is spoken to: it was trained on plain text, and continues what was said.
const DEMO_TEMPLATE: &str = "{% for m in messages %}{{ m.content }}\n{% endfor %}";

/// Runs the command.
pub fn run(args: &ServeArgs, interrupt: &Interrupt) -> Outcome {
    let folder = tempfile::Builder::new().prefix("geb-serve-").tempdir()?;
    let sources = sources(args, folder.path())?;
    let options = options(args, interrupt)?;
    let names: Vec<_> = sources.iter().map(|s| s.name.clone()).collect();
    let mut ready = |address: &str| {
        note(format_args!("serving {} at {address}", names.join(", ")));
    };
    let stop = interrupt.flag();
    let path = sources[0].path.clone();
    let served = interrupt.during(|| serve(options, sources, &stop, &mut ready));
    served.map_err(|e| match e {
        ServeError::Option(text) => Failure::usage(text),
        ServeError::System(..) => Failure::new(e.to_string()),
        ServeError::Model(e) => load::at(&path, e),
        ServeError::Cache(e) => Failure::from(e),
    })
}

/// The models to serve; each name once.
fn sources(args: &ServeArgs, folder: &Path) -> Outcome<Vec<Source>> {
    if args.demo {
        let path = demo::model(folder)?;
        let mut source = source(path);
        source.template = Some(DEMO_TEMPLATE.into());
        return Ok(vec![source]);
    }
    let mut paths: Vec<PathBuf> = Vec::new();
    for name in args.named.iter().chain(&args.model) {
        paths.push(model_path::resolve(Some(name))?);
    }
    if let Some(dir) = &args.models {
        let found = model_path::models_in(dir);
        if found.is_empty() {
            return Err(Failure::usage(format!(
                "{}: no GGUF file in it",
                dir.display()
            )));
        }
        paths.extend(found);
    }
    if paths.is_empty() {
        paths.push(model_path::resolve(None)?);
    }
    paths.dedup();
    let mut sources: Vec<_> = paths.into_iter().map(source).collect();
    sources[0].adapters.clone_from(&args.lora);
    if let Some(path) = &args.chat_template {
        sources[0].template = Some(load::read_text(path, geb::limits::MAX_TEMPLATE_BYTES)?);
    }
    // What is wrong with a file is said before anything is served.
    for source in &sources {
        let file = geb::gguf::GgufFile::open(&source.path, Load::Map);
        let checked = file.and_then(|f| geb::kinds::check_model(&f));
        checked.map_err(|e| load::at(&source.path, e))?;
    }
    Ok(sources)
}

fn source(path: PathBuf) -> Source {
    let name = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Source {
        name,
        system: model_path::default_system(&path).map(str::to_owned),
        path,
        adapters: Vec::new(),
        template: None,
    }
}

fn options(args: &ServeArgs, interrupt: &Interrupt) -> Outcome<ServeOptions> {
    let mut session = load::session_options(&args.cpu, interrupt)?;
    // Of several models, not of the experts of one.
    let max_ram = session.max_ram.take();
    session.cancel = None;
    session.kv_memory = args.kv_memory;
    let keys = match &args.api_key_file {
        Some(path) => Keys::read(path).map_err(Failure::usage)?,
        None => Keys::default(),
    };
    Ok(ServeOptions {
        address: match &args.socket {
            Some(path) => Address::Socket(path.clone()),
            None => Address::Tcp(args.host.clone(), args.port),
        },
        aliases: args.alias.clone(),
        keys,
        no_auth: args.no_auth,
        allowed_hosts: args.allowed_host.clone(),
        cors_origins: args.cors_origin.clone(),
        session,
        threads: settings::stored,
        load: match args.load {
            LoadHow::Map => Load::Map,
            LoadHow::Read => Load::Copy,
        },
        scheduler: SchedulerOptions {
            streams: args.streams,
            queue: args.queue,
            step: Duration::from_millis(args.step_ms),
            ..SchedulerOptions::default()
        },
        max_ram,
        cache_disk: args.cache_dir.clone().map(|dir| (dir, args.cache_disk)),
        cache_scope: match args.cache_scope {
            ScopeHow::Key => CacheScope::Key,
            ScopeHow::All => CacheScope::All,
        },
        drain: Duration::from_secs(args.drain),
        strict: args.strict,
        log: match args.log {
            LogHow::Text => LogForm::Text,
            LogHow::Json => LogForm::Json,
            LogHow::Off => LogForm::Off,
        },
    })
}
