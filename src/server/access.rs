//! Who calls, and whether they may: the node's copy of the access tables, and the one place in the server that asks it.
//!
//! A `Caller` is made where a call comes in; `Access::check` is asked for each operation, for each request of a stream
//! also, so that a token that is deleted or expires ends what its stream may do. What is decided is decided by
//! [`flotilla_shards::access::rights`].
//!
//! The copy is read again once per [`INTERVAL`]. While nothing is enforced, whatever replica of the meta shard is at hand is
//! good enough; when it is, the shard's leader has to confirm the copy. It has to confirm the first one in any case, as the
//! replica of a node that was just started may be from before anything was enforced; only if there is none for
//! `LEADERLESS`, what is at hand counts, so that a node without a quorum is of some use. A copy that nobody could confirm
//! for `max_age` is of no use any more: the node refuses what comes from clients then, rather than to let in who may long
//! have been put out.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use flotilla_proto::v1::{self as proto, error::Code, request, response};
use flotilla_shards::access::{
    self, Row, RowError,
    change::{Change, ChangeError, plan},
    rights::{Operation, decide},
    tables::{Identity, Tables},
};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::{Extensions, Request};

use super::{
    Front, error,
    services::Services,
    trace::{RequestId, Trace},
};
use crate::{clock::wall_ms, tls, token::Token};

/// How often the tables are read again.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// The same until they were read for the first time.
const FIRST_INTERVAL: Duration = Duration::from_millis(20);
/// How long a node that was started looks for somebody who confirms the tables, before it takes what it has.
const LEADERLESS: Duration = Duration::from_secs(10);
/// How long one reading or changing of the tables may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a change is planned anew because another one came first, or a reading begun anew.
const TRIES: usize = 8;

/// How a node treats the access tables.
#[derive(Clone, Debug)]
pub struct AccessOptions {
    /// Whether it does what they say. If not, everyone may do everything.
    pub enforce: bool,
    /// How old a copy may become that nobody confirms.
    pub max_age: Duration,
}

impl Default for AccessOptions {
    fn default() -> Self {
        Self {
            enforce: true,
            max_age: Duration::from_secs(300),
        }
    }
}

/// What a caller shows of itself.
#[derive(Clone, Debug)]
enum Shown {
    Nothing,
    /// A token's id, and the hash of its secret.
    Token(u64, [u8; 32]),
    /// Something in place of a token.
    Malformed,
    /// The name in its certificate.
    Certificate(Arc<str>),
}

/// Somebody who calls.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    who: Who,
    /// Where from.
    from: Option<SocketAddr>,
}

#[derive(Clone, Debug)]
enum Who {
    /// Another node: it has decided on what it passes on.
    Node,
    Client(Shown),
}

impl Caller {
    /// Another node, at the service that is for nodes only.
    pub(super) fn node() -> Self {
        Self {
            who: Who::Node,
            from: None,
        }
    }

    /// Whoever makes this call. A token counts more than a certificate.
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        let shown = match request.metadata().get("authorization") {
            None => certified_name(request.extensions()).map_or(Shown::Nothing, Shown::Certificate),
            Some(header) => header
                .to_str()
                .ok()
                .and_then(|text| Token::parse(text.strip_prefix("Bearer ")?).ok())
                .map_or(Shown::Malformed, |token| {
                    Shown::Token(token.id(), token.hash())
                }),
        };
        Self {
            who: Who::Client(shown),
            from: request
                .extensions()
                .get::<tls::Caller>()
                .and_then(|caller| caller.address),
        }
    }

    pub(super) fn is_node(&self) -> bool {
        matches!(self.who, Who::Node)
    }

    /// Where the call came from, if it is known.
    pub(super) fn from(&self) -> Option<SocketAddr> {
        self.from
    }
}

/// The name in the certificate that a client has shown.
fn certified_name(extensions: &Extensions) -> Option<Arc<str>> {
    match extensions.get::<tls::Caller>()?.identity.as_ref()? {
        tls::Identity::Client(name) => Some(Arc::clone(name)),
        // Nodes have a port of their own.
        tls::Identity::Node(_) => None,
    }
}

