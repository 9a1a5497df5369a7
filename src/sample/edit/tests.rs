use super::*;
use crate::config::DiffusionConfig;
use crate::equations::solver::{
    DdimChoice, DpmSolver, Limit, Method, Outputs, Scheduler, StepForm, UniPc, Variance,
};
use crate::sample::native::denoise_by_network;
use crate::sample::{ClipX0, Conditions, DrawNoise, Watch, sample_with};
use ndarray::{Array2, Axis, array};

/// A network that is right about images of two pixels from N(mean, covariance): E[eps | x_t], or E of another
/// prediction.
#[derive(Clone)]
struct Exact {
    schedule: Schedule,
    mean: [f64; 2],
    variance: [f64; 2],
    covariance: f64,
    prediction: Prediction,
}

impl Exact {
    fn new() -> Self {
        let schedule = Schedule::from_config(&DiffusionConfig::default()).unwrap();
        let (mean, variance, correlation) = ([0.3, -0.2], [0.5f64, 0.8], 0.9);
        let covariance = correlation * (variance[0] * variance[1]).sqrt();
        Exact { schedule, mean, variance, covariance, prediction: Prediction::Epsilon }
    }

    /// Two pixels that have nothing to do with each other.
    fn independent() -> Self {
        Exact { covariance: 0.0, ..Self::new() }
    }

    /// E[eps | x_t] = sigma P^-1 (x_t - alpha mean) with P = alpha^2 C + sigma^2 I.
    fn eps(&self, x: &[f64], t: Timestep) -> [f64; 2] {
        let alpha_bar = self.schedule.levels()[t.index()].alpha_bar;
        let (alpha, noise) = (alpha_bar.sqrt(), 1.0 - alpha_bar);
        let [p, r] = self.variance.map(|v| alpha_bar * v + noise);
        let q = alpha_bar * self.covariance;
        let [a, b] = [0, 1].map(|i| x[i] - alpha * self.mean[i]);
        let scale = noise.sqrt() / (p * r - q * q);
        [scale * (r * a - q * b), scale * (p * b - q * a)]
    }

    fn editor(&self, options: &SampleOptions) -> Editor<'_, f64> {
        Editor::new(Box::new(self.clone()), &self.schedule, options).unwrap()
    }
}

impl Denoiser<f64> for Exact {
    fn image(&self) -> [usize; 3] {
        [1, 2, 1]
    }

    fn denoise(
        &mut self,
        process: &Process,
        _: &Conditions,
        x: &mut [f64],
        z: &mut DrawNoise<f64>,
        watch: &mut Watch<f64>,
    ) -> Result<()> {
        let network = |x: &[f64], t: Timestep, outputs: Outputs<f64>| {
            let alpha_bar = self.schedule.levels()[t.index()].alpha_bar;
            let (alpha, sigma) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
            for (x, out) in x.chunks_exact(2).zip(outputs.prediction.chunks_exact_mut(2)) {
                let eps = self.eps(x, t);
                for i in 0..2 {
                    let x0 = (x[i] - sigma * eps[i]) / alpha;
                    out[i] = match self.prediction {
                        Prediction::Epsilon => eps[i],
                        Prediction::Sample => x0,
                        Prediction::VPrediction => alpha * eps[i] - sigma * x0,
                    };
                }
            }
            Ok(())
        };
        denoise_by_network(process, x, [2, 0], z, network, watch)
    }
}

fn options(count: usize, steps: usize) -> SampleOptions {
    SampleOptions { count, steps: Some(steps), clip_x0: ClipX0::Off, ..SampleOptions::default() }
}

fn scheduled(method: Method, prediction: Prediction, count: usize, steps: usize) -> SampleOptions {
    let usual = Scheduler::of(&DiffusionConfig::default());
    let scheduler = Scheduler { prediction, limit: Limit::Off, method, ..usual };
    SampleOptions { sampler: Sampler::Scheduler(scheduler), ..options(count, steps) }
}

