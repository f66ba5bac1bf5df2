//! From the keys of an object to files: what configMap, secret and projected volumes share.

use std::collections::BTreeMap;

use api::types::core::v1::{ConfigMap, KeyToPath, Secret};

use crate::{Error, File, Payload};

/// Chooses and names the files of a volume: all keys, or only `items` under their own paths.
///
/// `missing` is the text for an item whose key does not exist, which is an error unless `optional`.
pub(super) fn choose(
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    default_mode: u32,
    optional: bool,
    missing: &str,
) -> Result<Payload, Error> {
    let file = |data: &[u8], mode: u32| File { data: data.to_vec(), mode, user: None };
    let items = match items {
        None | Some([]) => {
            return Ok(data.iter().map(|(key, data)| (key.clone(), file(data, default_mode))).collect());
        }
        Some(items) => items,
    };
    let mut payload = Payload::new();
    for item in items {
        match data.get(&item.key) {
            Some(data) => {
                let mode = item.mode.map_or(default_mode, |mode| mode as u32);
                payload.insert(item.path.clone(), file(data, mode));
            }
            None if optional => {}
            None => return Err(Error::Invalid(format!("{missing}: {}", item.key))),
        }
    }
    Ok(payload)
}

/// The data of a ConfigMap, text and binary.
pub(super) fn of_config_map(object: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = object.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = object.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    text.chain(binary).collect()
}

/// The data of a Secret.
pub(super) fn of_secret(object: &Secret) -> BTreeMap<String, Vec<u8>> {
    object.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect()
}

/// The files of a ConfigMap by name; none when it is optional and does not exist.
pub(super) fn config_map_files(
    objects: &crate::Content,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: bool,
) -> Result<Payload, Error> {
    match objects.config_maps.get(name) {
        Some(object) => {
            let missing = "configmap references non-existent config key";
            choose(&of_config_map(object), items, mode, optional, missing)
        }
        None if optional => Ok(Payload::new()),
        None => Err(Error::Invalid(format!("configmap \"{name}\" not found"))),
    }
}

/// The files of a Secret by name; none when it is optional and does not exist.
pub(super) fn secret_files(
    objects: &crate::Content,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: bool,
) -> Result<Payload, Error> {
    match objects.secrets.get(name) {
        Some(object) => {
            choose(&of_secret(object), items, mode, optional, "references non-existent secret key")
        }
        None if optional => Ok(Payload::new()),
        None => Err(Error::Invalid(format!("secret \"{name}\" not found"))),
    }
}
