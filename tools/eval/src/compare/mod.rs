//! Models beside a base: what a comparison found, and how much each loses.

pub mod loss;
pub mod result;
