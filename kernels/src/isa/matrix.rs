//! Products of small matrices of bytes.

use super::Isa;

/// An instruction set that multiplies 2 x 8 bytes with 8 x 2.
///
/// Its results come as *squares*: a number for each of two tokens and each of `ROWS` rows, in an order of its own. Rows
/// and tokens are spread over squares the same way, so arithmetic is lane by lane.
///
/// # Safety
/// As for [`Isa`].
pub(crate) unsafe trait Matrix: Isa {
    /// `[ROWS][8]` bytes.
    type Eights: Copy;
    /// `[2 tokens][ROWS]` I32.
    type SquareInts: Copy;
    /// `[2 tokens][ROWS]` F32.
    type Squares: Copy;

    /// `[ROWS][8]` bytes.
    unsafe fn load_eights(self, p: *const u8) -> Self::Eights;
    fn zero_square_ints(self) -> Self::SquareInts;
    /// Adds the products of each row's eight weights with the `[2 tokens][8]` signed bytes at `x`.
    unsafe fn dot_squares(
        self,
        acc: Self::SquareInts,
        w: Self::Eights,
        x: *const u8,
    ) -> Self::SquareInts;

    fn zero_squares(self) -> Self::Squares;
    fn square_floats(self, v: Self::SquareInts) -> Self::Squares;
    /// The F32 of each row at `p`, for both tokens.
    unsafe fn spread_rows(self, p: *const f32) -> Self::Squares;
    /// The F32 of each of two tokens at `p`, for every row.
    unsafe fn spread_tokens(self, p: *const u8) -> Self::Squares;
    fn sub_squares(self, a: Self::Squares, b: Self::Squares) -> Self::Squares;
    fn mul_squares(self, a: Self::Squares, b: Self::Squares) -> Self::Squares;
    /// `a * b + acc`, rounded once.
    fn fma_squares(self, acc: Self::Squares, a: Self::Squares, b: Self::Squares) -> Self::Squares;
    /// The rows of each token.
    fn split_squares(self, v: Self::Squares) -> [Self::RowFloats; 2];
}
