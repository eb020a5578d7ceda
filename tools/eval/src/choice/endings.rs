//! Questions answered by the likelihood of a text: HellaSwag, ARC, WinoGrande, and your own.

use std::path::Path;
use std::sync::Arc;

use super::files::{self, DataFile, Object};
use super::letters;
use super::question::{Candidate, Format, Question, Source};
use geb::error::Result;

/// Most answers of a question: one letter each.
const MAX_ANSWERS: usize = 26;

/// The subjects of a folder in a published layout.
pub(super) fn sources(format: Format, dir: &Path) -> Vec<Source> {
    let places = match format {
        Format::Hellaswag => vec![(
            "hellaswag",
            dir.to_owned(),
            "hellaswag_val.jsonl",
            "hellaswag_train.jsonl",
        )],
        Format::Winogrande => vec![("winogrande", dir.to_owned(), "dev.jsonl", "train_xl.jsonl")],
        _ => {
            let both = [
                (
                    "ARC-Challenge",
                    "ARC-Challenge-Test.jsonl",
                    "ARC-Challenge-Train.jsonl",
                ),
                ("ARC-Easy", "ARC-Easy-Test.jsonl", "ARC-Easy-Train.jsonl"),
            ];
            // The folder may be the one above or one of the two.
            let folders = |name| [dir.join(name), dir.to_owned()];
            let places =
                both.map(|(name, test, train)| folders(name).map(|d| (name, d, test, train)));
            places.into_iter().flatten().collect()
        }
    };
    let there = places.into_iter().filter_map(|(name, dir, test, train)| {
        let questions = dir.join(test);
        questions.is_file().then(|| Source {
            name: name.to_owned(),
            questions,
            examples: Some(dir.join(train)),
        })
    });
    there.collect()
}

/// The subjects of a folder of own files.
pub(super) fn own_sources(dir: &Path) -> Result<Vec<Source>> {
    let examples = dir.join("dev");
    Ok(files::ending_with(dir, ".jsonl")?
        .into_iter()
        .map(|(name, questions)| Source {
            examples: Some(examples.join(format!("{name}.jsonl"))),
            name,
            questions,
        })
        .collect())
}

/// The questions of a file.
pub(super) fn questions(format: Format, file: &DataFile) -> Result<Vec<Question>> {
    let read = match format {
        Format::Hellaswag => hellaswag,
        Format::Winogrande => winogrande,
        Format::Arc => arc,
        _ => own,
    };
    let ask = |(index, object): (usize, Object<'_>)| {
        let (candidates, answer) = read(&object)?;
        if !(2..=MAX_ANSWERS).contains(&candidates.len()) {
            let value = candidates.len().to_string();
            return Err(object.bad("number of answers", &value, &format!("2..={MAX_ANSWERS}")));
        }
        if let Some(i) = candidates
            .iter()
            .position(|c| c.continuation.trim().is_empty())
        {
            return Err(object.bad(&format!("answer {i}"), "empty", "a text"));
        }
        Ok(Question {
            index,
            candidates,
            answer,
        })
    };
    file.objects()?.into_iter().enumerate().map(ask).collect()
}

type Asked = Result<(Vec<Candidate>, usize)>;

/// Endings behind one context, after a space.
fn continued(context: String, endings: &[String]) -> Vec<Candidate> {
    let context: Arc<str> = context.into();
    let candidate = |ending: &String| Candidate {
        context: context.clone(),
        continuation: format!(" {ending}"),
        length: ending.chars().count(),
    };
    endings.iter().map(candidate).collect()
}

/// A number below `count`.
fn number(object: &Object<'_>, field: &str, count: usize) -> Result<usize> {
    let word = object.word(field)?;
    let number = word.parse().ok().filter(|n| *n < count);
    let allowed = || format!("0..{count}");
    number.ok_or_else(|| object.bad(&format!("field {field}"), &word, &allowed()))
}

/// `activity_label`, `ctx_a`, `ctx_b`, `endings`, `label`.
fn hellaswag(object: &Object<'_>) -> Asked {
    let (a, b) = (object.text("ctx_a")?, object.text("ctx_b")?);
    let text = format!("{}: {a} {}", object.text("activity_label")?, capitalised(b));
    let endings = object.texts("endings")?;
    let endings: Vec<String> = endings.iter().map(|e| without_brackets(e)).collect();
    let answer = number(object, "label", endings.len())?;
    Ok((continued(without_brackets(&text), &endings), answer))
}

