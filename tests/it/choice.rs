//! Multiple choice on data sets of a few lines in every layout, with geb-nano: what is asked, what
//! likelihoods come out, and what is said about files that are no such data set.

use std::path::Path;

use crate::common::nano::session_with;
use geb::session::{Session, SessionOptions, Want};
use geb::tokenizer::{Encode, Tokenizer};
use geb::{Dtype, Error};
use geb_eval::choice::run::{Record, Solver, run};
use geb_eval::choice::score::{Paired, Summary};
use geb_eval::choice::{Bank, Format, Metric, Selection};

const MMLU_TEST: &str = "\
Who built the ark?,Noah,Moses,David,Saul,A
\"  Which king, of Israel, slew \"\"Goliath\"\"?\",Saul,David,Ahab,Omri,B
Who led the people out of Egypt?,Aaron,Caleb,Moses,Joshua,C
";
const MMLU_DEV: &str = "\
Who was the first man?,Adam,Abel,Seth,Enoch,A
Who built the ark?,Noah,Moses,David,Saul,A
Who sold his birthright?,Jacob,Esau,Laban,Lot,B
Who was sold into Egypt?,Levi,Judah,Dan,Joseph,D
";
const CEVAL: &str = "id,question,A,B,C,D,answer\r\n0,人用几条腿走路？,一,二,三,四,B\r\n1,神创造了什么？,天地,舟,城,塔,A\r\n";
const CEVAL_DEV: &str =
    "id,question,A,B,C,D,answer,explanation\n0,谁造方舟？,挪亚,摩西,大卫,扫罗,A,因为\n";
const CMMLU: &str = ",Question,A,B,C,D,Answer\n0,神称光为什么？,夜,昼,水,地,B\n";
const CMMLU_DEV: &str = "\u{feff},Question,A,B,C,D,Answer\n0,神称暗为什么？,夜,昼,水,地,A\n";
const HELLASWAG: &str = r#"{"ind": 4, "activity_label": "Fishing", "ctx_a": "A man sits in a boat [title] on the lake.", "ctx_b": "the Man", "ctx": "", "endings": ["casts the net into the water.", "[step] is  a house.", "and said unto him, Go.", "fish"], "label": 0}
{"activity_label": "Prayer", "ctx_a": "They went up to the house of the Lord.", "ctx_b": "", "endings": ["to pray.", "the sea of glass and fire", "x", "a b c d e f"], "label": "2"}
"#;
const ARC_EASY: &str = r#"{"id": "e1", "question": {"stem": "What gives light by day?", "choices": [{"text": "the sun", "label": "A"}, {"text": "a stone", "label": "B"}, {"text": "the sea", "label": "C"}]}, "answerKey": "A"}
"#;
const ARC_HARD: &str = r#"{"id": "c1", "question": "What is made of water?", "choices": {"text": ["rain", "iron", "gold", "bread", "wood"], "label": ["1", "2", "3", "4", "5"]}, "answerKey": "1"}
"#;
const WINOGRANDE: &str = r#"{"qID": "1", "sentence": "David slew Goliath because _ was strong.", "option1": "David", "option2": "Goliath", "answer": "1"}
"#;
const OWN: &str = r#"{"question": "Who was king?", "choices": ["Saul", "Eve"], "answer": "A"}

{"context": "In the beginning God created ", "endings": ["the heaven and the earth.", "a small stone."], "answer": 0}
"#;

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        write(dir.path(), name, text.as_bytes());
    }
    dir
}

fn write(dir: &Path, name: &str, bytes: &[u8]) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
    std::fs::write(path, bytes).expect("a file");
}

