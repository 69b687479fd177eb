//! Checked views of matrices with any strides.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

/// A matrix in somebody's memory: element (i, j) lies `i * row_stride + j * column_stride` elements behind the
/// first, both of which may be negative.
///
/// ```
/// use predictive_coding_kernels::MatRef;
///
/// let data = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
/// let a = MatRef::row_major(&data, 2, 3);
/// assert_eq!(a.at(1, 0), 4.0);
/// assert_eq!(a.transposed().at(2, 1), 6.0);
/// assert_eq!(a.reversed_rows().at(0, 0), 4.0);
/// assert_eq!(a.submatrix(0..2, 1..3).at(1, 1), 6.0);
/// ```
#[derive(Clone, Copy)]
pub struct MatRef<'a> {
    first: *const f32,
    shape: Strided,
    data: PhantomData<&'a [f32]>,
}

/// As [`MatRef`], to be written to.
///
/// ```
/// use predictive_coding_kernels::MatMut;
///
/// let mut data = [0.0; 6];
/// let (mut top, mut bottom) = MatMut::row_major(&mut data, 2, 3).split_rows(1);
/// *top.at_mut(0, 1) = 1.0;
/// *bottom.reborrow().transposed().at_mut(2, 0) = 2.0;
/// assert_eq!(data, [0.0, 1.0, 0.0, 0.0, 0.0, 2.0]);
/// ```
pub struct MatMut<'a> {
    first: *mut f32,
    shape: Strided,
    data: PhantomData<&'a mut [f32]>,
}

// SAFETY: a view is a borrow of f32.
unsafe impl Send for MatRef<'_> {}
// SAFETY: as above.
unsafe impl Sync for MatRef<'_> {}
// SAFETY: a view is a borrow of f32, and of these elements the only one.
unsafe impl Send for MatMut<'_> {}
// SAFETY: as above.
unsafe impl Sync for MatMut<'_> {}

/// Sizes and strides.
#[derive(Clone, Copy)]
struct Strided {
    rows: usize,
    columns: usize,
    row_stride: isize,
    column_stride: isize,
}

impl Strided {
    /// Of a matrix whose elements are all in a slice of `len`, the lowest of them first; and the index of its first
    /// element. A matrix without elements has no strides either, so that no place outside of the slice is computed.
    ///
    /// # Panics
    /// If an element is outside of the slice.
    fn within(len: usize, rows: usize, columns: usize, row_stride: isize, column_stride: isize) -> (Self, usize) {
        if rows == 0 || columns == 0 {
            return (Strided { rows, columns, row_stride: 0, column_stride: 0 }, 0);
        }
        let reach = |count: usize, stride: isize| (count - 1).checked_mul(stride.unsigned_abs());
        let reaches = reach(rows, row_stride).zip(reach(columns, column_stride));
        let fits = reaches.and_then(|(a, b)| a.checked_add(b)).is_some_and(|last| last < len);
        assert!(
            fits,
            "a {rows} x {columns} matrix of strides ({row_stride}, {column_stride}) does not fit a slice of {len} elements"
        );
        let before = |reach: usize, stride: isize| if stride < 0 { reach } else { 0 };
        let first = reaches.map_or(0, |(a, b)| before(a, row_stride) + before(b, column_stride));
        (Strided { rows, columns, row_stride, column_stride }, first)
    }

    fn transposed(self) -> Self {
        let Strided { rows, columns, row_stride, column_stride } = self;
        Strided { rows: columns, columns: rows, row_stride: column_stride, column_stride: row_stride }
    }

    /// The distance of an element from the first.
    ///
    /// # Panics
    /// If it is outside of the matrix.
    fn place(self, i: usize, j: usize) -> isize {
        assert!(i < self.rows && j < self.columns, "element ({i}, {j}) is outside of a {self:?}");
        i as isize * self.row_stride + j as isize * self.column_stride
    }

    /// A part of the matrix, and how far its first element is from the first of all.
    ///
    /// # Panics
    /// If the rows or columns are not all in the matrix.
    fn part(self, rows: Range<usize>, columns: Range<usize>) -> (Self, isize) {
        assert!(
            rows.start <= rows.end
                && rows.end <= self.rows
                && columns.start <= columns.end
                && columns.end <= self.columns,
            "rows {rows:?} and columns {columns:?} are not in a {self:?}"
        );
        let part = Strided { rows: rows.len(), columns: columns.len(), ..self };
        let empty = rows.is_empty() || columns.is_empty();
        let first = if empty { 0 } else { self.place(rows.start, columns.start) };
        (part, first)
    }

