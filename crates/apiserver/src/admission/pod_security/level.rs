//! The levels of the Pod Security Standards and the namespace labels that choose them.
//! Upstream: pod-security-admission/api.

use std::collections::BTreeMap;
use std::fmt;

use api::field::{self, ErrorList, Path};

const PREFIX: &str = "pod-security.kubernetes.io/";

/// A standard, from the loosest to the strictest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything is allowed.
    #[default]
    Privileged,
    /// What is known to give power over the node is not.
    Baseline,
    /// Current hardening practice.
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        }
    }
}

/// A standard as it stood in a version of Kubernetes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelVersion {
    /// The standard.
    pub level: Level,
    /// The minor version (`25` for v1.25); `None` for the latest.
    pub version: Option<u32>,
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Some(minor) => write!(f, "{level}:v1.{minor}"),
            None => write!(f, "{level}:latest"),
        }
    }
}

impl LevelVersion {
    /// Reads a level (`baseline`) and a version (`latest`, `v1.25`) as configuration files and labels have them.
    pub fn parse(level: &str, version: &str) -> Option<Self> {
        Some(Self { level: Level::parse(level)?, version: self::version(version)? })
    }
}

/// Whom the standards are not applied to.
#[derive(Clone, Debug, Default)]
pub struct Exemptions {
    /// Users whose requests are not looked at.
    pub usernames: Vec<String>,
    /// Namespaces in which nothing is looked at.
    pub namespaces: Vec<String>,
    /// RuntimeClasses whose pods are not looked at.
    pub runtime_classes: Vec<String>,
}

/// What holds for namespaces without labels, and where nothing does.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// What pods are refused by.
    pub enforce: LevelVersion,
    /// What is noted in the audit log.
    pub audit: LevelVersion,
    /// What is warned about.
    pub warn: LevelVersion,
    /// Whom the standards are not applied to.
    pub exemptions: Exemptions,
}

/// What a namespace's labels ask for.
pub(super) struct Policy {
    pub(super) enforce: LevelVersion,
    pub(super) audit: LevelVersion,
    pub(super) warn: LevelVersion,
    pub(super) errors: ErrorList,
}

impl Policy {
    /// Whether no mode asks for anything.
    pub(super) fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|mode| mode.level == Level::Privileged)
    }

    /// The modes that labels set and that ask for something, as a warning tells them; `None` where the policy is
    /// what holds without labels.
    pub(super) fn described(&self, labels: &BTreeMap<String, String>, defaults: &Defaults) -> Option<String> {
        if self.is_privileged()
            || (self.enforce, self.audit, self.warn) == (defaults.enforce, defaults.audit, defaults.warn)
        {
            return None;
        }
        let labelled = |mode: &str| {
            labels.contains_key(&format!("{PREFIX}{mode}"))
                || labels.contains_key(&format!("{PREFIX}{mode}-version"))
        };
        let modes = [("enforce", self.enforce), ("audit", self.audit), ("warn", self.warn)];
        let told = modes.iter().filter(|(mode, held)| held.level != Level::Privileged && labelled(mode));
        Some(told.map(|(mode, held)| format!("{mode}={held}")).collect::<Vec<_>>().join(", "))
    }
}

fn version(text: &str) -> Option<Option<u32>> {
    if text == "latest" {
        return Some(None);
    }
    let minor = text.strip_prefix("v1.")?;
    let plain = !minor.is_empty() && minor.bytes().all(|b| b.is_ascii_digit());
    (plain && (minor == "0" || !minor.starts_with('0'))).then(|| minor.parse().ok()).flatten().map(Some)
}

fn one(
    labels: &BTreeMap<String, String>,
    mode: &str,
    default: LevelVersion,
    fallback: Level,
    errors: &mut ErrorList,
) -> LevelVersion {
    let path = Path::new("metadata").child("labels");
    let mut chosen = default;
    let key = format!("{PREFIX}{mode}");
    if let Some(text) = labels.get(&key) {
        // A level without a version of its own is the latest, whatever the default's version is.
        chosen.version = None;
        match Level::parse(text) {
            Some(level) => chosen.level = level,
            None => {
                let detail = "must be one of privileged, baseline, restricted";
                errors.push(field::invalid(&path.key(&key), text.as_str(), detail));
                chosen.level = fallback;
            }
        }
    }
    let key = format!("{PREFIX}{mode}-version");
    if let Some(text) = labels.get(&key) {
        match version(text) {
            Some(version) => chosen.version = version,
            None => {
                let detail = "must be \"latest\" or \"v1.x\"";
                errors.push(field::invalid(&path.key(&key), text.as_str(), detail));
                chosen.version = None;
            }
        }
    }
    chosen
}

/// Reads the labels. Where they are wrong, pods are held to the strictest standard, and nobody is warned or told.
pub(super) fn policy(labels: &BTreeMap<String, String>, defaults: &Defaults) -> Policy {
    let mut errors = ErrorList::new();
    let enforce = one(labels, "enforce", defaults.enforce, Level::Restricted, &mut errors);
    let audit = one(labels, "audit", defaults.audit, Level::Privileged, &mut errors);
    let mut warn = one(labels, "warn", defaults.warn, Level::Privileged, &mut errors);
    // Who enforces and says nothing of warnings is warned of what makes pods by the same standard.
    let silent = !labels.contains_key(&format!("{PREFIX}warn"));
    if silent && enforce.level > warn.level && labels.contains_key(&format!("{PREFIX}enforce")) {
        warn = enforce;
    }
    Policy { enforce, audit, warn, errors }
}
