use super::{folder, load, put, refused, shape};
use crate::support::pictures::{encoded, turned};
use image::{GrayImage, ImageFormat, Luma, LumaA, Rgb, RgbImage, Rgba};
use performer_ddpm::data;

fn grey(width: u32, height: u32, value: u8) -> Vec<u8> {
    encoded(GrayImage::from_pixel(width, height, Luma([value])), ImageFormat::Png)
}

fn colour(width: u32, height: u32, value: [u8; 3]) -> Vec<u8> {
    encoded(RgbImage::from_pixel(width, height, Rgb(value)), ImageFormat::Png)
}

#[test]
fn grey_images_load_sorted_by_name_beside_other_files() {
    let f = folder();
    put(&f, "b.PNG", &grey(3, 2, 20));
    put(&f, "a.png", &encoded(GrayImage::from_fn(3, 2, |x, y| Luma([(x + 3 * y) as u8])), ImageFormat::Png));
    put(&f, "c.jpeg", &grey(3, 2, 30));
    put(&f, "readme.txt", b"about");
    put(&f, ".hidden.png", b"");
    put(&f, "empty folder/notes.csv", b"");
    let train = load(&f).unwrap().train;
    assert_eq!((shape(&train), train.labels()), ([3, 2, 3, 1], None));
    assert_eq!(*train.bytes(0).unwrap(), [0, 1, 2, 3, 4, 5]);
    assert_eq!((&*train.bytes(1).unwrap(), &*train.bytes(2).unwrap()), (&[20; 6][..], &[30; 6][..]));
    assert!(train.flip_makes_sense());
}

#[test]
fn every_format_loads_and_one_colour_image_makes_all_colour() {
    let f = folder();
    put(&f, "1.png", &grey(8, 8, 77));
    let rgb = RgbImage::from_pixel(8, 8, Rgb([200, 100, 50]));
    for (name, format) in [
        ("2.bmp", ImageFormat::Bmp),
        ("3.gif", ImageFormat::Gif),
        ("4.jpg", ImageFormat::Jpeg),
        ("5 misnamed.png", ImageFormat::Jpeg),
    ] {
        put(&f, name, &encoded(rgb.clone(), format));
    }
    let train = load(&f).unwrap().train;
    assert_eq!(shape(&train), [5, 8, 8, 3]);
    assert_eq!(*train.bytes(0).unwrap(), [77; 192]);
    for i in 1..5 {
        for (&got, wanted) in train.bytes(i).unwrap().iter().zip([200u8, 100, 50].into_iter().cycle()) {
            // JPEG and the GIF palette may round a flat colour by a few levels.
            assert!(got.abs_diff(wanted) <= 4, "image {i}: {got} for {wanted}");
        }
    }
}

#[test]
fn deep_and_transparent_images_become_bytes_over_white() {
    let f = folder();
    let deep = image::ImageBuffer::from_pixel(1, 1, Luma([0x80ffu16]));
    put(&f, "1.png", &encoded(deep, ImageFormat::Png));
    put(&f, "2.png", &encoded(image::ImageBuffer::from_pixel(1, 1, LumaA([100u8, 0])), ImageFormat::Png));
    put(&f, "3.png", &encoded(image::ImageBuffer::from_pixel(1, 1, LumaA([3u8, 50])), ImageFormat::Png));
    let train = load(&f).unwrap().train;
    assert_eq!((0..3).map(|i| train.bytes(i).unwrap()[0]).collect::<Vec<_>>(), [0x80, 255, 206]);
    put(&f, "4.png", &encoded(image::RgbaImage::from_pixel(1, 1, Rgba([0, 255, 100, 51])), ImageFormat::Png));
    assert_eq!(*load(&f).unwrap().train.bytes(3).unwrap(), [204, 255, 224]);
}

#[test]
fn sub_folders_are_classes_and_train_and_test_are_parts() {
    let f = folder();
    for (name, value) in [("cat/1.png", 1), ("cat/2.png", 2), ("ant/1.png", 3), ("bee/9.png", 4)] {
        put(&f, name, &grey(2, 2, value));
    }
    let train = load(&f).unwrap().train;
    assert_eq!(train.labels(), Some(&[0, 1, 2, 2][..]));
    assert_eq!(train.class_names(), ["ant", "bee", "cat"]);
    assert_eq!((0..4).map(|i| train.bytes(i).unwrap()[0]).collect::<Vec<_>>(), [3, 4, 1, 2]);

    let split = folder();
    put(&split, "train/x/1.png", &grey(2, 2, 5));
    put(&split, "train/y/1.png", &grey(2, 2, 6));
    assert!(load(&split).unwrap().test.is_none());
    put(&split, "test/1.png", &grey(2, 2, 7));
    let sets = load(&split).unwrap();
    assert_eq!((sets.train.len(), sets.train.labels()), (2, Some(&[0, 1][..])));
    assert_eq!(*sets.test.unwrap().bytes(0).unwrap(), [7; 4]);
    std::fs::remove_file(split.path().join("test/1.png")).unwrap();
    put(&split, "test/y/1.png", &grey(2, 2, 8));
    let test = load(&split).unwrap().test.unwrap();
    assert_eq!((test.labels(), test.class_names().len()), (Some(&[1][..]), 2), "classes go by their names");
}

