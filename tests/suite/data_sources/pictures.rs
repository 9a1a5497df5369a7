//! Pictures as people have them: what each kind becomes, and what is said about it.

use super::{folder, put, shape};
use crate::support::pictures::{cmyk_jpeg, encoded, palette_png, turned};
use image::{DynamicImage, GrayImage, ImageBuffer, ImageFormat, Luma, LumaA, Rgb, RgbImage, Rgba, RgbaImage};
use performer_ddpm::config::{Background, DataConfig, Preset};
use performer_ddpm::data::{self, Dataset, Loaded, Phase, Reading};
use performer_ddpm::kernels::Isa;
use performer_ddpm::{Error, Result, Trainer};
use tempfile::TempDir;

fn grey(width: u32, height: u32, value: u8) -> Vec<u8> {
    encoded(GrayImage::from_pixel(width, height, Luma([value])), ImageFormat::Png)
}

fn colour(width: u32, height: u32, value: [u8; 3]) -> Vec<u8> {
    encoded(RgbImage::from_pixel(width, height, Rgb(value)), ImageFormat::Png)
}

fn at(folder: &TempDir) -> DataConfig {
    DataConfig { path: Some(folder.path().to_path_buf()), ..DataConfig::default() }
}

fn read(config: &DataConfig) -> Result<Loaded> {
    data::read(config, 7, Reading::default(), &mut |_, _, _| {})
}

/// The images and what was said of them, in one text.
fn told(config: &DataConfig) -> (Dataset, String) {
    let loaded = read(config).expect("pictures");
    (loaded.sets.train, loaded.notes.join("\n"))
}

fn bytes(data: &Dataset, index: usize) -> Vec<u8> {
    data.bytes(index).expect("an image").to_vec()
}

/// Bytes within `tolerance` of each other.
fn close(got: &[u8], wanted: &[u8], tolerance: u8) {
    assert_eq!(got.len(), wanted.len());
    let far = got.iter().zip(wanted).find(|(a, b)| a.abs_diff(**b) > tolerance);
    assert!(far.is_none(), "{got:?} for {wanted:?}");
}

/// The first page of several is taken, and a line says of how many files.
#[test]
fn of_several_frames_the_first_is_taken_and_said_to_be() {
    let f = folder();
    let frame = |value: u8| image::Frame::new(RgbaImage::from_pixel(3, 2, Rgba([value, value, value, 255])));
    let gif = |values: &[u8]| {
        let mut bytes = Vec::new();
        let frames = values.iter().map(|value| frame(*value));
        image::codecs::gif::GifEncoder::new(&mut bytes).encode_frames(frames).expect("a picture");
        bytes
    };
    put(&f, "a.gif", &gif(&[200, 10]));
    put(&f, "b.gif", &gif(&[100]));
    put(&f, "c.png", &colour(3, 2, [50; 3]));
    let (train, said) = told(&at(&f));
    assert_eq!([0, 1, 2].map(|i| bytes(&train, i)[0]), [200, 100, 50]);
    assert!(said.contains("1 of several pages or frames, of which the first is taken"), "{said}");
}

/// A file of a few bytes that claims a huge canvas is named while the folder is looked through, and nothing
/// is allocated for it.
#[test]
fn a_huge_canvas_is_refused_by_its_file() {
    let f = folder();
    put(&f, "a.png", &grey(3, 2, 9));
    // Pixels of eight bytes: red, green, blue and transparency of sixteen bits.
    let claims = |width: u32, height: u32| {
        let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
        let header = [&b"IHDR"[..], &size, &[16, 6, 0, 0, 0]].concat();
        let chunk = |body: &[u8]| {
            let length = (body.len() as u32 - 4).to_be_bytes();
            [&length[..], body, &crc32fast::hash(body).to_be_bytes()].concat()
        };
        [&b"\x89PNG\r\n\x1a\n"[..], &chunk(&header), &chunk(b"IDAT\x78\x9c"), &chunk(b"IEND")].concat()
    };
    put(&f, "bomb.png", &claims(16_000, 16_000));
    put(&f, "wide.png", &claims(20_000, 1));
    let message = read(&DataConfig { size: Some([8, 8]), ..at(&f) }).expect_err("refused").to_string();
    assert!(message.contains("wide.png"), "{message}");
    std::fs::remove_file(f.path().join("wide.png")).expect("it goes");
    let message = read(&DataConfig { size: Some([8, 8]), ..at(&f) }).expect_err("refused").to_string();
    assert!(message.contains("bomb.png") && message.contains("16000x16000 pixels"), "{message}");
}

