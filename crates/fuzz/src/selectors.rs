//! What stands in queries and fields as text: selectors and quantities.

use api::quantity::Quantity;
use api::selector::{fields, labels};

/// Label and field selectors: what is read and written out is read as the same.
pub fn selector(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(selector) = labels::Selector::parse(text) {
        let written = selector.to_string();
        assert_eq!(labels::Selector::parse(&written), Ok(selector), "{text:?} {written:?}");
    }
    if let Ok(selector) = fields::Selector::parse(text) {
        let written = selector.to_string();
        assert_eq!(fields::Selector::parse(&written), Ok(selector), "{text:?} {written:?}");
    }
}

/// Quantities: two of them, with a zero byte between.
pub fn quantity(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read: Vec<Quantity> = text.split('\0').filter_map(|text| Quantity::parse(text).ok()).collect();
    for one in &read {
        let written = one.to_string();
        assert_eq!(Quantity::parse(&written), Ok(*one), "{text:?} {written:?}");
        assert_eq!(Quantity::parse(&written).map(|again| again.to_string()), Ok(written));
        let _ = (one.value(), one.milli_value());
    }
    if let [one, other] = read[..] {
        assert_eq!(one + other, other + one);
        assert_eq!(one.cmp(&other), other.cmp(&one).reverse());
        let _ = one - other;
    }
}
