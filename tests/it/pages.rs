//! Pages shared, copied before they are written, found again, taken away: whatever happens to the others and
//! to itself, every sequence has the bits that it has alone.

use std::path::Path;
use std::sync::Arc;

use crate::common::gguf::File;
use crate::common::mutate::Rng;
use geb::adapter::Adapter;
use geb::engine::{Engine, KvChoice, Scope, Sequence, SessionOptions, Span, Want};
use geb::gguf::GgufFile;
use geb::model::Model;
use geb::session::{Segment, Session};
use geb::{Dtype, Error};
use geb_convert::{self as convert, Options};

/// Every checkpoint of the fixtures.
fn cases() -> Vec<String> {
    let root = Path::new(crate::common::ROOT).join("tests/fixtures");
    let entries = std::fs::read_dir(root).expect("a folder of the repository");
    let names = entries.filter_map(|e| {
        let path = e.expect("entry").path();
        let name = path.file_name()?.to_str()?.to_owned();
        path.join("hf").is_dir().then_some(name)
    });
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert!(names.len() >= 36, "{names:?}");
    names
}

fn bytes(case: &str, dtype: Dtype) -> Vec<u8> {
    let root = Path::new(crate::common::ROOT);
    let options = Options {
        policy: dtype.into(),
        ..Options::default()
    };
    let source = root.join("tests/fixtures").join(case).join("hf");
    convert::convert_to_vec(&source, &options).expect(case).0
}

fn file(bytes: Vec<u8>) -> Arc<GgufFile> {
    Arc::new(GgufFile::from_bytes(bytes).expect("GGUF"))
}

/// A random low-rank change of the matrices of the layers; `None` for a model without plain ones.
fn adapter(model: &Model, rng: &mut Rng) -> Option<Adapter> {
    let base = model.file();
    let arch = base.str("general.architecture").ok()??;
    let mut out = File::new()
        .str("general.type", "adapter")
        .str("general.architecture", arch)
        .str("adapter.type", "lora")
        .f32("adapter.lora.alpha", 4.0);
    let floats = |rng: &mut Rng, n: usize| -> Vec<u8> {
        let one = |_| (rng.below(2_000_001) as f32 / 1e6 - 1.0) * 0.2;
        (0..n).map(one).flat_map(f32::to_le_bytes).collect()
    };
    let mut any = false;
    for t in base.tensors().map(|t| t.info().clone()) {
        let changed = ["attn_q.weight", "attn_output.weight", "ffn_down.weight"];
        let of_decoder = !t.name.starts_with("enc.") && !t.name.contains("cross");
        if of_decoder && t.dims.len() == 2 && changed.iter().any(|end| t.name.ends_with(end)) {
            let (rows, cols, name) = (t.rows() as u64, t.cols() as u64, &t.name);
            let (a, b) = (floats(rng, 2 * t.cols()), floats(rng, 2 * t.rows()));
            out = out
                .tensor_with(&format!("{name}.lora_a"), Dtype::F32, &[cols, 2], a)
                .tensor_with(&format!("{name}.lora_b"), Dtype::F32, &[2, rows], b);
            any = true;
        }
    }
    any.then(|| model.adapter(&file(out.encode())).expect("an adapter"))
}

/// One who asks: tokens, what they are read with, and the logits that they have alone.
struct User {
    ids: Vec<u32>,
    text: Vec<u32>,
    adapted: bool,
    scope: Scope,
    expected: Vec<f32>,
    seq: Option<Sequence>,
    /// All of it was read once.
    done: bool,
}

impl User {
    fn held(&self) -> usize {
        self.seq.as_ref().map_or(0, |s| s.tokens().len())
    }

    fn is_open(&self) -> bool {
        !self.done
    }
}

/// What happened, so that a test cannot pass because nothing did.
#[derive(Default, Debug)]
struct Counts {
    steps: usize,
    found: u64,
    forks: usize,
    cut: usize,
    cancelled: usize,
    preempted: usize,
    evicted: u64,
}