/// The data set of each format.
fn data(format: Format) -> tempfile::TempDir {
    folder(match format {
        Format::Mmlu => &[
            ("test/bible_history_test.csv", MMLU_TEST),
            ("dev/bible_history_dev.csv", MMLU_DEV),
            (
                "test/law_test.csv",
                "What is a law?,a rule,a tree,a fish,a sea,A\n",
            ),
            (
                "dev/law_dev.csv",
                "What is sin?,a tree,evil,a fish,a sea,B\n",
            ),
        ],
        Format::Ceval => &[("val/law_val.csv", CEVAL), ("dev/law_dev.csv", CEVAL_DEV)],
        Format::Cmmlu => &[
            ("test/agronomy.csv", CMMLU),
            ("dev/agronomy.csv", CMMLU_DEV),
        ],
        Format::Hellaswag => &[
            ("hellaswag_val.jsonl", HELLASWAG),
            ("hellaswag_train.jsonl", HELLASWAG),
        ],
        Format::Arc => &[
            ("ARC-Easy/ARC-Easy-Test.jsonl", ARC_EASY),
            ("ARC-Challenge/ARC-Challenge-Test.jsonl", ARC_HARD),
        ],
        Format::Winogrande => &[("dev.jsonl", WINOGRANDE), ("train_xl.jsonl", WINOGRANDE)],
        Format::Jsonl => &[("own.jsonl", OWN)],
    })
}

fn read(format: Format, dir: &Path, selection: &Selection) -> Bank {
    Bank::read(format, dir, selection).expect("a data set")
}

fn shots(n: usize) -> Selection {
    Selection {
        shots: Some(n),
        ..Selection::default()
    }
}

/// Context and continuations of a question.
fn texts(bank: &Bank, subject: usize, question: usize) -> (String, Vec<String>) {
    let candidates = &bank.subjects[subject].questions[question].candidates;
    let continuations = candidates.iter().map(|c| c.continuation.clone());
    (candidates[0].context.to_string(), continuations.collect())
}

#[test]
fn letters_are_asked_for_as_the_data_sets_do() {
    let all = Selection::default();
    let mmlu = read(Format::Mmlu, data(Format::Mmlu).path(), &all);
    assert_eq!((mmlu.len(), mmlu.shots), (4, 5));
    let first = &mmlu.subjects[0];
    assert_eq!(first.name, "bible_history");
    assert_eq!(
        first.header,
        "The following are multiple choice questions (with answers) about bible history.\n\n"
    );
    let (context, letters) = texts(&mmlu, 0, 1);
    assert_eq!(
        context,
        "Which king, of Israel, slew \"Goliath\"?\nA. Saul\nB. David\nC. Ahab\nD. Omri\nAnswer:"
    );
    assert_eq!(letters, [" A", " B", " C", " D"]);
    let answers: Vec<usize> = first.questions.iter().map(|q| q.answer).collect();
    assert_eq!(answers, [0, 1, 2]);

    let ceval = read(Format::Ceval, data(Format::Ceval).path(), &all);
    assert_eq!(
        ceval.subjects[0].header,
        "以下是中国关于法学考试的单项选择题，请选出其中的正确答案。\n\n"
    );
    let (context, letters) = texts(&ceval, 0, 0);
    assert_eq!(
        context,
        "人用几条腿走路？\nA. 一\nB. 二\nC. 三\nD. 四\n答案："
    );
    assert_eq!(letters, ["A", "B", "C", "D"]);

    let cmmlu = read(Format::Cmmlu, data(Format::Cmmlu).path(), &all);
    assert_eq!(
        cmmlu.subjects[0].header,
        "以下是关于农学的单项选择题，请直接给出正确答案的选项。\n\n"
    );
    let (context, letters) = texts(&cmmlu, 0, 0);
    assert_eq!(
        context,
        "题目：神称光为什么？\nA. 夜\nB. 昼\nC. 水\nD. 地\n答案是："
    );
    assert_eq!(letters, ["A", "B", "C", "D"]);
    assert_eq!(cmmlu.subjects[0].examples[0].answer, 0);
}

