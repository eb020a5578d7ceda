//! What a file says about itself: general keys, and how it came to be.

use std::collections::BTreeMap;

use geb_kernels::Effort;

use super::family::spec::Family;
use super::folder::Folder;
use super::options::Options;
use super::policy::Policy;
use geb::gguf::writer::MetaValue;

/// Key of the options that shaped the file.
pub(super) const RECIPE: &str = "geb.recipe";

/// `general.*` keys.
pub(super) fn general(
    folder: &Folder,
    config: &serde_json::Value,
    architecture: &str,
    elements: u64,
    policy: &Policy,
) -> Vec<(String, MetaValue)> {
    let given = config
        .get("_name_or_path")
        .and_then(|v| v.as_str())
        .and_then(|p| p.trim_end_matches('/').rsplit('/').next());
    let name = given
        .filter(|n| !n.is_empty() && n.len() <= 128)
        .map_or_else(|| folder.name(), str::to_owned);
    let mut out: Vec<(String, MetaValue)> = vec![
        ("general.architecture".into(), architecture.into()),
        ("general.type".into(), "model".into()),
        ("general.name".into(), name.into()),
        ("general.size_label".into(), size_label(elements).into()),
        (
            "general.file_type".into(),
            MetaValue::U32(policy.mixture.file_type),
        ),
    ];
    if policy.quantized() {
        out.push(("general.quantization_version".into(), MetaValue::U32(2)));
    }
    out
}

/// `4.2M`, `1.3B`.
pub(super) fn size_label(elements: u64) -> String {
    match elements {
        n if n >= 1_000_000_000 => format!("{:.1}B", n as f64 / 1e9),
        n if n >= 1_000_000 => format!("{:.1}M", n as f64 / 1e6),
        n => format!("{}K", n.div_ceil(1000)),
    }
}

/// What the file was made by, from and how. Nothing here depends on time or place.
pub(super) fn provenance(
    recipe: String,
    mut hashes: Vec<(String, String)>,
) -> Vec<(String, MetaValue)> {
    let mut out: Vec<(String, MetaValue)> = vec![
        ("geb.version".into(), env!("CARGO_PKG_VERSION").into()),
        (RECIPE.into(), recipe.into()),
    ];
    if !hashes.is_empty() {
        hashes.sort();
        let unique: BTreeMap<String, String> = hashes.into_iter().collect();
        let (files, sums): (Vec<String>, Vec<String>) = unique.into_iter().unzip();
        out.push(("geb.source.files".into(), MetaValue::Strs(files)));
        out.push(("geb.source.sha256".into(), MetaValue::Strs(sums)));
    }
    out
}

/// The options that shaped the file, in one line.
pub(super) fn recipe(options: &Options, family: Option<&Family>) -> String {
    let mut out = options.policy.to_string();
    out.push_str(match options.search {
        Effort::Reference => "",
        Effort::Fast => "; search fast",
        Effort::Best => "; search best",
    });
    if family.is_some_and(|f| f.open_layout) {
        let l = &options.layout;
        out.push_str(&format!(
            "; geb kv {}, rope {}, mlp {}",
            l.kv_name(),
            l.rope_name(),
            l.mlp_name()
        ));
    }
    if let Some(keep) = &options.keep_experts {
        out.push_str(&format!("; keep experts {keep}"));
    }
    if options.no_heads {
        out.push_str("; no further heads");
    }
    if options.chat_template.is_some() {
        out.push_str("; chat template given");
    }
    out
}