/// The node's copy of the access tables.
pub struct Access {
    options: AccessOptions,
    /// None until they were read for the first time.
    tables: ArcSwapOption<Tables>,
    /// Whether callers have to say who they are; also before the tables are known. All that a request costs if not.
    asks: AtomicBool,
    /// When the copy was last confirmed, in milliseconds since `started`.
    confirmed_ms: AtomicU64,
    started: Instant,
    /// Revision of the policy's row that the copy is of. Held while it is replaced.
    revision: Mutex<u64>,
}

impl Access {
    /// A node that has not read the tables yet.
    #[must_use]
    pub fn new(options: AccessOptions) -> Self {
        Self {
            asks: AtomicBool::new(options.enforce),
            options,
            tables: ArcSwapOption::empty(),
            confirmed_ms: AtomicU64::new(0),
            started: Instant::now(),
            revision: Mutex::new(0),
        }
    }

    /// Whether `caller` may do this now.
    pub(super) fn check(
        &self,
        caller: &Caller,
        operation: Operation<'_>,
    ) -> Result<(), proto::Error> {
        if !self.asks.load(Ordering::Acquire) {
            return Ok(());
        }
        let Who::Client(shown) = &caller.who else {
            return Ok(());
        };
        let tables = self.tables.load();
        let tables = tables.as_ref().ok_or_else(|| {
            error::of(
                Code::Unavailable,
                "this node has just started and does not know yet who may do what: no replica of the meta shard has \
                 answered it",
            )
        })?;
        if !tables.is_enforced() {
            return Ok(());
        }
        let age = self.age();
        if age > self.options.max_age {
            return Err(error::of(
                Code::Unavailable,
                format!(
                    "this node could not confirm for {} s who may do what, longer than access.max_age allows: the meta shard \
                     has no leader, or is out of its reach",
                    age.as_secs()
                ),
            ));
        }
        let identity = identify(tables, shown)?;
        decide(&identity.rights, operation).map_err(|missing| {
            error::of(
                Code::PermissionDenied,
                format!(
                    "user {} lacks {missing}; nothing was done. An admin gives it with `flotilla role grant` to a role of that \
                     user, which `flotilla user list` shows",
                    identity.name
                ),
            )
        })
    }

    /// Whether callers have to say who they are, as far as this node knows.
    #[must_use]
    pub fn is_enforced(&self) -> bool {
        self.options.enforce
            && self
                .tables
                .load()
                .as_ref()
                .is_some_and(|tables| tables.is_enforced())
    }

    /// Whether the tables were read since the start.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.tables.load().is_some()
    }

    /// Time since the copy was last confirmed.
    #[must_use]
    pub fn age(&self) -> Duration {
        let confirmed = Duration::from_millis(self.confirmed_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(confirmed)
    }

    /// Who a caller is.
    pub(super) fn who(&self, caller: &Caller) -> proto::WhoAmIResponse {
        let tables = self.tables.load();
        let mut answer = proto::WhoAmIResponse {
            enforced: self.is_enforced(),
            ..proto::WhoAmIResponse::default()
        };
        if let (Some(tables), Who::Client(shown)) = (tables.as_ref(), &caller.who)
            && let Ok(identity) = identify(tables, shown)
            && let Some(user) = tables.user(&identity.name)
        {
            let roles = tables
                .roles()
                .filter(|role| user.roles.contains(&role.name));
            answer.rights = roles
                .flat_map(|role| &role.grants)
                .map(Into::into)
                .collect();
            answer.user.clone_from(&user.name);
            answer.roles.clone_from(&user.roles);
        }
        answer
    }

    /// The name of a caller for the audit log: never more than what it proved.
    pub(super) fn name(&self, caller: &Caller) -> String {
        let Who::Client(shown) = &caller.who else {
            return "node".to_owned();
        };
        let tables = self.tables.load();
        let found = tables
            .as_ref()
            .and_then(|tables| identify(tables, shown).ok());
        found.map_or_else(|| "unknown".to_owned(), |identity| identity.name.clone())
    }

    fn age_now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes over tables that are at least as new as the known ones; `asked_ms` is when they were asked for.
    fn take(&self, tables: Arc<Tables>, revision: u64, asked_ms: u64) {
        let mut known = self.revision.lock();
        if revision < *known {
            return;
        }
        let enforced = self.options.enforce && tables.is_enforced();
        *known = revision;
        self.tables.store(Some(tables));
        self.confirmed_ms.fetch_max(asked_ms, Ordering::Relaxed);
        self.asks.store(enforced, Ordering::Release);
    }

    /// The tables, and the revision that they are of.
    #[cfg(test)]
    pub(super) fn set(&self, tables: Tables) {
        let revision = *self.revision.lock() + 1;
        self.take(Arc::new(tables), revision, self.age_now_ms());
    }
}

