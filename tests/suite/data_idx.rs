//! The IDX reader: round trips, damaged files and arbitrary bytes.

use performer_ddpm::Error;
use performer_ddpm::data::idx;
use proptest::prelude::*;

fn file(dims: &[usize], data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    idx::write(&mut bytes, dims, data).unwrap();
    bytes
}

fn images() -> impl Strategy<Value = ([usize; 3], Vec<u8>)> {
    (1..5usize, 1..7usize, 1..7usize)
        .prop_flat_map(|(n, h, w)| (Just([n, h, w]), proptest::collection::vec(any::<u8>(), n * h * w)))
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_plain_and_packed((dims, data) in images()) {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in [("plain", file(&dims, &data)), ("packed", idx::pack(&dims, &data).unwrap())] {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            prop_assert_eq!(idx::read_file::<3>(&path).unwrap(), (dims, data.clone()));
        }
    }

    #[test]
    fn every_cut_and_every_surplus_is_an_error((dims, data) in images(), at in 0.0..1.0f64) {
        let mut bytes = file(&dims, &data);
        let cut = (at * bytes.len() as f64) as usize;
        prop_assert!(idx::read::<3>("cut", &bytes[..cut]).is_err());
        bytes.push(0);
        prop_assert!(idx::read::<3>("surplus", &bytes[..]).is_err());
    }

    #[test]
    fn every_cut_of_a_gzip_file_is_an_error((dims, data) in images(), at in 0.0..1.0f64) {
        let packed = idx::pack(&dims, &data).unwrap();
        let cut = (at * packed.len() as f64) as usize;
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), &packed[..cut]).unwrap();
        let error = idx::read_file::<3>(path.path()).unwrap_err();
        prop_assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = idx::read::<1>("bytes", &bytes[..]);
        let _ = idx::read::<3>("bytes", &bytes[..]);
    }

    /// A valid magic number leads arbitrary bytes past the first check; dimensions are small or arbitrary.
    #[test]
    fn arbitrary_headers_never_panic_nor_take_memory(
        dims in prop_oneof![any::<[u32; 3]>(), proptest::array::uniform3(0..4u32)],
        data in proptest::collection::vec(any::<u8>(), 0..30),
    ) {
        let mut bytes = vec![0, 0, 8, 3];
        bytes.extend(dims.iter().flat_map(|d| d.to_be_bytes()));
        bytes.extend(&data);
        let total: u128 = dims.iter().map(|&d| u128::from(d)).product();
        let fits = total == data.len() as u128 && total > 0;
        match idx::read::<3>("bytes", &bytes[..]) {
            Ok((read, back)) => {
                prop_assert!(fits);
                prop_assert_eq!(read.map(|d| d as u32), dims);
                prop_assert_eq!(back, data);
            }
            Err(error) => prop_assert!(!fits, "{error}"),
        }
    }
}

#[test]
fn the_header_is_the_published_one() {
    assert_eq!(file(&[1, 2, 300], &[7; 600])[..17], [0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 1, 44, 7]);
}

#[test]
fn writing_checks_the_length_and_the_dimensions() {
    assert!(idx::write(Vec::new(), &[2, 2], &[0; 3]).is_err());
    assert!(idx::write(Vec::new(), &[usize::MAX, 2], &[0; 3]).is_err());
    assert!(idx::write(Vec::new(), &[1; 256], &[0]).is_err());
    #[cfg(target_pointer_width = "64")]
    assert!(idx::write(Vec::new(), &[1 << 32, 0], &[]).is_err());
}

#[test]
fn a_bit_flipped_in_a_gzip_file_fails_its_checksum() {
    let packed = idx::pack(&[1, 20, 20], &[9; 400]).unwrap();
    let path = tempfile::NamedTempFile::new().unwrap();
    let checksum_at = packed.len() - 8;
    let mut damaged = packed.clone();
    damaged[checksum_at] ^= 1;
    std::fs::write(path.path(), damaged).unwrap();
    let error = idx::read_file::<3>(path.path()).unwrap_err().to_string();
    assert!(error.contains("a whole gzip file") && error.contains("get it again"), "{error}");
}
