//! The matrix product against its twin and against matrixmultiply in f64.

use crate::common::*;
use predictive_coding_kernels::{GemmScratch, Level, Lhs, MatMut, MatRef, PackedLhs, gemm, lanes};
use predictive_coding_kernels_reference as reference;
use rand::{Rng, RngExt};

/// How a matrix lies in memory.
#[derive(Clone, Copy, Debug)]
pub enum Lay {
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
    /// The last row first.
    Upward,
    /// Columns from the last to the first.
    Backward,
    /// Both, with gaps between all elements.
    Reversed,
}

const LAYS: [Lay; 8] =
    [Lay::Rows, Lay::Columns, Lay::WideRows, Lay::WideColumns, Lay::Sparse, Lay::Upward, Lay::Backward, Lay::Reversed];

#[derive(Clone)]
pub struct Matrix {
    data: Vec<f32>,
    rows: usize,
    columns: usize,
    strides: [isize; 2],
}

impl Matrix {
    /// Filled by `value`; what lies between the elements is [`GAP`].
    fn new(rows: usize, columns: usize, lay: Lay, mut value: impl FnMut() -> f32) -> Self {
        let [m, n] = [rows, columns].map(|count| count as isize);
        let page = |count: usize| count.next_multiple_of(1024) as isize;
        let strides = match lay {
            Lay::Rows => [n, 1],
            Lay::Columns => [1, m],
            Lay::WideRows => [n + 3, 1],
            Lay::WideColumns => [1, m + 2],
            Lay::Sparse => [3 * n + 1, 3],
            Lay::CollidingRows => [page(columns), 1],
            Lay::CollidingColumns => [1, page(rows)],
            Lay::Upward => [-n, 1],
            Lay::Backward => [1, -m],
            Lay::Reversed => [-2 * n - 1, -2],
        };
        let reach = |count: usize, stride: isize| (count - 1) * stride.unsigned_abs();
        let len = if rows * columns == 0 { 0 } else { reach(rows, strides[0]) + reach(columns, strides[1]) + 1 };
        let mut matrix = Matrix { data: vec![GAP; len], rows, columns, strides };
        for i in 0..rows * columns {
            let place = matrix.place(i);
            matrix.data[place] = value();
        }
        matrix
    }

    pub fn random(rng: &mut impl Rng, rows: usize, columns: usize, lay: Lay) -> Self {
        Matrix::new(rows, columns, lay, || rng.random_range(-1.0..1.0))
    }

    fn copy(view: MatRef<'_>) -> Self {
        let mut i = 0..;
        let mut next = || i.next().map_or(0.0, |i| view.at(i / view.columns(), i % view.columns()));
        Matrix::new(view.rows(), view.columns(), Lay::Rows, &mut next)
    }

    /// Where an element lies, counted row by row.
    fn place(&self, i: usize) -> usize {
        let coordinate = |i: usize, count: usize, stride: isize| if stride < 0 { count - 1 - i } else { i };
        let row = coordinate(i / self.columns, self.rows, self.strides[0]);
        let column = coordinate(i % self.columns, self.columns, self.strides[1]);
        row * self.strides[0].unsigned_abs() + column * self.strides[1].unsigned_abs()
    }

    pub fn view(&self) -> MatRef<'_> {
        MatRef::new(&self.data, self.rows, self.columns, self.strides[0], self.strides[1])
    }

    pub fn view_mut(&mut self) -> MatMut<'_> {
        MatMut::new(&mut self.data, self.rows, self.columns, self.strides[0], self.strides[1])
    }

    pub fn elements(&self) -> Vec<f32> {
        (0..self.rows * self.columns).map(|i| self.data[self.place(i)]).collect()
    }

    fn gaps(&self) -> usize {
        self.data.iter().filter(|x| x.to_bits() == GAP.to_bits()).count()
    }
}

/// The twin of a product of matrices that lie anyhow.
fn product(alpha: f32, a: &Matrix, b: &Matrix, beta: f32, c: &Matrix) -> [Vec<f64>; 2] {
    let [m, n, k] = [a.rows, b.columns, a.columns];
    let elements = [a, b, c].map(Matrix::elements);
    let twin = |alpha: f32, [a, b, c]: &[Vec<f32>; 3], beta: f32| {
        reference::gemm([m, n, k], alpha, (a, [k, 1]), (b, [n, 1]), beta, (c, [n, 1]))
    };
    let sizes = elements.each_ref().map(|elements| absolute(elements));
    [twin(alpha, &elements, beta), twin(alpha.abs(), &sizes, beta.abs())]
}

