//! As much of HPACK (RFC 7541) as it takes to see whether a header block has a `:path` with a
//! fragment.
//!
//! Nothing is kept of a field but its sizes and that one fact, so a table of the peer's costs a few
//! bytes an entry. What does not decode is an error here as it is for the HTTP library, which
//! reads the same bytes.

use std::collections::VecDeque;

/// The dynamic table's bound: the protocol's default, which the gate does not change.
const TABLE_BYTES: usize = 4096;
/// What an entry costs beside its texts (section 4.1).
const ENTRY_BYTES: usize = 32;
const PATH: &[u8] = b":path";

/// A header block that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadBlock;

/// What is known of a field.
#[derive(Clone, Copy, Debug, Default)]
struct Field {
    name_bytes: usize,
    value_bytes: usize,
    is_path: bool,
    has_fragment: bool,
}

impl Field {
    fn bytes(self) -> usize {
        self.name_bytes + self.value_bytes + ENTRY_BYTES
    }
}

/// A text of a block, of which only this matters.
#[derive(Clone, Copy, Debug)]
struct Text {
    bytes: usize,
    is_path: bool,
    has_hash: bool,
}

/// The decoder of one connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// The newest first.
    entries: VecDeque<Field>,
    bytes: usize,
    bound: usize,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { entries: VecDeque::new(), bytes: 0, bound: TABLE_BYTES }
    }
}

impl Decoder {
    /// Whether a whole header block has a `:path` with a `#`.
    pub(crate) fn has_fragment(&mut self, mut block: &[u8]) -> Result<bool, BadBlock> {
        let mut found = false;
        while let Some(&first) = block.first() {
            let field = match first {
                0x80.. => {
                    let index = integer(&mut block, 7)?;
                    self.field(index)?
                }
                0x40..=0x7f => {
                    let field = self.literal(&mut block, 6)?;
                    self.insert(field);
                    field
                }
                0x20..=0x3f => {
                    let bound = integer(&mut block, 5)?;
                    if bound > TABLE_BYTES {
                        return Err(BadBlock);
                    }
                    self.bound = bound;
                    self.evict();
                    continue;
                }
                _ => self.literal(&mut block, 4)?,
            };
            found |= field.has_fragment;
        }
        Ok(found)
    }

    fn literal(&self, block: &mut &[u8], bits: u32) -> Result<Field, BadBlock> {
        let (name_bytes, is_path) = match integer(block, bits)? {
            0 => {
                let name = text(block)?;
                (name.bytes, name.is_path)
            }
            index => {
                let named = self.field(index)?;
                (named.name_bytes, named.is_path)
            }
        };
        let value = text(block)?;
        Ok(Field {
            name_bytes,
            value_bytes: value.bytes,
            is_path,
            has_fragment: is_path && value.has_hash,
        })
    }

    fn field(&self, index: usize) -> Result<Field, BadBlock> {
        let place = index.checked_sub(1).ok_or(BadBlock)?;
        if let Some(name_bytes) = STATIC_NAMES.get(place) {
            let is_path = matches!(index, 4 | 5);
            let name_bytes = usize::from(*name_bytes);
            return Ok(Field { name_bytes, is_path, ..Field::default() });
        }
        self.entries.get(place - STATIC_NAMES.len()).copied().ok_or(BadBlock)
    }

    fn insert(&mut self, field: Field) {
        self.entries.push_front(field);
        self.bytes += field.bytes();
        // An entry over the whole bound empties the table, itself included (section 4.4).
        self.evict();
    }

    fn evict(&mut self) {
        while self.bytes > self.bound {
            let Some(oldest) = self.entries.pop_back() else { return };
            self.bytes -= oldest.bytes();
        }
    }
}

