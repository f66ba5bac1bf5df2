//! Hooks of built-in kinds: plain functions over the typed struct.
//! A step without a function costs nothing: the object is then not converted. `metadata.managedFields`, which no hook
//! needs and which is often the largest part of an object, is never converted ([`Plain`]).

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::plain::{Plain, take_managed_fields};
use super::{Hooks, RowOrder};
use crate::addresses;
use crate::field::{self, ErrorList, Path};
use crate::json;

/// See [`Hooks::deletion_grace_period`].
type GracePeriod = fn(&Value, Option<i64>) -> Option<i64>;

/// What is changed of a new object, and of which ones: writing a changed object back costs as much as reading it.
struct Prepare<T> {
    concerns: fn(&T) -> bool,
    change: fn(&mut T),
}

/// See [`Hooks::set_times`].
type Times = fn(&mut Value, Option<&Value>, Timestamp);

/// Functions behind [`Hooks::warnings`].
enum Warnings<T> {
    /// Only of a new object.
    OfNew(fn(&T) -> Vec<String>),
    /// Of every change, with the object before it.
    OfChange(fn(&T, Option<&Value>) -> Vec<String>),
}

/// [`Hooks`] from functions over the typed struct `T`. Name those a kind has:
/// `Typed::<Lease>::new().validate(validate).cells(cells)`.
pub struct Typed<T> {
    has_status: bool,
    initial_status: fn() -> Option<Value>,
    status_of_new: Option<fn(&T) -> Value>,
    default: Option<fn(&mut T)>,
    times: Option<Times>,
    prepare_for_create: Option<Prepare<T>>,
    prepare_for_update: Option<fn(&mut T, &T)>,
    prepare_for_status_update: Option<fn(&mut T, &T)>,
    validate: Option<fn(&T) -> ErrorList>,
    validate_update: Option<fn(&T, &T) -> ErrorList>,
    validate_status_update: Option<fn(&T, &T) -> ErrorList>,
    prepare_for_subresource_update: Option<fn(&str, &mut T, &T)>,
    validate_subresource_update: Option<fn(&str, &T, &T) -> ErrorList>,
    warnings: Option<Warnings<T>>,
    cells: Option<fn(&T, Timestamp) -> Vec<Value>>,
    row_order: Option<RowOrder>,
    to_storage: Option<fn(&mut Value)>,
    from_storage: Option<fn(&mut Value)>,
    deletion_grace_period: Option<GracePeriod>,
}

impl<T> Default for Typed<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Typed<T> {
    /// Hooks that do nothing yet.
    pub const fn new() -> Self {
        Self {
            has_status: false,
            initial_status: || None,
            status_of_new: None,
            default: None,
            times: None,
            prepare_for_create: None,
            prepare_for_update: None,
            prepare_for_status_update: None,
            validate: None,
            validate_update: None,
            validate_status_update: None,
            prepare_for_subresource_update: None,
            validate_subresource_update: None,
            warnings: None,
            cells: None,
            row_order: None,
            to_storage: None,
            from_storage: None,
            deletion_grace_period: None,
        }
    }

    /// The kind has a status that only the `status` subresource writes: a new object starts with `initial`, an update
    /// keeps the old one, and an update of the status keeps everything but status and metadata.
    pub const fn status(mut self, initial: fn() -> Option<Value>) -> Self {
        self.has_status = true;
        self.initial_status = initial;
        self
    }

    /// As [`Typed::status`], for a status that depends on the rest of the new object. [`Typed::validate`] does not look at
    /// it then.
    pub const fn status_of_new(mut self, initial: fn(&T) -> Value) -> Self {
        self.status_of_new = Some(initial);
        self
    }

    /// See [`Hooks::default`].
    pub const fn default_with(mut self, function: fn(&mut T)) -> Self {
        self.default = Some(function);
        self
    }

    /// [`Hooks::set_times`], over the object as it is: most objects have nothing to be set.
    pub const fn set_times(mut self, function: Times) -> Self {
        self.times = Some(function);
        self
    }

