//! Takes keys out of what nodes tell. Values are never told; secrets of the configuration are masked by the nodes, and once
//! more here, by their names.

use serde_json::Value;

use crate::config::{MASKED, sounds_secret};

/// Whether keys stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    Shown,
    Hidden,
}

/// Fields that hold keys.
const KEYS: [&str; 3] = ["key", "start", "end"];

/// Takes out of a page what nobody else should read.
pub(super) fn document(value: &mut Value, keys: Keys) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(text) if sounds_secret(name) && !text.is_empty() => {
                        MASKED.clone_into(text);
                    }
                    // Its length tells apart what lies at the edge of the keyspace.
                    Value::String(text)
                        if keys == Keys::Hidden
                            && KEYS.contains(&name.as_str())
                            && !text.is_empty() =>
                    {
                        *text = format!("{MASKED} ({} characters)", text.chars().count());
                    }
                    _ => document(field, keys),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| document(item, keys)),
        _ => {}
    }
}

/// Takes keys out of the lines of a log: only slow requests have them there, and only if that was asked for.
pub(super) fn log(text: &str, keys: Keys) -> String {
    if keys == Keys::Shown {
        return text.to_owned();
    }
    let mut lines = String::with_capacity(text.len());
    for line in text.lines() {
        lines.push_str(&line_without_key(line));
        lines.push('\n');
    }
    lines
}

fn line_without_key(line: &str) -> String {
    if !line.contains("slow_request") {
        return line.to_owned();
    }
    if let Ok(mut value @ Value::Object(_)) = serde_json::from_str(line) {
        document(&mut value, Keys::Hidden);
        return value.to_string();
    }
    // In lines of text the key stands between two other fields, escaped; what it holds may look like a field itself.
    match (line.find(" key="), line.rfind(" forwarded=")) {
        (Some(begin), Some(end)) if begin < end => {
            format!("{} key={MASKED}{}", &line[..begin], &line[end..])
        }
        (Some(begin), _) => format!("{} key={MASKED}", &line[..begin]),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_and_secrets_go_and_the_rest_stays() {
        let page = json!({
            "shards": [{ "shard": 2, "start": "", "end": "planted", "leader": 3 }],
            "requests": [{ "key": "planted", "operation": "put" }, { "key": null }],
            "telemetry": { "headers": "authorization=planted", "otlp": "http://a:1" },
            "tls": { "token_file": "/etc/flotilla/token" },
        });
        let mut hidden = page.clone();
        document(&mut hidden, Keys::Hidden);
        assert!(!hidden.to_string().contains("planted"), "{hidden}");
        assert_eq!(hidden["shards"][0]["leader"], 3);
        assert_eq!(hidden["shards"][0]["start"], "");
        assert_eq!(hidden["shards"][0]["end"], "*** (7 characters)");
        assert_eq!(hidden["requests"][1]["key"], Value::Null);
        assert_eq!(hidden["telemetry"]["otlp"], "http://a:1");
        assert_eq!(hidden["tls"]["token_file"], "/etc/flotilla/token");
        let mut shown = page;
        document(&mut shown, Keys::Shown);
        assert_eq!(shown["shards"][0]["end"], "planted");
        assert_eq!(shown["telemetry"]["headers"], "***");
    }

    #[test]
    fn keys_of_slow_requests_go_from_logs() {
        let text = "2026 WARN flotilla::slow_request: slow request shard=2 key=planted key=planted forwarded=planted \
                    forwarded=true tries=1\n\
                    2026 INFO flotilla: key=fine\n\
                    {\"target\":\"flotilla::slow_request\",\"key\":\"planted\",\"tries\":1}\n\
                    2026 WARN flotilla::slow_request: slow request shard=2 key=planted and the rest was cut\n";
        let without = log(text, Keys::Hidden);
        assert!(!without.contains("planted"), "{without}");
        assert!(without.contains("key=fine") && without.contains("tries=1"));
        assert_eq!(without.lines().count(), text.lines().count());
        assert_eq!(log(text, Keys::Shown), text);
    }
}