fn methods() -> [Method; 5] {
    [
        Method::Ddim(DdimChoice { set_alpha_to_one: false, ..DdimChoice::default() }),
        Method::Ddpm { variance: Variance::FixedLarge, noise_at_last: true },
        Method::DpmSolver(DpmSolver::default()),
        Method::DpmSolver(DpmSolver { order: 3, karras: true, ..DpmSolver::default() }),
        Method::UniPc(UniPc::default()),
    ]
}

fn image() -> Array3<f64> {
    array![[[0.9], [-0.6]]]
}

fn largest(a: &Array4<f64>, b: &Array4<f64>) -> f64 {
    (a - b).iter().fold(0.0, |m: f64, d| m.max(d.abs()))
}

/// The mean of each pixel, their variances, and the covariance.
fn moments(images: &Array4<f64>) -> ([f64; 2], [f64; 2], f64) {
    let n = images.len_of(Axis(0)) as f64;
    let mean = [0, 1].map(|i| images.iter().skip(i).step_by(2).sum::<f64>() / n);
    let product = |i: usize, j: usize| {
        let pairs = images.iter().skip(i).step_by(2).zip(images.iter().skip(j).step_by(2));
        pairs.map(|(a, b)| (a - mean[i]) * (b - mean[j])).sum::<f64>() / n
    };
    (mean, [product(0, 0), product(1, 1)], product(0, 1))
}

/// Exact: the bits of all steps.
#[test]
fn denoising_x_t_from_the_top_is_sampling() {
    let exact = Exact::new();
    let samplers = methods().map(|method| scheduled(method, Prediction::Epsilon, 5, 20));
    for options in samplers.into_iter().chain([options(5, 50), options(5, 1000)]) {
        let sampled = sample_with(&mut exact.clone(), &exact.schedule, &options, None, |_| {}).unwrap();
        let mut editor = exact.editor(&options);
        let starts = editor.starts().unwrap();
        for (i, start) in starts.outer_iter().enumerate() {
            assert_eq!(start, editor.start(i));
        }
        let t = exact.schedule.last().t;
        assert_eq!(editor.denoise(starts.view(), t).unwrap(), sampled, "{options:?}");
        // In other batches, the same images.
        let mut editor = exact.editor(&SampleOptions { batch: 2, ..options.clone() });
        assert_eq!(editor.denoise(starts.view(), t).unwrap(), sampled, "{options:?}");
    }
}

/// Data from a normal distribution keep their place in it, in standard deviations, on the way up and down the
/// ODE, which makes the way of x_t to x_0 known: (x_0 - mean) / sd = (x_t - alpha mean) / sd_t. The
/// tolerances are the samplers' errors in steps of this length, for first and for second order, measured at
/// 0.043 and at 0.0084 at most.
#[test]
fn the_way_down_begins_at_any_timestep() {
    let exact = Exact::independent();
    for (at, steps) in [(1000, 50), (700, 50), (413, 50), (7, 50), (999, 40)] {
        let t = Timestep::new(at).unwrap();
        let alpha_bar = exact.schedule.at(t).unwrap().alpha_bar;
        let x_t = array![[[[1.1], [-0.8]]], [[[0.2], [0.3]]]];
        let want = Array4::from_shape_fn(x_t.dim(), |(n, y, i, c)| {
            let spread = (exact.variance[i] / (alpha_bar * exact.variance[i] + 1.0 - alpha_bar)).sqrt();
            exact.mean[i] + spread * (x_t[[n, y, i, c]] - alpha_bar.sqrt() * exact.mean[i])
        });
        let methods = [
            (Method::Ddim(DdimChoice::default()), 0.05),
            (Method::DpmSolver(DpmSolver { order: 1, ..DpmSolver::default() }), 0.05),
            (Method::DpmSolver(DpmSolver::default()), 0.01),
            (Method::DpmSolver(DpmSolver { karras: true, ..DpmSolver::default() }), 0.01),
            (Method::UniPc(UniPc::default()), 0.01),
        ];
        for (method, tolerance) in methods {
            for prediction in [Prediction::Epsilon, Prediction::Sample, Prediction::VPrediction] {
                let exact = Exact { prediction, ..exact.clone() };
                let options = scheduled(method, prediction, 2, steps);
                let got = exact.editor(&options).denoise(x_t.view(), t).unwrap();
                let error = largest(&got, &want);
                assert!(error < tolerance, "{method:?} {prediction:?} from {at}: {error}");
            }
        }
    }
}

