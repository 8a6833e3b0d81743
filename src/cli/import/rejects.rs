//! The report of what an import did not write.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    cli::{
        escape::Notation,
        failure::{Failure, Outcome},
        records::{Malformed, Record},
    },
    client::Error,
};

/// The report of what was not written.
pub(super) struct Rejects {
    pub(super) path: PathBuf,
    /// Made when there is something to report.
    file: Option<BufWriter<File>>,
    /// Of an earlier run: its reports up to the settled line stay, later ones are of records that are tried again.
    keep_lines: u64,
}

pub(super) enum Rejected<'a> {
    Malformed(Malformed),
    Refused(&'a Record, &'a Error),
}

impl Rejects {
    pub(super) fn new(input: Option<&Path>, keep_lines: u64) -> Outcome<Self> {
        let mut path = input.map_or_else(|| "stdin".into(), |path| path.as_os_str().to_owned());
        path.push(".rejected.ndjson");
        let mut rejects = Self {
            path: path.into(),
            file: None,
            keep_lines,
        };
        if rejects.path.exists() {
            if keep_lines == 0 {
                // A report of an earlier import would be taken for one of this.
                fs::remove_file(&rejects.path).map_err(Failure::file(&rejects.path))?;
            } else {
                rejects.create()?;
            }
        }
        Ok(rejects)
    }

    fn create(&mut self) -> Outcome<&mut BufWriter<File>> {
        let path = &self.path;
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let kept = kept_reports(path, self.keep_lines).map_err(Failure::file(path))?;
                let mut file = BufWriter::new(File::create(path).map_err(Failure::file(path))?);
                file.write_all(&kept).map_err(Failure::file(path))?;
                file
            }
        };
        Ok(self.file.insert(file))
    }

    pub(super) fn write(&mut self, line: u64, rejected: Rejected<'_>) -> Outcome {
        let report = match rejected {
            Rejected::Malformed(Malformed { reason, text }) => {
                serde_json::json!({ "line": line, "reason": reason, "text": text })
            }
            Rejected::Refused(record, error) => {
                let record = record.to_json(Notation::Escaped, None);
                serde_json::json!({ "line": line, "reason": error.to_string(), "record": record })
            }
        };
        let path = self.path.clone();
        writeln!(self.create()?, "{report}").map_err(Failure::file(path))
    }

    pub(super) fn flush(&mut self) -> Outcome {
        match &mut self.file {
            Some(file) => file.flush().map_err(Failure::file(&self.path)),
            None => Ok(()),
        }
    }
}

/// The reports about lines up to `keep_lines`.
fn kept_reports(path: &Path, keep_lines: u64) -> io::Result<Vec<u8>> {
    #[derive(Deserialize)]
    struct Report {
        line: u64,
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut kept = Vec::new();
    for report in BufReader::new(file).split(b'\n') {
        let report = report?;
        let of = serde_json::from_slice::<Report>(&report);
        if of.is_ok_and(|report| report.line <= keep_lines) {
            kept.extend_from_slice(&report);
            kept.push(b'\n');
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_unsettled_records_are_dropped_on_resume() {
        let folder = tempfile::tempdir().expect("a folder");
        let input = folder.path().join("data.ndjson");
        let malformed = || {
            Rejected::Malformed(Malformed {
                reason: "r".to_owned(),
                text: "t".to_owned(),
            })
        };
        let mut rejects = Rejects::new(Some(&input), 0).expect("a folder");
        assert!(!rejects.path.exists(), "no report without cause");
        for line in [2, 5, 9] {
            rejects.write(line, malformed()).expect("writable");
        }
        rejects.flush().expect("writable");
        let mut resumed = Rejects::new(Some(&input), 5).expect("a folder");
        resumed.write(7, malformed()).expect("writable");
        resumed.flush().expect("writable");
        let text = fs::read_to_string(&resumed.path).expect("readable");
        let lines: Vec<u64> = text
            .lines()
            .map(|line| {
                let report: serde_json::Value = serde_json::from_str(line).expect("json");
                report["line"].as_u64().expect("a number")
            })
            .collect();
        assert_eq!(lines, [2, 5, 7]);
        drop(resumed);
        let again = Rejects::new(Some(&input), 0).expect("a folder");
        assert!(!again.path.exists(), "a new import begins without reports");
    }
}
