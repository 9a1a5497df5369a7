use super::{folder, load, put, refused, shape};
use tempfile::TempDir;

/// A CIFAR-10 record: a red plane of `r`, a green one counting up by rows, a blue one of `b`.
fn record(label: u8, r: u8, b: u8) -> Vec<u8> {
    let mut bytes = vec![label];
    bytes.extend([r; 1024]);
    bytes.extend((0..1024).map(|i| (i / 32) as u8));
    bytes.extend([b; 1024]);
    bytes
}

fn cifar() -> TempDir {
    let f = folder();
    for i in 1..=5u8 {
        put(&f, &format!("data_batch_{i}.bin"), &record(i, 10 * i, 200));
    }
    f
}

#[test]
fn cifar_batches_load_in_order_with_planes_turned_into_pixels() {
    let f = cifar();
    let sets = load(&f).unwrap();
    assert!(sets.test.is_none());
    assert_eq!((shape(&sets.train), sets.train.labels()), ([5, 32, 32, 3], Some(&[1, 2, 3, 4, 5][..])));
    assert_eq!((sets.train.class_names().len(), &*sets.train.class_names()[3]), (10, "cat"));
    assert_eq!(sets.train.bytes(2).unwrap()[..6], [30, 0, 200, 30, 0, 200]);
    assert_eq!(sets.train.bytes(4).unwrap()[3 * 32 * 7..][..3], [50, 7, 200]);
    assert!(sets.train.flip_makes_sense());
    put(&f, "test_batch.bin", &[record(9, 1, 2), record(0, 3, 4)].concat());
    let test = load(&f).unwrap().test.unwrap();
    assert_eq!((shape(&test), test.labels()), ([2, 32, 32, 3], Some(&[9, 0][..])));
}

#[test]
fn cifar_batches_that_are_wrong_are_refused_by_name() {
    let f = cifar();
    std::fs::remove_file(f.path().join("data_batch_3.bin")).unwrap();
    refused(load(&f), &["without data_batch_3.bin", "unpack"]);
    for bytes in [&record(1, 1, 1)[..3072], &[record(1, 1, 1), vec![0]].concat(), b""] {
        put(&f, "data_batch_3.bin", bytes);
        refused(load(&f), &["data_batch_3.bin", "multiple of 3073", &format!("got {}", bytes.len())]);
    }
    put(&f, "data_batch_3.bin", &[record(9, 1, 1), record(10, 1, 1)].concat());
    refused(load(&f), &["data_batch_3.bin", "image 1", "0 to 9", "got 10"]);
}
