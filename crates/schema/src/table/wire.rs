//! How upstream's structs hold each field: its number in protobuf, and what becomes of zero.
//! Reads `generated/protobuf.txt`: on each line a definition and a word for each field, `NAME=NUMBER` or, where JSON has
//! inlined the message that holds it, `NAME=NUMBER.NUMBER`, with a mark behind it.
//! Not here: how the text is made (`xtask::protobuf`), the messages (`protobuf`).

use std::collections::HashMap;
use std::sync::OnceLock;

static TEXT: &str = include_str!("../generated/protobuf.txt");

/// What becomes of a field that holds zero: an empty text or list, `0`, `false`. Structs that upstream holds by value are
/// [`Zero::Omitted`] or [`Zero::Written`]: they are always there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Zero {
    /// Zero is nothing: the field is left out.
    #[default]
    Omitted,
    /// Upstream holds a pointer: zero is a value of its own.
    Kept,
    /// There is no nothing: what is not given is zero, and zero is written.
    Written,
    /// A pointer, which is written as null when there is nothing.
    Null,
}

/// What the text says of a field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word {
    pub(crate) name: &'static str,
    /// Field numbers with points between them, outermost first.
    pub(crate) path: &'static str,
    pub(crate) zero: Zero,
}

/// The words of each definition.
pub(crate) fn lines() -> &'static HashMap<&'static str, &'static str> {
    static LINES: OnceLock<HashMap<&'static str, &'static str>> = OnceLock::new();
    LINES.get_or_init(|| {
        let lines = TEXT.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.split_once(' ').unwrap_or((line, ""))).collect()
    })
}

/// The fields that a definition's words name.
pub(crate) fn words(line: &'static str) -> impl Iterator<Item = Word> {
    line.split(' ').filter_map(|word| {
        let (name, path) = word.split_once('=')?;
        let (path, mark) = path.split_at(path.find(['?', '!']).unwrap_or(path.len()));
        let zero = match mark {
            "?" => Zero::Kept,
            "?!" => Zero::Null,
            "!" => Zero::Written,
            _ => Zero::Omitted,
        };
        Some(Word { name, path, zero })
    })
}

/// What becomes of zero in a field of a definition.
pub(super) fn zero(definition: &str, field: &str, required: bool) -> Zero {
    let known = lines().get(definition).and_then(|line| words(line).find(|word| word.name == field));
    // What has no number is JSON's alone: the kind of an object, and documents such as those of discovery.
    known.map_or(if required { Zero::Written } else { Zero::Omitted }, |word| word.zero)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::table;

    #[test]
    fn zero_is_what_go_makes_of_it() {
        let cases = [
            ("core.v1.ServicePort", "nodePort", Zero::Omitted),
            ("core.v1.ServicePort", "port", Zero::Written),
            ("core.v1.Toleration", "tolerationSeconds", Zero::Kept),
            ("core.v1.Toleration", "key", Zero::Omitted),
            ("core.v1.PodSpec", "hostNetwork", Zero::Omitted),
            ("core.v1.PodSpec", "priority", Zero::Kept),
            ("apps.v1.ReplicaSetSpec", "replicas", Zero::Kept),
            ("apps.v1.ReplicaSetStatus", "replicas", Zero::Written),
            ("batch.v1.JobStatus", "ready", Zero::Kept),
            ("core.v1.ContainerStatus", "ready", Zero::Written),
            ("core.v1.ConfigMapVolumeSource", "optional", Zero::Kept),
            ("core.v1.PodSpec", "containers", Zero::Written),
            ("apps.v1.DeploymentSpec", "selector", Zero::Null),
            ("core.v1.Pod", "kind", Zero::Omitted),
        ];
        for (definition, field, expected) in cases {
            let definition = table().definition(&format!("io.k8s.api.{definition}")).unwrap();
            assert_eq!(definition.field(field).unwrap().zero, expected, "{}.{field}", definition.name);
        }
    }

    #[test]
    fn every_word_is_of_a_field_and_most_fields_have_one() {
        for (name, line) in lines() {
            let definition = table().definition(name).unwrap_or_else(|| panic!("no definition {name}"));
            for word in words(line) {
                assert!(definition.field(word.name).is_some(), "{name}.{}", word.name);
                let numbers = word.path.split('.').map(str::parse::<u32>);
                assert!(numbers.into_iter().all(|number| number.is_ok_and(|number| number > 0)), "{name}");
            }
            // The two that say what an object is, and nothing else, have no number.
            let missing =
                definition.fields.iter().filter(|field| !words(line).any(|word| word.name == field.name));
            let missing: Vec<&str> = missing.map(|field| field.name).collect();
            assert!(missing.iter().all(|name| ["apiVersion", "kind"].contains(name)), "{name}: {missing:?}");
        }
    }
}
