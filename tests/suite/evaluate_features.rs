//! Features by networks in ONNX files, in every available runtime.

use crate::support::feature_nets::{FeatureNet, in_every_runtime, refusal};
use ndarray::{Array2, Array4};
use performer_ddpm::data::Dataset;
use performer_ddpm::evaluate::features::{Extractor, FeatureOptions, PixelRange};
use performer_ddpm::sample::onnx::Runtime;
use performer_ddpm_onnx::Dim;

/// Images [n, c, h, w] from a sum of waves, some of them outside [-1, 1].
fn pictures(n: usize, c: usize, h: usize, w: usize) -> Array4<f32> {
    Array4::from_shape_fn((n, c, h, w), |(i, k, y, x)| {
        1.2 * ((i * 7 + k * 5 + y * 3 + x * 2) as f32 * 0.7).sin() + 0.1
    })
}

/// The mean of each channel, which [`FeatureNet`] computes, after `value` has converted the pixels from [-1,
/// 1].
fn channel_means(images: &Array4<f32>, value: impl Fn(usize, f32) -> f32) -> Array2<f64> {
    let (n, c, h, w) = images.dim();
    Array2::from_shape_fn((n, c), |(i, k)| {
        let plane = images.slice(ndarray::s![i, k, .., ..]);
        plane.iter().map(|x| f64::from(value(k, x.clamp(-1.0, 1.0)))).sum::<f64>() / (h * w) as f64
    })
}

/// 1e-5 of a range: sums of a few dozen `f32`.
fn close(got: &Array2<f64>, want: &Array2<f64>, range: f64) {
    assert_eq!(got.dim(), want.dim());
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() < 1e-5 * range, "{got} for {want}");
    }
}

/// Every range; a symbolic batch and batches that do not divide the number of images.
#[test]
fn pixels_reach_the_network_in_its_range() {
    let images = pictures(7, 3, 4, 6);
    let imagenet = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)];
    type Value = Box<dyn Fn(usize, f32) -> f32>;
    let ranges: [(PixelRange, f64, Value); 4] = [
        (PixelRange::Symmetric, 2.0, Box::new(|_, x| x)),
        (PixelRange::Unit, 1.0, Box::new(|_, x| (x + 1.0) / 2.0)),
        (PixelRange::Bytes, 255.0, Box::new(|_, x| (x + 1.0) * 127.5)),
        (PixelRange::ImageNet, 5.0, Box::new(move |k, x| ((x + 1.0) / 2.0 - imagenet[k].0) / imagenet[k].1)),
    ];
    let model = FeatureNet::new(Dim::from("N"), [3, 4, 6]).model();
    for (range, width, value) in ranges {
        let want = channel_means(&images, value);
        for batch in [1, 3, 7, 64] {
            in_every_runtime(
                &model,
                &|runtime| FeatureOptions { range, batch, ..FeatureOptions::new(runtime) },
                |net| {
                    close(&net.features(images.view()).unwrap(), &want, width);
                },
            );
        }
    }
}

/// Images are padded to a batch that the file fixes; images of a dataset give the same features as those of
/// an array.
#[test]
fn a_fixed_batch_is_filled_up_and_datasets_are_images() {
    let pixels: Vec<u8> = (0..5 * 4 * 6 * 3).map(|i| (i * 37 % 256) as u8).collect();
    let dataset = Dataset::new("waves", [4, 6, 3], pixels, None, false).unwrap();
    let chosen = [0, 3, 4];
    let images = Array4::from_shape_fn((3, 3, 4, 6), |(i, c, y, x)| {
        f32::from(dataset.bytes(chosen[i]).unwrap()[(y * 6 + x) * 3 + c]) / 127.5 - 1.0
    });
    let want = channel_means(&images, |_, x| x);
    for batch in [Dim::Known(2), Dim::Known(3), Dim::Known(8), Dim::from("N")] {
        let model = FeatureNet::new(batch, [3, 4, 6]).model();
        in_every_runtime(&model, &FeatureOptions::new, |net| {
            close(&net.features(images.view()).unwrap(), &want, 2.0);
            let mut done = 0.0;
            close(&net.features_of(&dataset, &chosen, &mut |share| done = share).unwrap(), &want, 2.0);
            assert_eq!(done, 1.0);
        });
    }
}

