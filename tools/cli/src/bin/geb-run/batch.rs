//! `geb-run batch`: a file of requests, many at once, an answer for each exactly once.
//!
//! ```text
//! a row is one line, written by one call when its answer is whole
//! killed anywhere: what is behind the last end of a line was not whole, and is cut off by --resume
//! --resume: rows that are there are not asked again
//! ```

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use geb::engine::Engine;
use geb::model::Model;
use geb::scheduler::{Event, Request, Scheduler, SchedulerOptions};
use geb_serve::batch::Asked;
use geb_serve::{ApiError, Speaker};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::args::BatchArgs;
use crate::interrupt::Interrupt;
use crate::load;
use crate::progress::Progress;
use crate::report::{Failure, Outcome, dim};

/// Largest file of requests.
const MAX_BYTES: usize = 512 << 20;
/// What a crash of the machine may cost at most.
const SYNC: Duration = Duration::from_secs(1);

/// Runs the command.
pub fn run(args: &BatchArgs, interrupt: &Interrupt) -> Outcome {
    let started = Instant::now();
    let text = load::read_text(&args.file, MAX_BYTES)?;
    let ids = custom_ids(&args.file, &text)?;
    let (out, done) = Out::open(args)?;
    let known: HashSet<_> = ids.iter().collect();
    if let Some(other) = done.iter().find(|id| !known.contains(id)) {
        let message = format!("{}: has a row for custom_id {other}", args.out.display());
        return Err(Failure::usage(message).hint("it is the output of another batch"));
    }
    let opened = load::open(&args.model, None)?;
    let at = |e| load::at(&opened.path, e);
    let tokenizer = Arc::new(load::tokenizer(&opened)?);
    let template = load::template(&opened, &tokenizer, &args.template)?;
    let model = Model::load(opened.file.clone()).map_err(at)?;
    let mut options = load::engine_options(&model, &args.cpu, interrupt)?;
    options.streams = args.streams;
    // Fewer contexts are planned for where memory is short; who finds no room waits.
    while options.streams > 1 && Engine::fits(&model, &options).is_err() {
        options.streams /= 2;
    }
    let engine = Engine::new(model, &options).map_err(at)?;
    let ctx = engine.ctx();
    let how = SchedulerOptions {
        streams: args.streams,
        queue: args.streams,
        ..SchedulerOptions::default()
    };
    let scheduler = Scheduler::new(engine, tokenizer.clone(), how)?;
    let name = opened.path.file_stem().unwrap_or_default();
    let name = name.to_string_lossy();
    let speaker = Speaker::new(name.into_owned(), tokenizer, template, None, ctx);
    let for_tools = load::tools_template(&opened, &args.template)?;
    let work = Work {
        scheduler: &scheduler,
        speaker: Arc::new(speaker.with_tools(for_tools)),
        interrupt,
        lines: Mutex::new(Box::new(
            text.lines()
                .filter(|l| !l.trim().is_empty())
                .zip(&ids)
                .filter(|(_, id)| !done.contains(*id)),
        )),
        out: Mutex::new(out),
        progress: Mutex::new((
            Progress::new("batch", "rows", &args.output),
            done.len(),
            ids.len(),
        )),
    };
    let outcome = interrupt.during(|| work.all(args.streams));
    let rows = work.finish()?;
    interrupt.check()?;
    outcome?;
    if !args.output.quiet {
        let stats = scheduler.stats();
        let speed = stats.tokens as f64 / started.elapsed().as_secs_f64();
        dim(format_args!(
            "[{} rows, {rows} of them now, {} tokens, {speed:.1} tokens/s]",
            ids.len(),
            stats.tokens
        ));
    }
    Ok(())
}

fn bad_line(path: &Path, line: usize, field: &str, value: String, allowed: &str) -> Failure {
    Failure::from(geb::Error::Data {
        path: path.to_owned(),
        line,
        field: field.into(),
        value,
        allowed: allowed.into(),
    })
}

