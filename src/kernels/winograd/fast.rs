//! The fast passes: transforms and products over blocks that stay in a core's second-level cache.
//!
//! A block is some rows (tiles, of any samples), up to [`DEPTH`] channels of one side and up to [`WIDTH`] of
//! the other. The kernel's transform is made on the way, block by block: reading a transformed kernel, four
//! times the plain one, from main memory takes longer than making it. Every result's order of summation
//! depends on the layer's sizes alone in the forward pass, and on these and the number of samples in the
//! kernel's gradient.

use super::Winograd;
use super::transforms::{Grid, Input, Kernel3, Kernel3Gradient, Output, OutputGradient, Transform};
use crate::kernels::product::product_fast;
use crate::kernels::simd::dispatch;
use crate::kernels::{Isa, Product, Team};
use std::ops::Range;

/// Products: the points of both directions.
const POINTS: usize = 36;
/// Input channels of a block: a whole number of vectors.
const DEPTH: usize = 64;
/// Output channels of a block: a whole number of vectors.
const WIDTH: usize = 32;
/// Most tiles of a block.
const ROWS: usize = 64;
/// Most tasks that a layer is cut into for a team.
const TASKS: usize = 8;
/// Channels are stored in whole vectors of up to this many.
const LANES: usize = 16;

/// Elements from one point's matrix to the next: off the powers of two, whose lines would share one set of
/// the cache.
fn spaced(elements: usize) -> usize {
    elements + LANES
}

/// Elements of a point's matrices of `rows` rows over all `channels`, in blocks of up to `block` channels.
fn blocks_len(rows: usize, channels: usize, block: usize) -> usize {
    let (whole, rest) = (channels / block, channels % block);
    let last = if rest > 0 { spaced(rows * rest.next_multiple_of(LANES)) } else { 0 };
    POINTS * (whole * spaced(rows * block) + last)
}

/// Channels whose taps are asked for before their turn: a layer reads its weights once, from main memory, two
/// or three lines at a time.
const AHEAD: usize = 8;

const KERNEL_LEN: usize = POINTS * (DEPTH * WIDTH + LANES);
const SLOT_LEN: usize = KERNEL_LEN + POINTS * (ROWS * WIDTH + LANES);
const CUT: usize = 4;

pub(super) fn work_len(layer: &Winograd) -> usize {
    let forward = |c: usize| CUT * blocks_len(ROWS / CUT, c, DEPTH) + TASKS * SLOT_LEN;
    let weight =
        blocks_len(ROWS, layer.c_in, DEPTH) + blocks_len(ROWS, layer.c_out, WIDTH) + TASKS * KERNEL_LEN;
    LANES + forward(layer.c_in).max(forward(layer.c_out)).max(weight)
}

/// A pointer that tasks share; each touches elements of its own.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: the tasks of a team read what none of them writes, and write disjoint channels or disjoint tiles.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

/// The part of `work` that begins on a cache line.
fn aligned(work: &mut [f32]) -> &mut [f32] {
    let skip = work.as_ptr().align_offset(64).min(LANES);
    &mut work[skip..]
}

/// `total` in blocks of at most `most`, nearly equal: their number and the size of all but the last.
fn cut(total: usize, most: usize) -> usize {
    total.div_ceil(total.div_ceil(most).max(1)).max(1)
}

/// The block of `size` channels that begins at `index * size`.
fn block(channels: usize, size: usize, index: usize) -> (usize, usize) {
    let first = index * size;
    (first, size.min(channels - first))
}

/// The rows \[0, samples * tiles) of a layer, and where their pixels are.
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

    fn count(self, samples: usize) -> usize {
        samples * self.down * self.across
    }

    /// Row r's `size` x `size` pixels from `border` above and left of its tile on.
    #[inline(always)]
    fn grid(self, base: *mut f32, channels: usize, r: usize, size: usize, border: usize) -> Grid {
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

/// One row of every point's matrix.
#[inline(always)]
fn points(origin: *mut f32, between: usize) -> Grid {
    Grid { origin, row: 6 * between, col: between, rows: (0, 6), cols: (0, 6) }
}

/// The nine taps of \[3, 3, c_in, c_out\] at a pair of channels.
#[inline(always)]
fn taps(layer: &Winograd, base: *mut f32, c: usize, o: usize) -> Grid {
    let size = layer.c_in * layer.c_out;
    let origin = base.wrapping_add(c * layer.c_out + o);
    Grid { origin, row: 3 * size, col: size, rows: (0, 3), cols: (0, 3) }
}

/// The convolution's operands, whose lengths were checked.
#[derive(Clone, Copy)]
struct Forward<'a> {
    isa: Isa,
    layer: &'a Winograd,
    tiles: Tiles,
    x: Shared,
    weight: Shared,
    bias: Option<Shared>,
    add: bool,
    y: Shared,
}

