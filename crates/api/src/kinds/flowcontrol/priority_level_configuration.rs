//! PriorityLevelConfiguration: how much of the server a kind of requests may use.
//! Upstream: pkg/registry/flowcontrol/prioritylevelconfiguration, pkg/apis/flowcontrol.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::rules;
use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Subresources, Typed};
use crate::kinds::check::json as value_of;
use crate::kinds::optional::{items, text};
use crate::kinds::row;
use crate::types::flowcontrol::v1::{
    LimitedPriorityLevelConfiguration, PriorityLevelConfiguration, PriorityLevelConfigurationSpec,
    QueuingConfiguration,
};

const EXEMPT: &str = "exempt";

const QUEUES_MAX: i32 = 10_000_000;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        subresources: Subresources { status: true, ..Subresources::default() },
        resets: &[("status", &["metadata"])],
        generation: true,
        columns: vec![
            Column::object_name(),
            Column::new("Type", "string", "Whether it is limited."),
            Column::new("NominalConcurrencyShares", "string", "Its share of the server."),
            Column::new("Queues", "string", "How many queues it has."),
            Column::new("HandSize", "string", "How many queues a flow may use."),
            Column::new("QueueLengthLimit", "string", "How many requests a queue holds."),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<PriorityLevelConfiguration>::new()
                .status(|| Some(json!({})))
                .default_with(default)
                .validate(validate)
                .validate_status_update(validate_status_update)
                .cells(cells),
        ),
        ..Descriptor::new(
            "flowcontrol.apiserver.k8s.io",
            "v1",
            "PriorityLevelConfiguration",
            "prioritylevelconfigurations",
            Scope::Cluster,
        )
    }
}

fn default(level: &mut PriorityLevelConfiguration) {
    let spec = &mut level.spec;
    if spec.type_ == "Exempt" {
        let exempt = spec.exempt.get_or_insert_default();
        exempt.nominal_concurrency_shares.get_or_insert(0);
        exempt.lendable_percent.get_or_insert(0);
    }
    if let Some(limited) = &mut spec.limited {
        limited.nominal_concurrency_shares.get_or_insert(30);
        limited.lendable_percent.get_or_insert(0);
        if let Some(queuing) = &mut limited.limit_response.queuing {
            queuing.queues.get_or_insert(64);
            queuing.hand_size.get_or_insert(8);
            queuing.queue_length_limit.get_or_insert(50);
        }
    }
}

fn validate(level: &PriorityLevelConfiguration) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let spec = &level.spec;
    let (name, kind) = (text(&level.metadata.name), spec.type_.as_str());
    if (name == EXEMPT) != (kind == "Exempt") {
        let message = "type must be 'Exempt' if and only if name is 'exempt'";
        errors.push(field::invalid(&path.child("type"), kind, message));
    }
    let (limited_path, exempt_path) = (path.child("limited"), path.child("exempt"));
    match kind {
        "Exempt" => {
            if spec.limited.is_some() {
                errors.push(field::forbidden(&limited_path, "must be nil if the type is not Limited"));
            }
            if let Some(exempt) = &spec.exempt {
                let shares = exempt.nominal_concurrency_shares;
                shares_and_lending(&mut errors, &exempt_path, shares, exempt.lendable_percent);
            }
        }
        "Limited" => {
            if spec.exempt.is_some() {
                errors.push(field::forbidden(&exempt_path, "must be nil if the type is Limited"));
            }
            match &spec.limited {
                None => {
                    let message = "must not be empty when type is Limited";
                    errors.push(field::required(&limited_path, message));
                }
                Some(limited) => self::limited(&mut errors, limited, &limited_path),
            }
        }
        other => errors.push(field::not_supported(&path.child("type"), other, &["Exempt", "Limited"])),
    }
    let is_fixed = match name {
        // How much of the server it counts for is the administrator's to say.
        EXEMPT if kind != "Exempt" || spec.limited.is_some() => {
            Err("spec of 'exempt' except the 'spec.exempt' field must equal the fixed value")
        }
        "catch-all" if !is_fixed_catch_all(spec) => Err("spec of 'catch-all' must equal the fixed value"),
        _ => Ok(()),
    };
    if let Err(message) = is_fixed {
        errors.push(field::invalid(&path, value_of(spec), message));
    }
    errors
}

