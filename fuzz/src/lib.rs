//! What must be true of any input, one function for each fuzz target. What is wrong panics.
//!
//! Not panicking is the least of it: each function holds what a parser says against another parser, against what is made
//! of it again, or against the same input in other pieces.

pub mod convert;
pub mod forwarded;
pub mod manifest;
pub mod proxy;
pub mod request;
pub mod route;
pub mod tar;
pub mod values;
