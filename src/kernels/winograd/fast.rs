//! The fast passes: transforms and matrix products over blocks that stay in a core's second-level cache.
//!
//! Each of the 36 points has its own matrices. In the forward pass, for one point: \[tiles, c_in\], the
//! transformed inputs, times \[c_in, c_out\], the transformed kernel, is \[tiles, c_out\], from which the
//! outputs are transformed back. The tiles of all samples follow each other as the rows of these matrices.
//! Both passes work through them in blocks: up to [`ROWS`] tiles, up to [`DEPTH`] input channels and up to
//! [`WIDTH`] output channels.
//!
//! The kernel is transformed anew for every block of tiles, unless it is a single block of channels. The
//! transformed kernel is four times as large as the kernel, and reading it from main memory takes longer than
//! computing it.
//!
//! No sum depends on the number of threads. In the forward pass its order depends on the layer's sizes alone,
//! and in the weight's gradient on these and on the number of samples.

use super::transforms::{Grid, Input, Kernel3, Kernel3Gradient, Output, OutputGradient, Transform};
use super::{Convolution, ConvolutionGradient, Winograd};
use crate::kernel::Context;
use crate::simd::dispatch;
use crate::{Isa, Product, Team};
use std::ops::Range;

/// The points of both directions, and so the number of matrix products.
const POINTS: usize = 36;
/// Input channels of a block: a whole number of vectors.
const DEPTH: usize = 64;
/// Output channels of a block: a whole number of vectors.
const WIDTH: usize = 32;
/// The most tiles of a block.
const ROWS: usize = 64;
/// The most tasks that a layer is cut into for a thread team.
const TASKS: usize = 8;
/// Parts into which a block of tiles is cut for a team, where the layer has only one block of output
/// channels.
const PARTS: usize = 4;
/// Rows of the matrices are padded to a multiple of this, the elements of the longest vector and of a cache
/// line.
const LINE: usize = 16;
/// How many input channels ahead the kernel's taps are prefetched. A layer reads its weight once, from main
/// memory, in pieces of two or three cache lines.
const AHEAD: usize = 8;

/// The workspace of a block of the transformed kernel, or of its gradient: for each point \[DEPTH, WIDTH\].
const KERNEL_LEN: usize = POINTS * (DEPTH * WIDTH + LINE);
/// The workspace of a task of the forward pass: a block of the transformed kernel, and for each point the
/// partial sums \[ROWS, WIDTH\].
const SLOT_LEN: usize = KERNEL_LEN + POINTS * (ROWS * WIDTH + LINE);

/// The distance from one point's matrix to the next, for matrices of that many elements. It is no power of
/// two: otherwise the elements of all points would fall into the same set of the cache.
fn spaced(elements: usize) -> usize {
    elements.saturating_add(LINE)
}

/// Elements of all points' matrices of `rows` rows and all `channels`, stored in blocks of up to `block`
/// channels.
fn blocks_len(rows: usize, channels: usize, block: usize) -> usize {
    let (whole, rest) = (channels / block, channels % block);
    let last = if rest > 0 { spaced(rows * rest.next_multiple_of(LINE)) } else { 0 };
    whole.saturating_mul(spaced(rows * block)).saturating_add(last).saturating_mul(POINTS)
}

/// Elements of workspace for both passes. Where a `usize` cannot hold their number it is the largest one,
/// which [`Winograd::new`] refuses.
pub(super) fn work_len(layer: &Winograd) -> usize {
    let forward = |c_in: usize| {
        let inputs = blocks_len(ROWS / PARTS, c_in, DEPTH).saturating_mul(PARTS);
        inputs.saturating_add(TASKS * SLOT_LEN)
    };
    let gradient = blocks_len(ROWS, layer.c_in, DEPTH)
        .saturating_add(blocks_len(ROWS, layer.c_out, WIDTH))
        .saturating_add(TASKS * KERNEL_LEN);
    // The gradient in the input is a forward pass with the channels swapped.
    forward(layer.c_in).max(forward(layer.c_out)).max(gradient).saturating_add(LINE)
}

