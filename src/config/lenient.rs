//! Reads a text into its wire form as far as that can be done: what cannot be read is left out, and named.
//!
//! A deserializer gives up at the first fault. So the text is read again without what was at fault, until the rest
//! can be read: each pass leaves out one value more. Paths are those of the file as it was written, whatever was left
//! out of lists before.

use super::partial::keys;
use super::problem::{self, Problem};
use super::wire::File;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde_saphyr::{Error, Spanned};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

/// Most faults that are looked for one by one; then whole sections are left out.
const MOST_FAULTS: usize = 64;

/// What was read of a text, and what could not be.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// What was read.
    pub(super) file: File,
    /// What could not be, as it is told.
    pub(super) problems: Vec<Problem>,
    /// What was left out, by its path.
    pub(super) left_out: BTreeSet<String>,
    /// Everything as it is written, without sense; absent if nothing can be made of it.
    pub(super) tree: serde_json::Value,
    /// What was left out may have held a section under a name that nobody can tell.
    pub(super) hides: bool,
    /// Nothing of the text can be relied on.
    pub(super) lost: bool,
}

/// Reads as much as can be read.
pub(super) fn read(text: &str) -> Reading {
    let mut reading = Reading::default();
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return reading;
    }
    let text = match whole_sections(text, &mut reading) {
        Some(text) => text,
        None => return Reading { lost: true, ..reading },
    };
    for _ in 0..MOST_FAULTS * 2 {
        match pass(&text, &reading.left_out) {
            Ok(file) => {
                reading.tree = serde_saphyr::from_str(&text).unwrap_or_default();
                return Reading { file, ..reading };
            }
            Err(fault) => {
                if !leave_out(*fault, &mut reading) {
                    break;
                }
            }
        }
    }
    Reading { file: File::default(), lost: true, ..reading }
}

/// Notes a fault and leaves it out. False if that is everything.
fn leave_out(fault: Fault, reading: &mut Reading) -> bool {
    let Fault { error, mut path, at } = fault;
    if !is_consequence(&error, &path, reading) {
        let mut problem = problem::of_error(&error, path.clone());
        problem.at = at.or(problem.at);
        reading.problems.push(problem);
    }
    if reading.problems.len() > MOST_FAULTS {
        path.truncate(path.find(['.', '[']).unwrap_or(path.len()));
    }
    // What was left out already and fails still cannot be passed over either.
    !path.is_empty() && reading.left_out.insert(path)
}

/// A key that is missing because it was left out, or because it was written in another way, is no fault of its own.
fn is_consequence(error: &Error, path: &str, reading: &Reading) -> bool {
    let Error::SerdeMissingField { field, .. } = error.without_snippet() else { return false };
    let within = if path.is_empty() { String::new() } else { format!("{path}.") };
    let meant = format!("; did you mean `{field}`?");
    reading.left_out.contains(&format!("{within}{field}"))
        || reading.problems.iter().any(|one| one.path.starts_with(&within) && one.message.ends_with(&meant))
}

/// The text without those sections that are no YAML, or have a key twice; the same lines stay where they are.
fn whole_sections(text: &str, reading: &mut Reading) -> Option<String> {
    let fault = |text: &str| serde_saphyr::from_str::<IgnoredAny>(text).err();
    let mut whole = text.to_owned();
    let Some(first) = fault(text) else {
        return Some(whole);
    };
    let names: BTreeSet<String> = sections(text).into_iter().map(|(name, _)| name).collect();
    let mut broken = BTreeSet::new();
    for name in names.into_iter().take(MOST_FAULTS) {
        let mut alone = text.to_owned();
        blank(&mut alone, |other| other != name);
        if let Some(error) = fault(&alone) {
            reading.problems.push(problem::of_syntax(&error, name.clone()));
            reading.left_out.insert(name.clone());
            broken.insert(name);
        }
    }
    reading.hides = blank(&mut whole, |name| broken.contains(name));
    if broken.is_empty() || fault(&whole).is_some() {
        // What is at fault lies between the sections, or goes over several.
        reading.problems.push(problem::of_syntax(&first, String::new()));
        return None;
    }
    Some(whole)
}