#[test]
fn endings_are_asked_for_as_the_data_sets_do() {
    let all = Selection::default();
    let hellaswag = read(Format::Hellaswag, data(Format::Hellaswag).path(), &all);
    let (context, endings) = texts(&hellaswag, 0, 0);
    assert_eq!(
        context,
        "Fishing: A man sits in a boat. on the lake. The man"
    );
    assert_eq!(endings[0], " casts the net into the water.");
    assert_eq!(endings[1], "  is a house.");
    assert_eq!(hellaswag.subjects[0].questions[1].answer, 2);

    let arc = read(Format::Arc, data(Format::Arc).path(), &all);
    assert_eq!(arc.subjects[0].name, "ARC-Challenge");
    let (context, endings) = texts(&arc, 0, 0);
    assert_eq!(context, "Question: What is made of water?\nAnswer:");
    assert_eq!(endings, [" rain", " iron", " gold", " bread", " wood"]);
    let (context, endings) = texts(&arc, 1, 0);
    assert_eq!(context, "Question: What gives light by day?\nAnswer:");
    assert_eq!(endings, [" the sun", " a stone", " the sea"]);
    assert_eq!(arc.subjects[1].questions[0].candidates[1].length, 7);

    let winogrande = read(Format::Winogrande, data(Format::Winogrande).path(), &all);
    let candidates = &winogrande.subjects[0].questions[0].candidates;
    assert_eq!(
        &*candidates[1].context,
        "David slew Goliath because Goliath"
    );
    assert_eq!(candidates[1].continuation, " was strong.");

    let own = read(Format::Jsonl, data(Format::Jsonl).path(), &all);
    let (context, letters) = texts(&own, 0, 0);
    assert_eq!(context, "Who was king?\nA. Saul\nB. Eve\nAnswer:");
    assert_eq!(letters, [" A", " B"]);
    let (context, endings) = texts(&own, 0, 1);
    assert_eq!(context, "In the beginning God created");
    assert_eq!(endings[1], " a small stone.");
}

#[test]
fn a_selection_takes_subjects_and_questions() {
    let dir = data(Format::Mmlu);
    let selection = Selection {
        subjects: Some("*_history".into()),
        limit: Some(2),
        shots: Some(0),
    };
    let bank = read(Format::Mmlu, dir.path(), &selection);
    assert_eq!((bank.subjects.len(), bank.len()), (1, 2));
    assert!(bank.subjects[0].examples.is_empty());
    let arc = data(Format::Arc);
    let inside = read(Format::Arc, &arc.path().join("ARC-Easy"), &shots(0));
    assert_eq!(inside.subjects[0].name, "ARC-Easy");
}

fn session(dtype: Dtype, ctx: usize) -> (Session, Tokenizer) {
    let options = SessionOptions {
        threads: 2,
        ctx: Some(ctx),
        ..Default::default()
    };
    let session = session_with(dtype, &options);
    let tokenizer = Tokenizer::from_gguf(session.model().file()).expect("tokenizer");
    (session, tokenizer)
}

fn answers(models: &mut [(Session, Tokenizer)], bank: &Bank, done: usize) -> Vec<Record> {
    let mut solvers: Vec<Solver<'_>> = models
        .iter_mut()
        .map(|(session, tokenizer)| Solver { session, tokenizer })
        .collect();
    let mut records = Vec::new();
    let mut keep = |record| {
        records.push(record);
        true
    };
    run(&mut solvers, bank, done, &mut keep).expect("answers");
    records
}

/// Log-likelihood of `continuation`, everything evaluated anew and in one batch.
fn plainly(session: &mut Session, tokenizer: &Tokenizer, context: &str, continuation: &str) -> f64 {
    let encode = |text: &str| tokenizer.encode(text, Encode::default()).expect("encodes");
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let mut ids: Vec<u32> = bos.into_iter().collect();
    let start = ids.len() + encode(context).len();
    ids.extend(encode(&format!("{context}{continuation}")));
    session.reset();
    let logits = session.forward(&ids, Want::All).expect("forward");
    let vocab = logits.len() / ids.len();
    let log_prob = |i: usize| {
        let row = logits[(i - 1) * vocab..i * vocab]
            .iter()
            .map(|x| f64::from(*x));
        let sum: f64 = row.clone().map(f64::exp).sum();
        row.clone().nth(ids[i] as usize).expect("a token") - sum.ln()
    };
    (start..ids.len()).map(log_prob).sum()
}

