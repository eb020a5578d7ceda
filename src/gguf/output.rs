//! Files that appear together, each complete and verified, with a journal so that a killed run
//! can continue.
//!
//! ```text
//! for each file: refuse bad targets, lay out
//! resume: find a journal of the same run; keep an entry whose SHA-256 is that of the bytes
//! otherwise: remove leftovers, check free space, create temporary files
//! tensors, in order: seek, stream, hash, a line in the journal
//! fill in the hashes; fsync; read back; rename, the first part last; fsync the folder
//! ```

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::atomic::{FileLock, Target, Temp};
use super::flush::Flusher;
use super::journal::{Entry, Found, Identity, Journal, SUFFIX};
use super::swap::{self, Swapped};
use super::writer::{self, Fill, Layout, Plan};
use super::{GgufFile, Load, checksums};
use crate::error::{Error, Result};
use crate::files::Over;

const BUFFER_BYTES: usize = 1 << 20;
/// From this size on, files are written to disk beside the work.
const LARGE: u64 = 128 << 20;

/// Writes the planned file atomically: `path` holds what it held before, or the complete new
/// file, which has been read back and compared. An old file is replaced whatever it is; a link is
/// followed. Memory: the header and one write buffer.
///
/// # Errors
/// Plan errors as in [`Plan::layout`]; [`Error::Request`] when `path` is a directory or
/// not a regular file, or is being written by this process already; [`Error::Io`];
/// [`Error::Verify`] when `fill` does not keep to the plan or the bytes do not read back;
/// whatever `fill` returns.
pub fn write_file(path: &Path, plan: &Plan, fill: &mut Fill<'_>) -> Result<()> {
    let files = vec![(path.to_owned(), plan.clone())];
    let mut output = Output::create(files, Over::ANY, None)?;
    for i in 0..plan.tensors.len() {
        output.tensor(i, &mut |out| fill(i, out).map(|()| String::new()))?;
    }
    output.finish()
}

/// How a run that was killed may be continued.
#[derive(Clone, Debug)]
pub struct Resume {
    /// What the files are made from; other journals are not continued.
    pub identity: Identity,
    /// Continue an earlier run, and leave this one so that it can be continued if it fails.
    pub wanted: bool,
}

struct Part {
    target: Target,
    plan: Plan,
    layout: Layout,
    temp: Temp,
    /// Position of its first tensor among those of all parts.
    first: usize,
    _lock: FileLock,
}

/// Files being written. Dropped before [`Output::finish`], it leaves nothing behind, or what
/// `--resume` needs.
pub struct Output {
    parts: Vec<Part>,
    journal: Option<Journal>,
    sums: Vec<Option<[u8; 32]>>,
    notes: Vec<Option<String>>,
    /// For large files.
    flusher: Option<Flusher>,
    /// Why an earlier run is not continued.
    refused: Option<String>,
    /// Tensors that an earlier run claims to have finished.
    claimed: usize,
    /// Those of them whose source is another one now.
    forgotten: usize,
}

impl Output {
    /// Lays out the files and creates them under temporary names; what stands in their places must be
    /// one of `over`. The tensors of all files are numbered through.
    ///
    /// # Errors
    /// As [`write_file`].
    pub fn create(
        files: Vec<(PathBuf, Plan)>,
        over: Over,
        resume: Option<&Resume>,
    ) -> Result<Output> {
        if let [(first, _), _, ..] = &files[..] {
            let paths: Vec<PathBuf> = files.iter().map(|f| f.0.clone()).collect();
            swap::heal(first, &paths)?;
        }
        let mut open = Vec::with_capacity(files.len());
        for (path, plan) in files {
            let layout = plan.layout()?;
            let target = Target::check(&path, over)?;
            let lock = FileLock::enter(&target)?;
            open.push((target, plan, layout, lock));
        }
        let (earlier, refused) = match resume.filter(|r| r.wanted) {
            Some(resume) => find(&open[0].0, &resume.identity),
            None => (None, None),
        };
        let pid = earlier.as_ref().map_or(std::process::id(), |e| e.pid);
        for (target, ..) in &open {
            target.remove_leftovers(earlier.as_ref().map(|e| e.pid));
        }
        let needed = open.iter().map(|o| o.2.file_bytes).sum();
        if earlier.is_none() {
            open[0].0.check_space(needed)?;
        }
        let mut first = 0;
        let mut parts = Vec::with_capacity(open.len());
        for (target, plan, layout, _lock) in open {
            let temp = match earlier {
                Some(_) => Temp::reopen(&target, pid)?,
                None => Temp::create(&target)?,
            };
            let tensors = plan.tensors.len();
            parts.push(Part {
                target,
                plan,
                layout,
                temp,
                first,
                _lock,
            });
            first += tensors;
        }
        let (journal, entries) = match (earlier, resume) {
            (Some(e), _) => (Some(e.journal), e.entries),
            (None, Some(resume)) => {
                let path = parts[0].target.temp_path(pid, SUFFIX);
                let journal = Journal::create(path, &resume.identity)?;
                (Some(journal), BTreeMap::new())
            }
            (None, None) => (None, BTreeMap::new()),
        };
        let mut output = Output {
            parts,
            journal,
            sums: vec![None; first],
            notes: vec![None; first],
            flusher: None,
            refused,
            claimed: entries.len(),
            forgotten: 0,
        };
        output.verify_resumed(entries)?;
        output.keep(resume.is_some_and(|r| r.wanted));
        Ok(output)
    }

