//! Ctrl-C and its like: the run ends, and says what it has seen so far.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

/// Whether a signal has come. A second one ends the process at once.
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub(crate) fn watch() -> Self {
        let came = Arc::<AtomicBool>::default();
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first one finds the flag down, and raises it.
            let registered = flag::register_conditional_shutdown(signal, 1, Arc::clone(&came))
                .and_then(|_| flag::register(signal, Arc::clone(&came)));
            registered.expect("these signals can be caught");
        }
        Self(came)
    }

    pub(crate) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