/// The level of last resort, which a server cannot do without.
fn is_fixed_catch_all(spec: &PriorityLevelConfigurationSpec) -> bool {
    let fixed = json!({"type": "Limited", "limited": {
        "nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}}});
    value_of(spec) == fixed
}

fn shares_and_lending(errors: &mut ErrorList, path: &Path, shares: Option<i32>, percent: Option<i32>) {
    if let Some(shares) = shares.filter(|shares| *shares < 0) {
        let path = path.child("nominalConcurrencyShares");
        errors.push(field::invalid(&path, shares, "must be a non-negative integer"));
    }
    if let Some(percent) = percent.filter(|percent| !(0..=100).contains(percent)) {
        let path = path.child("lendablePercent");
        errors.push(field::invalid(&path, percent, "must be between 0 and 100, inclusive"));
    }
}

fn limited(errors: &mut ErrorList, limited: &LimitedPriorityLevelConfiguration, path: &Path) {
    shares_and_lending(errors, path, limited.nominal_concurrency_shares, limited.lendable_percent);
    if let Some(percent) = limited.borrowing_limit_percent.filter(|percent| *percent < 0) {
        let path = path.child("borrowingLimitPercent");
        errors.push(field::invalid(&path, percent, "if specified, must be a non-negative integer"));
    }
    let path = path.child("limitResponse");
    match (&*limited.limit_response.type_, &limited.limit_response.queuing) {
        ("Reject", Some(_)) => {
            let message = "must be nil if limited.limitResponse.type is not Limited";
            errors.push(field::forbidden(&path.child("queuing"), message));
        }
        ("Queue", None) => {
            let message = "must not be empty if limited.limitResponse.type is Limited";
            errors.push(field::required(&path.child("queuing"), message));
        }
        ("Queue", Some(queuing)) => queues(errors, queuing, &path.child("queuing")),
        ("Reject", None) => {}
        (other, _) => errors.push(field::not_supported(&path.child("type"), other, &["Queue", "Reject"])),
    }
}

/// Dealing a hand of queues uses up bits of a hash, of which there are 60.
fn queues(errors: &mut ErrorList, queuing: &QueuingConfiguration, path: &Path) {
    const HASH_BITS: f64 = 60.0;
    let (queues, hand) = (queuing.queues.unwrap_or(0), queuing.hand_size.unwrap_or(0));
    let mut refuse = |name: &'static str, number: i32, message: String| {
        errors.push(field::invalid(&path.child(name), number, message));
    };
    let limit = queuing.queue_length_limit.unwrap_or(0);
    if limit <= 0 {
        refuse("queueLengthLimit", limit, "must be positive".to_owned());
    }
    if queues <= 0 {
        refuse("queues", queues, "must be positive".to_owned());
    } else if queues > QUEUES_MAX {
        refuse("queues", queues, format!("must not be greater than {QUEUES_MAX}"));
    }
    if hand <= 0 {
        refuse("handSize", hand, "must be positive".to_owned());
    } else if hand > queues {
        refuse("handSize", hand, format!("should not be greater than queues ({queues})"));
    } else if (f64::from(queues).log2() * f64::from(hand)).ceil() > HASH_BITS {
        let message = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        refuse("handSize", hand, message);
    }
}

fn validate_status_update(new: &PriorityLevelConfiguration, _: &PriorityLevelConfiguration) -> ErrorList {
    let conditions = new.status.as_ref().map(|status| items(&status.conditions)).unwrap_or_default();
    rules::conditions(conditions.iter().map(|condition| condition.type_.as_str()))
}

fn cells(level: &PriorityLevelConfiguration, now: Timestamp) -> Vec<Value> {
    let limited = level.spec.limited.as_ref();
    let queuing = limited.and_then(|limited| limited.limit_response.queuing.as_ref());
    let number = |number: Option<i32>| number.map_or_else(|| row::NONE.into(), Value::from);
    vec![
        row::name(&level.metadata),
        level.spec.type_.clone().into(),
        number(limited.and_then(|limited| limited.nominal_concurrency_shares)),
        number(queuing.and_then(|queuing| queuing.queues)),
        number(queuing.and_then(|queuing| queuing.hand_size)),
        number(queuing.and_then(|queuing| queuing.queue_length_limit)),
        row::age(&level.metadata, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(name: &str, spec: Value) -> Vec<String> {
        let mut level = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        default(&mut level);
        validate(&level).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn levels_are_checked() {
        let queue = |queuing: Value| json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": queuing}}});
        for (name, spec, expected) in [
            ("a", queue(json!({})), vec![]),
            ("exempt", json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 7}}), vec![]),
            (
                "a",
                json!({"type": "Exempt"}),
                vec![
                    r#"spec.type: Invalid value: "Exempt": type must be 'Exempt' if and only if name is 'exempt'"#,
                ],
            ),
            (
                "a",
                json!({"type": "Limited"}),
                vec!["spec.limited: Required value: must not be empty when type is Limited"],
            ),
            (
                "a",
                json!({"type": "Limited", "limited": {"nominalConcurrencyShares": -1, "lendablePercent": 101,
                       "borrowingLimitPercent": -1, "limitResponse": {"type": "Reject", "queuing": {}}}}),
                vec![
                    "spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer",
                    "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
                    "spec.limited.borrowingLimitPercent: Invalid value: -1: if specified, must be a non-negative integer",
                    "spec.limited.limitResponse.queuing: Forbidden: must be nil if limited.limitResponse.type is not Limited",
                ],
            ),
            (
                "a",
                queue(json!({"queues": 4, "handSize": 5})),
                vec![
                    "spec.limited.limitResponse.queuing.handSize: Invalid value: 5: should not be greater than queues (4)",
                ],
            ),
            (
                "a",
                queue(json!({"queues": 512, "handSize": 8})),
                vec![
                    "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: required entropy bits of deckSize 512 and handSize 8 should not be greater than 60",
                ],
            ),
        ] {
            assert_eq!(texts(name, spec), expected);
        }
    }

    #[test]
    fn the_last_resort_is_fixed() {
        let fixed = json!({"type": "Limited", "limited": {
            "nominalConcurrencyShares": 5, "limitResponse": {"type": "Reject"}}});
        assert_eq!(texts("catch-all", fixed.clone()), Vec::<String>::new());
        let mut more = fixed;
        more["limited"]["nominalConcurrencyShares"] = 50.into();
        let errors = texts("catch-all", more);
        assert!(
            errors.len() == 1 && errors[0].ends_with("spec of 'catch-all' must equal the fixed value"),
            "{errors:?}"
        );
    }
}
