//! Protocol buffers (protobuf.dev, Encoding), as far as CRIU's requests and OpenTelemetry's spans use them.

/// Wire types of field values.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED_32: u64 = 5;

/// A message under construction; each method appends one field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    /// Adds a number, a boolean or a member of an enumeration.
    pub fn number(mut self, field: u32, value: i64) -> Message {
        self.varint(u64::from(field) << 3 | VARINT);
        // A negative int32 is sent as the 64-bit number.
        self.varint(value.cast_unsigned());
        self
    }

    /// Adds a boolean whose default is false: `false` is not encoded.
    pub fn flag(self, field: u32, set: bool) -> Message {
        if set { self.number(field, 1) } else { self }
    }

    /// Adds a string, or bytes.
    pub fn text(mut self, field: u32, text: impl AsRef<[u8]>) -> Message {
        let bytes = text.as_ref();
        self.varint(u64::from(field) << 3 | LENGTH);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    /// Adds a 64-bit number of fixed length.
    pub fn fixed64(mut self, field: u32, value: u64) -> Message {
        self.varint(u64::from(field) << 3 | FIXED_64);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Adds an embedded message.
    pub fn message(self, field: u32, message: &Message) -> Message {
        self.text(field, &message.0)
    }

    /// The encoded message.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            let [low, ..] = value.to_le_bytes();
            self.0.push(low | 0x80);
            value >>= 7;
        }
        let [last, ..] = value.to_le_bytes();
        self.0.push(last);
    }
}

/// The value of a field, by its wire type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A varint: a number, a boolean or a member of an enumeration.
    Number(u64),
    /// A string, bytes or an embedded message.
    Bytes(&'a [u8]),
}

/// The fields of a message in order. Truncated data, or a wire type that these messages do not use, ends the
/// iterator.
pub fn fields(mut bytes: &[u8]) -> impl Iterator<Item = (u32, Value<'_>)> {
    std::iter::from_fn(move || {
        loop {
            let key = take_varint(&mut bytes)?;
            let field = u32::try_from(key >> 3).ok()?;
            match key & 7 {
                VARINT => return Some((field, Value::Number(take_varint(&mut bytes)?))),
                LENGTH => {
                    let length = usize::try_from(take_varint(&mut bytes)?).ok()?;
                    return Some((field, Value::Bytes(take(&mut bytes, length)?)));
                }
                FIXED_64 => take(&mut bytes, 8).map(drop)?,
                FIXED_32 => take(&mut bytes, 4).map(drop)?,
                _ => return None,
            }
        }
    })
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(head)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn encoding_matches_the_examples_of_the_specification() {
        // The examples of the specification: field 1 is 150; field 2 is "testing".
        assert_eq!(Message::default().number(1, 150).bytes(), [0x08, 0x96, 0x01]);
        assert_eq!(Message::default().text(2, "testing").bytes(), b"\x12\x07testing");
        assert_eq!(Message::default().number(1, -1).bytes().len(), 11);
        assert_eq!(Message::default().flag(9, false), Message::default());
        assert_eq!(Message::default().fixed64(7, 258).bytes(), [0x39, 2, 1, 0, 0, 0, 0, 0, 0]);
        let inner = Message::default().number(1, 150);
        assert_eq!(Message::default().message(3, &inner).bytes(), [0x1a, 0x03, 0x08, 0x96, 0x01]);
    }

    #[test]
    fn fixed_width_fields_are_skipped_and_truncated_data_ends_the_fields() {
        let read = |bytes: &[u8]| fields(bytes).map(|(field, _)| field).collect::<Vec<_>>();
        assert_eq!(read(&[0x0d, 1, 2, 3, 4, 0x10, 5]), [2]);
        assert_eq!(read(&[0x12, 0x07, b't']), [0; 0]);
        assert_eq!(read(&[0x80; 20]), [0; 0]);
    }

    proptest! {
        #[test]
        fn written_fields_are_read_back(number in any::<i64>(), text in "\\PC*", field in 1u32..5000) {
            let message = Message::default().number(field, number).text(field + 1, &text);
            let read: Vec<_> = fields(message.bytes()).collect();
            prop_assert_eq!(read, [(field, Value::Number(number.cast_unsigned())), (field + 1, Value::Bytes(text.as_bytes()))]);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            fields(&bytes).count();
        }
    }
}
