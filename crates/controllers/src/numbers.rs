//! Numbers that may be percentages, and hashes that become names.
//!
//! Upstream: `apimachinery/pkg/util/intstr`, `pkg/util/hash`, `apimachinery/pkg/util/rand`.

use api::meta::IntOrString;
use serde::Serialize;

/// A number, or a percentage of `total`, rounded as asked. What is neither counts as nothing; validation has refused it.
pub(crate) fn scaled(value: &IntOrString, total: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let Some(percent) = text.strip_suffix('%').and_then(|digits| digits.parse::<i64>().ok()) else {
                return 0;
            };
            let product = percent * i64::from(total);
            (if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) }) as i32
        }
    }
}

/// FNV-1a over the canonical JSON of a value (fields and maps in a fixed order), in letters that form no words.
pub(crate) fn hash_name<T: Serialize>(value: &T, collisions: Option<i32>) -> String {
    let mut hash: u32 = 0x811c_9dc5;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    };
    // Typed objects always serialize.
    feed(&serde_json::to_vec(value).unwrap_or_default());
    if let Some(collisions) = collisions {
        feed(&collisions.to_le_bytes());
    }
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    hash.to_string().bytes().map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        for (value, total, up, down) in
            [("25%", 10, 3, 2), ("0%", 10, 0, 0), ("100%", 3, 3, 3), ("50%", 0, 0, 0), ("x", 3, 0, 0)]
        {
            let value = IntOrString::String(value.to_owned());
            assert_eq!((scaled(&value, total, true), scaled(&value, total, false)), (up, down), "{value:?}");
        }
        assert_eq!(scaled(&IntOrString::Int(4), 10, false), 4);
    }

    #[test]
    fn names_are_stable_and_differ_by_collisions() {
        assert_eq!(hash_name(&"a", None), hash_name(&"a", None));
        assert_ne!(hash_name(&"a", None), hash_name(&"b", None));
        assert_ne!(hash_name(&"a", Some(1)), hash_name(&"a", Some(2)));
    }
}