/// A sampler's steps from a timestep that it visits are the last of its own; the levels of multistep solvers
/// to the rounding of abar from alpha.
#[test]
fn the_steps_from_a_visited_timestep_are_the_last_ones() {
    let schedule = Exact::new().schedule;
    let ddpm = Method::Ddpm { variance: Variance::FixedSmall, noise_at_last: true };
    let samplers = [options(1, 50), scheduled(ddpm, Prediction::VPrediction, 1, 50)];
    for options in samplers.into_iter().chain(methods().map(|m| scheduled(m, Prediction::Sample, 1, 50))) {
        let all = options.process(&schedule).unwrap();
        let from = all.alpha_bars().len() / 3;
        let t = match &all {
            Process::Text { schedule, .. } => schedule.levels()[schedule.steps() - 1 - from].t,
            Process::Plan(plan) => plan.steps()[from].t,
        };
        let rest = options.process_from(&schedule, Some(t)).unwrap();
        let (levels, want) = (rest.alpha_bars(), &all.alpha_bars()[from..]);
        // Karras' levels are no timesteps': there the way begins with the one that the network is told.
        let is_karras = format!("{options:?}").contains("karras: true");
        let near = |a: &[f64], b: &[f64]| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-14 * b)
        };
        assert!(is_karras || near(&levels, want), "{options:?}: {levels:?} {want:?}");
        let (rest, all) = (rest.table().unwrap(), all.table().unwrap());
        if StepForm::of(&all).carried().is_empty() {
            assert_eq!(rest, all[from..], "{options:?}");
        }
        assert!(levels.windows(2).all(|pair| pair[0] < pair[1]), "{levels:?}");
        assert!(near(&levels[..1], &[schedule.at(t).unwrap().alpha_bar]), "{options:?}");
        // From between two timesteps there is one step more, to the next that is visited.
        let between = Timestep::new(t.get() + 1).unwrap();
        let longer = options.process_from(&schedule, Some(between)).unwrap().alpha_bars();
        assert!(near(&longer[..1], &[schedule.at(between).unwrap().alpha_bar]), "{options:?}");
        assert!(is_karras || near(&longer[1..], want), "{options:?}: {longer:?} {want:?}");
    }
    assert!(options(1, 50).process_from(&schedule, Some(Timestep::new(1001).unwrap())).is_err());
}

/// Up and down again, the error falls as 1/K: both ways are of first order. Against the known end of the way
/// up likewise. The constant is measured, 2.5 at most.
#[test]
fn s13_up_and_down_meet_the_better_the_more_steps() {
    for prediction in [Prediction::Epsilon, Prediction::Sample, Prediction::VPrediction] {
        let exact = Exact { prediction, ..Exact::independent() };
        let t = exact.schedule.last().t;
        let images = array![[[[0.9], [-0.6]]], [[[-1.0], [0.8]]]];
        let alpha_bar = exact.schedule.last().alpha_bar;
        let x_t = Array4::from_shape_fn(images.dim(), |(n, y, i, c)| {
            let spread = ((alpha_bar * exact.variance[i] + 1.0 - alpha_bar) / exact.variance[i]).sqrt();
            alpha_bar.sqrt() * exact.mean[i] + spread * (images[[n, y, i, c]] - exact.mean[i])
        });
        let mut before = [f64::INFINITY; 2];
        for steps in [25, 50, 100, 200, 500] {
            let options = scheduled(Method::Ddim(DdimChoice::default()), prediction, 2, steps);
            let mut editor = exact.editor(&options);
            let up = editor.encode(images.view(), t).unwrap();
            let back = editor.denoise(up.view(), t).unwrap();
            let errors = [largest(&up, &x_t), largest(&back, &images)];
            for (error, before) in errors.into_iter().zip(&mut before) {
                assert!(
                    error < 2.6 / steps as f64 && error < 0.6 * *before,
                    "{prediction:?} {steps}: {errors:?}"
                );
                *before = error;
            }
        }
    }
}

