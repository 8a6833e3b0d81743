//! The client library: the way of every request to a cluster, for programs and for our own command line alike.
//!
//! ```no_run
//! # async fn example() -> flotilla::client::Result<()> {
//! use flotilla::client::{Client, Options};
//!
//! let client = Client::connect(["127.0.0.1:7400"], Options::default()).await?;
//! client.put("greeting", "hello").await?;
//! let value = client.get("greeting").await?.expect("just written");
//! assert_eq!(value.value, "hello");
//!
//! // A write in a session is applied once, even if its answer is lost and it is sent again.
//! let session = client.session();
//! session.put("counter", "1").await?;
//! # Ok(())
//! # }
//! ```
//!
//! Every call ends within [`Options::timeout`]. Requests go to the leader's node if it is known, else to any node, all
//! of them over one stream per node ([`stream::NodeStream`]).

mod admin;
mod batch;
mod call;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod routes;
mod scan;
mod session;
pub mod stream;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flotilla_proto::v1::{self, request, response};
use flotilla_shards::{descriptor::Descriptor, ids::NodeId, limits::BATCH_OPS_MAX};
use futures_util::future::try_join_all;
use tokio::sync::Semaphore;

pub(crate) use self::error::reason_of;
pub use self::{
    admin::Admin,
    batch::WriteBatch,
    error::{Error, Result},
    scan::{Scan, ScanOptions, prefix_end},
    session::Session,
};
use self::{
    call::Repeat,
    routes::{Place, Routes, Target},
    stream::StreamOptions,
};

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// The longest that a call may take, retries included.
    pub timeout: Duration,
    /// The longest that one try of a call may take that can be tried again.
    pub try_timeout: Duration,
    /// Calls at once; further ones wait for their turn.
    pub max_in_flight: usize,
    /// Bounds of the stream to each node.
    pub stream: StreamOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            try_timeout: Duration::from_secs(3),
            max_in_flight: 4096,
            stream: StreamOptions::default(),
        }
    }
}

/// What a read has to see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Consistency {
    /// The newest acknowledged value.
    #[default]
    Linearizable,
    /// What the answering replica has: possibly old, also without a quorum.
    Serializable,
}

impl From<Consistency> for v1::Consistency {
    fn from(consistency: Consistency) -> Self {
        match consistency {
            Consistency::Linearizable => Self::Linearizable,
            Consistency::Serializable => Self::Serializable,
        }
    }
}

/// A value that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The bytes that were written.
    pub value: Bytes,
    /// The revision of the write; grows with every write of the key.
    pub revision: u64,
}

/// What a delete did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeleteAnswer {
    /// The shard's revision after the delete.
    pub revision: u64,
    /// Whether the key existed.
    pub deleted: bool,
}

/// What a batch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchAnswer {
    /// The shard's revision after the batch, and that of the values that it wrote.
    pub revision: u64,
    /// Keys that its deletes removed.
    pub deleted: u64,
    /// The first condition that did not hold, counted from 0; if there is one, nothing was written.
    pub failed_condition: Option<usize>,
}

/// Where a key lies, as far as the client knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The shard.
    pub descriptor: Arc<Descriptor>,
    /// Its leader's node, if known.
    pub leader: Option<NodeId>,
}

/// A connection to a cluster. Clones share it. All methods may be called concurrently.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    routes: Routes,
    in_flight: Semaphore,
    seed: AtomicU64,
}

impl Client {
    /// Connects to a cluster through any of its nodes, given as host:port. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The last node's error if none answered: [`Error::Unreachable`], [`Error::NotInitialized`]…
    pub async fn connect(
        endpoints: impl IntoIterator<Item = impl Into<String>>,
        options: Options,
    ) -> Result<Self> {
        let client = Self::offline(endpoints, options)?;
        let connect = client.shared.routes.refresh();
        let timeout = client.shared.options.timeout;
        match tokio::time::timeout(timeout, connect).await {
            Ok(result) => result.map(|()| client.clone()),
            Err(_) => Err(Error::Unavailable {
                message: format!("no node answered within {timeout:?}"),
            }),
        }
    }

    /// A client that has not asked for routes yet: they come with the first request.
    fn offline(
        endpoints: impl IntoIterator<Item = impl Into<String>>,
        options: Options,
    ) -> Result<Self> {
        let endpoints: Vec<String> = endpoints.into_iter().map(Into::into).collect();
        let routes = Routes::new(&endpoints, options.stream.clone())?;
        Ok(Self {
            shared: Arc::new(Shared {
                in_flight: Semaphore::new(options.max_in_flight.min(Semaphore::MAX_PERMITS)),
                options,
                routes,
                seed: AtomicU64::new(RandomState::new().build_hasher().finish()),
            }),
        })
    }