/// The sections of the text, each with its first line. Only a key that is known begins one: whatever else stands at the
/// beginning of a line may be what is left of a line of the section above.
fn sections(text: &str) -> Vec<(String, usize)> {
    let known = keys::<File>();
    let key = |(n, line): (usize, &str)| {
        let (key, rest) = line.split_once(':')?;
        let key = key.trim_end().trim_matches(['"', '\'']);
        let begins = rest.is_empty() || rest.starts_with(char::is_whitespace);
        (begins && known.iter().any(|one| one == key)).then(|| (key.to_owned(), n))
    };
    text.lines().enumerate().filter_map(key).collect()
}

/// True for a line that may begin a section whose name nobody can tell.
fn may_begin(line: &str) -> bool {
    !line.is_empty() && !line.starts_with([' ', '\t', '#', '-', ']', '}'])
}

/// Empties the lines of some sections. True if among them was one that may have begun another.
fn blank(text: &mut String, which: impl Fn(&str) -> bool) -> bool {
    let sections = sections(text);
    let mut next = sections.iter().peekable();
    let (mut on, mut hidden) = (false, false);
    let mut out = String::with_capacity(text.len());
    for (n, line) in text.lines().enumerate() {
        match next.next_if(|(_, begins)| *begins == n) {
            Some((name, _)) => on = which(name),
            None => hidden |= on && may_begin(line),
        }
        out.push_str(if on { "" } else { line });
        out.push('\n');
    }
    *text = out;
    hidden
}

/// Why a pass ended.
struct Fault {
    error: Error,
    path: String,
    at: Option<(u64, u64)>,
}

fn pass(text: &str, left_out: &BTreeSet<String>) -> Result<File, Box<Fault>> {
    let tracker = Tracker { left_out, failed: RefCell::default() };
    let read = serde_saphyr::with_deserializer_from_str(text, |de| {
        Seed { seed: std::marker::PhantomData::<File>, at: Place::root(&tracker) }.deserialize(de)
    });
    read.map_err(|error| {
        let (path, at) = tracker.failed.take().unwrap_or_default();
        Box::new(Fault { error, path, at })
    })
}

/// A path, with the place of its key.
type Failed = (String, Option<(u64, u64)>);

struct Tracker<'t> {
    left_out: &'t BTreeSet<String>,
    /// Where the innermost value failed first, and the place of its key where the key is at fault.
    failed: RefCell<Option<Failed>>,
}

/// A value by its path.
#[derive(Clone)]
struct Place<'t> {
    tracker: &'t Tracker<'t>,
    path: String,
    /// Within the three members that stand for a value and its place in the text: those are no steps of the path.
    spanned: bool,
}

impl<'t> Place<'t> {
    const fn root(tracker: &'t Tracker<'t>) -> Self {
        Self { tracker, path: String::new(), spanned: false }
    }

    fn key(&self, key: &str) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self { path, spanned: false, ..*self }
    }

    fn nth(&self, n: usize) -> Self {
        Self { path: format!("{}[{n}]", self.path), spanned: false, ..*self }
    }

    fn is_left_out(&self) -> bool {
        self.tracker.left_out.contains(&self.path)
    }

    fn note<T, E>(&self, result: Result<T, E>, key: Option<(u64, u64)>) -> Result<T, E> {
        if result.is_err() {
            self.tracker.failed.borrow_mut().get_or_insert_with(|| (self.path.clone(), key));
        }
        result
    }
}

/// Anything of serde's, with the place of the value that it is about.
struct Seed<'t, T> {
    seed: T,
    at: Place<'t>,
}

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for Seed<'_, T> {
    type Value = T::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T::Value, D::Error> {
        let at = self.at.clone();
        at.note(self.seed.deserialize(Tracked { inner: deserializer, at: self.at }), None)
    }
}