/// A model, its users and the engine that they share.
struct Scene<'a> {
    case: &'a str,
    model: Arc<Model>,
    adapter: Option<Adapter>,
    options: SessionOptions,
    users: Vec<User>,
    engine: Engine,
    rng: Rng,
    counts: Counts,
}

impl Scene<'_> {
    /// Logits of all tokens of a user, read alone and in one call.
    fn alone(&self, user: &User) -> Vec<f32> {
        let options = SessionOptions {
            kv_memory: None,
            threads: 1,
            ..self.options.clone()
        };
        let mut session = Session::new(self.model.clone(), &options).expect("session");
        if let (true, Some(adapter)) = (user.adapted, &self.adapter) {
            session.set_adapters(&[(adapter, 0.7)]).expect("adapters");
        }
        if !user.text.is_empty() {
            session.encode(&user.text).expect("text");
        }
        session
            .forward(&user.ids, Want::All)
            .expect("alone")
            .to_vec()
    }

    /// Gives a user a sequence, with what the engine knows of its beginning.
    fn begin(&mut self, user: usize) {
        let mut seq = self.engine.sequence().expect("sequence");
        let u = &mut self.users[user];
        if let (true, Some(adapter)) = (u.adapted, &self.adapter) {
            let adapters = [(adapter, 0.7)];
            self.engine
                .set_adapters(&mut seq, &adapters)
                .expect("adapters");
        }
        if !u.text.is_empty() {
            self.engine.encode(&mut seq, &u.text).expect("text");
        }
        let found = self
            .engine
            .begin(&mut seq, &u.scope, &u.ids)
            .expect("begin");
        assert!(found < u.ids.len() && seq.tokens() == &u.ids[..found]);
        u.seq = Some(seq);
    }

    /// One step of random pieces of random users.
    fn step(&mut self) {
        let (vocab, case) = (self.model.config().vocab, self.case);
        for user in 0..self.users.len() {
            if self.users[user].seq.is_none() && self.users[user].is_open() {
                self.begin(user);
            }
        }
        let (mut spans, mut which, mut room) = (Vec::new(), Vec::new(), self.engine.batch());
        for (i, user) in self.users.iter_mut().enumerate() {
            let at = user.held();
            let most = (user.ids.len() - at).min(room);
            if most == 0 || user.seq.is_none() || self.rng.below(3) == 0 {
                continue;
            }
            let n = if self.rng.below(2) == 0 {
                1
            } else {
                1 + self.rng.below(most)
            };
            room -= n;
            which.push((i, at, n));
            let input = Segment::Tokens(&user.ids[at..at + n]);
            let (seq, want) = (user.seq.as_mut().expect("begun"), Want::All);
            spans.push(Span { seq, input, want });
        }
        let out = self.engine.step(&mut spans).expect("step");
        let full = |(_, e): &(usize, Error)| matches!(e, Error::Pages { .. });
        assert!(out.failed.iter().all(full), "{case}: {:?}", out.failed);
        let failed: Vec<usize> = out.failed.iter().map(|(i, _)| *i).collect();
        for (span, (i, at, n)) in which.iter().enumerate() {
            let found = out.of(span, vocab);
            let expected = &self.users[*i].expected[at * vocab..(at + n) * vocab];
            let same = found
                .iter()
                .zip(expected)
                .all(|(a, b)| a.to_bits() == b.to_bits());
            let whole = found.len() == n * vocab || failed.contains(&span);
            assert!(
                same && whole,
                "{case} {:?}: user {i} at {at}",
                self.options.kv
            );
        }
        self.counts.steps += 1;
        for user in &mut self.users {
            user.done |= user.held() == user.ids.len();
        }
        // Those who are done, else the youngest, give their pages to those who found none.
        if !failed.is_empty() {
            self.counts.preempted += 1;
            let holds = |u: &&mut User| u.held() > 0;
            let mut all = self
                .users
                .iter_mut()
                .rev()
                .filter(holds)
                .collect::<Vec<_>>();
            all.sort_by_key(|u| !u.done);
            if let Some(user) = all.first_mut() {
                user.seq = None;
            }
        }
    }

    /// Somebody goes on from what another one holds.
    fn fork(&mut self) {
        let (from, to) = (
            self.rng.below(self.users.len()),
            self.rng.below(self.users.len()),
        );
        let (a, b) = (&self.users[from], &self.users[to]);
        let alike = a.adapted == b.adapted && a.text == b.text && from != to;
        let Some(seq) = a.seq.as_ref().filter(|_| alike && b.is_open()) else {
            return;
        };
        let common = a.ids.iter().zip(&b.ids).take_while(|(a, b)| a == b).count();
        let at = common.min(a.held());
        if let Ok(fork) = self.engine.fork(seq, at) {
            assert_eq!(fork.tokens(), &b.ids[..at]);
            self.users[to].seq = Some(fork);
            self.counts.forks += 1;
        }
    }

    fn run(&mut self) {
        while self.users.iter().any(User::is_open) {
            let user = self.rng.below(self.users.len());
            match self.rng.below(10) {
                0 => self.fork(),
                1 => {
                    self.users[user].seq = None;
                    self.counts.cancelled += 1;
                }
                2 => {
                    let n = self.rng.below(self.users[user].held() + 1);
                    if let Some(seq) = &mut self.users[user].seq {
                        seq.truncate(n);
                        self.counts.cut += 1;
                    }
                }
                3 => {
                    if let Some(seq) = &self.users[user].seq {
                        self.engine.keep_state(seq).expect("a copy");
                    }
                }
                _ => self.step(),
            }
            assert!(self.counts.steps < 5000, "{}: no end", self.case);
        }
        // Nobody keeps a page that nobody needs.
        self.users.iter_mut().for_each(|u| u.seq = None);
        let (free, all) = self.engine.free_pages();
        assert_eq!(
            free + self.engine.prefix_tokens() / 64,
            all,
            "{}",
            self.case
        );
        let stats = self.engine.prefix_stats();
        (self.counts.found, self.counts.evicted) = (stats.found, stats.evicted);
    }
}

