//! Matrix products against the peers matrixmultiply and gemm, on one thread. Throughput counts
//! 2 m k n per product, so that "Gelem/s" is GFLOP/s, to be held against the FMA peak printed first.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use predictive_coding_kernels::{GemmScratch, Level, Lhs, MatMut, MatRef, fma_peak};

/// m, k, n: cubes, and the products of convolutional and linear layers.
const SHAPES: [[usize; 3]; 11] = [
    [64, 64, 64],
    [128, 128, 128],
    [512, 512, 512],
    [1024, 1024, 1024],
    [300, 605, 50],
    [300, 50, 605],
    [256, 16384, 256],
    [128, 576, 1024],
    [5, 90, 1936],
    [10, 9, 10816],
    [64, 27, 1024],
];

fn matrix(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed) % 1013) as f32 / 1013.0 - 0.5).collect()
}

fn products(criterion: &mut Criterion) {
    let level = Level::from_environment().expect("the level exists");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("one thread can be had");
    println!("level {level}, FMA peak of one thread {:.0} GFLOP/s", pool.install(|| fma_peak(level)));
    for [m, k, n] in SHAPES {
        let (a, b) = (matrix(m * k, 1), matrix(k * n, 2));
        // Scratch for one thread keeps the product on one thread.
        let mut scratch = vec![0.0; GemmScratch::new(level, m, k, n).len()];
        let mut ours = vec![0.0; m * n];
        let mut peer = vec![0.0; m * n];
        let lhs = Lhs::Plain(MatRef::row_major(&a, m, k));
        let mut product = |c: &mut [f32]| {
            let b = MatRef::row_major(&b, k, n);
            predictive_coding_kernels::gemm(level, 1.0, lhs, b, 0.0, MatMut::row_major(c, m, n), &mut scratch);
        };
        let matrixmultiply = |c: &mut [f32]| {
            let (k_stride, n_stride) = (k as isize, n as isize);
            // SAFETY: the three slices hold row-major matrices of m x k, k x n and m x n.
            unsafe {
                let (a, b) = (a.as_ptr(), b.as_ptr());
                matrixmultiply::sgemm(m, k, n, 1.0, a, k_stride, 1, b, n_stride, 1, 0.0, c.as_mut_ptr(), n_stride, 1);
            }
        };
        let gemm = |c: &mut [f32]| {
            let (k_stride, n_stride) = (k as isize, n as isize);
            // SAFETY: the three slices hold row-major matrices of m x k, k x n and m x n.
            unsafe {
                let (c, a, b) = (c.as_mut_ptr(), a.as_ptr(), b.as_ptr());
                let serial = gemm_common::Parallelism::None;
                gemm_f32::gemm::f32::get_gemm_fn()(
                    m, n, k, c, 1, n_stride, false, a, 1, k_stride, b, 1, n_stride, 0.0, 1.0, false, false, false,
                    serial,
                );
            }
        };
        product(&mut ours);
        matrixmultiply(&mut peer);
        for (a, b) in ours.iter().zip(&peer) {
            assert!((a - b).abs() <= 1e-6 * k as f32, "{m} x {k} x {n}: {a} and the peer's {b}");
        }
        let mut group = criterion.benchmark_group(format!("gemm {m}x{k}x{n}"));
        group.throughput(Throughput::Elements((2 * m * k * n) as u64));
        group.bench_function("ours", |bencher| bencher.iter(|| product(&mut ours)));
        group.bench_function("matrixmultiply", |bencher| bencher.iter(|| matrixmultiply(&mut peer)));
        group.bench_function("gemm", |bencher| bencher.iter(|| gemm(&mut peer)));
        group.finish();
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
