//! Exactly-once writes.
//!
//! A session numbers its writes; the shard remembers the answers that the client has not acknowledged yet. So a write
//! whose answer was lost can be sent again: it is applied once, and both get the first answer (thesis 6.3). Sessions
//! belong to shards; [`Session`] opens one in each shard that it writes to, when it first writes there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use flotilla_proto::v1::{self, request, response};
use flotilla_shards::{ids::ShardId, limits::SESSION_WINDOW};
use parking_lot::Mutex;
use tokio::sync::{Notify, OnceCell};

use super::{
    BatchAnswer, Client, DeleteAnswer, WriteBatch,
    call::Repeat,
    error::{Error, Result},
    routes::Place,
};

/// A write that finds its session forgotten by the shard is given a new one this often.
const REOPENINGS: usize = 3;

/// Writes through a session: a retry after a lost answer is applied once. Clones and concurrent writes share it.
///
/// A shard forgets a session that is idle for an hour; the next write opens another one.
#[derive(Debug, Clone)]
pub struct Session {
    client: Client,
    shards: Arc<Mutex<Shards>>,
}

/// What is opened, or being opened, by shard; `None` stands for shards whose route is not known. Bounded by their number.
type Shards = BTreeMap<Option<ShardId>, Arc<OnceCell<Opened>>>;

/// The session in one shard.
#[derive(Debug)]
struct Opened {
    /// Where it was opened; it stays valid in whatever shard this key's range becomes part of.
    key: Bytes,
    shard_id: u64,
    number: u64,
    sequences: Mutex<Sequences>,
    /// A sequence was acknowledged.
    acknowledged: Notify,
}

/// *Invariant:* all of `unacknowledged` is below `next`, and `next` is less than the window above the lowest of them.
#[derive(Debug)]
struct Sequences {
    next: u64,
    unacknowledged: BTreeSet<u64>,
}

impl Sequences {
    fn lowest_unacknowledged(&self) -> u64 {
        self.unacknowledged.first().copied().unwrap_or(self.next)
    }
}

/// A sequence in use; given back when the write has ended, in whatever way.
struct Turn<'a> {
    opened: &'a Opened,
    reference: v1::SessionRef,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut sequences = self.opened.sequences.lock();
        sequences.unacknowledged.remove(&self.reference.sequence);
        drop(sequences);
        self.opened.acknowledged.notify_waiters();
    }
}

impl Opened {
    /// Takes the next sequence, once the window of the shard has room for it.
    async fn turn(&self) -> Turn<'_> {
        loop {
            let acknowledged = self.acknowledged.notified();
            {
                let mut sequences = self.sequences.lock();
                let sequence = sequences.next;
                if sequence - sequences.lowest_unacknowledged() < SESSION_WINDOW {
                    sequences.next += 1;
                    sequences.unacknowledged.insert(sequence);
                    let reference = v1::SessionRef {
                        shard_id: self.shard_id,
                        number: self.number,
                        sequence,
                        lowest_unacknowledged: sequences.lowest_unacknowledged(),
                    };
                    return Turn {
                        opened: self,
                        reference,
                    };
                }
            }
            acknowledged.await;
        }
    }
}

impl Session {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            shards: Arc::default(),
        }
    }

    /// Writes a value; returns its revision.
    ///
    /// # Errors
    /// Every error but [`Error::OutcomeUnknown`] proves that nothing was written.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<u64> {
        let (key, value) = (key.into(), value.into());
        let answer = self.write(&key, |session| {
            request::Kind::Put(v1::PutRequest {
                key: key.clone(),
                value: value.clone(),
                session: Some(session),
            })
        });
        self.client.put_answer(answer.await?)
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// As [`Session::put`].
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<DeleteAnswer> {
        let key = key.into();
        let answer = self.write(&key, |session| {
            request::Kind::Delete(v1::DeleteRequest {
                key: key.clone(),
                session: Some(session),
            })
        });
        self.client.delete_answer(answer.await?)
    }

    /// Applies conditions and operations of one shard as one.
    ///
    /// # Errors
    /// As [`Session::put`]; [`Error::CrossShard`] if the keys lie in more than one shard.
    pub async fn batch(&self, batch: WriteBatch) -> Result<BatchAnswer> {
        let key = batch.first_key()?;
        let answer = self.write(&key, |session| batch.to_request(Some(session)));
        self.client.batch_answer(answer.await?)
    }

    /// Ends the session in all shards, so that they can forget it now and not in an hour.
    ///
    /// # Errors
    /// The first shard's error; the others are told nevertheless.
    pub async fn close(self) -> Result<()> {
        let shards = std::mem::take(&mut *self.shards.lock());
        let mut result = Ok(());
        for opened in shards.values().filter_map(|cell| cell.get()) {
            let kind = request::Kind::CloseSession(v1::CloseSessionRequest {
                key: opened.key.clone(),
                shard_id: opened.shard_id,
                number: opened.number,
            });
            let closed = self
                .client
                .call(Place::Key(&opened.key), Repeat::Once, kind)
                .await;
            result = result.and(closed.map(drop));
        }
        result
    }

    async fn write(
        &self,
        key: &Bytes,
        kind: impl Fn(v1::SessionRef) -> request::Kind,
    ) -> Result<response::Kind> {
        let mut reopenings = 0;
        loop {
            let shard = self.client.shared.routes.shard_of(Place::Key(key));
            let cell = Arc::clone(self.shards.lock().entry(shard).or_default());
            let opened = cell.get_or_try_init(|| self.open(key)).await?;
            let turn = opened.turn().await;
            let answer = self
                .client
                .call(Place::Key(key), Repeat::Once, kind(turn.reference))
                .await;
            drop(turn);
            match answer {
                // The client's call has seen to it that this means: no try of this write was applied.
                Err(Error::SessionUnknown { .. }) if reopenings < REOPENINGS => {
                    reopenings += 1;
                    let mut shards = self.shards.lock();
                    if shards
                        .get(&shard)
                        .is_some_and(|known| Arc::ptr_eq(known, &cell))
                    {
                        shards.remove(&shard);
                    }
                }
                answer => return answer,
            }
        }
    }

    async fn open(&self, key: &Bytes) -> Result<Opened> {
        let kind = request::Kind::OpenSession(v1::OpenSessionRequest { key: key.clone() });
        // A session that is opened twice costs the shard a little memory for an hour: as harmless as a read.
        let answer = self
            .client
            .call(Place::Key(key), Repeat::Read, kind)
            .await?;
        let response::Kind::OpenSession(answer) = answer else {
            return Err(self.client.unfit("open session"));
        };
        Ok(Opened {
            key: key.clone(),
            shard_id: answer.shard_id,
            number: answer.number,
            sequences: Mutex::new(Sequences {
                next: 1,
                unacknowledged: BTreeSet::new(),
            }),
            acknowledged: Notify::new(),
        })
    }
}
