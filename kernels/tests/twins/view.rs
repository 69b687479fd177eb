//! Views of matrices: where their elements are, and which are refused.

use std::panic::catch_unwind;

use predictive_coding_kernels::{MatMut, MatRef};

use crate::common::*;

/// Data of a matrix of these strides whose element (i, j) is 100 i + j; the rest is [`GAP`].
fn numbered(rows: usize, columns: usize, strides: [isize; 2]) -> Vec<f32> {
    let [(rows, row_step), (columns, column_step)] =
        [(rows, strides[0]), (columns, strides[1])].map(|(count, stride)| {
            let order: Vec<_> = if stride < 0 { (0..count).rev().collect() } else { (0..count).collect() };
            (order, stride.unsigned_abs())
        });
    let mut data = vec![GAP; (rows.len() - 1) * row_step + (columns.len() - 1) * column_step + 1];
    for (y, i) in rows.iter().enumerate() {
        for (x, j) in columns.iter().enumerate() {
            data[y * row_step + x * column_step] = number(*i, *j);
        }
    }
    data
}

fn number(i: usize, j: usize) -> f32 {
    (100 * i + j) as f32
}

fn assert_elements(view: MatRef<'_>, [rows, columns]: [usize; 2], element: impl Fn(usize, usize) -> f32) {
    assert_eq!([view.rows(), view.columns()], [rows, columns]);
    for (i, j) in (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))) {
        assert_eq!(view.at(i, j), element(i, j), "element ({i}, {j}) of {view:?}");
    }
}

/// Of 4 x 5 matrices.
const STRIDES: [[isize; 2]; 9] = [[5, 1], [1, 4], [7, 1], [-5, 1], [5, -1], [-1, 6], [1, -4], [-11, -2], [2, 10]];

#[test]
fn elements_are_where_strides_of_either_sign_put_them() {
    for strides @ [row_stride, column_stride] in STRIDES {
        let mut data = numbered(4, 5, strides);
        let a = MatRef::new(&data, 4, 5, row_stride, column_stride);
        assert_eq!([a.row_stride(), a.column_stride()], strides);
        assert_elements(a, [4, 5], number);
        assert_elements(a.transposed(), [5, 4], |i, j| number(j, i));
        assert_elements(a.reversed_rows(), [4, 5], |i, j| number(3 - i, j));
        assert_elements(a.reversed_columns(), [4, 5], |i, j| number(i, 4 - j));
        assert_elements(a.reversed_rows().reversed_rows(), [4, 5], number);
        assert_elements(a.reversed_rows().transposed().reversed_rows(), [5, 4], |i, j| number(3 - j, 4 - i));
        assert_elements(a.submatrix(1..3, 2..5), [2, 3], |i, j| number(i + 1, j + 2));
        assert_elements(a.reversed_columns().submatrix(1..4, 1..3), [3, 2], |i, j| number(i + 1, 3 - j));
        assert_elements(a.submatrix(4..4, 0..5), [0, 5], number);
        for beyond in [(4, 0), (0, 5)] {
            assert!(catch_unwind(|| a.at(beyond.0, beyond.1)).is_err());
        }
        for (rows, columns) in [(0..5, 0..5), (0..4, 0..6), (5..5, 0..1), (0..1, 6..6)] {
            assert!(catch_unwind(|| a.submatrix(rows.clone(), columns.clone())).is_err());
        }

        let mut a = MatMut::new(&mut data, 4, 5, row_stride, column_stride);
        assert_eq!([a.rows(), a.columns()], [4, 5]);
        assert_eq!([a.row_stride(), a.column_stride()], strides);
        assert_elements(a.as_ref(), [4, 5], number);
        *a.reborrow().submatrix(1..3, 2..4).at_mut(1, 0) = -1.0;
        *a.reborrow().transposed().at_mut(4, 3) = -2.0;
        *a.at_mut(0, 0) = -3.0;
        assert_elements(a.as_ref(), [4, 5], |i, j| match (i, j) {
            (2, 2) => -1.0,
            (3, 4) => -2.0,
            (0, 0) => -3.0,
            _ => number(i, j),
        });
        assert_elements(a.transposed().submatrix(1..5, 1..2).as_ref(), [4, 1], |i, _| match i {
            0 | 2 | 3 => number(1, i + 1),
            _ => number(1, 2),
        });
    }
}