fn identify<'a>(tables: &'a Tables, shown: &Shown) -> Result<&'a Arc<Identity>, proto::Error> {
    let nobody = |why: String| error::of(Code::Unauthenticated, why);
    match shown {
        Shown::Token(id, hash) => tables
            .by_token(*id, hash, wall_ms())
            .map_err(|unknown| nobody(unknown.to_string())),
        Shown::Certificate(name) => tables
            .by_name(name)
            .map_err(|unknown| nobody(unknown.to_string())),
        Shown::Malformed => Err(nobody(
            "the header \"authorization\" holds no token of this cluster: expected \"Bearer \" and the token as `flotilla \
             token create` printed it"
                .to_owned(),
        )),
        Shown::Nothing => Err(nobody(
            "this cluster asks who calls: give a token with --token-file or FLOTILLA_TOKEN (in gRPC, the header \
             \"authorization: Bearer TOKEN\"); an admin makes one with `flotilla token create USER`"
                .to_owned(),
        )),
    }
}

/// Why the tables were not read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{}", .0.message)]
    Asked(proto::Error),
    #[error("row \"{key}\" of the access tables: {source}")]
    Row { key: String, source: RowError },
    #[error("the access tables are changed faster than they can be read")]
    Restless,
    #[error("the answer does not fit the question")]
    Answer,
}

impl From<ReadError> for proto::Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Asked(error) => error,
            ReadError::Restless => error::busy(error.to_string()),
            ReadError::Row { .. } | ReadError::Answer => {
                error::of(Code::Internal, error.to_string())
            }
        }
    }
}

/// Why the tables were not changed.
enum Refused {
    Change(ChangeError),
    Error(proto::Error),
}

impl From<Refused> for proto::Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Change(error) => error::of(Code::InvalidArgument, error.to_string()),
            Refused::Error(error) => error,
        }
    }
}

impl Services {
    /// Asks something of the meta shard, by its own keys.
    async fn ask_meta(
        self: &Arc<Self>,
        kind: request::Kind,
        deadline: Instant,
    ) -> Result<response::Kind, proto::Error> {
        let mut trace = Trace::new(RequestId::default(), false, Instant::now());
        trace.meta = true;
        self.perform(kind, deadline, &mut trace).await
    }

    /// Revision of the policy's row; 0 if there is none.
    async fn policy_revision(
        self: &Arc<Self>,
        consistency: i32,
        deadline: Instant,
    ) -> Result<u64, ReadError> {
        let get = request::Kind::Get(proto::GetRequest {
            key: access::policy_key(),
            consistency,
        });
        match self
            .ask_meta(get, deadline)
            .await
            .map_err(ReadError::Asked)?
        {
            response::Kind::Get(found) => Ok(found.revision),
            _ => Err(ReadError::Answer),
        }
    }

    /// All of the tables as they were at one moment, with their revision.
    async fn read_tables(
        self: &Arc<Self>,
        consistency: i32,
        deadline: Instant,
    ) -> Result<(Tables, u64), ReadError> {
        for _ in 0..TRIES {
            let range = access::keys();
            let mut scan = proto::ScanRequest {
                start: range.start().clone(),
                end: range.end().clone(),
                consistency,
                ..proto::ScanRequest::default()
            };
            let (mut rows, mut revision, mut pages) = (Vec::new(), 0, 0);
            loop {
                let asked = self
                    .ask_meta(request::Kind::Scan(scan.clone()), deadline)
                    .await;
                let response::Kind::Scan(page) = asked.map_err(ReadError::Asked)? else {
                    return Err(ReadError::Answer);
                };
                pages += 1;
                for row in page.rows {
                    if row.key == access::policy_key() {
                        revision = row.revision;
                    }
                    let decoded = Row::decode(&row.key, row.value);
                    rows.push(decoded.map_err(|source| ReadError::Row {
                        key: row.key.escape_ascii().to_string(),
                        source,
                    })?);
                }
                match page.next {
                    Some(next) => scan.start = next,
                    None => break,
                }
            }
            // Pages are of different moments: between the first and the last nothing may have changed.
            if pages == 1 || self.policy_revision(consistency, deadline).await? == revision {
                return Ok((Tables::new(rows), revision));
            }
        }
        Err(ReadError::Restless)
    }