/// Checks one product, from a plain and from a packed left operand.
fn check(rng: &mut impl Rng, level: Level, [m, n, k]: [usize; 3], lays: [Lay; 3], [alpha, beta]: [f32; 2]) {
    let a = Matrix::random(rng, m, k, lays[0]);
    let b = Matrix::random(rng, k, n, lays[1]);
    let old = match beta {
        0.0 => Matrix::new(m, n, lays[2], || f32::NAN),
        _ => Matrix::random(rng, m, n, lays[2]),
    };
    let [want, size] = product(alpha, &a, &b, beta, &old);
    let packed = PackedLhs::pack(level, a.view());
    for lhs in [Lhs::Plain(a.view()), Lhs::Packed(&packed)] {
        let kind = matches!(lhs, Lhs::Packed(_));
        let mut c = old.clone();
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
fn strides_of_every_kind() {
    let mut rng = generator(2);
    for level in levels() {
        for i in 0..8 * 8 * 8 {
            let lays = [LAYS[i / 64], LAYS[i / 8 % 8], LAYS[i % 8]];
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
            let product = |of: fn(f32) -> f32| {
                let [a, b] = [&a, &b].map(|x| x.elements().into_iter().map(|x| f64::from(of(x))).collect::<Vec<_>>());
                let mut c = vec![0.0; m * n];
                // SAFETY: A has m rows of k elements, B k rows of n, and C m rows of n.
                unsafe {
                    let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
                    let [k_stride, n_stride] = [k, n].map(|n| n as isize);
                    matrixmultiply::dgemm(m, k, n, 1.0, a, k_stride, 1, b, n_stride, 1, 0.0, c, n_stride, 1);
                }
                c
            };
            let (want, size) = (product(|x| x), product(f32::abs));
            let mut c = vec![f32::NAN; m * n];
            let mut scratch = vec![f32::NAN; GemmScratch::new(level, m, k, n).len()];
            gemm(level, 1.0, Lhs::Plain(a.view()), b.view(), 0.0, MatMut::row_major(&mut c, m, n), &mut scratch);
            assert_within(&c, &want, |i| of_sum(k, size[i]), &(level, [m, n, k], a_lay, b_lay));
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

/// Into the parts of a matrix, from one that is turned around.
#[test]
fn views_of_views() {
    let mut rng = generator(8);
    for level in levels() {
        for _ in 0..200 {
            let [m, n, k, above, left] = [0; 5].map(|_| rng.random_range(1..50));
            let [a_lay, b_lay, c_lay] = [0; 3].map(|_| LAYS[rng.random_range(0..LAYS.len())]);
            let (a, b) = (Matrix::random(&mut rng, k, m, a_lay), Matrix::random(&mut rng, k, n, b_lay));
            let mut c = Matrix::new(above + n, left + m, c_lay, || GAP);
            let mut scratch = vec![f32::NAN; GemmScratch::new(level, m, k, n).len()];
            let (_, below) = c.view_mut().split_rows(above);
            let (_, part) = below.split_columns(left);
            let lhs = Lhs::Plain(a.view().transposed().reversed_rows());
            gemm(level, 1.0, lhs, b.view().reversed_columns(), 0.0, part.transposed(), &mut scratch);

            let (a, b) =
                (Matrix::copy(a.view().transposed().reversed_rows()), Matrix::copy(b.view().reversed_columns()));
            let [want, size] = product(1.0, &a, &b, 0.0, &Matrix::new(m, n, Lay::Rows, || f32::NAN));
            let got: Vec<f32> = (0..m * n).map(|i| c.view().at(above + i % n, left + i / n)).collect();
            assert_within(&got, &want, |i| of_sum(k, size[i]), &(level, [m, n, k], a_lay, b_lay, c_lay));
            assert_eq!(c.gaps(), c.data.len() - m * n, "others than the part were written to");
        }
    }
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
