//! Bolt database files: written once from sorted entries, and read bucket by bucket.
//!
//! Only what a snapshot needs: no transactions, no free pages, no buckets in buckets. Everything is little-endian. The
//! file is pages of 4 KiB: two with the root's place (`meta`), then trees of branch and leaf pages; a page that is
//! larger says by how many more. Upstream: go.etcd.io/bbolt, `page.go`, `bucket.go`, `db.go`.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use super::Error;

const PAGE: usize = 4096;
const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
const FREELIST: u16 = 0x10;
/// Bytes of a page's head, and of each of its elements.
const HEAD: usize = 16;
const ELEMENT: usize = 16;
/// An element of a leaf that is a bucket.
const BUCKET: u32 = 1;
/// How deep a tree may be: far more than any file that fits on a disk.
const DEPTH: usize = 24;

/// Writes a file, one bucket after the other.
pub(super) struct Writer<W> {
    out: W,
    /// The number of the next page.
    next: u64,
    leaf: Leaf,
    /// First key and number of every page written at the level below.
    pages: Vec<(Vec<u8>, u64)>,
    /// Name and root of every bucket.
    buckets: Vec<(Vec<u8>, u64)>,
}

/// Entries of a leaf that is being filled.
#[derive(Default)]
struct Leaf {
    /// Flags, key, value.
    entries: Vec<(u32, Vec<u8>, Vec<u8>)>,
    size: usize,
}

impl<W: Write + Seek> Writer<W> {
    pub fn new(mut out: W) -> Result<Self, Error> {
        // Two meta pages and an empty list of free pages: written at the end, when the root is known.
        out.rewind()?;
        out.write_all(&[0; 3 * PAGE])?;
        Ok(Self { out, next: 3, leaf: Leaf::default(), pages: Vec::new(), buckets: Vec::new() })
    }

    /// Adds an entry to the bucket at hand; keys ascend.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.add(0, key, value)
    }

    fn add(&mut self, flags: u32, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let size = ELEMENT + key.len() + value.len();
        if !self.leaf.entries.is_empty() && HEAD + self.leaf.size + size > PAGE {
            self.flush_leaf()?;
        }
        self.leaf.size += size;
        self.leaf.entries.push((flags, key.to_vec(), value.to_vec()));
        Ok(())
    }

    fn flush_leaf(&mut self) -> Result<(), Error> {
        let leaf = std::mem::take(&mut self.leaf);
        let mut data = HEAD + leaf.entries.len() * ELEMENT;
        let mut body = Vec::with_capacity(leaf.size);
        for (index, (flags, key, value)) in leaf.entries.iter().enumerate() {
            // Places count from the element itself.
            let place = (data - HEAD - index * ELEMENT) as u32;
            for number in [*flags, place, key.len() as u32, value.len() as u32] {
                body.extend_from_slice(&number.to_le_bytes());
            }
            data += key.len() + value.len();
        }
        for (_, key, value) in &leaf.entries {
            body.extend_from_slice(key);
            body.extend_from_slice(value);
        }
        let number = self.page(LEAF, leaf.entries.len(), &body)?;
        let first = leaf.entries.into_iter().next().map_or_else(Vec::new, |(_, key, _)| key);
        self.pages.push((first, number));
        Ok(())
    }

    /// Writes a page and says its number.
    fn page(&mut self, flags: u16, count: usize, body: &[u8]) -> Result<u64, Error> {
        let pages = (HEAD + body.len()).div_ceil(PAGE);
        let number = self.next;
        let mut bytes = head(number, flags, count as u16, pages as u32 - 1);
        bytes.extend_from_slice(body);
        bytes.resize(pages * PAGE, 0);
        self.out.write_all(&bytes)?;
        self.next += pages as u64;
        Ok(number)
    }

    /// Writes the tree over the leaves written since the last bucket. Returns its root.
    fn tree(&mut self) -> Result<u64, Error> {
        if !self.leaf.entries.is_empty() || self.pages.is_empty() {
            self.flush_leaf()?;
        }
        let mut level = std::mem::take(&mut self.pages);
        while level.len() > 1 {
            let mut above = Vec::new();
            let mut rest = &*level;
            while !rest.is_empty() {
                let (mut size, mut count) = (HEAD, 0);
                // Two at least, or the level would be no smaller than the one below.
                while count < rest.len() && (count < 2 || size + ELEMENT + rest[count].0.len() <= PAGE) {
                    size += ELEMENT + rest[count].0.len();
                    count += 1;
                }
                let (taken, left) = rest.split_at(count);
                let mut data = HEAD + taken.len() * ELEMENT;
                let mut body = Vec::with_capacity(size);
                for (index, (key, number)) in taken.iter().enumerate() {
                    body.extend_from_slice(&((data - HEAD - index * ELEMENT) as u32).to_le_bytes());
                    body.extend_from_slice(&(key.len() as u32).to_le_bytes());
                    body.extend_from_slice(&number.to_le_bytes());
                    data += key.len();
                }
                taken.iter().for_each(|(key, _)| body.extend_from_slice(key));
                above.push((taken[0].0.clone(), self.page(BRANCH, taken.len(), &body)?));
                rest = left;
            }
            level = above;
        }
        Ok(level[0].1)
    }

    /// Ends the bucket at hand and gives it a name.
    pub fn finish_bucket(&mut self, name: &[u8]) -> Result<(), Error> {
        let root = self.tree()?;
        self.buckets.push((name.to_vec(), root));
        Ok(())
    }

    /// Writes the root and the pages that say where it is.
    pub fn finish(mut self) -> Result<W, Error> {
        let mut buckets = std::mem::take(&mut self.buckets);
        buckets.sort();
        for (name, root) in buckets {
            let mut value = root.to_le_bytes().to_vec();
            value.extend_from_slice(&0u64.to_le_bytes());
            self.add(BUCKET, &name, &value)?;
        }
        let root = self.tree()?;
        self.out.rewind()?;
        for number in [0, 1] {
            let mut page = head(number, META, 0, 0);
            page.extend_from_slice(&meta(root, self.next, number));
            page.resize(PAGE, 0);
            self.out.write_all(&page)?;
        }
        let mut free = head(2, FREELIST, 0, 0);
        free.resize(PAGE, 0);
        self.out.write_all(&free)?;
        Ok(self.out)
    }
}

