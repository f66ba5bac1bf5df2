//! The little of DER (X.690) that certificates need, written as functions from parts to bytes.
//!
//! An own writer, because general certificate builders keep a subject as a map from attribute type to value
//! and so drop all but one organisation, and organisations are the groups of a Kubernetes user.
//! Not here: reading (x509-parser does it).

/// One value: tag, length, content.
pub(crate) fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 6);
    out.push(tag);
    let length = content.len();
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let significant = &bytes[bytes.iter().take_while(|b| **b == 0).count()..];
        out.push(0x80 | significant.len() as u8);
        out.extend_from_slice(significant);
    }
    out.extend_from_slice(content);
    out
}

/// SEQUENCE of encoded parts.
pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    value(0x30, &parts.concat())
}

/// SET of one encoded part (a SET OF with several would have to be sorted).
pub(crate) fn set_of_one(part: &[u8]) -> Vec<u8> {
    value(0x31, part)
}

/// Explicit context tag `[n]`.
pub(crate) fn explicit(n: u8, content: &[u8]) -> Vec<u8> {
    value(0xa0 | n, content)
}

/// Non-negative INTEGER from big-endian bytes.
pub(crate) fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().take_while(|b| **b == 0).count().min(bytes.len().saturating_sub(1));
    let magnitude = &bytes[start..];
    if magnitude.first().is_some_and(|b| b & 0x80 != 0) {
        value(0x02, &[&[0], magnitude].concat())
    } else {
        value(0x02, magnitude)
    }
}

/// BOOLEAN TRUE, the only one DER ever writes (FALSE is always a default and so left out).
pub(crate) const TRUE: &[u8] = &[0x01, 0x01, 0xff];

/// NULL, which stands for parameters that there are not.
pub(crate) const NULL: &[u8] = &[0x05, 0x00];

/// OBJECT IDENTIFIER from its arcs.
pub(crate) fn oid(arcs: &[u64]) -> Vec<u8> {
    let mut content = vec![(arcs[0] * 40 + arcs[1]) as u8];
    for arc in &arcs[2..] {
        let mut groups = vec![(arc & 0x7f) as u8];
        let mut rest = arc >> 7;
        while rest > 0 {
            groups.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        groups.reverse();
        content.extend_from_slice(&groups);
    }
    value(0x06, &content)
}

/// BIT STRING of whole bytes.
pub(crate) fn bit_string(bytes: &[u8]) -> Vec<u8> {
    value(0x03, &[&[0], bytes].concat())
}

/// BIT STRING of named bits: bit 0 is the most significant; trailing zero bits are cut as DER demands.
pub(crate) fn named_bits(bits: &[u8]) -> Vec<u8> {
    let mut bytes = [0u8; 2];
    for bit in bits {
        bytes[usize::from(bit / 8)] |= 0x80 >> (bit % 8);
    }
    let used = if bytes[1] != 0 { 2 } else { 1 };
    let unused = bytes[used - 1].trailing_zeros().min(7) as u8;
    value(0x03, &[&[unused], &bytes[..used]].concat())
}

/// OCTET STRING.
pub(crate) fn octets(bytes: &[u8]) -> Vec<u8> {
    value(0x04, bytes)
}

/// UTF8String.
pub(crate) fn utf8(text: &str) -> Vec<u8> {
    value(0x0c, text.as_bytes())
}

/// Time as certificates write it (RFC 5280, 4.1.2.5): UTCTime until 2049, GeneralizedTime after.
pub(crate) fn time(at: jiff::Timestamp) -> Vec<u8> {
    let at = at.to_zoned(jiff::tz::TimeZone::UTC);
    if (1950..2050).contains(&at.year()) {
        value(0x17, at.strftime("%y%m%d%H%M%SZ").to_string().as_bytes())
    } else {
        value(0x18, at.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_the_shortest_form() {
        assert_eq!(value(0x04, &[7; 3])[..2], [0x04, 3]);
        assert_eq!(value(0x04, &[7; 200])[..3], [0x04, 0x81, 200]);
        assert_eq!(value(0x04, &[7; 300])[..4], [0x04, 0x82, 1, 44]);
    }

    #[test]
    fn integers_stay_positive_and_minimal() {
        for (bytes, want) in [
            (&[0u8][..], &[0x02u8, 1, 0][..]),
            (&[0, 0, 5], &[0x02, 1, 5]),
            (&[0x80], &[0x02, 2, 0, 0x80]),
            (&[0x7f, 1], &[0x02, 2, 0x7f, 1]),
        ] {
            assert_eq!(unsigned(bytes), want, "{bytes:?}");
        }
    }

    #[test]
    fn object_identifiers_and_named_bits() {
        assert_eq!(oid(&[1, 2, 840, 10045, 4, 3, 2]), [0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]);
        // digitalSignature | keyEncipherment
        assert_eq!(named_bits(&[0, 2]), [0x03, 2, 5, 0xa0]);
        // keyCertSign
        assert_eq!(named_bits(&[5]), [0x03, 2, 2, 0x04]);
    }

    #[test]
    fn time_changes_form_in_2050() {
        let before: jiff::Timestamp = "2049-12-31T23:59:59Z".parse().unwrap();
        let after: jiff::Timestamp = "2050-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(&time(before)[2..], b"491231235959Z");
        assert_eq!(&time(after)[2..], b"20500101000000Z");
    }
}
