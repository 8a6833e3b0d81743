//! Operations as text: `v1 l2 r3 u4`.

use super::{ConfChangeKind, ConfChangeSingle, ReplicaId};
use std::fmt;

/// Why a text is not a list of operations.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Too short to hold a letter and an id.
    #[error("unknown token {0}")]
    Token(String),
    /// The first letter is none of `v`, `l`, `r`, `u`.
    #[error("unknown input: {0}")]
    Operation(String),
    /// What follows the letter is not an unsigned decimal number.
    #[error("invalid replica id in {0}: expected an unsigned decimal number")]
    Id(String),
}

/// Parses operations that are separated by single blanks: `v` adds or promotes to a voter, `l` adds or demotes to a
/// learner, `r` removes, `u` updates.
///
/// # Errors
/// Names the first token that is not an operation.
pub fn parse_operations(text: &str) -> Result<Vec<ConfChangeSingle>, ParseError> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(' ').map(parse_operation).collect()
}

fn parse_operation(token: &str) -> Result<ConfChangeSingle, ParseError> {
    if token.len() < 2 {
        return Err(ParseError::Token(token.into()));
    }
    let (kind, id) = match token.as_bytes()[0] {
        b'v' => (ConfChangeKind::AddNode, &token[1..]),
        b'l' => (ConfChangeKind::AddLearnerNode, &token[1..]),
        b'r' => (ConfChangeKind::RemoveNode, &token[1..]),
        b'u' => (ConfChangeKind::UpdateNode, &token[1..]),
        _ => return Err(ParseError::Operation(token.into())),
    };
    let id = id.parse().map_err(|_| ParseError::Id(token.into()))?;
    Ok(ConfChangeSingle {
        kind,
        id: ReplicaId(id),
    })
}

/// The inverse of [`parse_operations`].
#[must_use]
pub fn format_operations(changes: &[ConfChangeSingle]) -> String {
    changes
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}

impl fmt::Display for ConfChangeSingle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.kind {
            ConfChangeKind::AddNode => 'v',
            ConfChangeKind::AddLearnerNode => 'l',
            ConfChangeKind::RemoveNode => 'r',
            ConfChangeKind::UpdateNode => 'u',
        };
        write!(f, "{letter}{}", self.id)
    }
}
