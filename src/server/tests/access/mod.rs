//! Who may do what, asked over real sockets: every method of every service, by callers with all kinds of roles and none, about
//! keys inside, at and outside the bounds of what they may.

mod changes;
mod matrix;

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_proto::v1::{self as proto, error::Code, request, response};
use flotilla_shards::{
    access::{Grant, Policy, Role, Row, Token as Stored, User, tables::Tables},
    descriptor::KeyRange,
};
use tonic::{Request, Status};

use super::super::access::AccessOptions;
use super::fake::{Bounds, Node, detail, single};
use crate::{client::prefix_end, clock::wall_ms, token::Token};

/// What the callers of the matrix have their rights on.
pub(super) const PREFIX: &str = "app/";

/// Keys around the bounds, each with whether it lies within.
pub(super) fn keys() -> Vec<(Bytes, bool)> {
    let below = [b"app.".as_slice(), &[0xff; 3]].concat();
    let last = [PREFIX.as_bytes(), &[0xff]].concat();
    vec![
        (Bytes::new(), false),
        ("a".into(), false),
        (below.into(), false),
        (PREFIX.into(), true),
        ("app/x".into(), true),
        (last.into(), true),
        (prefix_end(PREFIX.as_bytes()), false),
        ("app1".into(), false),
        ("zz".into(), false),
    ]
}

/// Whether a range lies within the bounds, told by its ends as a person would.
pub(super) fn within(start: &Bytes, end: &Bytes) -> bool {
    let prefix = PREFIX.as_bytes();
    start.starts_with(prefix) && (end.starts_with(prefix) || *end == prefix_end(prefix))
}

/// Rights as a set of letters: r, w, a on the prefix; R, W, A on everything.
pub(super) type Letters = &'static str;

/// The callers of the matrix: a name, and what it may. The first four may nothing, as they are nobody.
pub(super) const CALLERS: [(&str, Letters); 14] = [
    ("nobody", ""),
    ("stranger", ""),
    ("expired", ""),
    ("garbled", ""),
    ("idle", ""),
    ("reader", "r"),
    ("writer", "w"),
    ("both", "rw"),
    ("local", "a"),
    ("auditor", "R"),
    ("loader", "W"),
    ("mixed", "rW"),
    ("operator", "A"),
    ("root", "RWA"),
];

pub(super) fn is_nobody(name: &str) -> bool {
    CALLERS[..4].iter().any(|(nobody, _)| *nobody == name)
}

pub(super) fn may_key(letters: Letters, letter: char, inside: bool) -> bool {
    letters.contains(letter.to_ascii_uppercase()) || (inside && letters.contains(letter))
}

/// A node that enforces, and what its callers show.
pub(super) struct Guarded {
    pub(super) node: Node,
    pub(super) shown: BTreeMap<&'static str, Option<String>>,
    pub(super) tables: Tables,
}