    /// Takes over the entries whose bytes are in the files.
    fn verify_resumed(&mut self, mut entries: BTreeMap<usize, Entry>) -> Result<()> {
        for part in &self.parts {
            let length = part.temp.len()?;
            let ranges = part.layout.tensors.iter().enumerate();
            let claimed: Vec<_> = ranges
                .map(|(i, range)| (part.first + i, range.clone()))
                .filter(|(i, range)| entries.contains_key(i) && range.end <= length)
                .collect();
            let ranges: Vec<_> = claimed.iter().map(|c| c.1.clone()).collect();
            let sums = checksums::hash_ranges(&part.temp.path, &ranges)?;
            for ((i, _), sum) in claimed.into_iter().zip(sums) {
                if let Some(entry) = entries.remove(&i).filter(|e| e.sum == sum) {
                    self.sums[i] = Some(sum);
                    self.notes[i] = Some(entry.note);
                }
            }
        }
        Ok(())
    }

    fn keep(&mut self, keep: bool) {
        self.parts.iter_mut().for_each(|p| p.temp.keep = keep);
        if let Some(journal) = &mut self.journal {
            journal.keep = keep;
        }
    }

    /// The note of a tensor that an earlier run finished; `None` when it is still to be written.
    pub fn finished(&self, tensor: usize) -> Option<&str> {
        self.notes.get(tensor)?.as_deref()
    }

    /// A tensor that an earlier run finished is to be written all the same.
    pub fn forget(&mut self, tensor: usize) {
        self.forgotten += usize::from(self.sums[tensor].is_some());
        (self.sums[tensor], self.notes[tensor]) = (None, None);
    }

    /// What became of the wish to continue, in one line.
    pub fn remark(&self) -> Option<String> {
        if self.claimed == 0 {
            return self.refused.clone();
        }
        let (all, done) = (self.sums.len(), self.sums.iter().flatten().count());
        let again = match self.forgotten {
            0 => String::new(),
            n => format!("; the source of {n} more is another one now, they are made again"),
        };
        Some(format!(
            "continued: {done} of {all} tensors were finished{again}"
        ))
    }

    /// Streams a tensor. `fill` writes exactly the planned bytes and returns a note for the
    /// journal, one line.
    ///
    /// # Errors
    /// As [`write_file`].
    pub fn tensor(
        &mut self,
        tensor: usize,
        fill: &mut dyn FnMut(&mut dyn Write) -> Result<String>,
    ) -> Result<()> {
        let after = self.parts.partition_point(|p| p.first <= tensor);
        let part = &self.parts[after - 1];
        let path = &part.target.path;
        let i = tensor - part.first;
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, &part.temp.file);
        let start = part.layout.tensors[i].start;
        out.seek(SeekFrom::Start(start)).map_err(Error::io(path))?;
        let mut note = String::new();
        let mut fill = |out: &mut dyn Write| {
            note = fill(out)?;
            Ok(())
        };
        let result = writer::tensor(&mut out, &part.plan, &part.layout, i, path, &mut fill);
        let flushed = match result {
            Ok(_) => out.flush().map_err(Error::io(path)),
            Err(_) => Ok(()),
        };
        // On failure the buffer is dropped without a last attempt to write it.
        let _ = out.into_parts();
        let sum = result?;
        flushed?;
        let bytes = part.layout.tensors[i].end - start;
        if self.flusher.is_none() && part.layout.file_bytes > LARGE {
            self.flusher = Some(Flusher::start().map_err(Error::io(path))?);
        }
        if let Some(flusher) = &mut self.flusher {
            let asked = flusher.written(&part.temp.file, bytes);
            asked.map_err(Error::io(path))?;
        }
        self.sums[tensor] = Some(sum);
        match &mut self.journal {
            Some(journal) => journal.record(tensor, &sum, &note),
            None => Ok(()),
        }
    }

    /// Fills in the zeros of every tensor in per cent.
    pub fn set_zeros(&mut self, percents: &[u8]) {
        for part in &mut self.parts {
            let own = part.first..part.first + part.plan.tensors.len();
            part.plan.set_zeros(percents.get(own).unwrap_or_default());
        }
    }

    /// Fills in the hashes, verifies all files and gives them their names.
    ///
    /// # Errors
    /// As [`write_file`].
    pub fn finish(mut self) -> Result<()> {
        let sums: Option<Vec<_>> = self.sums.iter().copied().collect();
        let sums = sums.ok_or_else(|| Error::Verify("a tensor was not written".into()))?;
        let set = checksums::hash_of(sums.iter());
        if let Some(flusher) = self.flusher.take() {
            let path = &self.parts[0].target.path;
            flusher.finish().map_err(Error::io(path))?;
        }
        for part in &mut self.parts {
            part.complete(&sums, &set)?;
        }
        self.publish()?;
        // The files have their names; the journal goes.
        if let Some(journal) = &mut self.journal {
            journal.keep = false;
        }
        Ok(())
    }
}

