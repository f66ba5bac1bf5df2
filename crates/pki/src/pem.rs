//! PEM (RFC 7468): blocks to text and back.
//! Not here: what the blocks mean.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// One block of `label`, with lines of 64 characters and a newline at the end.
pub fn encode(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut out = String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40);
    out.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// The content of every block of `label`, in order; blocks of other labels are passed over.
///
/// # Errors
/// A block that does not end or is not base64.
pub fn decode(label: &str, text: &str) -> Result<Vec<Vec<u8>>, String> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(&begin) {
        let body = &rest[start + begin.len()..];
        let stop = body.find(&end).ok_or_else(|| format!("the {label} block does not end"))?;
        let packed: String = body[..stop].split_ascii_whitespace().collect();
        blocks.push(STANDARD.decode(packed).map_err(|_| format!("the {label} block is not base64"))?);
        rest = &body[stop + end.len()..];
    }
    Ok(blocks)
}

/// Every block with its label, in order; what is no whole block is passed over.
pub fn blocks(text: &str) -> impl Iterator<Item = (String, Vec<u8>)> + '_ {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let (label, body) = rest[rest.find("-----BEGIN ")? + 11..].split_once("-----")?;
            rest = body;
            let Some((content, after)) = body.split_once(&format!("-----END {label}-----")) else { continue };
            let packed: String = content.split_ascii_whitespace().collect();
            if let Ok(der) = STANDARD.decode(packed) {
                rest = after;
                return Some((label.to_owned(), der));
            }
        }
    })
}

/// The content of the one block of `label` that a text is. Readers differ in which block of several they take, and in
/// what they pass over: what one judges another must not sign.
///
/// # Errors
/// Anything but blanks around the block, and what [`decode`] refuses.
pub fn decode_only(label: &str, text: &str) -> Result<Vec<u8>, String> {
    let text = text.trim_ascii();
    let alone = text.starts_with(&format!("-----BEGIN {label}-----"))
        && text.ends_with(&format!("-----END {label}-----"))
        && text.matches("-----BEGIN").count() == 1;
    let mut blocks = if alone { decode(label, text)? } else { Vec::new() };
    match (blocks.pop(), blocks.is_empty()) {
        (Some(block), true) => Ok(block),
        _ => Err(format!("PEM block type must be {label}, of one block and nothing else")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_and_others_are_passed_over() {
        let long: Vec<u8> = (0..=255).collect();
        let text = format!("note\n{}{}{}", encode("A", &long), encode("B", b"other"), encode("A", b"second"));
        assert_eq!(decode("A", &text).unwrap(), [long, b"second".to_vec()]);
        assert!(text.lines().all(|line| line.len() <= 64));
    }

    #[test]
    fn one_block_stands_alone() {
        let (one, two) = (encode("A", b"one"), encode("A", b"two"));
        assert_eq!(decode_only("A", &format!("\n {one}\n")).unwrap(), b"one");
        for text in [
            String::new(),
            format!("{one}{two}"),
            format!("x{one}{two}"),
            format!("x{one}"),
            format!("{one}x"),
            format!("note\n{one}"),
            encode("B", b"one"),
        ] {
            assert!(decode_only("A", &text).is_err(), "{text}");
        }
    }

    #[test]
    fn damage_is_named() {
        assert_eq!(decode("A", "-----BEGIN A-----\nAA").unwrap_err(), "the A block does not end");
        assert!(decode("A", "-----BEGIN A-----\n***\n-----END A-----").unwrap_err().contains("base64"));
        assert!(decode("A", "").unwrap().is_empty());
    }
}
