//! What upstream's OpenAPI says of definitions and fields in words, and the values of enumerated fields.
//!
//! The words are a compressed text that `cargo xtask codegen descriptions` makes; it is unpacked for the document that
//! is being made and not kept. They are those of the Kubernetes API (Copyright The Kubernetes Authors, Apache License
//! 2.0). Not here: names and types (`table`).
//!
//! Grammar of the text, one line each, a newline inside as `\n` and a backslash as `\\`: `= NAME DESCRIPTION` opens a
//! definition, `FIELD DESCRIPTION` is one of its fields; what has no description has no line.

use std::collections::HashMap;
use std::sync::LazyLock;

static PACKED: &[u8] = include_bytes!("../generated/descriptions.zst");
/// The longest the text can become; it is ours, so this only bounds a mistake.
const LONGEST: usize = 4 << 20;

/// By definition and field.
type Enums = HashMap<&'static str, HashMap<&'static str, Vec<&'static str>>>;

static ENUMS: LazyLock<Enums> = LazyLock::new(|| {
    let lines = include_str!("enums.txt").lines().filter(|line| !line.starts_with('#'));
    let mut enums = Enums::new();
    for line in lines {
        let mut words = line.split(' ');
        let (Some(definition), Some(field)) = (words.next(), words.next()) else { continue };
        let values = words.map(|word| if word == "\"\"" { "" } else { word }).collect();
        enums.entry(definition).or_default().insert(field, values);
    }
    enums
});

/// The values of an enumerated field, or of the elements of a list of them.
pub(super) fn values(definition: &str, field: &str) -> Option<&'static [&'static str]> {
    let short = definition.strip_prefix("io.k8s.api.")?;
    ENUMS.get(short)?.get(field).map(Vec::as_slice)
}

/// The words, unpacked.
pub(super) struct Descriptions {
    text: String,
    /// Where the line of each definition ends, and its first byte after the name.
    places: HashMap<String, (usize, usize)>,
}

impl Descriptions {
    /// Unpacks them.
    pub fn unpack() -> Self {
        let text = zstd::bulk::decompress(PACKED, LONGEST).ok().and_then(|text| String::from_utf8(text).ok());
        let text = text.unwrap_or_default();
        let mut places = HashMap::with_capacity(1024);
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            if let Some(rest) = line.strip_prefix("= ") {
                let name = rest.split([' ', '\n']).next().unwrap_or_default();
                places.insert(name.to_owned(), (at + 2 + name.len(), at + line.len()));
            }
            at += line.len();
        }
        Self { text, places }
    }

    /// What a definition is, and what its fields are, sorted by name.
    pub fn of(&self, definition: &str) -> Words<'_> {
        let Some(&(start, end)) = self.places.get(definition) else { return Words::default() };
        let fields = self.text[end..].lines().take_while(|line| !line.starts_with("= "));
        Words {
            own: self.text[start..end].trim(),
            fields: fields.filter_map(|line| line.split_once(' ')).collect(),
        }
    }
}

/// The words of one definition.
#[derive(Default)]
pub(super) struct Words<'a> {
    own: &'a str,
    fields: Vec<(&'a str, &'a str)>,
}

impl Words<'_> {
    /// Of the definition itself.
    pub fn own(&self) -> Option<String> {
        (!self.own.is_empty()).then(|| unescape(self.own))
    }

    /// Of a field.
    pub fn field(&self, name: &str) -> Option<String> {
        let at = self.fields.binary_search_by_key(&name, |(field, _)| field).ok()?;
        self.fields.get(at).map(|(_, words)| unescape(words))
    }
}

fn unescape(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => out.push(if characters.next() == Some('n') { '\n' } else { '\\' }),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Type, table};

    #[test]
    fn every_enumerated_field_is_there_and_a_text() {
        let pairs =
            ENUMS.iter().flat_map(|(definition, fields)| fields.keys().map(move |field| (definition, field)));
        for (definition, field) in pairs {
            let full = format!("io.k8s.api.{definition}");
            let found = table().definition(&full).unwrap_or_else(|| panic!("{full} is no definition"));
            let field = found.fields.iter().find(|known| known.name == *field);
            let field = field.unwrap_or_else(|| panic!("{full} has no such field"));
            let is_text = match &field.r#type {
                Type::Array(element) => **element == Type::String,
                other => *other == Type::String,
            };
            assert!(is_text, "{full} {}", field.name);
        }
        for values in ENUMS.values().flat_map(HashMap::values) {
            assert!(values.len() > 1 && values.is_sorted(), "{values:?}");
        }
    }

    #[test]
    fn definitions_and_fields_have_words() {
        let all = Descriptions::unpack();
        let pod = all.of("io.k8s.api.core.v1.PodSpec");
        assert_eq!(pod.own().as_deref(), Some("PodSpec is a description of a pod."));
        assert!(
            pod.field("containers")
                .is_some_and(|words| words.contains("Containers cannot currently be added"))
        );
        assert_eq!(pod.field("no such field"), None);
        assert_eq!(all.of("no such definition").own(), None);
        // Nearly every definition that is published has a description.
        let without = table().names().filter(|name| all.of(name).own().is_none()).count();
        assert!(without < 60, "{without} definitions have no words");
    }

    #[test]
    fn newlines_come_back() {
        assert_eq!(unescape(r"a\nb\\n"), "a\nb\\n");
    }
}
