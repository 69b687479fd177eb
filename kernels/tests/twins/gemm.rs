//! The matrix product against its twin and against matrixmultiply in f64.

use crate::common::*;
use predictive_coding_kernels::{
    Activation, GemmScratch, Level, Lhs, MatMut, MatRef, PackedLhs, gemm, gemm_activated, lanes, reference,
};
use rand::{Rng, RngExt};

/// How a matrix lies in memory.
#[derive(Clone, Copy, Debug)]
enum Lay {
    Rows,
    Columns,
    /// Rows with gaps behind each.
    WideRows,
    WideColumns,
    /// Gaps between all elements.
    Sparse,
    /// Rows at a multiple of 4 KiB, which meet in one set of a cache.
    CollidingRows,
    CollidingColumns,
}

const LAYS: [Lay; 5] = [Lay::Rows, Lay::Columns, Lay::WideRows, Lay::WideColumns, Lay::Sparse];

struct Matrix {
    data: Vec<f32>,
    rows: usize,
    columns: usize,
    strides: [usize; 2],
}

impl Matrix {
    /// Filled by `value`; what lies between the elements is [`GAP`].
    fn new(rows: usize, columns: usize, lay: Lay, mut value: impl FnMut() -> f32) -> Self {
        let strides = match lay {
            Lay::Rows => [columns, 1],
            Lay::Columns => [1, rows],
            Lay::WideRows => [columns + 3, 1],
            Lay::WideColumns => [1, rows + 2],
            Lay::Sparse => [3 * columns + 1, 3],
            Lay::CollidingRows => [columns.next_multiple_of(1024), 1],
            Lay::CollidingColumns => [1, rows.next_multiple_of(1024)],
        };
        let len = if rows * columns == 0 { 0 } else { (rows - 1) * strides[0] + (columns - 1) * strides[1] + 1 };
        let mut data = vec![GAP; len];
        for i in 0..rows {
            for j in 0..columns {
                data[i * strides[0] + j * strides[1]] = value();
            }
        }
        Matrix { data, rows, columns, strides }
    }

    fn random(rng: &mut impl Rng, rows: usize, columns: usize, lay: Lay) -> Self {
        Matrix::new(rows, columns, lay, || rng.random_range(-1.0..1.0))
    }

    fn view(&self) -> MatRef<'_> {
        MatRef::new(&self.data, self.rows, self.columns, self.strides[0], self.strides[1])
    }

    fn view_mut(&mut self) -> MatMut<'_> {
        MatMut::new(&mut self.data, self.rows, self.columns, self.strides[0], self.strides[1])
    }

    fn twin(&self) -> (&[f32], [usize; 2]) {
        (&self.data, self.strides)
    }

    fn elements(&self) -> Vec<f32> {
        let place = |i: usize| i / self.columns * self.strides[0] + i % self.columns * self.strides[1];
        (0..self.rows * self.columns).map(|i| self.data[place(i)]).collect()
    }

    fn gaps(&self) -> usize {
        self.data.iter().filter(|x| x.to_bits() == GAP.to_bits()).count()
    }

    fn absolute(&self) -> Matrix {
        Matrix { data: absolute(&self.data), ..*self }
    }
}

/// Checks one product, from a plain and from a packed left operand.
fn check(rng: &mut impl Rng, level: Level, [m, n, k]: [usize; 3], lays: [Lay; 3], [alpha, beta]: [f32; 2]) {
    let a = Matrix::random(rng, m, k, lays[0]);
    let b = Matrix::random(rng, k, n, lays[1]);
    let old = match beta {
        0.0 => Matrix::new(m, n, lays[2], || f32::NAN),
        _ => Matrix::random(rng, m, n, lays[2]),
    };
    let want = reference::gemm([m, n, k], alpha, a.twin(), b.twin(), beta, old.twin());
    let (a_size, b_size, c_size) = (a.absolute(), b.absolute(), old.absolute());
    let size = reference::gemm([m, n, k], alpha.abs(), a_size.twin(), b_size.twin(), beta.abs(), c_size.twin());
    let packed = PackedLhs::pack(level, a.view());
    for lhs in [Lhs::Plain(a.view()), Lhs::Packed(&packed)] {
        let kind = matches!(lhs, Lhs::Packed(_));
        let mut c = Matrix { data: old.data.clone(), ..old };
        let mut scratch = vec![f32::NAN; GemmScratch::new(level, m, k, n).len()];
        gemm(level, alpha, lhs, b.view(), beta, c.view_mut(), &mut scratch);
        let case = (level, [m, n, k], lays, [alpha, beta], ("packed", kind));
        assert_within(&c.elements(), &want, |i| of_sum(k, size[i]), &case);
        assert_eq!(c.gaps(), c.data.len() - m * n, "gaps of {case:?} were written to");
    }
}

