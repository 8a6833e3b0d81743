//! `debug zip`: one file with all that a report of a fault needs, from every node of the cluster.
//!
//! Each node is asked at its status port, many at the same time and each within a bound, so that a dead or hanging node only
//! leaves a gap; the manifest names every gap. Keys are taken out (see [`redact`]), values are on none of these pages, and
//! secrets of the configuration are masked by the nodes.

mod fetch;
mod redact;

use std::{
    collections::BTreeSet,
    fmt,
    fs::OpenOptions,
    io::{self, Cursor, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::{Args, Subcommand};
use flotilla_proto::v1::NodeInfo;
use futures_util::{
    future::{FutureExt as _, select_ok},
    stream::{self, StreamExt as _},
};
use serde::Serialize;
use serde_json::{Value, json};
use zip::{CompressionMethod, ZipWriter, result::ZipError, write::SimpleFileOptions};

use self::redact::Keys;
use super::{
    Context, Global,
    failure::{Failure, Outcome},
    output::{Format, Out, talk},
};

/// Bytes of the end of a log file that go in.
const LOG_BYTES_MAX: u64 = 8 << 20;
/// Nodes that are asked at the same time: what they tell is in memory until it is compressed.
const NODES_AT_ONCE: usize = 16;

/// Commands for hunting faults.
#[derive(Debug, Subcommand)]
pub(super) enum Debug {
    /// Collect from all nodes what a bug report needs, in one file
    Zip(Zip),
}

/// Arguments of `debug zip`.
#[derive(Debug, Args)]
#[command(after_help = "\
Asks the status port of every node: configuration, status, metrics, shards, recent events, slow requests, log level. A node
that does not answer within --timeout leaves a gap that manifest.json names. Values are never in it, secrets are masked.")]
pub(super) struct Zip {
    /// The file to write; must not exist [default: flotilla-debug-TIME.zip]
    file: Option<PathBuf>,
    /// Status ports to ask beside those that the nodes name
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = super::endpoint)]
    status: Vec<String>,
    /// Log files of nodes, on this machine; the end of each goes in
    #[arg(long, value_name = "FILE")]
    log: Vec<PathBuf>,
    /// Leave keys in: borders of shards, and those of slow requests
    #[arg(long)]
    keys: bool,
}

/// Whom to ask.
struct Target {
    /// The folder of its pages.
    name: String,
    /// host:port of its status port.
    address: String,
}

/// One file of the archive.
struct File {
    name: String,
    content: Vec<u8>,
}

/// What is not in it.
#[derive(Debug, Serialize)]
struct Gap {
    what: String,
    why: String,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// What a node tells.
#[derive(Default)]
struct Found {
    files: Vec<File>,
    gaps: Vec<Gap>,
}

impl Found {
    fn gap(&mut self, what: impl Into<String>, why: impl ToString) {
        let (what, why) = (what.into(), why.to_string());
        self.gaps.push(Gap { what, why });
    }
}

/// The archive, in memory until it is whole.
struct Archive {
    zip: ZipWriter<Cursor<Vec<u8>>>,
    /// The folder that everything is in.
    folder: String,
    /// Names and sizes of what is in it.
    names: Vec<Value>,
}

impl Archive {
    fn new(folder: String) -> Self {
        let (zip, names) = (ZipWriter::new(Cursor::new(Vec::new())), Vec::new());
        Self { zip, folder, names }
    }

    fn add(&mut self, file: &File) -> Outcome {
        let File { name, content } = file;
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        let begun = self
            .zip
            .start_file(format!("{}/{name}", self.folder), options);
        let added = begun.and_then(|()| Ok(self.zip.write_all(content)?));
        added.map_err(not_made)?;
        self.names
            .push(json!({ "name": name, "bytes": content.len() }));
        Ok(())
    }

    fn add_json(&mut self, name: &str, value: &Value) -> Outcome {
        self.add(&File {
            name: name.to_owned(),
            content: format!("{value:#}\n").into_bytes(),
        })
    }