/// Users whose texts begin alike for a while, some with adapters, of two scopes.
fn users(model: &Model, ctx: usize, rng: &mut Rng) -> Vec<User> {
    let (c, shared) = (model.config(), ctx * 5 / 8);
    let ids = |rng: &mut Rng, n: usize| -> Vec<u32> {
        (0..n).map(|_| rng.below(c.vocab) as u32).collect()
    };
    let beginning = ids(rng, shared);
    let text = ids(rng, 7);
    let user = |i: usize, rng: &mut Rng| {
        let (common, own) = (rng.below(shared + 1), 1 + rng.below(ctx - shared));
        let own = ids(rng, own);
        User {
            ids: beginning[..common].iter().copied().chain(own).collect(),
            text: if c.encoder.is_some() {
                text.clone()
            } else {
                Vec::new()
            },
            adapted: i % 3 == 2,
            scope: Scope([u8::from(i % 4 == 3); 32]),
            expected: Vec::new(),
            seq: None,
            done: false,
        }
    };
    (0..4 + rng.below(5)).map(|i| user(i, rng)).collect()
}

fn scene(case: &str, kv: KvChoice, seed: u64) -> Option<Counts> {
    let mut rng = Rng::new(seed);
    let dtype = [Dtype::F32, Dtype::Q8_0][rng.below(2)];
    let model = Model::load(file(bytes(case, dtype))).expect(case);
    let ctx = model.config().context_length.min(160);
    let mut options = SessionOptions {
        kv,
        ctx: Some(ctx),
        threads: 1 + rng.below(4),
        streams: 3,
        ..Default::default()
    };
    // Attention with a bias has F32 caches only.
    let three = Engine::new(model.clone(), &options).ok()?.kv_bytes();
    options.kv_memory = Some(three);
    let mut scene = Scene {
        case,
        adapter: adapter(&model, &mut rng),
        users: users(&model, ctx, &mut rng),
        engine: Engine::new(model.clone(), &options).expect("engine"),
        model,
        options,
        rng,
        counts: Counts::default(),
    };
    for i in 0..scene.users.len() {
        let expected = scene.alone(&scene.users[i]);
        scene.users[i].expected = expected;
    }
    scene.run();
    Some(scene.counts)
}

