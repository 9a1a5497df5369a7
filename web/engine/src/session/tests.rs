use super::*;
use performer_ddpm::sample::{Choice, Family};
use performer_ddpm::{Pipeline, SampleOptions};
use serde_json::{Value, json};

/// Everything that was told, with the numbers beside it.
type Heard = Vec<(Value, Vec<f32>)>;

fn with_model() -> (Session, Heard) {
    let mut session = Session::default();
    for (path, contents) in performer_ddpm::checkpoint::shipped_files() {
        session.add_file((*path).to_owned(), contents.to_vec());
    }
    let heard = ask(&mut session, &json!({ "do": "load" }), &[]);
    (session, heard)
}

fn ask(session: &mut Session, request: &Value, numbers: &[f32]) -> Heard {
    let mut heard = Vec::new();
    let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    session.answer(request.to_string().as_bytes(), &bytes, &mut |told, numbers| {
        heard.push((serde_json::from_str(&told.json()).expect("JSON"), numbers.to_vec()));
    });
    heard
}

fn pipeline() -> Pipeline {
    Pipeline::load("fashion").expect("the model that the library carries")
}

#[test]
fn a_model_says_what_it_is() {
    let (_, heard) = with_model();
    let (told, _) = &heard[0];
    assert_eq!((heard.len(), &told["told"], &told["image"]), (1, &json!("loaded"), &json!([28, 28, 1])));
    assert_eq!((&told["attention"], &told["exchanged"]), (&json!("favor"), &json!("softmax")));
    assert_eq!((&told["sampler"], &told["steps"]), (&json!("dpm++"), &json!(15)));
}

/// The same bits as the library's, on one thread as on several.
#[test]
fn samples_are_those_of_the_command_line() {
    let (mut session, _) = with_model();
    for (request, family, steps) in [
        (json!({ "do": "sample", "count": 2, "seed": 7, "steps": 3 }), None, 3),
        (
            json!({ "do": "sample", "count": 2, "seed": 7, "steps": 4, "sampler": "ddpm" }),
            Some(Family::Ddpm),
            4,
        ),
        (
            json!({ "do": "sample", "count": 2, "seed": 7, "steps": 3, "sampler": "unipc" }),
            Some(Family::UniPc),
            3,
        ),
    ] {
        let heard = ask(&mut session, &request, &[]);
        let mut pipeline = pipeline();
        let choice = Choice { family, steps: Some(steps), ..Choice::default() };
        let chosen = choice.options(pipeline.diffusion()).expect("options");
        let options = SampleOptions { count: 2, batch: 2, seed: 7, ..chosen };
        let want = pipeline.sample(&options).expect("images");
        let (done, images) = heard.last().expect("an end");
        assert_eq!(done, &json!({ "told": "done", "count": 2 }), "{request}");
        assert_eq!(images.as_slice(), want.as_slice().expect("in order"), "{request}");
        assert_eq!(heard.len(), steps + 1);
    }
}

/// Every step is told with numbers that lead from what it is given to what the next one is given; 1e-5 of
/// rounding in f32, where the last step's x_0 is the image itself.
#[test]
fn the_numbers_of_a_step_lead_to_the_next() {
    let (mut session, _) = with_model();
    for sampler in ["ddim", "dpm++"] {
        let request =
            json!({ "do": "sample", "count": 1, "seed": 3, "steps": 5, "sampler": sampler, "eta": null });
        let heard = ask(&mut session, &request, &[]);
        let mut before: Option<Vec<f32>> = None;
        for (k, (told, numbers)) in heard[..5].iter().enumerate() {
            let (x, x0) = numbers.split_at(numbers.len() / 2);
            assert_eq!(
                (&told["step"], &told["call"], &told["calls"]),
                (&json!(k + 1), &json!(k + 1), &json!(5))
            );
            let next = &heard[k + 1].1[..x.len()];
            let number = |name: &str| told[name].as_f64().expect("a number");
            let (b_x, b_m) = (number("base"), number("output"));
            let b: Vec<f64> = serde_json::from_value(told["from_x0"].clone()).expect("three numbers");
            let a: Vec<f64> = serde_json::from_value(told["x0"].clone()).expect("two numbers");
            for i in 0..x.len() {
                let (x, x0) = (f64::from(x[i]), f64::from(x0[i]));
                // Where x_0 was clipped the network's output cannot be told from it.
                if b_m != 0.0 && x0.abs() == 1.0 {
                    continue;
                }
                let m = (x0 - a[0] * x) / a[1];
                let earlier = before.as_ref().map_or(0.0, |before| f64::from(before[i]));
                let want = b_x * x + b_m * m + b[0] * x0 + b[1] * earlier;
                assert!((want - f64::from(next[i])).abs() < 1e-4, "{sampler} step {k}: {want} {}", next[i]);
            }
            before = Some(x0.to_vec());
        }
    }
}

