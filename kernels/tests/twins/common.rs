//! What the tests of the kernels share: levels, layouts, random data, comparisons.

use std::fmt::Debug;

use predictive_coding_kernels::{Algorithm, Conv, ConvOptions, ConvShape, LEVEL_VARIABLE, Layout, Level, lanes};
use predictive_coding_kernels_reference as reference;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Half the distance of 1 from the next f32: the largest relative error of one rounding.
pub const ROUNDING: f64 = f32::EPSILON as f64 / 2.0;

/// A NaN that no arithmetic produces, so that writing to it shows.
pub const GAP: f32 = f32::from_bits(0x7fc5_a5a5);

/// Every level of this machine, or the one that the environment names; prints the others.
///
/// # Panics
/// If the machine lacks the level that is named.
pub fn levels() -> Vec<Level> {
    let levels = match std::env::var_os(LEVEL_VARIABLE) {
        Some(name) if !name.is_empty() => vec![Level::from_environment().unwrap_or_else(|error| panic!("{error}"))],
        _ => Level::available().to_vec(),
    };
    for name in ["avx512", "avx2", "portable"] {
        if !levels.iter().any(|level| level.name() == name) {
            println!("level {name} skipped");
        }
    }
    levels
}

pub fn generator(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// Uniform in -1..1.
pub fn values(rng: &mut impl Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Multiples of 1/4 in -2..=2: sums and differences of some are exact, and many are equal.
pub fn coarse(rng: &mut impl Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-8..=8) as f32 / 4.0).collect()
}

pub fn absolute(values: &[f32]) -> Vec<f32> {
    values.iter().map(|x| x.abs()).collect()
}

/// Runs `f` on a pool of so many threads.
pub fn on_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads").install(f)
}

/// A level and what the lanes of its vectors are.
#[derive(Clone, Copy, Debug)]
pub struct Tiling {
    pub level: Level,
    pub layout: Layout,
}

/// Every one of [`levels`] with either layout. Tiles of channels have one image at the first level, two at the second, and
/// so on.
pub fn tilings() -> Vec<Tiling> {
    let tilings = |(level, images)| [Layout::Images, Layout::Channels(images)].map(|layout| Tiling { level, layout });
    levels().into_iter().zip(1..).flat_map(tilings).collect()
}

/// Those, and every level with batches of several vectors.
pub fn tilings_and_batches() -> Vec<Tiling> {
    tilings().into_iter().chain(batches()).collect()
}

/// Every level with batches of several vectors.
pub fn batches() -> impl Iterator<Item = Tiling> {
    let tilings = |level| [1, 2, 3, 9].map(|vectors| Tiling { level, layout: Layout::Batch(vectors) });
    levels().into_iter().flat_map(tilings)
}

impl Tiling {
    /// Vectors of images that lie side by side.
    fn vectors(self) -> usize {
        if let Layout::Batch(vectors) = self.layout { vectors } else { 1 }
    }

    pub fn images(self) -> usize {
        if let Layout::Channels(images) = self.layout { images } else { self.vectors() * lanes(self.level) }
    }

    pub fn planes(self, channels: usize) -> usize {
        if self.layout.is_channels() { self.images() * channels.div_ceil(lanes(self.level)) } else { channels }
    }

    /// Elements of a tile.
    pub fn len(self, channels: usize, [height, width]: [usize; 2]) -> usize {
        self.planes(channels) * height * width * self.vectors() * lanes(self.level)
    }

    /// So many channels, and several times as many where they share vectors.
    pub fn several(self, channels: usize) -> usize {
        if self.layout == Layout::Images { channels } else { 3 * channels }
    }

    /// Where the elements of `[images][channels][pixels]` lie in a tile.
    pub fn places(self, channels: usize, pixels: usize) -> impl Iterator<Item = usize> {
        let lanes = lanes(self.level);
        (0..self.images() * channels * pixels).map(move |i| {
            let (image, channel, pixel) = (i / pixels / channels, i / pixels % channels, i % pixels);
            match self.layout {
                Layout::Images | Layout::Batch(_) => (channel * pixels + pixel) * self.images() + image,
                Layout::Channels(_) => {
                    let plane = image * channels.div_ceil(lanes) + channel / lanes;
                    (plane * pixels + pixel) * lanes + channel % lanes
                }
                other => panic!("{other} are not written down here"),
            }
        })
    }

    /// `[images][channels][pixels]` as a tile, with NaN in the lanes beyond the last channel.
    pub fn to_tile(self, channels: usize, images: &[f32]) -> Vec<f32> {
        let pixels = images.len() / self.images() / channels;
        let mut tile = vec![f32::NAN; self.len(channels, [1, pixels])];
        self.places(channels, pixels).zip(images).for_each(|(place, &x)| tile[place] = x);
        tile
    }

    /// The reverse of [`to_tile`](Self::to_tile).
    pub fn of_tile(self, channels: usize, tile: &[f32]) -> Vec<f32> {
        let pixels = tile.len() / self.len(channels, [1, 1]);
        self.places(channels, pixels).map(|place| tile[place]).collect()
    }

    /// [`to_tile`](Self::to_tile) and [`of_tile`](Self::of_tile).
    #[expect(clippy::type_complexity, reason = "a pair of functions")]
    pub fn both_ways(self, channels: usize) -> (impl Fn(&[f32]) -> Vec<f32>, impl Fn(&[f32]) -> Vec<f32>) {
        (move |images| self.to_tile(channels, images), move |tile| self.of_tile(channels, tile))
    }
}