/// y \[n, h, w, c_out\] = or, if `add`, += the convolution of x \[n, h, w, c_in\] with weight \[3, 3, c_in,
/// c_out\], and the bias; `work` has [`Winograd::work_len`] elements.
pub(in crate::kernels) fn forward_fast(
    isa: Isa,
    team: Team,
    layer: &Winograd,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    add: bool,
    y: &mut [f32],
    work: &mut [f32],
) {
    let Winograd { h, w, c_in, c_out } = *layer;
    let samples = x.len() / (h * w * c_in);
    assert_eq!(x.len(), samples * h * w * c_in, "{layer:?}: x");
    assert_eq!(y.len(), samples * h * w * c_out, "{layer:?}: y");
    assert_eq!(weight.len(), 9 * c_in * c_out, "{layer:?}: weight");
    assert!(bias.is_none_or(|bias| bias.len() == c_out), "{layer:?}: bias");
    let shared = |x: &[f32]| Shared(x.as_ptr().cast_mut());
    let pass = Forward {
        isa,
        layer,
        tiles: Tiles::of(layer),
        x: shared(x),
        weight: shared(weight),
        bias: bias.map(shared),
        add,
        y: Shared(y.as_mut_ptr()),
    };
    let work = aligned(work);
    let rows = pass.tiles.count(samples);
    let size = cut(rows, ROWS);
    for first in (0..rows).step_by(size) {
        let n = size.min(rows - first);
        if !team.is_solo() && c_out <= WIDTH {
            let part = n.div_ceil(CUT);
            let each = blocks_len(part, c_in, DEPTH) + SLOT_LEN;
            let end = each * n.div_ceil(part);
            team.each(&mut work[..end], each, |i, work| {
                let inner = (first + i * part, part.min(n - i * part));
                pass.rows(Team::Solo, inner, work, true);
            });
        } else {
            pass.rows(team, (first, n), work, first == 0);
        }
    }
}

