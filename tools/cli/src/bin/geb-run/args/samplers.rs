//! Flags of the samplers that are off by default, under llama.cpp's names.

use clap::Args;
use geb::limits;
use geb::sampler::{Dry, Dynatemp, Mirostat, SamplerOptions, Xtc};

use super::number;

/// Penalties and samplers beyond the usual ones.
#[derive(Debug, Args, Clone)]
pub struct SamplersArgs {
    /// Take this from the logits of tokens that the answer has (0: off)
    #[arg(long, value_name = "X", default_value_t = 0.0, help_heading = "Sampling", hide_short_help = true,
          value_parser = number::between(limits::COUNT_PENALTY))]
    presence_penalty: f32,
    /// Take this from their logits for each time that they are there (0: off)
    #[arg(long, value_name = "X", default_value_t = 0.0, help_heading = "Sampling", hide_short_help = true,
          value_parser = number::between(limits::COUNT_PENALTY))]
    frequency_penalty: f32,
    /// Add this to the logit of a token, -100 to 100 (may be repeated; 15+2 and 15-2 mean 15=2 and 15=-2)
    #[arg(long, value_name = "ID=BIAS", help_heading = "Sampling", hide_short_help = true,
          value_parser = bias)]
    logit_bias: Vec<(u32, f32)>,
    /// DRY: the penalty for going on with a repetition of the allowed length (0: off)
    #[arg(long, value_name = "X", default_value_t = 0.0, help_heading = "Sampling", hide_short_help = true,
          value_parser = number::between(limits::DRY_MULTIPLIER))]
    dry_multiplier: f32,
    /// DRY: its growth with each further token
    #[arg(long, value_name = "X", default_value_t = 1.75, help_heading = "Sampling", hide_short_help = true,
          value_parser = number::between(limits::DRY_BASE))]
    dry_base: f32,
    /// DRY: tokens that may be repeated
    #[arg(long, value_name = "N", default_value_t = 2, help_heading = "Sampling", hide_short_help = true,
          value_parser = number::tokens)]
    dry_allowed_length: usize,
    /// DRY: how many recent tokens are looked at (0: off, -1: all)
    #[arg(long, value_name = "N", default_value = "-1", help_heading = "Sampling", hide_short_help = true,
          value_parser = number::whole_context)]
    dry_penalty_last_n: usize,
    /// DRY: a text over which no repetition goes, \n is a line end (may be repeated; none: no such text)
    /// [default: \n, :, ", *]
    #[arg(long, value_name = "TEXT", help_heading = "Sampling", hide_short_help = true,
          value_parser = breaker, allow_hyphen_values = true)]
    dry_sequence_breaker: Vec<String>,
    /// XTC: how often the most probable tokens are dropped (0: never)
    #[arg(long, value_name = "P", default_value_t = 0.0, help_heading = "Sampling", hide_short_help = true,
          value_parser = number::between(limits::PROBABILITY))]
    xtc_probability: f32,
    /// XTC: of all tokens with this probability, the least probable one stays
    #[arg(long, value_name = "P", default_value_t = 0.1, help_heading = "Sampling", hide_short_help = true,
          value_parser = number::between(limits::PROBABILITY))]
    xtc_threshold: f32,
    /// Choose among locally typical tokens that reach this probability (1: all)
    #[arg(long, value_name = "P", default_value_t = 1.0, help_heading = "Sampling", hide_short_help = true,
          value_parser = number::between(limits::PROBABILITY))]
    typical: f32,
    /// Drop tokens whose logit is more standard deviations below the best one (0, -1: none)
    #[arg(long, value_name = "X", default_value = "0", help_heading = "Sampling", hide_short_help = true,
          value_parser = number::top_n_sigma)]
    top_nsigma: f32,
    /// Let the temperature follow the entropy, at most so far from --temp (0: off)
    #[arg(long, value_name = "T", default_value_t = 0.0, help_heading = "Sampling", hide_short_help = true,
          value_parser = number::between(limits::DYNATEMP_RANGE))]
    dynatemp_range: f32,
    /// Exponent of the entropy's share of the largest one
    #[arg(long, value_name = "E", default_value_t = 1.0, help_heading = "Sampling", hide_short_help = true,
          value_parser = number::between(limits::DYNATEMP_EXPONENT))]
    dynatemp_exp: f32,
    /// 2: mirostat 2.0 in the place of top-k, top-p and all that drops tokens (0: off)
    #[arg(long, value_name = "N", default_value = "0", help_heading = "Sampling", hide_short_help = true,
          value_parser = mirostat)]
    mirostat: u8,
    /// Mirostat: how fast it follows
    #[arg(long, value_name = "X", default_value_t = 0.1, help_heading = "Sampling", hide_short_help = true,
          value_parser = number::between(limits::MIROSTAT_ETA))]
    mirostat_lr: f32,
    /// Mirostat: the surprise of the text, in bits per token
    #[arg(long, value_name = "X", default_value_t = 5.0, help_heading = "Sampling", hide_short_help = true,
          value_parser = number::between(limits::MIROSTAT_TAU))]
    mirostat_ent: f32,
}

/// `--logit-bias`: `ID=BIAS`, or llama.cpp's `ID+BIAS` and `ID-BIAS`.
fn bias(text: &str) -> Result<(u32, f32), String> {
    let read = || {
        let (id, bias) = text.split_at(text.find(['=', '+', '-'])?);
        let bias: f32 = bias.strip_prefix('=').unwrap_or(bias).parse().ok()?;
        let bias = limits::LOGIT_BIAS.contains(&bias).then_some(bias)?;
        Some((id.parse().ok()?, bias))
    };
    read().ok_or_else(|| "allowed: ID=BIAS, the id of a token and -100 to 100".into())
}

