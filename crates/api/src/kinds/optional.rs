//! Optional fields as upstream's structs see them: an absent text is the empty text, an absent number is 0.
//! The wire types have an `Option` for each; these say which of the two a rule means.

/// The text, empty when absent.
pub(crate) fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

/// Whether the text is absent or empty.
pub(crate) fn is_unset(field: &Option<String>) -> bool {
    text(field).is_empty()
}

/// Sets the text unless there is one.
pub(crate) fn default_text(field: &mut Option<String>, value: &str) {
    if is_unset(field) {
        *field = Some(value.to_owned());
    }
}

/// Sets the number when it is absent or 0: for fields whose Go type is no pointer.
pub(crate) fn default_number(field: &mut Option<i32>, value: i32) {
    if field.unwrap_or(0) == 0 {
        *field = Some(value);
    }
}

/// Forgets a `false` that the wire form leaves out: for fields whose Go type is no pointer.
pub(crate) fn drop_false(field: &mut Option<bool>) {
    if *field == Some(false) {
        *field = None;
    }
}

/// The elements, none when absent.
pub(crate) fn items<T>(list: &Option<Vec<T>>) -> &[T] {
    list.as_deref().unwrap_or_default()
}

/// The elements for writing, none when absent.
pub(crate) fn items_mut<T>(list: &mut Option<Vec<T>>) -> &mut [T] {
    list.as_deref_mut().unwrap_or_default()
}
