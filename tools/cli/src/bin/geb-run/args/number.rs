//! Numbers as they are typed: what is allowed is checked before any work, and means what it means in llama.cpp.

use std::ops::RangeInclusive;

/// `-n`: a count, or -1 and -2 for as many as the context takes.
pub fn until_end(text: &str) -> Result<usize, String> {
    match text {
        "-1" | "-2" => Ok(usize::MAX),
        _ => text
            .parse()
            .map_err(|_| "allowed: a number of tokens, or -1 (until the end)".into()),
    }
}

/// `--streams`, `--rows`: requests or sequences side by side.
pub fn streams(text: &str) -> Result<usize, String> {
    let most = geb::scheduler::MAX_STREAMS;
    let n = text.parse().ok().filter(|n| (1..=most).contains(n));
    n.ok_or_else(|| format!("allowed: 1 to {most}"))
}

/// Seconds, at most a day.
pub fn seconds(text: &str) -> Result<u64, String> {
    let n = text.parse().ok().filter(|n| *n <= 86_400);
    n.ok_or_else(|| "allowed: 0 to 86400 seconds".into())
}

/// `--repeat-last-n`: a count, or -1 for the whole context.
pub fn whole_context(text: &str) -> Result<usize, String> {
    match text {
        "-1" => Ok(usize::MAX),
        _ => text
            .parse()
            .map_err(|_| "allowed: a number of tokens, 0 (off), or -1 (all)".into()),
    }
}

/// `--top-k`: a count; 0 and -1 take all tokens.
pub fn top_k(text: &str) -> Result<usize, String> {
    match text {
        "-1" => Ok(0),
        _ => text
            .parse()
            .map_err(|_| "allowed: a number of tokens, or 0 (all)".into()),
    }
}

/// `--seed`: -1 is a random one.
pub fn seed(text: &str) -> Result<u64, String> {
    match text {
        "-1" => Ok(crate::seed::random()),
        _ => text
            .parse()
            .map_err(|_| format!("allowed: 0 to {}, or -1 (random)", u64::MAX)),
    }
}

/// `--temp`: negative ones take the most probable token, as 0 does.
pub fn temperature(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(t) if t <= 0.0 && t.is_finite() => Ok(0.0),
        Ok(t) if (0.0..=100.0).contains(&t) => Ok(t),
        _ => Err("allowed: 0 (always the most probable token) to 100".into()),
    }
}

/// A number in a range.
pub fn between(
    range: RangeInclusive<f32>,
) -> impl Fn(&str) -> Result<f32, String> + Clone + Send + Sync {
    move |text| match text.parse::<f32>() {
        Ok(v) if range.contains(&v) => Ok(v),
        _ => Err(format!("allowed: {} to {}", range.start(), range.end())),
    }
}

/// `--top-nsigma`: standard deviations; -1 is off, as 0.
pub fn top_n_sigma(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(-1.0) => Ok(0.0),
        Ok(v) if geb::limits::TOP_N_SIGMA.contains(&v) => Ok(v),
        _ => Err("allowed: 0 to 100, or -1 (off)".into()),
    }
}

/// A finite number.
pub fn finite(text: &str) -> Result<f64, String> {
    let v = text.parse().ok().filter(|v: &f64| v.is_finite());
    v.ok_or_else(|| "allowed: a finite number".into())
}

/// A number of threads; 0 and -1 leave it to the program.
pub fn threads(text: &str) -> Result<u32, String> {
    const MOST: u32 = geb::threads::MAX_THREADS as u32;
    match text.parse() {
        Ok(n) if n <= MOST => Ok(n),
        _ if text == "-1" => Ok(0),
        _ => Err(format!("allowed: 1 to {MOST}, or 0 (one per core)")),
    }
}

/// Tokens that fit a context, or none.
pub fn tokens(text: &str) -> Result<usize, String> {
    const MOST: usize = geb::limits::MAX_CONTEXT as usize;
    match text.parse() {
        Ok(n) if n <= MOST => Ok(n),
        _ => Err(format!("allowed: 0 to {MOST}")),
    }
}

/// Tokens that fit a context, at least one.
pub fn some_tokens(text: &str) -> Result<usize, String> {
    match tokens(text) {
        Ok(0) => Err("allowed: 1 and more".into()),
        other => other,
    }
}

/// How often something is tried.
pub fn few(text: &str) -> Result<usize, String> {
    const MOST: usize = 1_000;
    match text.parse() {
        Ok(n) if (1..=MOST).contains(&n) => Ok(n),
        _ => Err(format!("allowed: 1 to {MOST}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_numbers_mean_what_they_mean_in_llama_cpp() {
        assert_eq!(
            (until_end("-1"), until_end("-2"), until_end("0")),
            (Ok(usize::MAX), Ok(usize::MAX), Ok(0))
        );
        assert_eq!(
            (whole_context("-1"), top_k("-1"), top_k("0")),
            (Ok(usize::MAX), Ok(0), Ok(0))
        );
        assert_eq!(
            (
                temperature("-1"),
                temperature("0.5"),
                threads("-1"),
                threads("0")
            ),
            (Ok(0.0), Ok(0.5), Ok(0), Ok(0))
        );
        assert!(seed("-1").is_ok() && seed("18446744073709551615") == Ok(u64::MAX));
        let one = between(0.0..=1.0);
        assert_eq!((one("0"), one("1")), (Ok(0.0), Ok(1.0)));
        for bad in [
            "-3",
            "1.5",
            "x",
            "",
            "18446744073709551616",
            "nan",
            "inf",
            "-inf",
            "1e400",
        ] {
            let refused = [
                until_end(bad).err(),
                whole_context(bad).err(),
                top_k(bad).err(),
                seed(bad).err(),
                one(bad).err(),
                threads(bad).err(),
                tokens(bad).err(),
            ];
            assert!(refused.iter().flatten().all(|e| e.starts_with("allowed: ")));
            assert!(refused.iter().all(Option::is_some), "{bad}: {refused:?}");
        }
        for bad in ["nan", "inf", "-inf", "1e400", "101"] {
            assert!(
                temperature(bad).is_err() && (bad == "101" || finite(bad).is_err()),
                "{bad}"
            );
        }
    }
}
