//! Numbers as the hexadecimal digits of their bytes: exact in any text format, and short.

use bytemuck::Pod;
use serde::{Deserialize, Deserializer, Serializer, de::Error};

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Little-endian bytes, two digits each.
pub(super) fn serialize<T: Pod, S: Serializer>(values: &[T], s: S) -> Result<S::Ok, S::Error> {
    let mut text = String::with_capacity(2 * size_of_val(values));
    for value in values {
        for_each_byte(bytemuck::bytes_of(value), |b| {
            text.push(char::from(DIGITS[usize::from(b >> 4)]));
            text.push(char::from(DIGITS[usize::from(b & 15)]));
        });
    }
    s.serialize_str(&text)
}

/// The reverse; anything else than whole numbers is an error.
pub(super) fn deserialize<'de, T: Pod, D: Deserializer<'de>>(d: D) -> Result<Vec<T>, D::Error> {
    let text = String::deserialize(d)?;
    let each = 2 * size_of::<T>();
    if !text.len().is_multiple_of(each) {
        let message = format!("{} digits, allowed: a multiple of {each}", text.len());
        return Err(D::Error::custom(message));
    }
    let digit = |c: u8| char::from(c).to_digit(16).map(|d| d as u8);
    let value = |digits: &[u8]| {
        let mut bytes = Vec::with_capacity(size_of::<T>());
        for pair in digits.chunks_exact(2) {
            bytes.push(digit(pair[0])? << 4 | digit(pair[1])?);
        }
        if cfg!(target_endian = "big") {
            bytes.reverse();
        }
        Some(bytemuck::pod_read_unaligned(&bytes))
    };
    text.as_bytes()
        .chunks_exact(each)
        .map(|digits| value(digits).ok_or_else(|| D::Error::custom("not a hexadecimal digit")))
        .collect()
}

/// The bytes from the lowest to the highest.
fn for_each_byte(bytes: &[u8], f: impl FnMut(u8)) {
    if cfg!(target_endian = "big") {
        bytes.iter().rev().copied().for_each(f);
    } else {
        bytes.iter().copied().for_each(f);
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Both {
        #[serde(with = "super")]
        a: Vec<f32>,
        #[serde(with = "super")]
        b: Vec<u8>,
    }

    #[test]
    fn every_bit_comes_back() {
        let both = Both {
            a: vec![0.1, -0.0, f32::MIN_POSITIVE / 4.0, 1.0e30],
            b: vec![0, 255, 16],
        };
        let text = serde_json::to_string(&both).unwrap();
        assert!(
            text.contains("\"cdcccc3d00000080") && text.contains("\"00ff10\""),
            "{text}"
        );
        let back: Both = serde_json::from_str(&text).unwrap();
        let bits = |b: &Both| b.a.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!((bits(&back), &back.b), (bits(&both), &both.b));
    }

    #[test]
    fn broken_text_is_refused() {
        for text in [
            r#"{"a":"cdcccc3","b":""}"#,
            r#"{"a":"cdcccc3g","b":""}"#,
            r#"{"a":"é€é","b":"0"}"#,
        ] {
            assert!(serde_json::from_str::<Both>(text).is_err(), "{text}");
        }
    }
}