/// An integer with a prefix of so many bits (section 5.1); what does not fit 28 bits is refused.
fn integer(block: &mut &[u8], bits: u32) -> Result<usize, BadBlock> {
    let (&first, rest) = block.split_first().ok_or(BadBlock)?;
    *block = rest;
    let most = (1usize << bits) - 1;
    let mut value = usize::from(first) & most;
    if value < most {
        return Ok(value);
    }
    for shift in [0, 7, 14, 21] {
        let (&byte, rest) = block.split_first().ok_or(BadBlock)?;
        *block = rest;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(BadBlock)
}

/// A text (section 5.2).
fn text(block: &mut &[u8]) -> Result<Text, BadBlock> {
    let is_coded = block.first().is_some_and(|b| b & 0x80 != 0);
    let bytes = integer(block, 7)?;
    let (raw, rest) = block.split_at_checked(bytes).ok_or(BadBlock)?;
    *block = rest;
    if !is_coded {
        let has_hash = memchr::memchr(b'#', raw).is_some();
        return Ok(Text { bytes, is_path: raw == PATH, has_hash });
    }
    let mut found = Text { bytes: 0, is_path: true, has_hash: false };
    decode(raw, |byte| {
        found.is_path &= PATH.get(found.bytes) == Some(&byte);
        found.has_hash |= byte == b'#';
        found.bytes += 1;
    })?;
    found.is_path &= found.bytes == PATH.len();
    Ok(found)
}

/// Walks the code of appendix B, which is canonical: codes of one length are consecutive, in the
/// order of their symbols, and follow those of the lengths before.
fn decode(raw: &[u8], mut each: impl FnMut(u8)) -> Result<(), BadBlock> {
    let (mut code, mut length) = (0u32, 0usize);
    for byte in raw {
        for bit in (0..8).rev() {
            code = code << 1 | u32::from(byte >> bit & 1);
            length += 1;
            let Some((first, count, place)) = CODES.starts.get(length).copied() else {
                return Err(BadBlock);
            };
            if let Some(offset) = code.checked_sub(first).filter(|offset| *offset < count) {
                let symbol = CODES.symbols.get(usize::from(place) + offset as usize);
                // The code for the end may not be there (section 5.2).
                let symbol = symbol.and_then(|s| u8::try_from(*s).ok()).ok_or(BadBlock)?;
                each(symbol);
                (code, length) = (0, 0);
            }
        }
    }
    // What is left is padding: the first bits, all ones, of the code for the end.
    if length >= 8 || code + 1 != 1 << length {
        return Err(BadBlock);
    }
    Ok(())
}

struct Codes {
    /// By length: the first code, how many there are, and where their symbols begin.
    starts: [(u32, u32, u16); 31],
    /// In the order of their codes.
    symbols: [u16; 257],
}

#[expect(clippy::indexing_slicing, reason = "evaluated when this is compiled")]
const CODES: &Codes = &{
    let mut codes = Codes { starts: [(0, 0, 0); 31], symbols: [0; 257] };
    let (mut code, mut place, mut length) = (0u32, 0u16, 1usize);
    while length <= 30 {
        code <<= 1;
        let (first, begin) = (code, place);
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol as usize] as usize == length {
                codes.symbols[place as usize] = symbol;
                place += 1;
                code += 1;
            }
            symbol += 1;
        }
        codes.starts[length] = (first, code - first, begin);
        length += 1;
    }
    codes
};

/// Bits of each symbol's code (appendix B); the last one is the end.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// Bytes of the names in the static table (appendix A).
#[rustfmt::skip]
const STATIC_NAMES: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13, 12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3, 16,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_complete() {
        let all: u32 = LENGTHS.iter().map(|bits| 1u32 << (30 - u32::from(*bits))).sum();
        assert_eq!(all, 1 << 30);
        // Appendix C.4.1: `www.example.com`.
        let raw = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        let mut text = Vec::new();
        decode(&raw, |byte| text.push(byte)).unwrap();
        assert_eq!(text, b"www.example.com");
        for bad in [&[0xff, 0xff, 0xff, 0xff][..], &[0x00], &[0xff]] {
            assert_eq!(decode(bad, |_| {}), Err(BadBlock), "{bad:?}");
        }
    }

    /// The examples of appendices C.3 and C.4: three requests on one connection.
    #[test]
    fn the_standards_examples() {
        let plain: [&[u8]; 3] = [
            b"\x82\x86\x84\x41\x0fwww.example.com",
            b"\x82\x86\x84\xbe\x58\x08no-cache",
            b"\x82\x87\x85\xbf\x40\x0acustom-key\x0ccustom-value",
        ];
        let mut decoder = Decoder::default();
        for (block, bytes) in plain.into_iter().zip([57, 110, 164]) {
            assert_eq!(decoder.has_fragment(block), Ok(false));
            assert_eq!(decoder.bytes, bytes);
        }
    }

    #[test]
    fn fragments_are_seen_in_every_form() {
        let mut decoder = Decoder::default();
        for (block, found) in [
            // A literal value, not indexed; never indexed; and indexed, which is used again.
            (&b"\x04\x03/#a"[..], true),
            (b"\x14\x02/a", false),
            (b"\x44\x03/a#", true),
            (b"\xbe", true),
            (b"\x0f\x2f\x02/a", false),
            // A literal name.
            (b"\x00\x05:path\x02/#", true),
            (b"\x00\x05:path\x02/a", false),
            (b"\x00\x05xpath\x02/#", false),
            // Coded: `/#`.
            (b"\x04\x83\x63\xfe\xbf", true),
            // Another field's.
            (b"\x41\x03a#b", false),
        ] {
            assert_eq!(decoder.has_fragment(block), Ok(found), "{block:?}");
        }
        for bad in [
            &b"\x80"[..],
            b"\xff",
            b"\x04",
            b"\x04\x05/",
            b"\x3f\xff\xff\x7f",
            b"\xff\xff\xff\xff\xff\x01",
        ] {
            assert_eq!(Decoder::default().has_fragment(bad), Err(BadBlock), "{bad:?}");
        }
    }

    #[test]
    fn the_table_is_bounded() {
        let mut decoder = Decoder::default();
        let mut block = b"\x40\x7f\x81\x01".to_vec();
        block.extend([b'a'; 256]);
        block.push(0);
        for _ in 0..1_000 {
            decoder.has_fragment(&block).unwrap();
            assert!(decoder.bytes <= TABLE_BYTES);
        }
        assert_eq!(decoder.entries.len(), 14);
        decoder.has_fragment(b"\x20").unwrap();
        assert_eq!((decoder.entries.len(), decoder.bytes), (0, 0));
    }
}
