//! Positions in `config.json`: base, share and stretching of the rotation, sliding windows.
//!
//! The rotation is told by keys of the configuration, by a map (`rope_parameters`, before `rope_scaling`), or by
//! a map for each kind of layers inside that one. Formulas: `transformers`, `modeling_rope_utils.py`.

use std::borrow::Cow;

use serde_json::Value;

use super::config::{Config, contradiction};
use super::family::spec::{Family, Rope, RopeScaling, Ropes, WindowRope};
use super::folder::{bad, short};
use super::known::{self, FULL, ROPE_MAPS, SLIDING};
use geb::error::{Error, Result};
use geb::limits;

const FILE: &str = "config.json";

/// Reads the rotations of a family that has them.
///
/// # Errors
/// [`Error::Checkpoint`] for values out of range, missing or contradictory and for keys of the maps that
/// are not known; [`Error::Unsupported`] for a kind of stretching.
pub(super) fn ropes(c: &Config<'_>, family: &Family, context: u64) -> Result<Ropes> {
    let [first, second] = ROPE_MAPS;
    let (new, old) = (map(c, first)?, map(c, second)?);
    let by_kind = |m: &&Value| {
        m.as_object()
            .is_some_and(|m| m.values().any(Value::is_object))
    };
    let nested = [(first, new), (second, old)].into_iter();
    let nested = nested.filter_map(|(name, m)| Some((name, m.filter(by_kind)?)));
    let rope =
        |m: &Value, name: &str, sliding| Reader::new(c, m, name, sliding, family).rope(context);
    let Some((name, by_kind)) = nested.into_iter().next() else {
        let (name, m) = match (new, old) {
            (Some(new), Some(old)) => (first, joined([(first, new), (second, old)])?),
            (Some(new), None) => (first, Cow::Borrowed(new)),
            (None, Some(old)) => (second, Cow::Borrowed(old)),
            (None, None) => (first, Cow::Owned(Value::Object(Default::default()))),
        };
        let full = rope(&m, name, false)?;
        let base = match family.window_rope {
            WindowRope::Local => c.float(known::ROPE_LOCAL_BASE, BASES)?,
            WindowRope::Same | WindowRope::Plain => Some(full.base),
        };
        let plain = |base| Rope {
            base,
            share: full.share,
            scaling: None,
            number: full.number,
        };
        let window = match family.window_rope {
            WindowRope::Same => Some(full.clone()),
            WindowRope::Plain | WindowRope::Local => base.map(plain),
        };
        return Ok(Ropes { full, window });
    };
    let kinds = Config::new(FILE, by_kind, format!("{name}."));
    let of = |kind| kinds.get(&[kind]).map(|k| k.1);
    let (full, window) = (of(FULL), of(SLIDING));
    kinds.check_unread(family.architecture)?;
    let flat = match name == first {
        true => old.map(|old| (second, old)),
        false => new.map(|new| (first, new)),
    };
    let full_name = format!("{name}.{FULL}");
    let full = match (full, flat) {
        (Some(full), Some(flat)) => Some(joined([(full_name.as_str(), full), flat])?),
        (full, _) => full.map(Cow::Borrowed),
    };
    let window = window.map(|m| rope(m, &format!("{name}.{SLIDING}"), true));
    let mut window = window.transpose()?;
    let full = match full {
        Some(m) => rope(&m, &full_name, false)?,
        None => match (&window, family.window_rope) {
            (Some(window), WindowRope::Same) => window.clone(),
            _ => return Err(bad(FILE, full_name, "absent", "an object")),
        },
    };
    check_windows(&full, window.as_ref(), family, name)?;
    if window.is_none() && family.window_rope == WindowRope::Local {
        let base = c.float(known::ROPE_LOCAL_BASE, BASES)?;
        window = base.map(|base| Rope {
            base,
            share: full.share,
            scaling: None,
            number: full.number,
        });
    }
    Ok(Ropes { full, window })
}