fn head(number: u64, flags: u16, count: u16, more: u32) -> Vec<u8> {
    let mut head = number.to_le_bytes().to_vec();
    head.extend_from_slice(&flags.to_le_bytes());
    head.extend_from_slice(&count.to_le_bytes());
    head.extend_from_slice(&more.to_le_bytes());
    head
}

fn meta(root: u64, end: u64, transaction: u64) -> Vec<u8> {
    let mut meta = Vec::with_capacity(64);
    for number in [MAGIC, VERSION, PAGE as u32, 0] {
        meta.extend_from_slice(&number.to_le_bytes());
    }
    // Root, its sequence, the list of free pages, the end of the file, the transaction.
    for number in [root, 0, 2, end, transaction] {
        meta.extend_from_slice(&number.to_le_bytes());
    }
    let sum = fnv(&meta);
    meta.extend_from_slice(&sum.to_le_bytes());
    meta
}

/// The 64-bit FNV-1a hash.
fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// What is done with each entry of a bucket.
pub(super) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), Error> + 'a;

/// Reads a file that nobody writes.
pub(super) struct Reader<'a> {
    file: &'a mut File,
    page_size: usize,
    /// Pages of the file.
    end: u64,
    root: u64,
}

/// Where numbers end too early.
fn short() -> Error {
    Error::Damaged("a page is too short")
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Error> {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or_else(short)?;
    Ok(u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, Error> {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or_else(short)?;
    Ok(u64::from_le_bytes(*bytes))
}

/// `length` bytes at `at`.
fn slice(bytes: &[u8], at: usize, length: usize) -> Result<&[u8], Error> {
    let end = at.checked_add(length).ok_or_else(short)?;
    bytes.get(at..end).ok_or_else(short)
}

impl<'a> Reader<'a> {
    pub fn new(file: &'a mut File) -> Result<Self, Error> {
        let size = file.seek(SeekFrom::End(0))?;
        file.rewind()?;
        let mut start = Vec::new();
        // The second meta page stands after one page, of whatever size.
        Read::by_ref(file).take(128 << 10).read_to_end(&mut start)?;
        let places = [0, 4096, 8192, 16384, 32768, 65536];
        let metas = places.into_iter().filter_map(|place| {
            let meta = start.get(place + HEAD..place + HEAD + 64)?;
            let sound = u32_at(meta, 0).ok()? == MAGIC
                && u32_at(meta, 4).ok()? == VERSION
                && u64_at(meta, 56).ok()? == fnv(&meta[..56]);
            sound.then_some(meta)
        });
        // The newer of the two.
        let newest = metas.max_by_key(|meta| u64_at(meta, 48).unwrap_or(0));
        let meta = newest.ok_or(Error::Damaged("it is no bolt database"))?;
        let page_size = u32_at(meta, 8)? as usize;
        if !page_size.is_power_of_two() || !(512..=65536).contains(&page_size) {
            return Err(Error::Damaged("its pages have no sensible size"));
        }
        let root = u64_at(meta, 16)?;
        Ok(Self { file, page_size, end: size / page_size as u64, root })
    }

    fn page(&mut self, number: u64) -> Result<Vec<u8>, Error> {
        if number >= self.end {
            return Err(Error::Damaged("a page lies behind the end"));
        }
        let mut page = vec![0; self.page_size];
        self.file.seek(SeekFrom::Start(number * self.page_size as u64))?;
        self.file.read_exact(&mut page)?;
        let more = u64::from(u32_at(&page, 12)?);
        if number + more >= self.end {
            return Err(Error::Damaged("a page lies behind the end"));
        }
        page.resize(self.page_size * (more as usize + 1), 0);
        self.file.read_exact(&mut page[self.page_size..])?;
        if u64_at(&page, 0)? != number {
            return Err(Error::Damaged("a page is not in its place"));
        }
        Ok(page)
    }

    /// Visits every entry of a bucket, in order; none if there is no such bucket.
    pub fn bucket(&mut self, name: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        let mut found = None;
        let root = self.root;
        let mut budget = self.end;
        self.walk(root, DEPTH, &mut budget, &mut |key, value| {
            if key == name {
                found = Some(value.to_vec());
            }
            Ok(())
        })?;
        let Some(bucket) = found else { return Ok(()) };
        match u64_at(&bucket, 0)? {
            // A small bucket stands where its place would.
            0 => visit_leaf(bucket.get(16..).ok_or_else(short)?, visit),
            root => {
                let mut budget = self.end;
                self.walk(root, DEPTH, &mut budget, visit)
            }
        }
    }

    /// `budget`: pages that may be read yet. A sound tree has no page twice.
    fn walk(
        &mut self,
        number: u64,
        depth: usize,
        budget: &mut u64,
        visit: &mut Visit<'_>,
    ) -> Result<(), Error> {
        if depth == 0 || *budget == 0 {
            return Err(Error::Damaged("its pages lead in a circle"));
        }
        *budget -= 1;
        let page = self.page(number)?;
        let (flags, count) = ((u32_at(&page, 8)? & 0xffff) as u16, (u32_at(&page, 8)? >> 16) as usize);
        match flags {
            LEAF => visit_leaf(&page, visit),
            BRANCH => {
                for index in 0..count {
                    let child = u64_at(&page, HEAD + index * ELEMENT + 8)?;
                    self.walk(child, depth - 1, budget, visit)?;
                }
                Ok(())
            }
            _ => Err(Error::Damaged("a page of a tree is neither branch nor leaf")),
        }
    }
}

fn visit_leaf(page: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
    let count = (u32_at(page, 8)? >> 16) as usize;
    for index in 0..count {
        let element = HEAD + index * ELEMENT;
        let place = element + u32_at(page, element + 4)? as usize;
        let (key, value) = (u32_at(page, element + 8)? as usize, u32_at(page, element + 12)? as usize);
        let start = place.checked_add(key).ok_or_else(short)?;
        visit(slice(page, place, key)?, slice(page, start, value)?)?;
    }
    Ok(())
}
