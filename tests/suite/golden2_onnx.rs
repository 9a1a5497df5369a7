//! The pipelines of `tests/golden2`, or of `PERFORMER_DDPM_GOLDEN2`, as ONNX graphs in every runtime at hand:
//! the engine's images from the same noise, with nothing but the file to say how it is sampled.

use crate::golden2_pipelines::{apply_step_arguments, folders, noise_of};
use crate::support::golden::tensors;
use crate::support::peers::in_time;
use crate::support::runtimes::{at_hand, name};
use ndarray::{Array4, Array5};
use performer_ddpm::Pipeline;
use performer_ddpm::checkpoint::model_folder::{LoadedModel, load};
use performer_ddpm::equations::Schedule;
use performer_ddpm::export::{GraphKind, GraphSpec, Metadata, Source, build};
use performer_ddpm::kernels::Isa;
use performer_ddpm::model::Engine;
use performer_ddpm::sample::{SampleOptions, sample};
use performer_ddpm_onnx::Model as OnnxModel;
use serde_json::Value;
use std::path::Path;

/// 1e-4 of the largest value: f32 rounding through the networks and up to a dozen steps, which the first x0,
/// a difference of large terms, multiplies by up to 1/sqrt(abar_T) = 157.
const BOUND: f64 = 1e-4;

/// A pipeline with its steps and noise, and the engine's images in `f64`.
struct Case {
    loaded: LoadedModel<f32>,
    steps: usize,
    noise: Array5<f32>,
    want: Array4<f64>,
}

impl Case {
    fn new(folder: &Path) -> Case {
        let mut loaded = load::<f32>(folder).expect("a model");
        let text = std::fs::read_to_string(folder.join("chain.json")).expect("a file");
        let chain: Value = serde_json::from_str(&text).expect("JSON");
        apply_step_arguments(&mut loaded, &chain["step_arguments"]);
        let steps = chain["steps"].as_u64().expect("a whole number") as usize;
        let noise = noise_of(&tensors(&folder.join("chain.safetensors")));
        let schedule = Schedule::from_config(&loaded.diffusion).expect("a schedule");
        let options = options(&noise).with_scheduler(&loaded.scheduler, &schedule, Some(steps));
        let model = loaded.model.cast::<f64>();
        let mut engine = Engine::new(&model, 1, Isa::Reference).expect("an engine");
        let want = sample(&model, &schedule, &mut engine, &options, Some(noise.view()), |_| {});
        Case { loaded, steps, noise, want: want.expect("images") }
    }

    /// The denoiser, the step, and the sampler in one run and in runs of 4 steps, as read from their files.
    fn graphs(&self) -> Vec<OnnxModel> {
        let LoadedModel { model, diffusion, scheduler, .. } = &self.loaded;
        let source = Source { scheduler: *scheduler, ..Source::new(model, diffusion) };
        let sampler =
            |per_run| GraphSpec::Sampler { scheduler: *scheduler, steps: Some(self.steps), per_run };
        [GraphSpec::Denoiser, GraphSpec::Step, sampler(None), sampler(Some(4))]
            .iter()
            .map(|spec| {
                let bytes = build(source, spec).and_then(|graph| Ok(graph.to_bytes()?)).expect("a graph");
                OnnxModel::from_bytes("exported.onnx", &bytes).expect("a model")
            })
            .collect()
    }
}

fn options(noise: &Array5<f32>) -> SampleOptions {
    let count = noise.shape()[1];
    SampleOptions { count, batch: count, ..SampleOptions::default() }
}

#[test]
fn golden2_pipelines_as_onnx_graphs() {
    for folder in folders() {
        let title = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let case = Case::new(&folder);
        let largest = case.want.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        in_time(move || {
            for graph in case.graphs() {
                let metadata = Metadata::read(&graph).expect("metadata").expect("ours");
                assert_eq!(metadata.scheduler, case.loaded.scheduler, "{title}");
                for runtime in at_hand() {
                    let who = format!("{title}, {} graph in {}", metadata.graph.name(), name(runtime));
                    let mut pipeline = Pipeline::from_onnx(&graph, runtime, 1, None)
                        .unwrap_or_else(|error| panic!("{who}: {error}"));
                    let own = pipeline.options();
                    let options = match metadata.graph {
                        GraphKind::Sampler => {
                            SampleOptions { count: case.noise.shape()[1], batch: 64, ..own }
                        }
                        GraphKind::Denoiser | GraphKind::Step | GraphKind::TrainStep => {
                            let diffusion = pipeline.diffusion();
                            let (scheduler, schedule) = (&diffusion.scheduler, &diffusion.schedule);
                            options(&case.noise).with_scheduler(scheduler, schedule, Some(case.steps))
                        }
                    };
                    let images = pipeline.sample_watched(&options, Some(case.noise.view()), |_| {});
                    let images = images.unwrap_or_else(|error| panic!("{who}: {error}"));
                    assert_eq!(images.dim(), case.want.dim(), "{who}");
                    let errors = images.iter().zip(&case.want).map(|(x, want)| (f64::from(*x) - want).abs());
                    let error =
                        errors.fold(0.0, |most: f64, e| if e.is_nan() || e > most { e } else { most });
                    println!("{who}: {:.1e} of the largest value", error / largest);
                    assert!(error <= BOUND * largest, "{who}: {:e} of the largest value", error / largest);
                }
            }
        });
    }
}
