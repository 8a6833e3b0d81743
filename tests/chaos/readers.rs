//! Who asks one node for linearizable reads, whatever happens to it, and waits: so that reads wait in its sockets while it
//! stands still or is cut off, and are answered by a node that may lead no more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flotilla::client::stream::NodeStream;
use flotilla_history::{Call, ClientId, Level};
use tokio::task::JoinHandle;

use crate::{clients::get_of, record::Record};

/// How long a read waits: longer than any fault lasts.
const TIMEOUT: Duration = Duration::from_secs(20);

/// See the module.
pub(crate) struct Reader {
    pub(crate) stream: NodeStream,
    pub(crate) record: Arc<Record>,
    /// As the history knows it.
    pub(crate) client: ClientId,
    /// Between two reads.
    pub(crate) pause: Duration,
}

impl Reader {
    /// Reads one key after the other, as they come for the time of the run.
    pub(crate) async fn go_on(
        self,
        mut key_at: impl FnMut(Duration) -> Bytes,
        stop: Arc<AtomicBool>,
    ) {
        let (client, level) = (self.client, Level::Linearizable);
        let mut waiting = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            waiting.retain(|read: &JoinHandle<()>| !read.is_finished());
            let key = key_at(self.record.now());
            let (stream, record) = (self.stream.clone(), Arc::clone(&self.record));
            waiting.push(tokio::spawn(async move {
                let call = Call::Get {
                    key: key.clone(),
                    level,
                };
                let op = record.invoke(client, call);
                let end = get_of(&stream, &key, level, TIMEOUT).await;
                record.end(op, end, true);
            }));
            tokio::time::sleep(self.pause).await;
        }
        for read in waiting {
            read.await.expect("no panic");
        }
    }
}
