//! Who may do what: users, their tokens, and roles that grant permissions on ranges of keys.
//!
//! The tables are rows of the meta shard, replicated like all of the directory:
//!
//! ```text
//! key                    value
//! access/policy          AccessPolicy: whether the tables are enforced
//! access/role/<name>     AccessRole
//! access/user/<name>     AccessUser, with its tokens
//! ```
//!
//! - [`tables`] is all rows together, compiled for questions: whose token is this, what may this user do.
//! - [`change`] makes a change of the tables: checks it and gives the batch that writes it.
//! - [`rights`] is the one place that decides: what a caller may do is asked there for every operation.
//!
//! Every change also rewrites the policy's row, on the condition that nobody else did so meanwhile: so changes follow each
//! other, and what was checked still holds when it is applied. Clocks and random numbers are the node's: when a token
//! expires is judged by the time that is handed in, and the secret behind a token's hash is never seen here.

pub mod change;
pub mod rights;
pub mod tables;
#[cfg(test)]
mod tests;

use std::fmt;

use bytes::Bytes;
use flotilla_proto::v1 as proto;
use prost::Message as _;

use crate::descriptor::{EmptyRange, KeyRange};
use crate::limits::{KEY_BYTES_MAX, ROW_OVERHEAD, VALUE_BYTES_MAX};

/// Bytes of the name of a role or user.
pub const NAME_BYTES_MAX: usize = 64;
/// Roles of a cluster.
pub const ROLES_MAX: usize = 1024;
/// Users of a cluster.
pub const USERS_MAX: usize = 4096;
/// Grants of a role.
pub const GRANTS_MAX: usize = 256;
/// Roles of a user.
pub const USER_ROLES_MAX: usize = 64;
/// Tokens of a user: more than one, so that a new one can be in use before the old one ends.
pub const USER_TOKENS_MAX: usize = 16;
/// The longest life of a token, in milliseconds: ten years.
pub const TOKEN_LIFETIME_MAX_MS: u64 = 3650 * 24 * 60 * 60 * 1000;

// Every row fits into a value.
const _: () = assert!(GRANTS_MAX * (2 * KEY_BYTES_MAX + ROW_OVERHEAD) <= VALUE_BYTES_MAX);

/// What the keys of all rows begin with.
pub(crate) const PREFIX: &str = "access/";
const POLICY: &str = "access/policy";
const ROLE: &str = "access/role/";
const USER: &str = "access/user/";

/// Bytes of a token's hash.
const HASH_BYTES: usize = 32;

/// What a role may grant on a range of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Permission {
    /// To see values, and whether keys exist.
    Read,
    /// To write and delete. Who deletes a key is told whether it existed.
    Write,
    /// To look at and to move the shards that lie in the range; on all keys: everything that operators do.
    Admin,
}

impl Permission {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Admin];
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        })
    }
}

/// Permissions on a range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which keys.
    pub range: KeyRange,
    /// See [`Permission::Read`].
    pub read: bool,
    /// See [`Permission::Write`].
    pub write: bool,
    /// See [`Permission::Admin`].
    pub admin: bool,
}

impl Grant {
    /// Whether it grants this.
    #[must_use]
    pub fn permits(&self, permission: Permission) -> bool {
        match permission {
            Permission::Read => self.read,
            Permission::Write => self.write,
            Permission::Admin => self.admin,
        }
    }
}

/// A named set of grants.
///
/// *Invariant:* the name is one ([`RowError::Name`]); grants ascend by range, each range is there once and grants something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// What it grants.
    pub grants: Vec<Grant>,
}

/// What a token's owner proves to have the secret of.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Names it; no secret.
    pub id: u64,
    /// SHA-256 of the secret.
    pub hash: [u8; HASH_BYTES],
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// The first moment at which it is worth nothing any more, in milliseconds since 1970.
    pub expires_ms: u64,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}, expires {})", self.name(), self.expires_ms)
    }
}

impl Token {
    /// Its id as people see it.
    #[must_use]
    pub fn name(&self) -> TokenName {
        TokenName(self.id)
    }
}