const COEFFICIENTS: [[f32; 2]; 6] = [[1.0, 0.0], [1.0, 1.0], [-0.5, 0.0], [0.5, 1.0], [2.0, -0.75], [0.0, 0.5]];

fn transposes() -> impl Iterator<Item = (Lay, Lay)> {
    [Lay::Rows, Lay::Columns].into_iter().flat_map(|a| [(a, Lay::Rows), (a, Lay::Columns)])
}

#[test]
fn small_shapes_in_every_transpose() {
    let mut rng = generator(1);
    for level in levels() {
        for i in 0..21 * 21 * 21 {
            let shape = [i / 441, i / 21 % 21, i % 21];
            for (a, b) in transposes() {
                let c = LAYS[rng.random_range(0..LAYS.len())];
                let coefficients = COEFFICIENTS[rng.random_range(0..COEFFICIENTS.len())];
                check(&mut rng, level, shape, [a, b, c], coefficients);
            }
        }
    }
}

#[test]
fn strides_with_gaps() {
    let mut rng = generator(2);
    for level in levels() {
        for i in 0..125 {
            let lays = [LAYS[i / 25], LAYS[i / 5 % 5], LAYS[i % 5]];
            for coefficients in COEFFICIENTS {
                let shape = [rng.random_range(1..40), rng.random_range(1..90), rng.random_range(1..30)];
                check(&mut rng, level, shape, lays, coefficients);
            }
        }
    }
}

#[test]
fn rows_that_collide_in_the_caches() {
    let mut rng = generator(6);
    let colliding = [Lay::CollidingRows, Lay::CollidingColumns];
    for level in levels() {
        for shape in [[13, 256, 128], [265, 257, 130], [30, 300, 641], [7, 20, 300], [25, 290, 60], [6, 400, 3]] {
            for a in colliding {
                for c in colliding {
                    let b = LAYS[rng.random_range(0..LAYS.len())];
                    let coefficients = COEFFICIENTS[rng.random_range(0..COEFFICIENTS.len())];
                    check(&mut rng, level, shape, [a, b, c], coefficients);
                }
            }
        }
    }
}

/// Tiles of up to 12 rows, 8 vectors; blocks 264 rows high, 640 deep, 3200 columns wide.
#[test]
fn around_the_blocks() {
    let mut rng = generator(3);
    for level in levels() {
        let width = lanes(level);
        let mut shapes = vec![];
        for m in [1, 6, 7, 13, 24, 25, 263, 264, 265, 277] {
            for n in [1, width - 1, width, 2 * width + 1, 4 * width - 1, 4 * width, 4 * width + 1, 6 * width + 1] {
                shapes.extend([1, 127, 128, 257, 639, 641].map(|k| [m, n, k]));
            }
        }
        for n in [3199, 3200, 3201] {
            shapes.extend([[1, n, 3], [3, n, 258], [30, n, 2], [n, 3, 257], [n, 1, 1]]);
        }
        for shape in shapes {
            let lays = [0; 3].map(|_| LAYS[rng.random_range(0..LAYS.len())]);
            let coefficients = COEFFICIENTS[rng.random_range(0..COEFFICIENTS.len())];
            check(&mut rng, level, shape, lays, coefficients);
        }
    }
}

