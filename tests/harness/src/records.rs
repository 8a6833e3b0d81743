//! Real data: the largest English word list that Debian has.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
};

const LIST: &str = "/usr/share/dict/american-english-insane";

/// So many words, evenly from the whole list, each with the number of its line.
pub fn words(count: usize) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(LIST)
        .unwrap_or_else(|error| panic!("{LIST}: {error}; run scripts/setup, which installs it"));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() >= count, "{LIST} has {} lines", lines.len());
    let line = |number: usize| number * lines.len() / count;
    let words: BTreeMap<_, _> = (0..count)
        .map(|number| (lines[line(number)].to_owned(), line(number).to_string()))
        .collect();
    assert_eq!(words.len(), count, "the list has each word once");
    words
}

/// Keys that cut records into so many parts of equal length.
pub fn split_keys(records: &BTreeMap<String, String>, parts: usize) -> Vec<String> {
    let places = (1..parts).map(|part| part * records.len() / parts);
    let keys: Vec<&String> = records.keys().collect();
    places.map(|place| keys[place].clone()).collect()
}

/// Writes records as `flotilla import` reads them.
pub fn write_ndjson(path: &Path, records: &BTreeMap<String, String>) {
    let mut file = BufWriter::new(File::create(path).expect("the folder is writable"));
    for (key, value) in records {
        let record = serde_json::json!({ "key": key, "value": value });
        writeln!(file, "{record}").expect("the folder is writable");
    }
    file.flush().expect("the folder is writable");
}