    /// All its bytes.
    fn end(self) -> Outcome<Vec<u8>> {
        Ok(self.zip.finish().map_err(not_made)?.into_inner())
    }
}

fn not_made(error: ZipError) -> Failure {
    Failure::Incomplete(format!("the archive was not made: {error}"))
}

impl Zip {
    pub(super) async fn run(self, context: &Context, out: &mut Out) -> Outcome {
        let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let folder = format!("flotilla-debug-{}", time.replace([':', '-'], ""));
        let (endpoints, timeout) = (&context.global.endpoints, context.global.timeout);
        let keys = if self.keys { Keys::Shown } else { Keys::Hidden };
        let file = match &self.file {
            Some(file) => file.clone(),
            None => format!("{folder}.zip").into(),
        };
        if file.exists() {
            return Err(exists(&file));
        }
        let mut archive = Archive::new(folder);
        let mut gaps = Vec::new();
        let nodes = nodes(context).await;
        match &nodes {
            Ok(nodes) => archive.add_json("nodes.json", &nodes.iter().map(row).collect())?,
            Err(error) => gaps.push(Gap {
                what: "nodes.json".to_owned(),
                why: error.to_string(),
            }),
        }
        let targets = self.targets(nodes.unwrap_or_default());
        let asked = targets
            .iter()
            .map(|target| fetch::all(target, timeout, keys));
        let mut told = stream::iter(asked).buffered(NODES_AT_ONCE);
        let mut somebody_answers = false;
        while let Some(found) = told.next().await {
            somebody_answers |= !found.files.is_empty();
            found.files.iter().try_for_each(|file| archive.add(file))?;
            gaps.extend(found.gaps);
        }
        if !somebody_answers {
            let whys: Vec<String> = gaps.iter().map(Gap::to_string).collect();
            let text = format!("no node answers, nothing was written: {}", whys.join("; "));
            return Err(Failure::NobodyAnswers(text));
        }
        for (number, path) in (1..).zip(&self.log) {
            match log_end(path, keys) {
                Ok(content) => archive.add(&File {
                    name: format!("logs/{number}-{}", plain(&path.to_string_lossy())),
                    content,
                })?,
                Err(error) => gaps.push(Gap {
                    what: path.display().to_string(),
                    why: error.to_string(),
                }),
            }
        }
        if self.log.is_empty() {
            gaps.push(Gap {
                what: "logs".to_owned(),
                why:
                    "nodes log to standard error; --log FILE takes a file in that it was written to"
                        .to_owned(),
            });
        }
        let asked = targets
            .iter()
            .map(|target| json!({ "node": target.name, "status": target.address }));
        let manifest = json!({
            "made": time,
            "by": concat!("flotilla ", env!("CARGO_PKG_VERSION")),
            "endpoints": endpoints,
            "keys": if self.keys { "shown" } else { "taken out" },
            "asked": asked.collect::<Vec<_>>(),
            "files": archive.names,
            "missing": gaps,
        });
        archive.add_json("manifest.json", &manifest)?;
        let bytes = archive.end()?;
        let created = OpenOptions::new().write(true).create_new(true).open(&file);
        let written = created.and_then(|mut created| created.write_all(&bytes));
        written.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(&file),
            _ => Failure::file(&file)(error),
        })?;
        for gap in &gaps {
            talk(format!("not in it: {gap}"));
        }
        match context.global.output {
            Format::Table => out.line(file.display().to_string()),
            format => {
                let (file, files) = (file.display().to_string(), &manifest["files"]);
                out.json(
                    format,
                    &json!({ "file": file, "files": files, "missing": gaps }),
                )
            }
        }
    }

    /// The status ports of these nodes and of those that are named.
    fn targets(&self, nodes: Vec<NodeInfo>) -> Vec<Target> {
        let known = nodes.into_iter().filter_map(|info| info.node);
        let known = known.map(|node| (node.node_id.to_string(), node.status_address));
        let named = self
            .status
            .iter()
            .map(|status| (plain(status), status.clone()));
        let mut addresses = BTreeSet::new();
        let targets = known
            .chain(named)
            .map(|(name, address)| Target { name, address });
        targets
            .filter(|target| addresses.insert(target.address.clone()))
            .collect()
    }
}

/// A node as the cluster knows it.
fn row(info: &NodeInfo) -> Value {
    let node = info.node.clone().unwrap_or_default();
    json!({
        "node": node.node_id,
        "address": node.address,
        "status_address": node.status_address,
        "reachable": info.reachable,
        "leaders": info.leaders,
        "replicas": info.replicas,
    })
}

/// The nodes, from whoever answers first: one that hangs must not hold it up.
async fn nodes(context: &Context) -> Outcome<Vec<NodeInfo>> {
    let Global {
        endpoints, timeout, ..
    } = &context.global;
    let asked = endpoints.iter().map(|endpoint| {
        let admin = context.admin_of([endpoint], *timeout);
        async move { Ok::<_, Failure>(admin?.list_nodes().await?) }.boxed()
    });
    let (nodes, _) = select_ok(asked).await?;
    Ok(nodes)
}

fn exists(file: &Path) -> Failure {
    Failure::Usage(format!(
        "{} exists already: name another file",
        file.display()
    ))
}

/// A text as a part of a name in the archive.
fn plain(text: &str) -> String {
    let tail = text.rsplit('/').next().unwrap_or(text);
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || c == '.' {
            c
        } else {
            '-'
        }
    };
    tail.chars().map(plain).collect()
}

/// The last lines of a log file.
fn log_end(path: &Path, keys: Keys) -> io::Result<Vec<u8>> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    let begin = file.metadata()?.len().saturating_sub(LOG_BYTES_MAX);
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // The first line is none if the cut went through it.
    let whole = match begin {
        0 => &*text,
        _ => text.split_once('\n').map_or("", |(_, rest)| rest),
    };
    Ok(redact::log(whole, keys).into_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn an_archive_has_what_went_in() {
        let file = |name: &str, content: &str| File {
            name: name.to_owned(),
            content: content.as_bytes().to_vec(),
        };
        let mut archive = Archive::new("f".to_owned());
        for file in [
            file("nodes/1/status.json", "{}"),
            file("manifest.json", "x"),
        ] {
            archive.add(&file).expect("in memory");
        }
        let bytes = archive.end().expect("in memory");
        let mut read = zip::ZipArchive::new(Cursor::new(bytes)).expect("an archive");
        let mut text = String::new();
        let mut status = read.by_name("f/nodes/1/status.json").expect("it is there");
        status.read_to_string(&mut text).expect("text");
        assert_eq!(text, "{}");
        drop(status);
        assert_eq!(read.len(), 2);
    }

    #[test]
    fn names_in_the_archive_lead_nowhere_else() {
        assert_eq!(plain("../../etc/passwd"), "passwd");
        assert_eq!(plain("[::1]:7480"), "---1--7480");
        assert_eq!(plain("10.0.0.1:7480"), "10.0.0.1-7480");
    }
}