pub fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// # Panics
/// If an element is further from the expected one than its tolerance, or only one of both is NaN or
/// infinite.
pub fn assert_within(got: &[f32], want: &[f64], tolerance: impl Fn(usize) -> f64, case: &dyn Debug) {
    assert_eq!(got.len(), want.len(), "number of elements of {case:?}");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let got = f64::from(got);
        let equal = got == want || (got.is_nan() && want.is_nan());
        assert!(
            equal || (want.is_finite() && (got - want).abs() <= tolerance(i)),
            "{case:?}: element {i} is {got:e}, expected {want:e}: off by {:e}, allowed are {:e}",
            (got - want).abs(),
            tolerance(i)
        );
    }
}

/// The error allowed to a sum of `depth` products whose absolute values add up to `size`: roundings
/// are independent, so they grow as the root of their number; 4 is far outside of their spread.
pub fn of_sum(depth: usize, size: f64) -> f64 {
    4.0 * ((depth as f64).sqrt() + 2.0) * ROUNDING * size
}

/// The error allowed to each sum of a convolution's pass, of whose products' absolute values `sizes` are the sums.
/// Winograd's sums are made of those of all pixels of a tile, and round twice as much.
pub fn of_pass(algorithm: Algorithm, depth: usize, sizes: &[f64]) -> impl Fn(usize) -> f64 {
    let largest = sizes.iter().copied().fold(0.0, f64::max);
    move |i| match algorithm {
        Algorithm::Winograd => of_sum(2 * depth + 9, 2.0 * largest),
        _ => of_sum(depth, sizes[i]),
    }
}

/// A window of a random kind that fits its input; `channels` is the largest number of either.
pub fn random_shape(rng: &mut impl Rng, channels: usize, size: usize) -> ConvShape {
    loop {
        let mut pair = |from: usize, to: usize| [rng.random_range(from..=to), rng.random_range(from..=to)];
        let [in_channels, out_channels] = pair(1, channels);
        let shape = ConvShape {
            input: pair(1, size),
            kernel: pair(1, 4),
            stride: pair(1, 3),
            padding: pair(0, 3),
            extra: pair(0, 3).map(|extra| extra.saturating_sub(1)),
            dilation: pair(1, 3),
            ..ConvShape::linear(in_channels, out_channels)
        };
        if fits(&shape) {
            return shape;
        }
    }
}

/// Windows that are further apart, or reach further, than the image does.
pub fn far_windows() -> impl Iterator<Item = ConvShape> {
    let windows = [
        ([3, 5], [2, 3], [1 << 40, usize::MAX], [1, 1], [1, 1]),
        ([64, 5], [1, 1], [64, 1 << 24], [0, 0], [1, 1]),
        ([5, 64], [2, 1], [7, 100], [1, 0], [3, usize::MAX]),
        ([2, 3], [3, 1], [1, 1], [1000, 0], [1000, 1]),
        ([1, 1], [2, 2], [3, 1], [35, 40], [70, 60]),
        ([1, 2], [3, 3], [2, 5], [50, 30], [1, 7]),
        ([4, 7], [5, 2], [1, 2], [11, 8], [6, 17]),
    ];
    let channels = [[1, 1], [2, 5], [3, 40], [700, 2]];
    windows.into_iter().flat_map(move |(input, kernel, stride, padding, dilation)| {
        channels.map(|[in_channels, out_channels]| ConvShape {
            input,
            kernel,
            stride,
            padding,
            dilation,
            ..ConvShape::linear(in_channels, out_channels)
        })
    })
}

/// Every kernel size, stride, padding and dilation, the same along both axes but for the input.
pub fn square_windows(in_channels: usize, out_channels: usize) -> Vec<ConvShape> {
    let mut shapes = vec![];
    for i in 0..4 * 3 * 4 * 3 {
        let (kernel, stride, padding, dilation) = (i % 4 + 1, i / 4 % 3 + 1, i / 12 % 4, i / 48 + 1);
        shapes.push(ConvShape {
            input: [7, 10],
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [padding; 2],
            dilation: [dilation; 2],
            ..ConvShape::linear(in_channels, out_channels)
        });
    }
    shapes.retain(fits);
    shapes
}

fn fits(shape: &ConvShape) -> bool {
    (0..2).all(|axis| {
        (shape.kernel[axis] - 1) * shape.dilation[axis]
            < shape.input[axis] + 2 * shape.padding[axis] + shape.extra[axis]
    })
}

/// What the forward product takes for weights.
pub fn packed_forward(conv: &Conv, weight: &[f32]) -> Vec<f32> {
    if conv.packed_forward_len() == 0 {
        return weight.to_vec();
    }
    let mut packed = vec![f32::NAN; conv.packed_forward_len()];
    conv.pack_forward(weight, &mut packed, false);
    packed
}

/// Plans that make the output of a direct convolution in bands of so many rows.
pub fn in_bands(rows_per_band: usize) -> ConvOptions {
    ConvOptions::default().with_algorithm(Algorithm::Direct).with_rows_per_band(rows_per_band)
}

/// A convolution without padding, of stride 1.
pub fn plain([in_channels, out_channels]: [usize; 2], input: [usize; 2], kernel: [usize; 2]) -> ConvShape {
    ConvShape { input, kernel, ..ConvShape::linear(in_channels, out_channels) }
}

/// The same windows, of every input channel by itself.
pub fn depthwise(shape: ConvShape) -> ConvShape {
    ConvShape { out_channels: shape.in_channels, groups: shape.in_channels, ..shape }
}

/// Elements of an input of `samples` images, and of an output.
pub fn sizes(shape: &ConvShape, samples: usize) -> [usize; 2] {
    let output = reference::output_size(shape);
    let elements = |channels, size: [usize; 2]| samples * channels * size[0] * size[1];
    [elements(shape.in_channels, shape.input), elements(shape.out_channels, output)]
}