#[test]
fn interpolation_begins_and_ends_with_the_ends() {
    let exact = Exact::new();
    let t = exact.schedule.last().t;
    for method in [Method::Ddim(DdimChoice::default()), Method::DpmSolver(DpmSolver::default())] {
        let options = scheduled(method, Prediction::Epsilon, 5, 20);
        let mut editor = exact.editor(&options);
        let (a, b) = (editor.start(3), editor.start(8));
        let row = editor.interpolate([a.view(), b.view()], t).unwrap();
        assert_eq!(row.len_of(Axis(0)), 5);
        let ends = ndarray::stack![Axis(0), a, b];
        let ends =
            exact.editor(&SampleOptions { count: 2, ..options.clone() }).denoise(ends.view(), t).unwrap();
        assert_eq!(row.index_axis(Axis(0), 0), ends.index_axis(Axis(0), 0));
        assert_eq!(row.index_axis(Axis(0), 4), ends.index_axis(Axis(0), 1));
    }
    let noisy = SampleOptions { sampler: Sampler::Ddim { eta: 0.5 }, ..options(5, 20) };
    let mut editor = exact.editor(&noisy);
    let x = editor.start(0);
    let message = editor.interpolate([x.view(), x.view()], t).unwrap_err().to_string();
    assert!(message.contains("adds no noise"), "{message}");
    assert!(exact.editor(&options(1, 20)).interpolate([x.view(), x.view()], t).is_err());
}

/// With data from a normal distribution and a way down that is nearly the ODE's, variations are normal with
/// mean m + s alpha (x_0 - m) and variance s^2 sigma^2, s = sd/sd_t. Three standard errors of 20,000 draws
/// are at most 0.019 for the mean and 0.024 for the variance; the solver's error in 50 steps adds 0.004.
#[test]
fn variations_have_the_moments_of_their_timestep() {
    let exact = Exact::independent();
    let image = image();
    let solver = Method::DpmSolver(DpmSolver::default());
    let options = scheduled(solver, Prediction::Epsilon, 20_000, 50);
    for at in [0, 1, 300, 1000] {
        let images = exact.editor(&options).vary(image.view(), at).unwrap();
        if at == 0 {
            assert!(images.outer_iter().all(|varied| varied == image));
            continue;
        }
        let alpha_bar = exact.schedule.at(Timestep::new(at).unwrap()).unwrap().alpha_bar;
        let (mean, variance, covariance) = moments(&images);
        for i in 0..2 {
            let (m, v) = (exact.mean[i], exact.variance[i]);
            let spread = (v / (alpha_bar * v + 1.0 - alpha_bar)).sqrt();
            let want = m + spread * alpha_bar.sqrt() * (image[[0, i, 0]] - m);
            assert!((mean[i] - want).abs() < 0.023, "t = {at}: {} for {want}", mean[i]);
            let want = spread * spread * (1.0 - alpha_bar);
            assert!((variance[i] - want).abs() < 0.028, "t = {at}: {} for {want}", variance[i]);
        }
        assert!(covariance.abs() < 0.023, "{covariance}");
    }
}

fn paint_the_second() -> Array2<bool> {
    array![[false, true]]
}