/// Lossless formats are exact, whatever their files are called.
#[test]
fn every_format_is_known_by_its_content_under_any_name() {
    let f = folder();
    let image = RgbImage::from_fn(5, 3, |x, y| Rgb([(40 * x) as u8, (70 * y) as u8, 9]));
    let names = ["a.JPG", "b", "c.txt", "d.webp", "e.jpeg"];
    let formats =
        [ImageFormat::WebP, ImageFormat::Tiff, ImageFormat::Pnm, ImageFormat::Bmp, ImageFormat::Png];
    for (name, format) in names.into_iter().zip(formats) {
        put(&f, name, &encoded(image.clone(), format));
    }
    let (train, told) = told(&at(&f));
    assert_eq!(shape(&train), [5, 3, 5, 3]);
    for i in 0..5 {
        assert_eq!(bytes(&train, i), *image.as_raw(), "{}", names[i]);
    }
    assert_eq!(told, "5 pictures: 1 BMP, 1 PNG, 1 PNM, 1 TIFF, 1 WebP");
}

/// Sixteen bits are rounded to eight: v / 257. A palette's entries and a bit a pixel are exact.
#[test]
fn deep_palette_and_one_bit_pictures_become_bytes() {
    let f = folder();
    let deep = [0u16, 128, 129, 0x80ff, 0x8180, 0xffff];
    let deep: ImageBuffer<Luma<u16>, Vec<u16>> = ImageBuffer::from_vec(3, 2, deep.to_vec()).expect("six");
    put(&f, "a.png", &encoded(deep.clone(), ImageFormat::Png));
    put(&f, "b.tiff", &encoded(deep, ImageFormat::Tiff));
    let rounded = [0, 0, 1, 128, 129, 255];
    let (train, said) = told(&at(&f));
    assert_eq!((bytes(&train, 0), bytes(&train, 1)), (rounded.to_vec(), rounded.to_vec()));
    assert!(said.contains("2 of more than eight bits, rounded to eight"), "{said}");

    let f = folder();
    let colours = [[1, 2, 3], [200, 100, 50], [9, 9, 9]];
    put(&f, "a.png", &palette_png((3, 1), 8, &[2, 0, 1], &colours, &[]));
    put(&f, "b.png", &palette_png((3, 1), 1, &[0b0100_0000], &colours[..2], &[]));
    let (train, _) = told(&at(&f));
    assert_eq!(bytes(&train, 0), [9, 9, 9, 1, 2, 3, 200, 100, 50]);
    assert_eq!(bytes(&train, 1), [1, 2, 3, 200, 100, 50, 1, 2, 3]);
}

/// Over the background by alpha, rounded: 100 over 255 by 51 / 255 is 224.
#[test]
fn transparency_is_put_on_the_background_and_said() {
    let f = folder();
    put(&f, "a.png", &encoded(RgbaImage::from_pixel(1, 1, Rgba([0, 255, 100, 51])), ImageFormat::Png));
    put(&f, "b.webp", &encoded(RgbaImage::from_pixel(1, 1, Rgba([0, 255, 100, 51])), ImageFormat::WebP));
    let colours = [[0, 255, 100], [7, 7, 7]];
    put(&f, "c.png", &palette_png((1, 1), 8, &[0], &colours, &[51]));
    for (background, wanted) in
        [("white", [204, 255, 224]), ("black", [0, 51, 20]), ("#ff0080", [204, 51, 122])]
    {
        let background: Background = background.parse().expect("a colour");
        let (train, said) = told(&DataConfig { background, ..at(&f) });
        for i in 0..3 {
            assert_eq!(bytes(&train, i), wanted, "{background}");
        }
        assert!(said.contains(&format!("3 with transparency, put on {background}")), "{said}");
    }

    let f = folder();
    put(&f, "a.png", &encoded(ImageBuffer::from_pixel(1, 1, LumaA([3u8, 50])), ImageFormat::Png));
    assert_eq!(bytes(&told(&at(&f)).0, 0), [206]);
    let red = DataConfig { background: Background([255, 0, 0]), ..at(&f) };
    assert_eq!(bytes(&told(&red).0, 0), [206, 1, 1], "a grey picture on red is coloured");
}

