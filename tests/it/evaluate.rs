//! The evaluation of texts on real (tiny) models, against the definitions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::nano::{encode, nano, session_with};
use geb::Dtype;
use geb::gguf::{GgufFile, Load};
use geb::model::Model;
use geb::session::{KvChoice, Session, SessionOptions, Want};
use geb::tokenizer::Tokenizer;
use geb_eval::{Divergence, Estimate, Method, Scores, TextRun, evaluate, quantile};

const WINDOW: usize = 128;

fn options(threads: usize) -> SessionOptions {
    SessionOptions {
        threads,
        kv: KvChoice::F32,
        ..Default::default()
    }
}

/// FP32 and its 4-bit copy.
fn pair(threads: usize) -> [Session; 2] {
    [Dtype::F32, Dtype::Q4_0].map(|dtype| session_with(dtype, &options(threads)))
}

fn text_ids(session: &Session) -> Vec<u32> {
    let tokenizer = Tokenizer::from_gguf(session.model().file()).expect("tokenizer");
    let text = std::fs::read_to_string(crate::common::asset("eval-en.txt")).expect("text");
    encode(&tokenizer, &text[..6000])
}

fn method(max_windows: usize) -> Method {
    Method {
        window: WINDOW,
        count_from: 50,
        max_windows: Some(max_windows),
        ..Method::default()
    }
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let max = row.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = row.iter().map(|x| f64::from(x - max).exp()).sum();
    row.iter().map(|x| f64::from(x - max) - sum.ln()).collect()
}

/// Per model and counted token the log-probabilities of the whole vocabulary, and the targets.
fn plain(sessions: &mut [Session], ids: &[u32], m: &Method) -> (Vec<Vec<Vec<f64>>>, Vec<usize>) {
    let mut rows = vec![Vec::new(); sessions.len()];
    let mut targets = Vec::new();
    let step = m.stride.unwrap_or(m.window);
    for w in 0..m.windows(ids.len()) {
        let mut window = ids[w * step..w * step + m.window].to_vec();
        window[0] = m.bos.unwrap_or(window[0]);
        targets.extend(window[m.count_from..].iter().map(|t| *t as usize));
        for (session, rows) in sessions.iter_mut().zip(&mut rows) {
            session.reset();
            let logits = session.forward(&window, Want::All).expect("forward");
            let each = logits
                .chunks_exact(logits.len() / m.window)
                .map(log_softmax);
            rows.extend(each.skip(m.count_from - 1).take(m.counted()));
        }
    }
    (rows, targets)
}

fn top5(row: &[f64]) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..row.len()).collect();
    ids.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
    ids.truncate(5);
    ids
}

