//! Checked views of matrices with any strides.

use std::fmt;

/// A matrix in somebody's slice: element (i, j) lies at `i * row_stride + j * column_stride`.
#[derive(Clone, Copy)]
pub struct MatRef<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

/// As [`MatRef`], to be written to.
pub struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> MatRef<'a> {
    /// # Panics
    /// If the last element is outside `data`.
    pub fn new(data: &'a [f32], rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> Self {
        let [row_stride, column_stride] = check(data.len(), [rows, columns], [row_stride, column_stride]);
        MatRef { data, rows, columns, row_stride, column_stride }
    }

    /// A matrix without gaps, row after row.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn row_major(data: &'a [f32], rows: usize, columns: usize) -> Self {
        MatRef::new(data, rows, columns, columns, 1)
    }

    /// The same elements with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        MatRef {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Distance of rows, in elements.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// Distance of columns, in elements.
    pub fn column_stride(&self) -> usize {
        self.column_stride
    }

    /// The slice that holds the matrix.
    pub fn data(&self) -> &'a [f32] {
        self.data
    }

    /// Element (i, j).
    ///
    /// # Panics
    /// If it is outside of the matrix.
    pub fn at(&self, i: usize, j: usize) -> f32 {
        assert!(i < self.rows && j < self.columns, "element ({i}, {j}) is outside of {self:?}");
        self.data[i * self.row_stride + j * self.column_stride]
    }
}

impl<'a> MatMut<'a> {
    /// # Panics
    /// If the last element is outside `data`, or if neither the rows nor the columns lie one behind the
    /// other: elements that share a place could be written to by several threads at once.
    pub fn new(data: &'a mut [f32], rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> Self {
        let [row_stride, column_stride] = check(data.len(), [rows, columns], [row_stride, column_stride]);
        assert!(
            rows == 0
                || columns == 0
                || apart(rows, row_stride, columns, column_stride)
                || apart(columns, column_stride, rows, row_stride),
            "elements of a {rows} x {columns} matrix of strides ({row_stride}, {column_stride}) overlap"
        );
        MatMut { data, rows, columns, row_stride, column_stride }
    }

    /// A matrix without gaps, row after row.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn row_major(data: &'a mut [f32], rows: usize, columns: usize) -> Self {
        MatMut::new(data, rows, columns, columns, 1)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Distance of rows, in elements.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// Distance of columns, in elements.
    pub fn column_stride(&self) -> usize {
        self.column_stride
    }

    /// The slice that holds the matrix.
    pub fn data_mut(&mut self) -> &mut [f32] {
        self.data
    }
}

/// Whether `count` lines of `length` > 0 elements lie one behind the other; the matrix fits a slice.
fn apart(count: usize, stride: usize, length: usize, step: usize) -> bool {
    (length == 1 || step > 0) && (count == 1 || stride > (length - 1) * step)
}

/// The strides of a matrix whose elements are all in a slice of `len`. One without elements has none either, so
/// that no place outside of the slice is ever computed.
fn check(len: usize, [rows, columns]: [usize; 2], [row_stride, column_stride]: [usize; 2]) -> [usize; 2] {
    if rows == 0 || columns == 0 {
        return [0, 0];
    }
    let last = (rows - 1)
        .checked_mul(row_stride)
        .and_then(|a| a.checked_add((columns - 1).checked_mul(column_stride)?))
        .filter(|&last| last < len);
    assert!(
        last.is_some(),
        "a {rows} x {columns} matrix of strides ({row_stride}, {column_stride}) does not fit a slice of {len} elements"
    );
    [row_stride, column_stride]
}

impl fmt::Debug for MatRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {} matrix of strides ({}, {})", self.rows, self.columns, self.row_stride, self.column_stride)
    }
}

impl fmt::Debug for MatMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {} matrix of strides ({}, {})", self.rows, self.columns, self.row_stride, self.column_stride)
    }
}