/// What the definition says: header, examples (never the question itself), context, continuation.
fn check_against_the_definition(format: Format, n: usize) {
    let bank = read(format, data(format).path(), &shots(n));
    let mut models = [session(Dtype::F32, 512)];
    let records = answers(&mut models, &bank, 0);
    assert_eq!(records.len(), bank.len());
    let (session, tokenizer) = &mut models[0];
    let mut records = records.iter();
    for subject in &bank.subjects {
        for question in &subject.questions {
            let record = records.next().expect("a record");
            assert_eq!(
                (&record.subject, record.answer),
                (&subject.name, question.answer)
            );
            let others = subject.examples.iter();
            let others =
                others.filter(|e| e.candidates[0].context != question.candidates[0].context);
            let examples: Vec<String> = others
                .take(n)
                .map(|e| (&e.candidates[e.answer], e))
                .map(|(right, _)| format!("{}{}\n\n", right.context, right.continuation))
                .collect();
            assert_eq!(record.shots, examples.len());
            let before = subject.header.clone() + &examples.concat();
            let want: Vec<f64> = question
                .candidates
                .iter()
                .map(|c| {
                    let context = format!("{before}{}", c.context);
                    plainly(session, tokenizer, &context, &c.continuation)
                })
                .collect();
            let got = &record.verdicts[0];
            for (got, want) in got.log_probs.iter().zip(&want) {
                assert!((got - want).abs() < 1e-5, "{format:?}: {got} {want}");
            }
            let best = |scores: Vec<f64>| {
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                scores.iter().position(|s| *s == top)
            };
            assert_eq!(best(want.clone()), Some(got.chosen), "{format:?}");
            let lengths = question.candidates.iter().map(|c| c.length as f64);
            let by_length = want.iter().zip(lengths).map(|(l, n)| l / n).collect();
            assert_eq!(best(by_length), Some(got.chosen_norm), "{format:?}");
        }
    }
}

#[test]
fn likelihoods_are_those_of_the_definition() {
    for format in Format::ALL {
        check_against_the_definition(format, 0);
    }
    for format in [
        Format::Mmlu,
        Format::Ceval,
        Format::Cmmlu,
        Format::Hellaswag,
    ] {
        check_against_the_definition(format, 2);
    }
}

#[test]
fn lengths_decide_where_they_should() {
    // "x" is the most probable ending and the shortest; by length another one wins.
    let bank = read(Format::Hellaswag, data(Format::Hellaswag).path(), &shots(0));
    let records = answers(&mut [session(Dtype::F32, 512)], &bank, 0);
    assert!(
        records
            .iter()
            .any(|r| r.verdicts[0].chosen != r.verdicts[0].chosen_norm)
    );
    let score = |metric| Summary::of(&records, 0, metric).total.correct;
    assert_ne!(score(Metric::Acc), score(Metric::AccNorm));
}

#[test]
fn in_lockstep_each_model_answers_as_alone() {
    let bank = read(Format::Mmlu, data(Format::Mmlu).path(), &shots(3));
    let mut both = [session(Dtype::F32, 512), session(Dtype::Q4_0, 512)];
    let records = answers(&mut both, &bank, 0);
    for (model, dtype) in [Dtype::F32, Dtype::Q4_0].into_iter().enumerate() {
        let alone = answers(&mut [session(dtype, 512)], &bank, 0);
        for (a, b) in alone.iter().zip(&records) {
            assert_eq!(a.verdicts[0], b.verdicts[model]);
        }
    }
    assert_ne!(
        records[0].verdicts[0].log_probs,
        records[0].verdicts[1].log_probs
    );
    let paired = Paired::of(&records, 0, 1, Metric::Acc);
    let summary = |model| Summary::of(&records, model, Metric::Acc);
    assert_eq!(
        (paired.first, paired.second),
        (summary(0).total, summary(1).total)
    );
    assert_eq!(
        paired.first.correct + paired.won,
        paired.second.correct + paired.lost
    );
    // What was answered already can be left out.
    assert_eq!(answers(&mut both, &bank, 3), records[3..]);
}

