use super::{folder, load, put, refused, shape};
use flate2::{Compression, write::GzEncoder};
use performer_ddpm::data::{self, idx};
use std::io::Write;

fn idx_bytes(dims: &[usize], data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    idx::write(&mut bytes, dims, data).unwrap();
    bytes
}

/// Two images of 3x2, bytes counting up.
fn two_images() -> Vec<u8> {
    idx_bytes(&[2, 3, 2], &(0..12).collect::<Vec<u8>>())
}

const IMAGES: &str = "train-images-idx3-ubyte";
const LABELS: &str = "train-labels-idx1-ubyte";

#[test]
fn idx_files_load_plain_packed_misnamed_and_dotted() {
    for (name, packed) in [
        (IMAGES.to_owned(), false),
        (format!("{IMAGES}.gz"), true),
        (format!("{IMAGES}.gz"), false),
        ("train-images.idx3-ubyte".to_owned(), true),
    ] {
        let f = folder();
        let bytes: Vec<u8> = (0..12).collect();
        let file = if packed { idx::pack(&[2, 3, 2], &bytes).unwrap() } else { two_images() };
        put(&f, &name, &file);
        let sets = load(&f).unwrap();
        assert_eq!(shape(&sets.train), [2, 3, 2, 1]);
        assert_eq!(*sets.train.bytes(1).unwrap(), [6, 7, 8, 9, 10, 11]);
        assert_eq!(sets.train.labels(), None);
        assert!(sets.test.is_none());
        assert!(!sets.train.flip_makes_sense(), "digits have a reading direction");
    }
}

#[test]
fn idx_labels_and_test_images_are_found() {
    let f = folder();
    put(&f, IMAGES, &two_images());
    put(&f, LABELS, &idx_bytes(&[2], &[3, 200]));
    put(&f, "t10k-images-idx3-ubyte.gz", &idx::pack(&[1, 3, 2], &[9; 6]).unwrap());
    put(&f, "t10k-labels-idx1-ubyte.gz", &idx::pack(&[1], &[8]).unwrap());
    put(&f, "picture.png", b"no image, and not looked at");
    let sets = load(&f).unwrap();
    assert_eq!(sets.train.labels(), Some(&[0, 1][..]));
    assert_eq!(sets.train.class_names(), ["3", "200"]);
    let test = sets.test.unwrap();
    assert_eq!((shape(&test), test.labels()), ([1, 3, 2, 1], None), "8 is no class of the training images");
    put(&f, "t10k-labels-idx1-ubyte.gz", &idx::pack(&[1], &[200]).unwrap());
    assert_eq!(load(&f).unwrap().test.unwrap().labels(), Some(&[1][..]));
    let resized = data::load(Some(f.path()), Some((6, 4))).unwrap();
    assert_eq!((shape(&resized.train), shape(&resized.test.unwrap())), ([2, 6, 4, 1], [1, 6, 4, 1]));
}

#[test]
fn digits_of_mnists_size_are_not_taken_for_garments() {
    let f = folder();
    put(&f, IMAGES, &idx_bytes(&[1, 28, 28], &[1; 784]));
    let train = load(&f).unwrap().train;
    assert!(!train.flip_makes_sense());
    assert_ne!(train.name(), "Fashion-MNIST");
}

#[test]
fn idx_files_that_are_wrong_are_refused_by_name() {
    let one = |name: &str, bytes: &[u8]| {
        let f = folder();
        put(&f, name, bytes);
        load(&f)
    };
    refused(one(IMAGES, b"not an IDX file"), &[IMAGES, "0x00000803", "0x6e6f7420"]);
    refused(one(IMAGES, &idx_bytes(&[12], &[0; 12])), &["0x00000803", "0x00000801", "swapped"]);
    refused(one(IMAGES, b""), &[IMAGES, "16 bytes", "a file of 0"]);
    refused(one(IMAGES, &two_images()[..10]), &["16 bytes", "a file of 10"]);
    refused(one(IMAGES, &two_images()[..20]), &[IMAGES, "12 bytes", "2 x 3 x 2", "got 4", "cut short"]);
    let surplus = [two_images(), vec![0]].concat();
    refused(one(IMAGES, &surplus), &["12 bytes", "got more"]);
    refused(one(IMAGES, &idx_bytes(&[0, 28, 28], &[])), &["at least 1", "0 x 28 x 28"]);
    refused(one(IMAGES, &idx_bytes(&[2, 0, 28], &[])), &["2 x 0 x 28"]);
    refused(one(IMAGES, &idx_bytes(&[1, 1, 5000], &[0; 5000])), &["4096x4096", "1x5000", "`size`"]);
    let mut absurd = vec![0, 0, 8, 3];
    absurd.extend([0xff; 12]);
    refused(one(IMAGES, &absurd), &["dimensions in the header", "4294967295 x 4294967295 x 4294967295"]);
    let mut large = vec![0, 0, 8, 3];
    large.extend([0, 0x10, 0, 0, 0, 0, 0x10, 0, 0, 0, 0x10, 0, 1, 2, 3]);
    refused(one(IMAGES, &large), &["dimensions in the header", "1048576 x 4096 x 4096"]);
    large[5] = 0;
    large[6] = 0x10;
    refused(one(IMAGES, &large), &["bytes that a file of this size can hold", "4096 x 4096 x 4096"]);
    refused(
        one("t10k-images-idx3-ubyte", &two_images()),
        &["train-images-idx3-ubyte", "other IDX files only"],
    );
    refused(one(LABELS, &idx_bytes(&[1], &[0])), &["train-images-idx3-ubyte", "other IDX files only"]);
}

#[test]
fn gzip_files_that_are_wrong_are_refused_by_name() {
    let packed = idx::pack(&[2, 3, 2], &(0..12).collect::<Vec<u8>>()).unwrap();
    let name = format!("{IMAGES}.gz");
    let one = |bytes: &[u8]| {
        let f = folder();
        put(&f, &name, bytes);
        load(&f)
    };
    for cut in [2, 9, 10, 15, packed.len() - 9, packed.len() - 8, packed.len() - 1] {
        refused(one(&packed[..cut]), &[&name, "a whole gzip file", "get it again"]);
    }
    refused(one(&[&packed[..], b"tail"].concat()), &[&name, "a whole gzip file"]);
    let mut stream = GzEncoder::new(Vec::new(), Compression::fast());
    stream.write_all(b"text, not images").unwrap();
    refused(one(&stream.finish().unwrap()), &[&name, "0x00000803", "0x74657874"]);
    let mut short = GzEncoder::new(Vec::new(), Compression::fast());
    short.write_all(&two_images()[..20]).unwrap();
    refused(one(&short.finish().unwrap()), &[&name, "12 bytes", "got 4"]);
}

#[test]
fn counts_and_shapes_that_differ_are_refused() {
    let f = folder();
    put(&f, IMAGES, &two_images());
    put(&f, LABELS, &idx_bytes(&[3], &[0; 3]));
    refused(load(&f), &[LABELS, "2 labels", "got 3"]);
    put(&f, LABELS, &two_images());
    refused(load(&f), &[LABELS, "0x00000801", "0x00000803"]);
    put(&f, LABELS, &idx_bytes(&[2], &[0; 2]));
    put(&f, "t10k-images-idx3-ubyte", &idx_bytes(&[1, 2, 2], &[0; 4]));
    refused(load(&f), &["the test images", "3x2 with 1", "got 2x2 with 1"]);
}
