//! From a path and flags to something that can answer: file, tokenizer, template, session.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use geb::chat::{ChatTemplate, Message};
use geb::files;
use geb::gguf::{GgufFile, Load};
use geb::kernels::Kernels;
use geb::model::Model;
use geb::sampler::SamplerOptions;
use geb::session::{KvChoice, Session, SessionOptions, SparseChoice};
use geb::shown::Shown;
use geb::tokenizer::{Encode, Tokenizer};

use crate::args::{
    CpuArgs, GuessWhen, KvHow, LoadHow, ModelArgs, OutputArgs, SamplingArgs, SparseHow,
    TemplateArgs,
};
use crate::interrupt::Interrupt;
use crate::model_path;
use crate::report::{Failure, Outcome, bytes, dim, note};
use crate::{seed, settings};

/// An opened file with its path.
pub struct Opened {
    /// Where it is.
    pub path: PathBuf,
    /// The validated file.
    pub file: Arc<GgufFile>,
    /// Adapters to run beside the weights, with their scales.
    pub lora: Vec<(PathBuf, f32)>,
}

/// A model ready to run.
pub struct Loaded {
    /// The file.
    pub opened: Opened,
    /// State and threads.
    pub session: Session,
    /// Time from opening the file to a session.
    pub load: Duration,
}

/// Opens the model the user meant.
pub fn open(args: &ModelArgs, positional: Option<&str>) -> Outcome<Opened> {
    let opened = open_any(args, positional)?;
    geb::kinds::check_model(&opened.file)?;
    Ok(opened)
}

/// Opens the GGUF file the user meant, whatever it is for.
pub fn open_any(args: &ModelArgs, positional: Option<&str>) -> Outcome<Opened> {
    let typed = positional.or(args.model.as_deref());
    let path = model_path::resolve(typed)?;
    let how = match args.load {
        LoadHow::Map => Load::Map,
        LoadHow::Read => Load::Copy,
    };
    let file = GgufFile::open(&path, how).map_err(|e| at(&path, e))?;
    for warning in &file.index().warnings {
        let path = path.to_string_lossy();
        note(format_args!(
            "warning: {}: {}",
            Shown::list(&path),
            Shown::list(warning)
        ));
    }
    if let Some(control) = geb::kinds::control_file(&path) {
        let (path, control) = (path.display(), control.display());
        note(format_args!(
            "warning: {path}: its download has not ended: {control} is there"
        ));
    }
    Ok(Opened {
        path,
        file: Arc::new(file),
        lora: args.lora.clone(),
    })
}

/// An error of the library with the file it is about.
pub fn at(path: &Path, e: geb::Error) -> Failure {
    let has_path = matches!(
        e,
        geb::Error::Io { .. }
            | geb::Error::Kind { .. }
            | geb::Error::Interrupted
            | geb::Error::Request { .. }
            | geb::Error::Threads { .. }
    );
    let failure = Failure::from(e);
    let failure = if has_path {
        failure
    } else {
        failure.at(path.display())
    };
    if failure.code == 4 && failure.hint.is_none() {
        return failure.hint(format!(
            "what can be run of this file: geb-run inspect {}",
            Shown::list(&path.to_string_lossy())
        ));
    }
    failure
}

/// Opens the model and makes a session.
pub fn load(
    opened: Opened,
    cpu: &CpuArgs,
    interrupt: &Interrupt,
    started: Instant,
) -> Outcome<Loaded> {
    load_to_guess(opened, cpu, GuessWhen::Off, interrupt, started)
}

/// As [`load`], with what the further heads of the model need unless `heads` are off.
pub fn load_to_guess(
    opened: Opened,
    cpu: &CpuArgs,
    heads: GuessWhen,
    interrupt: &Interrupt,
    started: Instant,
) -> Outcome<Loaded> {
    let model = Model::load(opened.file.clone()).map_err(|e| at(&opened.path, e))?;
    let mut options = engine_options(&model, cpu, interrupt)?;
    options.extra_heads = heads != GuessWhen::Off;
    let mut session = Session::new(model, &options).map_err(|e| at(&opened.path, e))?;
    adapt(&mut session, &opened.lora)?;
    packed(&session);
    Ok(Loaded {
        opened,
        session,
        load: started.elapsed(),
    })
}

/// Says which matrices were packed.
fn packed(session: &Session) {
    for warning in session.warnings() {
        note(format_args!("warning: {}", Shown::list(warning)));
    }
    let p = session.packed();
    if p.matrices > 0 {
        dim(format_args!(
            "sparse: {} matrices packed, {} instead of {}",
            p.matrices,
            bytes(p.bytes),
            bytes(p.file_bytes)
        ));
    }
}

/// Refuses a model with an encoder for work on one text: its tokens are answers to another one. Exit code 4.
pub fn one_text(model: &Model, path: &Path) -> Outcome {
    if model.config().encoder.is_none() {
        return Ok(());
    }
    let name = model.config().arch.name;
    let message = format!(
        "{name} has an encoder: its decoder answers a text, and texts are not scored as its continuation"
    );
    let failure = Failure {
        code: 4,
        ..Failure::new(message)
    };
    Err(failure
        .at(path.display())
        .hint("geb-run generate lets it answer, geb-run bench measures its speed"))
}

