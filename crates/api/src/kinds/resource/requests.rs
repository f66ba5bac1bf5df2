//! The requests of a ResourceClaim, which its template has too.
//! Upstream: pkg/apis/resource/v1/defaults.go, pkg/apis/resource/validation. That selectors compile is checked where
//! there is a compiler, not here.

use serde_json::Value;

use super::names::{RequestNames, configuration, fully_qualified};
use super::taints;
use crate::field::{self, ErrorList, Path};
use crate::kinds::check::{dns_label, dns_subdomain, each, unique};
use crate::kinds::optional::{default_text, items, items_mut, text};
use crate::types::resource::v1::{
    DeviceConstraint, DeviceRequest, DeviceSelector, DeviceToleration, ResourceClaimSpec,
};

const EXACT_COUNT: &str = "ExactCount";
/// The most requests, constraints, configurations and selectors.
const MOST: usize = 32;

fn default_count(mode: &mut Option<String>, count: &mut Option<i64>) {
    default_text(mode, EXACT_COUNT);
    if text(mode) == EXACT_COUNT && count.unwrap_or(0) == 0 {
        *count = Some(1);
    }
}

/// Sets how many devices each request is for.
pub(super) fn default(spec: Option<&mut ResourceClaimSpec>) {
    let Some(devices) = spec.and_then(|spec| spec.devices.as_mut()) else { return };
    for request in items_mut(&mut devices.requests) {
        if let Some(exactly) = &mut request.exactly {
            default_count(&mut exactly.allocation_mode, &mut exactly.count);
            taints::default_tolerations(&mut exactly.tolerations);
        }
        for choice in items_mut(&mut request.first_available) {
            default_count(&mut choice.allocation_mode, &mut choice.count);
            taints::default_tolerations(&mut choice.tolerations);
        }
    }
}

/// What is wrong with the spec of a claim.
pub(super) fn validate(spec: Option<&ResourceClaimSpec>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some(devices) = spec.and_then(|spec| spec.devices.as_ref()) else { return errors };
    let path = path.child("devices");
    let names = RequestNames::of(Some(devices));
    let requests_path = path.child("requests");
    each(&mut errors, &requests_path, items(&devices.requests), MOST, request);
    unique(&mut errors, &requests_path, items(&devices.requests), |request| request.name.clone());
    each(&mut errors, &path.child("constraints"), items(&devices.constraints), MOST, |errors, path, one| {
        constraint(errors, path, one, &names);
    });
    each(&mut errors, &path.child("config"), items(&devices.config), MOST, |errors, path, config| {
        references(errors, &path.child("requests"), items(&config.requests), &names);
        configuration(errors, path, config.opaque.as_ref());
    });
    errors
}

/// Refuses a list of names of requests where one is unknown or there twice.
pub(super) fn references(errors: &mut ErrorList, path: &Path, list: &[String], names: &RequestNames<'_>) {
    each(errors, path, list, MOST, |errors, path, name| names.reference(errors, path, name));
    unique(errors, path, list, String::clone);
}

/// Refuses selectors without an expression, or with one that is too long to look at.
pub(super) fn selectors(errors: &mut ErrorList, path: &Path, list: &[DeviceSelector]) {
    const EXPRESSION_MAX: usize = 10 * 1024;
    each(errors, path, list, MOST, |errors, path, selector| {
        let path = path.child("cel");
        match &selector.cel {
            None => errors.push(field::required(&path, "")),
            Some(cel) if cel.expression.len() > EXPRESSION_MAX => {
                errors.push(field::too_long(&path.child("expression"), EXPRESSION_MAX));
            }
            Some(_) => {}
        }
    });
}

fn request(errors: &mut ErrorList, path: &Path, request: &DeviceRequest) {
    /// The most choices of a request.
    const CHOICES_MAX: usize = 8;
    dns_label(errors, &path.child("name"), &request.name);
    match (&request.exactly, items(&request.first_available)) {
        (Some(_), [_, ..]) => {
            let message =
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.push(field::invalid(path, Value::Null, message));
        }
        (None, []) => {
            errors.push(field::required(path, "exactly one of `exactly` or `firstAvailable` is required"));
        }
        (Some(exactly), []) => {
            let path = path.child("exactly");
            class(errors, &path, &exactly.device_class_name);
            selectors(errors, &path.child("selectors"), items(&exactly.selectors));
            count(errors, &path, &exactly.allocation_mode, exactly.count);
            tolerations(errors, &path, items(&exactly.tolerations));
        }
        (None, choices) => {
            let path = path.child("firstAvailable");
            each(errors, &path, choices, CHOICES_MAX, |errors, path, choice| {
                dns_label(errors, &path.child("name"), &choice.name);
                class(errors, path, &choice.device_class_name);
                selectors(errors, &path.child("selectors"), items(&choice.selectors));
                count(errors, path, &choice.allocation_mode, choice.count);
                tolerations(errors, path, items(&choice.tolerations));
            });
            unique(errors, &path, choices, |choice| choice.name.clone());
        }
    }
}

fn class(errors: &mut ErrorList, path: &Path, class: &str) {
    let path = path.child("deviceClassName");
    if class.is_empty() {
        errors.push(field::required(&path, ""));
    } else {
        dns_subdomain(errors, &path, class);
    }
}

