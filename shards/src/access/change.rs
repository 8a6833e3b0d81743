//! Changes of the access tables: each is checked against the tables as they are, and becomes one batch for the meta shard
//! that is applied only if nobody has changed them meanwhile.

use std::fmt;

use bytes::Bytes;
use flotilla_proto::v1::{
    self as proto, Condition, DeleteOperation, Operation, PutOperation, WriteBatch,
    change_access_request as wire, condition, operation,
};

use super::tables::Tables;
use super::{
    GRANTS_MAX, Grant, Permission, ROLES_MAX, Role, Row, RowError, TOKEN_LIFETIME_MAX_MS, Token,
    TokenName, USER_ROLES_MAX, USER_TOKENS_MAX, USERS_MAX, User, check_hash, check_name, place,
    policy_key, role_key, user_key,
};
use crate::descriptor::KeyRange;
use crate::limits::KEY_BYTES_MAX;

/// A change that makes sense in itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new role without grants.
    CreateRole(String),
    /// A role that nobody has goes.
    DeleteRole(String),
    /// A role gets this, in place of what it has on exactly this range.
    Grant(String, Grant),
    /// A role loses what it has on exactly this range.
    Revoke(String, KeyRange),
    /// A new user with these roles.
    CreateUser(String, Vec<String>),
    /// A user goes, and its tokens.
    DeleteUser(String),
    /// A user gets a role.
    AssignRole(String, String),
    /// A user loses a role.
    UnassignRole(String, String),
    /// A user gets a token.
    CreateToken {
        /// Who.
        user: String,
        /// Its id.
        id: u64,
        /// SHA-256 of its secret.
        hash: [u8; 32],
        /// How long it lives, in milliseconds.
        lifetime_ms: u64,
    },
    /// A token goes.
    DeleteToken(u64),
    /// Callers have to say who they are, or no longer.
    Enforce(bool),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateRole(role) => write!(f, "create role {role}"),
            Self::DeleteRole(role) => write!(f, "delete role {role}"),
            Self::Grant(role, grant) => {
                let granted = Permission::ALL.iter().filter(|one| grant.permits(**one));
                let granted: Vec<String> = granted.map(ToString::to_string).collect();
                let (granted, range) = (granted.join(","), &grant.range);
                write!(f, "grant {granted} on {range} to role {role}")
            }
            Self::Revoke(role, range) => write!(f, "revoke what role {role} has on {range}"),
            Self::CreateUser(user, roles) => {
                write!(f, "create user {user} with roles [{}]", roles.join(","))
            }
            Self::DeleteUser(user) => write!(f, "delete user {user}"),
            Self::AssignRole(user, role) => write!(f, "give role {role} to user {user}"),
            Self::UnassignRole(user, role) => write!(f, "take role {role} from user {user}"),
            Self::CreateToken {
                user,
                id,
                lifetime_ms,
                ..
            } => {
                let (token, seconds) = (TokenName(*id), lifetime_ms / 1000);
                write!(f, "create token {token} of user {user} for {seconds} s")
            }
            Self::DeleteToken(id) => write!(f, "delete token {}", TokenName(*id)),
            Self::Enforce(true) => f.write_str("enforce access control"),
            Self::Enforce(false) => f.write_str("end access control"),
        }
    }
}

/// Why the tables are left as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The message says nothing that this version understands.
    #[error("no change is set, or it is not known to this version")]
    Empty,
    /// A part of it makes no sense.
    #[error(transparent)]
    Part(#[from] RowError),
    /// A bound of a grant that no key can be.
    #[error("a bound of the grant has {0} bytes, no key has more than {KEY_BYTES_MAX}")]
    Bound(usize),
    /// Tokens live for a while.
    #[error("a token lives for {0} ms, expected 1 to {TOKEN_LIFETIME_MAX_MS}")]
    Lifetime(u64),
    /// It is there already.
    #[error("{what} {name} exists already: delete it first, or choose another name")]
    Exists {
        /// What.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// It is not there.
    #[error("{what} {name} does not exist: `flotilla {what} list` shows those that do")]
    Missing {
        /// What.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Somebody has it.
    #[error("role {role} is in use by user {user}: `flotilla user revoke {user} {role}` first")]
    InUse {
        /// The role.
        role: String,
        /// The first user that has it.
        user: String,
    },
    /// A user has a role once.
    #[error("user {user} has role {role} already")]
    Has {
        /// Who.
        user: String,
        /// What.
        role: String,
    },
    /// A user has not got the role.
    #[error("user {user} does not have role {role}: `flotilla user list` shows who has what")]
    HasNot {
        /// Who.
        user: String,
        /// What.
        role: String,
    },
    /// A role has nothing on exactly this range.
    #[error("role {0} has no grant on exactly this range: `flotilla role list` shows what it has")]
    NoGrant(String),
    /// A bound of the tables.
    #[error("{what} has {max} {of}, the most that it may have: delete some first")]
    Full {
        /// Whose bound.
        what: String,
        /// Of what.
        of: &'static str,
        /// The bound.
        max: usize,
    },
    /// Everyone would be locked out.
    #[error(
        "nobody could administer the cluster any more: while access is enforced there must be a user with a role that \
         grants admin on all keys, and a token of that user that has not expired"
    )]
    NoAdmin,
}

