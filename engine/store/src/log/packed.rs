//! Ascending numbers, each with a byte, in few bytes.
//!
//! Each number is written as the difference from the one before it (the first one as it is), seven bits to a byte, the lowest first,
//! with the highest bit set in all bytes but the last; after the numbers come the bytes.

/// Packs numbers, which ascend, each with a byte.
pub(super) fn pack(items: impl ExactSizeIterator<Item = (u32, u8)> + Clone) -> Vec<u8> {
    // Most differences have two bytes or fewer.
    let mut packed = Vec::with_capacity(3 * items.len() + 2);
    let mut last = 0;
    for (number, _) in items.clone() {
        let mut rest = number.saturating_sub(last);
        last = number;
        while let Some(more @ 1..) = rest.checked_shr(7) {
            packed.push(rest as u8 | 0x80);
            rest = more;
        }
        packed.push(rest as u8);
    }
    packed.extend(items.map(|(_, byte)| byte));
    packed
}

/// Unpacks what was packed; `None` if it can't have been, or `make` makes nothing of an item.
pub(super) fn unpack<T>(packed: &[u8], make: impl Fn(u32, u8) -> Option<T>) -> Option<Vec<T>> {
    let (mut numbers, mut rest) = (Vec::new(), packed);
    let mut last = 0_u32;
    // Half of the items are numbers, and as many bytes are left as numbers were read.
    while rest.len() > numbers.len() {
        let (difference, after) = unpack_number(rest)?;
        // All but the first ascend.
        if difference == 0 && !numbers.is_empty() {
            return None;
        }
        last = last.checked_add(difference)?;
        numbers.push(last);
        rest = after;
    }
    if rest.len() != numbers.len() {
        return None;
    }
    numbers.into_iter().zip(rest).map(|(number, byte)| make(number, *byte)).collect()
}

fn unpack_number(packed: &[u8]) -> Option<(u32, &[u8])> {
    let (mut number, mut rest) = (0_u32, packed);
    for shift in (0..32).step_by(7) {
        let (byte, after) = rest.split_first()?;
        let bits = u32::from(byte & 0x7F);
        // The last byte of five has four bits, and none is there in vain.
        if bits << shift >> shift != bits || (shift > 0 && *byte == 0) {
            return None;
        }
        number |= bits << shift;
        rest = after;
        if byte & 0x80 == 0 {
            return Some((number, rest));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{pack, unpack};

    #[track_caller]
    fn check(items: &[(u32, u8)], expected: &[u8]) {
        let packed = pack(items.iter().copied());
        assert_eq!(packed, expected, "{items:?}");
        assert_eq!(unpack(&packed, |number, byte| Some((number, byte))).as_deref(), Some(items));
    }

    #[test]
    fn numbers_are_packed_as_documented() {
        check(&[], &[]);
        check(&[(0, 9)], &[0, 9]);
        check(&[(127, 1), (255, 2)], &[127, 0x80, 1, 1, 2]);
        check(&[(3, 0), (16_387, 200)], &[3, 0x80, 0x80, 1, 0, 200]);
        check(&[(u32::MAX, 7)], &[0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 7]);
    }

    #[test]
    fn what_was_not_packed_is_refused() {
        let unpacked = |bytes: &[u8]| unpack(bytes, |number, byte| Some((number, byte)));
        // A number without its byte, one that does not end, one that is too large, zeros at its end, one twice, a sum that is too large.
        for bytes in [
            &[5][..],
            &[0x80],
            &[0x80, 0x80, 1],
            &[0xFF, 0xFF, 0xFF, 0xFF, 0x1F, 7],
            &[0x81, 0, 7],
            &[4, 0, 7, 7],
            &[0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 1, 7, 7],
        ] {
            assert_eq!(unpacked(bytes), None, "{bytes:?}");
        }
        assert_eq!(unpack(&[4, 7], |_, _| None::<()>), None);
    }
}
