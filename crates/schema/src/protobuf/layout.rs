//! The field numbers of each definition, in the order in which fields are written.
//! Made of what `table::wire` says of a definition when it is first asked for.
//! Not here: what becomes of zero (`table::Zero`).

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::table::{Definition, Field, wire};

/// The fields of a message, by number.
#[derive(Debug, Default)]
pub(super) struct Layout(pub(super) Vec<(u32, Slot)>);

/// What stands at a number.
#[derive(Debug)]
pub(super) enum Slot {
    /// The field.
    Field(&'static Field),
    /// A message of whose fields JSON knows only the names.
    Inline(Layout),
}

#[derive(Debug)]
struct Entry {
    line: &'static str,
    layout: OnceLock<Layout>,
}

fn entries() -> &'static HashMap<&'static str, Entry> {
    static ENTRIES: OnceLock<HashMap<&'static str, Entry>> = OnceLock::new();
    ENTRIES.get_or_init(|| {
        let entry =
            |(name, line): (&&'static str, &&'static str)| (*name, Entry { line, layout: OnceLock::new() });
        wire::lines().iter().map(entry).collect()
    })
}

/// The names of all definitions that have numbers.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    entries().keys().copied()
}

/// The layout of a definition; `None` if it has no protobuf form.
pub(super) fn of(definition: &'static Definition) -> Option<&'static Layout> {
    let entry = entries().get(definition.name)?;
    Some(entry.layout.get_or_init(|| {
        let mut layout = Layout::default();
        for word in wire::words(entry.line) {
            let path: Vec<u32> = word.path.split('.').filter_map(|number| number.parse().ok()).collect();
            if let Some(field) = definition.field(word.name) {
                layout.insert(&path, field);
            }
        }
        layout.sort();
        layout
    }))
}

impl Layout {
    fn insert(&mut self, path: &[u32], field: &'static Field) {
        match path {
            [] => {}
            [number] => self.0.push((*number, Slot::Field(field))),
            [number, rest @ ..] => {
                let inline = |(known, slot): &(u32, Slot)| known == number && matches!(slot, Slot::Inline(_));
                let at = self.0.iter().position(inline).unwrap_or_else(|| {
                    self.0.push((*number, Slot::Inline(Self::default())));
                    self.0.len() - 1
                });
                if let Slot::Inline(below) = &mut self.0[at].1 {
                    below.insert(rest, field);
                }
            }
        }
    }

    fn sort(&mut self) {
        self.0.sort_by_key(|(number, _)| *number);
        for (_, slot) in &mut self.0 {
            if let Slot::Inline(below) = slot {
                below.sort();
            }
        }
    }

    /// What stands at a number.
    pub(super) fn get(&self, number: u32) -> Option<&Slot> {
        let index = self.0.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        Some(&self.0[index].1)
    }
}