impl TryFrom<proto::ChangeAccessRequest> for Change {
    type Error = ChangeError;

    fn try_from(message: proto::ChangeAccessRequest) -> Result<Self, Self::Error> {
        let named = |name: String| check_name(&name).map(|()| name);
        Ok(match message.change.ok_or(ChangeError::Empty)? {
            wire::Change::CreateRole(create) => Self::CreateRole(named(create.name)?),
            wire::Change::DeleteRole(name) => Self::DeleteRole(named(name)?),
            wire::Change::Grant(grant) => {
                let what = Grant::try_from(grant.grant.unwrap_or_default())?;
                let longest = what.range.start().len().max(what.range.end().len());
                if longest > KEY_BYTES_MAX {
                    return Err(ChangeError::Bound(longest));
                }
                Self::Grant(named(grant.role)?, what)
            }
            wire::Change::Revoke(revoke) => {
                let range = KeyRange::new(revoke.start, revoke.end).map_err(RowError::Range)?;
                Self::Revoke(named(revoke.role)?, range)
            }
            wire::Change::CreateUser(create) => {
                let mut roles = create.roles;
                roles.iter().try_for_each(|role| check_name(role))?;
                roles.sort_unstable();
                roles.dedup();
                Self::CreateUser(named(create.name)?, roles)
            }
            wire::Change::DeleteUser(name) => Self::DeleteUser(named(name)?),
            wire::Change::AssignRole(assign) => {
                Self::AssignRole(named(assign.user)?, named(assign.role)?)
            }
            wire::Change::UnassignRole(assign) => {
                Self::UnassignRole(named(assign.user)?, named(assign.role)?)
            }
            wire::Change::CreateToken(create) => {
                if !(1..=TOKEN_LIFETIME_MAX_MS).contains(&create.lifetime_ms) {
                    return Err(ChangeError::Lifetime(create.lifetime_ms));
                }
                Self::CreateToken {
                    user: named(create.user)?,
                    id: create.id,
                    hash: check_hash(&create.hash)?,
                    lifetime_ms: create.lifetime_ms,
                }
            }
            wire::Change::DeleteToken(id) => Self::DeleteToken(id),
            wire::Change::Enforce(enforce) => Self::Enforce(enforce),
        })
    }
}

/// Which row, beside the policy's, a change has touched.
enum Touched {
    Role(String),
    User(String),
    PolicyOnly,
}

/// The tables after a change, and the batch that makes them so.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is true once the batch is applied.
    pub after: Tables,
    /// For the meta shard. If its condition does not hold, the tables were changed meanwhile: read them, and plan again.
    pub batch: WriteBatch,
}

/// Plans a change of the tables whose policy's row has this revision (0 if it is not there).
///
/// # Errors
/// Why it can't be; nothing is changed then.
pub fn plan(
    tables: &Tables,
    policy_revision: u64,
    change: &Change,
    now_ms: u64,
) -> Result<Plan, ChangeError> {
    let mut after = tables.clone();
    let touched = edit(&mut after, change, now_ms)?;
    after.policy.changes += 1;
    after.compile();
    if after.is_enforced() && !after.has_admin(now_ms) {
        return Err(ChangeError::NoAdmin);
    }
    let (key, row) = match touched {
        Touched::Role(name) => (
            role_key(&name),
            after.roles.get(&name).cloned().map(Row::Role),
        ),
        Touched::User(name) => (
            user_key(&name),
            after.users.get(&name).cloned().map(Row::User),
        ),
        Touched::PolicyOnly => (Bytes::new(), None),
    };
    let mut operations = vec![put(&Row::Policy(after.policy))];
    match row {
        Some(row) => operations.push(put(&row)),
        None if key.is_empty() => {}
        None => operations.push(Operation {
            kind: Some(operation::Kind::Delete(DeleteOperation { key })),
        }),
    }
    let batch = WriteBatch {
        conditions: vec![Condition {
            key: policy_key(),
            test: Some(condition::Test::RevisionEquals(policy_revision)),
        }],
        operations,
    };
    Ok(Plan { after, batch })
}

fn put(row: &Row) -> Operation {
    Operation {
        kind: Some(operation::Kind::Put(PutOperation {
            key: row.key(),
            value: row.value(),
        })),
    }
}