#[test]
fn the_other_attention_gives_other_images_of_the_same_noise() {
    let (mut session, _) = with_model();
    let mut images = |exchanged: bool| {
        let request = json!({ "do": "sample", "count": 1, "seed": 0, "steps": 4, "exchanged": exchanged });
        let heard = ask(&mut session, &request, &[]);
        (heard[0].1[..784].to_vec(), heard.last().expect("an end").1.clone())
    };
    let (own, other) = (images(false), images(true));
    assert_eq!(own.0, other.0);
    assert!(own.1 != other.1 && other.1.iter().all(|x| x.abs() <= 1.0));
}

#[test]
fn what_is_not_marked_stays_and_the_rest_is_the_editors() {
    let (mut session, _) = with_model();
    let image: Vec<f32> = (0..784).map(|i| (i % 255) as f32 / 127.5 - 1.0).collect();
    let mask: Vec<f32> = (0..784).map(|i| if i >= 392 { 1.0 } else { 0.0 }).collect();
    let request = json!({ "do": "inpaint", "count": 1, "seed": 1, "steps": 4, "sampler": "ddim", "jump": 2, "times": 2 });
    let heard = ask(&mut session, &request, &[image.clone(), mask.clone()].concat());
    let (last, painted) = heard.last().expect("an end");
    assert_eq!(last["told"], "done", "{last}");
    assert_eq!(painted[..392], image[..392]);
    assert!(painted[392..] != image[392..]);
    let (told, _) = &heard[heard.len() - 2];
    assert_eq!((&told["call"], &told["calls"]), (&json!(heard.len() - 1), &json!(heard.len() - 1)));

    let mut pipeline = pipeline();
    let choice = Choice { family: Some(Family::Ddim), steps: Some(4), ..Choice::default() };
    let chosen = choice.options(pipeline.diffusion()).expect("options");
    let options = SampleOptions { count: 1, batch: 1, seed: 1, ..chosen };
    let image = Array3::from_shape_vec((28, 28, 1), image).expect("an image");
    let paint = Array2::from_shape_fn((28, 28), |(y, _)| y >= 14);
    let mut editor = pipeline.edit(&options).expect("an editor");
    let want =
        editor.inpaint(image.view(), paint.view(), Resampling { jump: 2, times: 2 }).expect("a painting");
    assert_eq!(painted.as_slice(), want.as_slice().expect("in order"));
}

#[test]
fn what_cannot_be_done_is_told() {
    let told = |session: &mut Session, request: Value| {
        let heard = ask(session, &request, &[]);
        assert_eq!((heard.len(), &heard[0].0["told"]), (1, &json!("error")), "{request}: {heard:?}");
        heard[0].0["message"].as_str().expect("why").to_owned()
    };
    let mut empty = Session::default();
    assert!(told(&mut empty, json!({ "do": "load" })).contains("unet/config.json"));
    assert!(told(&mut empty, json!({ "do": "sample", "count": 1, "seed": 0 })).contains("load one first"));
    let (mut session, _) = with_model();
    assert!(told(&mut session, json!({ "do": "dance" })).contains("dance"));
    assert!(told(&mut session, json!({ "do": "sample", "count": 0, "seed": 0 })).contains("at least 1"));
    assert!(
        told(&mut session, json!({ "do": "sample", "count": 1, "seed": 0, "steps": 2000 })).contains("2000")
    );
    assert!(
        told(&mut session, json!({ "do": "sample", "count": 1, "seed": 0, "classes": [1] }))
            .contains("classes")
    );
    let inpaint = json!({ "do": "inpaint", "count": 1, "seed": 0, "jump": 1, "times": 1 });
    assert!(told(&mut session, inpaint).contains("1568 numbers"));
}
