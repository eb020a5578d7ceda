//! Which tokens of a text are counted.

use serde::{Deserialize, Serialize};

use geb::error::{Error, Result};

/// How a text is cut, and which tokens count.
///
/// The text is encoded once; windows of `window` ids start every `stride` ids, an incomplete last
/// one is dropped. Every window is evaluated on its own from position 0, and the tokens at positions
/// `count_from..window` count, token `p` predicted by the logits of position `p - 1`. Perplexity =
/// exp(mean negative log-likelihood).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Method {
    /// Tokens of a window.
    pub window: usize,
    /// Tokens from one window to the next; `None`: the window, no overlap.
    pub stride: Option<usize>,
    /// First counted position of a window.
    pub count_from: usize,
    /// Takes the place of the first token of every window.
    pub bos: Option<u32>,
    /// Stop after so many windows; `None`: all.
    pub max_windows: Option<usize>,
}

impl Default for Method {
    /// Windows of 512 whose second half counts (256 tokens), as on geb-nano's card.
    fn default() -> Self {
        Self {
            window: 512,
            stride: None,
            count_from: 256,
            bos: None,
            max_windows: None,
        }
    }
}

impl Method {
    /// The counting of llama.cpp's `llama-perplexity`: positions above the middle of a window; `bos`
    /// at its start if the model adds one.
    pub fn llama_cpp(window: usize, bos: Option<u32>) -> Self {
        Self {
            window,
            count_from: window / 2 + 1,
            bos,
            ..Self::default()
        }
    }

    /// Overlapping windows: the last `stride` tokens of each count, so that all have at least
    /// `window - stride` tokens before them.
    pub fn strided(window: usize, stride: usize, bos: Option<u32>) -> Self {
        Self {
            window,
            stride: Some(stride),
            count_from: window.saturating_sub(stride),
            bos,
            ..Self::default()
        }
    }

    /// Windows that will be evaluated for a text of `tokens` ids.
    pub fn windows(&self, tokens: usize) -> usize {
        let all = match tokens.checked_sub(self.window) {
            Some(rest) => rest / self.step() + 1,
            None => 0,
        };
        all.min(self.max_windows.unwrap_or(usize::MAX))
    }

    /// Counted tokens of a window.
    pub fn counted(&self) -> usize {
        self.window.saturating_sub(self.count_from)
    }

    /// Tokens from one window to the next, at least 1.
    pub(super) fn step(&self) -> usize {
        self.stride.unwrap_or(self.window).max(1)
    }

    /// Refuses a method that counts nothing, or a text without a complete window.
    pub(super) fn check(&self, tokens: usize) -> Result<()> {
        let refuse = |what: &str, value: String, allowed: String| {
            Err(Error::Request {
                what: what.into(),
                value,
                allowed,
            })
        };
        if self.count_from == 0 || self.count_from >= self.window {
            let allowed = format!("1..{}", self.window);
            let value = self.count_from.to_string();
            return refuse("first counted position", value, allowed);
        }
        if self.stride == Some(0) {
            return refuse("stride", "0".into(), "at least 1".into());
        }
        if self.windows(tokens) == 0 {
            let allowed = format!("at least one window of {}", self.window);
            return refuse("evaluation text", format!("{tokens} tokens"), allowed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incomplete_windows_are_dropped() {
        let method = Method::default();
        assert_eq!(method.windows(62_013), 121);
        assert_eq!(method.windows(511), 0);
        assert_eq!(method.windows(512), 1);
        let few = Method {
            max_windows: Some(8),
            ..method
        };
        assert_eq!(few.windows(62_013), 8);
    }

    #[test]
    fn strides_cover_the_text_once() {
        let method = Method::strided(512, 128, None);
        assert_eq!((method.counted(), method.windows(1024)), (128, 5));
        let counted: Vec<usize> = (0..5)
            .flat_map(|w| w * 128 + method.count_from..w * 128 + 512)
            .collect();
        assert_eq!(counted, (384..1024).collect::<Vec<_>>());
    }

    #[test]
    fn the_count_of_llama_cpp() {
        let method = Method::llama_cpp(512, Some(1));
        assert_eq!((method.count_from, method.counted()), (257, 255));
    }

    #[test]
    fn methods_that_count_nothing_are_refused() {
        for (window, stride, count_from) in [
            (512, None, 0),
            (512, None, 512),
            (1, None, 1),
            (8, Some(0), 4),
        ] {
            let method = Method {
                window,
                stride,
                count_from,
                ..Method::default()
            };
            assert!(method.check(10_000).is_err(), "{method:?}");
        }
        assert!(Method::default().check(511).is_err());
        assert!(Method::default().check(512).is_ok());
    }
}