/// `--mirostat`: the version.
fn mirostat(text: &str) -> Result<u8, String> {
    match text {
        "0" => Ok(0),
        "2" => Ok(2),
        _ => Err("allowed: 0 (off), 2".into()),
    }
}

/// `--dry-sequence-breaker`, where `\n`, `\r`, `\t`, `\"` and `\\` are characters, as in llama.cpp.
fn breaker(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some(c @ ('\\' | '"' | '\'')) => c,
                _ => return Err("allowed behind a \\: n, r, t, \", ', \\".into()),
            },
            c => c,
        });
    }
    let most = limits::MAX_DRY_BREAKER_BYTES;
    match out.len() {
        n if (1..=most).contains(&n) => Ok(out),
        _ => Err(format!("allowed: 1 to {most} bytes")),
    }
}

/// The breakers that were typed, behind the last `none`; the usual ones if nothing was.
fn breakers(typed: &[String]) -> Vec<String> {
    if typed.is_empty() {
        return Dry::default().breakers;
    }
    let none = typed.iter().rposition(|b| b == "none");
    typed[none.map_or(0, |n| n + 1)..].to_vec()
}

impl SamplersArgs {
    /// Puts what was typed into options.
    pub fn set(&self, o: &mut SamplerOptions) {
        o.presence_penalty = self.presence_penalty;
        o.frequency_penalty = self.frequency_penalty;
        o.logit_bias.clone_from(&self.logit_bias);
        o.dry = Dry {
            multiplier: self.dry_multiplier,
            base: self.dry_base,
            allowed_length: self.dry_allowed_length,
            last_n: self.dry_penalty_last_n,
            breakers: breakers(&self.dry_sequence_breaker),
        };
        o.xtc = Xtc {
            probability: self.xtc_probability,
            threshold: self.xtc_threshold,
        };
        o.typical_p = self.typical;
        o.top_n_sigma = self.top_nsigma;
        o.dynatemp = Dynatemp {
            range: self.dynatemp_range,
            exponent: self.dynatemp_exp,
        };
        o.mirostat = (self.mirostat == 2).then_some(Mirostat {
            tau: self.mirostat_ent,
            eta: self.mirostat_lr,
        });
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        samplers: SamplersArgs,
    }

    fn typed(words: &str) -> SamplerOptions {
        let words = ["geb-run"].into_iter().chain(words.split_whitespace());
        let mut options = SamplerOptions::default();
        let typed = Typed::try_parse_from(words).expect("taken");
        typed.samplers.set(&mut options);
        options
    }

    #[test]
    fn nothing_typed_is_what_the_library_does() {
        assert_eq!(typed(""), SamplerOptions::default());
    }

    #[test]
    fn each_flag_sets_its_option() {
        let all = typed(
            "--presence-penalty 0.1 --frequency-penalty=-0.2 --logit-bias 7=1.5 --logit-bias 8-2 --dry-multiplier 0.3 --dry-base 1.4 \
             --dry-allowed-length 5 --dry-penalty-last-n 6 --dry-sequence-breaker \\n \
             --dry-sequence-breaker - --xtc-probability 0.7 --xtc-threshold 0.08 --typical 0.9 \
             --top-nsigma 1.1 --dynatemp-range 0.12 --dynatemp-exp 1.3 --mirostat 2 --mirostat-lr 0.14 \
             --mirostat-ent 1.5",
        );
        let expected = SamplerOptions {
            presence_penalty: 0.1,
            frequency_penalty: -0.2,
            logit_bias: vec![(7, 1.5), (8, -2.0)],
            dry: Dry {
                multiplier: 0.3,
                base: 1.4,
                allowed_length: 5,
                last_n: 6,
                breakers: vec!["\n".into(), "-".into()],
            },
            xtc: Xtc {
                probability: 0.7,
                threshold: 0.08,
            },
            typical_p: 0.9,
            top_n_sigma: 1.1,
            dynatemp: Dynatemp {
                range: 0.12,
                exponent: 1.3,
            },
            mirostat: Some(Mirostat {
                tau: 1.5,
                eta: 0.14,
            }),
            ..SamplerOptions::default()
        };
        assert_eq!(all, expected);
    }

    #[test]
    fn biases_are_written_in_either_way() {
        for (text, expected) in [
            ("15=2", (15, 2.0)),
            ("15=-0.5", (15, -0.5)),
            ("15=+100", (15, 100.0)),
            ("15+1e1", (15, 10.0)),
            ("15-2", (15, -2.0)),
        ] {
            assert_eq!(bias(text), Ok(expected), "{text}");
        }
        for bad in [
            "", "15", "=1", "+1", "15=", "15=101", "15-inf", "15=nan", "-1=1", "a=1", "15=1=1",
        ] {
            assert!(bias(bad).is_err_and(|e| e.starts_with("allowed")), "{bad}");
        }
    }

    #[test]
    fn breakers_are_added_behind_none() {
        let of = |words: &str| typed(words).dry.breakers;
        assert_eq!(of("--dry-sequence-breaker none"), [""; 0]);
        let two = "--dry-sequence-breaker a --dry-sequence-breaker none --dry-sequence-breaker b";
        assert_eq!(of(two), ["b"]);
        assert_eq!(breaker("a\\\\\\t"), Ok("a\\\t".into()));
        for bad in ["", "\\", "\\x", &"x".repeat(257)] {
            assert!(
                breaker(bad).is_err_and(|e| e.starts_with("allowed")),
                "{bad}"
            );
        }
    }
}
