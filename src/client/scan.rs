//! Reading a range, page by page, across shards.

use bytes::Bytes;
use flotilla_proto::v1::{self, request, response};
use flotilla_shards::limits::SCAN_ROWS_MAX;

use super::{
    Client, Consistency,
    call::Repeat,
    error::{Error, Result},
    routes::Place,
};

/// What a scan reads.
#[derive(Debug, Clone, Default)]
pub struct ScanOptions {
    /// First key of the range.
    pub start: Bytes,
    /// First key that is no longer part of it; empty: to the end of the keyspace.
    pub end: Bytes,
    /// Rows at most; `None`: all.
    pub limit: Option<u64>,
    /// Rows of one page; 0: as many as the node gives.
    pub page_rows: u32,
    /// From the end of the range to its start.
    pub reverse: bool,
    /// Leave the values out.
    pub keys_only: bool,
    /// Each page is read so; pages are not read at one moment.
    pub consistency: Consistency,
}

impl ScanOptions {
    /// All keys that begin with `prefix`.
    #[must_use]
    pub fn prefix(prefix: &[u8]) -> Self {
        Self {
            start: Bytes::copy_from_slice(prefix),
            end: prefix_end(prefix),
            ..Self::default()
        }
    }
}

/// The first key after all keys that begin with `prefix`; empty if there is none.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    match prefix.iter().rposition(|byte| *byte != u8::MAX) {
        Some(last) => {
            let (kept, _) = prefix.split_at(last + 1);
            let mut end = kept.to_vec();
            if let Some(byte) = end.last_mut() {
                *byte += 1;
            }
            end.into()
        }
        None => Bytes::new(),
    }
}

/// A scan in progress.
#[derive(Debug)]
pub struct Scan {
    client: Client,
    /// What is left to be read.
    rest: ScanOptions,
    done: bool,
}

impl Scan {
    pub(super) fn new(client: Client, options: ScanOptions) -> Self {
        let empty = !options.end.is_empty() && options.start >= options.end;
        Self {
            client,
            done: empty || options.limit == Some(0),
            rest: options,
        }
    }

    /// The next page, or `None` at the end of the range. Never an empty page. After an error the same page can be asked
    /// for again.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn next_page(&mut self) -> Result<Option<Vec<v1::Row>>> {
        while !self.done {
            let rest = &self.rest;
            let left = rest.limit.unwrap_or(u64::MAX);
            let limit = match u32::try_from(left) {
                // More than a page can hold: as many as the server gives.
                Ok(left) if left as usize <= SCAN_ROWS_MAX && rest.page_rows == 0 => left,
                _ if rest.page_rows == 0 => 0,
                left => left.unwrap_or(u32::MAX).min(rest.page_rows),
            };
            let request = request::Kind::Scan(v1::ScanRequest {
                start: rest.start.clone(),
                end: rest.end.clone(),
                limit,
                reverse: rest.reverse,
                keys_only: rest.keys_only,
                consistency: v1::Consistency::from(rest.consistency).into(),
            });
            let place = if rest.reverse {
                Place::Before(&rest.end)
            } else {
                Place::Key(&rest.start)
            };
            let answer = self.client.call(place, Repeat::Read, request).await?;
            let response::Kind::Scan(page) = answer else {
                return Err(self.client.unfit("scan"));
            };
            self.advance(&page)?;
            if !page.rows.is_empty() {
                return Ok(Some(page.rows));
            }
        }
        Ok(None)
    }

    fn advance(&mut self, page: &v1::ScanResponse) -> Result<()> {
        if let Some(left) = &mut self.rest.limit {
            *left = left.saturating_sub(page.rows.len() as u64);
        }
        let rest = &mut self.rest;
        match &page.next {
            None => self.done = true,
            Some(next) if rest.reverse => {
                let progress = !next.is_empty() && (rest.end.is_empty() || *next < rest.end);
                if !progress {
                    return Err(stuck(next));
                }
                rest.end = next.clone();
                self.done = *next <= rest.start;
            }
            Some(next) => {
                if *next <= rest.start {
                    return Err(stuck(next));
                }
                rest.start = next.clone();
                self.done = !rest.end.is_empty() && *next >= rest.end;
            }
        }
        self.done |= rest.limit == Some(0);
        Ok(())
    }
}

fn stuck(next: &Bytes) -> Error {
    Error::Protocol {
        address: "the node".to_owned(),
        message: format!(
            "a page of a scan says to go on at \"{}\", which is no progress",
            next.escape_ascii()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_lies_after_all_its_keys() {
        for (prefix, end) in [
            (&b""[..], &b""[..]),
            (b"a", b"b"),
            (b"a\xff", b"b"),
            (b"ab\xff\xff", b"ac"),
            (b"\xff\xff", b""),
            (b"\x00", b"\x01"),
        ] {
            assert_eq!(prefix_end(prefix), end, "{}", prefix.escape_ascii());
        }
    }
}
