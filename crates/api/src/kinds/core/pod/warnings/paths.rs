//! Files of one volume that would hide each other: two keys at the same path, or one below another.
//! Upstream: `warningsForOverlappingVirtualPaths` of pkg/api/pod/warnings.go.

use std::collections::BTreeSet;

use crate::field::quote;
use crate::kinds::optional::{items, text};
use crate::types::core::v1::{DownwardAPIVolumeFile, KeyToPath, Volume, VolumeProjection};

/// Paths of a volume that are compared with each other: more than people write by hand, few enough for what clients send.
const MOST_PATHS: usize = 100;

/// Warns of the paths of a volume that overlap.
pub(super) fn overlapping(warnings: &mut Vec<String>, volume: &Volume) {
    let name = quote(&volume.name);
    if let Some(source) = &volume.config_map {
        let title = format!("volume {name} (ConfigMap {}): overlapping paths", quote(&source.name));
        overlaps(warnings, &keys(items(&source.items)), &title);
    }
    if let Some(source) = &volume.secret {
        let title = format!("volume {name} (Secret {}): overlapping paths", quote(text(&source.secret_name)));
        overlaps(warnings, &keys(items(&source.items)), &title);
    }
    if let Some(source) = &volume.downward_api {
        let title = format!("volume {name} (DownwardAPI): overlapping paths");
        overlaps(warnings, &files(items(&source.items)), &title);
    }
    let Some(projected) = &volume.projected else { return };
    let mut all: BTreeSet<&str> = BTreeSet::new();
    for source in items(&projected.sources) {
        if *source == VolumeProjection::default() {
            warnings.push(format!("volume {name} (Projected) has no sources provided"));
            continue;
        }
        let Some((paths, what)) = projection(source) else { continue };
        if paths.is_empty() || all.len() >= MOST_PATHS {
            continue;
        }
        let title = format!("volume {name} (Projected {what}): overlapping paths");
        overlaps(warnings, &paths, &title);
        let unique: BTreeSet<&str> = paths.into_iter().collect();
        let mut merged: Vec<&str> = unique.iter().chain(&all).copied().collect();
        merged.sort_unstable();
        overlaps(warnings, &merged, &title);
        all.extend(unique.into_iter().take(MOST_PATHS));
    }
}

/// The paths of a source, and what to call it.
fn projection(source: &VolumeProjection) -> Option<(Vec<&str>, String)> {
    if let Some(source) = source.config_map.as_ref().filter(|source| source.items.is_some()) {
        return Some((keys(items(&source.items)), format!("ConfigMap {}", quote(&source.name))));
    }
    if let Some(source) = source.secret.as_ref().filter(|source| source.items.is_some()) {
        return Some((keys(items(&source.items)), format!("Secret {}", quote(&source.name))));
    }
    if let Some(source) = source.downward_api.as_ref().filter(|source| source.items.is_some()) {
        return Some((files(items(&source.items)), "DownwardAPI".to_owned()));
    }
    if let Some(source) = &source.service_account_token {
        return Some((vec![&source.path], "ServiceAccountToken".to_owned()));
    }
    let source = source.cluster_trust_bundle.as_ref()?;
    let name = source.name.as_ref().or(source.signer_name.as_ref());
    Some((vec![&source.path], format!("ClusterTrustBundle {}", quote(text(&name.cloned())))))
}

fn keys(items: &[KeyToPath]) -> Vec<&str> {
    items.iter().map(|item| item.path.as_str()).collect()
}

fn files(items: &[DownwardAPIVolumeFile]) -> Vec<&str> {
    items.iter().map(|item| item.path.as_str()).collect()
}

fn overlaps(warnings: &mut Vec<String>, paths: &[&str], title: &str) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for path in paths.iter().take(2 * MOST_PATHS) {
        let path = path.trim_end_matches('/');
        if let Some(other) = seen.iter().find(|other| overlap(other, path)) {
            warnings.push(format!("{title}: {} with {}", quote(path), quote(other)));
        }
        seen.insert(path);
    }
}

/// Whether two paths hide each other. Upstream compares texts, so that `a` also overlaps `ab`.
fn overlap(one: &str, other: &str) -> bool {
    !one.is_empty()
        && !other.is_empty()
        && (format!("{one}/").starts_with(other) || format!("{other}/").starts_with(one))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn overlaps_are_told() {
        for (volume, expected) in [
            (
                json!({"name": "v", "configMap": {"name": "m", "items": [
                    {"key": "a", "path": "p"}, {"key": "b", "path": "p/q"}, {"key": "c", "path": "z"}]}}),
                vec![r#"volume "v" (ConfigMap "m"): overlapping paths: "p/q" with "p""#],
            ),
            (
                json!({"name": "v", "secret": {"secretName": "s", "items": [
                    {"key": "a", "path": "p"}, {"key": "b", "path": "p/"}]}}),
                vec![r#"volume "v" (Secret "s"): overlapping paths: "p" with "p""#],
            ),
            (
                json!({"name": "v", "projected": {"sources": [
                    {},
                    {"serviceAccountToken": {"path": "token"}},
                    {"configMap": {"name": "m", "items": [{"key": "a", "path": "token"}]}}]}}),
                vec![
                    r#"volume "v" (Projected) has no sources provided"#,
                    r#"volume "v" (Projected ConfigMap "m"): overlapping paths: "token" with "token""#,
                ],
            ),
        ] {
            let mut warnings = Vec::new();
            overlapping(&mut warnings, &serde_json::from_value(volume).unwrap());
            assert_eq!(warnings, expected);
        }
    }
}
