//! The embedded part of Fashion-MNIST is the beginning of the original files, and packing it again gives the
//! same bytes. Sums, checksums and counts were computed from the original IDX files by other software.

use flate2::Crc;
use performer_ddpm::data::{self, Dataset, idx};
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/fashion-mnist")
}

/// (sum, CRC-32) of all pixels in order.
fn pixels(data: &Dataset) -> (u64, u32) {
    let (mut sum, mut crc) = (0, Crc::new());
    for i in 0..data.len() {
        sum += data.bytes(i).unwrap().iter().map(|&b| u64::from(b)).sum::<u64>();
        crc.update(&data.bytes(i).unwrap());
    }
    (sum, crc.sum())
}

fn labels(data: &Dataset) -> ([u8; 20], [usize; 10], u32) {
    let labels: Vec<u8> = data.labels().unwrap().iter().map(|&class| class.try_into().unwrap()).collect();
    let counts = std::array::from_fn(|class| labels.iter().filter(|&&l| usize::from(l) == class).count());
    let mut crc = Crc::new();
    crc.update(&labels);
    (labels[..20].try_into().unwrap(), counts, crc.sum())
}

#[test]
fn the_embedded_images_and_labels_are_the_first_of_the_originals() {
    let sets = data::load(None, None).unwrap();
    let (train, test) = (sets.train, sets.test.unwrap());
    for (set, count) in [(&train, 10_000), (&test, 2_000)] {
        assert_eq!([set.len(), set.height(), set.width(), set.channels()], [count, 28, 28, 1]);
        assert_eq!(set.name(), "Fashion-MNIST");
        assert!(!set.flip_makes_sense(), "every shoe points left");
        let names = set.class_names();
        assert_eq!((names.len(), &*names[0], &*names[9]), (10, "T-shirt/top", "Ankle boot"));
    }
    assert_eq!(pixels(&train), (572_388_787, 3_140_854_334));
    assert_eq!(pixels(&test), (114_763_281, 1_228_093_332));
    assert_eq!(
        labels(&train),
        (
            [9, 0, 0, 3, 0, 2, 7, 2, 5, 5, 0, 9, 5, 5, 7, 9, 1, 0, 6, 4],
            [942, 1027, 1016, 1019, 974, 989, 1021, 1022, 990, 1000],
            1_149_986_643
        )
    );
    assert_eq!(
        labels(&test),
        (
            [9, 2, 1, 1, 6, 1, 4, 6, 5, 7, 4, 5, 7, 3, 4, 1, 2, 4, 8, 0],
            [200, 203, 214, 190, 219, 195, 197, 200, 194, 188],
            365_823_998
        )
    );
}

#[test]
fn the_packed_files_load_as_a_folder_and_as_the_same_data() {
    assert_eq!(data::load(Some(&folder()), None).unwrap(), data::load(None, None).unwrap());
}

#[test]
fn packing_again_gives_the_same_bytes_in_at_most_six_megabytes() {
    let mut total = 0;
    for part in ["train", "t10k"] {
        let images = folder().join(format!("{part}-images-idx3-ubyte.gz"));
        let (dims, pixels) = idx::read_file::<3>(&images).unwrap();
        let labels = folder().join(format!("{part}-labels-idx1-ubyte.gz"));
        let (count, bytes) = idx::read_file::<1>(&labels).unwrap();
        for (path, packed) in [(images, idx::pack(&dims, &pixels)), (labels, idx::pack(&count, &bytes))] {
            let packed = packed.unwrap();
            total += packed.len();
            assert!(packed == std::fs::read(&path).unwrap(), "{} differs", path.display());
        }
    }
    assert!(total <= 6_000_000, "{total} bytes");
}

#[test]
fn a_size_resizes_the_embedded_images() {
    let whole = data::load(None, None).unwrap().train;
    let sets = data::load(None, Some((14, 7))).unwrap();
    let (train, test) = (sets.train, sets.test.unwrap());
    for (set, count) in [(&train, 10_000), (&test, 2_000)] {
        assert_eq!([set.len(), set.height(), set.width(), set.channels()], [count, 14, 7, 1]);
    }
    assert_eq!(train.labels(), whole.labels());
    let mean = |bytes: &mut dyn Iterator<Item = u8>| {
        let (sum, n) = bytes.fold((0.0, 0.0), |(sum, n), b| (sum + f64::from(b), n + 1.0));
        sum / n
    };
    let narrow = data::load(None, Some((28, 20))).unwrap().train;
    assert_eq!((narrow.height(), narrow.width()), (28, 20));
    for i in 0..10 {
        let centre = mean(&mut whole.bytes(i).unwrap().chunks(28).flat_map(|row| row[7..21].to_vec()));
        let small = mean(&mut train.bytes(i).unwrap().iter().copied());
        // Resizing keeps the mean of the cropped part, up to the weights at the border and the rounding to
        // bytes.
        assert!((centre - small).abs() < 4.0, "image {i}: {centre} and {small}");
    }
}
