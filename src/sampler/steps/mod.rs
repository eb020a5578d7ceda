//! The steps between logits and draw, one file each, and their order.

mod min_p;
mod mirostat;
mod temperature;
mod top_k;
mod top_n_sigma;
mod top_p;
mod typical;
mod xtc;

use super::candidates::{Made, Step};
use super::options::SamplerOptions;

/// The steps that are on, in the order in which they are applied.
pub(super) fn chain(o: &SamplerOptions) -> Vec<Box<dyn Step>> {
    let temperature = temperature::new(o.temperature, o.dynatemp);
    let all: Vec<Made> = match o.mirostat {
        None => vec![
            top_n_sigma::new(o.top_n_sigma),
            top_k::new(o.top_k),
            typical::new(o.typical_p),
            top_p::new(o.top_p),
            min_p::new(o.min_p),
            xtc::new(o.xtc),
            temperature,
        ],
        Some(mirostat) => vec![temperature, mirostat::new(mirostat)],
    };
    all.into_iter().flatten().collect()
}
