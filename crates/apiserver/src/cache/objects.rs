//! The objects of a cache, by their key and by what their labels may be.
//!
//! A list by labels must not look at every object: at hundreds of thousands each look is a wait for memory. So beside the
//! objects stand their signatures, sixteen bytes each, one after the other: bits that every label sets. Where a bit of a
//! wanted label is missing the object does not have it; where all are there it is looked at. That is read through at the
//! speed of memory, costs the same for every selector, and a write changes one place in it.
//! Not here: indexes of selectable fields (`cache`), what a selector means (`api::selector`).

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;
use std::sync::Arc;

use api::selector::labels::{Operator, Selector};
use bytes::Bytes;

use super::Cached;

/// With up to so many objects to look at nothing is gained by asking for their signatures first.
const FEW: usize = 2_000;
/// Where more than one in so many may be wanted, putting them in order costs more than walking all of them.
const MANY: usize = 4;
/// How many bits a label sets, and how many its key alone.
const BITS: (u32, u32) = (4, 2);

/// What the labels of an object may be.
type Signature = u128;

/// The objects of one resource.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// Where each is in `all`.
    places: BTreeMap<Bytes, usize>,
    all: Vec<Arc<Cached>>,
    /// In the order of `all`.
    signatures: Vec<Signature>,
}

/// What a selector asks of labels, as far as signatures can tell.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Bits that must be there.
    all: Signature,
    /// Of each of these one.
    any: Vec<Vec<Signature>>,
    /// Nothing is wanted.
    nothing: bool,
}

/// `count` bits for what was hashed.
fn bits(hasher: &DefaultHasher, count: u32) -> Signature {
    let hash = hasher.finish();
    (0..count).fold(0, |bits, n| bits | 1 << (hash >> (7 * n) & 127))
}

fn of_key(key: &str) -> DefaultHasher {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher
}

fn of_label(mut key: DefaultHasher, value: &str) -> Signature {
    value.hash(&mut key);
    bits(&key, BITS.0)
}

fn signature(object: &Cached) -> Signature {
    object.facts.labels.iter().fold(0, |signature, (key, value)| {
        let key = of_key(key);
        signature | bits(&key, BITS.1) | of_label(key, value)
    })
}

impl Wanted {
    /// What `selector` asks for. That a label is missing, or is not something, no signature tells.
    pub fn of(selector: &Selector) -> Self {
        let mut wanted = Self { nothing: selector.is_nothing(), ..Self::default() };
        for requirement in selector.requirements() {
            let key = of_key(&requirement.key);
            match (requirement.operator, requirement.values.as_slice()) {
                (Operator::NotIn | Operator::DoesNotExist, _) => continue,
                (Operator::In, [value]) => wanted.all |= of_label(key.clone(), value),
                (Operator::In, values) => {
                    wanted.any.push(values.iter().map(|value| of_label(key.clone(), value)).collect());
                }
                (Operator::Exists | Operator::GreaterThan | Operator::LessThan, _) => {}
            }
            wanted.all |= bits(&key, BITS.1);
        }
        wanted
    }

    /// Whether every signature would do.
    fn is_anything(&self) -> bool {
        self.all == 0 && self.any.is_empty() && !self.nothing
    }

    fn may_be(&self, signature: Signature) -> bool {
        signature & self.all == self.all
            && !self.nothing
            && self.any.iter().all(|any| any.iter().any(|bits| signature & bits == *bits))
    }
}

impl Objects {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Arc<Cached>> {
        self.places.get(key).map(|place| &self.all[*place])
    }

    /// Puts an object in, and says what was there before.
    pub(super) fn insert(&mut self, object: Arc<Cached>) -> Option<Arc<Cached>> {
        let signature = signature(&object);
        if let Some(place) = self.places.get(&object.key) {
            self.signatures[*place] = signature;
            return Some(std::mem::replace(&mut self.all[*place], object));
        }
        self.places.insert(object.key.clone(), self.all.len());
        self.all.push(object);
        self.signatures.push(signature);
        None
    }

    /// Takes an object out. The last one takes its place, so that there are no holes.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Arc<Cached>> {
        let place = self.places.remove(key)?;
        let removed = self.all.swap_remove(place);
        self.signatures.swap_remove(place);
        if let Some(moved) = self.all.get(place)
            && let Some(known) = self.places.get_mut(&moved.key)
        {
            *known = place;
        }
        if self.all.capacity() > 4 * self.all.len().max(FEW) {
            self.all.shrink_to(2 * self.all.len());
            self.signatures.shrink_to(2 * self.signatures.len());
        }
        Some(removed)
    }

    /// All of them, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Cached>> {
        self.all.iter()
    }

    /// Those after a key, in order.
    pub(super) fn after(&self, key: Option<&[u8]>) -> impl Iterator<Item = &Arc<Cached>> {
        let from = key.map_or(Bound::Unbounded, |key| Bound::Excluded(Bytes::copy_from_slice(key)));
        self.places.range((from, Bound::Unbounded)).map(|(_, place)| &self.all[*place])
    }

    /// Those of a namespace, in order.
    pub(super) fn of_namespace(&self, namespace: &str) -> impl Iterator<Item = &Arc<Cached>> {
        self.in_namespace(namespace).map(|(_, place)| &self.all[*place])
    }

    fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = (&Bytes, &usize)> {
        let prefix = Bytes::from(format!("{namespace}/"));
        let from = (Bound::Included(prefix.clone()), Bound::Unbounded);
        self.places.range(from).take_while(move |(key, _)| key.starts_with(&prefix))
    }

    /// Whether a namespace has so few objects that they are best looked at.
    pub(super) fn has_few(&self, namespace: &str) -> bool {
        self.in_namespace(namespace).nth(FEW).is_none()
    }

    /// Those that may be wanted, in order; `None` where walking all of them is no worse.
    pub(super) fn wanted(&self, wanted: &Wanted) -> Option<Vec<&Arc<Cached>>> {
        if wanted.is_anything() || self.len() <= FEW {
            return None;
        }
        let mut found = Vec::new();
        for (place, signature) in self.signatures.iter().enumerate() {
            if wanted.may_be(*signature) {
                if found.len() == self.len() / MANY {
                    return None;
                }
                found.push(&self.all[place]);
            }
        }
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Some(found)
    }
}

