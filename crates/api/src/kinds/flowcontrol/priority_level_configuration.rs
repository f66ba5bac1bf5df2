//! PriorityLevelConfiguration: how much of the server a kind of requests may use.
//! Upstream: pkg/registry/flowcontrol/prioritylevelconfiguration, pkg/apis/flowcontrol.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Subresources, Typed};
use crate::kinds::check::not_negative_if_set;
use crate::kinds::row;
use crate::types::flowcontrol::v1::{LimitedPriorityLevelConfiguration, PriorityLevelConfiguration};

const QUEUES_MAX: i32 = 10_000_000;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        subresources: Subresources { status: true, ..Subresources::default() },
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
    match (&*level.spec.type_, &level.spec.limited) {
        ("Exempt", Some(_)) => {
            let message = "must be nil if the type is Exempt";
            errors.push(field::forbidden(&path.child("limited"), message));
        }
        ("Limited", None) => {
            let message = "must not be empty when type is Limited";
            errors.push(field::required(&path.child("limited"), message));
        }
        ("Limited", Some(limited)) => {
            if level.spec.exempt.is_some() {
                let message = "must be nil if the type is Limited";
                errors.push(field::forbidden(&path.child("exempt"), message));
            }
            self::limited(&mut errors, limited, &path.child("limited"));
        }
        ("Exempt", None) => {}
        (other, _) => errors.push(field::not_supported(&path.child("type"), other, &["Exempt", "Limited"])),
    }
    errors
}

fn limited(errors: &mut ErrorList, limited: &LimitedPriorityLevelConfiguration, path: &Path) {
    let shares = limited.nominal_concurrency_shares;
    not_negative_if_set(errors, &path.child("nominalConcurrencyShares"), shares);
    if let Some(percent) = limited.lendable_percent.filter(|percent| !(0..=100).contains(percent)) {
        errors.push(field::invalid(
            &path.child("lendablePercent"),
            percent,
            "must be between 0 and 100, inclusive",
        ));
    }
    not_negative_if_set(errors, &path.child("borrowingLimitPercent"), limited.borrowing_limit_percent);
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
        ("Queue", Some(queuing)) => {
            let path = path.child("queuing");
            let (queues, hand) = (queuing.queues.unwrap_or(0), queuing.hand_size.unwrap_or(0));
            let limit = queuing.queue_length_limit.unwrap_or(0);
            for (name, number) in [("queueLengthLimit", limit), ("queues", queues), ("handSize", hand)] {
                if number <= 0 {
                    errors.push(field::invalid(&path.child(name), number, "must be positive"));
                }
            }
            if queues > QUEUES_MAX {
                let message = format!("must not be greater than {QUEUES_MAX}");
                errors.push(field::invalid(&path.child("queues"), queues, message));
            }
            if hand > queues {
                let message = format!("should not be greater than queues ({queues})");
                errors.push(field::invalid(&path.child("handSize"), hand, message));
            }
        }
        ("Reject", None) => {}
        (other, _) => errors.push(field::not_supported(&path.child("type"), other, &["Queue", "Reject"])),
    }
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
