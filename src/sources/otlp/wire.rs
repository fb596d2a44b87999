//! OTLP in protobuf, read in place: what is wanted is borrowed from the message, what is not is stepped over.
//!
//! The generated types would make an object of every attribute, two bytes on the wire becoming seventy in memory. Here
//! a message costs its own size, whatever is in it. Numbers of fields: `opentelemetry-proto` 1.5.

use super::item::{Attributes, Item, Kind, Signal, Take, is_wanted};
use prost::encoding::{WireType, decode_key, decode_varint};
use std::borrow::Cow;

/// Why a message cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an OTLP message")]
pub struct Broken;

/// Deepest value of an attribute that is looked into.
const MAX_DEPTH: u8 = 2;

/// One field of a message.
#[derive(Clone, Copy)]
enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

impl<'a> Field<'a> {
    fn bytes(self) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            _ => &[],
        }
    }

    fn text(self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()).ok()
    }

    fn number(self) -> u64 {
        match self {
            Self::Varint(n) | Self::Fixed64(n) => n,
            _ => 0,
        }
    }
}

/// Calls `each` for every field of a message, by its number.
fn fields<'a>(
    mut bytes: &'a [u8],
    mut each: impl FnMut(u32, Field<'a>) -> Result<(), Broken>,
) -> Result<(), Broken> {
    while !bytes.is_empty() {
        let (number, kind) = decode_key(&mut bytes).map_err(|_| Broken)?;
        let field = match kind {
            WireType::Varint => Field::Varint(decode_varint(&mut bytes).map_err(|_| Broken)?),
            WireType::SixtyFourBit => {
                let (eight, rest) = bytes.split_first_chunk::<8>().ok_or(Broken)?;
                bytes = rest;
                Field::Fixed64(u64::from_le_bytes(*eight))
            }
            WireType::LengthDelimited => {
                let length = decode_varint(&mut bytes).map_err(|_| Broken)?;
                let length = usize::try_from(length).map_err(|_| Broken)?;
                let (inner, rest) = bytes.split_at_checked(length).ok_or(Broken)?;
                bytes = rest;
                Field::Bytes(inner)
            }
            WireType::ThirtyTwoBit => {
                let (_, rest) = bytes.split_first_chunk::<4>().ok_or(Broken)?;
                bytes = rest;
                Field::Fixed32
            }
            // Groups are no part of proto3.
            WireType::StartGroup | WireType::EndGroup => return Err(Broken),
        };
        each(number, field)?;
    }
    Ok(())
}

/// Reads a request to export a signal.
///
/// # Errors
/// If it is no such message. What was whole before the break has been taken.
pub fn read(signal: Signal, message: &[u8], take: &mut impl Take) -> Result<(), Broken> {
    fields(message, |number, field| match number {
        // `resource_spans`, `resource_logs`, `resource_metrics`.
        1 => resource(signal, field.bytes(), take),
        _ => Ok(()),
    })
}

fn resource(signal: Signal, message: &[u8], take: &mut impl Take) -> Result<(), Broken> {
    let mut attributes = Attributes::default();
    fields(message, |number, field| match number {
        1 => fields(field.bytes(), |number, field| match number {
            1 => attribute(field.bytes(), &mut attributes),
            _ => Ok(()),
        }),
        _ => Ok(()),
    })?;
    fields(message, |number, field| match number {
        // A scope with its items.
        2 => fields(field.bytes(), |number, field| match (number, signal) {
            (2, Signal::Traces) => {
                take.take(&attributes, span(field.bytes())?);
                Ok(())
            }
            (2, Signal::Logs) => {
                take.take(&attributes, record(field.bytes())?);
                Ok(())
            }
            (2, Signal::Metrics) => metric(field.bytes(), &attributes, take),
            _ => Ok(()),
        }),
        _ => Ok(()),
    })
}