#[test]
fn the_parts_of_a_split_are_all_of_the_matrix() {
    for strides @ [row_stride, column_stride] in STRIDES {
        for cut in 0..=4 {
            let fill = |mut part: MatMut<'_>, value: f32| {
                let [rows, columns] = [part.rows(), part.columns()];
                for (i, j) in (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))) {
                    *part.at_mut(i, j) += value;
                }
            };
            let mut data = numbered(4, 5, strides);
            let mut a = MatMut::new(&mut data, 4, 5, row_stride, column_stride);
            let (above, below) = a.reborrow().split_rows(cut);
            assert_eq!([above.rows(), below.rows(), above.columns(), below.columns()], [cut, 4 - cut, 5, 5]);
            fill(above, 0.25);
            fill(below, 0.5);
            assert_elements(a.as_ref(), [4, 5], |i, j| number(i, j) + if i < cut { 0.25 } else { 0.5 });
            let (left, right) = a.reborrow().split_columns(cut);
            assert_eq!([left.rows(), right.rows(), left.columns(), right.columns()], [4, 4, cut, 5 - cut]);
            fill(left, 1e4);
            fill(right, 2e4);
            assert_elements(a.as_ref(), [4, 5], |i, j| {
                number(i, j) + if i < cut { 0.25 } else { 0.5 } + if j < cut { 1e4 } else { 2e4 }
            });
        }
        let refused = |f: fn(MatMut<'_>)| {
            let mut data = numbered(4, 5, strides);
            catch_unwind(move || f(MatMut::new(&mut data, 4, 5, row_stride, column_stride))).is_err()
        };
        assert!(refused(|a| _ = a.split_rows(5)) && refused(|a| _ = a.split_columns(6)));
        assert!(refused(|a| _ = a.submatrix(0..5, 0..5)) && refused(|mut a| *a.at_mut(4, 0) = 0.0));
    }
}

/// Nothing lies outside of the data, not even for a moment.
#[test]
fn matrices_without_elements() {
    for [rows, columns] in [[0, 3], [3, 0], [0, 0]] {
        let a = MatRef::new(&[], rows, columns, -7, 1000);
        assert_elements(a.reversed_rows().reversed_columns().transposed(), [columns, rows], number);
        let mut data = [];
        let (above, below) = MatMut::new(&mut data, rows, columns, 9, -2).split_rows(rows);
        assert_eq!([above.rows(), below.rows()], [rows, 0]);
    }
}

#[test]
#[should_panic(expected = "does not fit a slice of 11 elements")]
fn a_view_beyond_its_slice_is_refused() {
    MatRef::new(&[0.0; 11], 3, 4, 4, 1);
}

#[test]
#[should_panic(expected = "does not fit a slice of 11 elements")]
fn a_reversed_view_beyond_its_slice_is_refused() {
    MatRef::new(&[0.0; 11], 3, 4, -4, -1);
}

#[test]
fn outputs_whose_elements_overlap_are_refused() {
    let refused = |rows, columns, row_stride, column_stride| {
        catch_unwind(|| {
            MatMut::new(&mut [0.0; 100], rows, columns, row_stride, column_stride);
        })
        .is_err()
    };
    for [row_sign, column_sign] in [[1, 1], [-1, 1], [1, -1], [-1, -1]] {
        for (rows, columns, row_stride, column_stride) in
            [(3, 4, 0, 1), (3, 4, 1, 1), (3, 4, 3, 1), (3, 4, 1, 2), (1, 2, 9, 0)]
        {
            let (row_stride, column_stride) = (row_sign * row_stride, column_sign * column_stride);
            assert!(refused(rows, columns, row_stride, column_stride), "strides ({row_stride}, {column_stride})");
        }
        for (rows, columns, row_stride, column_stride) in
            [(3, 4, 4, 1), (3, 4, 1, 3), (1, 4, 0, 1), (4, 1, 1, 0), (0, 4, 0, 0)]
        {
            let (row_stride, column_stride) = (row_sign * row_stride, column_sign * column_stride);
            assert!(!refused(rows, columns, row_stride, column_stride), "strides ({row_stride}, {column_stride})");
        }
    }
}
