//! Clients that write, and read some of it, so that there is something to see.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use flotilla::client::Options;
use flotilla_harness::Cluster;
use tokio::time::sleep;

/// What each shard but one begins with.
pub(crate) const LETTERS: [&str; 25] = [
    "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t",
    "u", "v", "w", "x", "y", "z",
];

/// They write until they are dropped: a lot below one letter, a little everywhere.
pub(crate) struct Writers(Arc<AtomicBool>);

impl Writers {
    pub(crate) fn start(cluster: &Cluster, hot: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = cluster.client(Options::default());
        for writer in 0..4 {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            cluster.spawn(async move {
                for number in 0_u64.. {
                    if stop.load(Relaxed) {
                        return;
                    }
                    let key = match number % 5 {
                        0 => format!(
                            "{}-{writer}",
                            LETTERS[(number / 5) as usize % LETTERS.len()]
                        ),
                        _ => format!("{hot}-{writer}-{}", number % 1_000),
                    };
                    // A node may have been killed: the next one is written elsewhere.
                    if number % 3 == 0 {
                        let _ = client.get(key.clone()).await;
                    }
                    let _ = client.put(key, "value").await;
                    sleep(Duration::from_millis(5)).await;
                }
            });
        }
        Self(stop)
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
