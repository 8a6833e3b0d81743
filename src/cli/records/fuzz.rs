//! Files of records, of any content.

use std::io::Cursor;

use super::*;
use crate::fuzz::byte;

/// Items of one input that are resumed behind.
const RESUMED_MAX: usize = 8;

fn read(
    format: FileFormat,
    notation: Notation,
    text: &[u8],
    place: Place,
    columns: Option<csv::Columns>,
) -> Option<Vec<Item>> {
    let mut input = Cursor::new(text.to_vec());
    input.set_position(place.offset);
    let path = Path::new("file");
    match Reader::over(path, Box::new(input), format, notation, place, columns) {
        Ok(reader) => Some(
            reader
                .map(|item| item.expect("memory can be read"))
                .collect(),
        ),
        Err(failure) => {
            assert!(!failure.to_string().contains(char::is_control), "{failure}");
            None
        }
    }
}

/// A file to import: every line is a record or is named with its place; reading can go on behind each of them; and
/// records that are written are read as the same again.
///
/// # Panics
/// If that does not hold.
pub fn records(mut data: &[u8]) {
    let form = byte(&mut data);
    let format = [FileFormat::Ndjson, FileFormat::Csv][usize::from(form & 1)];
    let notation = [Notation::Escaped, Notation::Hex][usize::from(form >> 1 & 1)];
    let Some(items) = read(format, notation, data, Place::default(), None) else {
        return;
    };
    let columns = match format {
        FileFormat::Ndjson => None,
        FileFormat::Csv => csv::Columns::read(&mut &data[..]).ok(),
    };
    let mut before = columns.map(|columns| columns.end).unwrap_or_default();
    let mut records = Vec::new();
    for (at, item) in items.iter().enumerate() {
        assert!(before.offset < item.end.offset, "{before:?}, {item:?}");
        assert!(item.end.offset <= data.len() as u64, "{item:?}");
        assert!(before.lines < item.line, "{before:?}, {item:?}");
        assert!(before.lines <= item.end.lines, "{before:?}, {item:?}");
        before = item.end;
        match &item.content {
            Ok(record) => {
                assert!(!record.key.is_empty() && record.value.is_some());
                records.push(record.clone());
            }
            Err(malformed) => {
                for text in [&malformed.reason, &malformed.text] {
                    assert!(text.chars().count() <= Malformed::TEXT_MAX + 1, "{text}");
                }
            }
        }
        if at < RESUMED_MAX {
            let rest = read(format, notation, data, item.end, columns);
            assert_eq!(
                rest.expect("the header was good"),
                items[at + 1..],
                "{item:?}"
            );
        }
    }
    for format in [FileFormat::Ndjson, FileFormat::Csv] {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, format, notation, true).expect("memory");
        for record in &records {
            writer.write(record).expect("memory");
        }
        writer.flush().expect("memory");
        drop(writer);
        let again = read(format, notation, &file, Place::default(), None);
        let again: Vec<Record> = again
            .expect("a written header")
            .into_iter()
            .map(|item| item.content.expect("a written record"))
            .collect();
        assert_eq!(again, records);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::feed;

    #[test]
    fn files_of_records_of_any_content() {
        let tagged = |tag: u8, text: &[u8]| [&[tag], text].concat();
        let seeds = [
            tagged(0, b"{\"key\":\"a\",\"value\":\"1\"}\n\n{\"value\":\"\",\"key\":\"\\u00e9\",\"revision\":7}\r\n"),
            tagged(0, b"{\"key\":\"/wA=\",\"value\":\"AAE=\",\"base64\":true}\nnot json\n{\"key\":\"cut"),
            tagged(2, b"{\"key\":\"00ff\",\"value\":\"\"}\n{\"key\":\"0\",\"value\":\"\"}\n"),
            tagged(1, b"key,value\na,1\n\"b\",\"two\nlines, \"\"quoted\"\"\"\nc\r\nd,1,2\n"),
            tagged(1, b"\xef\xbb\xbfvalue,key\r\n1,a\r\n\r\n2,b\r3,c"),
            tagged(3, b"Key, Value \n00ff,\n0g,\n"),
        ];
        feed("records", &seeds, 20_000, records);
    }
}