impl FromIterator<Arc<Cached>> for Objects {
    fn from_iter<I: IntoIterator<Item = Arc<Cached>>>(objects: I) -> Self {
        let objects = objects.into_iter();
        let mut all = Self::default();
        all.all.reserve(objects.size_hint().0);
        all.signatures.reserve(objects.size_hint().0);
        for object in objects {
            all.insert(object);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use foundation::{Randomness, SeededRandomness};

    use super::*;
    use crate::encoding::Facts;

    fn object(key: String, labels: &[(String, String)]) -> Arc<Cached> {
        let mut labels: Vec<(Box<str>, Box<str>)> =
            labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect();
        labels.sort_unstable();
        labels.dedup_by(|a, b| a.0 == b.0);
        let facts = Facts { labels: labels.into(), fields: Box::default() };
        Arc::new(Cached { key: key.into(), value: Bytes::new(), revision: 1, facts })
    }

    /// Changes, deletions and lists in no order, held against looking at every object.
    #[test]
    fn what_is_found_by_signatures_is_what_looking_at_each_object_finds() {
        let random = SeededRandomness::new(23);
        let below = |n: u64| random.below(n);
        let mut objects = Objects::default();
        let mut plain: BTreeMap<Bytes, Arc<Cached>> = BTreeMap::new();
        let selectors = [
            "app=a1",
            "app=a2,tier=t0",
            "app in (a1, a3)",
            "app in (a1),tier in (t0, t1)",
            "rare",
            "rare=yes",
            "!rare",
            "app!=a1",
            "app=a1,tier!=t0",
            "n>40",
            "n<3,app=a1",
            "missing",
            "app=nobody",
            "",
            "app=",
        ];
        let mut by_signature = 0;
        for round in 0..6_000_u64 {
            let key = format!("ns{}/o{}", below(3), below(5_000));
            if below(5) == 0 && round > 4_000 {
                let gone = objects.remove(key.as_bytes());
                assert_eq!(gone.is_some(), plain.remove(key.as_bytes()).is_some());
            } else {
                let mut labels = vec![
                    ("app".to_owned(), format!("a{}", below(30))),
                    ("tier".to_owned(), format!("t{}", below(6))),
                    ("n".to_owned(), below(50).to_string()),
                ];
                labels.truncate(below(4) as usize);
                if below(1_000) == 0 {
                    labels.push(("rare".to_owned(), "yes".to_owned()));
                }
                let object = object(key, &labels);
                let before = objects.insert(object.clone()).map(|before| before.key.clone());
                assert_eq!(before, plain.insert(object.key.clone(), object).map(|before| before.key.clone()));
            }
            if round % 500 != 499 {
                continue;
            }
            assert!(objects.after(None).map(|object| &object.key).eq(plain.keys()), "{round}");
            let one = objects.of_namespace("ns1").map(|object| &object.key);
            assert!(one.eq(plain.keys().filter(|key| key.starts_with(b"ns1/"))), "{round}");
            for text in selectors {
                let selector = Selector::parse(text).unwrap();
                let matches = |object: &&Arc<Cached>| selector.matches_with(|key| object.facts.label(key));
                let Some(found) = objects.wanted(&Wanted::of(&selector)) else { continue };
                by_signature += 1;
                let looked_at = found.len();
                let found: Vec<&Bytes> = found.into_iter().filter(|o| matches(o)).map(|o| &o.key).collect();
                let naive: Vec<&Bytes> = plain.values().filter(matches).map(|o| &o.key).collect();
                assert_eq!(found, naive, "{text} in round {round}");
                // A few are looked at for nothing; of a comparison only the key is known.
                let few = naive.len() + plain.len() / 20;
                assert!(
                    looked_at <= few || text.contains(['<', '>']),
                    "{text}: {looked_at} for {}",
                    naive.len()
                );
            }
        }
        assert!(by_signature > 40, "{by_signature}");
    }

    #[test]
    fn nothing_is_found_for_a_selector_of_nothing() {
        let objects: Objects = (0..FEW + 1).map(|n| object(format!("o{n}"), &[])).collect();
        assert_eq!(objects.wanted(&Wanted::of(&Selector::nothing())).map(|found| found.len()), Some(0));
        assert!(objects.wanted(&Wanted::of(&Selector::everything())).is_none());
    }
}
