//! Reads that a replica was asked for, from the request to the moment at which the state may be read: they gather for a
//! turn, are asked of Raft together, and wait until what was committed then is applied here.

use std::{collections::VecDeque, mem};

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    EngineConfig, LogReader, Output,
    io::{ConfirmedRead, OpenLease, Refused},
    replica::{Replica, pop_if, refuse},
};
use crate::raft::ReadState;

/// Reads that were asked together and wait for one confirmation.
#[derive(Debug)]
pub(super) struct AskedReads<C> {
    batch: u64,
    /// What the answer names.
    context: Bytes,
    replies: Vec<C>,
}

impl<C, L: LogReader + Clone> Replica<C, L> {
    pub(super) fn read(&mut self, reply: C) {
        self.note_active();
        self.busy = true;
        self.waiting_mut().new_reads.push(reply);
    }

    /// Says when it has changed up to which tick anybody may read by the lease without asking: what is committed must be
    /// applied, or such a read could miss what another one, at a follower, has seen.
    pub(super) fn report_lease(&mut self, out: &mut Output<C>) {
        let caught_up = self.is_leader() && self.node.applied() == self.node.committed();
        let open = caught_up.then(|| self.lease_end()).flatten().unwrap_or(0);
        if open != self.open_lease {
            self.open_lease = open;
            let shard = self.shard;
            out.leases.push(OpenLease { shard, until: open });
        }
    }

    /// Reads were answered by the open lease.
    pub(super) fn leased_reads(&mut self, reads: u64) {
        self.load.reads += reads;
        // Who rests lets the lease end: the next read is asked of it, and wakes it.
        if self.is_leader() && !self.node.is_quiescent() {
            self.note_active();
            self.busy = true;
            self.node.use_lease();
        }
    }

    /// Gives up on all reads that are not confirmed: whoever was asked before a change of the leader will not answer, or
    /// must not be believed.
    pub(super) fn give_up_reads(&mut self, out: &mut Output<C>) {
        let asked = self.waiting.as_mut();
        for asked in asked.map_or_else(VecDeque::new, |waiting| mem::take(&mut waiting.asked)) {
            refuse(out, asked.replies, &Refused::Unconfirmed);
        }
    }

    /// Gives up on reads that were asked in the batches up to this one.
    pub(super) fn expire_reads(&mut self, batch: u64, out: &mut Output<C>) {
        let Some(waiting) = &mut self.waiting else {
            return;
        };
        while let Some(asked) = pop_if(&mut waiting.asked, |asked| asked.batch <= batch) {
            refuse(out, asked.replies, &Refused::Unconfirmed);
        }
    }

    pub(super) fn ask_reads(
        &mut self,
        config: &EngineConfig,
        next_batch: &mut u64,
        out: &mut Output<C>,
    ) -> Option<u64> {
        let waiting = self.waiting.as_mut();
        let replies = mem::take(&mut waiting?.new_reads);
        if replies.is_empty() {
            return None;
        }
        let batch = *next_batch;
        // The context is unique over restarts (by the seed of this start) and over shards: an answer that comes late
        // can't confirm a read that it knew nothing of.
        let mut context = BytesMut::with_capacity(16);
        context.put_u64(config.seed);
        context.put_u64(batch);
        let context = context.freeze();
        match self.node.read_index(context.clone()) {
            Ok(()) => {
                *next_batch += 1;
                self.load.reads += replies.len() as u64;
                self.waiting_mut().asked.push_back(AskedReads {
                    batch,
                    context,
                    replies,
                });
                Some(batch)
            }
            Err(_) => {
                let leader = self.leader();
                refuse(out, replies, &Refused::NotLeader { leader });
                None
            }
        }
    }

    pub(super) fn confirm(&mut self, state: &ReadState, out: &mut Output<C>) {
        // All of it: an earlier process of this node had batches of the same number, and answers to them may come late.
        let Some(waiting) = &mut self.waiting else {
            return;
        };
        let mut asked = waiting.asked.iter();
        let at = asked.position(|asked| asked.context == state.context);
        if let Some(asked) = at.and_then(|at| waiting.asked.remove(at)) {
            let confirmed = (state.index, state.leased, asked.replies);
            waiting.confirmed.push_back(confirmed);
            self.serve_confirmed(out);
        }
    }

    pub(super) fn serve_confirmed(&mut self, out: &mut Output<C>) {
        // What was acknowledged, not what a snapshot on its way into the state database will bring: until it is there,
        // the state is that of before (the log's view runs ahead).
        let applied = self.node.applied();
        let Some(waiting) = &mut self.waiting else {
            return;
        };
        while let Some((index, leased, replies)) =
            pop_if(&mut waiting.confirmed, |(index, ..)| *index <= applied)
        {
            let shard = self.shard;
            out.reads
                .extend(replies.into_iter().map(|reply| ConfirmedRead {
                    shard,
                    index,
                    leased,
                    reply,
                }));
        }
    }
}