    /// Reads a value, linearizably.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and its like if the shard has no leader with a quorum within the time.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Value>> {
        self.get_with(key, Consistency::Linearizable).await
    }

    /// Reads a value.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_with(
        &self,
        key: impl Into<Bytes>,
        consistency: Consistency,
    ) -> Result<Option<Value>> {
        let key = key.into();
        let kind = request::Kind::Get(v1::GetRequest {
            key: key.clone(),
            consistency: v1::Consistency::from(consistency).into(),
        });
        match self.call(Place::Key(&key), Repeat::Read, kind).await? {
            response::Kind::Get(answer) => Ok(value(answer)),
            _ => Err(self.unfit("get")),
        }
    }

    /// Reads many values: one answer per key, in the same order. The reads are not made at one moment.
    ///
    /// # Errors
    /// As [`Client::get`]; if one key can't be read, none is returned.
    pub async fn batch_get(
        &self,
        keys: &[Bytes],
        consistency: Consistency,
    ) -> Result<Vec<Option<Value>>> {
        // One request per shard, in parallel, each to its leader.
        let mut parts = std::collections::BTreeMap::<_, Vec<usize>>::new();
        for (position, key) in keys.iter().enumerate() {
            let shard = self.shared.routes.shard_of(Place::Key(key));
            parts.entry(shard).or_default().push(position);
        }
        let chunks = parts
            .values()
            .flat_map(|positions| positions.chunks(BATCH_OPS_MAX));
        let calls = chunks.map(|positions| async move {
            let keys: Vec<Bytes> = positions.iter().map(|at| keys[*at].clone()).collect();
            let place = keys[0].clone();
            let kind = request::Kind::BatchGet(v1::BatchGetRequest {
                keys,
                consistency: v1::Consistency::from(consistency).into(),
            });
            match self.call(Place::Key(&place), Repeat::Read, kind).await? {
                response::Kind::BatchGet(answer) if answer.results.len() == positions.len() => {
                    Ok((positions, answer.results))
                }
                _ => Err(self.unfit("batch get")),
            }
        });
        let mut values = vec![None; keys.len()];
        for (positions, results) in try_join_all(calls).await? {
            for (at, result) in positions.iter().zip(results) {
                values[*at] = value(result);
            }
        }
        Ok(values)
    }

    /// Writes a value; returns its revision. Not tried again after an error that leaves open whether it was written:
    /// for that use a [session](Client::session).
    ///
    /// # Errors
    /// Every error but [`Error::OutcomeUnknown`] proves that nothing was written.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<u64> {
        let key = key.into();
        let kind = request::Kind::Put(v1::PutRequest {
            key: key.clone(),
            value: value.into(),
            session: None,
        });
        let answer = self.call(Place::Key(&key), Repeat::Write, kind).await?;
        self.put_answer(answer)
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<DeleteAnswer> {
        let key = key.into();
        let kind = request::Kind::Delete(v1::DeleteRequest {
            key: key.clone(),
            session: None,
        });
        let answer = self.call(Place::Key(&key), Repeat::Write, kind).await?;
        self.delete_answer(answer)
    }

    /// Applies conditions and operations of one shard as one.
    ///
    /// # Errors
    /// As [`Client::put`]; [`Error::CrossShard`] if the keys lie in more than one shard.
    pub async fn batch(&self, batch: WriteBatch) -> Result<BatchAnswer> {
        let key = batch.first_key()?;
        let kind = batch.to_request(None);
        let answer = self.call(Place::Key(&key), Repeat::Write, kind).await?;
        self.batch_answer(answer)
    }

    /// Reads a range, page by page.
    #[must_use]
    pub fn scan(&self, options: ScanOptions) -> Scan {
        Scan::new(self.clone(), options)
    }

    /// A session of its own, for writes that are applied once even if they have to be sent again.
    #[must_use]
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }

    /// All routes that the client knows, ascending by range.
    #[must_use]
    pub fn routes(&self) -> Vec<Route> {
        let routes = &self.shared.routes;
        let map = routes.map();
        let route = |descriptor: &Arc<Descriptor>| Route {
            descriptor: Arc::clone(descriptor),
            leader: routes.leader(descriptor.shard),
        };
        map.shards().iter().map(route).collect()
    }

    /// The nodes of the cluster, as far as known.
    #[must_use]
    pub fn nodes(&self) -> Vec<v1::Node> {
        self.shared.routes.nodes().iter().cloned().collect()
    }

    /// How it connects, for callers that make connections themselves.
    pub(crate) fn stream_options(&self) -> &StreamOptions {
        &self.shared.options.stream
    }

    /// Where a request about `key` goes, for callers that make unary calls themselves.
    pub(crate) fn target(&self, key: &[u8]) -> Target {
        self.shared.routes.target(Place::Key(key))
    }

    /// Takes from an error of such a call what it says about routes. True: it told enough to try again at once.
    pub(crate) fn learn(&self, target: &Target, error: &Error) -> bool {
        self.shared.routes.learn(target, error)
    }

    fn put_answer(&self, answer: response::Kind) -> Result<u64> {
        match answer {
            response::Kind::Put(answer) => Ok(answer.revision),
            _ => Err(self.unfit("put")),
        }
    }

    fn delete_answer(&self, answer: response::Kind) -> Result<DeleteAnswer> {
        match answer {
            response::Kind::Delete(answer) => Ok(DeleteAnswer {
                revision: answer.revision,
                deleted: answer.deleted,
            }),
            _ => Err(self.unfit("delete")),
        }
    }

    fn batch_answer(&self, answer: response::Kind) -> Result<BatchAnswer> {
        match answer {
            response::Kind::Batch(answer) => Ok(BatchAnswer {
                revision: answer.revision,
                deleted: answer.deleted,
                failed_condition: (!answer.succeeded).then_some(answer.failed_condition as usize),
            }),
            _ => Err(self.unfit("batch")),
        }
    }

    /// The answer is not of the kind of the request.
    #[expect(
        clippy::unused_self,
        reason = "reads as the client's verdict where it is used"
    )]
    fn unfit(&self, request: &str) -> Error {
        Error::Protocol {
            address: "the node".to_owned(),
            message: format!("the answer to {request} is of another kind"),
        }
    }

    fn random(&self) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.shared.seed.fetch_add(1, Ordering::Relaxed))
    }
}

fn value(answer: v1::GetResponse) -> Option<Value> {
    let revision = answer.revision;
    answer.value.map(|value| Value { value, revision })
}