fn near(got: f64, want: f64, what: &str) {
    let bound = 1e-5 * want.abs() + 1e-8;
    assert!((got - want).abs() < bound, "{what}: {got} {want}");
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

/// Standard error of the mean of windows of `per` values.
fn error(x: &[f64], per: usize) -> f64 {
    let w: Vec<f64> = x.chunks(per).map(mean).collect();
    let squares: f64 = w.iter().map(|v| (v - mean(&w)).powi(2)).sum();
    (squares / (w.len() as f64 - 1.0) / w.len() as f64).sqrt()
}

fn check(got: &Estimate, x: &[f64], per: usize, what: &str) {
    near(got.value, mean(x), what);
    near(got.error.expect("two windows"), error(x, per), what);
}

#[test]
fn all_numbers_agree_with_their_definitions() {
    let mut sessions = pair(2);
    let ids = text_ids(&sessions[0]);
    let strided = Method {
        bos: Some(1),
        stride: Some(40),
        ..method(4)
    };
    for m in [method(3), strided] {
        let mut calls = Vec::new();
        let mut progress = |done, total| {
            calls.push((done, total));
            true
        };
        let reports = evaluate(&mut sessions, &ids, &m, &mut progress).expect("evaluates");
        let windows = m.windows(ids.len());
        assert_eq!(
            calls,
            (1..=windows).map(|d| (d, windows)).collect::<Vec<_>>()
        );
        let (rows, targets) = plain(&mut sessions, &ids, &m);
        let nll = [0, 1].map(|i: usize| {
            let each = rows[i].iter().zip(&targets).map(|(row, t)| -row[*t]);
            each.collect::<Vec<f64>>()
        });
        for (report, nll) in reports.iter().zip(&nll) {
            assert_eq!(report.tokens, targets.len());
            check(&report.nll, nll, m.counted(), "nll");
            near(report.perplexity.value, mean(nll).exp(), "perplexity");
        }
        assert!(reports[0].against_base.is_none());
        let d = reports[1].against_base.as_ref().expect("a candidate");
        check_rows(d, &rows, &m);
        check_probabilities(d, &nll, m.counted());
    }
}

/// What compares whole distributions.
fn check_rows(d: &Divergence, rows: &[Vec<Vec<f64>>], m: &Method) {
    let per = m.counted();
    let pairs = || rows[0].iter().zip(&rows[1]);
    let kl = |(p, q): (&Vec<f64>, &Vec<f64>)| -> f64 {
        p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum()
    };
    let kl: Vec<f64> = pairs().map(kl).collect();
    check(&d.kl.mean, &kl, per, "KL");
    let mut sorted: Vec<f32> = kl.iter().map(|v| *v as f32).collect();
    sorted.sort_by(f32::total_cmp);
    near(d.kl.median.value, quantile(&sorted, 0.5), "median KL");
    near(d.kl.q99.value, quantile(&sorted, 0.99), "99 % of KL");
    near(d.kl.max, quantile(&sorted, 1.0), "largest KL");
    near(mean(&d.kl_by_window), mean(&kl), "KL by window");
    let bins = d.kl_by_position.iter();
    let bins: f64 = bins
        .map(|b| b.kl.value * (b.last - b.first + 1) as f64)
        .sum();
    near(bins / per as f64, mean(&kl), "KL by position");
    let (first, last) = (&d.kl_by_position[0], d.kl_by_position.last().expect("bins"));
    assert_eq!((first.first, last.last), (m.count_from, m.window - 1));

    let tops = || pairs().map(|(p, q)| (top5(p), top5(q)));
    let same = tops().map(|(p, q)| f64::from(u8::from(p[0] == q[0])));
    check(&d.top1, &same.collect::<Vec<_>>(), per, "top-1");
    let five = tops().map(|(p, q)| p.iter().filter(|t| q.contains(t)).count() as f64 / 5.0);
    check(&d.top5, &five.collect::<Vec<_>>(), per, "top-5");
}

/// What compares the probabilities of the text's own tokens.
fn check_probabilities(d: &Divergence, nll: &[Vec<f64>; 2], per: usize) {
    let pairs = || nll[1].iter().zip(&nll[0]);
    let delta: Vec<f64> = pairs().map(|(c, b)| (-c).exp() - (-b).exp()).collect();
    let squares: Vec<f64> = delta.iter().map(|d| d * d).collect();
    assert!((d.delta_p.mean.value - mean(&delta)).abs() < 1e-7);
    near(d.delta_p.rms.value, mean(&squares).sqrt(), "rms of delta p");
    let paired: Vec<f64> = pairs().map(|(c, b)| c - b).collect();
    let ratio = mean(&paired).exp();
    near(d.perplexity_ratio.value, ratio, "ratio");
    let (said, want) = (
        d.perplexity_ratio.error.expect("error"),
        ratio * error(&paired, per),
    );
    assert!(
        (said - want).abs() < 1e-4 * want,
        "error of the ratio: {said} {want}"
    );
    let difference = mean(&nll[1]).exp() - mean(&nll[0]).exp();
    assert!((d.perplexity_difference.value - difference).abs() < 1e-4);
}

#[test]
fn threads_do_not_change_a_bit() {
    let report = |threads| {
        let mut sessions = pair(threads);
        let ids = text_ids(&sessions[0]);
        let reports = evaluate(&mut sessions, &ids, &method(2), &mut |_, _| true);
        serde_json::to_string(&reports.expect("evaluates")).expect("JSON")
    };
    let one = report(1);
    assert_eq!(one, report(2));
    assert_eq!(one, report(3));
}

#[test]
fn a_run_stopped_at_any_point_ends_with_the_same_numbers() {
    let flag = Arc::new(AtomicBool::new(false));
    let stoppable = SessionOptions {
        cancel: Some(flag.clone()),
        ..options(2)
    };
    let mut sessions = [Dtype::F32, Dtype::Q4_0].map(|d| session_with(d, &stoppable));
    let ids = text_ids(&sessions[0]);
    let m = method(4);
    let want = evaluate(&mut sessions, &ids, &m, &mut |_, _| true).expect("evaluates");

    let mut run = TextRun::new(&sessions, &ids, &m).expect("starts");
    let mut rounds = 0;
    loop {
        // Interrupted inside of a window, nothing of it is kept.
        flag.store(true, Ordering::SeqCst);
        let before = run.clone();
        if run.windows().0 < run.windows().1 {
            let stopped = run.advance(&mut sessions, &ids);
            assert!(matches!(stopped, Err(geb::Error::Interrupted)));
        }
        assert_eq!(run, before);
        flag.store(false, Ordering::SeqCst);
        let stored = serde_json::to_string(&run).expect("JSON");
        run = serde_json::from_str(&stored).expect("own JSON");
        run.check(&sessions, &ids, &m).expect("the same run");
        if !run.advance(&mut sessions, &ids).expect("a window") {
            break;
        }
        rounds += 1;
    }
    assert_eq!((rounds, run.windows()), (4, (4, 4)));
    let show = |r| serde_json::to_string(r).expect("JSON");
    assert_eq!(show(&run.reports()), show(&want));

    let stopped = evaluate(&mut sessions, &ids, &m, &mut |_, _| false);
    assert!(matches!(stopped, Err(geb::Error::Interrupted)));
}

#[test]
fn a_stored_run_of_something_else_is_refused() {
    let mut sessions = pair(2);
    let ids = text_ids(&sessions[0]);
    let m = method(2);
    let mut run = TextRun::new(&sessions, &ids, &m).expect("starts");
    assert!(run.advance(&mut sessions, &ids).expect("a window"));
    run.check(&sessions, &ids, &m).expect("the same");
    let refused = |what: &str, result: geb::Result<()>| {
        let text = result.expect_err(what).to_string();
        assert!(text.contains(what), "{what}: {text}");
    };
    refused("text", run.check(&sessions, &ids[1..], &m));
    refused("method", run.check(&sessions, &ids, &method(3)));
    refused("models", run.check(&sessions[..1], &ids, &m));
    // A line is missing.
    let mut json = serde_json::to_value(&run).expect("JSON");
    let kl = json["columns"][1]["kl"].as_str().expect("digits")[8..].to_owned();
    json["columns"][1]["kl"] = kl.into();
    let cut: TextRun = serde_json::from_value(json).expect("well-formed");
    refused("windows", cut.check(&sessions, &ids, &m));
}

#[test]
fn other_vocabularies_are_refused_by_name() {
    let base = session_with(Dtype::F32, &options(1));
    let ids = text_ids(&base);
    // The same file with one letter of one token changed: sizes are equal, meanings are not.
    let mut bytes = std::fs::read(nano(Dtype::Q4_0)).expect("own file");
    let find = |bytes: &[u8], what: &[u8], from: usize| {
        let at = bytes[from..].windows(what.len()).position(|w| w == what);
        from + at.expect("present")
    };
    let tokens = find(&bytes, b"tokenizer.ggml.tokens", 0);
    let the = find(&bytes, "▁the".as_bytes(), tokens);
    bytes[the + "▁th".len()] = b'Q';
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("evaluate-foreign.gguf");
    std::fs::write(&path, &bytes).expect("temporary file");
    let file = GgufFile::open(&path, Load::Copy).expect("a valid file");
    let model = Model::load(Arc::new(file)).expect("a valid model");
    let foreign = Session::new(model, &options(1)).expect("session");
    let error = TextRun::new(&[base, foreign], &ids, &method(1)).expect_err("refused");
    let text = error.to_string();
    assert_eq!(text.matches("sha256").count(), 2, "{text}");
    assert!(
        text.starts_with("vocabulary is ") && text.contains("that of the base: "),
        "{text}"
    );
}

#[test]
fn impossible_requests_are_refused() {
    let sessions = [session_with(Dtype::F32, &options(1))];
    let ids = text_ids(&sessions[0]);
    let vocab = sessions[0].model().config().vocab as u32;
    let refused = |ids: &[u32], m: &Method| TextRun::new(&sessions, ids, m).is_err();
    assert!(!refused(&ids, &method(1)));
    assert!(refused(&ids[..WINDOW - 1], &method(1)));
    assert!(refused(&[vocab; WINDOW], &method(1)));
    assert!(refused(
        &ids,
        &Method {
            bos: Some(vocab),
            ..method(1)
        }
    ));
    assert!(refused(
        &vec![1; 8192],
        &Method {
            window: 4096,
            ..method(1)
        }
    ));
    assert!(TextRun::new(&[], &ids, &method(1)).is_err());
}

/// Rows asked for after a pass are those of a pass that returns all.
#[test]
fn rows_of_the_last_batch_come_later() {
    let mut session = session_with(Dtype::Q4_0, &options(2));
    let ids = text_ids(&session);
    let vocab = session.model().config().vocab;
    assert!(session.head(0..1).is_err());
    let want = session
        .forward(&ids[..100], Want::All)
        .expect("forward")
        .to_vec();
    session.reset();
    assert!(session.head(0..1).is_err());
    session.forward(&ids[..60], Want::None).expect("forward");
    session.forward(&ids[60..100], Want::None).expect("forward");
    for rows in [0..40, 3..4, 30..40, 7..7] {
        let got = session.head(rows.clone()).expect("rows");
        assert_eq!(
            got,
            &want[(60 + rows.start) * vocab..(60 + rows.end) * vocab]
        );
    }
    assert!(session.head(0..41).is_err());
    // The next pass is not disturbed.
    let next = session
        .forward(&ids[100..101], Want::Last)
        .expect("forward")
        .to_vec();
    session.reset();
    let again = session.forward(&ids[..101], Want::Last).expect("forward");
    assert_eq!(next, again);
}

#[test]
fn scores_are_log_probabilities_even_beyond_the_context() {
    for ctx in [512, 64] {
        let more = SessionOptions {
            ctx: Some(ctx),
            ..options(2)
        };
        let mut session = session_with(Dtype::F32, &more);
        let ids = text_ids(&session)[..200].to_vec();
        let mut scores = Vec::new();
        let mut stream = Scores::new(&mut session, &ids, 3);
        loop {
            let some = stream.advance().expect("scores");
            if some.is_empty() {
                break;
            }
            scores.extend(some);
        }
        let positions: Vec<usize> = scores.iter().map(|s| s.position).collect();
        assert_eq!(positions, (1..200).collect::<Vec<_>>());
        for s in &scores {
            // The window of a token: from the start, or moved on by half a context at a time.
            let start = s.position.saturating_sub(ctx).div_ceil(ctx / 2) * (ctx / 2);
            session.reset();
            let row = session
                .forward(&ids[start..s.position], Want::Last)
                .expect("forward");
            let row = log_softmax(row);
            let own = row[s.id as usize];
            assert!(
                (s.logprob - own).abs() < 1e-5,
                "{}: {} {own}",
                s.position,
                s.logprob
            );
            assert_eq!(s.rank, 1 + row.iter().filter(|v| **v > own).count());
            let top: Vec<u32> = s.top.iter().map(|(id, _)| *id).collect();
            let want: Vec<u32> = top5(&row)[..3].iter().map(|t| *t as u32).collect();
            assert_eq!(top, want);
            assert!(
                s.top
                    .iter()
                    .all(|(id, l)| (l - row[*id as usize]).abs() < 1e-5)
            );
        }
    }
}