/// A pointer that the tasks of a team share; each task touches elements of its own.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: the tasks of a team read what none of them writes, and write to disjoint channels or disjoint
// tiles.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// To elements that are only read.
    fn reading(slice: &[f32]) -> Shared {
        Shared(slice.as_ptr().cast_mut())
    }

    fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

/// The part of the workspace that begins on a cache line.
fn aligned(work: &mut [f32]) -> &mut [f32] {
    let skip = work.as_ptr().align_offset(64).min(LINE);
    &mut work[skip..]
}

/// Neighbouring channels, or neighbouring rows of the matrices.
#[derive(Clone, Copy)]
struct Span {
    first: usize,
    len: usize,
}

impl Span {
    /// Block `index` of `total` elements cut into blocks of `size`; the last one may be shorter.
    fn block(total: usize, size: usize, index: usize) -> Span {
        let first = index * size;
        Span { first, len: size.min(total - first) }
    }

    /// The length padded to whole vectors: a row of the matrices that hold these channels.
    fn padded(self) -> usize {
        self.len.next_multiple_of(LINE)
    }
}

/// Where the tiles of a layer are.
#[derive(Clone, Copy)]
struct Tiles {
    h: usize,
    w: usize,
    down: usize,
    across: usize,
}

impl Tiles {
    fn of(layer: &Winograd) -> Tiles {
        let (down, across) = layer.tiles();
        Tiles { h: layer.h, w: layer.w, down, across }
    }

    /// The tiles of all samples in blocks of nearly equal size.
    fn blocks(self, samples: usize) -> impl Iterator<Item = Span> {
        let total = samples * self.down * self.across;
        let size = total.div_ceil(total.div_ceil(ROWS).max(1)).max(1);
        (0..total.div_ceil(size)).map(move |index| Span::block(total, size, index))
    }

    /// The `size` x `size` pixels that belong to tile r, in images at `base`. Its first pixel lies `border`
    /// pixels above and left of the tile's first output.
    #[inline(always)]
    fn grid(self, base: *mut f32, channels: usize, r: usize, (size, border): (usize, usize)) -> Grid {
        let (sample, tile) = (r / (self.down * self.across), r % (self.down * self.across));
        let (top, left) = (4 * (tile / self.across), 4 * (tile % self.across));
        let origin = ((sample * self.h + top) * self.w + left) * channels;
        let range = |first: usize, all: usize| (border.saturating_sub(first), size.min(all + border - first));
        Grid {
            origin: base.wrapping_add(origin).wrapping_sub(border * (self.w + 1) * channels),
            row: self.w * channels,
            col: channels,
            rows: range(top, self.h),
            cols: range(left, self.w),
        }
    }
}

/// One row of every point's matrix; the matrices are `distance` elements apart.
#[inline(always)]
fn points(origin: *mut f32, distance: usize) -> Grid {
    Grid { origin, row: 6 * distance, col: distance, rows: (0, 6), cols: (0, 6) }
}

/// The nine taps of a \[3, 3, c_in, c_out\] weight at a pair of channels.
#[inline(always)]
fn taps(layer: &Winograd, weight: Shared, c: usize, o: usize) -> Grid {
    let size = layer.c_in * layer.c_out;
    let origin = weight.at(c * layer.c_out + o);
    Grid { origin, row: 3 * size, col: size, rows: (0, 3), cols: (0, 3) }
}

/// Images \[n, h, w, channels\] whose tiles are read.
#[derive(Clone, Copy)]
struct Images {
    isa: Isa,
    tiles: Tiles,
    pixels: Shared,
    channels: usize,
}

impl Images {
    /// Transforms inputs: for each point, the `part` of the rows of \[rows.len, channels padded\] at `to`.
    ///
    /// # Safety
    /// The images have these tiles and channels, and `to` has these rows for every point, of which nobody
    /// else reads or writes `part`.
    unsafe fn inputs(self, rows: Span, channels: Span, part: Range<usize>, to: *mut f32) {
        let row = channels.padded();
        let place = |i: usize| {
            let i = part.start + i;
            let to = points(to.wrapping_add(i * row), spaced(rows.len * row));
            (self.tiles.grid(self.pixels.at(channels.first), self.channels, rows.first + i, (6, 1)), to)
        };
        // SAFETY: the grids hold pixels of the images only; the rest is the caller's promise.
        unsafe { dispatch(self.isa, Transform::new(Input, part.len(), channels.len, place)) }
    }