/// The first letter large, the others small.
fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().into_iter().flat_map(char::to_uppercase);
    first.collect::<String>() + &chars.as_str().to_lowercase()
}

/// The texts from WikiHow have marks like ` [title]` and `[step]` in them; they are taken out as
/// evaluations of this data set usually do.
fn without_brackets(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(open) = rest.find('[') {
        let close = rest[open..].find(']').map(|n| open + n);
        match close.filter(|c| !rest[open..*c].contains('\n')) {
            Some(close) => {
                out.push_str(&rest[..open]);
                rest = &rest[close + 1..];
            }
            None => {
                out.push_str(&rest[..=open]);
                rest = &rest[open + 1..];
            }
        }
    }
    (out + rest).replace("  ", " ")
}

/// `question` (a text, or `stem` and `choices`), `choices` (`text` and `label`), `answerKey`.
fn arc(object: &Object<'_>) -> Asked {
    let published = object.get("question/stem").is_some();
    let (stem, texts, labels) = if published {
        let list = |name| object.texts_of("question/choices", name);
        (object.text("question/stem")?, list("text")?, list("label")?)
    } else {
        let list = |name| object.texts(name);
        (
            object.text("question")?,
            list("choices/text")?,
            list("choices/label")?,
        )
    };
    if texts.len() != labels.len() {
        let value = format!("{} labels for {} texts", labels.len(), texts.len());
        return Err(object.bad("field choices", &value, "as many labels as texts"));
    }
    let key = object.word("answerKey")?;
    let answer = labels.iter().position(|l| *l == key);
    let answer = answer.ok_or_else(|| object.bad("field answerKey", &key, &labels.join(", ")))?;
    Ok((
        continued(format!("Question: {stem}\nAnswer:"), &texts),
        answer,
    ))
}

/// `sentence` with one `_`, `option1`, `option2`, `answer` (1 or 2).
fn winogrande(object: &Object<'_>) -> Asked {
    let sentence = object.text("sentence")?;
    let Some((before, after)) = sentence.split_once('_') else {
        return Err(object.bad("field sentence", "without _", "a sentence with one _"));
    };
    let (word, after) = (object.word("answer")?, after.trim());
    let answer = ["1", "2"].iter().position(|n| *n == word);
    let answer = answer.ok_or_else(|| object.bad("field answer", &word, "1 or 2"))?;
    let candidate = |option: &str| Candidate {
        context: format!("{before}{option}").into(),
        continuation: format!(" {after}"),
        length: after.chars().count(),
    };
    let options = [object.text("option1")?, object.text("option2")?];
    Ok((options.map(candidate).into(), answer))
}

/// `question` and `choices`, answered by letter, or `context` and `endings`, by likelihood;
/// `answer` is the number of the right one from 0, or its letter.
fn own(object: &Object<'_>) -> Asked {
    let (candidates, count) = if object.get("context").is_some() {
        let endings = object.texts("endings")?;
        let context = object.text("context")?.trim_end().to_owned();
        (continued(context, &endings), endings.len())
    } else {
        let choices = object.texts("choices")?;
        let question = object.text("question")?;
        let candidates = letters::candidates(&letters::ENGLISH, question, &choices);
        (candidates, choices.len())
    };
    let word = object.word("answer")?;
    let letter = ('A'..='Z').position(|l| word == l.to_string());
    let answer = match letter.filter(|n| *n < count) {
        Some(n) => n,
        None => number(object, "answer", count)?,
    };
    Ok((candidates, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_wikihow_are_taken_out() {
        for (text, want) in [
            (" A man is on a roof. ", "A man is on a roof."),
            (
                "How to sew [header] Start [title] Cut it. [step] Then",
                "How to sew Start. Cut it. Then",
            ),
            (" [substeps] a [b", " a [b"),
            ("[a\nb] [c] d", "[a\nb] d"),
        ] {
            assert_eq!(without_brackets(text), want);
        }
        assert_eq!(capitalised("he Is A man"), "He is a man");
        assert_eq!(capitalised(""), "");
    }
}
