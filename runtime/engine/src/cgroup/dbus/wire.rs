//! D-Bus messages as bytes (D-Bus Specification: Marshaling, Message Protocol).

use brig_plan::cgroup::variant::Value;

/// Types of messages, from the specification.
pub(super) const CALL: u8 = 1;
pub(super) const RETURN: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const SIGNAL: u8 = 4;

/// Codes of header fields, from the specification.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// The length of the fixed part of a header, the length of the array of fields included.
pub(super) const FIXED: usize = 16;
/// The maximum length of a message, from the specification.
const MAX_MESSAGE_LEN: usize = 128 * 1024 * 1024;
/// The maximum nesting depth of containers, from the specification.
const MAX_DEPTH: usize = 32;

/// A received message.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Message {
    pub kind: u8,
    pub reply_to: u32,
    pub member: String,
    pub error: String,
    pub body: Vec<Value>,
}

/// The target of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    /// The destination is empty on a connection without a bus.
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
}

fn align(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn put_u32(bytes: &mut Vec<u8>, number: u32) {
    align(bytes, 4);
    bytes.extend_from_slice(&number.to_le_bytes());
}

/// A length as it is sent. One beyond 32 bits saturates: no bus accepts a message of more than 128 MiB.
fn length_field(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_u32(bytes, length_field(text.len()));
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
}

fn put_signature(bytes: &mut Vec<u8>, signature: &str) {
    // A signature has at most 255 characters; a bus refuses a longer one, whose length saturates here.
    bytes.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(signature.as_bytes());
    bytes.push(0);
}

fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'y' | b'g' | b'v') => 1,
        Some(b'n' | b'q') => 2,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 4,
    }
}

fn put(bytes: &mut Vec<u8>, value: &Value) {
    macro_rules! number {
        ($number:expr, $size:expr) => {{
            align(bytes, $size);
            bytes.extend_from_slice(&$number.to_le_bytes());
        }};
    }
    match value {
        Value::Bool(value) => put_u32(bytes, u32::from(*value)),
        Value::Byte(value) => bytes.push(*value),
        Value::I16(value) => number!(value, 2),
        Value::U16(value) => number!(value, 2),
        Value::I32(value) => number!(value, 4),
        Value::U32(value) => number!(value, 4),
        Value::I64(value) => number!(value, 8),
        Value::U64(value) => number!(value, 8),
        Value::Double(value) => number!(value, 8),
        Value::Str(text) | Value::Path(text) => put_text(bytes, text),
        Value::Array(element, items) => {
            put_u32(bytes, 0);
            let length_at = bytes.len() - 4;
            // The padding before the first element is not part of the length.
            align(bytes, alignment(element));
            let start = bytes.len();
            for item in items {
                put(bytes, item);
            }
            let length = length_field(bytes.len() - start);
            bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
        }
        Value::Struct(fields) => {
            align(bytes, 8);
            for field in fields {
                put(bytes, field);
            }
        }
        Value::Variant(inner) => {
            put_signature(bytes, &inner.signature());
            put(bytes, inner);
        }
    }
}

/// A method call.
pub(super) fn call(serial: u32, target: Target<'_>, arguments: &[Value]) -> Vec<u8> {
    let mut body = Vec::new();
    for argument in arguments {
        put(&mut body, argument);
    }
    let mut bytes = vec![b'l', CALL, 0, 1];
    put_u32(&mut bytes, length_field(body.len()));
    put_u32(&mut bytes, serial);
    let mut fields = Vec::new();
    // Every field starts at a multiple of eight, and so does the array, at byte 16.
    let mut field = |code: u8, signature: &str, text: &str| {
        if text.is_empty() {
            return;
        }
        align(&mut fields, 8);
        fields.push(code);
        put_signature(&mut fields, signature);
        if signature == "g" { put_signature(&mut fields, text) } else { put_text(&mut fields, text) }
    };
    field(PATH, "o", target.path);
    field(INTERFACE, "s", target.interface);
    field(MEMBER, "s", target.member);
    field(DESTINATION, "s", target.destination);
    field(SIGNATURE, "g", &arguments.iter().map(Value::signature).collect::<String>());
    put_u32(&mut bytes, length_field(fields.len()));
    bytes.extend_from_slice(&fields);
    align(&mut bytes, 8);
    bytes.extend_from_slice(&body);
    bytes
}

