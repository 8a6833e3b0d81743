//! All rows of the access tables together, compiled for questions.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use super::rights::Rights;
use super::{Policy, Role, Row, Token, TokenName, User};

/// A user, as operations ask for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub rights: Rights,
}

/// Why a caller is nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// No such token, or not this secret: which of the two is not told.
    #[error(
        "the token is not known to this cluster: it was deleted, or it is not all of it; an admin makes another one with \
         `flotilla token create USER`"
    )]
    Token,
    /// Its time is over.
    #[error(
        "token {token} of user {user} has expired: an admin makes another one with `flotilla token create {user}`"
    )]
    Expired {
        /// Which token.
        token: TokenName,
        /// Whose.
        user: String,
    },
    /// No user has this name.
    #[error(
        "the certificate names {0:?}, and no user has that name: an admin makes one with `flotilla user create NAME`"
    )]
    User(String),
}

/// The access tables at one moment. Immutable; shared by all that ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    pub(super) policy: Policy,
    pub(super) roles: BTreeMap<String, Role>,
    pub(super) users: BTreeMap<String, User>,
    identities: BTreeMap<String, Arc<Identity>>,
    tokens: BTreeMap<u64, (Token, Arc<Identity>)>,
}

impl Tables {
    /// The tables that consist of these rows.
    #[must_use]
    pub fn new(rows: impl IntoIterator<Item = Row>) -> Self {
        let mut tables = Self::default();
        for row in rows {
            match row {
                Row::Policy(policy) => tables.policy = policy,
                Row::Role(role) => drop(tables.roles.insert(role.name.clone(), role)),
                Row::User(user) => drop(tables.users.insert(user.name.clone(), user)),
            }
        }
        tables.compile();
        tables
    }

    /// Brings what is asked for up to what is stored.
    pub(super) fn compile(&mut self) {
        let Self {
            roles,
            users,
            identities,
            tokens,
            ..
        } = self;
        identities.clear();
        tokens.clear();
        for user in users.values() {
            // A role that is not there grants nothing.
            let grants = user.roles.iter().filter_map(|role| roles.get(role));
            let identity = Arc::new(Identity {
                name: user.name.clone(),
                rights: Rights::new(grants.flat_map(|role| &role.grants)),
            });
            for token in &user.tokens {
                tokens.insert(token.id, (token.clone(), Arc::clone(&identity)));
            }
            identities.insert(user.name.clone(), identity);
        }
    }

    /// Whether callers have to say who they are.
    #[must_use]
    pub fn is_enforced(&self) -> bool {
        self.policy.enforced
    }

    /// How often the tables were changed.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.policy.changes
    }

    /// All roles, by name.
    pub fn roles(&self) -> impl Iterator<Item = &Role> {
        self.roles.values()
    }

    /// All users, by name.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.users.values()
    }

    /// The user of this name, as it is stored.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// Whose token this is. The hash is compared in a time that does not depend on where it differs.
    ///
    /// # Errors
    /// If it is nobody's, or has expired at `now_ms`.
    pub fn by_token(
        &self,
        id: u64,
        hash: &[u8; 32],
        now_ms: u64,
    ) -> Result<&Arc<Identity>, Unknown> {
        let (token, identity) = self.tokens.get(&id).ok_or(Unknown::Token)?;
        let pairs = token.hash.iter().zip(hash);
        let difference = pairs.fold(0, |all, (one, other)| black_box(all | (one ^ other)));
        if difference != 0 {
            return Err(Unknown::Token);
        }
        if now_ms >= token.expires_ms {
            return Err(Unknown::Expired {
                token: token.name(),
                user: identity.name.clone(),
            });
        }
        Ok(identity)
    }

    /// The user that a certificate names.
    ///
    /// # Errors
    /// [`Unknown::User`].
    pub fn by_name(&self, name: &str) -> Result<&Arc<Identity>, Unknown> {
        let found = self.identities.get(name);
        found.ok_or_else(|| Unknown::User(name.to_owned()))
    }

    /// Whether a token is taken.
    pub(super) fn owner(&self, token: u64) -> Option<&str> {
        let (_, identity) = self.tokens.get(&token)?;
        Some(&identity.name)
    }

    /// Whether somebody who may do everything can still come in at `now_ms`.
    #[must_use]
    pub fn has_admin(&self, now_ms: u64) -> bool {
        let mut tokens = self.tokens.values();
        tokens.any(|(token, user)| user.rights.is_admin() && now_ms < token.expires_ms)
    }

    /// All rows, as they are stored.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        let policy = (self.policy != Policy::default()).then_some(Row::Policy(self.policy));
        let roles = self.roles.values().cloned().map(Row::Role);
        let users = self.users.values().cloned().map(Row::User);
        policy.into_iter().chain(roles).chain(users)
    }
}