fn span(message: &[u8]) -> Result<Item<'_>, Broken> {
    let mut item = Item::new(Kind::Span);
    fields(message, |number, field| {
        match number {
            1 => item.trace = hex(field.bytes(), 16),
            2 => item.span = hex(field.bytes(), 8),
            4 => item.parent = hex(field.bytes(), 8),
            5 => item.name = Cow::Borrowed(field.text().unwrap_or_default()),
            6 => item.span_kind = field.number(),
            7 => item.start = field.number(),
            8 => item.end = field.number(),
            9 => attribute(field.bytes(), &mut item.attributes)?,
            11 => item.attempts += u64::from(is_attempt(field.bytes())?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(item)
}

fn is_attempt(event: &[u8]) -> Result<bool, Broken> {
    let mut is = false;
    fields(event, |number, field| {
        is |= number == 2 && field.bytes() == super::ATTEMPT.as_bytes();
        Ok(())
    })?;
    Ok(is)
}

fn record(message: &[u8]) -> Result<Item<'_>, Broken> {
    let mut item = Item::new(Kind::Log);
    let mut observed = 0;
    fields(message, |number, field| {
        match number {
            1 => item.end = field.number(),
            11 => observed = field.number(),
            // A name of its own (12) goes before a text that stands in its place.
            5 if item.name.is_empty() => {
                fields(field.bytes(), |number, field| {
                    if number == 1 {
                        item.name =
                            Cow::Borrowed(field.text().filter(|text| text.len() < 128).unwrap_or_default());
                    }
                    Ok(())
                })?;
            }
            6 => attribute(field.bytes(), &mut item.attributes)?,
            9 => item.trace = hex(field.bytes(), 16),
            10 => item.span = hex(field.bytes(), 8),
            12 => item.name = Cow::Borrowed(field.text().unwrap_or_default()),
            _ => {}
        }
        Ok(())
    })?;
    if item.end == 0 {
        item.end = observed;
    }
    Ok(item)
}

/// Of a metric its sum's points.
fn metric(message: &[u8], resource: &Attributes<'_>, take: &mut impl Take) -> Result<(), Broken> {
    let (mut name, mut sum) = ("", None);
    fields(message, |number, field| {
        match number {
            1 => name = field.text().unwrap_or_default(),
            7 => sum = Some(field.bytes()),
            _ => {}
        }
        Ok(())
    })?;
    let Some(sum) = sum.filter(|_| name == super::TOKENS) else { return Ok(()) };
    let mut cumulative = false;
    fields(sum, |number, field| {
        cumulative |= number == 2 && field.number() == 2;
        Ok(())
    })?;
    fields(sum, |number, field| {
        if number == 1 {
            let mut point = point(field.bytes())?;
            (point.name, point.cumulative) = (Cow::Borrowed(name), cumulative);
            take.take(resource, point);
        }
        Ok(())
    })
}

fn point(message: &[u8]) -> Result<Item<'_>, Broken> {
    let mut item = Item::new(Kind::Point);
    fields(message, |number, field| {
        match number {
            2 => item.start = field.number(),
            3 => item.end = field.number(),
            4 => item.value = f64::from_bits(field.number()),
            6 => item.value = field.number() as i64 as f64,
            7 => attribute(field.bytes(), &mut item.attributes)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(item)
}

/// Takes a `KeyValue`, if it is wanted.
fn attribute<'a>(message: &'a [u8], into: &mut Attributes<'a>) -> Result<(), Broken> {
    let (mut name, mut value) = ("", None);
    fields(message, |number, field| {
        match number {
            1 => name = field.text().unwrap_or_default(),
            2 => value = Some(field.bytes()),
            _ => {}
        }
        Ok(())
    })?;
    match value.filter(|_| is_wanted(name)) {
        Some(value) => any(name, value, into, MAX_DEPTH),
        None => Ok(()),
    }
}

/// An `AnyValue`: text, a truth, a number, or an array of those.
fn any<'a>(name: &'a str, message: &'a [u8], into: &mut Attributes<'a>, depth: u8) -> Result<(), Broken> {
    fields(message, |number, field| {
        let value: Cow<'a, str> = match (number, field) {
            (1, Field::Bytes(_)) => Cow::Borrowed(field.text().unwrap_or_default()),
            (2, Field::Varint(truth)) => Cow::Borrowed(if truth == 0 { "false" } else { "true" }),
            (3, Field::Varint(n)) => Cow::Owned((n as i64).to_string()),
            (4, Field::Fixed64(bits)) => Cow::Owned(f64::from_bits(bits).to_string()),
            (5, Field::Bytes(array)) if depth > 0 => {
                return fields(array, |number, field| match number {
                    1 => any(name, field.bytes(), into, depth - 1),
                    _ => Ok(()),
                });
            }
            _ => return Ok(()),
        };
        into.add(Cow::Borrowed(name), value);
        Ok(())
    })
}

/// An id in hex digits; empty if it is none.
fn hex(bytes: &[u8], length: usize) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    if bytes.len() != length || bytes.iter().all(|b| *b == 0) {
        return String::new();
    }
    let mut text = String::with_capacity(length * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}