/// Adobe's files store 255 less the ink: red = cyan' black' / 255, and so on. Tolerance: one level for each
/// of the two roundings, of the transform and of the product.
#[test]
fn cmyk_jpegs_become_red_green_and_blue() {
    let f = folder();
    put(&f, "a.jpg", &cmyk_jpeg([200, 100, 50, 128]));
    put(&f, "b.jpg", &cmyk_jpeg([255, 255, 255, 255]));
    let (train, _) = told(&at(&f));
    assert_eq!(shape(&train), [2, 8, 8, 3]);
    close(&bytes(&train, 0), &[100, 50, 25].repeat(64), 2);
    close(&bytes(&train, 1), &[255; 192], 2);
}

/// The eight orientations of Exif 2.32, table 6, on four quadrants. Flat blocks of a JPEG are off by two at
/// most.
#[test]
fn all_orientations_are_followed_in_every_format_that_notes_them() {
    let quadrants = |order: [usize; 4]| -> Vec<u8> {
        let values = [0u8, 80, 160, 240];
        let value = |x: usize, y: usize| values[order[2 * (y / 8) + x / 8]];
        (0..256).map(|i| value(i % 16, i / 16)).collect()
    };
    let plain = GrayImage::from_raw(16, 16, quadrants([0, 1, 2, 3])).expect("an image");
    let jpeg = encoded(plain, ImageFormat::Jpeg);
    // Where top left, top right, bottom left and bottom right come from.
    let orders = [
        [0, 1, 2, 3],
        [1, 0, 3, 2],
        [3, 2, 1, 0],
        [2, 3, 0, 1],
        [0, 2, 1, 3],
        [2, 0, 3, 1],
        [3, 1, 2, 0],
        [1, 3, 0, 2],
    ];
    let f = folder();
    for number in 1..=8u8 {
        put(&f, &format!("{number}.jpg"), &turned(&jpeg, number));
    }
    let (train, said) = told(&at(&f));
    for (i, order) in orders.into_iter().enumerate() {
        close(&bytes(&train, i), &quadrants(order), 2);
    }
    assert!(said.contains("7 turned as their cameras noted"), "{said}");
}

#[test]
fn mixed_grey_and_colour_become_what_is_asked_for() {
    let f = folder();
    put(&f, "a.png", &grey(2, 1, 77));
    put(&f, "b.png", &colour(2, 1, [255, 0, 0]));
    let (train, said) = told(&at(&f));
    assert_eq!((bytes(&train, 0), bytes(&train, 1)), (vec![77; 6], [255, 0, 0].repeat(2)));
    assert!(said.contains("1 of them grey, made colour"), "{said}");
    let (train, said) = told(&DataConfig { channels: Some(1), ..at(&f) });
    // Rec. 709's luma of red: 0.2126 x 255 = 54.2.
    assert_eq!((bytes(&train, 0), bytes(&train, 1)), (vec![77; 2], vec![54; 2]));
    assert!(said.contains("1 of them colour, made grey"), "{said}");
    let garments = read(&DataConfig { channels: Some(3), ..DataConfig::default() }).expect("garments").sets;
    let plain = read(&DataConfig::default()).expect("garments").sets;
    assert_eq!(garments.train.shape(), [28, 28, 3]);
    assert_eq!(bytes(&garments.train, 5)[3 * 400], bytes(&plain.train, 5)[400]);
}

#[test]
fn pictures_of_other_shapes_are_cut_to_the_size_and_it_is_said() {
    let f = folder();
    let stripes = |w: u32, h: u32, along: bool| {
        let bright = move |x: u32, y: u32| if along { (4..8).contains(&x) } else { (4..8).contains(&y) };
        encoded(GrayImage::from_fn(w, h, |x, y| Luma([if bright(x, y) { 200 } else { 0 }])), ImageFormat::Png)
    };
    put(&f, "a.png", &stripes(12, 4, true));
    put(&f, "b.png", &stripes(4, 12, false));
    put(&f, "c.png", &grey(2, 2, 9));
    put(&f, "d.png", &grey(4, 4, 9));
    let (train, said) = told(&DataConfig { size: Some([4, 4]), ..at(&f) });
    assert_eq!((bytes(&train, 0), bytes(&train, 1)), (vec![200; 16], vec![200; 16]));
    assert_eq!((bytes(&train, 2), bytes(&train, 3)), (vec![9; 16], vec![9; 16]));
    assert!(said.contains("3 resized to 4x4, their short side to its length, 2 of them cut"), "{said}");
    let message = read(&at(&f)).expect_err("several sizes").to_string();
    assert!(message.contains("one of 3 that differ") && message.contains("`size`"), "{message}");
}

