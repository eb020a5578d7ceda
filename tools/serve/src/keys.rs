//! Who may ask: API keys, compared by their digests, all of them, in the same time whatever is sent.

use std::path::Path;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use geb::engine::Scope;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::limits;

/// The keys of a server; without any, everybody may ask.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<Key>);

#[derive(Clone, Debug)]
struct Key {
    name: String,
    digest: [u8; 32],
}

/// Who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The name of the key, or the address without keys.
    pub name: String,
    /// What the scheduler serves in turn.
    pub id: u64,
    /// Who shares what was computed with whom.
    pub scope: Scope,
}

impl Owner {
    /// The owner of a name.
    pub fn new(name: impl Into<String>) -> Owner {
        let name = name.into();
        let digest: [u8; 32] = Sha256::digest(name.as_bytes()).into();
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        Owner {
            name,
            id: u64::from_le_bytes(id),
            scope: Scope(digest),
        }
    }
}

impl Keys {
    /// Reads `name:key` per line; empty lines and those that begin with `#` do not count.
    ///
    /// # Errors
    /// A sentence: for a file that others can read, a line without a colon, an empty or long name or key, a name
    /// or key that is there twice, no line at all.
    pub fn read(path: &Path) -> Result<Keys, String> {
        let at = |e: String| format!("{}: {e}", path.display());
        let meta = std::fs::metadata(path).map_err(|e| at(e.to_string()))?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = meta.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(at(format!(
                    "its mode is {mode:03o}, allowed: readable by its owner alone (chmod 600)"
                )));
            }
        }
        #[cfg(not(unix))]
        let _ = meta;
        let text = std::fs::read_to_string(path).map_err(|e| at(e.to_string()))?;
        Self::parse(&text).map_err(at)
    }

    /// As [`Keys::read`], of a text.
    ///
    /// # Errors
    /// As [`Keys::read`]; the sentence never has a key in it.
    pub fn parse(text: &str) -> Result<Keys, String> {
        let mut keys: Vec<Key> = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = |what: &str| format!("line {}: {what}, allowed: name:key", i + 1);
            let (name, key) = line.split_once(':').ok_or_else(|| bad("no colon"))?;
            if name.is_empty() || key.is_empty() || key.len() > limits::KEY_BYTES {
                return Err(bad("an empty name, or an empty or very long key"));
            }
            let digest = Sha256::digest(key.as_bytes()).into();
            if keys.iter().any(|k| k.name == name || k.digest == digest) {
                return Err(bad("a name or key that is there twice"));
            }
            let name = name.to_owned();
            keys.push(Key { name, digest });
        }
        match keys.is_empty() {
            true => Err("no key, allowed: name:key per line".into()),
            false => Ok(Keys(keys)),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The owner of the key in these headers, `Authorization: Bearer KEY` or `x-api-key: KEY`; the owner of
    /// `address` if there are no keys.
    pub fn owner(&self, headers: &HeaderMap, address: &str) -> Option<Owner> {
        if self.is_empty() {
            return Some(Owner::new(address));
        }
        let bearer = headers
            .get(AUTHORIZATION)
            .and_then(|v| v.as_bytes().strip_prefix(b"Bearer "));
        let plain = headers.get("x-api-key").map(|v| v.as_bytes());
        let mut found = None;
        for sent in [bearer, plain].into_iter().flatten() {
            let digest: [u8; 32] = Sha256::digest(sent).into();
            for key in &self.0 {
                if bool::from(key.digest.ct_eq(&digest)) {
                    found = Some(key);
                }
            }
        }
        found.map(|key| Owner::new(&*key.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn keys_have_owners() {
        let keys = Keys::parse("# ours\nada:sk-1\n\nbob:sk:2\n").unwrap();
        let owner = |h: &HeaderMap| keys.owner(h, "x").map(|o| o.name);
        assert_eq!(
            owner(&headers("authorization", "Bearer sk-1")).as_deref(),
            Some("ada")
        );
        assert_eq!(owner(&headers("x-api-key", "sk:2")).as_deref(), Some("bob"));
        for bad in [
            "Bearer sk-",
            "Bearer ",
            "Bearer sk-11",
            "sk-1",
            "Basic sk-1",
            "",
        ] {
            assert_eq!(owner(&headers("authorization", bad)), None, "{bad}");
        }
        assert_eq!(owner(&HeaderMap::new()), None);
        assert_ne!(Owner::new("ada").scope, Owner::new("bob").scope);
    }

    #[test]
    fn without_keys_the_address_owns() {
        let headers = headers("authorization", "Bearer ");
        assert_eq!(
            Keys::default().owner(&headers, "::1"),
            Some(Owner::new("::1"))
        );
    }

    #[test]
    fn bad_files_are_refused_without_their_keys() {
        for bad in [
            "",
            "#x",
            "secret",
            ":secret",
            "ada:",
            "a:secret\nb:secret",
            "a:1\na:secret",
        ] {
            let error = Keys::parse(bad).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
