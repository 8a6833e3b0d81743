//! A load: which operations are drawn, on which keys, and how one of them is carried out.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{
    choose::{Chooser, Distribution, Inserts},
    error::{Error, Result},
    keys::Keys,
    target::{Failed, Target, Transport},
    workload::{Kind, Mix},
};

/// Random bytes that values are cut from, beyond the length of one: values differ, so that no block of a database
/// shrinks to a single one when it is compressed.
const VALUE_POOL: usize = 64 << 10;
/// Batches in flight while the keys are written.
const FILLING: usize = 32;
/// Bounds of one of these batches.
const FILL_OPS: u64 = 100;
const FILL_BYTES: u64 = 1 << 20;
/// A batch that fails is tried again this often, after this pause.
const FILL_TRIES: u32 = 5;
const FILL_PAUSE: Duration = Duration::from_millis(300);

/// How many rows a scan asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rows {
    Exactly(u32),
    /// 1 to so many, all alike often.
    UpTo(u32),
}

/// What operations are like.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) mix: Mix,
    pub(crate) distribution: Distribution,
    pub(crate) transport: Transport,
    pub(crate) value_bytes: u32,
    pub(crate) rows: Rows,
    /// Operations of one batch.
    pub(crate) batch_ops: u32,
    pub(crate) seed: u64,
}

/// See the module.
pub(crate) struct Load {
    pub(crate) shape: Shape,
    pub(crate) keys: Keys,
    pub(crate) target: Target,
    pool: Bytes,
    inserts: Inserts,
}

/// One operation that was drawn.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    /// Place of its shard among those used.
    pub(crate) shard: usize,
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    /// Of a scan.
    pub(crate) rows: u32,
    /// Further keys of the same shard with their values, for what carries several: the first ones are above.
    pub(crate) more: Vec<(Bytes, Bytes)>,
    /// The number of the key that is inserted.
    insert: Option<u64>,
}

impl Operation {
    /// Keys with their values.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        let more = self.more.iter().map(|(key, value)| (key, value));
        std::iter::once((&self.key, &self.value)).chain(more)
    }

    /// Operations that it stands for: several gets or puts that travel together, but one conditional batch.
    pub(crate) fn weight(&self) -> u64 {
        match self.kind {
            Kind::Batch => 1,
            _ => 1 + self.more.len() as u64,
        }
    }

    /// Whether it travels as several in one.
    pub(crate) fn is_packed(&self) -> bool {
        !self.more.is_empty()
    }
}

/// Draws operations; each client has its own.
#[derive(Debug)]
pub(crate) struct Drawer {
    chooser: Chooser,
    random: SmallRng,
}

impl Load {
    pub(crate) fn new(shape: Shape, keys: Keys, target: Target) -> Self {
        let mut pool = vec![0; shape.value_bytes as usize + VALUE_POOL];
        SmallRng::seed_from_u64(shape.seed).fill_bytes(&mut pool);
        Self {
            inserts: Inserts::new(keys.count()),
            pool: pool.into(),
            shape,
            keys,
            target,
        }
    }

    /// A client's draws: from the seed and its number alone.
    pub(crate) fn drawer(&self, client: u64) -> Drawer {
        Drawer {
            chooser: Chooser::new(self.shape.distribution, self.keys.shards()),
            random: SmallRng::seed_from_u64(
                self.shape.seed ^ client.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            ),
        }
    }

    fn value(&self, random: &mut SmallRng) -> Bytes {
        let at = random.random_range(0..VALUE_POOL);
        self.pool.slice(at..at + self.shape.value_bytes as usize)
    }

    /// The next operation.
    pub(crate) fn draw(&self, drawer: &mut Drawer) -> Operation {
        let Shape {
            mix,
            transport,
            batch_ops,
            rows,
            ..
        } = &self.shape;
        let Drawer { chooser, random } = drawer;
        let kind = match mix.total() {
            1 => mix.kind(0),
            total => mix.kind(random.random_range(0..total)),
        };
        let insert = (kind == Kind::Insert).then(|| self.inserts.begin());
        let number = insert.unwrap_or_else(|| chooser.choose(self.inserts.there(), random));
        let writes = !matches!(kind, Kind::Get | Kind::Scan);
        let value = |random: &mut SmallRng| match writes {
            true => self.value(random),
            false => Bytes::new(),
        };
        let first = value(random);
        let packed = *transport == Transport::Batch || kind == Kind::Batch;
        let more = (1..if packed { u64::from(*batch_ops) } else { 1 })
            .map(|step| {
                (
                    self.keys.get(self.keys.neighbour(number, step)),
                    value(random),
                )
            })
            .collect();
        Operation {
            kind,
            shard: self.keys.shard(number),
            key: self.keys.get(number),
            value: first,
            rows: match rows {
                Rows::Exactly(rows) => *rows,
                Rows::UpTo(rows) => random.random_range(1..=*rows),
            },
            more,
            insert,
        }
    }

    /// Carries an operation out; says whether it found what it looked for.
    pub(crate) async fn perform(
        &self,
        client: usize,
        operation: &Operation,
    ) -> Result<bool, Failed> {
        let result = self.target.perform(client, operation).await;
        if let Some(number) = operation.insert {
            self.inserts.end(number);
        }
        result
    }

    /// Writes every key once; tells how many are written.
    pub(crate) async fn fill(&self, mut tell: impl FnMut(u64)) -> Result {
        let Self { keys, shape, .. } = self;
        let row_bytes = u64::from(shape.value_bytes) + keys.get(0).len() as u64;
        let step = (FILL_BYTES / row_bytes).clamp(1, FILL_OPS);
        let (count, shards) = (keys.count(), keys.shards());
        let batches = (0..shards.min(count)).flat_map(|shard| {
            let rounds = (count - shard).div_ceil(shards);
            (0..rounds)
                .step_by(usize::try_from(step).expect("at most FILL_OPS"))
                .map(move |from| (shard, from..rounds.min(from + step)))
        });
        let mut writes = stream::iter(batches)
            .map(async |(shard, rounds)| {
                let mut random = SmallRng::seed_from_u64(shape.seed ^ shard ^ rounds.start << 32);
                let mut pairs: Vec<(Bytes, Bytes)> = rounds
                    .map(|round| (keys.get(round * shards + shard), self.value(&mut random)))
                    .collect();
                let (key, value) = pairs.swap_remove(0);
                let operation = Operation {
                    kind: Kind::Put,
                    shard: keys.shard(shard),
                    key,
                    value,
                    rows: 0,
                    more: pairs,
                    insert: None,
                };
                self.fill_batch(&operation).await?;
                Ok::<_, Failed>(operation.weight())
            })
            .buffer_unordered(FILLING);
        let mut written = 0;
        while let Some(result) = writes.next().await {
            written += result.map_err(|failed| {
                Error::Target(format!("the keys could not be written: {}", failed.message))
            })?;
            tell(written);
        }
        Ok(())
    }

    async fn fill_batch(&self, operation: &Operation) -> Result<(), Failed> {
        let mut tries = 0;
        loop {
            match self.target.fill(operation).await {
                Ok(()) => return Ok(()),
                Err(failed) if tries + 1 == FILL_TRIES => return Err(failed),
                Err(_) => tries += 1,
            }
            tokio::time::sleep(FILL_PAUSE).await;
        }
    }
}