/// What RePaint's steps make of a normal distribution is normal, and its moments follow by algebra: x_t of
/// both pixels has mean m and covariance v, a step of DDIM is linear, a known pixel has the moments of (3), a
/// jump adds its variance.
fn repainted(exact: &Exact, x0: f64, process: &Process, resampling: Resampling) -> (f64, f64) {
    use crate::equations::edit::{Move, u04_repaint};
    let (levels, steps) = (process.alpha_bars(), process.steps());
    let table = process.table().unwrap();
    let (mut mean, mut covariance) = ([0.0; 2], [[1.0, 0.0], [0.0, 1.0]]);
    let mut left = steps;
    for step in u04_repaint(steps, resampling) {
        let k = steps - left;
        match step {
            Move::Up(jump) => {
                let kept = levels[k - jump] / levels[k];
                mean = mean.map(|m| kept.sqrt() * m);
                covariance = [0, 1]
                    .map(|i| [0, 1].map(|j| kept * covariance[i][j] + if i == j { 1.0 - kept } else { 0.0 }));
                left += jump;
            }
            Move::Down => {
                let row = StepForm::default().row(&table[k]);
                let [a_x, a_m, low, high, b_x0, b_x, b_m, sigma] = row[..] else { panic!("{row:?}") };
                let next = |x: [f64; 2]| {
                    let eps = exact.eps(&x, table[k].t);
                    [0, 1].map(|i| {
                        let x0: f64 = (a_x * x[i] + a_m * eps[i]).clamp(low, high);
                        b_x0 * x0 + b_x * x[i] + b_m * eps[i]
                    })
                };
                let zero = next([0.0; 2]);
                let columns = [next([1.0, 0.0]), next([0.0, 1.0])].map(|y| [y[0] - zero[0], y[1] - zero[1]]);
                let linear = |i: usize, x: [f64; 2]| columns[0][i] * x[0] + columns[1][i] * x[1];
                mean = [0, 1].map(|i| zero[i] + linear(i, mean));
                let half = covariance.map(|row| [0, 1].map(|i| linear(i, row)));
                covariance = [0, 1].map(|i| {
                    [0, 1].map(|j| {
                        let noise = if i == j { sigma * sigma } else { 0.0 };
                        columns[0][i] * half[0][j] + columns[1][i] * half[1][j] + noise
                    })
                });
                left -= 1;
                let alpha_bar = if left == 0 { 1.0 } else { levels[k + 1] };
                mean[0] = alpha_bar.sqrt() * x0;
                covariance = [[1.0 - alpha_bar, 0.0], [0.0, covariance[1][1]]];
            }
        }
    }
    (mean[1], covariance[1][1])
}

/// The paintings of the second of two correlated pixels have the moments that RePaint's algebra gives: five
/// standard errors of 4,000 draws, sqrt(v/n) and v sqrt(2/n).
#[test]
fn inpainting_draws_what_repaint_says() {
    let exact = Exact::new();
    let (image, n) = (image(), 4000);
    let ddpm = Method::Ddpm { variance: Variance::FixedSmall, noise_at_last: true };
    let samplers = [options(n, 50), scheduled(ddpm, Prediction::Epsilon, n, 20)];
    for (options, jump, times) in [(&samplers[0], 5, 1), (&samplers[0], 5, 5), (&samplers[1], 3, 4)] {
        let resampling = Resampling { jump, times };
        let mut calls = 0;
        let mut editor = exact.editor(options).watched(|now| calls = now.done);
        let images = editor.inpaint(image.view(), paint_the_second().view(), resampling).unwrap();
        drop(editor);
        let steps = options.steps.unwrap();
        assert_eq!(calls, resampling.calls(steps) * n.div_ceil(options.batch));
        assert!(images.iter().step_by(2).all(|known| *known == image[[0, 0, 0]]), "known pixels stay");
        let process = options.process(&exact.schedule).unwrap();
        let (want_mean, want_variance) = repainted(&exact, image[[0, 0, 0]], &process, resampling);
        let (mean, variance, _) = moments(&images);
        let (spread, n) = (want_variance.sqrt(), n as f64);
        let message = format!("{resampling:?}: {mean:?} {variance:?}, for {want_mean} {want_variance}");
        assert!((mean[1] - want_mean).abs() < 5.0 * spread / n.sqrt(), "{message}");
        assert!((variance[1] - want_variance).abs() < 5.0 * want_variance * (2.0 / n).sqrt(), "{message}");
    }
}