/// A token's id as people see it: 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenName(pub u64);

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Somebody who may call.
///
/// *Invariant:* the name is one; roles ascend, tokens ascend by id, each is there once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name; also the name in a client certificate that stands for it.
    pub name: String,
    /// Names of its roles.
    pub roles: Vec<String>,
    /// What it may prove itself with.
    pub tokens: Vec<Token>,
}

/// Whether the tables are enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Whether callers have to say who they are.
    pub enforced: bool,
    /// How often the tables were changed.
    pub changes: u64,
}

/// One row of the access tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// The one policy.
    Policy(Policy),
    /// A role.
    Role(Role),
    /// A user.
    User(User),
}

/// Why bytes are no row of the access tables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// A key that this version does not know.
    #[error("no such row is known to this version")]
    Key,
    /// The value does not parse.
    #[error(transparent)]
    Message(#[from] prost::DecodeError),
    /// No name of a role or user.
    #[error(
        "\"{}\" is no name: 1 to {NAME_BYTES_MAX} letters, digits and . _ - @ are", .0.escape_debug()
    )]
    Name(String),
    /// The row of one thing describes another one.
    #[error("the row describes \"{0}\"")]
    WrongName(String),
    /// A grant without keys.
    #[error(transparent)]
    Range(#[from] EmptyRange),
    /// A grant of nothing.
    #[error("a grant has no permission")]
    Nothing,
    /// A hash has 32 bytes.
    #[error("a token's hash has {0} bytes, expected {HASH_BYTES}")]
    Hash(usize),
    /// Lists ascend, without repetition.
    #[error("its {0} do not ascend")]
    Order(&'static str),
}

/// Checks the name of a role or user.
///
/// # Errors
/// [`RowError::Name`].
pub fn check_name(name: &str) -> Result<(), RowError> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(known) {
        return Ok(());
    }
    let shown = name.chars().take(NAME_BYTES_MAX).collect();
    Err(RowError::Name(shown))
}

/// Checks a token's hash.
///
/// # Errors
/// [`RowError::Hash`].
pub fn check_hash(hash: &[u8]) -> Result<[u8; HASH_BYTES], RowError> {
    hash.try_into().map_err(|_| RowError::Hash(hash.len()))
}

/// Keys of all rows.
#[must_use]
pub fn keys() -> KeyRange {
    let (start, end) = (
        Bytes::from_static(b"access/"),
        Bytes::from_static(b"access0"),
    );
    KeyRange::new(start, end).expect("'0' follows '/'")
}

/// Key of the policy's row.
#[must_use]
pub fn policy_key() -> Bytes {
    Bytes::from_static(POLICY.as_bytes())
}

/// Key of a role's row.
#[must_use]
pub fn role_key(name: &str) -> Bytes {
    format!("{ROLE}{name}").into()
}

/// Key of a user's row.
#[must_use]
pub fn user_key(name: &str) -> Bytes {
    format!("{USER}{name}").into()
}

impl Row {
    /// Reads a row.
    ///
    /// # Errors
    /// If the row is damaged, or of another version.
    pub fn decode(key: &[u8], value: Bytes) -> Result<Self, RowError> {
        let text = std::str::from_utf8(key).map_err(|_| RowError::Key)?;
        let (row, name) = if text == POLICY {
            let proto::AccessPolicy { enforced, changes } = proto::AccessPolicy::decode(value)?;
            return Ok(Self::Policy(Policy { enforced, changes }));
        } else if let Some(name) = text.strip_prefix(ROLE) {
            let role = Role::try_from(proto::AccessRole::decode(value)?)?;
            (Self::Role(role), name)
        } else if let Some(name) = text.strip_prefix(USER) {
            let user = User::try_from(proto::AccessUser::decode(value)?)?;
            (Self::User(user), name)
        } else {
            return Err(RowError::Key);
        };
        match &row {
            Self::Role(Role {
                name: described, ..
            })
            | Self::User(User {
                name: described, ..
            }) if described != name => Err(RowError::WrongName(described.clone())),
            _ => Ok(row),
        }
    }

