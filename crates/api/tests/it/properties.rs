//! Properties of texts that clients send: what is written is read as the same, and what is no such text is refused.

use std::collections::BTreeMap;

use api::quantity::{self, Quantity};
use api::selector::{fields, labels};
use proptest::collection::vec;
use proptest::prelude::*;

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9]{0,4}",
        "[a-z]{1,3}\\.[a-z]{1,3}/[A-Za-z][a-z_.-]{0,3}[a-z]",
        Just("in".to_owned())
    ]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof!["[a-zA-Z0-9]{1,3}", Just(String::new()), "[1-9][0-9]{0,3}"]
}

fn requirement() -> impl Strategy<Value = String> {
    prop_oneof![
        key(),
        key().prop_map(|key| format!("!{key}")),
        (key(), prop::sample::select(&["=", "==", "!="][..]), value())
            .prop_map(|(key, sign, value)| key + sign + &value),
        (key(), prop::sample::select(&["in", "notin"][..]), vec(value(), 1..4))
            .prop_map(|(key, word, values)| format!("{key} {word} ({})", values.join(", "))),
        (key(), prop::sample::select(&["<", ">"][..]), 0..10_000)
            .prop_map(|(key, sign, n)| format!("{key}{sign}{n}")),
    ]
}

fn quantity() -> impl Strategy<Value = String> {
    const SUFFIXES: [&str; 18] =
        ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "e3", "E-7"];
    ("[+-]?[0-9]{1,12}(\\.[0-9]{0,24})?", prop::sample::select(&SUFFIXES[..]))
        .prop_map(|(number, suffix)| number + suffix)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn label_selectors_are_read_as_they_were_written(
        requirements in vec(requirement(), 0..4), labels in proptest::collection::btree_map(key(), value(), 0..4),
    ) {
        let text = requirements.join(",");
        let selector = labels::Selector::parse(&text);
        prop_assert!(selector.is_ok(), "{text} {selector:?}");
        let selector = selector.unwrap();
        let again = labels::Selector::parse(&selector.to_string());
        prop_assert_eq!(again.as_ref(), Ok(&selector));
        // All requirements hold, or the selector does not.
        let labels: BTreeMap<String, String> = labels;
        let each = requirements.iter().all(|one| labels::Selector::parse(one).unwrap().matches(&labels));
        prop_assert_eq!(selector.matches(&labels), each);
    }

    #[test]
    fn field_selectors_are_read_as_they_were_written(
        terms in vec(("[a-z.]{1,8}", any::<bool>(), "[a-z=,\\\\!]{0,6}"), 0..4),
    ) {
        let written: Vec<String> = terms
            .iter()
            .map(|(field, equal, value)| {
                let escaped: String = value
                    .chars()
                    .flat_map(|c| ['\\'].into_iter().filter(move |_| "\\,=".contains(c)).chain([c]))
                    .collect();
                format!("{field}{}{escaped}", if *equal { "=" } else { "!=" })
            })
            .collect();
        let selector = fields::Selector::parse(&written.join(",")).unwrap();
        let read: Vec<_> =
            selector.requirements().iter().map(|one| (one.field.clone(), one.equal, one.value.clone())).collect();
        prop_assert_eq!(read, terms);
        prop_assert_eq!(fields::Selector::parse(&selector.to_string()), Ok(selector));
    }

    #[test]
    fn any_text_is_a_selector_or_refused(text in "\\PC{0,24}", words in "[ab=!,()<> \\\\inot]{0,24}") {
        for text in [text, words] {
            if let Ok(selector) = labels::Selector::parse(&text) {
                prop_assert_eq!(labels::Selector::parse(&selector.to_string()), Ok(selector));
            }
            if let Ok(selector) = fields::Selector::parse(&text) {
                prop_assert_eq!(fields::Selector::parse(&selector.to_string()), Ok(selector));
            }
        }
    }

    #[test]
    fn quantities_have_one_canonical_form(one in quantity(), other in quantity(), text in "[-+0-9.eEinumkKMGTP]{0,12}") {
        for text in [&one, &other, &text] {
            let Some(canonical) = quantity::canonical(text) else { continue };
            prop_assert_eq!(Quantity::parse(&canonical), Quantity::parse(text));
            prop_assert_eq!(quantity::canonical(&canonical), Some(canonical));
        }
        let (one, other) = (Quantity::parse(&one).unwrap(), Quantity::parse(&other).unwrap());
        prop_assert_eq!(one + other, other + one);
        // Sums end at the largest amount.
        let sum = one + other;
        prop_assert!(if one.is_negative() { sum <= other } else { sum >= other }, "{} {}", one, other);
        prop_assert!(one.milli_value() >= one.value().saturating_sub(1).saturating_mul(1000));
    }
}