    /// Transforms gradients of outputs: for each point, \[rows.len, channels padded\] at `to`.
    ///
    /// # Safety
    /// The images have these tiles and channels, and `to` has these rows for every point, which nobody else
    /// reads or writes.
    unsafe fn output_gradients(self, rows: Span, channels: Span, to: *mut f32) {
        let row = channels.padded();
        let place = |i: usize| {
            let to = points(to.wrapping_add(i * row), spaced(rows.len * row));
            (self.tiles.grid(self.pixels.at(channels.first), self.channels, rows.first + i, (4, 0)), to)
        };
        // SAFETY: the grids hold pixels of the images only; the rest is the caller's promise.
        unsafe { dispatch(self.isa, Transform::new(OutputGradient, rows.len, channels.len, place)) }
    }
}

/// The forward pass, whose operands were checked.
#[derive(Clone, Copy)]
struct Forward<'a> {
    isa: Isa,
    layer: &'a Winograd,
    tiles: Tiles,
    x: Images,
    weight: Shared,
    bias: Option<Shared>,
    y: Shared,
    accumulate: bool,
}

pub(super) fn forward(Context { isa, team }: Context, operands: Convolution<f32>) {
    let Convolution { layer, x, weight, bias, y, accumulate, work } = operands;
    let Winograd { c_in, c_out, .. } = *layer;
    let (samples, tiles) = (x.len() / layer.input_len(), Tiles::of(layer));
    let pass = Forward {
        isa,
        layer,
        tiles,
        x: Images { isa, tiles, pixels: Shared::reading(x), channels: c_in },
        weight: Shared::reading(weight),
        bias: bias.map(Shared::reading),
        y: Shared(y.as_mut_ptr()),
        accumulate,
    };
    let work = aligned(work);
    for rows in tiles.blocks(samples) {
        if !team.is_solo() && c_out <= WIDTH {
            // There is only one block of output channels, so the team shares out the tiles.
            let size = rows.len.div_ceil(PARTS);
            let each = blocks_len(size, c_in, DEPTH) + SLOT_LEN;
            let end = each * rows.len.div_ceil(size);
            team.each(&mut work[..end], each, |i, work| {
                let Span { first, len } = Span::block(rows.len, size, i);
                pass.block(Team::Solo, Span { first: rows.first + first, len }, work, false);
            });
        } else {
            pass.block(team, rows, work, rows.first > 0);
        }
    }
}

