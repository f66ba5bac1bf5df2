//! CSINode: the CSI drivers on a node.
//! Upstream: pkg/registry/storage/csinode, pkg/apis/storage.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::field::{self, ErrorList, Path};
use crate::kind::{Column, Descriptor, Scope, Typed};
use crate::kinds::check::{driver_name, not_negative_if_set, qualified_name, required};
use crate::kinds::optional::items;
use crate::kinds::row;
use crate::meta_validation::immutable;
use crate::types::storage::v1::{CSINode, CSINodeDriver};

const NODE_ID_MAX: usize = 256;

/// How it is served.
pub fn descriptor() -> Descriptor {
    Descriptor {
        returns_deleted: true,
        columns: vec![
            Column::object_name(),
            Column::new(
                "Drivers",
                "integer",
                "Drivers indicates the number of CSI drivers registered on the node",
            ),
            Column::age(),
        ],
        hooks: Arc::new(
            Typed::<CSINode>::new().validate(validate).validate_update(validate_update).cells(cells),
        ),
        unconditional_update: false,
        ..Descriptor::new("storage.k8s.io", "v1", "CSINode", "csinodes", Scope::Cluster)
    }
}

fn validate(node: &CSINode) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen = BTreeSet::new();
    for (index, driver) in node.spec.drivers.iter().enumerate() {
        let path = Path::new("spec").child("drivers").index(index);
        driver_name(&mut errors, &path.child("name"), &driver.name);
        required(&mut errors, &path.child("nodeID"), &driver.node_id);
        if driver.node_id.len() > NODE_ID_MAX {
            let message = format!("must be {NODE_ID_MAX} characters or less");
            errors.push(field::invalid(&path.child("nodeID"), driver.node_id.as_str(), message));
        }
        if !seen.insert(&driver.name) {
            errors.push(field::duplicate(&path.child("name"), &*driver.name));
        }
        let count = driver.allocatable.as_ref().and_then(|allocatable| allocatable.count);
        not_negative_if_set(&mut errors, &path.child("allocatable").child("count"), count);
        let keys = items(&driver.topology_keys);
        let mut seen = BTreeSet::new();
        for key in keys {
            required(&mut errors, &path, key);
            if !seen.insert(key) {
                errors.push(field::duplicate(&path, key.as_str()));
            }
            qualified_name(&mut errors, &path, key);
        }
    }
    errors
}

/// A driver that is registered stays as it is, but for how many volumes it takes.
fn validate_update(new: &CSINode, old: &CSINode) -> ErrorList {
    let mut errors = validate(new);
    let path = Path::new("spec").child("drivers");
    for old in &old.spec.drivers {
        let fixed = |driver: &CSINodeDriver| CSINodeDriver { allocatable: None, ..driver.clone() };
        for new in new.spec.drivers.iter().filter(|new| new.name == old.name) {
            immutable(&mut errors, &path, &fixed(new), &fixed(old));
        }
    }
    errors
}

fn cells(node: &CSINode, now: Timestamp) -> Vec<Value> {
    vec![row::name(&node.metadata), node.spec.drivers.len().into(), row::age(&node.metadata, now)]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(drivers: Value) -> CSINode {
        serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"drivers": drivers}})).unwrap()
    }

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn drivers_are_checked_and_stay() {
        let driver = json!({"name": "d.example.com", "nodeID": "n", "topologyKeys": ["example.com/zone"]});
        let good = node(json!([driver]));
        assert!(texts(&validate(&good)).is_empty());
        assert_eq!(
            texts(&validate(&node(
                json!([driver, {"name": "d.example.com", "nodeID": "x".repeat(257), "topologyKeys": ["a", "a"]}])
            ))),
            [
                format!(
                    r#"spec.drivers[1].nodeID: Invalid value: "{}": must be 256 characters or less"#,
                    "x".repeat(257)
                ),
                r#"spec.drivers[1].name: Duplicate value: "d.example.com""#.to_owned(),
                r#"spec.drivers[1]: Duplicate value: "a""#.to_owned(),
            ]
        );
        let mut moved = driver.clone();
        moved["nodeID"] = "m".into();
        let errors = texts(&validate_update(&node(json!([moved])), &good));
        assert!(errors.len() == 1 && errors[0].ends_with("field is immutable"), "{errors:?}");
        let mut fuller = driver;
        fuller["allocatable"] = json!({"count": 3});
        assert!(texts(&validate_update(&node(json!([fuller])), &good)).is_empty());
    }
}
