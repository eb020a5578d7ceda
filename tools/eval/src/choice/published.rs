//! Figures that papers print for models, to stand beside measured ones.

use super::Format;

/// Accuracy in per cent as printed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Published {
    /// The model the figure was printed for.
    pub model: &'static str,
    /// Per cent.
    pub accuracy: f64,
    /// Where.
    pub source: &'static str,
}

/// Model, MMLU, C-Eval, CMMLU. From the comparison of small Chinese and English models in the
/// GEB-1.3B paper (arXiv 2406.09900).
const TABLE: [(&str, [Option<f64>; 3]); 9] = [
    ("Baichuan-7B", [Some(42.30), Some(42.80), Some(44.02)]),
    ("ChatGLM-6B", [Some(40.63), Some(38.90), None]),
    ("GEB-1.3B", [Some(31.20), Some(33.30), Some(32.20)]),
    ("Llama-7B", [Some(35.10), Some(27.10), Some(26.75)]),
    ("Falcon-7B", [Some(28.00), None, None]),
    ("MPT-7B", [Some(27.93), Some(27.15), Some(26.00)]),
    ("MindLLM-1.3B", [Some(26.20), Some(26.10), Some(25.33)]),
    ("MindLLM-3B", [Some(26.20), Some(25.70), Some(25.00)]),
    ("TinyLlama-1.1B", [Some(25.34), Some(25.02), Some(24.03)]),
];

/// The figure for the model of this `general.name`, compared without regard to case and
/// punctuation; whatever follows the model's name (`-chat`, a date) may differ.
pub fn published(format: Format, general_name: &str) -> Option<Published> {
    let column = match format {
        Format::Mmlu => 0,
        Format::Ceval => 1,
        Format::Cmmlu => 2,
        _ => return None,
    };
    let name = plain(general_name);
    let is_it = |model: &str| {
        let rest = name.strip_prefix(&plain(model));
        rest.is_some_and(|r| !r.starts_with(|c: char| c.is_ascii_digit()))
    };
    let (model, figures) = TABLE.iter().find(|(model, _)| is_it(model))?;
    Some(Published {
        model,
        accuracy: figures[column]?,
        source: "arXiv 2406.09900",
    })
}

fn plain(name: &str) -> String {
    let kept = name.chars().filter(|c| c.is_ascii_alphanumeric());
    kept.map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_their_usual_spellings() {
        for (name, format, want) in [
            ("GEB-1.3B", Format::Mmlu, Some(31.20)),
            ("geb_1.3b chat", Format::Ceval, Some(33.30)),
            ("TinyLlama 1.1B Chat v1.0", Format::Cmmlu, Some(24.03)),
            ("Falcon 7B", Format::Ceval, None),
            ("Llama-2-7B", Format::Mmlu, None),
            ("geb-nano", Format::Mmlu, None),
            ("GEB-1.3B", Format::Arc, None),
        ] {
            let found = published(format, name).map(|p| p.accuracy);
            assert_eq!(found, want, "{name}");
        }
    }
}
