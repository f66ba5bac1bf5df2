//! A metric with labels: one child per combination of label values, made on first use.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

/// The separator of label values inside a child's key: a byte that no UTF-8 text holds would need byte
/// strings, and a unit separator in a label value does no harm but to merge two children.
const SEPARATOR: char = '\u{1f}';

/// All children of one metric. Clones share them.
#[derive(Clone)]
pub struct Family<T>(Arc<Inner<T>>);

struct Inner<T> {
    labels: &'static [&'static str],
    make: Box<dyn Fn() -> T + Send + Sync>,
    children: RwLock<HashMap<String, T>>,
}

impl<T: Clone> Family<T> {
    pub(super) fn new(labels: &'static [&'static str], make: impl Fn() -> T + Send + Sync + 'static) -> Self {
        let family = Inner { labels, make: Box::new(make), children: RwLock::default() };
        Self(Arc::new(family))
    }

    /// The names of the labels.
    pub fn labels(&self) -> &'static [&'static str] {
        self.0.labels
    }

    /// The child with these label values, in the order of the labels. Hot paths keep it.
    ///
    /// # Panics
    /// When the number of values is not the number of labels.
    pub fn with(&self, values: &[&str]) -> T {
        assert_eq!(values.len(), self.0.labels.len(), "one value for each of {:?}", self.0.labels);
        let mut key = String::with_capacity(values.iter().map(|value| value.len() + 1).sum());
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                key.push(SEPARATOR);
            }
            key.push_str(value);
        }
        if let Some(child) = self.0.children.read().get(&key) {
            return child.clone();
        }
        self.0.children.write().entry(key).or_insert_with(|| (self.0.make)()).clone()
    }

    /// The only child of a metric without labels.
    ///
    /// # Panics
    /// When the metric has labels.
    pub fn only(&self) -> T {
        self.with(&[])
    }

    /// Forgets the child with these label values, so that it is no longer rendered.
    pub fn remove(&self, values: &[&str]) {
        self.0.children.write().remove(&values.join("\u{1f}"));
    }

    /// Every child with its label values, sorted.
    pub(super) fn children(&self) -> Vec<(Vec<String>, T)> {
        let mut children: Vec<_> = self
            .0
            .children
            .read()
            .iter()
            .map(|(key, child)| {
                let values = if self.0.labels.is_empty() { Vec::new() } else { split(key) };
                (values, child.clone())
            })
            .collect();
        children.sort_by(|a, b| a.0.cmp(&b.0));
        children
    }
}

fn split(key: &str) -> Vec<String> {
    key.split(SEPARATOR).map(str::to_owned).collect()
}
