//! RFC 8785 canonical JSON: the form in which events are signed, hashed and written.
//!
//! Every event passes here, so that it is written in one go and members are put in order where they stand. What is rare,
//! a key that is not plain ASCII or text that is JSON already, is left to `serde_json_canonicalizer`, which is the measure of
//! this file (see the test).

use std::io;

use serde::Serialize;
use serde_json::{
    Serializer,
    ser::{CharEscape, CompactFormatter, Formatter},
    value::RawValue,
};

/// Canonical JSON of a value. Fails when the value cannot be JSON (a map key that is no string). A number that is not finite
/// stands as null, as `serde_json` has it.
pub fn to_vec(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut written = Written::default();
    match value.serialize(&mut Serializer::with_formatter(io::sink(), &mut written)) {
        Ok(()) => Ok(written.out),
        Err(_) => serde_json_canonicalizer::to_vec(value),
    }
}

/// Canonical JSON of a value as raw text that can be embedded without parsing it again.
pub fn to_raw(value: &impl Serialize) -> Result<Box<RawValue>, serde_json::Error> {
    let text = String::from_utf8(to_vec(value)?).map_err(serde::ser::Error::custom)?;
    RawValue::from_string(text)
}

/// Integers that a double holds exactly.
const EXACT: u64 = 1 << 53;

/// Formats into a buffer of its own, where the members of an object can still change places.
#[derive(Default)]
struct Written {
    out: Vec<u8>,
    // The members of the objects that are open, those of the innermost last.
    members: Vec<Member>,
    open: Vec<Open>,
}

/// Where a member stands: `"key":value`.
#[derive(Clone, Copy)]
struct Member {
    start: usize,
    key_end: usize,
}

struct Open {
    first: usize,
    in_order: bool,
}

impl Written {
    // The name of a member without its quotes.
    fn key(&self, member: Member) -> &[u8] {
        self.out.get(member.start + 1..member.key_end.saturating_sub(1)).unwrap_or_default()
    }

    fn put_in_order(&mut self, first: usize) {
        let members = self.members.get(first..).unwrap_or_default();
        let Some(begin) = members.first().map(|member| member.start) else { return };
        let ends = members.iter().skip(1).map(|next| next.start - 1).chain([self.out.len()]);
        let mut spans: Vec<_> = members.iter().copied().zip(ends).collect();
        spans.sort_unstable_by(|a, b| self.key(a.0).cmp(self.key(b.0)));
        let mut ordered = Vec::with_capacity(self.out.len() - begin);
        for (member, end) in spans {
            if !ordered.is_empty() {
                ordered.push(b',');
            }
            ordered.extend_from_slice(self.out.get(member.start..end).unwrap_or_default());
        }
        self.out.truncate(begin);
        self.out.append(&mut ordered);
    }

    fn number(&mut self, value: f64) {
        self.out.extend_from_slice(ryu_js::Buffer::new().format(value).as_bytes());
    }
}

fn left_to_the_library() -> io::Error {
    io::ErrorKind::Unsupported.into()
}

macro_rules! integers {
    ($($write:ident: $integer:ty),*) => { $(
        fn $write<W: ?Sized + io::Write>(&mut self, _: &mut W, value: $integer) -> io::Result<()> {
            // No narrower integer is out of this range.
            #[allow(clippy::cast_lossless, clippy::cast_precision_loss, reason = "what is not exact is rounded, as RFC 8785 wants")]
            if (value as i128).unsigned_abs() > EXACT as u128 {
                self.number(value as f64);
                return Ok(());
            }
            CompactFormatter.$write(&mut self.out, value)
        }
    )* };
}

impl Formatter for &mut Written {
    integers!(write_i8: i8, write_i16: i16, write_i32: i32, write_i64: i64, write_u8: u8, write_u16: u16, write_u32: u32, write_u64: u64);

    fn write_i128<W: ?Sized + io::Write>(&mut self, _: &mut W, _: i128) -> io::Result<()> {
        Err(left_to_the_library())
    }

    fn write_u128<W: ?Sized + io::Write>(&mut self, _: &mut W, _: u128) -> io::Result<()> {
        Err(left_to_the_library())
    }

    fn write_f32<W: ?Sized + io::Write>(&mut self, _: &mut W, value: f32) -> io::Result<()> {
        self.number(value.into());
        Ok(())
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, _: &mut W, value: f64) -> io::Result<()> {
        self.number(value);
        Ok(())
    }

    fn write_number_str<W: ?Sized + io::Write>(&mut self, _: &mut W, _: &str) -> io::Result<()> {
        Err(left_to_the_library())
    }

