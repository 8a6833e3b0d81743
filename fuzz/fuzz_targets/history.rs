//! Files of histories: what is read is written again as it was, and judged.
#![no_main]

use flotilla_history::{History, Limits, check};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(history) = History::read(data) {
        let mut file = Vec::new();
        history.write(&mut file).expect("memory takes it");
        let again = History::read(&file[..]).expect("what was written can be read");
        assert_eq!(again.operations(), history.operations());
        let limits = Limits {
            search_steps: 10_000,
            search_bytes: 1 << 20,
            ..Limits::default()
        };
        let report = check(&history, &limits);
        let _ = report.display(&history).to_string();
    }
});
