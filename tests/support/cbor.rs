//! CBOR as CloudWatch speaks it, to JSON and back: enough for a fake.

use minicbor::data::{Tag, Type};
use minicbor::{Decoder, Encoder};
use serde_json::{Map, Value, json};

/// A document as JSON; times become their seconds.
pub fn read(bytes: &[u8]) -> Value {
    value(&mut Decoder::new(bytes)).unwrap()
}

fn value(d: &mut Decoder<'_>) -> Result<Value, minicbor::decode::Error> {
    Ok(match d.datatype()? {
        Type::Map | Type::MapIndef => {
            let entries = d.map()?;
            let mut map = Map::new();
            for _ in 0..entries.unwrap_or(u64::MAX) {
                if entries.is_none() && d.datatype()? == Type::Break {
                    d.skip()?;
                    break;
                }
                let key = d.str()?.to_owned();
                map.insert(key, value(d)?);
            }
            Value::Object(map)
        }
        Type::Array | Type::ArrayIndef => {
            let items = d.array()?;
            let mut all = Vec::new();
            for _ in 0..items.unwrap_or(u64::MAX) {
                if items.is_none() && d.datatype()? == Type::Break {
                    d.skip()?;
                    break;
                }
                all.push(value(d)?);
            }
            Value::Array(all)
        }
        Type::String => d.str()?.into(),
        Type::Bool => d.bool()?.into(),
        Type::Tag => {
            d.tag()?;
            value(d)?
        }
        Type::F16 | Type::F32 | Type::F64 => d.f64()?.into(),
        Type::Null => {
            d.null()?;
            Value::Null
        }
        _ => d.i64()?.into(),
    })
}

/// JSON as a document; members called `Timestamps` are times.
pub fn write(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut Encoder::new(&mut out), document, false).unwrap();
    out
}

type Failed = minicbor::encode::Error<std::convert::Infallible>;

fn put(e: &mut Encoder<&mut Vec<u8>>, document: &Value, time: bool) -> Result<(), Failed> {
    match document {
        Value::Object(map) => {
            e.map(map.len() as u64)?;
            for (key, value) in map {
                e.str(key)?;
                put(e, value, key == "Timestamps")?;
            }
        }
        Value::Array(all) => {
            e.array(all.len() as u64)?;
            for one in all {
                put(e, one, time)?;
            }
        }
        Value::String(text) if text == "NaN" => {
            e.f64(f64::NAN)?;
        }
        Value::String(text) => {
            e.str(text)?;
        }
        Value::Number(n) if time => {
            e.tag(Tag::new(1))?.f64(n.as_f64().unwrap())?;
        }
        Value::Number(n) => {
            e.f64(n.as_f64().unwrap())?;
        }
        Value::Bool(b) => {
            e.bool(*b)?;
        }
        Value::Null => {
            e.null()?;
        }
    }
    Ok(())
}

#[test]
fn a_document_comes_through() {
    let document = json!({"a": [{"Timestamps": [1.0, 2.5]}, "x", true], "b": 3.0});
    assert_eq!(read(&write(&document)), document);
}