    /// The row's key.
    #[must_use]
    pub fn key(&self) -> Bytes {
        match self {
            Self::Policy(_) => policy_key(),
            Self::Role(role) => role_key(&role.name),
            Self::User(user) => user_key(&user.name),
        }
    }

    /// The row's value.
    #[must_use]
    pub fn value(&self) -> Bytes {
        match self {
            Self::Policy(policy) => proto::AccessPolicy {
                enforced: policy.enforced,
                changes: policy.changes,
            }
            .encode_to_vec(),
            Self::Role(role) => proto::AccessRole::from(role).encode_to_vec(),
            Self::User(user) => proto::AccessUser::from(user).encode_to_vec(),
        }
        .into()
    }
}

fn ascend<T, K: Ord>(list: &[T], key: impl Fn(&T) -> K) -> bool {
    list.windows(2).all(|pair| key(&pair[0]) < key(&pair[1]))
}

/// Grants of a role in their order.
fn place(grant: &Grant) -> (Bytes, Bytes) {
    (grant.range.start().clone(), grant.range.end().clone())
}

impl TryFrom<proto::AccessGrant> for Grant {
    type Error = RowError;

    fn try_from(message: proto::AccessGrant) -> Result<Self, Self::Error> {
        let proto::AccessGrant {
            start,
            end,
            read,
            write,
            admin,
        } = message;
        if !(read || write || admin) {
            return Err(RowError::Nothing);
        }
        Ok(Self {
            range: KeyRange::new(start, end)?,
            read,
            write,
            admin,
        })
    }
}

impl From<&Grant> for proto::AccessGrant {
    fn from(grant: &Grant) -> Self {
        Self {
            start: grant.range.start().clone(),
            end: grant.range.end().clone(),
            read: grant.read,
            write: grant.write,
            admin: grant.admin,
        }
    }
}

impl TryFrom<proto::AccessRole> for Role {
    type Error = RowError;

    fn try_from(message: proto::AccessRole) -> Result<Self, Self::Error> {
        check_name(&message.name)?;
        let grants = message.grants.into_iter().map(Grant::try_from);
        let grants = grants.collect::<Result<Vec<_>, _>>()?;
        if !ascend(&grants, place) {
            return Err(RowError::Order("grants"));
        }
        let name = message.name;
        Ok(Self { name, grants })
    }
}

impl From<&Role> for proto::AccessRole {
    fn from(role: &Role) -> Self {
        Self {
            name: role.name.clone(),
            grants: role.grants.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::AccessUser> for User {
    type Error = RowError;

    fn try_from(message: proto::AccessUser) -> Result<Self, Self::Error> {
        let proto::AccessUser {
            name,
            roles,
            tokens,
        } = message;
        check_name(&name)?;
        roles.iter().try_for_each(|role| check_name(role))?;
        if !ascend(&roles, |role| role.clone()) {
            return Err(RowError::Order("roles"));
        }
        let tokens = tokens.into_iter().map(|token| {
            Ok(Token {
                id: token.id,
                hash: check_hash(&token.hash)?,
                created_ms: token.created_ms,
                expires_ms: token.expires_ms,
            })
        });
        let tokens = tokens.collect::<Result<Vec<_>, RowError>>()?;
        if !ascend(&tokens, |token| token.id) {
            return Err(RowError::Order("tokens"));
        }
        Ok(Self {
            name,
            roles,
            tokens,
        })
    }
}

impl From<&User> for proto::AccessUser {
    fn from(user: &User) -> Self {
        let token = |token: &Token| proto::AccessToken {
            id: token.id,
            hash: Bytes::copy_from_slice(&token.hash),
            created_ms: token.created_ms,
            expires_ms: token.expires_ms,
        };
        Self {
            name: user.name.clone(),
            roles: user.roles.clone(),
            tokens: user.tokens.iter().map(token).collect(),
        }
    }
}
