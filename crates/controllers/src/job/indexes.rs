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

/// How many indexes below `bound` the `text` lists, and how many of these are `among` some. Without listing them: a
/// user may name all there can be.
pub(super) fn count(text: &str, bound: i32, among: &BTreeSet<i32>) -> (usize, usize) {
    let mut ranges: Vec<(i32, i32)> = text
        .split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.parse::<i32>().ok()?.max(0), last.parse::<i32>().ok()?);
            let end = last.saturating_add(1).min(bound);
            (first < end).then_some((first, end))
        })
        .collect();
    ranges.sort_unstable();
    let (mut all, mut present, mut counted) = (0, 0, 0);
    for (first, end) in ranges {
        // Ranges may overlap.
        let first = first.max(counted);
        if first < end {
            all += usize::try_from(end - first).unwrap_or(0);
            present += among.range(first..end).count();
            counted = end;
        }
    }
    (all, present)
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
    fn indexes_are_counted_without_being_listed() {
        let among = BTreeSet::from([0, 2, 7, 9]);
        for (text, bound, expected) in [
            ("", 9, (0, 0)),
            ("0-9", 9, (9, 3)),
            ("0-2147483647", i32::MAX, (i32::MAX as usize, 4)),
            ("2-4,3-7,7,x,5-1", 100, (6, 2)),
        ] {
            assert_eq!(count(text, bound, &among), expected, "{text}");
        }
    }

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
