//! Items to JSON values. Nothing is set aside for a length before its bytes are seen.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Number, Value};

use super::{DEPTH, Error};

struct Reader<'a> {
    data: &'a [u8],
    at: usize,
}

/// The value of a body that holds one item and nothing else.
pub(super) fn whole(data: &[u8]) -> Result<Value, Error> {
    let mut reader = Reader { data, at: 0 };
    let value = reader.item(DEPTH)?;
    match data.len() - reader.at {
        0 => Ok(value),
        extra => Err(Error::Extra(extra, reader.at)),
    }
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let end = self.at.checked_add(length).ok_or(Error::End)?;
        let taken = self.data.get(self.at..end).ok_or(Error::End)?;
        self.at = end;
        Ok(taken)
    }

    /// Major type, additional information, argument.
    fn head(&mut self) -> Result<(u8, u8, u64), Error> {
        let first = self.take(1)?[0];
        let (major, info) = (first >> 5, first & 0x1f);
        let argument = match info {
            0..=23 => u64::from(info),
            24..=27 => {
                let bytes = self.take(1 << (info - 24))?;
                bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
            }
            31 if (2..=5).contains(&major) => return Err(Error::Indefinite),
            _ => return Err(Error::Item(first)),
        };
        Ok((major, info, argument))
    }

    fn bytes(&mut self, length: u64) -> Result<&'a [u8], Error> {
        self.take(usize::try_from(length).map_err(|_| Error::End)?)
    }

    fn text(&mut self, length: u64) -> Result<&'a str, Error> {
        std::str::from_utf8(self.bytes(length)?).map_err(|_| Error::Text)
    }

    fn item(&mut self, depth: usize) -> Result<Value, Error> {
        let start = self.at;
        let (major, info, argument) = self.head()?;
        let below = || depth.checked_sub(1).ok_or(Error::Depth);
        Ok(match major {
            0 => i64::try_from(argument).map_err(|_| Error::Number)?.into(),
            1 => (!i64::try_from(argument).map_err(|_| Error::Number)?).into(),
            2 | 3 => self.text(argument)?.into(),
            4 => {
                let depth = below()?;
                let mut list = Vec::new();
                for _ in 0..argument {
                    list.push(self.item(depth)?);
                }
                list.into()
            }
            5 => {
                let depth = below()?;
                let mut object = Map::new();
                for _ in 0..argument {
                    let (major, _, length) = self.head()?;
                    if !matches!(major, 2 | 3) {
                        return Err(Error::Key);
                    }
                    let key = self.text(length)?;
                    if object.insert(key.to_owned(), self.item(depth)?).is_some() {
                        return Err(Error::Duplicate(key.to_owned()));
                    }
                }
                object.into()
            }
            6 => self.tagged(argument, below()?)?,
            _ => match info {
                20 | 21 => (info == 21).into(),
                22 => Value::Null,
                25 => float(half(u16::try_from(argument).unwrap_or_default()))?,
                26 => float(f32::from_bits(u32::try_from(argument).unwrap_or_default()).into())?,
                27 => float(f64::from_bits(argument))?,
                _ => return Err(Error::Item(self.data[start])),
            },
        })
    }

    fn tagged(&mut self, tag: u64, depth: usize) -> Result<Value, Error> {
        match tag {
            55_799 => self.item(depth),
            0 => match self.item(depth)? {
                time @ Value::String(_) => Ok(time),
                _ => Err(Error::Tag(tag)),
            },
            1 => {
                let seconds = self.item(depth)?.as_f64().ok_or(Error::Tag(tag))?;
                let time = jiff::SignedDuration::try_from_secs_f64(seconds)
                    .ok()
                    .and_then(|since| jiff::Timestamp::from_duration(since).ok());
                Ok(time.ok_or(Error::Number)?.to_string().into())
            }
            21..=23 => {
                let (major, _, length) = self.head()?;
                if major != 2 {
                    return Err(Error::Tag(tag));
                }
                let bytes = self.bytes(length)?;
                Ok(match tag {
                    21 => URL_SAFE_NO_PAD.encode(bytes),
                    22 => STANDARD.encode(bytes),
                    _ => bytes.iter().map(|byte| format!("{byte:02X}")).collect(),
                }
                .into())
            }
            _ => Err(Error::Tag(tag)),
        }
    }
}

fn float(number: f64) -> Result<Value, Error> {
    Number::from_f64(number).map(Value::Number).ok_or(Error::Number)
}

fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from((bits >> 10) & 0x1f), f64::from(bits & 0x3ff));
    sign * match exponent {
        0 => fraction * 2.0_f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * 2.0_f64.powi(exponent - 15),
    }
}