impl Guarded {
    pub(super) async fn new() -> Self {
        let bounds = Bounds {
            access: AccessOptions::default(),
            ..Bounds::default()
        };
        let (node, now) = (single(bounds).await, wall_ms());
        let mut rows = vec![Row::Policy(Policy {
            enforced: true,
            changes: 1,
        })];
        let mut shown = BTreeMap::new();
        for (name, letters) in CALLERS {
            let token = Token::generate().expect("random numbers");
            let text = format!("Bearer {}", token.reveal());
            let (show, stored) = match name {
                "nobody" => (None, None),
                "stranger" => (Some(text), None),
                "garbled" => (Some(text.replace("Bearer", "Basic")), None),
                "expired" => (Some(text), Some(now)),
                _ => (Some(text), Some(now + 3_600_000)),
            };
            shown.insert(name, show);
            let everything = KeyRange::all();
            let prefix = KeyRange::new(PREFIX.into(), prefix_end(PREFIX.as_bytes()));
            let grant = |range: KeyRange, letters: [char; 3]| Grant {
                range,
                read: CALLERS
                    .iter()
                    .any(|(one, has)| *one == name && has.contains(letters[0])),
                write: CALLERS
                    .iter()
                    .any(|(one, has)| *one == name && has.contains(letters[1])),
                admin: CALLERS
                    .iter()
                    .any(|(one, has)| *one == name && has.contains(letters[2])),
            };
            let grants = [
                grant(everything, ['R', 'W', 'A']),
                grant(prefix.expect("a range"), ['r', 'w', 'a']),
            ];
            let grants = grants
                .into_iter()
                .filter(|one| one.read || one.write || one.admin);
            rows.push(Row::Role(Role {
                name: name.into(),
                grants: grants.collect(),
            }));
            let tokens = stored.map(|expires_ms| Stored {
                id: token.id(),
                hash: token.hash(),
                created_ms: 0,
                expires_ms,
            });
            rows.push(Row::User(User {
                name: name.into(),
                roles: vec![name.into()],
                tokens: tokens.into_iter().collect(),
            }));
            assert_eq!(letters.is_empty(), is_nobody(name) || name == "idle");
        }
        let tables = Tables::new(rows);
        node.services().access.set(tables.clone());
        Self {
            node,
            shown,
            tables,
        }
    }

    pub(super) fn request<T>(&self, caller: &str, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(text) = &self.shown[caller] {
            let header = text.parse().expect("a legal header");
            request.metadata_mut().insert("authorization", header);
        }
        request
    }

    /// The answers to requests on one stream, in their order.
    pub(super) async fn stream(
        &self,
        caller: &str,
        kinds: &[request::Kind],
    ) -> Vec<response::Kind> {
        let requests = kinds.iter().zip(0..).map(|(kind, id)| proto::Request {
            id,
            kind: Some(kind.clone()),
            ..proto::Request::default()
        });
        let requests: Vec<proto::Request> = requests.collect();
        let messages: Vec<proto::StreamRequest> = requests
            .chunks(500)
            .map(|requests| proto::StreamRequest {
                requests: requests.to_vec(),
            })
            .collect();
        let request = self.request(caller, tokio_stream::iter(messages));
        let answers = self.node.kv().await.stream(request).await;
        let mut answers = answers.expect("a stream").into_inner();
        let mut found = vec![None; kinds.len()];
        while let Some(message) = answers.message().await.expect("answers") {
            for answer in message.responses {
                found[answer.id as usize] = answer.kind;
            }
        }
        found
            .into_iter()
            .map(|kind| kind.expect("every request is answered"))
            .collect()
    }
}

/// What became of something: let through, whatever then came of it, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Through,
    WhoAreYou,
    Denied,
}

pub(super) fn verdict(code: Code) -> Verdict {
    match code {
        Code::Unauthenticated => Verdict::WhoAreYou,
        Code::PermissionDenied => Verdict::Denied,
        _ => Verdict::Through,
    }
}

pub(super) fn of_answer(kind: &response::Kind) -> Verdict {
    match kind {
        response::Kind::Error(error) => verdict(error.code()),
        _ => Verdict::Through,
    }
}

pub(super) fn of_status<T>(result: &Result<T, Status>) -> Verdict {
    let Err(status) = result else {
        return Verdict::Through;
    };
    let found = match status.code() {
        tonic::Code::Unauthenticated => Verdict::WhoAreYou,
        tonic::Code::PermissionDenied => Verdict::Denied,
        _ => Verdict::Through,
    };
    if found != Verdict::Through {
        assert_eq!(
            verdict(detail(status).code()),
            found,
            "the details say the same"
        );
    }
    found
}

pub(super) fn expected(caller: &str, may: bool) -> Verdict {
    match (is_nobody(caller), may) {
        (true, _) => Verdict::WhoAreYou,
        (false, true) => Verdict::Through,
        (false, false) => Verdict::Denied,
    }
}
