//! Pictures edited with every pipeline of `tests/golden2/pipelines` (or of the folder that
//! `PERFORMER_DDPM_GOLDEN2` names): each kind of scheduler, of prediction, of variance and of limit.

use ndarray::{Array2, Array4, Axis, s};
use performer_ddpm::equations::Timestep;
use performer_ddpm::kernels::Isa;
use performer_ddpm::rng::{Stream, fill_normal, rng};
use performer_ddpm::sample::edit::Resampling;
use performer_ddpm::sample::{Compute, Editor};
use performer_ddpm::{Pipeline, SampleOptions};
use std::path::{Path, PathBuf};

fn folders() -> Vec<PathBuf> {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden2");
    let root = std::env::var_os("PERFORMER_DDPM_GOLDEN2").map_or_else(own, PathBuf::from).join("pipelines");
    let entries = std::fs::read_dir(&root).unwrap_or_else(|e| panic!("{}: {e}", root.display()));
    let folders: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    folders.into_iter().filter(|path| path.join("model_index.json").is_file()).collect()
}

/// Every edit of a picture by a folder's own scheduler, as one array. `threads` and `batch` must not matter.
fn edits(folder: &Path, threads: usize, batch: usize) -> Array4<f32> {
    let compute = Compute::Engine { threads: Some(threads), kernels: Isa::detect().into() };
    let mut pipeline = Pipeline::load_with(folder, &compute).unwrap_or_else(|e| panic!("{e}"));
    let [h, w, c] = pipeline.image();
    let mut image = ndarray::Array3::<f32>::zeros((h, w, c));
    fill_normal(&mut rng(7, Stream::Check, 0, 0), image.as_slice_mut().expect("an image"));
    image.mapv_inplace(|x| (0.5 * x).clamp(-1.0, 1.0));
    let paint = Array2::from_shape_fn((h, w), |(y, x)| y >= h / 2 && x >= 1);
    let timesteps = pipeline.diffusion().schedule.steps();
    let options = SampleOptions { count: 3, batch, steps: Some(6), ..pipeline.options() };
    // The leading timesteps of a schedule with zero terminal SNR leave T out.
    let middle = Timestep::new(timesteps / 2).expect("a timestep");

    let mut editor: Editor<f32> = pipeline.edit(&options).expect("an editor");
    let unchanged = editor.vary(image.view(), 0).expect("copies");
    assert!(unchanged.outer_iter().all(|copy| copy == image));
    let varied = editor.vary(image.view(), middle.get()).expect("variations");
    let up = editor.encode(image.view().insert_axis(Axis(0)), middle).expect("its x_t");
    let painted =
        editor.inpaint(image.view(), paint.view(), Resampling { jump: 2, times: 2 }).expect("paintings");
    for painting in painted.outer_iter() {
        for ((y, x), painted) in paint.indexed_iter() {
            let same = painting.slice(s![y, x, ..]) == image.slice(s![y, x, ..]);
            assert!(same || *painted, "{}: {y} {x}", folder.display());
        }
    }
    ndarray::concatenate![Axis(0), varied, up, painted]
}

#[test]
fn every_scheduler_edits_and_threads_change_no_bit() {
    let folders = folders();
    assert!(!folders.is_empty());
    for folder in folders {
        let images = edits(&folder, 1, 64);
        assert!(images.iter().all(|x| x.is_finite()), "{}", folder.display());
        assert!(images.index_axis(Axis(0), 0) != images.index_axis(Axis(0), 1), "{}", folder.display());
        assert_eq!(images, edits(&folder, 3, 2), "{}", folder.display());
    }
}
