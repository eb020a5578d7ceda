//! The closed table of ways to cut text before byte-level BPE, for `tokenizer.ggml.pre` and for the
//! `pre_tokenizer` of a `tokenizer.json`: one row per behaviour.
//!
//! No pattern from a file is ever compiled. Patterns are applied in turn: each cuts the
//! pieces that the previous one left, and both matches and gaps stay pieces. They are the
//! published `pre_tokenizer` settings of the models' `tokenizer.json` files; a file's own
//! pattern is only compared with them.

/// One row of the table.
pub struct Pre {
    /// Values of the key with this behaviour; the converter writes the first.
    pub names: &'static [&'static str],
    /// Regular expressions, applied in turn.
    pub patterns: &'static [&'static str],
    /// More of them for the text in GPT-2's alphabet, where a piece may end inside a character.
    pub bytes: &'static [&'static str],
    /// A piece that is a token is emitted without looking at merges.
    pub ignore_merges: bool,
    /// Default of `tokenizer.ggml.add_bos_token`.
    pub add_bos: bool,
    /// The source composes characters (NFC) first.
    pub nfc: bool,
}

/// GPT-2, and what follows its cuts.
pub const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// `o200k_base`.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILING: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const MINICPM5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const JAIS2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}";
const EXAONE_MOE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+";
const KIMI: &str = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const UFAKZEKA: &str =
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const YOUTU: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
/// Digits one by one.
pub const DIGIT: &str = r"\p{N}";
/// Runs of digits.
pub const DIGITS: &str = r"\p{N}+";
/// Runs of punctuation and ASCII symbols.
pub const MARKS: &str = r"[\p{P}\$\+<=>\^~\|`]+";
/// Such marks one by one.
pub const MARK: &str = r"[\p{P}\$\+<=>\^~\|`]";
/// Digits in groups of up to three, counted from the end of their run.
pub(super) const FROM_THE_END: &str = r"\d{1,3}(?=(?:\d{3})*\b)";
/// Places where a multiple of three digits is left.
pub(super) const THOUSANDS: &str = r"(?=(\d{3})+(?!\d))";
const CJK: &str = "[一-龥ࠀ-一가-\u{D7FF}]+";
/// Letters of scripts with two cases.
const DEEPSEEK_LETTERS: &str = "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅ\
     Ὀ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨ\u{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳ\
     Ꙁ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const SPARK: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"##;
const KANA_HAN: &str = "[一-龥\u{3040}-ゟ゠-ヿ]+";
const THREE: &str = r"\p{N}{1,3}";

const PLAIN: Pre = Pre {
    names: &[],
    patterns: &[],
    bytes: &[],
    ignore_merges: false,
    add_bos: false,
    nfc: false,
};

const fn plain(names: &'static [&'static str], patterns: &'static [&'static str]) -> Pre {
    Pre {
        names,
        patterns,
        ..PLAIN
    }
}

/// Used when the key is absent.
pub(super) static DEFAULT: Pre = plain(
    &["default"],
    &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
);

