//! How a node stops: the phases of its life, the signals that move it from one to the next, and a gate that lets
//! whoever works finish and keeps new work out.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

/// How far a node is on its way out. It only goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Running,
    /// Handing leaderships over and ending what is in flight; nothing new is taken in.
    Draining,
    /// Out of patience: whatever still runs is cut off.
    Now,
}

/// The phase of one node, shared by everything that has to know.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    phase: watch::Sender<Phase>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Running),
        }
    }
}

impl Lifecycle {
    /// The phase at this moment.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Goes on to a phase; going back is not possible and changes nothing.
    pub fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let forward = *phase < to;
            *phase = (*phase).max(to);
            forward
        });
    }

    /// Waits until a phase is reached.
    pub async fn reached(&self, phase: Phase) {
        // The sender is held by `self`, so waiting ends with the phase and with nothing else.
        let _ = self
            .phase
            .subscribe()
            .wait_for(|current| *current >= phase)
            .await;
    }
}

/// SIGTERM and SIGINT, from the moment this exists on.
#[derive(Debug)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// Takes the signals over from the system's default, which would end the process at once.
    ///
    /// # Errors
    /// The handler cannot be installed.
    pub fn install() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one and returns its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Moves the node on with every signal: the first drains, the second ends at once. Runs until the second.
    pub async fn drive(mut self, lifecycle: Lifecycle) {
        let signal = self.next().await;
        tracing::info!(signal, "draining; a second signal ends the node at once");
        lifecycle.advance(Phase::Draining);
        let signal = self.next().await;
        tracing::warn!(signal, "ending at once");
        lifecycle.advance(Phase::Now);
    }
}

/// What can hold a gate open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A request of a client.
    Request,
    /// A bidirectional stream of a client.
    ClientStream,
    /// A stream of another node.
    PeerStream,
    /// A snapshot that is sent or received.
    Snapshot,
}

const HOLDERS: [(Holder, &str); 4] = [
    (Holder::Request, "requests"),
    (Holder::ClientStream, "client streams"),
    (Holder::PeerStream, "peer streams"),
    (Holder::Snapshot, "snapshots"),
];

/// Counts who is inside and, once it is closed, lets nobody in. Entering costs one atomic addition and one load.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    closed: AtomicBool,
    inside: [AtomicUsize; HOLDERS.len()],
    left: Notify,
}

/// Leave to be inside; ends when it is dropped.
#[derive(Debug)]
pub struct GateGuard {
    gate: Arc<Inner>,
    holder: Holder,
}

/// The gate is closed: the node is going down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node is going down; ask another one")]
pub struct GateClosed;

/// Who was still inside when waiting ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct HeldOpen {
    /// Kind and number, only those that are not zero.
    pub by: Vec<(Holder, usize)>,
}

impl fmt::Display for HeldOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("still running:")?;
        for (at, (holder, count)) in self.by.iter().enumerate() {
            let (_, name) = HOLDERS[*holder as usize];
            write!(f, "{} {count} {name}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Gate {
    /// Goes in.
    ///
    /// # Errors
    /// The gate is closed.
    pub fn enter(&self, holder: Holder) -> Result<GateGuard, GateClosed> {
        // Count first, look second; `close` closes first, counts second. In one total order (SeqCst) one of the two
        // sees the other, so nobody slips in unseen.
        self.inner.inside[holder as usize].fetch_add(1, Ordering::SeqCst);
        let guard = GateGuard {
            gate: Arc::clone(&self.inner),
            holder,
        };
        if self.inner.closed.load(Ordering::SeqCst) {
            Err(GateClosed)
        } else {
            Ok(guard)
        }
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.inner.closed.load(Ordering::SeqCst)
    }

    /// Closes it, so that nobody enters any more.
    pub fn close(&self) {
        self.inner.closed.store(true, Ordering::SeqCst);
        self.inner.left.notify_waiters();
    }

    /// Closes it and waits until all have left, at most so long.
    ///
    /// # Errors
    /// Who was still inside after that time.
    pub async fn drain(&self, at_most: Duration) -> Result<(), HeldOpen> {
        self.close();
        let empty = async {
            loop {
                let mut left = std::pin::pin!(self.inner.left.notified());
                left.as_mut().enable();
                if self.inside().is_empty() {
                    return;
                }
                left.await;
            }
        };
        match tokio::time::timeout(at_most, empty).await {
            Ok(()) => Ok(()),
            Err(_) => match self.inside() {
                by if by.is_empty() => Ok(()),
                by => Err(HeldOpen { by }),
            },
        }
    }

    /// Who is inside, only kinds that are.
    pub fn inside(&self) -> Vec<(Holder, usize)> {
        let count = |holder: Holder| self.inner.inside[holder as usize].load(Ordering::SeqCst);
        HOLDERS
            .iter()
            .map(|(holder, _)| (*holder, count(*holder)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

impl Drop for GateGuard {
    fn drop(&mut self) {
        self.gate.inside[self.holder as usize].fetch_sub(1, Ordering::SeqCst);
        if self.gate.closed.load(Ordering::SeqCst) {
            self.gate.left.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_gate_waits_for_those_inside_and_keeps_others_out() {
        let gate = Gate::default();
        let guard = gate.enter(Holder::Request).expect("open");
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.drain(Duration::from_secs(60)).await }
        });
        while !gate.is_closed() {
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.enter(Holder::ClientStream).err(), Some(GateClosed));
        assert!(!waiting.is_finished());
        drop(guard);
        assert_eq!(waiting.await.expect("task"), Ok(()));
    }

    #[tokio::test]
    async fn a_gate_names_who_held_on() {
        let gate = Gate::default();
        let _guards = [Holder::Snapshot, Holder::Request, Holder::Request]
            .map(|holder| gate.enter(holder).expect("open"));
        let held = gate
            .drain(Duration::from_millis(1))
            .await
            .expect_err("held open");
        assert_eq!(held.to_string(), "still running: 2 requests, 1 snapshots");
    }

    #[test]
    fn every_holder_has_its_place() {
        assert!(
            HOLDERS
                .iter()
                .enumerate()
                .all(|(at, (holder, _))| *holder as usize == at)
        );
    }

    #[test]
    fn nobody_slips_through_a_closing_gate() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        for _ in 0..50 {
            let gate = Gate::default();
            let working = Arc::new(AtomicUsize::new(0));
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    let (gate, working) = (gate.clone(), Arc::clone(&working));
                    scope.spawn(move || {
                        while let Ok(guard) = gate.enter(Holder::Request) {
                            working.fetch_add(1, Ordering::SeqCst);
                            std::hint::spin_loop();
                            working.fetch_sub(1, Ordering::SeqCst);
                            drop(guard);
                        }
                    });
                }
                runtime
                    .block_on(gate.drain(Duration::from_secs(60)))
                    .expect("all leave");
                assert_eq!(working.load(Ordering::SeqCst), 0);
            });
        }
    }

    #[tokio::test]
    async fn phases_only_go_forward() {
        let lifecycle = Lifecycle::default();
        assert_eq!(lifecycle.phase(), Phase::Running);
        let other = lifecycle.clone();
        let waiting = tokio::spawn(async move { other.reached(Phase::Draining).await });
        lifecycle.advance(Phase::Now);
        lifecycle.advance(Phase::Draining);
        assert_eq!(lifecycle.phase(), Phase::Now);
        waiting.await.expect("reached");
    }
}
