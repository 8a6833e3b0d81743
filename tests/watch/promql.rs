//! What an expression names: metrics, with the labels that they are chosen and grouped by.

use std::collections::BTreeSet;

/// One metric in an expression, with the labels that it is chosen by, and their values.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selector {
    pub(crate) metric: String,
    pub(crate) matchers: Vec<(String, Vec<String>)>,
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// All metrics in an expression: `up`, and whatever begins as ours or the process's do.
pub(crate) fn selectors(expression: &str) -> Vec<Selector> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find(is_word) {
        rest = &rest[at..];
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        let ours = word == "up" || word.starts_with("flotilla_") || word.starts_with("process_");
        if ours {
            let (matchers, behind) = matchers(rest);
            rest = behind;
            found.push(Selector {
                metric: word.to_owned(),
                matchers,
            });
        } else if let Some(text) = after.strip_prefix('"') {
            // A text: nothing in it is a name.
            rest = text.split_once('"').map_or("", |(_, behind)| behind);
        }
    }
    found
}

/// `{a="b",c=~"d|e"}` at the beginning, if it is there, and what follows.
fn matchers(text: &str) -> (Vec<(String, Vec<String>)>, &str) {
    let Some((inside, behind)) = text.strip_prefix('{').and_then(|text| text.split_once('}'))
    else {
        return (Vec::new(), text);
    };
    let one = |matcher: &str| {
        let at = matcher
            .find(|c| !is_word(c))
            .expect("an operator follows the label");
        let (label, value) = matcher.split_at(at);
        let value = value.trim_start_matches(['=', '!', '~']).trim_matches('"');
        (
            label.to_owned(),
            value.split('|').map(str::to_owned).collect(),
        )
    };
    (inside.split(',').map(one).collect(), behind)
}

/// The labels that an expression groups or joins by.
pub(crate) fn grouped_by(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for word in [" by (", " on ("] {
        for (at, _) in expression.match_indices(word) {
            let list = &expression[at + word.len()..];
            let (list, _) = list.split_once(')').expect("the list of labels ends");
            found.extend(list.split(',').map(|label| label.trim().to_owned()));
        }
    }
    found
}

/// The labels in a text with `{{label}}` or `{{ $labels.label }}`.
pub(crate) fn in_text(text: &str) -> BTreeSet<String> {
    let parts = text.split("{{").skip(1);
    let labels = parts.map(|part| part.split_once("}}").expect("the braces close").0);
    labels
        .map(|label| label.trim().trim_start_matches("$labels.").to_owned())
        .collect()
}

#[test]
fn names_and_labels_are_found() {
    let expression = "sum by (op, le) (rate(flotilla_a_bucket{job=\"x\",state=~\"b|c\"}[5m])) > 2 * up and on (job) process_d";
    let found = selectors(expression);
    let names: Vec<&str> = found
        .iter()
        .map(|selector| selector.metric.as_str())
        .collect();
    assert_eq!(names, ["flotilla_a_bucket", "up", "process_d"]);
    let state = ("state".to_owned(), vec!["b".to_owned(), "c".to_owned()]);
    assert_eq!(found[0].matchers[1], state);
    assert_eq!(
        grouped_by(expression).into_iter().collect::<Vec<_>>(),
        ["job", "le", "op"]
    );
    let text = "{{instance}} of {{ $labels.job }}";
    assert_eq!(
        in_text(text).into_iter().collect::<Vec<_>>(),
        ["instance", "job"]
    );
}