/// The `custom_id` of every line; each is there once.
fn custom_ids(path: &Path, text: &str) -> Outcome<Vec<String>> {
    let (mut ids, mut seen) = (Vec::new(), HashSet::new());
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let id = custom_id(path, i + 1, line)?;
        if !seen.insert(id.clone()) {
            return Err(bad_line(path, i + 1, "custom_id", id, "one line for each"));
        }
        ids.push(id);
    }
    Ok(ids)
}

/// The `custom_id` of a line.
fn custom_id(path: &Path, number: usize, line: &str) -> Outcome<String> {
    let value: Value = serde_json::from_str(line)
        .map_err(|e| bad_line(path, number, "line", e.to_string(), "a JSON object"))?;
    match value["custom_id"].as_str() {
        Some(id) => Ok(id.to_owned()),
        None => {
            let value = value["custom_id"].to_string();
            Err(bad_line(path, number, "custom_id", value, "a text"))
        }
    }
}

/// The file of rows.
struct Out {
    file: File,
    synced: Instant,
    rows: usize,
}

impl Out {
    /// Opens it, and says which rows are there.
    fn open(args: &BatchArgs) -> Outcome<(Out, HashSet<String>)> {
        let path = &args.out;
        let io = |e| Failure::from(geb::Error::io(path)(e));
        let mut open = OpenOptions::new();
        let open = open.read(true).append(true).create(true);
        let mut file = open.open(path).map_err(io)?;
        if let Err(std::fs::TryLockError::WouldBlock) = file.try_lock() {
            return Err(Failure::new("another process writes it").at(path.display()));
        }
        if args.force && !args.resume {
            file.set_len(0).map_err(io)?;
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        if !bytes.is_empty() && !args.resume {
            let message = format!("{}: there is a file", path.display());
            return Err(
                Failure::usage(message).hint("--resume goes on with it, --force writes it anew")
            );
        }
        // What was being written when the program ended is asked again.
        let whole = bytes
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |at| at + 1);
        bytes.truncate(whole);
        let text = geb::files::utf8(path, bytes)?;
        let mut done = HashSet::new();
        for (i, line) in text.lines().enumerate() {
            let id = custom_id(path, i + 1, line)?;
            if !done.insert(id.clone()) {
                return Err(bad_line(path, i + 1, "custom_id", id, "one row for each"));
            }
        }
        // Only a file that is one of rows is changed.
        file.set_len(whole as u64).map_err(io)?;
        file.seek(SeekFrom::End(0)).map_err(io)?;
        let (synced, rows) = (Instant::now(), 0);
        Ok((Out { file, synced, rows }, done))
    }

    /// Appends a row.
    fn write(&mut self, row: &Value) -> std::io::Result<()> {
        self.file.write_all(format!("{row}\n").as_bytes())?;
        self.rows += 1;
        if self.synced.elapsed() > SYNC {
            self.file.sync_data()?;
            self.synced = Instant::now();
        }
        Ok(())
    }
}

type Lines<'a> = Box<dyn Iterator<Item = (&'a str, &'a String)> + Send + 'a>;

/// What the threads share that ask and wait.
struct Work<'a> {
    scheduler: &'a Scheduler,
    speaker: Arc<Speaker>,
    interrupt: &'a Interrupt,
    lines: Mutex<Lines<'a>>,
    out: Mutex<Out>,
    /// With rows that are there, and all rows.
    progress: Mutex<(Progress, usize, usize)>,
}