/// The length of the whole message that starts with these [`FIXED`] bytes; `None` if they are no header.
pub(super) fn length(fixed: &[u8; FIXED]) -> Option<usize> {
    let big = match fixed[0] {
        b'l' => false,
        b'B' => true,
        _ => return None,
    };
    let reader = Reader { bytes: fixed, at: 0, big };
    let (body, fields) = (reader.peek_u32(4)? as usize, reader.peek_u32(12)? as usize);
    let total = FIXED.checked_add(fields)?.checked_next_multiple_of(8)?.checked_add(body)?;
    (total <= MAX_MESSAGE_LEN).then_some(total)
}

/// Parses a whole message; `None` if it violates the specification.
pub(super) fn parse(bytes: &[u8]) -> Option<Message> {
    let mut reader = Reader { bytes, at: 12, big: *bytes.first()? == b'B' };
    let mut message = Message { kind: *bytes.get(1)?, ..Message::default() };
    let mut signature = String::new();
    let end = FIXED + reader.u32()? as usize;
    while reader.at < end {
        reader.align(8)?;
        let code = reader.take(1)?[0];
        let of = reader.signature()?;
        let value = reader.value(&of, 0)?;
        match (code, value) {
            (MEMBER, Value::Str(text)) => message.member = text,
            (ERROR_NAME, Value::Str(text)) => message.error = text,
            (REPLY_SERIAL, Value::U32(serial)) => message.reply_to = serial,
            (SIGNATURE, Value::Str(text)) => signature = text,
            _ => {}
        }
    }
    reader.align(8)?;
    let mut rest = signature.as_str();
    while !rest.is_empty() {
        let (one, others) = split(rest)?;
        message.body.push(reader.value(one, 0)?);
        rest = others;
    }
    Some(message)
}

