//! The table of trained parameters: one flat vector, one entry per tensor, diffusers' names.

/// A tensor's role, which fixes its layout inside and in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// A convolution's weight: inside \[k, k, c_in, c_out\] (HWIO), in files \[c_out, c_in, k, k\] (OIHW).
    Conv {
        /// Kernel height and width.
        kernel: usize,
        /// Input channels.
        c_in: usize,
        /// Output channels.
        c_out: usize,
    },
    /// A linear layer's weight: inside \[c_in, c_out\], in files \[c_out, c_in\].
    Linear {
        /// Input features.
        c_in: usize,
        /// Output features.
        c_out: usize,
    },
    /// A vector for each class: \[rows, dim\].
    Embedding {
        /// Classes.
        rows: usize,
        /// Length of a vector.
        dim: usize,
    },
    /// A bias: \[len\].
    Bias {
        /// Length.
        len: usize,
    },
    /// A normalisation's scale: \[len\].
    Scale {
        /// Length.
        len: usize,
    },
}

impl ParamKind {
    /// Number of elements.
    pub fn len(self) -> usize {
        match self {
            ParamKind::Conv { kernel, c_in, c_out } => kernel * kernel * c_in * c_out,
            ParamKind::Linear { c_in, c_out } => c_in * c_out,
            ParamKind::Embedding { rows, dim } => rows * dim,
            ParamKind::Bias { len } | ParamKind::Scale { len } => len,
        }
    }

    /// Whether it has no elements.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The shape in files (diffusers', PyTorch's).
    pub fn file_shape(self) -> Vec<usize> {
        match self {
            ParamKind::Conv { kernel, c_in, c_out } => vec![c_out, c_in, kernel, kernel],
            ParamKind::Linear { c_in, c_out } => vec![c_out, c_in],
            ParamKind::Embedding { rows, dim } => vec![rows, dim],
            ParamKind::Bias { len } | ParamKind::Scale { len } => vec![len],
        }
    }

    /// Position in the file's layout of the element that is at `inside` in the engine's.
    fn file_index(self, inside: usize) -> usize {
        match self {
            ParamKind::Conv { kernel, c_in, c_out } => {
                let (rest, o) = (inside / c_out, inside % c_out);
                let (tap, i) = (rest / c_in, rest % c_in);
                (o * c_in + i) * kernel * kernel + tap
            }
            ParamKind::Linear { c_in, c_out } => inside % c_out * c_in + inside / c_out,
            ParamKind::Embedding { .. } | ParamKind::Bias { .. } | ParamKind::Scale { .. } => inside,
        }
    }

    /// The engine's layout from the file's.
    pub fn from_file_layout<T: Copy>(self, file: &[T]) -> Vec<T> {
        (0..self.len()).map(|i| file[self.file_index(i)]).collect()
    }

    /// The file's layout from the engine's.
    pub fn to_file_layout<T: Copy>(self, inside: &[T]) -> Vec<T> {
        let mut file = inside[..self.len()].to_vec();
        for (i, x) in inside.iter().enumerate().take(self.len()) {
            file[self.file_index(i)] = *x;
        }
        file
    }
}

/// A parameter's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(pub(crate) usize);

/// One tensor of the flat parameter vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// diffusers' name, such as `down_blocks.0.resnets.1.conv1.weight`.
    pub name: String,
    /// Role and sizes.
    pub kind: ParamKind,
    /// First element in the flat vector.
    pub offset: usize,
    /// Whether Ho et al. start it at (nearly) zero: the last convolution of each residual block, the
    /// attention's output projection and the network's last convolution.
    pub starts_at_zero: bool,
}

impl Param {
    /// Its elements' range in the flat vector.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.kind.len()
    }

    /// Whether it is the weight of a linear layer or of a convolution between the network's first and last,
    /// and so a map from activations to activations.
    pub fn is_inner_matrix(&self) -> bool {
        let is_matrix = matches!(self.kind, ParamKind::Conv { .. } | ParamKind::Linear { .. });
        is_matrix && !self.name.starts_with("conv_in.") && !self.name.starts_with("conv_out.")
    }
}

/// Every parameter of a network, in the order of the forward pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParamTable {
    params: Vec<Param>,
    total: usize,
}

impl ParamTable {
    pub(crate) fn add(&mut self, name: String, kind: ParamKind, starts_at_zero: bool) -> ParamId {
        self.params.push(Param { name, kind, offset: self.total, starts_at_zero });
        self.total += kind.len();
        ParamId(self.params.len() - 1)
    }

    /// The parameters in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Param> {
        self.params.iter()
    }

    /// The entry for an id.
    pub fn get(&self, id: ParamId) -> &Param {
        &self.params[id.0]
    }

    /// The entry for an id that may be another table's.
    pub(crate) fn find(&self, id: ParamId) -> Option<&Param> {
        self.params.get(id.0)
    }

    /// Length of the flat vector: the number of trained numbers.
    pub fn total(&self) -> usize {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_each_others_inverse_and_put_every_element_where_it_belongs() {
        let kind = ParamKind::Conv { kernel: 3, c_in: 2, c_out: 4 };
        let file: Vec<usize> = (0..kind.len()).collect();
        let inside = kind.from_file_layout(&file);
        for (o, i, y, x) in [(0, 0, 0, 0), (3, 1, 2, 0), (1, 0, 1, 2)] {
            assert_eq!(inside[((y * 3 + x) * 2 + i) * 4 + o], ((o * 2 + i) * 3 + y) * 3 + x);
        }
        assert_eq!(kind.to_file_layout(&inside), file);
        let linear = ParamKind::Linear { c_in: 2, c_out: 3 };
        assert_eq!(linear.from_file_layout(&[0, 1, 2, 3, 4, 5]), [0, 2, 4, 1, 3, 5]);
        assert_eq!(linear.to_file_layout(&[0, 2, 4, 1, 3, 5]), [0, 1, 2, 3, 4, 5]);
    }
}
