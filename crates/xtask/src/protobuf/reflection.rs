//! The structs of a Go program, from the description of types that its linker leaves in it.
//! Reads a 64-bit little-endian ELF file that is linked at a fixed address, of Go 1.16 or later (`internal/abi`). Types
//! are found from the `.typelink` section, which has an offset for each pointer, list and map, and from there by what they
//! hold.
//! Not here: what the structs mean.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};

/// Go's numbers of kinds of types.
const KIND_MAP: u8 = 21;
const KIND_POINTER: u8 = 22;
const KIND_SLICE: u8 = 23;
const KIND_STRUCT: u8 = 25;
/// The header that every type begins with.
const TYPE_HEADER: u64 = 48;
/// A struct's header: that, the package's name, the list of fields. The name of its own package stands behind it.
const STRUCT_HEADER: u64 = 80;

/// A package's path, and a name in it.
pub(super) type Name = (String, String);
/// A struct's fields, in the order of its source.
pub(super) type Struct = Vec<StructField>;

/// A field.
#[derive(Debug, Clone)]
pub(super) struct StructField {
    pub(super) name: String,
    pub(super) tag: String,
    /// Whether its type is a pointer.
    pub(super) pointer: bool,
    /// The struct that it is, if it is one.
    pub(super) of: Option<Name>,
}

/// A program.
pub(super) struct Go<'a> {
    bytes: &'a [u8],
    sections: BTreeMap<String, Section>,
    /// What offsets of types and names count from.
    base: u64,
}

#[derive(Debug, Clone, Copy)]
struct Section {
    address: u64,
    offset: u64,
    size: u64,
}

impl<'a> Go<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self> {
        ensure!(bytes.starts_with(b"\x7fELF\x02\x01"), "no 64-bit little-endian ELF file");
        let mut program = Self { bytes, sections: BTreeMap::new(), base: 0 };
        let table = program.number(0x28, 8)?;
        let (count, names) = (program.number(0x3c, 2)?, program.number(0x3e, 2)?);
        let header = |index: u64| table + index * 64;
        let texts = program.number(header(names) + 24, 8)?;
        for index in 0..count {
            let word = |at: u64, size| program.number(header(index) + at, size);
            const NO_BITS: u64 = 8;
            if word(4, 4)? == NO_BITS {
                continue;
            }
            let section = Section { address: word(16, 8)?, offset: word(24, 8)?, size: word(32, 8)? };
            let start = usize::try_from(texts + word(0, 4)?)?;
            let name = bytes.get(start..).and_then(|rest| rest.split(|byte| *byte == 0).next());
            let name = String::from_utf8_lossy(name.context("a section has no name")?).into_owned();
            program.sections.insert(name, section);
        }
        program.base = program.section(".rodata")?.address;
        Ok(program)
    }

    fn section(&self, name: &str) -> Result<Section> {
        self.sections.get(name).copied().with_context(|| format!("no section {name}: is this a Go program?"))
    }

    /// A number in the file.
    fn number(&self, offset: u64, size: usize) -> Result<u64> {
        let start = usize::try_from(offset)?;
        let bytes = start.checked_add(size).and_then(|end| self.bytes.get(start..end));
        let bytes = bytes.context("the file ends early")?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// Where an address of the running program is in the file.
    fn place(&self, address: u64) -> Result<u64> {
        let holds = |section: &&Section| {
            section.address != 0 && (section.address..section.address + section.size).contains(&address)
        };
        let section = self.sections.values().find(holds).context("an address outside of all sections")?;
        Ok(address - section.address + section.offset)
    }

    /// A number at an address.
    fn word(&self, address: u64, size: usize) -> Result<u64> {
        self.number(self.place(address)?, size)
    }

    /// A text with its length before it, seven bits to a byte; and where it ends.
    fn text(&self, mut place: u64) -> Result<(String, u64)> {
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = self.number(place, 1)?;
            place += 1;
            length |= (byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
            ensure!(shift < 32, "a text is too long");
        }
        let (start, end) = (usize::try_from(place)?, usize::try_from(place + length)?);
        let text = self.bytes.get(start..end).context("a text ends behind the file")?;
        Ok((String::from_utf8_lossy(text).into_owned(), place + length))
    }

    /// A name and its tag.
    fn name(&self, address: u64) -> Result<(String, String)> {
        const TAGGED: u64 = 2;
        let place = self.place(address)?;
        let (name, end) = self.text(place + 1)?;
        let tag = if self.number(place, 1)? & TAGGED != 0 { self.text(end)?.0 } else { String::new() };
        Ok((name, tag))
    }

    fn kind(&self, r#type: u64) -> Result<u8> {
        Ok(u8::try_from(self.word(r#type + 23, 1)? & 0x1f)?)
    }

    /// The name of a type that has one.
    fn type_name(&self, r#type: u64) -> Result<Option<Name>> {
        const UNCOMMON: u64 = 1;
        if self.word(r#type + 20, 1)? & UNCOMMON == 0 || self.kind(r#type)? != KIND_STRUCT {
            return Ok(None);
        }
        let package = self.word(r#type + STRUCT_HEADER, 4)?;
        if package == 0 {
            return Ok(None);
        }
        let (package, _) = self.name(self.base + package)?;
        let (name, _) = self.name(self.base + self.word(r#type + 40, 4)?)?;
        Ok(Some((package, name.rsplit('.').next().unwrap_or_default().to_owned())))
    }

    /// All structs that have names.
    pub(super) fn structs(&self) -> Result<BTreeMap<Name, Struct>> {
        let links = self.section(".typelink")?;
        let mut waiting = Vec::new();
        for at in (0..links.size).step_by(4) {
            waiting.push(self.base + self.number(links.offset + at, 4)?);
        }
        let (mut seen, mut found) = (BTreeSet::new(), BTreeMap::new());
        while let Some(r#type) = waiting.pop() {
            if !seen.insert(r#type) {
                continue;
            }
            match self.kind(r#type)? {
                KIND_POINTER | KIND_SLICE => waiting.push(self.word(r#type + TYPE_HEADER, 8)?),
                KIND_MAP => {
                    waiting.push(self.word(r#type + TYPE_HEADER, 8)?);
                    waiting.push(self.word(r#type + TYPE_HEADER + 8, 8)?);
                }
                KIND_STRUCT => {
                    let (fields, types) = self.fields(r#type)?;
                    waiting.extend(types);
                    if let Some(name) = self.type_name(r#type)? {
                        found.insert(name, fields);
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// The fields of a struct, and their types.
    fn fields(&self, r#type: u64) -> Result<(Struct, Vec<u64>)> {
        const FIELD: u64 = 24;
        let first = self.word(r#type + TYPE_HEADER + 8, 8)?;
        let count = self.word(r#type + TYPE_HEADER + 16, 8)?;
        let (mut fields, mut types) = (Vec::new(), Vec::new());
        for index in 0..count {
            let (name, tag) = self.name(self.word(first + index * FIELD, 8)?)?;
            let of = self.word(first + index * FIELD + 8, 8)?;
            types.push(of);
            let pointer = self.kind(of)? == KIND_POINTER;
            fields.push(StructField { name, tag, pointer, of: self.type_name(of)? });
        }
        Ok((fields, types))
    }
}
