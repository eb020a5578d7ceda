//! Which kernels a session uses.

use geb_kernels::Kernels;
use geb_kernels::level::Level;

use crate::error::{Error, Result};

/// The kernels of the level asked for, else of the best one or of `GEB_ISA`.
pub(super) fn choose_kernels(level: Option<Level>) -> Result<&'static Kernels> {
    match level {
        Some(level) => Kernels::for_level(level).ok_or_else(|| Error::Request {
            what: "instruction level".into(),
            value: level.name().into(),
            allowed: Level::available()
                .iter()
                .map(|l| l.name())
                .collect::<Vec<_>>()
                .join(", "),
        }),
        None => Kernels::best().map_err(|allowed| Error::Request {
            what: "GEB_ISA".into(),
            value: std::env::var("GEB_ISA").unwrap_or_default(),
            allowed,
        }),
    }
}
