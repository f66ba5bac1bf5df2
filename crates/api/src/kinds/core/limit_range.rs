//! LimitRange: bounds and defaults for the resources of pods, containers and claims in a namespace.
//! Upstream: pkg/registry/core/limitrange, pkg/apis/core.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::field::{self, ErrorList, Path};
use crate::kind::{Descriptor, Scope, Typed};
use crate::kinds::check::{qualified_name, quantity};
use crate::kinds::core::pod::defaults::round_up_to_milli;
use crate::kinds::core::pod::resources::{allows_overcommit, validate_container_name, validate_name};
use crate::meta::Quantity;
use crate::quantity::{Format, Quantity as Amount};
use crate::types::core::v1::{LimitRange, LimitRangeItem};

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        short_names: vec!["limits".into()],
        create_on_update: true,
        hooks: Arc::new(Typed::<LimitRange>::new().default_with(default).validate(validate)),
        ..Descriptor::new("", "v1", "LimitRange", "limitranges", Scope::Namespaced)
    }
}

type List = BTreeMap<String, Quantity>;

fn default(range: &mut LimitRange) {
    for item in &mut range.spec.get_or_insert_default().limits {
        for list in [
            &mut item.max,
            &mut item.min,
            &mut item.default,
            &mut item.default_request,
            &mut item.max_limit_request_ratio,
        ] {
            list.iter_mut().for_each(round_up_to_milli);
        }
        if item.type_ == "Container" {
            let limits = item.default.get_or_insert_default();
            fill(limits, item.max.as_ref());
            let requests = item.default_request.get_or_insert_default();
            fill(requests, item.default.as_ref());
            fill(requests, item.min.as_ref());
        }
    }
}

fn fill(list: &mut List, from: Option<&List>) {
    for (name, amount) in from.into_iter().flatten() {
        list.entry(name.clone()).or_insert_with(|| amount.clone());
    }
}

fn validate(range: &LimitRange) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen = BTreeSet::new();
    let items = range.spec.iter().flat_map(|spec| &spec.limits);
    for (index, item) in items.enumerate() {
        let path = Path::new("spec").child("limits").index(index);
        let kind = path.child("type");
        let before = errors.len();
        qualified_name(&mut errors, &kind, &item.type_);
        let standard = ["Pod", "Container", "PersistentVolumeClaim"].contains(&&*item.type_);
        if errors.len() == before && !item.type_.contains('/') && !standard {
            let message = "must be a standard limit type or fully qualified";
            errors.push(field::invalid(&kind, &*item.type_, message));
        }
        if !seen.insert(&item.type_) {
            errors.push(field::duplicate(&kind, &*item.type_));
        }
        self::item(&mut errors, item, &path);
    }
    errors
}

fn item(errors: &mut ErrorList, item: &LimitRangeItem, path: &Path) {
    let empty = List::new();
    let of = |list: &'_ Option<List>| list.clone().unwrap_or_default();
    let (max, min, ratio) = (of(&item.max), of(&item.min), of(&item.max_limit_request_ratio));
    let (mut defaults, mut requests) = (of(&item.default), of(&item.default_request));
    let check = match &*item.type_ {
        "Pod" | "Container" => validate_container_name,
        _ => validate_name,
    };
    if item.type_ == "Pod" {
        for (name, list) in [("default", &mut defaults), ("defaultRequest", &mut requests)] {
            if !list.is_empty() {
                let message = "may not be specified when `type` is 'Pod'";
                errors.push(field::forbidden(&path.child(name), message));
                list.clone_from(&empty);
            }
        }
    }
    for (name, list) in [
        ("max", &max),
        ("min", &min),
        ("default", &defaults),
        ("defaultRequest", &requests),
        ("maxLimitRequestRatio", &ratio),
    ] {
        for resource in list.keys() {
            check(errors, resource, &path.child(name).key(resource));
        }
    }
    if item.type_ == "PersistentVolumeClaim" && !min.contains_key("storage") && !max.contains_key("storage") {
        errors.push(field::required(
            &path.child("limits"),
            "either minimum or maximum storage value is required, but neither was provided",
        ));
    }
    let names: BTreeSet<&String> =
        [&max, &min, &defaults, &requests, &ratio].into_iter().flat_map(BTreeMap::keys).collect();
    for name in names {
        let amount = |list: &List| list.get(name).map(quantity);
        let bounds = Bounds {
            max: amount(&max),
            min: amount(&min),
            default: amount(&defaults),
            request: amount(&requests),
            ratio: amount(&ratio),
        };
        bounds.validate(errors, name, path);
    }
}

