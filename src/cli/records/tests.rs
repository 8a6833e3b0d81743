//! Readers against good, bad and cut-off files.

use std::fs;

use proptest::prelude::*;

use super::*;

fn read_from(text: &[u8], format: FileFormat, notation: Notation, place: Place) -> Vec<Item> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file");
    fs::write(&path, text).expect("writable");
    Reader::open(&path, format, notation, place)
        .expect("a readable file")
        .map(|item| item.expect("readable"))
        .collect()
}

fn read(text: &str, format: FileFormat) -> Vec<Item> {
    read_from(text.as_bytes(), format, Notation::Escaped, Place::default())
}

fn record(key: &str, value: &str) -> Record {
    Record {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    }
}

fn reason(item: &Item) -> &str {
    &item.content.as_ref().expect_err("malformed").reason
}

#[test]
fn ndjson_rows() {
    let items = read(
        "{\"key\":\"a\",\"value\":\"C:\\\\new\"}\n\
         \n\
         {\"value\":\"\",\"key\":\"\\u00e9\",\"revision\":7}\r\n\
         {\"key\":\"/wA=\",\"value\":\"AAE=\",\"base64\":true}",
        FileFormat::Ndjson,
    );
    let records: Vec<_> = items
        .iter()
        .map(|item| item.content.clone().expect("valid"))
        .collect();
    let binary = Record {
        key: Bytes::from_static(b"\xff\0"),
        value: Some(Bytes::from_static(b"\0\x01")),
    };
    assert_eq!(records, [record("a", "C:\\new"), record("é", ""), binary]);
    assert_eq!(
        items.iter().map(|item| item.line).collect::<Vec<_>>(),
        [1, 3, 4]
    );
}

#[test]
fn malformed_ndjson_is_reported_with_line_and_reason_and_the_rest_goes_on() {
    let items = read(
        "{\"key\":\"a\",\"value\":\"1\"}\n\
         not json\n\
         {\"key\":\"b\"}\n\
         {\"key\":\"\",\"value\":\"x\"}\n\
         {\"key\":\"c\",\"value\":3}\n\
         {\"key\":\"d\",\"value\":\"x\",\"colour\":\"red\"}\n\
         {\"key\":\"*\",\"value\":\"\",\"base64\":true}\n\
         {\"key\":\"z\",\"value\":\"26\"}\n\
         {\"key\":\"cut",
        FileFormat::Ndjson,
    );
    assert_eq!(items.len(), 9);
    for (item, part) in items[1..7].iter().zip([
        "expected ident",
        "value is missing",
        "key is empty",
        "expected a string",
        "unknown field `colour`",
        "field key",
    ]) {
        assert!(
            reason(item).contains(part),
            "line {}: {}",
            item.line,
            reason(item)
        );
    }
    assert_eq!(items[7].content, Ok(record("z", "26")));
    assert_eq!(items[7].line, 8);
    assert!(reason(&items[8]).contains("EOF"), "{}", reason(&items[8]));
}

#[test]
fn csv_rows() {
    let items = read(
        "value,key\n1,a\n\"two\nlines, \"\"quoted\"\"\",b\n3,c\n",
        FileFormat::Csv,
    );
    let records: Vec<_> = items
        .iter()
        .map(|item| item.content.clone().expect("valid"))
        .collect();
    let second = record("b", "two\nlines, \"quoted\"");
    assert_eq!(records, [record("a", "1"), second, record("c", "3")]);
    assert_eq!(
        items.iter().map(|item| item.line).collect::<Vec<_>>(),
        [2, 3, 5]
    );
}

/// Found by the fuzz target `records`: wherever reading began, such a key lost its first character.
#[test]
fn a_byte_order_mark_in_the_midst_of_a_file_is_part_of_the_key() {
    let text = "\u{feff}key,value\n\u{feff}a,1\n\u{feff}b,2\n";
    let items = read(text, FileFormat::Csv);
    let expected = [record("\u{feff}a", "1"), record("\u{feff}b", "2")];
    assert_eq!(
        items.iter().map(|item| item.line).collect::<Vec<_>>(),
        [2, 3]
    );
    for (item, record) in items.iter().zip(expected) {
        assert_eq!(item.content, Ok(record));
    }
    let rest = read_from(
        text.as_bytes(),
        FileFormat::Csv,
        Notation::Escaped,
        items[0].end,
    );
    assert_eq!(rest, items[1..]);
}

