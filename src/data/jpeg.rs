//! Whether a JPEG file is whole. Decoders, ours among them, fill missing parts with grey without an error,
//! and a model would learn the grey.

/// Whether the segments and scans of `bytes` reach the end-of-image marker (ITU-T T.81, annex B.1). Bytes
/// after it are allowed, as many cameras write some.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    reaches_end(bytes).is_some()
}

fn reaches_end(bytes: &[u8]) -> Option<()> {
    const START_OF_IMAGE: u8 = 0xd8;
    const END_OF_IMAGE: u8 = 0xd9;
    let mut at = 0;
    loop {
        at += bytes.get(at..)?.windows(2).position(|pair| pair[0] == 0xff && is_marker(pair[1]))? + 1;
        match bytes[at] {
            START_OF_IMAGE => at += 1,
            END_OF_IMAGE => return Some(()),
            _ => {
                let length = bytes.get(at + 1..at + 3)?;
                at += 1 + usize::from(u16::from_be_bytes([length[0], length[1]]));
            }
        }
    }
}

/// Whether this byte after 0xff begins a segment: it is no stuffed zero, no restart marker inside a scan, no
/// fill byte, and not the one marker without a length (TEM).
fn is_marker(byte: u8) -> bool {
    !matches!(byte, 0x00 | 0x01 | 0xd0..=0xd7 | 0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_reach_the_end_marker_outside_a_segment_are_whole() {
        let scan = [0xff, 0xda, 0, 2, 1, 0xff, 0, 2, 0xff, 0xd3, 3, 0xff, 0xff];
        let thumbnail = [0xff, 0xe1, 0, 4, 0xff, 0xd9];
        let whole = [&[0xff, 0xd8][..], &thumbnail, &scan, &[0xd9]].concat();
        assert!(is_whole(&whole));
        assert!(is_whole(&[&whole[..], b"tail"].concat()));
        for cut in 0..whole.len() {
            assert!(!is_whole(&whole[..cut]), "{cut}");
        }
    }
}