/// Says what became of the experts under `--max-ram`.
pub fn streamed(session: &Session) {
    if let Some(s) = session.streamed() {
        dim(format_args!(
            "experts: {} of {} held, {} read, {} found in memory",
            bytes(s.held),
            bytes(s.budget),
            bytes(s.read),
            bytes(s.found)
        ));
    }
}

/// Sets the adapters of `--lora`.
pub fn adapt(session: &mut Session, lora: &[(PathBuf, f32)]) -> Outcome {
    let mut adapters = Vec::new();
    for (path, scale) in lora {
        let file = GgufFile::open(path, Load::Map).map_err(|e| at(path, e))?;
        let adapter = session.model().adapter(&file).map_err(|e| at(path, e))?;
        adapters.push((adapter, *scale));
    }
    let adapters: Vec<_> = adapters.iter().map(|(a, s)| (a, *s)).collect();
    Ok(session.set_adapters(&adapters)?)
}

/// Options from flags, with the threads that were found to be best for a model of this size.
pub fn engine_options(
    model: &Model,
    cpu: &CpuArgs,
    interrupt: &Interrupt,
) -> Outcome<SessionOptions> {
    let mut options = session_options(cpu, interrupt)?;
    if cpu.threads().is_none() {
        options.threads = settings::stored(model.bytes_per_token()).unwrap_or(options.threads);
    }
    Ok(options)
}

/// Session options from flags.
pub fn session_options(cpu: &CpuArgs, interrupt: &Interrupt) -> Outcome<SessionOptions> {
    let level = match &cpu.isa {
        None => None,
        Some(name) => Some(isa_level(name)?),
    };
    let defaults = SessionOptions::default();
    Ok(SessionOptions {
        threads: cpu.threads().unwrap_or(defaults.threads),
        ctx: cpu.ctx.map(|c| c as usize),
        beyond: cpu.ctx_beyond,
        kv: match cpu.kv {
            KvHow::Auto => KvChoice::Auto,
            KvHow::F16 => KvChoice::F16,
            KvHow::F32 => KvChoice::F32,
            KvHow::Q8_0 => KvChoice::Q8_0,
        },
        level,
        cancel: Some(interrupt.flag()),
        sparse: match cpu.sparse {
            SparseHow::Auto => SparseChoice::Auto,
            SparseHow::Scan => SparseChoice::Scan,
            SparseHow::Off => SparseChoice::Off,
        },
        max_ram: cpu.max_ram,
        ..SessionOptions::default()
    })
}

/// `--isa`: a level that this machine has.
fn isa_level(name: &str) -> Outcome<geb::kernels::level::Level> {
    use geb::kernels::level::Level;
    let available = Level::available();
    let names: Vec<&str> = available.iter().map(|l| l.name()).collect();
    Level::from_name(name)
        .filter(|l| available.contains(l))
        .ok_or_else(|| {
            Failure::usage(format!(
                "--isa is {name}, allowed on this machine: {}",
                names.join(", ")
            ))
        })
}

/// The kernels the flags ask for: `--isa`, else the best of this machine.
pub fn kernels(cpu: &CpuArgs) -> Outcome<&'static Kernels> {
    match &cpu.isa {
        Some(name) => Kernels::for_level(isa_level(name)?).ok_or_else(|| {
            Failure::usage(format!("--isa {name}: this build has no kernels for it"))
        }),
        None => Kernels::best().map_err(Failure::usage),
    }
}

/// Threads the flags ask for.
pub fn threads(cpu: &CpuArgs) -> usize {
    cpu.threads().unwrap_or_else(geb::threads::default_threads)
}

/// The tokenizer of the file.
pub fn tokenizer(opened: &Opened) -> Outcome<Tokenizer> {
    let mut tokenizer = Tokenizer::from_gguf(&opened.file).map_err(|e| at(&opened.path, e))?;
    tokenizer.cancel_with(crate::interrupt::flag());
    for warning in tokenizer.warnings() {
        let path = opened.path.to_string_lossy();
        note(format_args!(
            "warning: {}: {}",
            Shown::list(&path),
            Shown::list(warning)
        ));
    }
    Ok(tokenizer)
}

/// The chat template: `--chat-template`, else the one in the file, else none.
pub fn template(
    opened: &Opened,
    tokenizer: &Tokenizer,
    args: &TemplateArgs,
) -> Outcome<Option<ChatTemplate>> {
    let Some(path) = &args.chat_template else {
        return ChatTemplate::from_gguf(&opened.file).map_err(|e| {
            at(&opened.path, e).hint(
                "use another template with --chat-template FILE, or none: geb-run generate --raw",
            )
        });
    };
    let source = read_text(path, geb::limits::MAX_TEMPLATE_BYTES)?;
    let piece = |id: Option<u32>| id.map(|id| tokenizer.piece(id)).unwrap_or_default();
    let template =
        ChatTemplate::from_source(&source, &piece(tokenizer.bos()), &piece(tokenizer.eos()));
    Ok(Some(
        template.map_err(|e| Failure::from(e).at(path.display()))?,
    ))
}

