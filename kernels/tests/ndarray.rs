//! Views of arrays of the crate `ndarray` as matrices, and back.

#![cfg(feature = "ndarray")]

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
use predictive_coding_kernels::{GemmScratch, Level, Lhs, MatMut, MatRef, gemm};

/// Element (i, j) is 100 i + j.
fn numbered(rows: usize, columns: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows, columns), |(i, j)| (100 * i + j) as f32)
}

/// Views of an array: all of it, turned around, with gaps, without elements.
fn views(array: &Array2<f32>) -> [ArrayView2<'_, f32>; 8] {
    [
        array.view(),
        array.t(),
        array.slice(s![..;-1, ..]),
        array.slice(s![.., ..;-2]),
        array.slice(s![1..;-2, 2..;-1]),
        array.slice(s![..;2, 1..4]).reversed_axes(),
        array.slice(s![2..2, ..]),
        array.slice(s![..;-1, 3..3]),
    ]
}

fn assert_same(array: ArrayView2<'_, f32>, view: MatRef<'_>) {
    assert_eq!((view.rows(), view.columns()), array.dim());
    array.indexed_iter().for_each(|((i, j), &x)| assert_eq!(view.at(i, j), x, "element ({i}, {j}) of {view:?}"));
}

#[test]
fn arrays_and_matrices_are_views_of_the_same_elements() {
    let array = numbered(5, 6);
    for view in views(&array) {
        let matrix = MatRef::from(view);
        assert_same(view, matrix);
        for matrix in [matrix, matrix.transposed(), matrix.reversed_rows(), matrix.reversed_columns().transposed()] {
            let back = ArrayView2::from(matrix);
            assert_same(back, matrix);
        }
        assert_eq!(ArrayView2::from(matrix), view);
    }
    // Of which an array has none of its own.
    let same = MatRef::new(&[7.0], 3, 4, 0, 0);
    assert_eq!(ArrayView2::from(same), Array2::from_elem((3, 4), 7.0));
}

#[test]
fn what_is_written_to_one_is_in_the_other() {
    type Turn = fn(&mut ArrayViewMut2<'_, f32>);
    let turns: [Turn; 3] = [|_| {}, |view| view.invert_axis(Axis(0)), |view| view.swap_axes(0, 1)];
    for turn in turns {
        let (mut array, mut want) = (numbered(5, 6), numbered(5, 6));
        let mut view = array.slice_mut(s![1..;2, ..;-1]);
        let mut twin = want.slice_mut(s![1..;2, ..;-1]);
        turn(&mut view);
        turn(&mut twin);
        let mut matrix = MatMut::from(view);
        *matrix.at_mut(1, 0) = -1.0;
        twin[[1, 0]] = -1.0;
        let mut back = ArrayViewMut2::from(matrix);
        assert_eq!(back, twin);
        back[[0, 1]] = -2.0;
        twin[[0, 1]] = -2.0;
        assert_eq!(array, want);
    }
    let mut data = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let mut reversed = ArrayViewMut2::from(MatMut::new(&mut data, 2, 3, -3, -1));
    assert_eq!(reversed, ndarray::arr2(&[[6.0, 5.0, 4.0], [3.0, 2.0, 1.0]]));
    reversed[[1, 2]] = 0.0;
    assert_eq!(data, [0.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
}

#[test]
fn a_product_of_arrays() {
    let level = Level::detect();
    let (a, b) = (numbered(9, 7), numbered(20, 7));
    let (a, b) = (a.slice(s![..;-1, ..]), b.slice(s![..;-1, ..;-1]).reversed_axes());
    let mut c = Array2::from_elem((20, 9), f32::NAN);
    let mut scratch = vec![0.0; GemmScratch::new(level, 9, 7, 20).len()];
    gemm(level, 1.0, Lhs::Plain(a.into()), b.into(), 0.0, c.view_mut().reversed_axes().into(), &mut scratch);
    // Of integers below 2^24, which are exact.
    assert_eq!(c.t(), a.dot(&b));
}