    /// Whether no two elements share a place: lines lie one behind the other, along one of the sides.
    fn is_apart(self) -> bool {
        let lines = |count: usize, stride: isize, length: usize, step: isize| {
            let (stride, step) = (stride.unsigned_abs(), step.unsigned_abs());
            (length == 1 || step > 0) && (count == 1 || stride > (length - 1) * step)
        };
        let Strided { rows, columns, row_stride, column_stride } = self;
        rows == 0
            || columns == 0
            || lines(rows, row_stride, columns, column_stride)
            || lines(columns, column_stride, rows, row_stride)
    }
}

impl<'a> MatRef<'a> {
    /// The lowest element of the matrix is the first of `data`: with a negative stride, that is in the last row or
    /// column.
    ///
    /// # Panics
    /// If an element is outside of `data`.
    pub fn new(data: &'a [f32], rows: usize, columns: usize, row_stride: isize, column_stride: isize) -> Self {
        let (shape, first) = Strided::within(data.len(), rows, columns, row_stride, column_stride);
        MatRef { first: data[first..].as_ptr(), shape, data: PhantomData }
    }

    /// The same elements with the last row first.
    pub fn reversed_rows(self) -> Self {
        let Strided { rows, row_stride, .. } = self.shape;
        let first = self.first.wrapping_offset(rows.saturating_sub(1) as isize * row_stride);
        MatRef { first, shape: Strided { row_stride: row_stride.wrapping_neg(), ..self.shape }, ..self }
    }

    /// The same elements with the last column first.
    pub fn reversed_columns(self) -> Self {
        self.transposed().reversed_rows().transposed()
    }

    /// Element (i, j).
    ///
    /// # Panics
    /// If it is outside of the matrix.
    pub fn at(&self, i: usize, j: usize) -> f32 {
        let place = self.shape.place(i, j);
        // SAFETY: every element of the matrix is in the borrowed memory.
        unsafe { *self.first.offset(place) }
    }

    /// Where element (i, j) lies, which need not be in the matrix.
    pub(crate) fn pointer(&self, i: usize, j: usize) -> *const f32 {
        self.first.wrapping_offset(i as isize * self.shape.row_stride + j as isize * self.shape.column_stride)
    }
}

impl<'a> MatMut<'a> {
    /// The lowest element of the matrix is the first of `data`: with a negative stride, that is in the last row or
    /// column.
    ///
    /// # Panics
    /// If an element is outside of `data`, or if neither the rows nor the columns lie one behind the
    /// other: elements that share a place could be written to by several threads at once.
    pub fn new(data: &'a mut [f32], rows: usize, columns: usize, row_stride: isize, column_stride: isize) -> Self {
        let (shape, first) = Strided::within(data.len(), rows, columns, row_stride, column_stride);
        assert!(shape.is_apart(), "elements of a {shape:?} overlap");
        MatMut { first: data[first..].as_mut_ptr(), shape, data: PhantomData }
    }

    /// Rows of neighbouring elements, `stride` apart, among which others may lie.
    ///
    /// # Safety
    /// The elements must be valid, and nobody else's as long as the view is used; the stride is no shorter than a row.
    pub(crate) unsafe fn of_rows(first: *mut f32, [rows, columns]: [usize; 2], stride: usize) -> Self {
        let shape = Strided { rows, columns, row_stride: stride as isize, column_stride: 1 };
        MatMut { first, shape, data: PhantomData }
    }

    /// The same view for a shorter lifetime.
    pub fn reborrow(&mut self) -> MatMut<'_> {
        MatMut { first: self.first, shape: self.shape, data: PhantomData }
    }

    /// The same view, read-only.
    pub fn as_ref(&self) -> MatRef<'_> {
        MatRef { first: self.first, shape: self.shape, data: PhantomData }
    }

    /// The rows before one, and those from it on.
    ///
    /// # Panics
    /// If there are fewer rows.
    pub fn split_rows(self, row: usize) -> (Self, Self) {
        let Strided { rows, columns, .. } = self.shape;
        let [(above, _), (below, first)] = [0..row, row..rows.max(row)].map(|rows| self.shape.part(rows, 0..columns));
        let below = MatMut { first: self.first.wrapping_offset(first), shape: below, data: PhantomData };
        (MatMut { shape: above, ..self }, below)
    }

    /// The columns before one, and those from it on.
    ///
    /// # Panics
    /// If there are fewer columns.
    pub fn split_columns(self, column: usize) -> (Self, Self) {
        let (left, right) = self.transposed().split_rows(column);
        (left.transposed(), right.transposed())
    }

    /// Element (i, j).
    ///
    /// # Panics
    /// If it is outside of the matrix.
    pub fn at_mut(&mut self, i: usize, j: usize) -> &mut f32 {
        let place = self.shape.place(i, j);
        // SAFETY: every element of the matrix is in the memory that is borrowed mutably.
        unsafe { &mut *self.first.offset(place) }
    }

    pub(crate) fn pointer(&mut self) -> *mut f32 {
        self.first
    }
}