static TABLE: &[Pre] = &[
    Pre {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        patterns: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    plain(&["dbrx", "smaug-bpe", "chatglm-bpe"], &[LLAMA3]),
    Pre {
        ignore_merges: true,
        ..plain(&["glm4", "glm5"], &[LLAMA3])
    },
    Pre {
        nfc: true,
        ..plain(&["qwen2", "megrez"], &[QWEN2])
    },
    plain(
        &[
            "stablelm2",
            "deepseek-r1-qwen",
            "hunyuan",
            "kormo",
            "f2llmv2",
            "solar-open",
            "grok-2",
        ],
        &[QWEN2],
    ),
    Pre {
        nfc: true,
        ..plain(&["qwen35"], &[QWEN35])
    },
    plain(
        &[
            "gpt-2",
            "phi-2",
            "exaone4",
            "modern-bert",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "jais",
            "trillion",
            "granite-docling",
            "gigachat",
            "a.x-4.0",
            "mellum",
        ],
        &[GPT2],
    ),
    // GPT-NeoX.
    Pre {
        nfc: true,
        ..plain(&["olmo", "mpt"], &[GPT2])
    },
    plain(
        &[
            "starcoder",
            "smollm",
            "refact",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        &[DIGIT, GPT2],
    ),
    Pre {
        nfc: true,
        ..plain(&["command-r"], &[DIGIT, GPT2])
    },
    Pre {
        bytes: &[DIGITS, "[0-9][0-9][0-9]"],
        ..plain(&["falcon"], &[MARKS, GPT2])
    },
    plain(&["bloom", "poro-chat", "gpt3-finnish"], &[BLOOM]),
    plain(&["viking"], &[BLOOM, DIGIT]),
    plain(
        &["deepseek-coder"],
        &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, DIGIT],
    ),
    plain(
        &["deepseek-llm"],
        &[
            r"[\r\n]",
            DEEPSEEK_LETTERS,
            "\\s?[!-/:-~！-／：-～‘-‟\u{3000}-。]+",
            r"\s+$",
            CJK,
            DIGITS,
        ],
    ),
    plain(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        &[THREE, KANA_HAN, DEEPSEEK3],
    ),
    plain(&["spark2_5"], &[THREE, KANA_HAN, SPARK, DIGIT]),
    Pre {
        ignore_merges: true,
        add_bos: true,
        ..plain(&["tekken"], &[TEKKEN])
    },
    plain(
        &["gpt-4o", "llama4", "kanana2", "minimax-m2", "talkie"],
        &[GPT4O],
    ),
    Pre {
        ignore_merges: true,
        ..plain(&["granite-embed-multi-97m"], &[GPT4O])
    },
    plain(&["tiny_aya", "cohere2moe"], &[FROM_THE_END, GPT4O]),
    plain(&["seed-coder"], &[SEED_CODER]),
    plain(&["bailingmoe", "bailingmoe2", "llada-moe"], &[BAILING]),
    Pre {
        ignore_merges: true,
        ..plain(&["minicpm5"], &[THREE, MINICPM5])
    },
    plain(&["jais-2"], &[JAIS2]),
    plain(&["exaone-moe"], &[EXAONE_MOE]),
    plain(&["kimi-k2"], &[KIMI]),
    plain(&["superbpe"], &[DIGITS, THOUSANDS]),
    plain(&["ufakzeka"], &[UFAKZEKA]),
    plain(&["laguna"], &[r"[^\n]+|[\n]+", QWEN2]),
    Pre {
        ignore_merges: true,
        ..plain(
            &["youtu"],
            &[
                "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\u{3040}-ゟ゠-ヿ]+",
                YOUTU,
            ],
        )
    },
];

/// Looks a name up.
pub fn find(name: &str) -> Option<&'static Pre> {
    if DEFAULT.names.contains(&name) {
        return Some(&DEFAULT);
    }
    TABLE.iter().find(|pre| pre.names.contains(&name))
}

/// The row of these patterns whose other properties fit best: `ignore_merges` first, then `nfc`.
pub fn find_patterns(
    patterns: &[String],
    bytes: &[String],
    ignore_merges: bool,
    nfc: bool,
) -> Option<&'static Pre> {
    let same = |own: &[&str], other: &[String]| {
        own.len() == other.len() && own.iter().zip(other).all(|(a, b)| normal(a) == normal(b))
    };
    let fits = |pre: &&Pre| same(pre.patterns, patterns) && same(pre.bytes, bytes);
    let rows = TABLE.iter().chain([&DEFAULT]).filter(fits);
    rows.min_by_key(|pre| (pre.ignore_merges != ignore_merges, pre.nfc != nfc))
}

/// A pattern in the one spelling of those that mean the same.
pub fn normal(pattern: &str) -> String {
    const SAME: [(&str, &str); 6] = [
        // A class inside a class.
        ("|[.,!?…。，、।۔،])]+", "|.,!?…。，、।۔،)]+"),
        ("\r", r"\r"),
        ("\n", r"\n"),
        (r"\p{N}{1}", r"\p{N}"),
        (r"\s{1}", r"\s"),
        (r"[\p{Han}]+", r"\p{Han}+"),
    ];
    let mut out = pattern.to_owned();
    for (from, to) in SAME {
        out = out.replace(from, to);
    }
    out
}

/// All names, for messages.
pub fn known() -> String {
    let all = TABLE
        .iter()
        .chain([&DEFAULT])
        .flat_map(|pre| pre.names.iter().copied());
    all.collect::<Vec<_>>().join(", ")
}