#[test]
fn malformed_csv_is_reported_with_line_and_reason_and_the_rest_goes_on() {
    let items = read("key,value\na,1\nb\nc,3,4\n,5\nz,26\n", FileFormat::Csv);
    let lines: Vec<_> = items
        .iter()
        .filter(|item| item.content.is_err())
        .map(|item| item.line)
        .collect();
    assert_eq!(lines, [3, 4, 5]);
    assert!(reason(&items[1]).contains("1 columns, expected 2"));
    assert!(reason(&items[3]).contains("key is empty"));
    assert_eq!(items[4].content, Ok(record("z", "26")));
}

#[test]
fn a_csv_file_without_header_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    for text in ["", "a,1\n", "key\n", "key,value,more\n"] {
        let path = folder.path().join("file.csv");
        fs::write(&path, text).expect("writable");
        let result = Reader::open(&path, FileFormat::Csv, Notation::Escaped, Place::default());
        let failure = result.err().expect("no header");
        assert!(failure.to_string().contains("key,value"), "{failure}");
    }
}

#[test]
fn hex_files() {
    let item = &read_from(
        b"key,value\n00ff,\n",
        FileFormat::Csv,
        Notation::Hex,
        Place::default(),
    )[0];
    let key = &item.content.as_ref().expect("valid").key;
    assert_eq!(&key[..], b"\0\xff");
}

#[test]
fn a_line_without_end_is_not_taken_into_memory() {
    let mut text = vec![b'x'; 5000];
    text.extend_from_slice(b"\nnext\n");
    let mut input = &text[..];
    let mut line = Vec::new();
    let read = read_line(&mut input, &mut line, 100)
        .expect("memory")
        .expect("a line");
    assert!(read.cut);
    assert_eq!((read.bytes, line.len()), (5001, 100));
    let read = read_line(&mut input, &mut line, 100)
        .expect("memory")
        .expect("a line");
    assert!(!read.cut);
    assert_eq!(line, b"next");
    // A line that just fits is whole.
    let mut input = &b"abc\n"[..];
    assert!(
        !read_line(&mut input, &mut line, 3)
            .expect("memory")
            .expect("a line")
            .cut
    );
}

#[test]
fn the_format_comes_from_the_flag_or_the_name() {
    let of = |given, name: &str| FileFormat::of(given, Path::new(name)).ok();
    assert_eq!(of(None, "a.csv"), Some(FileFormat::Csv));
    assert_eq!(of(None, "a.jsonl"), Some(FileFormat::Ndjson));
    assert_eq!(of(Some(FileFormat::Csv), "a.jsonl"), Some(FileFormat::Csv));
    assert_eq!(of(None, "a.txt"), None);
}

fn any_records() -> impl Strategy<Value = Vec<Record>> {
    let bytes = || {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..20),
            "[a-z\",\\\\\n\r é]{1,12}".prop_map(String::into_bytes),
        ]
    };
    proptest::collection::vec(
        (bytes(), bytes()).prop_map(|(key, value)| Record {
            key: key.into(),
            value: Some(value.into()),
        }),
        0..12,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))] // each writes files

    #[test]
    fn what_is_written_is_read_again_from_any_place(records in any_records(), csv: bool, hex: bool) {
        let format = if csv { FileFormat::Csv } else { FileFormat::Ndjson };
        let notation = if hex { Notation::Hex } else { Notation::Escaped };
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, format, notation, true).expect("memory");
        for record in &records {
            writer.write(record).expect("memory");
        }
        writer.flush().expect("memory");
        drop(writer);
        let items = read_from(&file, format, notation, Place::default());
        let read: Vec<_> = items.iter().map(|item| item.content.clone().expect("valid")).collect();
        prop_assert_eq!(&read, &records);
        for (done, item) in items.iter().enumerate() {
            let rest = read_from(&file, format, notation, item.end);
            prop_assert_eq!(&rest[..], &items[done + 1..]);
        }
    }

    #[test]
    fn garbage_never_panics(garbage: Vec<u8>) {
        read_from(&garbage, FileFormat::Ndjson, Notation::Escaped, Place::default());
        let csv = [b"key,value\n", &garbage[..]].concat();
        read_from(&csv, FileFormat::Csv, Notation::Escaped, Place::default());
    }
}
