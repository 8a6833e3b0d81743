//! The console of a real cluster: what its pages say, and what a real browser shows of them while keys are written, searched
//! for, and a node is killed.
//!
//! - `api`: the answers behind the page, from every node.
//! - `page`: the page, in a headless Chromium. `FLOTILLA_BLESS=1` has it also take the pictures of `docs/console.md`.
//! - `top`: the same in a terminal.
//! - `browser`: drives that Chromium.
//! - `writers`: somebody to look at.

mod api;
mod browser;
mod page;
mod top;
mod writers;