/// Splits the first complete type from `signature`.
fn split(signature: &str) -> Option<(&str, &str)> {
    let bytes = signature.as_bytes();
    let mut at = 0;
    while bytes.get(at) == Some(&b'a') {
        at += 1;
    }
    let mut depth = 0usize;
    loop {
        match bytes.get(at)? {
            b'(' | b'{' => depth += 1,
            b')' | b'}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Some(signature.split_at(at));
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn align(&mut self, to: usize) -> Option<()> {
        let at = self.at.next_multiple_of(to);
        self.take(at - self.at).map(drop)
    }

    /// The bytes of the next number, little endian.
    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.align(N)?;
        let mut bytes: [u8; N] = self.take(N)?.try_into().ok()?;
        if self.big {
            bytes.reverse();
        }
        Some(bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.number().map(u32::from_le_bytes)
    }

    fn peek_u32(&self, at: usize) -> Option<u32> {
        Reader { bytes: self.bytes, at, big: self.big }.u32()
    }

    fn text(&mut self, length: usize) -> Option<String> {
        let text = std::str::from_utf8(self.take(length)?).ok()?.to_owned();
        self.take(1)?;
        Some(text)
    }

    fn signature(&mut self) -> Option<String> {
        let length = self.take(1)?[0];
        self.text(length.into())
    }

    fn value(&mut self, signature: &str, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        Some(match *signature.as_bytes().first()? {
            b'b' => Value::Bool(self.u32()? != 0),
            b'y' => Value::Byte(self.take(1)?[0]),
            b'n' => Value::I16(i16::from_le_bytes(self.number()?)),
            b'q' => Value::U16(u16::from_le_bytes(self.number()?)),
            b'i' => Value::I32(i32::from_le_bytes(self.number()?)),
            b'u' | b'h' => Value::U32(self.u32()?),
            b'x' => Value::I64(i64::from_le_bytes(self.number()?)),
            b't' => Value::U64(u64::from_le_bytes(self.number()?)),
            b'd' => Value::Double(f64::from_le_bytes(self.number()?)),
            b's' => {
                let length = self.u32()? as usize;
                Value::Str(self.text(length)?)
            }
            b'o' => {
                let length = self.u32()? as usize;
                Value::Path(self.text(length)?)
            }
            b'g' => Value::Str(self.signature()?),
            b'v' => {
                let inner = self.signature()?;
                Value::Variant(Box::new(self.value(&inner, depth + 1)?))
            }
            b'a' => {
                let element = &signature[1..];
                let length = self.u32()? as usize;
                self.align(alignment(element))?;
                let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len())?;
                let mut items = Vec::new();
                while self.at < end {
                    items.push(self.value(element, depth + 1)?);
                }
                Value::Array(element.to_owned(), items)
            }
            b'(' | b'{' => {
                self.align(8)?;
                let mut rest = signature.get(1..signature.len() - 1)?;
                let mut fields = Vec::new();
                while !rest.is_empty() {
                    let (one, others) = split(rest)?;
                    fields.push(self.value(one, depth + 1)?);
                    rest = others;
                }
                Value::Struct(fields)
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target() -> Target<'static> {
        Target { destination: "a.b", path: "/a/b", interface: "a.b.c", member: "Do" }
    }

    fn body_of(arguments: &[Value]) -> Option<Vec<Value>> {
        let bytes = call(7, target(), arguments);
        let fixed = bytes[..FIXED].try_into().expect("a header");
        assert_eq!(length(&fixed), Some(bytes.len()));
        let message = parse(&bytes)?;
        assert_eq!((message.kind, message.member.as_str()), (CALL, "Do"));
        Some(message.body)
    }

    #[test]
    fn a_call_is_encoded_as_specified() {
        let bytes = call(1, Target { destination: "", path: "/", interface: "", member: "M" }, &[Value::Byte(9)]);
        let expected: &[u8] = &[
            b'l', 1, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 39, 0, 0, 0, // a call: body 1 byte, serial 1, fields 39 bytes
            1, 1, b'o', 0, 1, 0, 0, 0, b'/', 0, 0, 0, 0, 0, 0, 0, // path
            3, 1, b's', 0, 1, 0, 0, 0, b'M', 0, 0, 0, 0, 0, 0, 0, // member
            8, 1, b'g', 0, 1, b'y', 0, 0, // signature
            9,
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_big_endian_reply_is_parsed() {
        // A return to serial 2 with the body `u 5`.
        let mut bytes = vec![b'B', RETURN, 1, 1, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 15];
        bytes.extend_from_slice(&[5, 1, b'u', 0, 0, 0, 0, 2, 8, 1, b'g', 0, 1, b'u', 0, 0]);
        bytes.extend_from_slice(&[0, 0, 0, 5]);
        let message = parse(&bytes).expect("a message");
        assert_eq!((message.kind, message.reply_to, &message.body[..]), (RETURN, 2, &[Value::U32(5)][..]));
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<u8>().prop_map(Value::Byte),
            any::<i16>().prop_map(Value::I16),
            any::<u32>().prop_map(Value::U32),
            any::<i64>().prop_map(Value::I64),
            any::<u64>().prop_map(Value::U64),
            "[a-z ]{0,9}".prop_map(Value::Str),
            "/[a-z]{1,5}".prop_map(Value::Path),
        ];
        leaf.prop_recursive(4, 16, 4, |inner| {
            prop_oneof![
                inner.clone().prop_map(|value| Value::Variant(Box::new(value))),
                prop::collection::vec(inner.clone(), 1..4).prop_map(Value::Struct),
                (inner, 0usize..4).prop_map(|(item, count)| Value::Array(item.signature(), vec![item; count])),
            ]
        })
    }

    proptest! {
        #[test]
        fn written_values_are_read_back(arguments in prop::collection::vec(values(), 0..4)) {
            prop_assert_eq!(body_of(&arguments), Some(arguments));
        }

        #[test]
        fn arbitrary_bytes_cause_no_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), big: bool) {
            if let Some(first) = bytes.first_mut() {
                *first = if big { b'B' } else { b'l' };
            }
            let _ = parse(&bytes);
            if let Some(Ok(fixed)) = bytes.get(..FIXED).map(TryInto::try_into) {
                let _ = length(&fixed);
            }
        }
    }
}