#[test]
fn folders_may_be_nested_and_hold_other_files() {
    let f = folder();
    for (name, value) in [("b/deep/er/1.png", 1), ("b/2.png", 2), ("a/x/3.png", 3), ("c/4.png", 4)] {
        put(&f, name, &grey(2, 2, value));
    }
    put(&f, "b/.hidden/5.png", &grey(2, 2, 5));
    put(&f, "notes.TXT", b"about");
    put(&f, "b/list.txt", b"1,2");
    put(&f, "LICENSE", b"text");
    #[cfg(unix)]
    std::os::unix::fs::symlink("..", f.path().join("c/loop")).expect("a link");
    let (train, said) = told(&at(&f));
    assert_eq!((0..4).map(|i| bytes(&train, i)[0]).collect::<Vec<_>>(), [3, 2, 1, 4]);
    assert_eq!(train.labels(), Some(&[0, 1, 1, 2][..]), "the sub-folders of the folder are the classes");
    assert!(said.ends_with("files that are no pictures, passed over: 2 .txt, 1 without an ending"), "{said}");

    let strict = Reading { strict: true, ..Reading::default() };
    let error = data::read(&at(&f), 0, strict, &mut |_, _, _| {}).expect_err("other files");
    let message = error.to_string();
    assert!(["LICENSE", "list.txt", "notes.TXT"].iter().all(|name| message.contains(name)), "{message}");

    put(&f, "z.png", &grey(2, 2, 9));
    let (train, _) = told(&at(&f));
    assert_eq!((train.len(), train.labels()), (5, None), "with a picture beside them they are not");
}

#[test]
fn parts_may_have_other_names_and_what_lies_beside_them_is_named() {
    let f = folder();
    for (name, value) in [("train/1.png", 1), ("val/2.png", 2), ("extra/3.png", 3)] {
        put(&f, name, &grey(2, 2, value));
    }
    put(&f, "README", b"about");
    let Loaded { sets, notes } = read(&at(&f)).expect("pictures");
    let test = sets.test.expect("a part");
    assert_eq!((bytes(&sets.train, 0)[0], bytes(&test, 0)[0]), (1, 2));
    assert!(notes.contains(
        &"the pictures of train and val are read, not what lies beside them: extra, README".into()
    ));
}

