use super::*;
use crate::config::Preset;
use crate::output::write_png;
use ndarray::Array4;
use std::fs;

/// A run's folder with so many steps of made-up metrics, and sample grids.
fn folder(name: &str, steps: u64) -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join(name);
    fs::create_dir_all(folder.join("samples")).unwrap();
    let config = Preset::Tiny.config();
    fs::write(folder.join("config.toml"), config.to_toml()).unwrap();
    let line = |step: u64| {
        let x = step as f64;
        format!(
            "{{\"step\":{step},\"loss\":{},\"gradient_norm\":{},\"lr\":0.001,\"images_per_s\":9.5,\
             \"seconds\":{x}}}\n",
            1.0 / x,
            2.0 / x
        )
    };
    fs::write(folder.join("metrics.jsonl"), (1..=steps).map(line).collect::<String>()).unwrap();
    let [h, w] = config.unet.sample_size;
    let images = Array4::from_shape_fn((64, h, w, 1), |(n, ..)| n as f32 / 32.0 - 1.0);
    for step in [10, 20] {
        write_png(&folder.join(format!("samples/step-{step:08}.png")), images.view(), None).unwrap();
    }
    (parent, folder)
}

fn report_of(folders: &[PathBuf]) -> String {
    let file = folders[0].join("page.html");
    write_report(&file, folders).unwrap();
    fs::read_to_string(file).unwrap()
}

#[test]
fn a_run_has_its_curves_samples_and_configuration() {
    let (_keep, folder) = folder("first", 25);
    history::record(&folder, 0, "3 threads, portable").unwrap();
    let page = report_of(&[folder]);
    for part in [
        "Training run first",
        "Stopped at step 25 of 40.",
        "running mean",
        "learning rate",
        "gradient's norm",
        "images per second",
        "Samples of first at step 20",
        "config.toml of first",
        "3 threads, portable",
    ] {
        assert!(page.contains(part), "{part}");
    }
    // Two rows of the strip, and the newest grid.
    assert_eq!(page.matches("<img ").count(), 3);
    assert!(!page.contains("<script"), "nothing is going on");
}

#[test]
fn several_runs_stand_side_by_side_with_what_differs() {
    let (_first, a) = folder("a", 25);
    let (_second, b) = folder("b", 40);
    let config = fs::read_to_string(b.join("config.toml")).unwrap();
    fs::write(b.join("config.toml"), config.replacen("seed = 0", "seed = 77", 1)).unwrap();
    let page = report_of(&[a.clone(), b]);
    for part in ["2 training runs: a, b", "The losses over time", "train.seed", ">77<", "config.toml of b"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(report_of(&[a.clone(), a]).contains("All configurations are the same"));
}

#[test]
fn what_is_missing_or_damaged_is_noted_and_the_rest_shown() {
    let (_keep, folder) = folder("cut", 25);
    let metrics = folder.join("metrics.jsonl");
    let mut text = fs::read(&metrics).unwrap();
    text.extend(b"{\"step\":26,\"lo\nnot \xff text\n{\"step\":27,");
    fs::write(&metrics, &text).unwrap();
    fs::write(folder.join("history.jsonl"), "{").unwrap();
    fs::write(folder.join("samples/step-00000030.png"), "no picture").unwrap();
    fs::write(folder.join("samples/other.png"), "").unwrap();
    let page = report_of(std::slice::from_ref(&folder));
    assert!(page.contains("3 line(s) of metrics.jsonl are left out"), "{page}");
    assert!(page.contains("Stopped at step 25") && page.contains("at step 20"));

    fs::write(
        &metrics,
        "{\"step\":1,\"loss\":0,\"gradient_norm\":0,\"lr\":0,\"images_per_s\":0,\"seconds\":0}",
    )
    .unwrap();
    assert!(report_of(std::slice::from_ref(&folder)).contains("Stopped at step 1"));
    for name in ["metrics.jsonl", "history.jsonl"] {
        fs::remove_file(folder.join(name)).unwrap();
    }
    fs::remove_dir_all(folder.join("samples")).unwrap();
    let page = report_of(std::slice::from_ref(&folder));
    assert!(page.contains("no step is recorded yet") && page.contains("config.toml of cut"));
    fs::remove_file(folder.join("config.toml")).unwrap();
    let error = write_report(&folder.join("page.html"), std::slice::from_ref(&folder)).unwrap_err();
    assert!(error.to_string().contains("no config.toml there"), "{error}");
}

#[test]
fn a_page_that_is_going_on_can_be_followed_or_not() {
    let (_keep, folder) = folder("live", 25);
    let file = folder.join("report.html");
    write(&file, std::slice::from_ref(&folder), true).unwrap();
    let page = fs::read_to_string(file).unwrap();
    assert!(
        page.contains("Going on: step 25 of 40.")
            && page.contains("id=\"follow\"")
            && page.contains("<script")
    );
}