    /// [`Hooks::row_order`].
    pub const fn row_order(mut self, order: RowOrder) -> Self {
        self.row_order = Some(order);
        self
    }
    /// See [`Hooks::prepare_for_create`].
    pub const fn prepare_for_create(self, function: fn(&mut T)) -> Self {
        self.prepare_for_create_where(|_| true, function)
    }
    /// As [`Typed::prepare_for_create`], of those objects alone that it `concerns`; few of a kind of which many are made.
    pub const fn prepare_for_create_where(mut self, concerns: fn(&T) -> bool, change: fn(&mut T)) -> Self {
        self.prepare_for_create = Some(Prepare { concerns, change });
        self
    }
    /// See [`Hooks::prepare_for_update`].
    pub const fn prepare_for_update(mut self, function: fn(&mut T, &T)) -> Self {
        self.prepare_for_update = Some(function);
        self
    }
    /// See [`Hooks::prepare_for_status_update`].
    pub const fn prepare_for_status_update(mut self, function: fn(&mut T, &T)) -> Self {
        self.prepare_for_status_update = Some(function);
        self
    }
    /// See [`Hooks::validate`]. Unless [`Typed::validate_update`] is given, updates are checked by it too.
    pub const fn validate(mut self, function: fn(&T) -> ErrorList) -> Self {
        self.validate = Some(function);
        self
    }
    /// See [`Hooks::validate_update`].
    pub const fn validate_update(mut self, function: fn(&T, &T) -> ErrorList) -> Self {
        self.validate_update = Some(function);
        self
    }
    /// See [`Hooks::validate_status_update`].
    pub const fn validate_status_update(mut self, function: fn(&T, &T) -> ErrorList) -> Self {
        self.validate_status_update = Some(function);
        self
    }
    /// See [`Hooks::prepare_for_subresource_update`].
    pub const fn prepare_for_subresource_update(mut self, function: fn(&str, &mut T, &T)) -> Self {
        self.prepare_for_subresource_update = Some(function);
        self
    }
    /// See [`Hooks::validate_subresource_update`].
    pub const fn validate_subresource_update(mut self, function: fn(&str, &T, &T) -> ErrorList) -> Self {
        self.validate_subresource_update = Some(function);
        self
    }
    /// See [`Hooks::warnings`]. The object before the change comes untyped: warnings ask little of it.
    pub const fn warnings(mut self, function: fn(&T, Option<&Value>) -> Vec<String>) -> Self {
        self.warnings = Some(Warnings::OfChange(function));
        self
    }
    /// As [`Typed::warnings`], for a kind whose updates warn of nothing (and then cost nothing).
    pub const fn warnings_of_new(mut self, function: fn(&T) -> Vec<String>) -> Self {
        self.warnings = Some(Warnings::OfNew(function));
        self
    }
    /// See [`Hooks::cells`].
    pub const fn cells(mut self, function: fn(&T, Timestamp) -> Vec<Value>) -> Self {
        self.cells = Some(function);
        self
    }
    /// See [`Hooks::to_storage`] and [`Hooks::from_storage`]. On the untyped form, because the two versions are two
    /// types.
    pub const fn convert(mut self, to_storage: fn(&mut Value), from_storage: fn(&mut Value)) -> Self {
        self.to_storage = Some(to_storage);
        self.from_storage = Some(from_storage);
        self
    }
    /// See [`Hooks::deletion_grace_period`].
    pub const fn deletion_grace_period(mut self, function: fn(&Value, Option<i64>) -> Option<i64>) -> Self {
        self.deletion_grace_period = Some(function);
        self
    }
}

impl<T: Serialize + DeserializeOwned> Typed<T> {
    fn read(object: &Value) -> Result<T, serde_json::Error> {
        T::deserialize(Plain(object))
    }

    /// Runs `change` on the typed form. An object that is not of the type is left alone: decoding against the schema
    /// refuses such objects before, and validation reports them again.
    fn change(object: &mut Value, change: impl FnOnce(&mut T)) {
        if let Ok(mut typed) = Self::read(object) {
            change(&mut typed);
            Self::write(object, &typed);
        }
    }

    /// Makes `object`, which `typed` was read from, what `typed` has become.
    fn write(object: &mut Value, typed: &T) {
        let managed_fields = take_managed_fields(object);
        // Into the object that it was read from: most of it stays as it is.
        if json::update(object, typed).is_err() {
            // Nothing of the API is so made; the object is then as good as lost, and validation says so.
            *object = Value::Null;
        }
        if let (Some(fields), Some(metadata)) = (managed_fields, object.get_mut("metadata")) {
            metadata["managedFields"] = fields;
        }
    }

    /// What is to be done to a new object before it is validated, on both its forms.
    fn prepare(&self, object: &mut Value, typed: &mut T) {
        if let Some(prepare) = &self.prepare_for_create
            && (prepare.concerns)(typed)
        {
            (prepare.change)(typed);
            Self::write(object, typed);
        }
        if let Some(initial) = self.status_of_new {
            set_status(object, Some(initial(typed)));
        }
    }

