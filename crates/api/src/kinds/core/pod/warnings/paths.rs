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
    let name = || quote(&volume.name);
    if let Some(source) = &volume.config_map {
        overlaps(warnings, &keys(items(&source.items)), || {
            format!("volume {} (ConfigMap {}): overlapping paths", name(), quote(&source.name))
        });
    }
    if let Some(source) = &volume.secret {
        overlaps(warnings, &keys(items(&source.items)), || {
            format!("volume {} (Secret {}): overlapping paths", name(), quote(text(&source.secret_name)))
        });
    }
    if let Some(source) = &volume.downward_api {
        let title = || format!("volume {} (DownwardAPI): overlapping paths", name());
        overlaps(warnings, &files(items(&source.items)), title);
    }
    let Some(projected) = &volume.projected else { return };
    let mut all: BTreeSet<&str> = BTreeSet::new();
    for source in items(&projected.sources) {
        if *source == VolumeProjection::default() {
            warnings.push(format!("volume {} (Projected) has no sources provided", name()));
            continue;
        }
        let Some((paths, kind, of)) = projection(source) else { continue };
        if paths.is_empty() || all.len() >= MOST_PATHS {
            continue;
        }
        let title = || {
            let of = of.map(|of| format!(" {}", quote(of))).unwrap_or_default();
            format!("volume {} (Projected {kind}{of}): overlapping paths", name())
        };
        overlaps(warnings, &paths, title);
        let unique: BTreeSet<&str> = paths.into_iter().collect();
        let mut merged: Vec<&str> = unique.iter().chain(&all).copied().collect();
        merged.sort_unstable();
        overlaps(warnings, &merged, title);
        all.extend(unique.into_iter().take(MOST_PATHS));
    }
}

/// The paths of a source, what kind of source it is, and its name where it has one.
fn projection(source: &VolumeProjection) -> Option<(Vec<&str>, &'static str, Option<&str>)> {
    if let Some(source) = source.config_map.as_ref().filter(|source| source.items.is_some()) {
        return Some((keys(items(&source.items)), "ConfigMap", Some(&source.name)));
    }
    if let Some(source) = source.secret.as_ref().filter(|source| source.items.is_some()) {
        return Some((keys(items(&source.items)), "Secret", Some(&source.name)));
    }
    if let Some(source) = source.downward_api.as_ref().filter(|source| source.items.is_some()) {
        return Some((files(items(&source.items)), "DownwardAPI", None));
    }
    if let Some(source) = &source.service_account_token {
        return Some((vec![&source.path], "ServiceAccountToken", None));
    }
    let source = source.cluster_trust_bundle.as_ref()?;
    let name = source.name.as_ref().or(source.signer_name.as_ref());
    Some((vec![&source.path], "ClusterTrustBundle", Some(name.map_or("", String::as_str))))
}

fn keys(items: &[KeyToPath]) -> Vec<&str> {
    items.iter().map(|item| item.path.as_str()).collect()
}

fn files(items: &[DownwardAPIVolumeFile]) -> Vec<&str> {
    items.iter().map(|item| item.path.as_str()).collect()
}

/// The title is only made where something overlaps: every pod has a volume to be looked at, its token's.
fn overlaps(warnings: &mut Vec<String>, paths: &[&str], title: impl Fn() -> String) {
    if paths.len() < 2 {
        return;
    }
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for path in paths.iter().take(2 * MOST_PATHS) {
        let path = path.trim_end_matches('/');
        if let Some(other) = seen.iter().find(|other| overlap(other, path)) {
            warnings.push(format!("{}: {} with {}", title(), quote(path), quote(other)));
        }
        seen.insert(path);
    }
}

/// Whether two paths hide each other. Upstream compares texts, so that `a` also overlaps `ab`.
fn overlap(one: &str, other: &str) -> bool {
    let begins = |whole: &str, with: &str| whole.starts_with(with) || with.strip_suffix('/') == Some(whole);
    !one.is_empty() && !other.is_empty() && (begins(one, other) || begins(other, one))
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