/// Nothing is to be used of the tables after an error.
fn edit(tables: &mut Tables, change: &Change, now_ms: u64) -> Result<Touched, ChangeError> {
    match change {
        Change::CreateRole(name) => {
            absent("role", name, tables.roles.contains_key(name))?;
            room("the cluster", "roles", tables.roles.len(), ROLES_MAX)?;
            let role = Role {
                name: name.clone(),
                grants: Vec::new(),
            };
            tables.roles.insert(name.clone(), role);
            Ok(Touched::Role(name.clone()))
        }
        Change::DeleteRole(name) => {
            role(tables, name)?;
            let mut users = tables.users.values();
            if let Some(user) = users.find(|user| user.roles.contains(name)) {
                return Err(ChangeError::InUse {
                    role: name.clone(),
                    user: user.name.clone(),
                });
            }
            tables.roles.remove(name);
            Ok(Touched::Role(name.clone()))
        }
        Change::Grant(name, grant) => {
            let grants = &mut role(tables, name)?.grants;
            match grants.binary_search_by_key(&place(grant), place) {
                Ok(at) => grants[at] = grant.clone(),
                Err(at) => {
                    room(&format!("role {name}"), "grants", grants.len(), GRANTS_MAX)?;
                    grants.insert(at, grant.clone());
                }
            }
            Ok(Touched::Role(name.clone()))
        }
        Change::Revoke(name, range) => {
            let grants = &mut role(tables, name)?.grants;
            let at = grants.iter().position(|grant| grant.range == *range);
            grants.remove(at.ok_or_else(|| ChangeError::NoGrant(name.clone()))?);
            Ok(Touched::Role(name.clone()))
        }
        Change::CreateUser(name, roles) => {
            absent("user", name, tables.users.contains_key(name))?;
            room("the cluster", "users", tables.users.len(), USERS_MAX)?;
            room(
                &format!("user {name}"),
                "roles",
                roles.len(),
                USER_ROLES_MAX + 1,
            )?;
            roles
                .iter()
                .try_for_each(|name| role(tables, name).map(drop))?;
            let user = User {
                name: name.clone(),
                roles: roles.clone(),
                tokens: Vec::new(),
            };
            tables.users.insert(name.clone(), user);
            Ok(Touched::User(name.clone()))
        }
        Change::DeleteUser(name) => {
            user(tables, name)?;
            tables.users.remove(name);
            Ok(Touched::User(name.clone()))
        }
        Change::AssignRole(name, given) => {
            role(tables, given)?;
            let roles = &mut user(tables, name)?.roles;
            let (user, role) = (name.clone(), given.clone());
            match roles.binary_search(given) {
                Ok(_) => Err(ChangeError::Has { user, role }),
                Err(at) => {
                    room(
                        &format!("user {name}"),
                        "roles",
                        roles.len(),
                        USER_ROLES_MAX,
                    )?;
                    roles.insert(at, role);
                    Ok(Touched::User(user))
                }
            }
        }
        Change::UnassignRole(name, taken) => {
            let roles = &mut user(tables, name)?.roles;
            let (user, role) = (name.clone(), taken.clone());
            match roles.binary_search(taken) {
                Err(_) => Err(ChangeError::HasNot { user, role }),
                Ok(at) => {
                    roles.remove(at);
                    Ok(Touched::User(user))
                }
            }
        }
        Change::CreateToken {
            user: name,
            id,
            hash,
            lifetime_ms,
        } => {
            absent(
                "token",
                &TokenName(*id).to_string(),
                tables.owner(*id).is_some(),
            )?;
            let tokens = &mut user(tables, name)?.tokens;
            // Those that are over make room by themselves.
            tokens.retain(|token| now_ms < token.expires_ms);
            room(
                &format!("user {name}"),
                "tokens",
                tokens.len(),
                USER_TOKENS_MAX,
            )?;
            let at = tokens.partition_point(|token| token.id < *id);
            let token = Token {
                id: *id,
                hash: *hash,
                created_ms: now_ms,
                expires_ms: now_ms.saturating_add(*lifetime_ms),
            };
            tokens.insert(at, token);
            Ok(Touched::User(name.clone()))
        }
        Change::DeleteToken(id) => {
            let missing = || ChangeError::Missing {
                what: "token",
                name: TokenName(*id).to_string(),
            };
            let name = tables.owner(*id).ok_or_else(missing)?.to_owned();
            user(tables, &name)?.tokens.retain(|token| token.id != *id);
            Ok(Touched::User(name))
        }
        Change::Enforce(enforce) => {
            tables.policy.enforced = *enforce;
            Ok(Touched::PolicyOnly)
        }
    }
}

fn absent(what: &'static str, name: &str, exists: bool) -> Result<(), ChangeError> {
    match exists {
        false => Ok(()),
        true => Err(ChangeError::Exists {
            what,
            name: name.to_owned(),
        }),
    }
}

fn room(what: &str, of: &'static str, count: usize, max: usize) -> Result<(), ChangeError> {
    match count < max {
        true => Ok(()),
        false => Err(ChangeError::Full {
            what: what.to_owned(),
            of,
            max,
        }),
    }
}

fn role<'a>(tables: &'a mut Tables, name: &str) -> Result<&'a mut Role, ChangeError> {
    tables
        .roles
        .get_mut(name)
        .ok_or_else(|| ChangeError::Missing {
            what: "role",
            name: name.to_owned(),
        })
}

fn user<'a>(tables: &'a mut Tables, name: &str) -> Result<&'a mut User, ChangeError> {
    tables
        .users
        .get_mut(name)
        .ok_or_else(|| ChangeError::Missing {
            what: "user",
            name: name.to_owned(),
        })
}