    fn change_from(new: &mut Value, old: &Value, change: impl FnOnce(&mut T, &T)) {
        if let Ok(old) = Self::read(old) {
            Self::change(new, |new| change(new, &old));
        }
    }

    fn check(object: &Value, check: impl FnOnce(&T) -> ErrorList) -> ErrorList {
        match Self::read(object) {
            Ok(typed) => check(&typed),
            Err(error) => vec![field::internal(&Path::root(), error.to_string())],
        }
    }

    fn check_update(new: &Value, old: &Value, check: impl FnOnce(&T, &T) -> ErrorList) -> ErrorList {
        let mut errors = Self::check(new, |new| match Self::read(old) {
            Ok(old) => check(new, &old),
            Err(error) => vec![field::internal(&Path::root(), format!("stored object: {error}"))],
        });
        addresses::keep(&mut errors, old);
        errors
    }
}

fn object_mut(value: &mut Value) -> Option<&mut Map<String, Value>> {
    value.as_object_mut()
}

fn set_status(object: &mut Value, status: Option<Value>) {
    let Some(fields) = object_mut(object) else { return };
    match status {
        Some(status) => fields.insert("status".to_owned(), status),
        None => fields.remove("status"),
    };
}

impl<T: Serialize + DeserializeOwned> Hooks for Typed<T> {
    fn default(&self, object: &mut Value) {
        if let Some(default) = self.default {
            Self::change(object, default);
        }
    }

    fn set_times(&self, new: &mut Value, old: Option<&Value>, now: Timestamp) {
        if let Some(times) = self.times {
            times(new, old, now);
        }
    }

    fn prepare_for_create(&self, object: &mut Value) {
        if self.has_status {
            set_status(object, (self.initial_status)());
        }
        if (self.status_of_new.is_some() || self.prepare_for_create.is_some())
            && let Ok(mut typed) = Self::read(object)
        {
            self.prepare(object, &mut typed);
        }
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value) {
        if self.has_status {
            set_status(new, old.get("status").cloned());
        }
        if let Some(prepare) = self.prepare_for_update {
            Self::change_from(new, old, prepare);
        }
    }

    fn prepare_for_status_update(&self, new: &mut Value, old: &Value) {
        if self.has_status
            && let (Some(fields), Some(old)) = (object_mut(new), old.as_object())
        {
            fields.retain(|name, _| matches!(name.as_str(), "metadata" | "status"));
            for (name, value) in old {
                if !matches!(name.as_str(), "metadata" | "status") {
                    fields.insert(name.clone(), value.clone());
                }
            }
        }
        if let Some(prepare) = self.prepare_for_status_update {
            Self::change_from(new, old, prepare);
        }
    }

    fn prepare_and_validate(&self, object: &mut Value) -> (ErrorList, Vec<String>) {
        if self.has_status {
            set_status(object, (self.initial_status)());
        }
        let prepares = self.status_of_new.is_some() || self.prepare_for_create.is_some();
        if !prepares && self.validate.is_none() && self.warnings.is_none() {
            return Default::default();
        }
        // Read once for all: what is validated is what was written.
        let mut typed = match Self::read(object) {
            Ok(typed) => typed,
            Err(error) if self.validate.is_some() => {
                let errors = vec![field::internal(&Path::root(), error.to_string())];
                return (errors, Vec::new());
            }
            Err(_) => return Default::default(),
        };
        self.prepare(object, &mut typed);
        if object.is_null() {
            return (
                vec![field::internal(&Path::root(), "the object cannot be written".to_owned())],
                Vec::new(),
            );
        }
        let errors = self.validate.map_or_else(ErrorList::new, |validate| validate(&typed));
        let warnings = match &self.warnings {
            _ if !errors.is_empty() => Vec::new(),
            Some(Warnings::OfNew(warnings)) => warnings(&typed),
            Some(Warnings::OfChange(warnings)) => warnings(&typed, None),
            None => Vec::new(),
        };
        (errors, warnings)
    }