/// The template of the file for conversations with tools, if it has one and `--chat-template` is not given.
pub fn tools_template(opened: &Opened, args: &TemplateArgs) -> Outcome<Option<ChatTemplate>> {
    match &args.chat_template {
        Some(_) => Ok(None),
        None => ChatTemplate::for_tools(&opened.file).map_err(|e| at(&opened.path, e)),
    }
}

/// Refuses a text that cannot fit before a template is rendered with it: its own tokens are too many.
pub fn check_length(tokenizer: &Tokenizer, text: &str, most: usize) -> Outcome {
    // No token is shorter than a byte.
    if text.len() <= most {
        return Ok(());
    }
    let how = Encode {
        add_special: false,
        parse_special: false,
    };
    let found = tokenizer.encode(text, how)?.len();
    if found <= most {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "the prompt takes {found} tokens, allowed: {most} of the context"
    ))
    .hint("shorten it, or raise --ctx if the model allows more"))
}

/// Most tokens of a context: those asked for, else those of the model.
pub fn most_tokens(opened: &Opened, cpu: &CpuArgs) -> usize {
    let trained = || {
        let name = opened.file.str("general.architecture").ok()??;
        let key = format!("{name}.context_length");
        let found = opened.file.int(&key, 1..=geb::limits::MAX_CONTEXT).ok()??;
        usize::try_from(found).ok()
    };
    let asked = cpu.ctx.filter(|n| *n > 0).map(|n| n as usize);
    asked.or_else(trained).unwrap_or(usize::MAX)
}

/// Reads a prompt (`-`: stdin) of at most `limit` bytes, without the line end that closes every text file.
pub fn read_prompt(path: &Path, limit: usize) -> Outcome<String> {
    let mut text = read_text(path, limit)?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// Reads a UTF-8 text file (`-`: stdin) of at most `limit` bytes, without a byte order mark.
pub fn read_text(path: &Path, limit: usize) -> Outcome<String> {
    let mut bytes = read_bytes(path, limit)?;
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    Ok(files::utf8(path, bytes)?)
}

/// Reads a file, a pipe or standard input (`-`) of at most `limit` bytes.
pub fn read_bytes(path: &Path, limit: usize) -> Outcome<Vec<u8>> {
    use std::io::Read;
    // Ctrl-C ends the program here: nothing has begun that would have to be stopped.
    static GO: AtomicBool = AtomicBool::new(false);
    if path.as_os_str() != "-" {
        return Ok(files::read_stream(path, limit as u64, &GO)?);
    }
    let mut bytes = Vec::new();
    let input = std::io::stdin().lock();
    input.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    match bytes.len() > limit {
        true => Err(Failure::usage(format!("-: more than {limit} bytes"))),
        false => Ok(bytes),
    }
}

/// Sampling options from flags. Returns the seed as well: a random one can be shown and repeated.
pub fn sampling(args: &SamplingArgs) -> (SamplerOptions, u64) {
    let seed = args.seed.unwrap_or_else(seed::random);
    let mut options = SamplerOptions {
        temperature: args.temp,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repeat_penalty: args.repeat_penalty,
        repeat_last_n: args.repeat_last_n,
        seed,
        ..SamplerOptions::default()
    };
    args.samplers.set(&mut options);
    (options, seed)
}

/// A conversation of an optional system text and one question.
pub fn conversation(system: Option<&str>, user: &str) -> Vec<Message> {
    let system = system.map(|s| message("system", s));
    system.into_iter().chain([message("user", user)]).collect()
}

/// The system text: `--system`, else that of a known model unless the user brings a template.
pub fn system<'a>(opened: &Opened, args: &'a TemplateArgs) -> Option<&'a str> {
    let known =
        || model_path::default_system(&opened.path).filter(|_| args.chat_template.is_none());
    args.system.as_deref().or_else(known)
}

/// Says that a template has no place for a system text, which then stands elsewhere.
pub fn say_where_system_goes(template: &ChatTemplate, output: &OutputArgs) {
    if !template.takes_system() && !output.quiet {
        note(
            "note: the chat template takes no system message; --system stands before the first user message",
        );
    }
}

/// One message.
pub fn message(role: &str, content: &str) -> Message {
    Message {
        role: role.into(),
        content: content.into(),
    }
}

/// The commonest type by bytes: what people call the type of the file.
pub fn main_type(file: &GgufFile) -> &'static str {
    let mut bytes = std::collections::BTreeMap::new();
    for tensor in file.tensors() {
        *bytes.entry(tensor.dtype().id()).or_insert(0u64) += tensor.bytes().len() as u64;
    }
    let top = bytes.into_iter().max_by_key(|&(_, n)| n);
    top.and_then(|(id, _)| geb::Dtype::from_id(id).ok())
        .map_or("?", |t| t.name())
}