    fn write_raw_fragment<W: ?Sized + io::Write>(&mut self, _: &mut W, _: &str) -> io::Result<()> {
        Err(left_to_the_library())
    }

    fn write_null<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        CompactFormatter.write_null(&mut self.out)
    }

    fn write_bool<W: ?Sized + io::Write>(&mut self, _: &mut W, value: bool) -> io::Result<()> {
        CompactFormatter.write_bool(&mut self.out, value)
    }

    fn begin_string<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        CompactFormatter.begin_string(&mut self.out)
    }

    fn end_string<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        CompactFormatter.end_string(&mut self.out)
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, _: &mut W, fragment: &str) -> io::Result<()> {
        CompactFormatter.write_string_fragment(&mut self.out, fragment)
    }

    fn write_char_escape<W: ?Sized + io::Write>(&mut self, _: &mut W, escape: CharEscape) -> io::Result<()> {
        CompactFormatter.write_char_escape(&mut self.out, escape)
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        CompactFormatter.begin_array(&mut self.out)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        CompactFormatter.end_array(&mut self.out)
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, _: &mut W, first: bool) -> io::Result<()> {
        CompactFormatter.begin_array_value(&mut self.out, first)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.open.push(Open { first: self.members.len(), in_order: true });
        CompactFormatter.begin_object(&mut self.out)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        let Some(open) = self.open.pop() else { return Err(left_to_the_library()) };
        if !open.in_order {
            self.put_in_order(open.first);
        }
        self.members.truncate(open.first);
        CompactFormatter.end_object(&mut self.out)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, _: &mut W, first: bool) -> io::Result<()> {
        CompactFormatter.begin_object_key(&mut self.out, first)?;
        self.members.push(Member { start: self.out.len(), key_end: 0 });
        Ok(())
    }

    fn end_object_key<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        let end = self.out.len();
        let Some(first) = self.open.last().map(|open| open.first) else { return Err(left_to_the_library()) };
        let Some(member) = self.members.last_mut() else { return Err(left_to_the_library()) };
        member.key_end = end;
        let (member, before) = (*member, self.members.len().checked_sub(2).filter(|at| *at >= first));
        // Members are ordered by UTF-16 code units of the unescaped key; for these that is the order of their bytes.
        if self.key(member).iter().any(|byte| !byte.is_ascii() || *byte == b'\\') {
            return Err(left_to_the_library());
        }
        let ascends = before.is_none_or(|at| self.key(self.members[at]) < self.key(member));
        if let Some(open) = self.open.last_mut().filter(|_| !ascends) {
            open.in_order = false;
        }
        Ok(())
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        CompactFormatter.begin_object_value(&mut self.out)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::{collection, prelude::*};
    use serde_json::Value;

    use super::*;

    /// JSON whose members stand in no order.
    #[derive(Clone, Debug, Serialize)]
    #[serde(untagged)]
    enum Json {
        Null,
        Bool(bool),
        Integer(i64),
        Unsigned(u64),
        Float(f64),
        Text(String),
        List(Vec<Json>),
        Members(HashMap<String, Json>),
    }

    fn json() -> impl Strategy<Value = Json> {
        let text = prop_oneof!["[ -~]{0,6}", "\\PC{0,4}", any::<String>()];
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::Bool),
            any::<i64>().prop_map(Json::Integer),
            any::<u64>().prop_map(Json::Unsigned),
            (-1000i64..1000).prop_map(Json::Integer),
            any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Json::Float),
            text.prop_map(Json::Text),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                collection::vec(inner.clone(), 0..8).prop_map(Json::List),
                collection::hash_map("[a-zA-Z0-9_!#]{0,4}", inner.clone(), 0..8).prop_map(Json::Members),
                collection::hash_map(".{0,3}", inner, 0..4).prop_map(Json::Members),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_the_library_writes(value in json()) {
            let ours = to_vec(&value).unwrap();
            prop_assert_eq!(&ours, &serde_json_canonicalizer::to_vec(&value).unwrap());
            // Canonical text stays as it is.
            let read: Value = serde_json::from_slice(&ours).unwrap();
            prop_assert_eq!(to_vec(&read).unwrap(), ours);
        }
    }

    #[test]
    fn what_json_cannot_hold_is_refused_or_null() {
        assert!(to_vec(&HashMap::from([((1, 2), 3)])).is_err());
        assert_eq!(to_vec(&[f64::NAN, f64::INFINITY]).unwrap(), b"[null,null]");
    }
}
