//! A strided mutable view of an F32 matrix, so that threads can write disjoint columns.

use core::marker::PhantomData;

/// A column range of a row-major `[rows, stride]` F32 matrix.
///
/// Rows are tokens, columns are the outputs of one weight matrix. Splitting by columns gives
/// disjoint views of the same buffer, which a slice cannot express.
pub struct MatMut<'a> {
    data: *mut f32,
    rows: usize,
    cols: usize,
    stride: usize,
    life: PhantomData<&'a mut [f32]>,
}

// SAFETY: a view has exclusive access to its elements, like `&mut [f32]`, which is `Send`.
unsafe impl Send for MatMut<'_> {}

impl<'a> MatMut<'a> {
    /// Views `data` as `rows` rows of `cols` values, `stride` values apart.
    ///
    /// # Panics
    /// If `cols > stride` or the last row does not fit: a bug of the caller.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(
            cols <= stride,
            "matrix view: {cols} columns in a stride of {stride}"
        );
        let need = if rows == 0 {
            0
        } else {
            (rows - 1) * stride + cols
        };
        assert!(
            data.len() >= need,
            "matrix view: {need} values needed, {} given",
            data.len()
        );
        Self {
            data: data.as_mut_ptr(),
            rows,
            cols,
            stride,
            life: PhantomData,
        }
    }

    /// Builds a view from its parts.
    ///
    /// # Safety
    /// For every `t < rows`, the `cols` values at `data + t * stride` must be valid for reads and
    /// writes during `'a`, and nothing else may access them during `'a`.
    #[allow(dead_code)] // used by the thread team
    pub(crate) unsafe fn from_raw(
        data: *mut f32,
        rows: usize,
        cols: usize,
        stride: usize,
    ) -> MatMut<'a> {
        Self {
            data,
            rows,
            cols,
            stride,
            life: PhantomData,
        }
    }

    /// Number of rows (tokens).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns (outputs) of this view.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Distance between rows, in values.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// First value; for kernels, which receive checked dimensions with it.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.data
    }

    /// Row `t` of the view.
    pub fn row_mut(&mut self, t: usize) -> &mut [f32] {
        assert!(t < self.rows, "row {t} of {}", self.rows);
        // SAFETY: `t < rows`, so by construction these `cols` values are valid and belong to this
        // view alone; `&mut self` makes the borrow unique.
        unsafe { core::slice::from_raw_parts_mut(self.data.add(t * self.stride), self.cols) }
    }

    /// A view of the same elements with a shorter life.
    pub fn reborrow(&mut self) -> MatMut<'_> {
        MatMut {
            data: self.data,
            life: PhantomData,
            ..*self
        }
    }

    /// Splits into columns `..at` and `at..`.
    pub fn split_cols(self, at: usize) -> (MatMut<'a>, MatMut<'a>) {
        assert!(at <= self.cols, "split at column {at} of {}", self.cols);
        // With no rows there is no element to point past.
        let offset = if self.rows == 0 { 0 } else { at };
        // SAFETY: `at <= cols`, so the pointer stays within (or one past) the first row. The two
        // views share no column, hence no element, and `self` is consumed.
        let right = unsafe { self.data.add(offset) };
        let (rows, stride) = (self.rows, self.stride);
        (
            MatMut {
                data: self.data,
                rows,
                cols: at,
                stride,
                life: PhantomData,
            },
            MatMut {
                data: right,
                rows,
                cols: self.cols - at,
                stride,
                life: PhantomData,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_split_into_disjoint_views() {
        let mut data = vec![0.0f32; 3 * 5];
        let (mut left, mut right) = MatMut::new(&mut data, 3, 5, 5).split_cols(2);
        for t in 0..3 {
            left.row_mut(t).fill(1.0);
            right.row_mut(t).fill(2.0);
        }
        assert_eq!(data, [1.0, 1.0, 2.0, 2.0, 2.0].repeat(3));
    }

    #[test]
    fn last_row_needs_no_padding() {
        let mut data = vec![0.0f32; 5 + 2];
        let mut view = MatMut::new(&mut data, 2, 2, 5);
        assert_eq!(view.row_mut(1).len(), 2);
    }
}