    /// Reads the tables again if they have changed.
    async fn refresh_access(self: &Arc<Self>) -> Result<(), ReadError> {
        let access = &self.access;
        let first = !access.is_known() && access.started.elapsed() < LEADERLESS;
        let consistency = match first || access.is_enforced() {
            true => proto::Consistency::Linearizable,
            false => proto::Consistency::Serializable,
        };
        let consistency = consistency.into();
        let (asked_ms, deadline) = (access.age_now_ms(), Instant::now() + PATIENCE);
        let known = *access.revision.lock();
        if let Some(tables) = access.tables.load_full()
            && self.policy_revision(consistency, deadline).await? == known
        {
            access.take(tables, known, asked_ms);
            return Ok(());
        }
        let (tables, revision) = self.read_tables(consistency, deadline).await?;
        access.take(Arc::new(tables), revision, asked_ms);
        Ok(())
    }

    /// The tables as they are now.
    pub(super) async fn show_access(
        self: &Arc<Self>,
    ) -> Result<proto::ShowAccessResponse, proto::Error> {
        let deadline = Instant::now() + PATIENCE;
        let consistency = proto::Consistency::Linearizable.into();
        let (tables, _) = self.read_tables(consistency, deadline).await?;
        let user = |user: &access::User| {
            let mut user = proto::AccessUser::from(user);
            for token in &mut user.tokens {
                token.hash.clear();
            }
            user
        };
        Ok(proto::ShowAccessResponse {
            enforced: tables.is_enforced(),
            changes: tables.changes(),
            roles: tables.roles().map(Into::into).collect(),
            users: tables.users().map(user).collect(),
        })
    }

    /// Changes the tables. This node follows the change at once.
    pub(super) async fn change_access(
        self: &Arc<Self>,
        request: proto::ChangeAccessRequest,
    ) -> Result<proto::ChangeAccessResponse, proto::Error> {
        let change = Change::try_from(request).map_err(Refused::Change)?;
        let deadline = Instant::now() + PATIENCE;
        let consistency = proto::Consistency::Linearizable.into();
        for _ in 0..TRIES {
            let asked_ms = self.access.age_now_ms();
            let (tables, revision) = self.read_tables(consistency, deadline).await?;
            let now_ms = wall_ms();
            let planned = plan(&tables, revision, &change, now_ms).map_err(Refused::Change)?;
            let batch = request::Kind::Batch(proto::BatchRequest {
                conditions: planned.batch.conditions,
                operations: planned.batch.operations,
                session: None,
            });
            let asked = self
                .ask_meta(batch, deadline)
                .await
                .map_err(Refused::Error)?;
            let response::Kind::Batch(written) = asked else {
                return Err(ReadError::Answer.into());
            };
            if !written.succeeded {
                continue;
            }
            let changes = planned.after.changes();
            self.access
                .take(Arc::new(planned.after), written.revision, asked_ms);
            return Ok(proto::ChangeAccessResponse {
                changes,
                expires_ms: match change {
                    Change::CreateToken { lifetime_ms, .. } => now_ms.saturating_add(lifetime_ms),
                    _ => 0,
                },
            });
        }
        Err(ReadError::Restless.into())
    }
}

/// Keeps the copy fresh, for as long as the task lives.
pub async fn watch(front: &Front) {
    let mut failed = false;
    let mut enforced = false;
    loop {
        let Some(services) = front.services() else {
            tokio::time::sleep(FIRST_INTERVAL).await;
            continue;
        };
        let access = &services.access;
        match services.refresh_access().await {
            Ok(()) => failed = false,
            Err(error) => {
                if !failed && access.is_known() {
                    tracing::warn!(%error, "who may do what was not confirmed; the last word counts for now");
                }
                failed = true;
            }
        }
        let now = access.is_enforced();
        if now != enforced {
            tracing::info!(enforced = now, "access control");
            enforced = now;
        }
        services.metrics.access_enforced.set(now.into());
        services.metrics.access_age.set(access.age().as_secs_f64());
        let pause = match access.is_known() {
            true => INTERVAL,
            false => FIRST_INTERVAL,
        };
        tokio::time::sleep(pause).await;
    }
}
