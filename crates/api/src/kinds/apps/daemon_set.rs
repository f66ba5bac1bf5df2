//! DaemonSet: a pod on every node that matches.
//! Upstream: pkg/registry/apps/daemonset, pkg/apis/apps.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Subresources, Typed};
use crate::kinds::check::{at_most_hundred_percent, json as value_of, not_negative, not_negative_if_set};
use crate::kinds::core::pod::defaults;
use crate::kinds::optional::{default_text, text};
use crate::kinds::row;
use crate::kinds::workload::{self, count_if_set, is_nothing, selector_and_template};
use crate::meta::IntOrString;
use crate::meta_validation::immutable;
use crate::types::apps::v1::{DaemonSet, DaemonSetUpdateStrategy};

/// Where the generation of the template lives since `apps/v1` has no field for it.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// How it is served.
pub fn descriptor() -> Descriptor {
    let [containers, images] = row::container_columns();
    Descriptor {
        short_names: vec!["ds".into()],
        categories: vec!["all".into()],
        subresources: Subresources { status: true, ..Subresources::default() },
        generation: true,
        columns: vec![
            Column::object_name(),
            Column::new("Desired", "integer", "Number of nodes that should run the pod."),
            Column::new("Current", "integer", "Number of those nodes that run it."),
            Column::new("Ready", "integer", "Number of those nodes where it is ready."),
            Column::new("Up-to-date", "integer", "Number of those nodes where it is of the current template."),
            Column::new("Available", "integer", "Number of those nodes where it has been ready for minReadySeconds."),
            Column::new("Node Selector", "string", "Which nodes run the pod."),
            Column::age(),
            containers,
            images,
            Column::wide("Selector", "string", "Which pods belong to the daemon set."),
        ],
        hooks: Arc::new(
            Typed::<DaemonSet>::new()
                .status(|| {
                    Some(json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0,
                        "numberReady": 0}))
                })
                .default_with(default)
                .prepare_for_create(|set| set_template_generation(set, 1))
                .prepare_for_update(prepare_for_update)
                .validate(validate)
                .validate_update(validate_update)
                .validate_status_update(validate_status_update)
                .warnings(warnings)
                .cells(cells),
        ),
        ..Descriptor::new("apps", "v1", "DaemonSet", "daemonsets", Scope::Namespaced)
    }
}

fn default(set: &mut DaemonSet) {
    let spec = &mut set.spec;
    spec.revision_history_limit.get_or_insert(10);
    let strategy = spec.update_strategy.get_or_insert_default();
    default_text(&mut strategy.type_, "RollingUpdate");
    if text(&strategy.type_) == "RollingUpdate" {
        let rolling = strategy.rolling_update.get_or_insert_default();
        rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
        rolling.max_surge.get_or_insert(IntOrString::Int(0));
    }
    defaults::template(&mut spec.template);
    set.status.get_or_insert_default();
}

fn template_generation(set: &DaemonSet) -> i64 {
    let annotations = set.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(TEMPLATE_GENERATION)?.parse().ok()).unwrap_or(0)
}

fn set_template_generation(set: &mut DaemonSet, generation: i64) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(TEMPLATE_GENERATION.to_owned(), generation.to_string());
}

fn prepare_for_update(new: &mut DaemonSet, old: &DaemonSet) {
    let template = |set: &DaemonSet| set.spec.template.clone();
    let step = i64::from(template(new) != template(old));
    set_template_generation(new, template_generation(old) + step);
}

fn validate(set: &DaemonSet) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = &set.spec;
    let path = Path::new("spec");
    selector_and_template(&mut errors, "DaemonSet", &spec.selector, &spec.template, &path);
    not_negative_if_set(&mut errors, &path.child("minReadySeconds"), spec.min_ready_seconds);
    update_strategy(&mut errors, spec.update_strategy.as_ref(), &path.child("updateStrategy"));
    not_negative_if_set(&mut errors, &path.child("revisionHistoryLimit"), spec.revision_history_limit);
    errors
}

