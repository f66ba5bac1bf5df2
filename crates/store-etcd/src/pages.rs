//! Reads a long range a page at a time, all of it as of one revision: no answer grows with the range, so none takes
//! longer than a call may.
//!
//! Pure: says what to ask for next, and takes the answers. Upstream's client of etcd pages alike.

use store::{Error, Range, RangeResponse};

/// Keys of the first page, as upstream's lists.
const FIRST: usize = 500;
/// Keys of a page at most.
const MOST: usize = 10_000;
/// What a page is meant to hold, in bytes, once it is known how large the keys and values are.
const BYTES: usize = 4 << 20;

/// A range that is being read.
pub(crate) struct Pages {
    wanted: Range,
    found: RangeResponse,
    /// Keys to ask for at once.
    page: usize,
}

impl Pages {
    /// Nothing of it is read yet.
    pub fn new(wanted: Range) -> Self {
        Self { wanted, found: RangeResponse::default(), page: FIRST }
    }

    /// What to ask for next.
    pub fn next(&self) -> Range {
        let wanted = &self.wanted;
        let Some(last) = self.found.kvs.last() else {
            let limit = if wanted.count_only { 0 } else { self.limit() };
            return Range { limit, ..wanted.clone() };
        };
        let revision = if wanted.revision == 0 { self.found.revision } else { wanted.revision };
        // The least key after the last one.
        let start = [&last.key[..], b"\0"].concat().into();
        Range { start, revision, limit: self.limit(), ..wanted.clone() }
    }

    fn limit(&self) -> usize {
        match self.wanted.limit {
            0 => self.page,
            limit => self.page.min(limit - self.found.kvs.len()),
        }
    }

    /// Takes the answer to [`Pages::next`]; the whole range once that was the last one.
    pub fn take(&mut self, page: RangeResponse) -> Option<RangeResponse> {
        let found = &mut self.found;
        if found.kvs.is_empty() {
            // How much there is altogether the first page says, and as of when.
            (found.revision, found.count) = (page.revision, page.count);
        }
        let bytes: usize = page.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
        let read = page.kvs.len();
        found.kvs.extend(page.kvs);
        found.more = page.more;
        // A page without a key would be asked for again and again.
        if page.more && read > 0 && (self.wanted.limit == 0 || found.kvs.len() < self.wanted.limit) {
            self.page = (BYTES / (bytes / read).max(1)).clamp(1, MOST);
            return None;
        }
        if self.wanted.uncounted && !self.wanted.count_only {
            found.count = found.kvs.len() as u64;
        }
        Some(std::mem::take(found))
    }

    /// Whether to read all of it anew after an error: the latest was asked for, and became so old meanwhile that it is
    /// gone, or what one member knew another one does not know yet.
    pub fn begin_again(&mut self, error: &Error) -> bool {
        let gone = match error {
            Error::Compacted { .. } => true,
            Error::FutureRevision { .. } => self.wanted.serializable,
            _ => false,
        };
        let outdated = gone && self.wanted.revision == 0 && !self.found.kvs.is_empty();
        if outdated {
            *self = Self::new(std::mem::take(&mut self.wanted));
        }
        outdated
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use store::KeyValue;

    use super::*;

    fn name(n: usize) -> Bytes {
        format!("k/{n:06}").into()
    }

    /// What a store with keys of 4 KiB answers, at revision 7.
    fn answer(keys: usize, request: &Range) -> RangeResponse {
        let in_range = (0..keys).map(name).filter(|key| *key >= request.start && *key < request.end);
        let all: Vec<_> = in_range.collect();
        let limit = if request.limit == 0 { all.len() } else { request.limit.min(all.len()) };
        let kv = |key: &Bytes| KeyValue {
            key: key.clone(),
            value: vec![0; 4 << 10].into(),
            create_revision: 1,
            mod_revision: 1,
            version: 1,
            lease: 0,
        };
        let kvs = if request.count_only { Vec::new() } else { all[..limit].iter().map(kv).collect() };
        let count = if request.uncounted { limit } else { all.len() } as u64;
        RangeResponse { revision: 7, kvs, more: limit < all.len(), count }
    }

    #[test]
    fn pages_put_together_are_the_range() {
        for (keys, limit, uncounted, pages, last) in [
            (0, 0, false, 1, None),
            (500, 0, false, 1, Some(499)),
            (501, 0, false, 2, Some(500)),
            // After the first page: as many as fill the bytes.
            (4000, 0, true, 5, Some(3999)),
            (4000, 200, false, 1, Some(199)),
            (4000, 600, true, 2, Some(599)),
            (600, 600, false, 2, Some(599)),
        ] {
            let wanted = Range { limit, uncounted, ..Range::prefix("k/") };
            let (mut reading, mut asked) = (Pages::new(wanted.clone()), 0);
            let whole = loop {
                let request = reading.next();
                // The first as of now, the others as of the first.
                assert_eq!(request.revision, if asked == 0 { 0 } else { 7 });
                asked += 1;
                if let Some(whole) = reading.take(answer(keys, &request)) {
                    break whole;
                }
            };
            let row = format!("{keys} keys, limit {limit}");
            assert_eq!(whole, answer(keys, &wanted), "{row}");
            assert_eq!(whole.kvs.last().map(|kv| kv.key.clone()), last.map(name), "{row}");
            assert_eq!(asked, pages, "{row}");
        }
    }

    #[test]
    fn counting_takes_one_question() {
        let wanted = Range { count_only: true, ..Range::prefix("k/") };
        let mut reading = Pages::new(wanted.clone());
        assert_eq!(reading.next(), wanted);
        assert_eq!(reading.take(answer(9000, &wanted)).unwrap().count, 9000);
    }

    #[test]
    fn what_the_next_member_does_not_know_is_read_anew_if_it_is_not_to_be_agreed_on() {
        for serializable in [true, false] {
            let mut reading = Pages::new(Range { serializable, ..Range::prefix("k/") });
            assert_eq!(reading.take(answer(1000, &reading.next())), None);
            assert_eq!(reading.begin_again(&Error::FutureRevision { current: 5 }), serializable);
        }
    }

    #[test]
    fn what_is_compacted_meanwhile_is_read_anew_if_the_latest_was_asked_for() {
        let gone = Error::Compacted { revision: 8 };
        for (revision, expected) in [(0, true), (7, false)] {
            let mut reading = Pages::new(Range::prefix("k/").at(revision));
            assert!(!reading.begin_again(&gone), "the first page says what is so");
            let request = reading.next();
            assert_eq!(reading.take(answer(1000, &request)), None);
            assert_eq!(reading.begin_again(&gone), expected);
            assert_eq!(reading.next().start == request.start, expected);
            assert!(!reading.begin_again(&Error::Cancelled));
        }
    }
}