    fn validate(&self, object: &Value) -> ErrorList {
        self.validate.map_or_else(ErrorList::new, |validate| Self::check(object, validate))
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        match (self.validate_update, self.validate) {
            (Some(validate), _) => Self::check_update(new, old, validate),
            (None, Some(validate)) => {
                let mut errors = Self::check(new, validate);
                addresses::keep(&mut errors, old);
                errors
            }
            (None, None) => ErrorList::new(),
        }
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> ErrorList {
        self.validate_status_update
            .map_or_else(ErrorList::new, |validate| Self::check_update(new, old, validate))
    }

    fn prepare_for_subresource_update(&self, subresource: &str, new: &mut Value, old: &Value) {
        if let Some(prepare) = self.prepare_for_subresource_update {
            Self::change_from(new, old, |new, old| prepare(subresource, new, old));
        }
    }

    fn validate_subresource_update(&self, subresource: &str, new: &Value, old: &Value) -> ErrorList {
        self.validate_subresource_update.map_or_else(ErrorList::new, |validate| {
            Self::check_update(new, old, |new, old| validate(subresource, new, old))
        })
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let typed = |warnings: &dyn Fn(&T) -> Vec<String>| {
            Self::read(object).map_or_else(|_| Vec::new(), |typed| warnings(&typed))
        };
        match (&self.warnings, old) {
            (Some(Warnings::OfNew(warnings)), None) => typed(warnings),
            (Some(Warnings::OfChange(warnings)), old) => typed(&|object: &T| warnings(object, old)),
            _ => Vec::new(),
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        match self.cells.map(|cells| (cells, Self::read(object))) {
            Some((cells, Ok(typed))) => cells(&typed, now),
            _ => super::NoHooks.cells(object, now),
        }
    }

    fn row_order(&self) -> Option<RowOrder> {
        self.row_order
    }

    fn to_storage(&self, object: &mut Value) {
        if let Some(convert) = self.to_storage {
            convert(object);
        }
    }

    fn from_storage(&self, object: &mut Value) {
        if let Some(convert) = self.from_storage {
            convert(object);
        }
    }

    fn deletion_grace_period(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        self.deletion_grace_period.and_then(|period| period(object, requested))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::types::core::v1::ConfigMap;
    use crate::types::policy::v1::PodDisruptionBudget;

    #[test]
    fn a_step_without_a_function_leaves_the_object_alone() {
        // `unknown` would be lost in a conversion.
        let mut object = json!({"kind": "ConfigMap", "apiVersion": "v1", "unknown": 1});
        let before = object.clone();
        Hooks::default(&Typed::<ConfigMap>::new(), &mut object);
        assert_eq!(object, before);
    }

    #[test]
    fn what_is_prepared_is_validated_and_only_what_is_concerned_is_written_back() {
        let hooks = Typed::<ConfigMap>::new()
            .prepare_for_create_where(
                |map| map.immutable == Some(true),
                |map| map.data = Some([("a".to_owned(), "b".to_owned())].into()),
            )
            .validate(|map| match map.data {
                Some(_) => Vec::new(),
                None => vec![field::required(&Path::new("data"), "")],
            });
        // `unknown` is lost in a conversion.
        for (immutable, after, errors) in [
            (false, json!({"immutable": false, "unknown": 1}), 1),
            (
                true,
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "immutable": true, "data": {"a": "b"}}),
                0,
            ),
        ] {
            let mut object = json!({"immutable": immutable, "unknown": 1});
            assert_eq!(hooks.prepare_and_validate(&mut object).0.len(), errors);
            assert_eq!(object, after);
            let mut object = json!({"immutable": immutable, "unknown": 1});
            Hooks::prepare_for_create(&hooks, &mut object);
            assert_eq!(object, after);
        }
    }

    #[test]
    fn the_status_belongs_to_its_subresource() {
        let hooks: &dyn Hooks = &Typed::<PodDisruptionBudget>::new().status(|| Some(json!({})));
        let old = json!({"spec": {"minAvailable": 1}, "status": {"currentHealthy": 3}});
        let asked = json!({"spec": {"minAvailable": 2}, "status": {"currentHealthy": 4}});
        let mut created = asked.clone();
        hooks.prepare_for_create(&mut created);
        assert_eq!(created, json!({"spec": {"minAvailable": 2}, "status": {}}));
        let mut updated = asked.clone();
        hooks.prepare_for_update(&mut updated, &old);
        assert_eq!(updated, json!({"spec": {"minAvailable": 2}, "status": {"currentHealthy": 3}}));
        let mut status = asked;
        hooks.prepare_for_status_update(&mut status, &old);
        assert_eq!(status, json!({"spec": {"minAvailable": 1}, "status": {"currentHealthy": 4}}));
    }
}