fn update_strategy(errors: &mut ErrorList, strategy: Option<&DaemonSetUpdateStrategy>, path: &Path) {
    let empty = DaemonSetUpdateStrategy::default();
    let strategy = strategy.unwrap_or(&empty);
    let path = match (text(&strategy.type_), &strategy.rolling_update) {
        ("OnDelete", _) => return,
        ("RollingUpdate", Some(_)) => path.child("rollingUpdate"),
        ("RollingUpdate", None) => {
            errors.push(field::required(&path.child("rollingUpdate"), ""));
            return;
        }
        (other, _) => {
            errors.push(field::not_supported(&path.child("type"), other, &["RollingUpdate", "OnDelete"]));
            return;
        }
    };
    let Some(rolling) = &strategy.rolling_update else { return };
    let bounds = [("maxUnavailable", &rolling.max_unavailable), ("maxSurge", &rolling.max_surge)];
    for (name, bound) in bounds {
        count_if_set(errors, &path.child(name), bound.as_ref());
        if let Some(bound) = bound {
            at_most_hundred_percent(errors, &path.child(name), bound);
        }
    }
    let [unavailable, surge] = bounds.map(|(_, bound)| !bound.as_ref().is_none_or(is_nothing));
    match (unavailable, surge) {
        (false, false) => {
            let message = "cannot be 0 when maxSurge is 0";
            errors.push(field::invalid(
                &path.child("maxUnavailable"),
                value_of(&rolling.max_unavailable),
                message,
            ));
        }
        (true, true) => {
            let message = "may not be set when maxUnavailable is non-zero";
            errors.push(field::invalid(&path.child("maxSurge"), value_of(&rolling.max_surge), message));
        }
        _ => {}
    }
}

fn validate_update(new: &DaemonSet, old: &DaemonSet) -> ErrorList {
    let mut errors = validate(new);
    let path = Path::new("spec").child("selector");
    immutable(&mut errors, &path, &new.spec.selector, &old.spec.selector);
    errors
}

fn validate_status_update(new: &DaemonSet, old: &DaemonSet) -> ErrorList {
    let mut errors = ErrorList::new();
    let collisions = |set: &DaemonSet| set.status.as_ref().and_then(|status| status.collision_count);
    workload::collision_count(&mut errors, collisions(new), collisions(old));
    let Some(status) = &new.status else { return errors };
    let path = Path::new("status");
    for (name, count) in [
        ("currentNumberScheduled", status.current_number_scheduled),
        ("numberMisscheduled", status.number_misscheduled),
        ("desiredNumberScheduled", status.desired_number_scheduled),
        ("numberReady", status.number_ready),
        ("updatedNumberScheduled", status.updated_number_scheduled.unwrap_or(0)),
        ("numberAvailable", status.number_available.unwrap_or(0)),
        ("numberUnavailable", status.number_unavailable.unwrap_or(0)),
    ] {
        not_negative(&mut errors, &path.child(name), count);
    }
    errors
}

fn warnings(set: &DaemonSet, old: Option<&Value>) -> Vec<String> {
    workload::warnings(&set.metadata, false, Some(&set.spec.template), old)
}

fn cells(set: &DaemonSet, now: Timestamp) -> Vec<Value> {
    let spec = &set.spec;
    let status = set.status.clone().unwrap_or_default();
    let [containers, images] = row::containers(Some(&spec.template));
    let node_selector = spec.template.spec.as_ref().and_then(|spec| spec.node_selector.as_ref());
    vec![
        row::name(&set.metadata),
        status.desired_number_scheduled.into(),
        status.current_number_scheduled.into(),
        status.number_ready.into(),
        row::count(status.updated_number_scheduled),
        row::count(status.number_available),
        row::labels(node_selector),
        row::age(&set.metadata, now),
        containers,
        images,
        row::selector(Some(&spec.selector)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Value);

    fn set(change: fn(&mut Value)) -> DaemonSet {
        let mut value = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        }});
        change(&mut value);
        let mut set = serde_json::from_value(value).unwrap();
        default(&mut set);
        set
    }

    #[test]
    fn one_of_the_bounds_must_allow_progress() {
        let table: [(Change, usize); 4] = [
            (|_| {}, 0),
            (|set| set["spec"]["updateStrategy"] = json!({"rollingUpdate": {"maxUnavailable": 0}}), 1),
            (|set| set["spec"]["updateStrategy"] = json!({"rollingUpdate": {"maxSurge": 1}}), 1),
            (
                |set| {
                    set["spec"]["updateStrategy"] =
                        json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}})
                },
                0,
            ),
        ];
        for (change, errors) in table {
            assert_eq!(validate(&set(change)).len(), errors);
        }
    }

    #[test]
    fn collisions_are_counted_up() {
        let with = |count: Option<i32>| {
            let mut set = set(|_| {});
            set.status.get_or_insert_default().collision_count = count;
            set
        };
        for (new, old, errors) in
            [(None, None, 0), (Some(2), Some(1), 0), (Some(-1), None, 1), (None, Some(1), 1)]
        {
            assert_eq!(validate_status_update(&with(new), &with(old)).len(), errors, "{new:?} {old:?}");
        }
    }

    #[test]
    fn the_template_is_counted() {
        let mut old = set(|_| {});
        set_template_generation(&mut old, 3);
        let mut same = set(|_| {});
        prepare_for_update(&mut same, &old);
        assert_eq!(template_generation(&same), 3);
        let mut changed = set(|set| set["spec"]["template"]["spec"]["containers"][0]["image"] = json!("j"));
        prepare_for_update(&mut changed, &old);
        assert_eq!(template_generation(&changed), 4);
    }
}