impl Work<'_> {
    /// As many threads as requests run, each with one at a time.
    fn all(&self, threads: usize) -> Outcome {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| self.some())).collect();
            let mut outcomes = threads.into_iter().map(|t| t.join());
            outcomes.try_for_each(|o| o.unwrap_or_else(|p| std::panic::resume_unwind(p)))
        })
    }

    /// Rows, until there are no more.
    fn some(&self) -> Outcome {
        loop {
            let next = lock(&self.lines).next();
            let Some((line, id)) = next.filter(|_| !self.interrupt.pressed()) else {
                return Ok(());
            };
            let Some(row) = self.row(line, id)? else {
                return Ok(());
            };
            lock(&self.out).write(&row)?;
            let mut progress = lock(&self.progress);
            progress.1 += 1;
            let (_, done, total) = *progress;
            progress.0.update(done, total);
        }
    }

    /// The row of a line; none if the user stopped it.
    fn row(&self, line: &str, id: &str) -> Outcome<Option<Value>> {
        let response = match self.answer(line, id)? {
            None => return Ok(None),
            Some(Ok(body)) => json!({ "status_code": 200, "request_id": id, "body": body }),
            Some(Err(refused)) => {
                let code = "invalid_request_error";
                let error =
                    json!({ "code": code, "message": refused.message, "param": refused.param });
                let row =
                    json!({ "id": name(id), "custom_id": id, "response": null, "error": error });
                return Ok(Some(row));
            }
        };
        let row = json!({ "id": name(id), "custom_id": id, "response": response, "error": null });
        Ok(Some(row))
    }

    /// Asks and waits.
    fn answer(&self, line: &str, id: &str) -> Outcome<Option<Result<Value, ApiError>>> {
        let mut asked = match self.asked(line, id) {
            Ok(asked) => asked,
            Err(refused) => return Ok(Some(Err(refused))),
        };
        let request = Request {
            prompt: asked.prompt.ids.clone(),
            options: asked.options.clone(),
            ..Request::default()
        };
        let handle = self.scheduler.submit(request);
        let handle = handle.map_err(|e| Failure::new(e.to_string()))?;
        let mut reader = asked.prompt.reader();
        for event in handle {
            if self.interrupt.pressed() {
                return Ok(None);
            }
            match event {
                // What is wrong with the request is its answer; what is wrong with us is not.
                Event::Failed(geb::Error::Request {
                    what,
                    value,
                    allowed,
                }) => {
                    let message = format!("{what} is {value}, allowed: {allowed}");
                    return Ok(Some(Err(ApiError::field(what, message))));
                }
                Event::Failed(error) => return Err(error.into()),
                event => _ = reader.take(Some(event)),
            }
        }
        let reply = &reader.reply;
        Ok(reply.finish.map(|_| Ok(asked.response(reply))))
    }

    /// What a line asks for. Without a seed it has one of its `custom_id`: a batch that is run again, or resumed,
    /// gives the same answers.
    fn asked(&self, line: &str, id: &str) -> Result<Asked, ApiError> {
        let line: Value =
            serde_json::from_str(line).map_err(|e| ApiError::field("line", e.to_string()))?;
        for key in line.as_object().into_iter().flat_map(|l| l.keys()) {
            if !["custom_id", "method", "url", "body"].contains(&key.as_str()) {
                return Err(ApiError::field(key, format!("unknown field {key}")));
            }
        }
        if line["method"] != "POST" {
            let message = format!("method is {}, allowed: POST", line["method"]);
            return Err(ApiError::field("method", message));
        }
        let body = line["body"].as_object();
        let body = body.ok_or_else(|| ApiError::field("body", "body is no object"))?;
        let mut seed = [0; 8];
        seed.copy_from_slice(&Sha256::digest(id.as_bytes())[..8]);
        let url = line["url"].as_str().unwrap_or_default();
        Asked::read(url, body, &self.speaker, u64::from_le_bytes(seed) >> 11)
    }

    /// Makes the rows durable; how many were written.
    fn finish(self) -> Outcome<usize> {
        let out = self
            .out
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        out.file.sync_all()?;
        Ok(out.rows)
    }
}

/// The id of a row.
fn name(custom_id: &str) -> String {
    format!("batch_req_{custom_id}")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