#[test]
fn sequences_that_share_pages_keep_their_own_bits() {
    let mut sum = Counts::default();
    for (i, case) in cases().iter().enumerate() {
        for (j, kv) in [KvChoice::F32, KvChoice::F16, KvChoice::Q8_0]
            .into_iter()
            .enumerate()
        {
            let Some(counts) = scene(case, kv, (3 * i + j) as u64) else {
                continue;
            };
            sum.steps += counts.steps;
            sum.found += counts.found;
            sum.forks += counts.forks;
            sum.cut += counts.cut;
            sum.cancelled += counts.cancelled;
            sum.preempted += counts.preempted;
            sum.evicted += counts.evicted;
        }
    }
    println!("{sum:?}");
    assert!(
        sum.steps > 1000 && sum.found > 1000 && sum.forks > 50,
        "{sum:?}"
    );
    assert!(sum.cut > 100 && sum.cancelled > 100, "{sum:?}");
    assert!(sum.preempted > 50 && sum.evicted > 50, "{sum:?}");
}

/// Reads all of `ids` behind what is found of them; from `from` on one by one, each with a guess that is wrong and
/// taken back. Every row has the bits of `expected`, `[ids, vocab]`.
fn read_guessing(engine: &mut Engine, ids: &[u32], from: usize, expected: &[f32]) {
    let vocab = engine.model().config().vocab;
    let mut seq = engine.sequence().expect("sequence");
    engine
        .begin(&mut seq, &Scope::default(), ids)
        .expect("begins");
    while seq.tokens().len() < ids.len() {
        let held = seq.tokens().len();
        let guessing = held >= from;
        let mut piece = match guessing {
            true => vec![ids[held]],
            false => ids[held..from.min(held + engine.batch())].to_vec(),
        };
        let right = piece.len();
        if guessing && held + 1 < ids.len() {
            piece.push((ids[held + 1] + 1) % vocab as u32);
        }
        let mut spans = [Span {
            seq: &mut seq,
            input: Segment::Tokens(&piece),
            want: Want::All,
        }];
        let out = engine.step(&mut spans).expect("a step");
        assert!(out.failed.is_empty(), "at {held}: {:?}", out.failed);
        let rows = &out.of(0, vocab)[..right * vocab];
        assert!(
            rows == &expected[held * vocab..(held + right) * vocab],
            "at {held}"
        );
        seq.truncate(held + right);
    }
}

/// A text that fills its context, alone, in pages for one context: what the tree names too never stands in its way.
/// Returns how many tokens were found.
fn fills_its_context(case: &str, ctx: usize) -> u64 {
    let model = Model::load(file(bytes(case, Dtype::F32))).expect(case);
    let mut options = SessionOptions {
        ctx: Some(ctx),
        beyond: true,
        threads: 1,
        ..Default::default()
    };
    let mut rng = Rng::new(5);
    let mut text = || -> Vec<u32> {
        let vocab = model.config().vocab;
        (0..ctx).map(|_| rng.below(vocab) as u32).collect()
    };
    let texts = [text(), text()].map(|ids| {
        let mut session = Session::new(model.clone(), &options).expect("session");
        let rows = session.forward(&ids, Want::All).expect("alone").to_vec();
        (ids, rows)
    });
    let one = Engine::new(model.clone(), &options).expect("engine");
    options.kv_memory = Some(one.kv_bytes());
    drop(one);
    // More may come, and nothing is kept for them.
    options.streams = 3;
    let mut engine = Engine::new(model.clone(), &options).expect("engine");
    // Again from what is found; another text, which needs all pages; the first one once more.
    for which in [0, 0, 1, 1, 0] {
        let (ids, expected) = &texts[which];
        read_guessing(&mut engine, ids, ctx - 70, expected);
    }
    engine.prefix_stats().found
}

#[test]
fn one_that_fits_its_context_never_lacks_a_page() {
    assert!(fills_its_context("llama", 192) >= 2 * 191);
    fills_its_context("gemma3", 1024);
    fills_its_context("mistral-swa", 1024);
}
