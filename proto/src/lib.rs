//! Messages of Flotilla's wire and disk. No logic lives here.
#![allow(missing_docs)]
