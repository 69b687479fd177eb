//! Convolutions of a tile in each layout, on one thread. Throughput counts
//! 2 B O Ho Wo C kh kw for every pass, so that "Gelem/s" is GFLOP/s, to be held against the FMA
//! peak printed first.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use predictive_coding_kernels::{Algorithm, Combine, Conv, ConvShape, Layout, Level, fma_peak};

/// Channels in and out, size of the square input, padding; all kernels are 3x3.
const SHAPES: [[usize; 4]; 5] = [[1, 10, 28, 0], [10, 5, 13, 0], [3, 64, 32, 1], [64, 128, 32, 1], [128, 256, 16, 1]];

const LAYOUTS: [Layout; 2] = [Layout::Images, Layout::Channels(1)];

fn noise(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed) % 1013) as f32 / 1013.0 - 0.5).collect()
}

/// The forward product and its transpose are adjoint: <A x, y> = <x, A^T y>; and the weight gradient
/// of <A x, y> times the weights is the same number.
fn assert_adjoint(conv: &Conv, weight: &[f32], x: &[f32], y: &[f32], level: Level) {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    let mut forward = vec![0.0; conv.packed_forward_len()];
    let mut backward = vec![0.0; conv.packed_backward_len()];
    conv.pack_forward(weight, &mut forward, false);
    conv.pack_backward(weight, &mut backward, false);
    let (mut out, mut back) = (vec![0.0; y.len()], vec![0.0; x.len()]);
    let (mut sums, mut gradient) = (vec![0.0; conv.gradient_len()], vec![0.0; weight.len()]);
    let mut scratch = vec![0.0; conv.scratch_len()];
    conv.forward(&forward, x, Combine::default(), &mut out, &mut scratch, false);
    conv.backward_data(&backward, y, Combine::default(), &mut back, &mut scratch, false);
    conv.backward_weights(y, x, &mut sums, &mut scratch, false);
    conv.unpack_gradient(&sums, 1.0, &mut gradient);
    let size = dot(&out, &out).sqrt() * dot(y, y).sqrt();
    let (a, b, c) = (dot(&out, y), dot(x, &back), dot(weight, &gradient));
    assert!((a - b).abs() < 1e-5 * size && (a - c).abs() < 1e-5 * size, "{level}: {a}, {b} and {c} differ");
}

fn convolutions(criterion: &mut Criterion) {
    let level = Level::from_environment().expect("the level exists");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("one thread can be had");
    println!("level {level}, FMA peak of one thread {:.0} GFLOP/s", pool.install(|| fma_peak(level)));
    for (layout, [c, o, size, padding]) in LAYOUTS.into_iter().flat_map(|layout| SHAPES.map(|shape| (layout, shape))) {
        let shape = ConvShape {
            input: [size, size],
            kernel: [3, 3],
            stride: [1, 1],
            padding: [padding, padding],
            dilation: [1, 1],
            ..ConvShape::linear(c, o)
        };
        let conv = Conv::new(level, layout, shape, Algorithm::Auto);
        let weight = noise(o * c * 9, 1);
        let (x, y) = (noise(conv.input_len(), 2), noise(conv.output_len(), 3));
        assert_adjoint(&conv, &weight, &x, &y, level);
        let mut forward = vec![0.0; conv.packed_forward_len()];
        let mut backward = vec![0.0; conv.packed_backward_len()];
        conv.pack_forward(&weight, &mut forward, false);
        conv.pack_backward(&weight, &mut backward, false);
        let mut out = vec![0.0; y.len()];
        let mut back = vec![0.0; x.len()];
        let mut gradient = vec![0.0; conv.gradient_len()];
        let mut scratch = vec![0.0; conv.scratch_len()];
        let mut group = criterion.benchmark_group(format!("{} {c}->{o} 3x3 {size}x{size} p{padding}", layout.name()));
        group.throughput(Throughput::Elements(shape.flops() * layout.images(level) as u64));
        group.bench_function("forward", |bencher| {
            bencher.iter(|| conv.forward(&forward, &x, Combine::default(), &mut out, &mut scratch, false));
        });
        group.bench_function("backward-data", |bencher| {
            bencher.iter(|| conv.backward_data(&backward, &y, Combine::default(), &mut back, &mut scratch, false));
        });
        group.bench_function("backward-weights", |bencher| {
            bencher.iter(|| conv.backward_weights(&y, &x, &mut gradient, &mut scratch, false));
        });
        group.finish();
    }
}

criterion_group!(benches, convolutions);
criterion_main!(benches);