/// Refuses what the graphs cannot do in layers with a window.
fn check_windows(full: &Rope, window: Option<&Rope>, family: &Family, name: &str) -> Result<()> {
    let Some(window) = window else {
        return Ok(());
    };
    let plain = window.scaling.is_none() && window.share == full.share;
    let (fits, allowed) = match family.window_rope {
        WindowRope::Same => (window == full, format!("as {FULL}")),
        WindowRope::Plain | WindowRope::Local => {
            (plain, format!("rope_type default, and the share of {FULL}"))
        }
    };
    match fits {
        true => Ok(()),
        false => Err(bad(
            FILE,
            format!("{name}.{SLIDING}"),
            "another rotation",
            allowed,
        )),
    }
}

/// A map that may be there.
fn map<'a>(c: &Config<'a>, name: &'static str) -> Result<Option<&'a Value>> {
    match c.get(&[name]) {
        Some((_, v)) if !v.is_object() => Err(bad(FILE, name, short(v), "an object or null")),
        found => Ok(found.map(|f| f.1)),
    }
}

/// Two maps as one; they must not contradict each other.
fn joined<'a>([(a, first), (b, second)]: [(&str, &'a Value); 2]) -> Result<Cow<'a, Value>> {
    let mut all = first.clone();
    for (key, value) in second.as_object().into_iter().flatten() {
        match all.get(key).filter(|v| !v.is_null()) {
            Some(there) if value.is_null() || known::equal(there, value) => {}
            Some(there) => {
                let names = [format!("{a}.{key}"), format!("{b}.{key}")];
                return Err(contradiction(&names, there, value));
            }
            None => all[key] = value.clone(),
        }
    }
    Ok(Cow::Owned(all))
}

const BASES: std::ops::RangeInclusive<f64> = 1.0..=1e12;
const FACTORS: std::ops::RangeInclusive<f64> = 1e-3..=1e6;

/// Reads one map of the rotation, and the keys outside that say the same.
struct Reader<'a> {
    inside: Config<'a>,
    outside: &'a Config<'a>,
    sliding: bool,
    family: &'a Family,
}

