use super::{config, images};
use performer_ddpm::config::Preset;
use performer_ddpm::data::{self, Dataset, Labels};
use performer_ddpm::kernels::Isa;
use performer_ddpm::sample::SampleOptions;
use performer_ddpm::{Trainer, train::check_fit};

fn trainer(drop_label: f64, threads: usize) -> Trainer<f32> {
    Trainer::new(&config(drop_label), threads, Isa::detect()).expect("a trainer")
}

fn advance(trainer: &mut Trainer<f32>, steps: usize) {
    for _ in 0..steps {
        trainer.advance(&images()).expect("a step");
    }
}

#[test]
fn runs_on_labels_have_the_same_bits_on_any_number_of_threads_and_resumed() {
    let mut straight = trainer(0.3, 1);
    advance(&mut straight, 6);
    let mut first = trainer(0.3, 3);
    advance(&mut first, 2);
    let mut second = trainer(0.3, 2);
    second.restore(first.progress()).expect("the same network");
    advance(&mut second, 4);
    assert_eq!(straight.progress(), second.progress());
    let mut other = trainer(0.2, 1);
    advance(&mut other, 6);
    assert_ne!(straight.progress().weights, other.progress().weights, "labels are dropped");
}

/// Without dropped labels there is no null class; the vectors of the classes are trained all the same.
#[test]
fn every_class_that_is_told_is_trained() {
    for drop_label in [0.0, 0.5] {
        let mut trainer = trainer(drop_label, 2);
        let graph = trainer.model().graph.clone();
        let table =
            graph.params.iter().find(|param| param.name == "class_embedding.weight").expect("a table");
        let rows = table.range().len() / (3 + usize::from(drop_label > 0.0));
        let before = trainer.model().weights[table.range()].to_vec();
        // The residual blocks' last convolutions start at zero and pass nothing back at the first step.
        advance(&mut trainer, 5);
        let after = &trainer.model().weights[table.range()];
        for (class, (before, after)) in before.chunks(rows).zip(after.chunks(rows)).enumerate() {
            assert_ne!(before, after, "class {class} of {drop_label}");
        }
    }
}

#[test]
fn a_model_with_classes_has_images_of_each() {
    let mut trainer = trainer(0.2, 2);
    advance(&mut trainer, 4);
    let mut pipeline = trainer.pipeline().expect("a pipeline");
    let usual = pipeline.options();
    assert_eq!((usual.count, usual.batch), (66, 66));
    assert_eq!(pipeline.unet().expect("the engine's").class_names, super::NAMES);
    // By DDIM: what the solver makes of so little training is black or white in every class.
    let all = SampleOptions { count: 4, batch: 4, steps: Some(3), ..SampleOptions::default() };
    let images = pipeline.sample(&all).expect("images");
    let turned = SampleOptions { classes: vec![0, 1, 2], ..all.clone() };
    assert_eq!(pipeline.sample(&turned).expect("images"), images);
    let other = SampleOptions { classes: vec![1, 1, 2], ..all };
    let other = pipeline.sample(&other).expect("images");
    let is_same = |i: usize| other.index_axis(ndarray::Axis(0), i) == images.index_axis(ndarray::Axis(0), i);
    assert_eq!([0, 1, 2].map(is_same), [false, true, true], "an image depends on its own class");
}

#[test]
fn images_of_other_classes_or_of_none_are_refused() {
    let refused = |data: &Dataset| check_fit(&config(0.1), data).expect_err("refused").to_string();
    let unlabelled =
        Dataset::from_array("grey", ndarray::Array4::zeros((3, 8, 8, 1)).view()).expect("images");
    let message = refused(&unlabelled);
    assert!(
        message.contains("3 classes, the first of them dark") && message.contains("without labels"),
        "{message}"
    );
    let labels = Labels::new(vec![0, 1, 0], ["a", "b"].map(str::to_owned).to_vec()).expect("labels");
    let message = refused(&unlabelled.with_labels(labels).expect("as many"));
    assert!(message.contains("got 2 classes, the first of them a"), "{message}");
    assert!(check_fit(&config(0.1), &images()).is_ok());
    let garments = data::load(None, None).expect("the embedded images").train;
    let config = Preset::Fashion.config().for_classes(garments.class_names(), 0.1);
    assert_eq!((config.unet.num_class_embeds, &*config.unet.class_name(9)), (Some(11), "Ankle boot"));
    assert!(check_fit(&config, &garments).is_ok());
}