#[test]
fn against_matrixmultiply_in_f64() {
    let mut rng = generator(4);
    for level in levels() {
        for ([m, n, k], (a_lay, b_lay)) in
            [[300, 500, 700], [1, 2000, 900], [700, 17, 1030], [65, 130, 2050]].into_iter().zip(transposes())
        {
            let (a, b) = (Matrix::random(&mut rng, m, k, a_lay), Matrix::random(&mut rng, k, n, b_lay));
            let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
            let product = |a: &Matrix, b: &Matrix| {
                let (a_data, b_data) = (wide(&a.data), wide(&b.data));
                let [[rsa, csa], [rsb, csb]] = [a.strides, b.strides].map(|strides| strides.map(|s| s as isize));
                let mut c = vec![0.0; m * n];
                // SAFETY: the strides are those of matrices of these sizes; C has m rows of n elements.
                unsafe {
                    let (a, b, c) = (a_data.as_ptr(), b_data.as_ptr(), c.as_mut_ptr());
                    matrixmultiply::dgemm(m, k, n, 1.0, a, rsa, csa, b, rsb, csb, 0.0, c, n as isize, 1);
                }
                c
            };
            let (want, size) = (product(&a, &b), product(&a.absolute(), &b.absolute()));
            let mut c = vec![f32::NAN; m * n];
            let mut scratch = vec![f32::NAN; GemmScratch::new(level, m, k, n).len()];
            gemm(level, 1.0, Lhs::Plain(a.view()), b.view(), 0.0, MatMut::row_major(&mut c, m, n), &mut scratch);
            assert_within(&c, &want, |i| of_sum(k, size[i]), &(level, [m, n, k], a_lay, b_lay));
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let mut rng = generator(5);
    for level in levels() {
        for [m, n, k] in [
            [97, 183, 131],
            [300, 40, 64],
            [20, 900, 100],
            [1, 3000, 400],
            [2900, 1, 300],
            [145, 65, 600],
            [25, 24, 1100],
        ] {
            for lays in [[Lay::Rows, Lay::Rows, Lay::Rows], [Lay::Columns, Lay::Columns, Lay::Columns]] {
                let (a, b) = (Matrix::random(&mut rng, m, k, lays[0]), Matrix::random(&mut rng, k, n, lays[1]));
                let old = Matrix::random(&mut rng, m, n, lays[2]);
                let packed = PackedLhs::pack(level, a.view());
                let product = |lhs: Lhs<'_>, threads: usize| {
                    let mut c = Matrix { data: old.data.clone(), ..old };
                    let mut scratch = vec![f32::NAN; threads * GemmScratch::new(level, m, k, n).len()];
                    on_threads(threads, || gemm(level, 0.7, lhs, b.view(), 1.5, c.view_mut(), &mut scratch));
                    c.elements()
                };
                for lhs in [Lhs::Plain(a.view()), Lhs::Packed(&packed)] {
                    let alone = product(lhs, 1);
                    for threads in [2, 3, 5] {
                        let shared = product(lhs, threads);
                        assert!(same_bits(&alone, &shared), "{level}, {:?} on {threads} threads", [m, n, k]);
                    }
                }
            }
        }
    }
}

#[test]
fn nan_and_infinity_are_not_multiplied_away() {
    for level in levels() {
        for poison in [f32::NAN, f32::INFINITY] {
            let (m, n, k) = (7, 2 * lanes(level) + 3, 9);
            let mut b = vec![1.0; k * n];
            b[4 * n + n - 1] = poison;
            let mut c = vec![1.0; m * n];
            let mut scratch = vec![0.0; GemmScratch::new(level, m, k, n).len()];
            let a = vec![0.0; m * k];
            let lhs = Lhs::Plain(MatRef::row_major(&a, m, k));
            gemm(level, 1.0, lhs, MatRef::row_major(&b, k, n), 1.0, MatMut::row_major(&mut c, m, n), &mut scratch);
            for (i, x) in c.iter().enumerate() {
                assert_eq!(x.is_nan(), i % n == n - 1, "{level}: element {i} is {x}");
            }
        }
    }
}

/// Once, when the sums over all blocks of the depth are complete, wherever the result lies.
#[test]
fn a_bias_and_an_activation_follow_the_sums() {
    let mut rng = generator(7);
    let activations = [
        Activation::Identity,
        Activation::Relu,
        Activation::LeakyRelu { negative_slope: 0.1 },
        Activation::Tanh,
        Activation::Sigmoid,
        Activation::Gelu,
        Activation::Silu,
        Activation::Softplus,
    ];
    for level in levels() {
        for (i, activation) in activations.into_iter().cycle().take(160).enumerate() {
            let [m, n] = [rng.random_range(1..40), rng.random_range(1..70)];
            let k = [0, 1, 30, 140, 600, 1100][i % 6];
            let lays = [0; 3].map(|_| LAYS[rng.random_range(0..LAYS.len())]);
            let scale = 1.0 / (k as f32).sqrt().max(1.0);
            let a = Matrix::new(m, k, lays[0], || scale * rng.random_range(-2.0..2.0));
            let b = Matrix::random(&mut rng, k, n, lays[1]);
            let bias: Vec<f32> = (0..m).map(|_| rng.random_range(-1.0..1.0)).collect();
            let bias = (i % 5 != 0).then_some(&bias[..]);
            let empty = Matrix::new(m, n, lays[2], || f32::NAN);
            let sums = reference::gemm([m, n, k], 1.0, a.twin(), b.twin(), 0.0, empty.twin());
            let sizes = reference::gemm([m, n, k], 1.0, a.absolute().twin(), b.absolute().twin(), 0.0, empty.twin());
            let bias_of = |i: usize| bias.map_or(0.0, |bias| f64::from(bias[i / n]));
            let value = |(i, sum): (usize, &f64)| reference::activation_value(activation, sum + bias_of(i));
            let want: Vec<f64> = sums.iter().enumerate().map(value).collect();
            let packed = PackedLhs::pack(level, a.view());
            for lhs in [Lhs::Plain(a.view()), Lhs::Packed(&packed)] {
                let mut c = Matrix { data: empty.data.clone(), ..empty };
                let mut scratch = vec![f32::NAN; 2 * GemmScratch::new(level, m, k, n).len()];
                on_threads(2, || {
                    gemm_activated(level, lhs, b.view(), bias, activation, c.view_mut(), &mut scratch);
                });
                let case = (level, [m, n, k], lays, activation, bias.is_some());
                // No slope exceeds 1.13, and no function is off by more than some units in the last place.
                let bound = |i: usize| 1.2 * of_sum(k + 1, sizes[i] + bias_of(i).abs()) + 1e-6 * (1.0 + want[i].abs());
                assert_within(&c.elements(), &want, bound, &case);
                assert_eq!(c.gaps(), c.data.len() - m * n, "gaps of {case:?} were written to");
            }
        }
    }
}

#[test]
#[should_panic(expected = "3 biases for 2 rows")]
fn a_bias_of_another_length_is_refused() {
    let (data, mut out, mut scratch) = (vec![0.0; 4], vec![0.0; 4], vec![0.0; 100_000]);
    let (matrix, bias) = (MatRef::row_major(&data, 2, 2), [0.0; 3]);
    let c = MatMut::row_major(&mut out, 2, 2);
    gemm_activated(Level::PORTABLE, Lhs::Plain(matrix), matrix, Some(&bias), Activation::Relu, c, &mut scratch);
}

#[test]
#[should_panic(expected = "does not fit an output")]
fn shapes_that_do_not_fit_are_refused() {
    let (data, mut out, mut scratch) = (vec![0.0; 6], vec![0.0; 4], vec![0.0; 10_000]);
    let lhs = Lhs::Plain(MatRef::row_major(&data, 2, 3));
    gemm(
        Level::PORTABLE,
        1.0,
        lhs,
        MatRef::row_major(&data, 2, 3),
        0.0,
        MatMut::row_major(&mut out, 2, 2),
        &mut scratch,
    );
}

#[test]
#[should_panic(expected = "elements of scratch")]
fn too_little_scratch_is_refused() {
    let (data, mut out) = (vec![0.0; 4], vec![0.0; 4]);
    let matrix = MatRef::row_major(&data, 2, 2);
    gemm(Level::PORTABLE, 1.0, Lhs::Plain(matrix), matrix, 0.0, MatMut::row_major(&mut out, 2, 2), &mut [0.0; 3]);
}

#[test]
#[should_panic(expected = "does not fit a slice of 11 elements")]
fn a_view_beyond_its_slice_is_refused() {
    MatRef::new(&[0.0; 11], 3, 4, 4, 1);
}

#[test]
fn outputs_whose_elements_overlap_are_refused() {
    let refused = |rows, columns, row_stride, column_stride| {
        std::panic::catch_unwind(|| {
            MatMut::new(&mut [0.0; 100], rows, columns, row_stride, column_stride);
        })
        .is_err()
    };
    for [rows, columns, row_stride, column_stride] in
        [[3, 4, 0, 1], [3, 4, 1, 1], [3, 4, 3, 1], [3, 4, 1, 2], [1, 2, 9, 0]]
    {
        assert!(refused(rows, columns, row_stride, column_stride), "strides ({row_stride}, {column_stride})");
    }
    for [rows, columns, row_stride, column_stride] in
        [[3, 4, 4, 1], [3, 4, 1, 3], [1, 4, 0, 1], [4, 1, 1, 0], [0, 4, 0, 0]]
    {
        assert!(!refused(rows, columns, row_stride, column_stride), "strides ({row_stride}, {column_stride})");
    }
}
