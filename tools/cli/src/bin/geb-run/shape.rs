//! Shapes of models that are made up.

use clap::ValueEnum;

/// A shape that can be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Shape {
    /// 24 layers, width 2048, 1.35 G weights
    #[value(name = "geb-1.3b")]
    Geb1_3b,
    /// 30 layers, width 576, 135 M weights
    #[value(name = "smollm2-135m")]
    Smollm2,
    /// 7 layers of Mixtral 8x7B, 10.4 G weights, 2 of 8 experts for each token
    #[value(name = "mixtral-7-layers")]
    Mixtral,
}