impl Forward<'_> {
    /// `n` rows from `first` on. In a layer of one block the kernel's transform stays in `work` from call to
    /// call; `fresh` says that it is not there yet.
    fn rows(self, team: Team, (first, n): (usize, usize), work: &mut [f32], fresh: bool) {
        let Winograd { c_in, c_out, .. } = *self.layer;
        let widths = c_out.div_ceil(WIDTH);
        let tasks = if team.is_solo() { 1 } else { TASKS.min(widths) };
        let (slots, inputs) = work.split_at_mut(tasks * SLOT_LEN);
        let inputs = &mut inputs[..blocks_len(n, c_in, DEPTH)];
        self.inputs(team, (first, n), inputs);
        let one_block = c_in <= DEPTH && c_out <= WIDTH;
        team.each(slots, SLOT_LEN, |task, slot| {
            let (kernel, sums) = slot.split_at_mut(KERNEL_LEN);
            for j in (task..widths).step_by(tasks) {
                for (k, input) in inputs.chunks(POINTS * spaced(n * DEPTH)).enumerate() {
                    if fresh || !one_block {
                        self.kernel(k, j, kernel);
                    }
                    self.products(k, j, n, input, kernel, sums);
                }
                self.output(j, first, n, sums);
            }
        });
    }

    /// The transformed inputs of `n` rows from `first` on, in blocks of DEPTH channels: for each point \[n,
    /// channels of the block in whole vectors\].
    fn inputs(self, team: Team, (first, n): (usize, usize), inputs: &mut [f32]) {
        let c_in = self.layer.c_in;
        assert!(inputs.len() >= blocks_len(n, c_in, DEPTH));
        let blocks = c_in.div_ceil(DEPTH);
        let parts = if team.is_solo() { 1 } else { TASKS.div_ceil(blocks).min(n) };
        let to = Shared(inputs.as_mut_ptr());
        team.run(blocks * parts, |task| {
            let (k, part) = (task / parts, task % parts);
            let (c, depth) = block(c_in, DEPTH, k);
            let rows = part * n / parts..(part + 1) * n / parts;
            let to = to.at(k * POINTS * spaced(n * DEPTH));
            // SAFETY: the image is x, block k of `inputs` has n rows for every point, and no other task has
            // these.
            unsafe {
                input_transform(self.isa, self.tiles, self.x.at(c), c_in, depth, (first, n), rows, to);
            }
        });
    }

    /// Block (k, j) of the transformed kernel: for each point \[DEPTH, WIDTH\].
    fn kernel(self, k: usize, j: usize, kernel: &mut [f32]) {
        let ((c, depth), (o, width)) = (block(self.layer.c_in, DEPTH, k), block(self.layer.c_out, WIDTH, j));
        assert!(kernel.len() >= KERNEL_LEN);
        let to = kernel.as_mut_ptr();
        let place = |i: usize| {
            let to = to.wrapping_add(i * WIDTH);
            (taps(self.layer, self.weight.at(0), c + i, o), points(to, spaced(DEPTH * WIDTH)))
        };
        // SAFETY: the weight has 3 x 3 x c_in x c_out elements, and `kernel` DEPTH rows of WIDTH for every
        // point.
        unsafe { dispatch(self.isa, Transform::new(Kernel3, depth, width, place).prefetching(AHEAD)) }
    }

    /// sums, for each point \[n, WIDTH\], = or += block k of the inputs times block (k, j) of the kernel.
    fn products(self, k: usize, j: usize, n: usize, input: &[f32], kernel: &[f32], sums: &mut [f32]) {
        let (depth, width) = (block(self.layer.c_in, DEPTH, k).1, block(self.layer.c_out, WIDTH, j).1);
        let row = depth.next_multiple_of(LANES);
        let product = Product {
            outer: POINTS,
            a_outer: spaced(n * row),
            b_outer: spaced(DEPTH * WIDTH),
            c_outer: spaced(n * WIDTH),
            a_row: row,
            b_k: WIDTH,
            c_row: WIDTH,
            accumulate: k > 0,
            ..Product::dense(n, width, depth)
        };
        product_fast(self.isa, &product, input, kernel, sums);
    }

    /// Block j of the outputs of n rows.
    fn output(self, j: usize, first: usize, n: usize, sums: &mut [f32]) {
        let (o, width) = block(self.layer.c_out, WIDTH, j);
        let from = sums.as_mut_ptr();
        assert!(sums.len() >= POINTS * spaced(n * WIDTH));
        let place = |i: usize| {
            let from = points(from.wrapping_add(i * WIDTH), spaced(n * WIDTH));
            (from, self.tiles.grid(self.y.at(o), self.layer.c_out, first + i, 4, 0))
        };
        let mut transform = Transform::new(Output, n, width, place);
        if let Some(bias) = self.bias {
            transform = transform.with_bias(bias.at(o));
        }
        if self.add {
            transform = transform.adding();
        }
        // SAFETY: y has every pixel that the tiles' grids hold, this task alone writes these rows' channels o
        // .. o + width, and `sums` has n rows of WIDTH for every point.
        unsafe { dispatch(self.isa, transform) }
    }
}

/// For each point the `rows` of \[n, depth in whole vectors\] at `to`, from `depth` channels at `x` of images
/// of `channels` channels; row 0 is tile `first`.
///
/// # Safety
/// `x` is such an image's first element of these channels, and `to` has n rows for every point, of which
/// nobody else reads or writes these.
unsafe fn input_transform(
    isa: Isa,
    tiles: Tiles,
    x: *mut f32,
    channels: usize,
    depth: usize,
    (first, n): (usize, usize),
    rows: Range<usize>,
    to: *mut f32,
) {
    let row = depth.next_multiple_of(LANES);
    let place = |i: usize| {
        let i = rows.start + i;
        let to = points(to.wrapping_add(i * row), spaced(n * row));
        (tiles.grid(x, channels, first + i, 6, 1), to)
    };
    // SAFETY: the image has every pixel that the tiles' grids hold, and the caller's promise.
    unsafe { dispatch(isa, Transform::new(Input, rows.len(), depth, place)) }
}