impl Forward<'_> {
    /// The outputs of a block of tiles. `has_kernel` says that the workspace still has the transformed kernel
    /// from the last call, if that kernel is a single block.
    fn block(self, team: Team, rows: Span, work: &mut [f32], has_kernel: bool) {
        let Winograd { c_in, c_out, .. } = *self.layer;
        let widths = c_out.div_ceil(WIDTH);
        let tasks = if team.is_solo() { 1 } else { TASKS.min(widths) };
        let (slots, inputs) = work.split_at_mut(tasks * SLOT_LEN);
        let inputs = &mut inputs[..blocks_len(rows.len, c_in, DEPTH)];
        self.inputs(team, rows, inputs);
        let has_kernel = has_kernel && c_in <= DEPTH && c_out <= WIDTH;
        team.each(slots, SLOT_LEN, |task, slot| {
            let (kernel, sums) = slot.split_at_mut(KERNEL_LEN);
            for j in (task..widths).step_by(tasks) {
                let o = Span::block(c_out, WIDTH, j);
                for (k, input) in inputs.chunks(POINTS * spaced(rows.len * DEPTH)).enumerate() {
                    let c = Span::block(c_in, DEPTH, k);
                    if !has_kernel {
                        self.kernel(c, o, kernel);
                    }
                    let shape = Product {
                        outer: POINTS,
                        a_outer: spaced(rows.len * c.padded()),
                        b_outer: spaced(DEPTH * WIDTH),
                        c_outer: spaced(rows.len * WIDTH),
                        a_row: c.padded(),
                        b_k: WIDTH,
                        c_row: WIDTH,
                        accumulate: k > 0,
                        ..Product::dense(rows.len, o.len, c.len)
                    };
                    shape.multiply(self.isa, input, kernel, sums);
                }
                self.outputs(rows, o, sums);
            }
        });
    }

    /// The transformed inputs in blocks of DEPTH channels: for each point \[rows.len, channels padded\].
    fn inputs(self, team: Team, rows: Span, inputs: &mut [f32]) {
        let c_in = self.layer.c_in;
        assert!(inputs.len() >= blocks_len(rows.len, c_in, DEPTH));
        let blocks = c_in.div_ceil(DEPTH);
        let parts = if team.is_solo() { 1 } else { TASKS.div_ceil(blocks).min(rows.len) };
        let to = Shared(inputs.as_mut_ptr());
        team.run(blocks * parts, |task| {
            let (k, part) = (task / parts, task % parts);
            let part = part * rows.len / parts..(part + 1) * rows.len / parts;
            let to = to.at(k * POINTS * spaced(rows.len * DEPTH));
            // SAFETY: the images are x, whose length was checked; block k of `inputs` has `rows` for every
            // point, and no other task has this part of them.
            unsafe { self.x.inputs(rows, Span::block(c_in, DEPTH, k), part, to) }
        });
    }

    /// Transforms a block of the kernel: for each point \[DEPTH, WIDTH\].
    fn kernel(self, c: Span, o: Span, kernel: &mut [f32]) {
        assert!(kernel.len() >= KERNEL_LEN);
        let to = kernel.as_mut_ptr();
        let place = |i: usize| {
            let to = to.wrapping_add(i * WIDTH);
            (taps(self.layer, self.weight, c.first + i, o.first), points(to, spaced(DEPTH * WIDTH)))
        };
        // SAFETY: the weight was checked to have 3 x 3 x c_in x c_out elements, and `kernel` has DEPTH rows
        // of WIDTH for every point.
        unsafe { dispatch(self.isa, Transform::new(Kernel3, c.len, o.len, place).prefetching(AHEAD)) }
    }

    /// Transforms the sums of a block, for each point \[rows.len, WIDTH\], into outputs.
    fn outputs(self, rows: Span, o: Span, sums: &mut [f32]) {
        let from = sums.as_mut_ptr();
        assert!(sums.len() >= POINTS * spaced(rows.len * WIDTH));
        let place = |i: usize| {
            let from = points(from.wrapping_add(i * WIDTH), spaced(rows.len * WIDTH));
            (from, self.tiles.grid(self.y.at(o.first), self.layer.c_out, rows.first + i, (4, 0)))
        };
        let mut transform = Transform::new(Output, rows.len, o.len, place);
        if let Some(bias) = self.bias {
            transform = transform.with_bias(bias.at(o.first));
        }
        if self.accumulate {
            transform = transform.adding();
        }
        // SAFETY: y, whose length was checked, has every pixel that the grids hold, and this task alone
        // writes these tiles' channels; `sums` has `rows` of WIDTH for every point.
        unsafe { dispatch(self.isa, transform) }
    }
}

/// The weight's gradient, whose operands were checked.
#[derive(Clone, Copy)]
struct Gradient<'a> {
    isa: Isa,
    team: Team<'a>,
    layer: &'a Winograd,
    x: Images,
    d_y: Images,
    d_weight: Shared,
}

pub(super) fn weight_gradient(Context { isa, team }: Context, operands: ConvolutionGradient<f32>) {
    let ConvolutionGradient { layer, x, d_y, d_weight, work } = operands;
    let Winograd { c_in, c_out, .. } = *layer;
    let (samples, tiles) = (x.len() / layer.input_len(), Tiles::of(layer));
    let total = samples * tiles.down * tiles.across;
    let pass = Gradient {
        isa,
        team,
        layer,
        x: Images { isa, tiles, pixels: Shared::reading(x), channels: c_in },
        d_y: Images { isa, tiles, pixels: Shared::reading(d_y), channels: c_out },
        d_weight: Shared(d_weight.as_mut_ptr()),
    };
    let blocks = c_in.div_ceil(DEPTH) * c_out.div_ceil(WIDTH);
    let tasks = if team.is_solo() { 1 } else { TASKS.min(blocks) };
    let (slots, rest) = aligned(work).split_at_mut(tasks * KERNEL_LEN);
    for rows in tiles.blocks(samples) {
        let (inputs, outputs) = rest.split_at_mut(blocks_len(rows.len, c_in, DEPTH));
        let outputs = &mut outputs[..blocks_len(rows.len, c_out, WIDTH)];
        pass.transform(rows, inputs, outputs);
        // With a single block of channels, the sums over all tiles stay in the workspace until the last block
        // of tiles. Otherwise every block of tiles adds its sums to d_weight.
        let is_last = rows.first + rows.len == total;
        let (accumulate, finish) = if blocks == 1 { (rows.first > 0, is_last) } else { (false, true) };
        team.each(slots, KERNEL_LEN, |task, sums| {
            for part in (task..blocks).step_by(tasks) {
                pass.sum(rows.len, part, (inputs, outputs), sums, accumulate);
                if finish {
                    pass.add_to_weight(part, sums);
                }
            }
        });
    }
}

