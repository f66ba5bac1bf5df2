//! Selectors: which objects a list, a watch or a controller means.

pub mod fields;
pub mod labels;
pub mod nodes;