fn tolerations(errors: &mut ErrorList, path: &Path, list: &[DeviceToleration]) {
    let path = path.child("tolerations");
    for (index, toleration) in list.iter().enumerate() {
        taints::toleration(errors, &path.index(index), toleration);
    }
}

fn count(errors: &mut ErrorList, path: &Path, mode: &Option<String>, count: Option<i64>) {
    let count_path = path.child("count");
    let count = count.unwrap_or(0);
    match text(mode) {
        "All" if count != 0 => {
            let message = "must not be specified when allocationMode is 'All'";
            errors.push(field::invalid(&count_path, count, message));
        }
        EXACT_COUNT if count <= 0 => {
            errors.push(field::invalid(&count_path, count, "must be greater than zero"));
        }
        "All" | EXACT_COUNT => {}
        other => {
            let path = path.child("allocationMode");
            errors.push(field::not_supported(&path, other, &["All", EXACT_COUNT]));
        }
    }
}

fn constraint(errors: &mut ErrorList, path: &Path, constraint: &DeviceConstraint, names: &RequestNames<'_>) {
    references(errors, &path.child("requests"), items(&constraint.requests), names);
    match (&constraint.match_attribute, &constraint.distinct_attribute) {
        (Some(name), _) => fully_qualified(errors, &path.child("matchAttribute"), name),
        (None, Some(name)) => fully_qualified(errors, &path.child("distinctAttribute"), name),
        (None, None) => errors.push(field::required(
            path,
            // Upstream's text, though none is set.
            r#"exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set"#,
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_are_set_and_checked() {
        let mut spec = ResourceClaimSpec::deserialize(json!({"devices": {"requests": [
            {"name": "a", "exactly": {"deviceClassName": "gpu"}},
            {"name": "b", "firstAvailable": [{"name": "all", "deviceClassName": "gpu", "allocationMode": "All"}]},
        ]}}))
        .unwrap();
        default(Some(&mut spec));
        assert_eq!(validate(Some(&spec), &Path::new("spec")), []);
        let requests = spec.devices.as_mut().unwrap().requests.as_mut().unwrap();
        assert_eq!(requests[0].exactly.as_ref().unwrap().count, Some(1));
        assert_eq!(requests[1].first_available.as_ref().unwrap()[0].count, None);
        requests[0].exactly = None;
        requests[1].first_available.as_mut().unwrap()[0].count = Some(2);
        let errors = validate(Some(&spec), &Path::new("spec"));
        assert_eq!(errors.len(), 2, "{errors:?}");
    }

    #[test]
    fn tolerations_compare_when_they_do_not_say_how() {
        let tolerations = json!([{"key": "example.com/a", "value": "b"}, {"operator": "Exists"}]);
        let mut spec = ResourceClaimSpec::deserialize(json!({"devices": {"requests": [
            {"name": "a", "exactly": {"deviceClassName": "gpu", "tolerations": tolerations}},
            {"name": "b", "firstAvailable": [{"name": "c", "deviceClassName": "gpu", "tolerations": tolerations}]},
        ]}}))
        .unwrap();
        default(Some(&mut spec));
        assert_eq!(validate(Some(&spec), &Path::new("spec")), []);
        let requests = spec.devices.unwrap().requests.unwrap();
        let exactly = requests[0].exactly.as_ref().unwrap();
        let choice = &requests[1].first_available.as_ref().unwrap()[0];
        for list in [&exactly.tolerations, &choice.tolerations] {
            let operators: Vec<&str> = items(list).iter().map(|one| text(&one.operator)).collect();
            assert_eq!(operators, ["Equal", "Exists"]);
        }
    }

    #[test]
    fn what_belongs_together_is_checked() {
        let exactly = json!({"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1});
        for (devices, expected) in [
            (
                json!({"requests": [{"name": "a", "exactly": exactly}, {"name": "a", "exactly": exactly}]}),
                vec![r#"spec.devices.requests[1]: Duplicate value: "a""#],
            ),
            (
                json!({"requests": [{"name": "a", "exactly": exactly, "firstAvailable": [{"name": "b", "deviceClassName": "c"}]}]}),
                vec![
                    "spec.devices.requests[0]: Invalid value: null: exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
                ],
            ),
            (
                json!({"requests": [{"name": "a", "exactly": {"deviceClassName": "", "allocationMode": "Some", "selectors": [{}]}}]}),
                vec![
                    "spec.devices.requests[0].exactly.deviceClassName: Required value",
                    "spec.devices.requests[0].exactly.selectors[0].cel: Required value",
                    r#"spec.devices.requests[0].exactly.allocationMode: Unsupported value: "Some": supported values: "All", "ExactCount""#,
                ],
            ),
            (
                json!({"requests": [{"name": "a", "exactly": exactly}],
                       "constraints": [{"requests": ["b"], "matchAttribute": "gpu.example.com/model"}, {}],
                       "config": [{"requests": ["a", "a"], "opaque": {"driver": "gpu.example.com", "parameters": {}}}]}),
                vec![
                    r#"spec.devices.constraints[0].requests[0]: Invalid value: "b": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"#,
                    r#"spec.devices.constraints[1]: Required value: exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set"#,
                    r#"spec.devices.config[0].requests[1]: Duplicate value: "a""#,
                ],
            ),
        ] {
            let spec = ResourceClaimSpec::deserialize(json!({"devices": devices})).unwrap();
            let errors = validate(Some(&spec), &Path::new("spec"));
            assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        }
    }
}