/// d_weight \[3, 3, c_in, c_out\] += the gradient from x \[n, h, w, c_in\] and d_y \[n, h, w, c_out\]; `work`
/// has [`Winograd::work_len`] elements.
pub(in crate::kernels) fn weight_gradient_fast(
    isa: Isa,
    team: Team,
    layer: &Winograd,
    x: &[f32],
    d_y: &[f32],
    d_weight: &mut [f32],
    work: &mut [f32],
) {
    let Winograd { h, w, c_in, c_out } = *layer;
    let samples = x.len() / (h * w * c_in);
    assert_eq!(x.len(), samples * h * w * c_in, "{layer:?}: x");
    assert_eq!(d_y.len(), samples * h * w * c_out, "{layer:?}: d_y");
    assert_eq!(d_weight.len(), 9 * c_in * c_out, "{layer:?}: d_weight");
    let shared = |x: &[f32]| Shared(x.as_ptr().cast_mut());
    let (x, d_y, d_weight) = (shared(x), shared(d_y), Shared(d_weight.as_mut_ptr()));
    let tiles = Tiles::of(layer);
    let rows = tiles.count(samples);
    let size = cut(rows, ROWS);
    let (depths, widths) = (c_in.div_ceil(DEPTH), c_out.div_ceil(WIDTH));
    let tasks = if team.is_solo() { 1 } else { TASKS.min(depths * widths) };
    let (slots, rest) = aligned(work).split_at_mut(tasks * KERNEL_LEN);
    for first in (0..rows).step_by(size) {
        let n = size.min(rows - first);
        let (inputs, outputs) = rest.split_at_mut(blocks_len(n, c_in, DEPTH));
        let outputs = &mut outputs[..blocks_len(n, c_out, WIDTH)];
        let (each_in, each_out) = (POINTS * spaced(n * DEPTH), POINTS * spaced(n * WIDTH));
        team.each(inputs, each_in, |k, to| {
            let (c, depth) = block(c_in, DEPTH, k);
            assert!(to.len() >= POINTS * spaced(n * depth.next_multiple_of(LANES)));
            // SAFETY: the image is x, and `to` has n rows for every point.
            unsafe { input_transform(isa, tiles, x.at(c), c_in, depth, (first, n), 0..n, to.as_mut_ptr()) }
        });
        team.each(outputs, each_out, |j, to| {
            let (o, width) = block(c_out, WIDTH, j);
            output_gradient_transform(isa, tiles, d_y.at(o), c_out, width, (first, n), to);
        });
        // A layer of one block keeps its sum over all rows, the others go back to the taps after each block
        // of rows.
        let one_block = depths * widths == 1;
        let last = first + n == rows;
        team.each(slots, KERNEL_LEN, |task, sums| {
            for part in (task..depths * widths).step_by(tasks) {
                let (k, j) = (part / widths, part % widths);
                let ((c, depth), (o, width)) = (block(c_in, DEPTH, k), block(c_out, WIDTH, j));
                let (row, column) = (depth.next_multiple_of(LANES), width.next_multiple_of(LANES));
                let product = Product {
                    outer: POINTS,
                    a_outer: spaced(n * row),
                    b_outer: spaced(n * column),
                    c_outer: spaced(DEPTH * WIDTH),
                    a_k: row,
                    b_k: column,
                    c_row: WIDTH,
                    accumulate: one_block && first > 0,
                    ..Product::transposed_a(depth, width, n)
                };
                product_fast(isa, &product, &inputs[k * each_in..], &outputs[j * each_out..], sums);
                if !one_block || last {
                    let from = sums.as_mut_ptr();
                    let place = |i: usize| {
                        let from = points(from.wrapping_add(i * WIDTH), spaced(DEPTH * WIDTH));
                        (from, taps(layer, d_weight.at(0), c + i, o))
                    };
                    let transform = Transform::new(Kernel3Gradient, depth, width, place).adding();
                    // SAFETY: d_weight has 3 x 3 x c_in x c_out elements, of which this task alone writes the
                    // pairs of these channels, and `sums` DEPTH rows of WIDTH for every point.
                    unsafe { dispatch(isa, transform) }
                }
            }
        });
    }
}

/// For each point \[n, width in whole vectors\] from `width` channels at `d_y` of images of `channels`
/// channels.
fn output_gradient_transform(
    isa: Isa,
    tiles: Tiles,
    d_y: *mut f32,
    channels: usize,
    width: usize,
    (first, n): (usize, usize),
    block_of_outputs: &mut [f32],
) {
    let row = width.next_multiple_of(LANES);
    assert!(block_of_outputs.len() >= POINTS * spaced(n * row));
    let to = block_of_outputs.as_mut_ptr();
    let place = |i: usize| {
        let to = points(to.wrapping_add(i * row), spaced(n * row));
        (tiles.grid(d_y, channels, first + i, 4, 0), to)
    };
    // SAFETY: as for `input_transform`.
    unsafe { dispatch(isa, Transform::new(OutputGradient, n, width, place)) }
}
