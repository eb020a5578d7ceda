//! What both forms of an importance matrix hold.

/// The statistics of one tensor's input.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Columns of one matrix; of all matrices in a file of the older form.
    pub cols: usize,
    /// `[matrices, cols]`
    pub sums: Vec<f32>,
    /// `[matrices]`
    pub counts: Vec<f32>,
}
