//! Clients that write on whatever happens, and remember what was acknowledged.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use flotilla::client::{Client, Options};
use tokio::task::JoinHandle;

use super::Cluster;

/// Writers at the same time.
const WRITERS: usize = 16;

/// Acknowledged writes, by key.
pub type Acknowledged = BTreeMap<String, String>;

/// Clients that write new keys, and what was acknowledged to them.
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Acknowledged>>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Begins to write keys that hold a name which no other load has.
    pub fn begin(cluster: &Cluster, name: &str) -> Self {
        let client = cluster.client(Options {
            timeout: Duration::from_secs(3),
            ..Options::default()
        });
        let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::default());
        let writers = (0..WRITERS)
            .map(|writer| {
                let name = format!("{name}-{writer}");
                let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
                cluster.spawn(write(client.clone(), name, acknowledged, stop))
            })
            .collect();
        Self {
            stop,
            acknowledged,
            writers,
        }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().expect("no panic").len()
    }

    /// Waits until so many more writes have been acknowledged.
    pub fn until_more(&self, cluster: &Cluster, more: usize) {
        let before = self.count();
        cluster.until("the cluster takes writes", |_| self.count() > before + more);
    }

    /// Stops, and returns what was acknowledged.
    pub fn end(self, cluster: &Cluster) -> Acknowledged {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            cluster.block_on(writer).expect("no panic");
        }
        std::mem::take(&mut *self.acknowledged.lock().expect("no panic"))
    }
}

async fn write(
    client: Client,
    name: String,
    acknowledged: Arc<Mutex<Acknowledged>>,
    stop: Arc<AtomicBool>,
) {
    for number in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        // Spread over the shards by the first byte.
        let first = char::from(b'!' + (number % 94) as u8);
        let key = format!("{first}-{name}-{number}");
        let value = value_of(&key);
        if client.put(key.clone(), value.clone()).await.is_ok() {
            acknowledged.lock().expect("no panic").insert(key, value);
        }
    }
}

/// What is written under a key, of up to a few sectors: every piece of it tells whose it is.
fn value_of(key: &str) -> String {
    let pieces = key.bytes().map(usize::from).sum::<usize>() % 97;
    format!("value of {key};").repeat(1 + pieces)
}

/// Fails if a row is there that nobody wrote.
pub fn assert_written(found: &Acknowledged, when: &str) {
    let strange = found.iter().find(|(key, value)| **value != value_of(key));
    assert_eq!(strange, None, "{when}: nobody wrote it");
}

/// Fails if something acknowledged is not there.
pub fn assert_complete(found: &Acknowledged, acknowledged: &Acknowledged, when: &str) {
    let mut rows = acknowledged.iter();
    let lost = rows.find(|(key, value)| found.get(*key) != Some(value));
    let (count, all) = (found.len(), acknowledged.len());
    assert_eq!(lost, None, "{when}: of {all} acknowledged; {count} found");
}

/// Reads everything through a node: all that was acknowledged, and nothing that nobody wrote.
pub fn assert_kept(cluster: &Cluster, node: usize, acknowledged: &Acknowledged, when: &str) {
    let found = cluster.rows(node).into_iter().collect();
    assert_written(&found, when);
    assert_complete(&found, acknowledged, when);
    let (count, all) = (found.len(), acknowledged.len());
    eprintln!("{when}: {all} acknowledged, {count} found");
}
