//! What happened, as text; by default only its hash is kept.

use std::fmt::{self, Write as _};

pub(crate) struct Trace {
    hash: u64,
    verbose: bool,
}

impl Trace {
    pub(crate) fn new(verbose: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            verbose,
        }
    }

    pub(crate) fn line(&mut self, text: fmt::Arguments<'_>) {
        if self.verbose {
            println!("{text}");
        }
        self.write_fmt(text).expect("hashing cannot fail");
        self.hash = fnv(self.hash, b"\n");
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }
}

impl fmt::Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.hash = fnv(self.hash, text.as_bytes());
        Ok(())
    }
}

/// The FNV-1a hash: the same in every process, which the standard hasher does not promise.
pub(crate) fn fnv(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(seed, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
