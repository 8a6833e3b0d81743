//! The pages of one node's status port.

use std::{io, time::Duration};

use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::{
    File, Found, Target,
    redact::{self, Keys},
};
use crate::http;

/// Bytes of one page: beyond, it is left out.
const PAGE_BYTES_MAX: u64 = 64 << 20;
/// Pages of the list of shards, of 10,000 rows each.
const SHARD_PAGES_MAX: usize = 20;

/// Pages, their files, and whether fields that are named like keys hold some: in the configuration they are paths of files.
const PAGES: [(&str, &str, bool); 8] = [
    ("/health", "health.txt", false),
    ("/ready?verbose", "ready.txt", false),
    ("/log-level", "log-level.txt", false),
    ("/metrics", "metrics.txt", false),
    ("/config", "config.json", false),
    ("/status", "status.json", true),
    ("/events", "events.json", true),
    ("/slow", "slow.json", true),
];

/// Why a page is not there.
enum Missing {
    /// Its node does not answer: there is no sense in asking for others.
    Node(String),
    Page(String),
}

/// All pages of a node, or what of them came within `bound`.
pub(super) async fn all(target: &Target, bound: Duration, keys: Keys) -> Found {
    let deadline = Instant::now() + bound;
    let mut found = Found::default();
    let folder = format!("nodes/{}", target.name);
    for (path, file, has_keys) in PAGES {
        let body = page(&target.address, path, deadline).await;
        let page = if file.ends_with(".json") {
            let keys = if has_keys { keys } else { Keys::Shown };
            body.and_then(|body| Ok(document_of(&body, keys)?.to_string().into_bytes()))
        } else {
            body
        };
        match page {
            Ok(content) => found.files.push(File {
                name: format!("{folder}/{file}"),
                content,
            }),
            Err(Missing::Page(why)) => found.gap(format!("{folder}/{file}"), why),
            Err(Missing::Node(why)) => {
                found.gap(format!("node {} at {}", target.name, target.address), why);
                return found;
            }
        }
    }
    if let Err(Missing::Node(why) | Missing::Page(why)) =
        shards(target, &folder, deadline, keys, &mut found).await
    {
        found.gap(format!("{folder}/shards.json"), why);
    }
    found
}

/// The node's shards, page by page.
async fn shards(
    target: &Target,
    folder: &str,
    deadline: Instant,
    keys: Keys,
    found: &mut Found,
) -> Result<(), Missing> {
    let mut after = 0;
    for number in 0..SHARD_PAGES_MAX {
        let path = format!("/shards?after={after}&limit=10000");
        let value = document_of(&page(&target.address, &path, deadline).await?, keys)?;
        let next = value["next"].as_u64();
        let name = match number {
            0 => format!("{folder}/shards.json"),
            number => format!("{folder}/shards-{number}.json"),
        };
        found.files.push(File {
            name,
            content: value.to_string().into_bytes(),
        });
        match next {
            Some(next) if next > after => after = next,
            _ => return Ok(()),
        }
    }
    let text = format!("it has more than the {SHARD_PAGES_MAX} pages that are here");
    Err(Missing::Page(text))
}

/// A page of JSON, without what nobody else should read.
fn document_of(body: &[u8], keys: Keys) -> Result<Value, Missing> {
    let mut value = serde_json::from_slice(body)
        .map_err(|error| Missing::Page(format!("not JSON: {error}")))?;
    redact::document(&mut value, keys);
    Ok(value)
}

/// The body of a page, whatever its status code says: one that is not ready has reasons worth reading.
async fn page(address: &str, path: &str, deadline: Instant) -> Result<Vec<u8>, Missing> {
    let answer = match timeout_at(deadline, http::get(address, path, PAGE_BYTES_MAX)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) if error.kind() == io::ErrorKind::FileTooLarge => {
            return Err(Missing::Page(error.to_string()));
        }
        Ok(Err(error)) => return Err(Missing::Node(error.to_string())),
        Err(_) => return Err(Missing::Node("no answer in time".to_owned())),
    };
    if answer.code == 200 || (answer.code == 503 && path.starts_with("/ready")) {
        return Ok(answer.body);
    }
    let why: String = answer.text().trim().chars().take(200).collect();
    Err(Missing::Page(format!("{}: {why}", answer.code)))
}
