//! Sets of completion indexes in the wire's form: `0,3-5,7`.
//!
//! Upstream: `pkg/controller/job/indexed_job_utils.go`.

use std::collections::BTreeSet;
use std::fmt::Write;

/// The indexes that `text` lists, without those that are not below `bound`. What cannot be read is left out.
pub(super) fn parse(text: &str, bound: i32) -> BTreeSet<i32> {
    let mut indexes = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            indexes.extend(first.max(0)..last.saturating_add(1).min(bound));
        }
    }
    indexes
}

/// The wire's form of a set: runs of three or more as a range, two as a pair.
pub(super) fn format(indexes: &BTreeSet<i32>) -> String {
    let mut text = String::new();
    let mut rest = indexes.iter().copied().peekable();
    while let Some(first) = rest.next() {
        let mut last = first;
        while rest.next_if_eq(&(last + 1)).is_some() {
            last += 1;
        }
        if !text.is_empty() {
            text.push(',');
        }
        // Writing to a String cannot fail.
        let _ = match last - first {
            0 => write!(text, "{first}"),
            1 => write!(text, "{first},{last}"),
            _ => write!(text, "{first}-{last}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_and_their_text() {
        for (text, bound, expected, again) in [
            ("", 5, vec![], ""),
            ("0", 5, vec![0], "0"),
            ("0,2-4", 9, vec![0, 2, 3, 4], "0,2-4"),
            ("1,2", 9, vec![1, 2], "1,2"),
            ("1-2", 9, vec![1, 2], "1,2"),
            ("0-9", 3, vec![0, 1, 2], "0-2"),
            ("x,1", 9, vec![1], "1"),
        ] {
            let set = parse(text, bound);
            assert_eq!(set.iter().copied().collect::<Vec<_>>(), expected, "{text}");
            assert_eq!(format(&set), again, "{text}");
        }
    }
}