#[test]
fn examples_give_way_to_a_small_context() {
    let bank = read(Format::Mmlu, data(Format::Mmlu).path(), &shots(3));
    let subject = &bank.subjects[0];
    let whole = answers(&mut [session(Dtype::Q8_0, 512)], &bank, 0);
    assert!(
        whole
            .iter()
            .all(|r| !r.shortened && r.shots == if r.subject == "law" { 1 } else { 3 })
    );
    // Just enough for two examples and the first question.
    let (_, tokenizer) = session(Dtype::Q8_0, 512);
    let examples: Vec<_> = subject
        .examples
        .iter()
        .filter(|e| e.index != 1)
        .take(2)
        .collect();
    let mut text = subject.header.clone();
    for e in &examples {
        let right = &e.candidates[e.answer];
        text += &format!("{}{}\n\n", right.context, right.continuation);
    }
    text += &subject.questions[0].candidates[0].context;
    let bos = usize::from(tokenizer.add_bos());
    let tokens = bos
        + tokenizer
            .encode(&text, Encode::default())
            .expect("encodes")
            .len();
    let less = answers(&mut [session(Dtype::Q8_0, tokens)], &bank, 0);
    assert_eq!((less[0].shots, less[0].shortened), (2, true));
    let one_less = answers(&mut [session(Dtype::Q8_0, tokens - 1)], &bank, 0);
    assert_eq!((one_less[0].shots, one_less[0].shortened), (1, true));
    // The smaller context decides for both models.
    let mut both = [session(Dtype::Q8_0, 512), session(Dtype::Q8_0, tokens)];
    let pair = answers(&mut both, &bank, 0);
    assert_eq!(pair[0].shots, 2);
    assert_eq!(pair[0].verdicts[0], pair[0].verdicts[1]);
    // Nothing fits: said, not guessed.
    let none = answers(&mut [session(Dtype::Q8_0, 8)], &bank, 0);
    assert!(none.iter().all(|r| r.verdicts.is_empty()));
    let summary = Summary::of(&none, 0, Metric::Acc);
    assert_eq!((summary.skipped, summary.total.questions), (4, 0));
}

#[test]
fn it_stops_when_told() {
    let bank = read(Format::Mmlu, data(Format::Mmlu).path(), &shots(0));
    let (mut session, tokenizer) = session(Dtype::Q8_0, 512);
    let mut solver = [Solver {
        session: &mut session,
        tokenizer: &tokenizer,
    }];
    let mut seen = 0;
    let mut stop = |_| {
        seen += 1;
        seen < 2
    };
    let end = run(&mut solver, &bank, 0, &mut stop);
    assert!(matches!(end, Err(Error::Interrupted)));
    assert_eq!(seen, 2);
}

/// The message for a folder with these files, which is written DIR.
fn refused(format: Format, files: &[(&str, &[u8])], selection: &Selection) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, bytes) in files {
        write(dir.path(), name, bytes);
    }
    let error = Bank::read(format, dir.path(), selection).expect_err("no such data set");
    let place = dir.path().display().to_string();
    error.to_string().replace(&place, "DIR")
}

