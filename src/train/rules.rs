//! Which parameters are updated by which rule: Adam, or Muon for the matrices between the first convolution and
//! the last.

use super::muon::{self, Matrix, Operands, Workspace};
use super::optimizer::{Adam, Numbers, Update, update_elements};
use crate::config::TrainConfig;
use crate::kernels::{Element, Isa};
use crate::model::params::Param;

/// Consecutive parameters that are updated in one way.
#[derive(Clone, Debug, PartialEq)]
struct Piece {
    len: usize,
    /// Muon's; `None` for Adam's.
    matrix: Option<Matrix>,
}

/// How each parameter is updated: by [Muon](crate::equations::muon) or by [`Adam`].
#[derive(Debug)]
pub struct Optimizer<T> {
    pieces: Vec<Piece>,
    workspace: Workspace<T>,
}

impl<T: Element> Optimizer<T> {
    /// The configuration's, for consecutive parameters of a network.
    pub fn new<'p>(config: &TrainConfig, params: impl Iterator<Item = &'p Param>) -> Optimizer<T> {
        let mut pieces: Vec<Piece> = Vec::new();
        for param in params {
            let matrix = config.muon.and_then(|_| Matrix::of(param));
            match pieces.last_mut() {
                Some(Piece { len, matrix: None }) if matrix.is_none() => *len += param.kind.len(),
                _ => pieces.push(Piece { len: param.kind.len(), matrix }),
            }
        }
        let workspace = Workspace::new(pieces.iter().filter_map(|piece| piece.matrix));
        Optimizer { pieces, workspace }
    }

    /// Updates weights, average and moments.
    #[expect(clippy::too_many_arguments, reason = "those of `Adam::update`, and the moments")]
    pub fn update(
        &self,
        isa: Isa,
        config: &TrainConfig,
        update: Update,
        adam: &mut Adam<T>,
        gradient: &[T],
        weights: &mut [T],
        average: &mut [T],
    ) {
        let Adam { first_moment, second_moment } = adam;
        let numbers = Numbers { first_moment, second_moment, gradient, weights, average };
        let step = Settings { isa, config, update };
        self.walk(step, &self.pieces, numbers);
    }

    /// The pieces in halves, so that threads share them out.
    fn walk(&self, step: Settings, pieces: &[Piece], numbers: Numbers<T>) {
        match pieces {
            [] => {}
            [piece] => self.piece(step, piece, numbers),
            _ => {
                let (left, right) = pieces.split_at(pieces.len() / 2);
                let (numbers, others) = numbers.split_at(left.iter().map(|piece| piece.len).sum());
                rayon::join(|| self.walk(step, left, numbers), || self.walk(step, right, others));
            }
        }
    }

    fn piece(&self, Settings { isa, config, update }: Settings, piece: &Piece, numbers: Numbers<T>) {
        match (piece.matrix, config.muon) {
            (Some(matrix), Some(config)) => {
                let Numbers { first_moment: momentum, gradient, weights, average, .. } = numbers;
                let operands = Operands { momentum, gradient, weights, average };
                muon::update(isa, config, update, matrix, operands, &self.workspace);
            }
            _ => update_elements(isa, config, update, numbers),
        }
    }
}

/// What an update is made with.
#[derive(Clone, Copy)]
struct Settings<'a> {
    isa: Isa,
    config: &'a TrainConfig,
    update: Update,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{MuonConfig, Preset};
    use crate::model::Model;
    use crate::rng::{Stream, fill_normal, rng};

    /// Moments, weights and average of the tiny network after two updates with gradients of 0.01.
    fn both_rules(muon: Option<MuonConfig>, threads: usize) -> [Vec<f32>; 4] {
        let preset = Preset::Tiny.config();
        let config = TrainConfig { muon, ..preset.train };
        let model = Model::<f32>::new(&preset.unet, 0).expect("a network");
        let len = model.weights.len();
        let mut gradient = vec![0f32; len];
        fill_normal(&mut rng(5, Stream::Check, 9, 0), &mut gradient);
        let (mut w, mut average, mut adam) = (model.weights.clone(), model.weights, Adam::new(len));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let optimizer = Optimizer::new(&config, model.graph.params.iter());
        for number in 1..=2 {
            let update = Update { lr: 1e-3, number, clip: 0.01, ema_decay: 0.9 };
            pool.install(|| {
                let isa = Isa::detect();
                optimizer.update(isa, &config, update, &mut adam, &gradient, &mut w, &mut average);
            });
        }
        [adam.first_moment, adam.second_moment, w, average]
    }

    /// Muon's parameters are the inner matrices, which have no second moment then; the others have the bits
    /// of Adam alone. Nothing depends on the threads.
    #[test]
    fn muon_takes_the_inner_matrices_and_adam_the_rest() {
        let muon = Some(MuonConfig { momentum: 0.9, rate: 1.0 });
        let (alone, both) = (both_rules(None, 1), both_rules(muon, 1));
        let model = Model::<f32>::new(&Preset::Tiny.config().unet, 0).expect("a network");
        for param in model.graph.params.iter() {
            let range = param.range();
            if param.is_inner_matrix() {
                assert!(both[1][range.clone()].iter().all(|v| *v == 0.0), "{}", param.name);
                assert_ne!(alone[2][range.clone()], both[2][range], "{}", param.name);
            } else {
                for i in 0..4 {
                    assert_eq!(alone[i][range.clone()], both[i][range.clone()], "{} {i}", param.name);
                }
            }
        }
        assert!(both == both_rules(muon, 3));
    }
}
