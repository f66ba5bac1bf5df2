//! What `spec.successPolicy` of a Job may say: which indexes, and how many of them, make it a success.
//! Upstream: `validateSuccessPolicy` of pkg/apis/batch/validation.

use crate::field::{self, ErrorList, Path};
use crate::kinds::check::not_negative_if_set;
use crate::types::batch::v1::{SuccessPolicy, SuccessPolicyRule};

const MOST_RULES: usize = 20;
/// Bytes of `succeededIndexes`.
const MOST_TEXT: usize = 64 * 1024;

/// The errors of a policy of a Job with so many completions.
pub(super) fn validate(
    errors: &mut ErrorList,
    policy: &SuccessPolicy,
    completions: Option<i32>,
    path: &Path,
) {
    let path = path.child("rules");
    if policy.rules.is_empty() {
        errors.push(field::required(
            &path,
            "at least one rules must be specified when the successPolicy is specified",
        ));
    }
    if policy.rules.len() > MOST_RULES {
        errors.push(field::too_many(&path, policy.rules.len(), MOST_RULES));
    }
    for (index, one) in policy.rules.iter().enumerate() {
        // Without completions there is an error about these already.
        rule(errors, one, completions.unwrap_or(i32::MAX), &path.index(index));
    }
}

fn rule(errors: &mut ErrorList, rule: &SuccessPolicyRule, completions: i32, path: &Path) {
    if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
        let message = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(field::required(path, message));
    }
    let mut listed = 0;
    if let Some(text) = &rule.succeeded_indexes {
        let path = path.child("succeededIndexes");
        if text.len() > MOST_TEXT {
            errors.push(field::too_long(&path, MOST_TEXT));
        }
        match indexes(text, completions) {
            Ok(number) => listed = number,
            Err(why) => {
                let message = format!("error parsing succeededIndexes: {why}");
                errors.push(field::invalid(&path, text.as_str(), message));
            }
        }
    }
    let path = path.child("succeededCount");
    not_negative_if_set(errors, &path, rule.succeeded_count);
    let Some(count) = rule.succeeded_count else { return };
    if count > completions {
        let message =
            format!("must be less than or equal to {completions} (the number of specified completions)");
        errors.push(field::invalid(&path, count, message));
    }
    if rule.succeeded_indexes.is_some() && i64::from(count) > listed {
        let message = format!(
            "must be less than or equal to {listed} (the number of indexes in the specified succeededIndexes field)"
        );
        errors.push(field::invalid(&path, count, message));
    }
}

/// How many indexes a text like `0,3-5` lists; they must rise, and be below `completions`.
pub(super) fn indexes(text: &str, completions: i32) -> Result<i64, String> {
    let (mut number, mut last) = (0, None);
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (from, to) = interval(part, completions.into())?;
        if let Some(last) = last.filter(|last| *last >= from) {
            return Err(format!("non-increasing order, previous: {last}, current: {from}"));
        }
        number += to - from + 1;
        last = Some(to);
    }
    Ok(number)
}

/// The intervals of such a text that are well formed.
pub(super) fn intervals(text: &str, completions: i32) -> Vec<(i64, i64)> {
    text.split(',').filter_map(|part| interval(part, completions.into()).ok()).collect()
}

fn interval(part: &str, completions: i64) -> Result<(i64, i64), String> {
    let limits: Vec<&str> = part.split('-').collect();
    let limit = |text: &str| match text.parse::<i64>() {
        Err(_) => Err(format!("cannot convert string to integer for index: {text:?}")),
        Ok(index) if index >= completions => Err(format!("too large index: {text:?}")),
        Ok(index) => Ok(index),
    };
    match limits.as_slice() {
        [only] => limit(only).map(|index| (index, index)),
        [from, to] => {
            let (from, to) = (limit(from)?, limit(to)?);
            if from >= to {
                return Err(format!("non-increasing order, previous: {from}, current: {to}"));
            }
            Ok((from, to))
        }
        _ => Err(format!(
            "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn texts(rules: &Value) -> Vec<String> {
        let policy: SuccessPolicy = serde_json::from_value(json!({"rules": rules})).unwrap();
        let mut errors = ErrorList::new();
        validate(&mut errors, &policy, Some(8), &Path::new("successPolicy"));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules() {
        let parsing = |text: &str, why: &str| {
            vec![format!(
                "successPolicy.rules[0].succeededIndexes: Invalid value: {text:?}: error parsing succeededIndexes: {why}"
            )]
        };
        let count = |count: i32, most: &str| {
            format!(
                "successPolicy.rules[0].succeededCount: Invalid value: {count}: must be less than or equal to {most}"
            )
        };
        const FIELD: &str = "(the number of indexes in the specified succeededIndexes field)";
        for (rule, expected) in [
            (json!({"succeededIndexes": "1,3-5,7"}), vec![]),
            (json!({"succeededIndexes": "1,3-5,7", "succeededCount": 5}), vec![]),
            (json!({"succeededIndexes": ""}), vec![]),
            (json!({"succeededIndexes": "0-2147483646"}), parsing("0-2147483646", "too large index: \"2147483646\"")),
            (json!({"succeededIndexes": "8"}), parsing("8", "too large index: \"8\"")),
            (json!({"succeededIndexes": "5,3"}), parsing("5,3", "non-increasing order, previous: 5, current: 3")),
            (json!({"succeededIndexes": "1-3,3"}), parsing("1-3,3", "non-increasing order, previous: 3, current: 3")),
            (json!({"succeededIndexes": "4-2"}), parsing("4-2", "non-increasing order, previous: 4, current: 2")),
            (json!({"succeededIndexes": "-1"}), parsing("-1", "cannot convert string to integer for index: \"\"")),
            (
                json!({"succeededIndexes": "1-2-3"}),
                parsing(
                    "1-2-3",
                    "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'",
                ),
            ),
            (
                json!({"succeededIndexes": "0-2", "succeededCount": 4}),
                vec![count(4, &format!("3 {FIELD}"))],
            ),
            (json!({"succeededCount": 9}), vec![count(9, "8 (the number of specified completions)")]),
            (
                json!({}),
                vec!["successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified".to_owned()],
            ),
        ] {
            assert_eq!(texts(&json!([rule])), expected, "{rule}");
        }
        let many = vec![json!({"succeededCount": 1}); 21];
        assert_eq!(texts(&json!(many)), ["successPolicy.rules: Too many: 21: must have at most 20 items"]);
        let long = json!([{"succeededIndexes": "0,".repeat(33_000)}]);
        assert!(texts(&long)[0].contains("Too long: may not be more than 65536 bytes"));
    }
}