#[test]
fn there_may_be_more_classes_than_a_byte_counts() {
    let f = folder();
    (0..300).for_each(|i| put(&f, &format!("{i:03}/1.png"), &grey(1, 1, 0)));
    let train = load(&f).unwrap().train;
    assert_eq!((train.labels().unwrap()[299], &*train.class_names()[299]), (299, "299"));
}

#[test]
fn images_of_several_sizes_need_a_size_and_are_cut_to_it() {
    let f = folder();
    put(&f, "a.png", &grey(4, 4, 10));
    let wide = GrayImage::from_fn(12, 4, |x, _| Luma([if (4..8).contains(&x) { 200 } else { 0 }]));
    put(&f, "b.png", &encoded(wide, ImageFormat::Png));
    refused(load(&f), &["b.png", "4x4 like a.png", "got 4x12", "`size`"]);
    let train = data::load(Some(f.path()), Some((4, 4))).unwrap().train;
    assert_eq!(
        (shape(&train), &*train.bytes(0).unwrap(), &*train.bytes(1).unwrap()),
        ([2, 4, 4, 1], &[10; 16][..], &[200; 16][..])
    );
    for size in [(0, 4), (4, 0), (5000, 4)] {
        refused(data::load(Some(f.path()), Some(size)), &["the images' size", "1x1 to 4096x4096"]);
        refused(data::load(None, Some(size)), &["the images' size", "1x1 to 4096x4096"]);
    }
}

/// A photograph taken with a rotated camera: the file holds 4x2 pixels and a note to rotate them.
#[test]
fn a_cameras_orientation_is_followed() {
    let f = folder();
    let jpeg =
        encoded(RgbImage::from_fn(16, 8, |x, _| Rgb([if x < 8 { 0 } else { 255 }; 3])), ImageFormat::Jpeg);
    put(&f, "a.jpg", &turned(&jpeg, 6));
    let train = load(&f).unwrap().train;
    assert_eq!(shape(&train), [1, 16, 8, 3]);
    let [top_right, bottom_left] = [3 * 7, 3 * 8 * 15].map(|at| train.bytes(0).unwrap()[at]);
    assert!(top_right < 10 && bottom_left > 245, "turned clockwise, the dark left half is on top");
}

#[test]
fn images_that_cannot_be_read_are_refused_by_name() {
    let with = |name: &str, bytes: &[u8]| {
        let f = folder();
        put(&f, "a.png", &grey(40, 40, 1));
        put(&f, name, bytes);
        load(&f)
    };
    let noise = GrayImage::from_fn(40, 40, |x, y| Luma([(x * x * 7 + y * y * 13) as u8]));
    let png = encoded(noise.clone(), ImageFormat::Png);
    refused(with("b.png", b""), &["b.png", "a whole picture", "an empty file", "take it out"]);
    refused(with("b.png", b"just a text"), &["b.png", "a whole picture", "got a text"]);
    refused(with("b.png", &png[..png.len() / 2]), &["b.png", "a whole picture"]);
    for (name, format) in [
        ("b.jpg", ImageFormat::Jpeg),
        ("b.bmp", ImageFormat::Bmp),
        ("b.gif", ImageFormat::Gif),
        ("b.webp", ImageFormat::WebP),
        ("b.tiff", ImageFormat::Tiff),
        ("b.pgm", ImageFormat::Pnm),
    ] {
        let bytes = encoded(noise.clone(), format);
        assert!(with(name, &bytes).is_ok(), "{name}");
        refused(with(name, &bytes[..bytes.len() / 2]), &[name, "a whole picture"]);
    }
    refused(with("b.webp", b"RIFF"), &["b.webp", "a whole picture"]);
    let heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic";
    refused(with("b.jpg", heic), &["b.jpg", "HEIC", "a format that is not read here", "convert it to PNG"]);
    let bmp = encoded(noise, ImageFormat::Bmp);
    let (fine, absurd) = (40u32.to_le_bytes(), 20_000u32.to_le_bytes());
    for (width, height) in [(absurd, fine), (fine, absurd), (absurd, absurd)] {
        let bytes = [&bmp[..18], &width, &height, &bmp[26..]].concat();
        refused(with("b.bmp", &bytes), &["b.bmp", "at most 16384 pixels a side", "limit"]);
    }
}

#[test]
fn folders_without_images_are_refused() {
    let f = folder();
    refused(load(&f), &["train-images-idx3-ubyte", "data_batch_1.bin", "PNG", "none of them"]);
    put(&f, "notes.txt", b"nothing");
    put(&f, "deep/notes.txt", b"nothing");
    refused(load(&f), &["none of them", "passed over: 2 .txt", "the folder that holds the files"]);

    let mixed = folder();
    put(&mixed, "train/a.png", &grey(2, 2, 1));
    put(&mixed, "test/a.png", &colour(2, 2, [1, 2, 3]));
    let sets = load(&mixed).unwrap();
    assert_eq!((shape(&sets.train), sets.test.map(|test| shape(&test))), ([1, 2, 2, 3], Some([1, 2, 2, 3])));
}