/// What an item says about one resource.
struct Bounds {
    max: Option<Amount>,
    min: Option<Amount>,
    default: Option<Amount>,
    request: Option<Amount>,
    ratio: Option<Amount>,
}

impl Bounds {
    fn validate(&self, errors: &mut ErrorList, name: &str, path: &Path) {
        let mut ordered = |low: Option<Amount>,
                           high: Option<Amount>,
                           at: &'static str,
                           shown: Option<Amount>,
                           words: [&str; 2]| {
            if let (Some(low), Some(high)) = (low, high)
                && low > high
            {
                let message = format!("{} {low} is greater than {} {high}", words[0], words[1]);
                let value = shown.unwrap_or(low).to_string();
                errors.push(field::invalid(&path.child(at).key(name), value, message));
            }
        };
        let Self { max, min, default, request, ratio } = *self;
        ordered(min, max, "min", min, ["min value", "max value"]);
        ordered(min, request, "defaultRequest", request, ["min value", "default request value"]);
        ordered(request, max, "defaultRequest", request, ["default request value", "max value"]);
        ordered(
            request,
            default,
            "defaultRequest",
            request,
            ["default request value", "default limit value"],
        );
        ordered(min, default, "default", min, ["min value", "default value"]);
        ordered(default, max, "default", max, ["default value", "max value"]);
        let ratio_path = path.child("maxLimitRequestRatio").key(name);
        if let Some(ratio) = ratio {
            if ratio < Amount::new(1, Format::DecimalSi) {
                errors.push(field::invalid(
                    &ratio_path,
                    ratio.to_string(),
                    format!("ratio {ratio} is less than 1"),
                ));
            }
            if let (Some(min), Some(max)) = (min, max) {
                let limit = max.milli_value() as f64 / min.milli_value() as f64;
                if ratio.milli_value() as f64 / 1000.0 > limit {
                    let message = format!("ratio {ratio} is greater than max/min = {limit:.6}");
                    errors.push(field::invalid(&ratio_path, ratio.to_string(), message));
                }
            }
        }
        if let (Some(default), Some(request)) = (default, request)
            && !allows_overcommit(name)
            && default != request
        {
            errors.push(field::invalid(
                &path.child("defaultRequest").key(name),
                request.to_string(),
                format!("default value {default} must equal to defaultRequest value {request} in {name}"),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn range(item: Value) -> LimitRange {
        let mut range = serde_json::from_value(json!({"spec": {"limits": [item]}})).unwrap();
        default(&mut range);
        range
    }

    #[test]
    fn containers_get_their_defaults_from_the_bounds() {
        let range = range(json!({"type": "Container", "max": {"cpu": "1"}, "min": {"memory": "1Mi"}}));
        let item = serde_json::to_value(&range.spec.unwrap().limits[0]).unwrap();
        assert_eq!(item["default"], json!({"cpu": "1"}));
        assert_eq!(item["defaultRequest"], json!({"cpu": "1", "memory": "1Mi"}));
    }

    #[test]
    fn bounds_agree() {
        for (item, errors) in [
            (json!({"type": "Pod", "max": {"cpu": "2"}, "min": {"cpu": "1"}}), 0),
            (json!({"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "2"}}), 1),
            (json!({"type": "Pod", "default": {"cpu": "1"}}), 1),
            (json!({"type": "x"}), 1),
            (json!({"type": "PersistentVolumeClaim"}), 1),
            (json!({"type": "Container", "max": {"cpu": "1"}, "default": {"cpu": "2"}}), 2),
        ] {
            assert_eq!(validate(&range(item.clone())).len(), errors, "{item}");
        }
    }
}
