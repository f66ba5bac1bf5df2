//! Quantities of resources: `100m`, `1Gi`, `2e3`.
//! Values are exact in units of 10⁻⁹ (upstream's finest) and no larger than 2⁶³-1; finer ones round away from zero.
//! Upstream: apimachinery `pkg/api/resource`. The wire newtype is [`crate::meta::Quantity`].

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

use crate::meta;

/// 10⁹: nano-units in one.
const NANO: i128 = 1_000_000_000;
/// The largest magnitude, in nano-units.
const MAX: i128 = i64::MAX as i128 * NANO;

/// Why a text is no quantity. The messages are wire behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not of the shape of a quantity.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// A suffix that does not exist.
    #[error("unable to parse quantity's suffix")]
    Suffix,
    /// Digits that are no number.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
}

/// How a quantity was written, and is written again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `m`, `k`, `M` …: powers of 1000.
    #[default]
    DecimalSi,
    /// `Ki`, `Mi` …: powers of 1024.
    BinarySi,
    /// `e3`: powers of ten.
    DecimalExponent,
}

/// An amount of a resource. Equality and order are of the amount, not of how it is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nano: 0, format: Format::DecimalSi };

    /// A whole amount.
    pub fn new(value: i64, format: Format) -> Self {
        Self { nano: i128::from(value) * NANO, format }
    }

    /// Thousandths: what CPU is counted in.
    pub fn from_milli(value: i64) -> Self {
        Self { nano: i128::from(value) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// Bytes, written in powers of 1024.
    pub fn from_bytes(value: i64) -> Self {
        Self::new(value, Format::BinarySi)
    }

    /// Reads a quantity.
    pub fn parse(text: &str) -> Result<Self, Error> {
        text.parse()
    }

    /// Reads the wire newtype.
    pub fn from_wire(wire: &meta::Quantity) -> Result<Self, Error> {
        wire.0.parse()
    }

    /// The wire newtype, canonical.
    pub fn to_wire(self) -> meta::Quantity {
        meta::Quantity(self.to_string())
    }

    /// The amount, rounded up to a whole.
    pub fn value(self) -> i64 {
        self.scaled(NANO)
    }

    /// The amount in thousandths, rounded up.
    pub fn milli_value(self) -> i64 {
        self.scaled(NANO / 1000)
    }

    fn scaled(self, unit: i128) -> i64 {
        // Rounding is away from zero, as upstream's scaling does for either sign.
        let quotient = self.nano / unit;
        let rounded = if self.nano % unit == 0 { quotient } else { quotient + self.nano.signum() };
        i64::try_from(rounded).unwrap_or(if rounded > 0 { i64::MAX } else { i64::MIN })
    }

    /// Whether it is nothing.
    pub fn is_zero(self) -> bool {
        self.nano == 0
    }

    /// Whether it is less than nothing.
    pub fn is_negative(self) -> bool {
        self.nano < 0
    }

    /// Whether it is a whole number.
    pub fn is_whole(self) -> bool {
        self.nano % NANO == 0
    }

    /// Whether it is a whole number of thousandths.
    pub fn is_whole_milli(self) -> bool {
        self.nano % (NANO / 1000) == 0
    }

    /// How it is written.
    pub fn format(self) -> Format {
        self.format
    }
}

impl FromStr for Quantity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Err(Error::Format);
        }
        let (negative, unsigned) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let digits_end = unsigned.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(unsigned.len());
        let (whole, rest) = unsigned.split_at(digits_end);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            None => ("", rest),
            Some(rest) => rest.split_at(rest.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len())),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(if suffix.is_empty() && rest.is_empty() { Error::Format } else { Error::Numeric });
        }
        if !suffix.bytes().all(|byte| b"eEinumkKMGTP+-".contains(&byte) || byte.is_ascii_digit()) {
            return Err(Error::Format);
        }
        let (factor, format) = parse_suffix(suffix)?;
        let nano = magnitude(whole, fraction, factor);
        Ok(Self { nano: if negative { -nano } else { nano }, format })
    }
}

/// What a suffix multiplies by.
enum Factor {
    Ten(i32),
    Two(u32),
}

fn parse_suffix(suffix: &str) -> Result<(Factor, Format), Error> {
    let decimal = |exponent| Ok((Factor::Ten(exponent), Format::DecimalSi));
    let binary = |exponent| Ok((Factor::Two(exponent), Format::BinarySi));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => match suffix.strip_prefix(['e', 'E']).and_then(|exponent| exponent.parse().ok()) {
            Some(exponent) => Ok((Factor::Ten(exponent), Format::DecimalExponent)),
            None => Err(Error::Suffix),
        },
    }
}

