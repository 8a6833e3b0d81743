//! Who judges the judge: a naive twin and a foreign one on small histories, long ones that are true by construction, and
//! anomalies planted into them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod anomalies;
mod files;
mod foreign;
mod open;
mod random;
mod script;
mod store;
mod twin;
mod valid;
