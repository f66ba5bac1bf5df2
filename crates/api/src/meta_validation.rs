//! Checks of the metadata every kind has. The engine runs them for each kind, beside the kind's own hooks.
//! Upstream: apimachinery `pkg/api/validation/objectmeta.go`.