#[test]
fn folders_that_are_no_such_data_set_are_named() {
    let all = Selection::default();
    let layout = "test/SUBJECT_test.csv, examples in dev/SUBJECT_dev.csv";
    assert_eq!(
        refused(Format::Mmlu, &[], &all),
        format!("mmlu data DIR is an empty folder, allowed: {layout}")
    );
    assert_eq!(
        refused(Format::Mmlu, &[("data/test/law_test.csv", b"x")], &all),
        format!("mmlu data DIR is a folder without such files, allowed: {layout}")
    );
    assert_eq!(
        refused(Format::Arc, &[("ARC-Easy/test-0.parquet", b"PAR1")], &all),
        "arc data DIR is a folder of Parquet files, which are not read (export them), allowed: \
         ARC-Easy/ARC-Easy-Test.jsonl or ARC-Challenge/ARC-Challenge-Test.jsonl, examples in \
         *-Train.jsonl"
    );
    let missing = Bank::read(Format::Jsonl, Path::new("no/such/folder"), &all);
    assert_eq!(
        missing.expect_err("no folder").to_string(),
        "jsonl data no/such/folder is no folder, allowed: SUBJECT.jsonl, examples in \
         dev/SUBJECT.jsonl"
    );
    let one = [("test/law_test.csv", MMLU_TEST.as_bytes())];
    let pattern = Selection {
        subjects: Some("chem*".into()),
        ..shots(0)
    };
    assert_eq!(
        refused(Format::Mmlu, &one, &pattern),
        "pattern of subjects is chem*, allowed: one that fits some of law"
    );
    assert_eq!(
        refused(Format::Mmlu, &one, &all),
        format!(
            "number of examples for law is 5, allowed: 0, because there are none; expected: {layout}"
        )
    );
}

/// Files with a header, as others export them, mean what the authors' files without one mean.
#[test]
fn a_header_is_no_question() {
    let read = |text: &str| {
        let dir = tempfile::tempdir().expect("a folder");
        write(dir.path(), "test/law_test.csv", text.as_bytes());
        Bank::read(Format::Mmlu, dir.path(), &shots(0)).expect("a data set")
    };
    let plain = read("q one,a,b,c,d,B\n\"q, two\",e,f,g,h,D\n");
    assert_eq!(plain.subjects[0].questions.len(), 2);
    for text in [
        "question,A,B,C,D,answer\nq one,a,b,c,d,B\n\"q, two\",e,f,g,h,D\n",
        "\u{feff}Question,a,b,c,d,Answer\r\nq one,a,b,c,d,B\r\n\"q, two\",e,f,g,h,D\r\n",
        "\u{feff}\"question\",\"A\",\"B\",\"C\",\"D\",\"answer\"\nq one,a,b,c,d,B\n\"q, two\",e,f,g,h,D\n",
        "id,question,A,B,C,D,answer,explanation\n0,q one,a,b,c,d,B,\n1,\"q, two\",e,f,g,h,D,why\n",
        ",Question,A,B,C,D,Answer\n0,q one,a,b,c,d,B\n1,\"q, two\",e,f,g,h,D\n",
        "answer,question,A,B,C,D\nB,q one,a,b,c,d\nD,\"q, two\",e,f,g,h\n",
    ] {
        let bank = read(text);
        for question in 0..2 {
            assert_eq!(
                texts(&bank, 0, question),
                texts(&plain, 0, question),
                "{text}"
            );
            let answer = |b: &Bank| b.subjects[0].questions[question].answer;
            assert_eq!(answer(&bank), answer(&plain), "{text}");
        }
        assert_eq!(bank.subjects[0].questions.len(), 2);
    }
}

#[test]
fn bad_lines_are_named() {
    let csv = |text: &[u8]| refused(Format::Mmlu, &[("test/law_test.csv", text)], &shots(0));
    let mmlu = "bad data: DIR/test/law_test.csv: line";
    assert_eq!(
        csv(b""),
        format!("{mmlu} 1: number of questions is 0, allowed: at least 1")
    );
    assert_eq!(
        csv(b"q,a,b,c,d,A\nq,\"a\nb\",c,d,A\n"),
        format!("{mmlu} 2: row is 5 fields, allowed: 6: question, A, B, C, D, answer")
    );
    assert_eq!(
        csv(b"q,a,b,c,d,A\n\nq,a,b,c,d,E\n"),
        format!("{mmlu} 3: answer is E, allowed: A, B, C or D")
    );
    assert_eq!(
        csv(b"q,a,b,c,d,A\n\"q,a,b,c,d,E\n"),
        format!("{mmlu} 2: quoted field is without an end, allowed: a closing quotation mark")
    );
    assert_eq!(
        csv(b"q,a,b,c,d,A\nq,\xb4\xf0,b,c,d,B\n"),
        format!("{mmlu} 2: text is not UTF-8 (byte 0xb4 at offset 14), allowed: UTF-8")
    );
    let ceval = |text: &str| {
        refused(
            Format::Ceval,
            &[("val/law_val.csv", text.as_bytes())],
            &shots(0),
        )
    };
    assert_eq!(
        ceval("id,question,A,B,C,D\n0,q,a,b,c,d\n"),
        "bad data: DIR/val/law_val.csv: line 1: column answer is missing, allowed: a header with \
         question, A, B, C, D, answer"
    );
    assert_eq!(
        ceval("id,question,A,B,C,D,answer\n0,q,a,b,c,B\n"),
        "bad data: DIR/val/law_val.csv: line 2: row is 6 fields, allowed: 7, as in the header"
    );
}