/// Grey images fill three channels. Resizing is bilinear, which keeps the mean of a plane when it doubles its
/// size (the weights of each pixel add up to 4, at the edges too).
#[test]
fn grey_images_and_other_sizes_fit_a_colour_network() {
    let images = pictures(2, 1, 5, 5).mapv(|x| 0.5 * x);
    let mean = channel_means(&images, |_, x| x);
    let want = ndarray::concatenate![ndarray::Axis(1), mean, mean, mean];
    let model = FeatureNet::new(Dim::from("N"), [3, 10, 10]).model();
    let sized = |runtime: Runtime| FeatureOptions { size: Some([10, 10]), ..FeatureOptions::new(runtime) };
    in_every_runtime(&model, &sized, |net| close(&net.features(images.view()).unwrap(), &want, 2.0));
    in_every_runtime(&model, &FeatureOptions::new, |net| {
        let error = net.features(images.view()).unwrap_err().to_string();
        assert!(error.contains("FeatureOptions::size") && error.contains("3 x 10 x 10"), "{error}");
    });
    let colour = FeatureNet::new(Dim::from("N"), [1, 5, 5]).model();
    in_every_runtime(&colour, &FeatureOptions::new, |net| {
        let error = net.features(pictures(2, 3, 5, 5).view()).unwrap_err().to_string();
        assert!(error.contains("1 x 5 x 5") && error.contains("3 x 5 x 5"), "{error}");
    });
    assert_eq!(FeatureOptions::inception(Runtime::Tract).size, Some([299, 299]));
}

/// Bilinear values between two columns, by hand: a row (0, 1) doubled is (0, 0.25, 0.75, 1).
#[test]
fn enlarging_is_bilinear_between_centres() {
    let row = Array4::from_shape_vec((1, 1, 1, 2), vec![0.0, 1.0]).unwrap();
    let model = FeatureNet { pixels: true, ..FeatureNet::new(Dim::from("N"), [1, 1, 4]) }.model();
    let sized = |runtime: Runtime| FeatureOptions { size: Some([1, 4]), ..FeatureOptions::new(runtime) };
    in_every_runtime(&model, &sized, |net| {
        let got = net.features(row.view()).unwrap();
        close(&got, &ndarray::arr2(&[[0.0, 0.25, 0.75, 1.0]]), 1.0);
    });
}

/// Where there are several inputs or outputs, one must be named; the other inputs get zeros.
#[test]
fn of_several_ports_one_is_named() {
    let images = pictures(3, 1, 4, 4);
    let net = FeatureNet { logits: true, time: true, ..FeatureNet::new(Dim::from("N"), [1, 4, 4]) };
    let (model, want) = (net.model(), channel_means(&images, |_, x| x));
    let named = |input: Option<&str>, output: Option<&str>| {
        let (input, output) = (input.map(str::to_owned), output.map(str::to_owned));
        move |runtime| FeatureOptions {
            input: input.clone(),
            output: output.clone(),
            ..FeatureOptions::new(runtime)
        }
    };
    in_every_runtime(&model, &named(Some("images"), Some("features")), |net| {
        close(&net.features(images.view()).unwrap(), &want, 2.0);
    });
    in_every_runtime(&model, &named(Some("images"), Some("logits")), |net| {
        close(&net.features(images.view()).unwrap(), &(&want * 2.0), 4.0);
    });
    for (input, output, words) in [
        (None, Some("features"), ["FeatureOptions::input", "images f32", "t f32"]),
        (Some("images"), None, ["FeatureOptions::output", "features f32", "logits f32"]),
        (Some("picture"), Some("features"), ["picture", "images f32", "t f32"]),
        (Some("images"), Some("pool"), ["pool", "features f32", "logits f32"]),
        (Some("t"), Some("features"), ["t f32", "[N, C, H, W]", "input"]),
    ] {
        let message = refusal(&model, &named(input, output));
        assert!(words.iter().all(|word| message.contains(word)), "{words:?}: {message}");
    }
}

#[test]
fn what_is_no_features_network_is_refused() {
    let plain = FeatureNet::new(Dim::from("N"), [1, 4, 4]);
    let message = refusal(&FeatureNet { maps: true, ..plain.clone() }.model(), &FeatureOptions::new);
    assert!(message.contains("features f32 [N, D]") && message.contains("[N, 1, 4, 4]"), "{message}");
    let message =
        refusal(&plain.model(), &|runtime| FeatureOptions { batch: 0, ..FeatureOptions::new(runtime) });
    assert!(message.contains("FeatureOptions::batch"), "{message}");
    // The logarithm of a mean below 0.
    let model = FeatureNet { logarithm: true, ..plain }.model();
    in_every_runtime(&model, &FeatureOptions::new, |net| {
        let error = net.features(Array4::from_elem((2, 1, 4, 4), -0.5).view()).unwrap_err();
        assert!(error.to_string().contains("image 0") && error.to_string().contains("NaN"), "{error}");
        assert_eq!(error.exit_status(), 2);
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.onnx");
    std::fs::write(&path, "not a network").unwrap();
    let error = Extractor::open(&path, &FeatureOptions::new(Runtime::Tract)).unwrap_err();
    assert!(error.to_string().contains("notes.onnx") && error.exit_status() == 2, "{error}");
}