/// `whole.fraction × factor` in nano-units, rounded up, capped at [`MAX`].
fn magnitude(whole: &str, fraction: &str, factor: Factor) -> i128 {
    const CAP: u128 = MAX.unsigned_abs();
    /// More digits than the cap has in nano-units: further ones only matter as "a bit more".
    const MANY: u128 = 10_u128.pow(36);
    let mut mantissa: u128 = 0;
    let mut exponent: i64 = 9;
    let mut inexact = false;
    for (position, digit) in whole.bytes().chain(fraction.bytes()).enumerate() {
        let after_point = position >= whole.len();
        if mantissa > MANY {
            inexact |= digit != b'0';
            exponent += i64::from(!after_point);
            continue;
        }
        mantissa = mantissa * 10 + u128::from(digit - b'0');
        exponent -= i64::from(after_point);
    }
    if mantissa == 0 {
        return 0;
    }
    let doublings = match factor {
        Factor::Ten(power) => {
            exponent += i64::from(power);
            0
        }
        Factor::Two(power) => power,
    };
    if exponent > 0 {
        // In one step: a division by ten for each digit is most of what reading a quantity takes.
        let power = u32::try_from(exponent).ok().and_then(|exponent| 10_u128.checked_pow(exponent));
        match power.and_then(|power| mantissa.checked_mul(power)).filter(|mantissa| *mantissa <= CAP) {
            Some(shifted) => mantissa = shifted,
            None => return MAX,
        }
        exponent = 0;
    }
    // 10³⁸ is the largest power of ten whose remainders can be doubled.
    while exponent < -38 && mantissa > 0 {
        inexact |= mantissa % 10 != 0;
        mantissa /= 10;
        exponent += 1;
    }
    let divisor = 10_u128.pow(exponent.unsigned_abs().min(38) as u32);
    let (mut quotient, mut remainder) = (mantissa / divisor, mantissa % divisor);
    for _ in 0..doublings {
        quotient = quotient * 2 + remainder * 2 / divisor;
        remainder = remainder * 2 % divisor;
        if quotient > CAP {
            return MAX;
        }
    }
    inexact |= remainder != 0;
    i128::try_from((quotient + u128::from(inexact)).min(CAP)).unwrap_or(MAX)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        let small = self.nano.abs() < 1024 * NANO;
        if self.format == Format::BinarySi && !small && self.is_whole() {
            let mut mantissa = self.nano / NANO;
            let mut power = 0;
            while mantissa % 1024 == 0 && power < 6 {
                mantissa /= 1024;
                power += 1;
            }
            return write!(f, "{mantissa}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        let mut mantissa = self.nano;
        let mut exponent: i32 = -9;
        while mantissa % 1000 == 0 && exponent < 18 {
            mantissa /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { write!(f, "{mantissa}") } else { write!(f, "{mantissa}e{exponent}") };
        }
        let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][((exponent + 9) / 3) as usize];
        write!(f, "{mantissa}{suffix}")
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}
impl Hash for Quantity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nano.hash(state);
    }
}

impl Add for Quantity {
    type Output = Self;
    /// The sum, written like the left side unless that is nothing.
    fn add(self, other: Self) -> Self {
        let format = if self.nano == 0 { other.format } else { self.format };
        Self { nano: (self.nano + other.nano).clamp(-MAX, MAX), format }
    }
}
impl Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}
impl Neg for Quantity {
    type Output = Self;
    fn neg(self) -> Self {
        Self { nano: -self.nano, ..self }
    }
}
impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}
impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}
impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(quantities: I) -> Self {
        quantities.fold(Self::ZERO, Add::add)
    }
}

/// The canonical text of a quantity, or `None` when the text is no quantity.
pub fn canonical(text: &str) -> Option<String> {
    Some(Quantity::parse(text).ok()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        for (text, canonical) in [
            ("0", "0"),
            ("0.0m", "0"),
            ("1", "1"),
            ("+1", "1"),
            ("-1", "-1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("5.", "5"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1000Ki", "1000Ki"),
            ("100Ki", "100Ki"),
            ("1023", "1023"),
            ("0.1Ki", "102400m"),
            // Found by the fuzz target: exact however many digits there are.
            ("1050439602527384454747180237n", "1050439602527384454747180237n"),
            ("0.911111119300000000000000000000000001Ei", "1050439602527384454747180237n"),
            ("9223372036854775807.000000001", "9223372036854775807"),
            ("0.0000000000000000000000000000000000000000001Ei", "1n"),
            ("99999999999999999999999999999999999999999999", "9223372036854775807"),
            ("512Ki", "512Ki"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("2000", "2k"),
            ("123456", "123456"),
            ("1e3", "1e3"),
            ("12e2", "1200"),
            ("1E", "1E"),
            ("1E3", "1e3"),
            ("0.1n", "1n"),
            ("1.0000000001", "1000000001n"),
            ("9223372036854775807", "9223372036854775807"),
            ("100E", "9223372036854775807"),
            ("100Ei", "9223372036854775807"),
            ("0.0000000001Ki", "103n"),
        ] {
            assert_eq!(super::canonical(text).as_deref(), Some(canonical), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity() {
        for (text, error) in [
            ("", Error::Format),
            ("1x", Error::Format),
            ("1 Gi", Error::Format),
            ("1ki", Error::Suffix),
            ("1mm", Error::Suffix),
            ("1e", Error::Suffix),
            ("Mi", Error::Numeric),
            (".", Error::Numeric),
        ] {
            assert_eq!(Quantity::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn values_round_up() {
        let quantity = |text| Quantity::parse(text).unwrap();
        assert_eq!(quantity("100m").value(), 1);
        assert_eq!(quantity("100m").milli_value(), 100);
        assert_eq!(quantity("0.0001").milli_value(), 1);
        assert_eq!(quantity("1Gi").value(), 1 << 30);
        assert_eq!(quantity("1Gi") + quantity("1"), quantity("1073741825"));
        assert_eq!((quantity("2") - quantity("500m")).to_string(), "1500m");
        assert!(quantity("1Ki") > quantity("1k"));
        assert_eq!(quantity("1Ki"), quantity("1024"));
        assert_eq!(quantity("1e60"), quantity("100E"));
        assert_eq!(quantity("-1e60"), -quantity("100E"));
    }
}
