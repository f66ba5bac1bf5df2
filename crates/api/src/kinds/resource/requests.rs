//! The requests of a ResourceClaim, which its template has too.
//! Upstream: pkg/apis/resource/v1/defaults.go and the cheap part of validation.

use crate::field::{self, ErrorList, Path};
use crate::kinds::check::{dns_label, one_of, required};
use crate::kinds::optional::{default_text, items, items_mut, text};
use crate::types::resource::v1::ResourceClaimSpec;

const EXACT_COUNT: &str = "ExactCount";
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
        }
        for choice in items_mut(&mut request.first_available) {
            default_count(&mut choice.allocation_mode, &mut choice.count);
        }
    }
}

/// What is wrong with the requests.
pub(super) fn validate(spec: Option<&ResourceClaimSpec>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some(devices) = spec.and_then(|spec| spec.devices.as_ref()) else { return errors };
    let path = path.child("devices").child("requests");
    let requests = items(&devices.requests);
    if requests.len() > MOST {
        errors.push(field::too_many(&path, requests.len(), MOST));
    }
    for (index, request) in requests.iter().enumerate() {
        let path = path.index(index);
        name(&mut errors, &path, &request.name);
        if requests[..index].iter().any(|earlier| earlier.name == request.name) {
            errors.push(field::duplicate(&path, &*request.name));
        }
        match (&request.exactly, items(&request.first_available)) {
            (Some(_), [_, ..]) => {
                let message = "exactly one of `exactly` or `firstAvailable` must be specified";
                errors.push(field::invalid(&path, "", message));
            }
            (None, []) => {
                errors
                    .push(field::required(&path, "exactly one of `exactly` or `firstAvailable` is required"));
            }
            (Some(exactly), []) => device(
                &mut errors,
                &path.child("exactly"),
                &exactly.device_class_name,
                &exactly.allocation_mode,
                exactly.count,
            ),
            (None, choices) => {
                for (index, choice) in choices.iter().enumerate() {
                    let path = path.child("firstAvailable").index(index);
                    name(&mut errors, &path, &choice.name);
                    device(
                        &mut errors,
                        &path,
                        &choice.device_class_name,
                        &choice.allocation_mode,
                        choice.count,
                    );
                }
            }
        }
    }
    errors
}

fn name(errors: &mut ErrorList, path: &Path, name: &str) {
    let path = path.child("name");
    required(errors, &path, name);
    if !name.is_empty() {
        dns_label(errors, &path, name);
    }
}

fn device(errors: &mut ErrorList, path: &Path, class: &str, mode: &Option<String>, count: Option<i64>) {
    required(errors, &path.child("deviceClassName"), class);
    one_of(errors, &path.child("allocationMode"), text(mode), &["All", EXACT_COUNT]);
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
        _ => {}
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
}
