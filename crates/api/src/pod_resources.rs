//! What pods ask for and may use, summed up as the scheduler and the node count it.
//! Not here: bounds on it (admission), nor what a node has left of it (the scheduler).
//! Upstream: component-helpers/resource.

use std::collections::BTreeMap;

use crate::meta;
use crate::quantity::Quantity;
use crate::types::core::v1 as core;

/// Amounts by the name of the resource, as they are on the wire.
pub type Resources = BTreeMap<String, meta::Quantity>;

/// One amount; `None` where there is none.
pub fn quantity(resources: &Resources, name: &str) -> Option<Quantity> {
    resources.get(name).and_then(|wire| Quantity::from_wire(wire).ok())
}

/// The requests and the limits of a container.
pub fn of_container(container: &core::Container) -> (Resources, Resources) {
    let own = container.resources.clone().unwrap_or_default();
    (own.requests.unwrap_or_default(), own.limits.unwrap_or_default())
}

/// Adds amount by amount.
pub fn add(total: &mut Resources, more: &Resources) {
    for (name, wire) in more {
        let Ok(more) = Quantity::from_wire(wire) else { continue };
        let sum = quantity(total, name).map_or(more, |held| held + more);
        total.insert(name.clone(), sum.to_wire());
    }
}

fn raise(total: &mut Resources, at_least: &Resources) {
    for (name, wire) in at_least {
        let Ok(least) = Quantity::from_wire(wire) else { continue };
        if quantity(total, name).is_none_or(|held| held < least) {
            total.insert(name.clone(), wire.clone());
        }
    }
}

fn is_sidecar(container: &core::Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What the whole pod asks for and may use: its containers and sidecars together, or its most demanding init
/// container with the sidecars started before it.
pub fn of_pod(spec: &core::PodSpec) -> (Resources, Resources) {
    let mut total = (Resources::new(), Resources::new());
    for container in &spec.containers {
        let own = of_container(container);
        add(&mut total.0, &own.0);
        add(&mut total.1, &own.1);
    }
    let (mut sidecars, mut peaks) =
        ((Resources::new(), Resources::new()), (Resources::new(), Resources::new()));
    for container in spec.init_containers.iter().flatten() {
        let mut own = of_container(container);
        add(&mut own.0, &sidecars.0);
        add(&mut own.1, &sidecars.1);
        raise(&mut peaks.0, &own.0);
        raise(&mut peaks.1, &own.1);
        if is_sidecar(container) {
            sidecars = own;
        }
    }
    add(&mut total.0, &sidecars.0);
    add(&mut total.1, &sidecars.1);
    raise(&mut total.0, &peaks.0);
    raise(&mut total.1, &peaks.1);
    if let Some(whole) = &spec.resources {
        total.0.extend(whole.requests.clone().unwrap_or_default());
        total.1.extend(whole.limits.clone().unwrap_or_default());
    }
    total
}
