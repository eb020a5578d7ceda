//! Names that are no files: addresses, repositories of a hub, models of ollama.

/// What a name that is no file looks like, and what to do with it: `None` for anything else.
pub fn remote(typed: &str) -> Option<(&'static str, String)> {
    let lower = typed.to_ascii_lowercase();
    let hub = [
        "https://huggingface.co/",
        "http://huggingface.co/",
        "huggingface.co/",
        "https://hf.co/",
        "hf.co/",
        "hf://",
        "hf:",
    ];
    let hub = hub
        .iter()
        .find(|p| lower.starts_with(**p))
        .map(|p| typed[p.len()..].trim_matches('/'));
    if let Some(path) = hub {
        let mut parts = path.trim_start_matches("models/").splitn(3, '/');
        let repository = [parts.next(), parts.next()]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("/");
        return Some((
            "an address on the Hugging Face Hub",
            fetch(&repository, parts.next()),
        ));
    }
    let schemes = [
        "http://",
        "https://",
        "ftp://",
        "s3://",
        "gs://",
        "ollama://",
        "docker://",
        "ms://",
    ];
    if schemes.iter().any(|s| lower.starts_with(s)) {
        return Some((
            "a URL",
            format!("nothing is downloaded: fetch the file first (curl -LO {typed}), then name it"),
        ));
    }
    if let Some(path) = lower.strip_prefix("file://") {
        return Some(("a URL", format!("name the file itself: {path}")));
    }
    let plain = |s: &str| {
        !s.is_empty()
            && s.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !s.starts_with('.')
    };
    if let Some((name, tag)) = typed.rsplit_once(':')
        && plain(tag)
        && name.len() > 1
        && name.split('/').all(plain)
        && name.split('/').count() <= 2
    {
        return match name
            .split_once('/')
            .filter(|(owner, _)| *owner != "library")
        {
            Some(_) => Some(("a name on the Hugging Face Hub", fetch(name, None))),
            None => Some((
                "a name of ollama",
                format!(
                    "its file can be run: `ollama show {typed} --modelfile` prints its path in the line FROM"
                ),
            )),
        };
    }
    let (owner, name) = typed.split_once('/')?;
    let is_file = [".gguf", ".safetensors", ".bin", ".pt", ".pth", ".json"]
        .iter()
        .any(|e| lower.ends_with(e));
    let folder = std::path::Path::new(owner).is_dir();
    (plain(owner) && plain(name) && !is_file && !folder)
        .then(|| ("a name on the Hugging Face Hub", fetch(typed, None)))
}

/// How a repository gets here.
fn fetch(repository: &str, file: Option<&str>) -> String {
    let repository = repository.split(':').next().unwrap_or_default();
    let folder = repository.rsplit('/').next().unwrap_or_default();
    let file = file.map(|f| {
        ["blob/main/", "resolve/main/", "tree/main/"]
            .iter()
            .fold(f, |f, p| f.strip_prefix(p).unwrap_or(f))
    });
    let file = file
        .and_then(|f| f.split('?').next())
        .filter(|f| f.to_ascii_lowercase().ends_with(".gguf"));
    match file {
        Some(file) => format!(
            "download it first: hf download {repository} {file} --local-dir {folder}; then name {folder}/{file}"
        ),
        None if folder.to_ascii_lowercase().contains("gguf") => {
            format!(
                "download one of its files: hf download {repository} NAME.gguf --local-dir {folder}; then name {folder}/NAME.gguf"
            )
        }
        None => format!(
            "download it first: hf download {repository} --local-dir {folder}; a checkpoint is then converted: \
             geb-quantize {folder} model.gguf"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_elsewhere() {
        for (typed, kind) in [
            ("https://example.org/m.gguf", "a URL"),
            (
                "hf://Qwen/Qwen2.5-0.5B",
                "an address on the Hugging Face Hub",
            ),
            (
                "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
                "an address on the Hugging Face Hub",
            ),
            (
                "https://huggingface.co/Qwen/Qwen3-0.6B/blob/main/config.json",
                "an address on the Hugging Face Hub",
            ),
            ("Qwen/Qwen2.5-0.5B", "a name on the Hugging Face Hub"),
            (
                "unsloth/Qwen3-0.6B-GGUF:Q4_K_M",
                "a name on the Hugging Face Hub",
            ),
            ("llama3.2:1b", "a name of ollama"),
            ("library/llama3.2:latest", "a name of ollama"),
        ] {
            assert_eq!(remote(typed).map(|r| r.0), Some(kind), "{typed}");
        }
        for typed in [
            "model.gguf",
            "./a/b",
            "/a/b",
            "a/b/c",
            "models/x.gguf",
            "smollm2",
            "C:x",
            "src/none",
            "",
        ] {
            assert_eq!(remote(typed).map(|r| r.0), None, "{typed}");
        }
        let (_, advice) =
            remote("https://huggingface.co/a/b/resolve/main/c.gguf?download=true").expect("hub");
        assert!(advice.contains("hf download a/b c.gguf"), "{advice}");
    }
}
