//! After the first steps nothing more is allocated, and the memory allocated by then is what `info` predicts.

use performer_ddpm::config::{Config, LossWeight, Prediction, Preset, TimestepSampling};
use performer_ddpm::data;
use performer_ddpm::kernels::Isa;
use performer_ddpm::model::report::report;
use performer_ddpm::model::{Engine, Model};
use performer_ddpm::train::Trainer;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator with counters of calls and bytes.
struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);
static FREED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is the system allocator's, with the caller's arguments; `realloc` goes through `alloc`
// by default.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        FREED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes in use.
fn live() -> usize {
    BYTES.load(Ordering::Relaxed) - FREED.load(Ordering::Relaxed)
}

/// Calls and bytes that `f` asks for.
fn allocated(f: impl FnOnce()) -> (usize, usize) {
    let before = (CALLS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
    f();
    (CALLS.load(Ordering::Relaxed) - before.0, BYTES.load(Ordering::Relaxed) - before.1)
}

fn config(preset: Preset, batch: usize, is_plain: bool) -> Config {
    let mut config = preset.config();
    config.train.batch = batch;
    config.unet.dropout = 0.1;
    if is_plain {
        return config;
    }
    // All that an objective can be beside the plain one.
    config.diffusion.prediction = Prediction::VPrediction;
    config.diffusion.learned_range = true;
    config.train.loss_weight = LossWeight::MinSnr { gamma: 5.0 };
    config.train.timesteps = TimestepSampling::Stratified;
    config.for_images([28, 28, 1])
}

/// One test, since the counters are those of the process. The thread pool's queue allocates a block of 1.5
/// KiB for every 63 jobs submitted from outside, of which a training step has 5 and a forward pass 1: at most
/// one block in 12 of either, and nothing else. A thread that a busy machine wakes late makes its own
/// bookkeeping then, once; what a step allocates would show in each of the windows of 12 steps. The
/// prediction must be right within 3 % and half a MiB, for tables and images.
#[test]
fn steps_after_the_first_allocate_nothing() {
    const STEPS: usize = 12;
    const WINDOWS: usize = 3;
    let images = data::load(None, None).expect("the embedded images").train;
    for (preset, batch, threads, is_plain) in [
        (Preset::Tiny, 3, 1, true),
        (Preset::Tiny, 16, 2, true),
        (Preset::Tiny, 3, 5, true),
        (Preset::Tiny, 3, 2, false),
        (Preset::Fashion, 2, 1, true),
        (Preset::Fashion, 8, 2, true),
    ] {
        let config = config(preset, batch, is_plain);
        let name = format!("{preset:?}, batch {batch}, {threads} threads, plain {is_plain}");
        let within = |what: &str, work: &mut dyn FnMut(usize)| {
            let counts: Vec<_> = (0..WINDOWS).map(|_| allocated(|| work(STEPS))).collect();
            let clean = counts.iter().any(|(calls, bytes)| *calls <= 1 && *bytes <= 2 << 10);
            assert!(clean, "{name}: {STEPS} {what} took allocations and bytes {counts:?}");
        };
        let before = live();
        let mut trainer: Trainer<f32> = Trainer::new(&config, threads, Isa::detect()).expect("a trainer");
        let mut train = |steps: usize| {
            for _ in 0..steps {
                assert!(trainer.advance(&images).is_ok());
            }
        };
        train(2);
        within("training steps", &mut train);

        let mib = (live() - before) as f64 / f64::from(1 << 20);
        let predicted = report(&trainer.model().graph, batch, threads).expect("a network").training_mib;
        assert!((mib - predicted).abs() <= 0.03 * predicted + 0.5, "{name}: {mib} MiB for {predicted}");

        let model: Model<f32> = trainer.averaged_model();
        let mut engine = Engine::new(&model, threads, Isa::detect()).expect("an engine");
        let x = vec![0.5; batch * model.input_len()];
        let mut out = vec![0.0; batch * model.output_len()];
        let indices: Vec<usize> = (0..batch).collect();
        let mut forward = |passes: usize| {
            for _ in 0..passes {
                engine.forward(&model, &x, &indices, &mut out).expect("lengths that fit");
            }
        };
        forward(1);
        within("forward passes", &mut forward);
    }
}