impl fmt::Debug for Strided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {} matrix of strides ({}, {})", self.rows, self.columns, self.row_stride, self.column_stride)
    }
}

/// What views have that can be written to, and those that can not.
macro_rules! views {
    ($view:ident, &'a $($slice:tt)+) => {
        impl<'a> $view<'a> {
            /// A matrix without gaps, row after row.
            ///
            /// # Panics
            /// If `data` is too short.
            pub fn row_major(data: &'a $($slice)+, rows: usize, columns: usize) -> Self {
                $view::new(data, rows, columns, columns as isize, 1)
            }

            /// The same elements with rows and columns exchanged.
            pub fn transposed(self) -> Self {
                $view { shape: self.shape.transposed(), ..self }
            }

            /// Some rows and columns.
            ///
            /// # Panics
            /// If they are not all in the matrix.
            pub fn submatrix(self, rows: Range<usize>, columns: Range<usize>) -> Self {
                let (shape, first) = self.shape.part(rows, columns);
                $view { first: self.first.wrapping_offset(first), shape, ..self }
            }

            /// Number of rows.
            pub fn rows(&self) -> usize {
                self.shape.rows
            }

            /// Number of columns.
            pub fn columns(&self) -> usize {
                self.shape.columns
            }

            /// Distance of rows, in elements.
            pub fn row_stride(&self) -> isize {
                self.shape.row_stride
            }

            /// Distance of columns, in elements.
            pub fn column_stride(&self) -> isize {
                self.shape.column_stride
            }
        }

        impl fmt::Debug for $view<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.shape.fmt(f)
            }
        }
    };
}
views!(MatRef, &'a [f32]);
views!(MatMut, &'a mut [f32]);

/// Views of two-dimensional arrays of the crate `ndarray`, and back.
#[cfg(feature = "ndarray")]
mod arrays {
    use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder};

    use super::*;

    /// The strides that `ndarray` takes, and where the first element lies: negative ones are reversed afterwards.
    fn lowest(shape: Strided) -> (isize, [usize; 2], [bool; 2]) {
        let strides = [shape.row_stride, shape.column_stride];
        let counts = [shape.rows, shape.columns].map(|count| count.saturating_sub(1) as isize);
        let first = (0..2).map(|axis| if strides[axis] < 0 { counts[axis] * strides[axis] } else { 0 }).sum();
        (first, strides.map(isize::unsigned_abs), strides.map(|stride| stride < 0))
    }

    macro_rules! conversions {
        ($view:ident, $array:ident, $($mutable:ident)? => $pointer:ident) => {
            impl<'a> From<$array<'a, f32>> for $view<'a> {
                fn from($($mutable)? array: $array<'a, f32>) -> Self {
                    let (rows, columns) = array.dim();
                    let [row_stride, column_stride] = [array.strides()[0], array.strides()[1]];
                    let shape = Strided { rows, columns, row_stride, column_stride };
                    $view { first: array.$pointer(), shape, data: PhantomData }
                }
            }

            impl<'a> From<$view<'a>> for $array<'a, f32> {
                fn from(view: $view<'a>) -> Self {
                    let (first, strides, reversed) = lowest(view.shape);
                    let shape = (view.shape.rows, view.shape.columns).strides((strides[0], strides[1]));
                    // SAFETY: the elements are in memory that is borrowed as long as the view, the lowest of them at
                    // `first`; no two elements of a MatMut share a place, and its borrow is exclusive.
                    let mut array = unsafe { $array::from_shape_ptr(shape, view.first.wrapping_offset(first)) };
                    (0..2).filter(|&axis| reversed[axis]).for_each(|axis| array.invert_axis(ndarray::Axis(axis)));
                    array
                }
            }
        };
    }
    conversions!(MatRef, ArrayView2, => as_ptr);
    conversions!(MatMut, ArrayViewMut2, mut => as_mut_ptr);
}
