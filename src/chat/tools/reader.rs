//! The reader of one row's calls.

use super::happening::{Happening, Look, Next};
use super::harmony::Harmony;
use super::named::Named;
use super::notation::{Notation, Noted};
use super::object::{Objects, Place};
use super::table::{Calls, Row};
use super::tagged::Tagged;

/// Reads what stands between an opening and what ends the calls.
#[derive(Clone, Debug)]
pub(super) enum Reader {
    Objects(Objects),
    Named(Named),
    Tagged(Tagged),
    Noted(Noted),
    Harmony(Harmony),
}

impl Reader {
    pub fn new(row: &Row) -> Reader {
        match row.calls {
            Calls::Objects(keys, place) => Reader::Objects(Objects::new(keys, place, row.close)),
            Calls::Named(naming) => Reader::Named(Named::new(naming, row.close)),
            Calls::Tagged(tags) => Reader::Tagged(Tagged::new(tags, row.close)),
            Calls::Noted(notation) => Reader::Noted(Noted::new(notation, row.close)),
            Calls::Harmony => Reader::Harmony(Harmony::new()),
        }
    }

    /// Takes what it can.
    pub fn step(&mut self, look: Look<'_>, out: &mut Vec<Happening>) -> Next {
        // Behind Llama's marker stands an object, or Python for the built-in tools.
        if let Reader::Objects(objects) = self
            && objects.place() == Place::Whole
            && objects.at_start()
        {
            let (rest, _) = look.trimmed();
            match rest.text.chars().next() {
                None if !look.end => return Next::Wait,
                Some('{') => {}
                _ => *self = Reader::Noted(Noted::new(Notation::Python, "")),
            }
        }
        match self {
            Reader::Objects(r) => r.step(look, out),
            Reader::Named(r) => r.step(look, out),
            Reader::Tagged(r) => r.step(look, out),
            Reader::Noted(r) => r.step(look, out),
            Reader::Harmony(r) => r.step(look, out),
        }
    }
}
