//! Stop strings in streamed text.

/// Finds stop strings in streamed text, also when they span pieces.
///
/// Text that could be the beginning of a stop string is held back until it is decided.
#[derive(Clone, Debug, Default)]
pub struct StopScanner {
    stops: Vec<String>,
    held: String,
    found: Option<String>,
}

impl StopScanner {
    /// A scanner for these strings; empty ones never match.
    pub fn new(stops: &[String]) -> Self {
        Self {
            stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(),
            held: String::new(),
            found: None,
        }
    }

    /// The stop string that is complete.
    pub fn found(&self) -> Option<&str> {
        self.found.as_deref()
    }

    /// Takes a piece; returns the text that is certain now, and whether a stop string is complete.
    /// The earliest stop string wins; it and everything behind it is dropped.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        let places = self.stops.iter();
        let places = places.filter_map(|s| Some((self.held.find(s.as_str())?, s)));
        if let Some((at, stop)) = places.min_by_key(|(at, _)| *at) {
            self.found = Some(stop.clone());
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self
            .stops
            .iter()
            .map(|s| overlap(&self.held, s))
            .max()
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What is still held back; nothing more comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes of the longest end of `text` that is a proper beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let (text, stop) = (text.as_bytes(), stop.as_bytes());
    // A match starts at a character of `stop`, so it also starts at a character of `text`.
    (1..stop.len().min(text.len() + 1))
        .rev()
        .find(|&n| text.ends_with(&stop[..n]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes pieces; returns what came out and whether it stopped.
    fn scan(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut scanner = StopScanner::new(&stops);
        let mut all = String::new();
        for piece in pieces {
            let (text, stopped) = scanner.push(piece);
            all.push_str(&text);
            if stopped {
                return (all, true);
            }
        }
        all.push_str(&scanner.finish());
        (all, false)
    }

    #[test]
    fn stop_strings_span_pieces() {
        assert_eq!(
            scan(&["User:"], &["Hi. Us", "er", ": x"]),
            ("Hi. ".into(), true)
        );
        assert_eq!(
            scan(&["User:"], &["Hi. Us", "ed", " car"]),
            ("Hi. Used car".into(), false)
        );
        assert_eq!(scan(&["\n\n"], &["a\n", "\nb"]), ("a".into(), true));
        assert_eq!(scan(&["\n\n"], &["a\n"]), ("a\n".into(), false));
    }

    #[test]
    fn the_earliest_stop_string_wins() {
        assert_eq!(scan(&["bc", "ab"], &["xabc"]), ("x".into(), true));
        assert_eq!(scan(&["aab"], &["a", "a", "a", "b"]), ("a".into(), true));
    }

    #[test]
    fn stop_strings_outside_ascii() {
        assert_eq!(
            scan(&["。神"], &["说。", "人。", "神"]),
            ("说。人".into(), true)
        );
        // 神 and 祝 share their first bytes; half a character is never emitted.
        assert_eq!(scan(&["神"], &["祝", "福"]), ("祝福".into(), false));
    }

    #[test]
    fn text_is_held_back_only_as_long_as_needed() {
        let mut scanner = StopScanner::new(&["END".into()]);
        assert_eq!(scanner.push("aE"), ("a".into(), false));
        assert_eq!(scanner.push("x"), ("Ex".into(), false));
        assert_eq!(scanner.finish(), "");
    }
}