/// With steps and resamplings that grow, the paintings' distribution comes to be the one of the second pixel
/// given the first: m_2 + c/v_1 (x_1 - m_1) and v_2 - c^2/v_1. By algebra, without draws; then with draws,
/// where the differences that are left, 0.026 and 0.005, are below the standard errors of 150 of them, 0.032
/// and 0.018, of which three are allowed.
#[test]
fn inpainting_tends_to_the_conditional_distribution() {
    let exact = Exact::new();
    let image = image();
    let gain = exact.covariance / exact.variance[0];
    let want_mean = exact.mean[1] + gain * (image[[0, 0, 0]] - exact.mean[0]);
    let want_variance = exact.variance[1] - gain * exact.covariance;
    let law = |steps: usize, jump: usize, times: usize| {
        let process = options(1, steps).process(&exact.schedule).unwrap();
        let (mean, variance) = repainted(&exact, image[[0, 0, 0]], &process, Resampling { jump, times });
        [(mean - want_mean).abs(), (variance - want_variance).abs()]
    };
    let errors = [law(100, 5, 1), law(100, 5, 4), law(500, 10, 20), law(1000, 10, 50)];
    assert!(errors.windows(2).all(|pair| pair[1][0] < 0.6 * pair[0][0]), "{errors:?}");
    assert!(errors[0][0] > 0.2 && errors[3][0] < 0.02 && errors[3][1] < 0.005, "{errors:?}");

    let (n, resampling) = (150, Resampling { jump: 10, times: 20 });
    let options = SampleOptions { batch: n, ..options(n, 500) };
    let images = exact.editor(&options).inpaint(image.view(), paint_the_second().view(), resampling).unwrap();
    let (mean, variance, _) = moments(&images);
    let message = format!("{mean:?} {variance:?}, for {want_mean} {want_variance}");
    let n = n as f64;
    assert!((mean[1] - want_mean).abs() < 3.0 * (want_variance / n).sqrt(), "{message}");
    assert!((variance[1] - want_variance).abs() < 3.0 * want_variance * (2.0 / n).sqrt(), "{message}");
}

/// Exact: what is known stays, whatever the sampler ends with; a painting is a function of its number alone.
#[test]
fn inpainting_keeps_what_is_known_with_every_sampler() {
    let exact = Exact::new();
    let image = image();
    let resampling = Resampling { jump: 3, times: 2 };
    let paint = paint_the_second();
    for method in methods() {
        let all = scheduled(method, Prediction::Epsilon, 5, 12);
        let images = exact.editor(&all).inpaint(image.view(), paint.view(), resampling).unwrap();
        assert!(images.iter().all(|x| x.is_finite()));
        assert!(images.iter().step_by(2).all(|known| *known == image[[0, 0, 0]]), "{method:?}");
        let few = SampleOptions { batch: 2, count: 3, ..all.clone() };
        let again = exact.editor(&few).inpaint(image.view(), paint.view(), resampling).unwrap();
        assert_eq!(again, images.slice(ndarray::s![..3, .., .., ..]), "{method:?}");
        let other = SampleOptions { seed: 1, ..few.clone() };
        let other = exact.editor(&other).inpaint(image.view(), paint.view(), resampling).unwrap();
        assert!(other != again, "{method:?}");
    }
}

#[test]
fn what_cannot_be_edited_is_refused() {
    let exact = Exact::new();
    let t = Timestep::new(10).unwrap();
    let refused = |outcome: Result<Array4<f64>>, words: &str| {
        let message = outcome.unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    };
    let small = Array3::<f64>::zeros((2, 2, 1));
    let broken = array![[[f64::NAN], [0.0]]];
    let mut editor = exact.editor(&options(2, 10));
    refused(editor.vary(small.view(), 10), "1x2 with 1 channel(s)");
    refused(editor.vary(broken.view(), 10), "finite");
    refused(editor.vary(image().view(), 1001), "1 to 1000");
    refused(editor.denoise(Array4::zeros((0, 1, 2, 1)).view(), t), "x_t");
    refused(editor.encode(small.view().insert_axis(Axis(0)), t), "2x2");
    let resampling = Resampling { jump: 1, times: 1 };
    refused(editor.inpaint(image().view(), array![[true]].view(), resampling), "1x1");
    refused(editor.inpaint(image().view(), array![[false, false]].view(), resampling), "to paint");
    let none = Resampling { jump: 0, times: 1 };
    refused(editor.inpaint(image().view(), paint_the_second().view(), none), "Resampling::jump");
    assert!(Editor::new(Box::new(exact.clone()), &exact.schedule, &options(0, 10)).is_err());
}