#[test]
fn every_bad_picture_is_named_with_its_reason() {
    let f = folder();
    put(&f, "fine.png", &grey(4, 4, 1));
    put(&f, "empty.png", b"");
    put(&f, "page.jpg", b"<!DOCTYPE html><html></html>");
    put(&f, "in/pointer.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
    let error: Error = read(&at(&f)).expect_err("bad pictures");
    let message = error.to_string();
    for part in
        ["3 that are not", "empty.png: an empty file", "page.jpg: a web page", "pointer.png", "git lfs pull"]
    {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
    // Headers that are whole, and pixels that are not.
    let f = folder();
    let noise = GrayImage::from_fn(64, 64, |x, y| Luma([(x * x * 7 + y * y * 13) as u8]));
    for (name, format) in [("a.png", ImageFormat::Png), ("b.jpg", ImageFormat::Jpeg)] {
        let whole = encoded(noise.clone(), format);
        put(&f, name, &whole[..whole.len() - 100]);
    }
    let message = read(&at(&f)).expect_err("cut pictures").to_string();
    assert!(["2 that are not", "a.png", "b.jpg"].iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn a_share_is_held_out_by_the_seed_and_said() {
    let f = folder();
    for i in 0..20 {
        put(&f, &format!("{i:02}.png"), &grey(1, 1, i));
    }
    let config = DataConfig { held_out: Some(0.2), ..at(&f) };
    let Loaded { sets, notes } = read(&config).expect("pictures");
    let test = sets.test.clone().expect("a part");
    assert_eq!((sets.train.len(), test.len()), (16, 4));
    let mut all: Vec<u8> = (0..16).map(|i| bytes(&sets.train, i)[0]).collect();
    all.extend((0..4).map(|i| bytes(&test, i)[0]));
    all.sort_unstable();
    assert_eq!(all, (0..20).collect::<Vec<u8>>());
    assert!(notes.iter().any(|note| note.starts_with("4 of 20 images held out")), "{notes:?}");
    assert_eq!(read(&config).expect("pictures").sets, sets);
    let other = data::read(&config, 8, Reading::default(), &mut |_, _, _| {}).expect("pictures").sets;
    assert_ne!(other, sets);
    let error = read(&DataConfig { held_out: Some(0.5), ..DataConfig::default() }).expect_err("test images");
    assert!(error.to_string().contains("2000 test images"), "{error}");
}

/// Whatever the memory holds, the images are the same.
#[test]
fn pictures_that_do_not_fit_are_decoded_when_they_are_needed() {
    let f = folder();
    for i in 0..10 {
        put(&f, &format!("{i}.png"), &grey(8, 8, i));
    }
    let with = |cache: u64| {
        let mut seen = Vec::new();
        let reading = Reading { cache: Some(cache), ..Reading::default() };
        let loaded = data::read(&at(&f), 0, reading, &mut |phase, done, of| seen.push((phase, done, of)));
        (loaded.expect("pictures"), seen)
    };
    let (all, seen) = with(1 << 20);
    assert_eq!((all.notes.len(), seen.last()), (1, Some(&(Phase::Decoding, 10, 10))));
    assert_eq!(seen.first().map(|first| first.0), Some(Phase::Listing));
    let (none, seen) = with(0);
    assert!(seen.iter().all(|(phase, ..)| *phase == Phase::Listing));
    let (some, _) = with(400);
    assert!(some.notes[1].starts_with("3 of 10 decoded pictures are kept"), "{:?}", some.notes);
    for i in [9, 0, 5, 3, 9] {
        let wanted = vec![i as u8; 64];
        assert!([&all, &none, &some].iter().all(|loaded| bytes(&loaded.sets.train, i) == wanted));
    }
    assert_eq!(all.sets.train.contents(), none.sets.train.contents());
    // A file that was taken away is missed only where it was not kept.
    std::fs::remove_file(f.path().join("7.png")).expect("a file");
    assert_eq!(bytes(&all.sets.train, 7), [7; 64]);
    let message = none.sets.train.bytes(7).expect_err("no file").to_string();
    assert!(message.contains("7.png"), "{message}");
    let image: DynamicImage = GrayImage::from_pixel(8, 8, Luma([1])).into();
    put(&f, "7.png", &encoded(image, ImageFormat::Png));
    let difference = all.sets.train.contents().difference(&with(0).0.sets.train.contents());
    assert_eq!(difference.as_deref(), Some("1 changed (7.png)"));
}

/// Training has the same bits whatever the memory holds, and a picture that is gone stops it before a step.
#[test]
fn training_decodes_what_it_needs() {
    let f = folder();
    for i in 0..6u8 {
        let picture = GrayImage::from_fn(8, 8, |x, y| Luma([(x * y) as u8 * i]));
        put(&f, &format!("{i}.png"), &encoded(picture, ImageFormat::Png));
    }
    let images = |cache| {
        let reading = Reading { cache: Some(cache), ..Reading::default() };
        data::read(&at(&f), 0, reading, &mut |_, _, _| {}).expect("pictures").sets.train
    };
    let mut config = Preset::Tiny.config().for_images([8, 8, 1]);
    config.train.batch = 6;
    let trainer = || Trainer::<f32>::new(&config, 2, Isa::detect()).expect("a trainer");
    let (kept, needed) = (images(1 << 20), images(0));
    let (mut a, mut b) = (trainer(), trainer());
    for _ in 0..3 {
        assert_eq!(a.advance(&kept).expect("a step"), b.advance(&needed).expect("a step"));
    }
    assert_eq!(a.model().weights, b.model().weights);
    std::fs::remove_file(f.path().join("4.png")).expect("a file");
    let message = b.advance(&needed).expect_err("no file").to_string();
    assert!(message.contains("4.png"), "{message}");
    assert_eq!((b.step(), &b.model().weights), (3, &a.model().weights));
    assert_eq!(a.advance(&kept).expect("a step").step, 4);
}