impl Gradient<'_> {
    /// The input and output channels of block `part`.
    fn channels(self, part: usize) -> (Span, Span) {
        let Winograd { c_in, c_out, .. } = *self.layer;
        let widths = c_out.div_ceil(WIDTH);
        (Span::block(c_in, DEPTH, part / widths), Span::block(c_out, WIDTH, part % widths))
    }

    /// The transformed inputs and gradients of outputs of a block of tiles, in blocks of channels: for each
    /// point \[rows.len, channels padded\].
    fn transform(self, rows: Span, inputs: &mut [f32], outputs: &mut [f32]) {
        self.team.each(inputs, POINTS * spaced(rows.len * DEPTH), |k, to| {
            let channels = Span::block(self.layer.c_in, DEPTH, k);
            assert!(to.len() >= POINTS * spaced(rows.len * channels.padded()));
            // SAFETY: the images are x, whose length was checked; `to` is this task's, and has `rows` for
            // every point.
            unsafe { self.x.inputs(rows, channels, 0..rows.len, to.as_mut_ptr()) }
        });
        self.team.each(outputs, POINTS * spaced(rows.len * WIDTH), |j, to| {
            let channels = Span::block(self.layer.c_out, WIDTH, j);
            assert!(to.len() >= POINTS * spaced(rows.len * channels.padded()));
            // SAFETY: as above, of d_y.
            unsafe { self.d_y.output_gradients(rows, channels, to.as_mut_ptr()) }
        });
    }

    /// The products of block `part`, summed over n tiles: for each point \[DEPTH, WIDTH\].
    fn sum(
        self,
        n: usize,
        part: usize,
        (inputs, outputs): (&[f32], &[f32]),
        sums: &mut [f32],
        accumulate: bool,
    ) {
        let (c, o) = self.channels(part);
        let shape = Product {
            outer: POINTS,
            a_outer: spaced(n * c.padded()),
            b_outer: spaced(n * o.padded()),
            c_outer: spaced(DEPTH * WIDTH),
            a_k: c.padded(),
            b_k: o.padded(),
            c_row: WIDTH,
            accumulate,
            ..Product::transposed_a(c.len, o.len, n)
        };
        let inputs = &inputs[c.first / DEPTH * POINTS * spaced(n * DEPTH)..];
        let outputs = &outputs[o.first / WIDTH * POINTS * spaced(n * WIDTH)..];
        shape.multiply(self.isa, inputs, outputs, sums);
    }

    /// Transforms the sums of block `part` and adds them to the taps of its channels.
    fn add_to_weight(self, part: usize, sums: &mut [f32]) {
        let (c, o) = self.channels(part);
        assert!(sums.len() >= KERNEL_LEN);
        let from = sums.as_mut_ptr();
        let place = |i: usize| {
            let from = points(from.wrapping_add(i * WIDTH), spaced(DEPTH * WIDTH));
            (from, taps(self.layer, self.d_weight, c.first + i, o.first))
        };
        let transform = Transform::new(Kernel3Gradient, c.len, o.len, place).adding();
        // SAFETY: d_weight was checked to have 3 x 3 x c_in x c_out elements, and this task alone writes
        // those of these channels; `sums` has DEPTH rows of WIDTH for every point.
        unsafe { dispatch(self.isa, transform) }
    }
}