impl Output {
    /// Gives the files their names: a single one at once, a set in the place of an old one too, where
    /// there are links.
    fn publish(&mut self) -> Result<()> {
        let swapped = self.parts.iter_mut().map(|p| Swapped {
            target: &p.target,
            temp: &mut p.temp,
        });
        let mut swapped: Vec<_> = swapped.collect();
        if swapped.len() > 1 && swap::replace(&mut swapped)? {
            return Ok(());
        }
        // A set is opened by its first part. While names change there is none, so that no
        // reader meets parts of two sets.
        if self.parts.len() > 1 {
            self.parts[0].target.remove_old()?;
        }
        let mut parts = self.parts.iter_mut().rev();
        parts.try_for_each(|p| p.temp.publish(&p.target))
    }
}

impl Part {
    /// Header, length, fsync, and the file read back.
    fn complete(&mut self, sums: &[[u8; 32]], set: &[u8; 32]) -> Result<()> {
        let sums = &sums[self.first..self.first + self.plan.tensors.len()];
        if self.plan.set_checksums(sums, set) {
            let sealed = self.plan.layout()?;
            if sealed.tensors != self.layout.tensors {
                return Err(Error::Verify("hashes changed the layout".into()));
            }
            self.layout = sealed;
        }
        let write = || -> io::Result<()> {
            let mut file = &self.temp.file;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&self.layout.header)?;
            file.set_len(self.layout.file_bytes)?;
            file.sync_all()
        };
        write().map_err(Error::io(&self.target.path))?;
        self.verify(sums)
    }

    /// Reads the file back: same header bytes, same table by our own parser, zero padding, and
    /// the SHA-256 of every tensor as it was handed over.
    fn verify(&self, sums: &[[u8; 32]]) -> Result<()> {
        let path = &self.temp.path;
        let fail = |what: String| Err(Error::Verify(format!("{}: {what}", path.display())));
        let file = GgufFile::open_single(path, Load::Map)?;
        let (data, layout) = (file.data(), &self.layout);
        if data.len() as u64 != layout.file_bytes {
            return fail(format!(
                "{} bytes were written, planned: {}",
                data.len(),
                layout.file_bytes
            ));
        }
        if !data.starts_with(&layout.header) {
            return fail("header or metadata differ from the plan".into());
        }
        if file.own_tensors().len() != layout.tensors.len() || sums.len() != layout.tensors.len() {
            return fail("the tensor table differs from the plan".into());
        }
        let mut at = layout.header.len();
        let zero =
            |at: usize, to: usize| data.get(at..to).is_some_and(|g| g.iter().all(|&b| b == 0));
        for (info, planned) in file.own_tensors().iter().zip(&layout.tensors) {
            if info.range.start as u64 != planned.start || info.range.end as u64 != planned.end {
                return fail(format!("tensor {} is not where it was planned", info.name));
            }
            if !zero(at, info.range.start) {
                return fail(format!("padding before tensor {} is not zero", info.name));
            }
            at = info.range.end;
        }
        if !zero(at, data.len()) {
            return fail("padding at the end is not zero".into());
        }
        let read = checksums::hash_ranges(path, &layout.tensors)?;
        let wrong = read.iter().zip(sums).position(|(a, b)| a != b);
        if let Some(info) = wrong.and_then(|i| file.own_tensors().get(i)) {
            return fail(format!(
                "SHA-256 of tensor {} differs from what was written",
                info.name
            ));
        }
        Ok(())
    }
}

/// What an earlier run left.
struct Earlier {
    pid: u32,
    journal: Journal,
    entries: BTreeMap<usize, Entry>,
}

/// Looks for a run to continue; otherwise says why there is none.
fn find(target: &Target, identity: &Identity) -> (Option<Earlier>, Option<String>) {
    let mut remark = None;
    for (pid, path) in target.leftovers(SUFFIX) {
        match Journal::reopen(&path, pid, identity) {
            Found::Same(journal, entries) => {
                let earlier = Earlier {
                    pid,
                    journal,
                    entries,
                };
                return (Some(earlier), None);
            }
            Found::Other(what) => {
                remark = Some(format!(
                    "not continued: the earlier run differs in {what}; starting anew"
                ));
            }
            Found::InUse => {}
        }
    }
    let none = "nothing to continue; starting anew".to_owned();
    (None, Some(remark.unwrap_or(none)))
}