#[test]
fn bad_objects_are_named() {
    let told = |format, name: &str, text: &str| {
        let all = refused(format, &[(name, text.as_bytes())], &shots(0));
        let start = format!("bad data: DIR/{name}: line ");
        all.strip_prefix(&start)
            .map(str::to_owned)
            .ok_or(all)
            .expect("file and line")
    };
    let hellaswag = |text: &str| told(Format::Hellaswag, "hellaswag_val.jsonl", text);
    let long = HELLASWAG.replace("\"label\": \"2\"", "\"label\": \"\"");
    assert_eq!(hellaswag(&long), "2: field label is , allowed: 0..4");
    let long = HELLASWAG.replace("\"label\": 0", "\"label\": 4");
    assert_eq!(hellaswag(&long), "1: field label is 4, allowed: 0..4");
    let unlabelled = HELLASWAG.replace(", \"label\": 0", "");
    assert_eq!(
        hellaswag(&unlabelled),
        "1: field label is missing, allowed: a text or an integer"
    );
    let listed = HELLASWAG.replace("\"endings\": [\"to pray.\"", "\"endings\": [7");
    assert_eq!(
        hellaswag(&listed),
        "2: field endings is a number, allowed: a list of texts"
    );
    assert_eq!(
        hellaswag("\n[1]\n"),
        "2: line is a list, allowed: a JSON object"
    );
    assert!(hellaswag("{").starts_with("1: line is no JSON (EOF"));
    let arc = |text: &str| told(Format::Arc, "ARC-Easy-Test.jsonl", text);
    assert_eq!(
        arc(&ARC_EASY.replace("Key\": \"A", "Key\": \"D")),
        "1: field answerKey is D, allowed: A, B, C"
    );
    assert_eq!(
        arc(&ARC_HARD.replace("\"1\", \"2\", ", "\"1\", ")),
        "1: field choices is 4 labels for 5 texts, allowed: as many labels as texts"
    );
    let winogrande = |text: &str| told(Format::Winogrande, "dev.jsonl", text);
    assert_eq!(
        winogrande(&WINOGRANDE.replace("_ was", "he was")),
        "1: field sentence is without _, allowed: a sentence with one _"
    );
    assert_eq!(
        winogrande(&WINOGRANDE.replace("answer\": \"1", "answer\": \"")),
        "1: field answer is , allowed: 1 or 2"
    );
    let own = |text: &str| told(Format::Jsonl, "own.jsonl", text);
    assert_eq!(
        own(&OWN.replace("\"A\"", "\"C\"")),
        "1: field answer is C, allowed: 0..2"
    );
    assert_eq!(
        own(&OWN.replace(", \"Eve\"", "")),
        "1: number of answers is 1, allowed: 2..=26"
    );
    assert_eq!(
        own(&OWN.replace("a small stone.", " ")),
        "3: answer 1 is empty, allowed: a text"
    );
    assert_eq!(
        own(r#"{"question": "q", "answer": 0}"#),
        "1: field choices is missing, allowed: a list of texts"
    );
}