impl<'a> Reader<'a> {
    fn new(
        outside: &'a Config<'a>,
        map: &'a Value,
        name: &str,
        sliding: bool,
        family: &'a Family,
    ) -> Reader<'a> {
        Reader {
            inside: Config::new(FILE, map, format!("{name}.")),
            outside,
            sliding,
            family,
        }
    }

    fn rope(&self, context: u64) -> Result<Rope> {
        let rope = Rope {
            base: self.base()?,
            share: self.either(known::ROPE_SHARE, 0.01..=1.0)?,
            scaling: self.scaling(context)?,
            number: match self.family.rope_number {
                Some(name) => self.inside.float(&[name], FACTORS)?,
                None => None,
            },
        };
        self.inside.check_unread(self.family.architecture)?;
        Ok(rope)
    }

    /// The number inside or outside; both must agree.
    fn either(
        &self,
        names: &[&'static str],
        range: std::ops::RangeInclusive<f64>,
    ) -> Result<Option<f64>> {
        let inner = self.inside.float(names, range.clone())?;
        let outer = self.outside.float(names, range)?;
        match (self.inside.get(names), self.outside.get(names)) {
            (Some((a, x)), Some((b, y))) if !known::equal(x, y) => {
                let names = [self.inside.name(a), self.outside.name(b)];
                Err(contradiction(&names, x, y))
            }
            _ => Ok(inner.or(outer)),
        }
    }

    /// The base. A map without one is not completed with the usual one.
    fn base(&self) -> Result<f64> {
        let local = self.family.window_rope == WindowRope::Local;
        let base = match self.sliding {
            false => self.either(known::ROPE_BASE, BASES)?,
            true => {
                let inner = self.inside.one(known::ROPE_BASE)?;
                let names = [known::ROPE_BASE, known::ROPE_LOCAL_BASE][usize::from(local)];
                let outer = self.outside.one(names)?;
                if let (true, Some((a, x)), Some((b, y))) = (local, inner, outer)
                    && !known::equal(x, y)
                {
                    let names = [self.inside.name(a), self.outside.name(b)];
                    return Err(contradiction(&names, x, y));
                }
                let inner = self.inside.float(known::ROPE_BASE, BASES)?;
                inner.or(self.outside.float(names, BASES)?)
            }
        };
        base.ok_or_else(|| self.inside.bad(known::ROPE_BASE[0], "absent", "a number"))
    }

    /// A number of the map that must be there.
    fn need(&self, name: &'static str) -> Result<f64> {
        let found = self.inside.float(&[name], FACTORS)?;
        found.ok_or_else(|| self.inside.bad(name, "absent", "a number"))
    }

    fn original(&self) -> Result<Option<u64>> {
        let found = self.either(known::ROPE_ORIGINAL, 1.0..=limits::MAX_CONTEXT as f64)?;
        Ok(found.map(|n| n as u64))
    }

    /// `rope_type`, or `type` before it was called so.
    fn kind(&self) -> Result<&'a str> {
        let names = ["rope_type", "type"];
        let mut kinds = Vec::new();
        for name in names {
            if let Some(kind) = self.inside.str(&[name])? {
                // Positions of images are those of text where there is only text.
                let meaning = match kind {
                    "none" | "mrope" => "default",
                    "su" => "longrope",
                    kind => kind,
                };
                kinds.push((name, kind, meaning));
            }
        }
        match kinds[..] {
            [(a, x, one), (b, y, other)] if one != other => {
                let names = [self.inside.name(a), self.inside.name(b)];
                Err(contradiction(&names, &Value::from(x), &Value::from(y)))
            }
            [(.., kind), ..] => Ok(kind),
            [] => Ok("default"),
        }
    }

    fn scaling(&self, context: u64) -> Result<Option<RopeScaling>> {
        let absent_original = || {
            let name = known::ROPE_ORIGINAL[0];
            self.inside.bad(name, "absent", "an integer")
        };
        match self.kind()? {
            "default" => {
                self.original()?;
                self.inside.note(&["mrope_interleaved", "finetuned"]);
                if self
                    .inside
                    .float(&["factor"], FACTORS)?
                    .is_some_and(|f| f != 1.0)
                {
                    let value = self
                        .inside
                        .get(&["factor"])
                        .map_or(String::new(), |f| short(f.1));
                    let allowed = "absent or 1 where rope_type is default or absent";
                    return Err(self.inside.bad("factor", value, allowed));
                }
                Ok(None)
            }
            "linear" => {
                self.original()?;
                let factor = self.need("factor")? as f32;
                Ok(Some(RopeScaling::Linear { factor }))
            }
            "llama3" => {
                let (low, high) = (
                    self.need("low_freq_factor")?,
                    self.need("high_freq_factor")?,
                );
                if low >= high {
                    let allowed = format!("below high_freq_factor {high}");
                    return Err(self.inside.bad("low_freq_factor", low, allowed));
                }
                Ok(Some(RopeScaling::Llama3 {
                    factor: self.need("factor")?,
                    low,
                    high,
                    original: self.original()?.ok_or_else(absent_original)? as f64,
                }))
            }
            "longrope" => {
                let original = self.original()?.ok_or_else(absent_original)?;
                self.long(context, original).map(Some)
            }
            "yarn" => self.yarn(context).map(Some),
            "dynamic" if self.family.rope_number == Some("alpha") => self.alpha().map(Some),
            other => Err(Error::Unsupported {
                what: "rope scaling",
                value: other.chars().take(80).collect(),
                known: "default, linear, llama3, longrope, yarn, mrope of text".into(),
            }),
        }
    }

    /// LongRoPE; cosine and sine are multiplied by `√(1 + ln s / ln original)` unless the map says by what.
    fn long(&self, context: u64, original: u64) -> Result<RopeScaling> {
        let factors = |name: &'static str| {
            let values = self.inside.get(&[name]).and_then(|v| v.1.as_array());
            let values = values.map(|v| v.iter().map(Value::as_f64).collect::<Option<Vec<_>>>());
            let good = |v: &Vec<f64>| v.iter().all(|f| FACTORS.contains(f));
            match values.flatten().filter(good) {
                Some(v) => Ok(v.into_iter().map(|f| f as f32).collect()),
                None => Err(self.inside.bad(name, "longrope", "an array of numbers")),
            }
        };
        let stretch = self.inside.float(&["factor"], FACTORS)?;
        let stretch = stretch.unwrap_or(context as f64 / original as f64);
        let usual = match stretch > 1.0 {
            true => (1.0 + stretch.ln() / (original as f64).ln()).sqrt(),
            false => 1.0,
        };
        let given = self.inside.float(&["attention_factor"], 1e-3..=1e3)?;
        Ok(RopeScaling::Long {
            long: factors("long_factor")?,
            short: factors("short_factor")?,
            original: original as u32,
            attn_factor: given.unwrap_or(usual) as f32,
        })
    }

    /// Scaling by alpha; the numbers of other kinds beside it are those that change nothing or are not looked at.
    fn alpha(&self) -> Result<RopeScaling> {
        let alpha = self.need("alpha")?;
        let factor = self.inside.float(&["factor"], FACTORS)?;
        if let Some(factor) = factor.filter(|f| *f != 1.0) {
            let allowed = "absent or 1 where there is alpha";
            return Err(self.inside.bad("factor", factor, allowed));
        }
        let names = ["beta_fast", "beta_slow", "mscale", "mscale_all_dim"];
        self.inside.note(&names);
        Ok(RopeScaling::Alpha(alpha))
    }

    /// YaRN; 0 stands for the usual bounds, as in the reference.
    fn yarn(&self, context: u64) -> Result<RopeScaling> {
        let m = &self.inside;
        let original = self.original()?.unwrap_or(context);
        let factor = m.float(&["factor"], FACTORS)?;
        let factor = factor.unwrap_or(context as f64 / original as f64);
        let number = |name| Ok::<_, Error>(m.float(&[name], 0.0..=1e6)?.filter(|v| *v != 0.0));
        let (mscale, all) = (number("mscale")?, number("mscale_all_dim")?);
        let given = m.float(&["attention_factor"], 1e-6..=1e6)?;
        let beta_fast = number("beta_fast")?.unwrap_or(32.0);
        let beta_slow = number("beta_slow")?.unwrap_or(1.0);
        if beta_slow >= beta_fast {
            return Err(m.bad(
                "beta_slow",
                beta_slow,
                format!("below beta_fast {beta_fast}"),
            ));
        }
        let magnitude = given.unwrap_or_else(|| match (mscale, all) {
            (Some(m), Some(all)) => yarn_magnitude(factor, m) / yarn_magnitude(factor, all),
            _ => yarn_magnitude(factor, 1.0),
        });
        if let Some(n) = m.uint(&["max_position_embeddings"], 1..=limits::MAX_CONTEXT)?
            && n != context
        {
            return Err(m.bad(
                "max_position_embeddings",
                n,
                format!("{context}, as outside"),
            ));
        }
        m.note(&["finetuned"]);
        Ok(RopeScaling::Yarn {
            factor,
            original: original as u32,
            magnitude,
            beta_fast,
            beta_slow,
            truncate: m.bool("truncate")?.unwrap_or(true),
        })
    }
}

/// What YaRN multiplies cosine and sine with for a stretch of `s` and a weight `m`: `0.1 m ln s + 1`.
pub(super) fn yarn_magnitude(s: f64, m: f64) -> f64 {
    match s > 1.0 {
        true => 0.1 * m * s.ln() + 1.0,
        false => 1.0,
    }
}

/// The window; the llama class of Hugging Face ignores the key.
pub(super) fn window(c: &Config<'_>) -> Result<Option<u32>> {
    c.note(&["sliding_window", "use_sliding_window", "max_window_layers"]);
    let class = c.value.get("architectures").and_then(|a| a.get(0));
    let class = class.and_then(Value::as_str);
    let llama = class == Some("LlamaForCausalLM")
        || (class.is_none() && c.str(&["model_type"])? == Some("llama"));
    if llama || c.bool("use_sliding_window")? == Some(false) {
        return Ok(None);
    }
    if let Some((_, v)) = c.get(&["sliding_window"])
        && v.as_u64().is_none()
    {
        return Err(bad(FILE, "sliding_window", short(v), "an integer or null"));
    }
    Ok(c.uint(&["sliding_window"], 0..=limits::MAX_CONTEXT)?
        .filter(|&w| w > 0)
        .map(|w| w as u32))
}