struct Tracked<'t, I> {
    inner: I,
    at: Place<'t>,
}

macro_rules! forward_deserialize {
    ($($name:ident($($arg:ident: $kind:ty),*))*) => {$(
        fn $name<V: Visitor<'de>>(self, $($arg: $kind,)* visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$name($($arg,)* Tracked { inner: visitor, at: self.at })
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Tracked<'_, D> {
    type Error = D::Error;

    forward_deserialize! {
        deserialize_any() deserialize_bool() deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64()
        deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64() deserialize_f32() deserialize_f64()
        deserialize_char() deserialize_str() deserialize_string() deserialize_bytes() deserialize_byte_buf()
        deserialize_option() deserialize_unit() deserialize_unit_struct(name: &'static str)
        deserialize_seq() deserialize_tuple(len: usize) deserialize_map() deserialize_identifier()
        deserialize_tuple_struct(name: &'static str, len: usize) deserialize_ignored_any()
        deserialize_struct(name: &'static str, fields: &'static [&'static str])
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let at = Place { spanned: name == "__yaml_spanned", ..self.at };
        self.inner.deserialize_newtype_struct(name, Tracked { inner: visitor, at })
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! forward_visit {
    ($($name:ident($kind:ty))*) => {$(
        fn $name<E: serde::de::Error>(self, value: $kind) -> Result<V::Value, E> {
            self.inner.$name(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Tracked<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    forward_visit! {
        visit_bool(bool) visit_i8(i8) visit_i16(i16) visit_i32(i32) visit_i64(i64) visit_i128(i128) visit_u8(u8)
        visit_u16(u16) visit_u32(u32) visit_u64(u64) visit_u128(u128) visit_f32(f32) visit_f64(f64) visit_char(char)
        visit_str(&str) visit_borrowed_str(&'de str) visit_string(String) visit_bytes(&[u8])
        visit_borrowed_bytes(&'de [u8]) visit_byte_buf(Vec<u8>)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Tracked { inner: deserializer, at: self.at })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(Tracked { inner: deserializer, at: self.at })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(Elements { inner: seq, at: self.at, n: 0 })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Members { inner: map, at: self.at, key: None })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(data)
    }
}

struct Elements<'t, A> {
    inner: A,
    at: Place<'t>,
    n: usize,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Elements<'_, A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        loop {
            let at = self.at.nth(self.n);
            self.n += 1;
            if !at.is_left_out() {
                return self.inner.next_element_seed(Seed { seed, at });
            }
            if self.inner.next_element::<IgnoredAny>()?.is_none() {
                return Ok(None);
            }
        }
    }
}

struct Members<'t, A> {
    inner: A,
    at: Place<'t>,
    /// The place of the value whose key was just read; of a value's own place in the text there is none.
    key: Option<Place<'t>>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Members<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        if self.at.spanned {
            let Some(key) = self.inner.next_key::<String>()? else { return Ok(None) };
            self.key = (key == "value").then(|| Place { spanned: false, ..self.at.clone() });
            return seed.deserialize(IntoDeserializer::<A::Error>::into_deserializer(key)).map(Some);
        }
        loop {
            let Some(key) = self.inner.next_key::<Spanned<String>>()? else { return Ok(None) };
            let at = self.at.key(&key.value);
            if at.is_left_out() {
                self.inner.next_value::<IgnoredAny>()?;
                continue;
            }
            let read = seed.deserialize(IntoDeserializer::<A::Error>::into_deserializer(key.value.as_str()));
            let read = at.note(read, problem::place(key.referenced))?;
            self.key = Some(at);
            return Ok(Some(read));
        }
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        match self.key.take() {
            Some(at) => self.inner.next_value_seed(Seed { seed, at }),
            None => self.inner.next_value_seed(seed),
        }
    }
}
