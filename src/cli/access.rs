//! Who may do what: users, their tokens, and roles, as operators manage them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::{Args, Subcommand};
use flotilla_proto::v1::{self, change_access_request::Change};
use serde::Serialize;

use super::{
    Context, duration,
    failure::{Failure, Outcome},
    output::{Format, Out, talk},
};
use crate::{client::prefix_end, token::Token};

/// Commands about access control as a whole.
#[derive(Debug, Subcommand)]
pub(super) enum Auth {
    /// Refuse whoever does not say who it is, and do what roles say
    #[command(after_help = "\
Before: make a role that grants admin on all keys, a user with it, and a token of that user, and use that token from then on.")]
    Enable,
    /// Let everyone do everything, as before `auth enable`
    Disable,
    /// Say who you are to the cluster, and what you may do
    Whoami,
}

/// Commands about users.
#[derive(Debug, Subcommand)]
pub(super) enum User {
    /// Make a user
    Create {
        /// Its name; also the name in a client certificate that stands for it
        name: String,
        /// Roles to begin with
        #[arg(long = "role", value_name = "ROLE", value_delimiter = ',')]
        roles: Vec<String>,
    },
    /// Delete a user and its tokens
    Delete {
        /// Its name
        name: String,
    },
    /// List users with their roles
    #[command(alias = "ls")]
    List,
    /// Give a role to a user
    Grant {
        /// Who
        user: String,
        /// What
        role: String,
    },
    /// Take a role from a user
    Revoke {
        /// Who
        user: String,
        /// What
        role: String,
    },
}

/// Commands about roles.
#[derive(Debug, Subcommand)]
pub(super) enum Role {
    /// Make a role, which grants nothing yet
    Create {
        /// Its name
        name: String,
    },
    /// Delete a role that no user has
    Delete {
        /// Its name
        name: String,
    },
    /// List roles with what they grant
    #[command(alias = "ls")]
    List,
    /// Let a role do something with some keys; replaces what it has on exactly these
    Grant {
        /// Which role
        role: String,
        /// What, of read, write and admin, separated by commas
        #[arg(value_delimiter = ',', required = true)]
        permissions: Vec<Permission>,
        #[command(flatten)]
        keys: Keys,
    },
    /// Take from a role all that it has on exactly these keys
    Revoke {
        /// Which role
        role: String,
        #[command(flatten)]
        keys: Keys,
    },
}

/// What a role may grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Permission {
    /// See values, and whether keys exist
    Read,
    /// Write and delete
    Write,
    /// Look at and move the shards of these keys; on all keys: everything that operators do
    Admin,
}

/// Some keys.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Keys {
    /// All keys that begin so
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// The keys from START up to, without, END
    #[arg(long, num_args = 2, value_names = ["START", "END"])]
    range: Option<Vec<String>>,
    /// All keys
    #[arg(long)]
    all: bool,
}

impl Keys {
    fn read(&self, context: &Context) -> Outcome<(Bytes, Bytes)> {
        match (&self.prefix, self.range.as_deref()) {
            (Some(prefix), _) => {
                let start = context.read("PREFIX", prefix)?;
                let end = prefix_end(&start);
                Ok((start, end))
            }
            (None, Some([start, end])) => {
                Ok((context.read("START", start)?, context.read("END", end)?))
            }
            _ => Ok((Bytes::new(), Bytes::new())),
        }
    }
}

/// Commands about tokens.
#[derive(Debug, Subcommand)]
pub(super) enum Tokens {
    /// Make a token of a user and print it: it can't be shown again
    #[command(after_help = "\
A user may have several, so that a new one is in use everywhere before the old one is deleted.")]
    Create {
        /// Whose
        user: String,
        /// How long it is worth something
        #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = duration)]
        expires: Duration,
    },
    /// List tokens, without their secrets
    #[command(alias = "ls")]
    List,
    /// Make a token worthless
    Delete {
        /// The id that `token list` shows: 16 hexadecimal digits
        #[arg(value_parser = token_id)]
        id: u64,
    },
}

fn token_id(text: &str) -> Result<u64, String> {
    let id = (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok());
    id.flatten()
        .ok_or_else(|| "expected 16 hexadecimal digits, as `flotilla token list` shows".to_owned())
}

/// Makes a change and says what has become true.
async fn change(context: &Context, change: Change, done: impl AsRef<str>) -> Outcome {
    context.admin()?.change_access(change).await?;
    talk(done);
    Ok(())
}

/// The last moment that has a date of the usual form: the end of the year 9999.
const LAST_MS: u64 = 253_402_300_799_999;

/// A moment as people read it.
fn moment(ms: u64) -> String {
    let moment = UNIX_EPOCH + Duration::from_millis(ms.min(LAST_MS));
    humantime::format_rfc3339_seconds(moment).to_string()
}

#[derive(Serialize)]
struct GrantRow {
    prefix: Option<String>,
    start: String,
    end: String,
    permissions: Vec<&'static str>,
}

impl GrantRow {
    fn new(context: &Context, grant: &v1::AccessGrant) -> Self {
        let granted = [
            (grant.read, "read"),
            (grant.write, "write"),
            (grant.admin, "admin"),
        ];
        let is_prefix = !grant.start.is_empty() && prefix_end(&grant.start) == grant.end;
        Self {
            prefix: is_prefix.then(|| context.show(&grant.start)),
            start: context.show(&grant.start),
            end: context.show(&grant.end),
            permissions: granted
                .into_iter()
                .filter_map(|(granted, name)| granted.then_some(name))
                .collect(),
        }
    }

    fn keys(&self) -> String {
        match (&self.prefix, self.start.is_empty(), self.end.is_empty()) {
            (Some(prefix), ..) => format!("{prefix}*"),
            (None, true, true) => "all keys".to_owned(),
            (None, _, true) => format!("from {}", self.start),
            (None, true, false) => format!("below {}", self.end),
            (None, false, false) => format!("{} to {}", self.start, self.end),
        }
    }
}

impl Auth {
    pub(super) async fn run(self, context: &Context, out: &mut Out) -> Outcome {
        match self {
            Self::Enable => {
                // With a token that the cluster does not take this would be the last command of this user.
                let who = context.admin()?.who_am_i().await?;
                if who.user.is_empty() {
                    return Err(Failure::Usage(
                        "give the token of an admin (--token-file or FLOTILLA_TOKEN): without it you would lock yourself out. \
                         `flotilla token create USER` makes one"
                            .to_owned(),
                    ));
                }
                let done = "access control is on; nodes follow within seconds";
                change(context, Change::Enforce(true), done).await
            }
            Self::Disable => {
                let done = "access control is off: everyone may do everything; nodes follow within seconds";
                change(context, Change::Enforce(false), done).await
            }
            Self::Whoami => whoami(context, out).await,
        }
    }
}

async fn whoami(context: &Context, out: &mut Out) -> Outcome {
    #[derive(Serialize)]
    struct Who {
        enforced: bool,
        user: Option<String>,
        roles: Vec<String>,
        rights: Vec<GrantRow>,
    }
    let answer = context.admin()?.who_am_i().await?;
    let rights = answer.rights.iter();
    let who = Who {
        enforced: answer.enforced,
        user: (!answer.user.is_empty()).then_some(answer.user),
        roles: answer.roles,
        rights: rights.map(|grant| GrantRow::new(context, grant)).collect(),
    };
    let Format::Table = context.global.output else {
        return out.json(context.global.output, &who);
    };
    match (&who.user, who.enforced) {
        (Some(user), _) => out.line(format!("{user} (roles: {})", who.roles.join(", ")))?,
        (None, _) => out.line("nobody in particular")?,
    }
    if !who.enforced {
        out.line("access control is off: everyone may do everything")?;
    }
    for right in &who.rights {
        out.line(format!("{}  {}", right.permissions.join(","), right.keys()))?;
    }
    Ok(())
}

impl User {
    pub(super) async fn run(self, context: &Context, out: &mut Out) -> Outcome {
        match self {
            Self::Create { name, roles } => {
                let done =
                    format!("made user {name}; `flotilla token create {name}` makes it a token");
                let create = v1::CreateUser { name, roles };
                change(context, Change::CreateUser(create), done).await
            }
            Self::Delete { name } => {
                let done = format!("deleted user {name} and its tokens");
                change(context, Change::DeleteUser(name), done).await
            }
            Self::Grant { user, role } => {
                let done = format!("user {user} has role {role}");
                let assign = v1::AssignRole { user, role };
                change(context, Change::AssignRole(assign), done).await
            }
            Self::Revoke { user, role } => {
                let done = format!("user {user} does not have role {role} any more");
                let assign = v1::AssignRole { user, role };
                change(context, Change::UnassignRole(assign), done).await
            }
            Self::List => {
                #[derive(Serialize)]
                struct Row {
                    user: String,
                    roles: Vec<String>,
                    tokens: usize,
                }
                let users = context.admin()?.show_access().await?.users;
                let row = |user: v1::AccessUser| Row {
                    user: user.name,
                    roles: user.roles,
                    tokens: user.tokens.len(),
                };
                let rows: Vec<Row> = users.into_iter().map(row).collect();
                let columns = ["USER", "ROLES", "TOKENS"];
                out.rows(context.global.output, &columns, &rows, |row| {
                    vec![
                        row.user.clone(),
                        row.roles.join(", "),
                        row.tokens.to_string(),
                    ]
                })
            }
        }
    }
}

impl Role {
    pub(super) async fn run(self, context: &Context, out: &mut Out) -> Outcome {
        match self {
            Self::Create { name } => {
                let done = format!(
                    "made role {name}; `flotilla role grant {name} …` lets it do something"
                );
                let create = v1::CreateRole { name };
                change(context, Change::CreateRole(create), done).await
            }
            Self::Delete { name } => {
                let done = format!("deleted role {name}");
                change(context, Change::DeleteRole(name), done).await
            }
            Self::Grant {
                role,
                permissions,
                keys,
            } => {
                let (start, end) = keys.read(context)?;
                let grant = v1::AccessGrant {
                    start,
                    end,
                    read: permissions.contains(&Permission::Read),
                    write: permissions.contains(&Permission::Write),
                    admin: permissions.contains(&Permission::Admin),
                };
                let row = GrantRow::new(context, &grant);
                let done = format!(
                    "role {role} has {} on {}",
                    row.permissions.join(","),
                    row.keys()
                );
                let grant = v1::GrantPermission {
                    role,
                    grant: Some(grant),
                };
                change(context, Change::Grant(grant), done).await
            }
            Self::Revoke { role, keys } => {
                let (start, end) = keys.read(context)?;
                let done = format!("role {role} has nothing on exactly these keys any more");
                let revoke = v1::RevokePermission { role, start, end };
                change(context, Change::Revoke(revoke), done).await
            }
            Self::List => {
                #[derive(Serialize)]
                struct Row {
                    role: String,
                    grants: Vec<GrantRow>,
                }
                let roles = context.admin()?.show_access().await?.roles;
                let row = |role: v1::AccessRole| Row {
                    role: role.name,
                    grants: role
                        .grants
                        .iter()
                        .map(|grant| GrantRow::new(context, grant))
                        .collect(),
                };
                let rows: Vec<Row> = roles.into_iter().map(row).collect();
                out.rows(context.global.output, &["ROLE", "GRANTS"], &rows, |row| {
                    let grants = row.grants.iter();
                    let grants = grants.map(|grant| {
                        format!("{} on {}", grant.permissions.join(","), grant.keys())
                    });
                    vec![row.role.clone(), grants.collect::<Vec<_>>().join("; ")]
                })
            }
        }
    }
}

#[derive(Serialize)]
struct TokenRow {
    id: String,
    user: String,
    created: String,
    expires: String,
    expired: bool,
}

impl Tokens {
    pub(super) async fn run(self, context: &Context, out: &mut Out) -> Outcome {
        match self {
            Self::Create { user, expires } => create_token(context, out, user, expires).await,
            Self::Delete { id } => {
                let done = format!("deleted token {id:016x}; nodes follow within seconds");
                change(context, Change::DeleteToken(id), done).await
            }
            Self::List => {
                let now = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                let users = context.admin()?.show_access().await?.users;
                let rows: Vec<TokenRow> = users
                    .iter()
                    .flat_map(|user| user.tokens.iter().map(move |token| (user, token)))
                    .map(|(user, token)| TokenRow {
                        id: format!("{:016x}", token.id),
                        user: user.name.clone(),
                        created: moment(token.created_ms),
                        expires: moment(token.expires_ms),
                        expired: u128::from(token.expires_ms) <= now.as_millis(),
                    })
                    .collect();
                let columns = ["TOKEN", "USER", "CREATED", "EXPIRES"];
                out.rows(context.global.output, &columns, &rows, |row| {
                    let expires = match row.expired {
                        true => format!("{} (EXPIRED)", row.expires),
                        false => row.expires.clone(),
                    };
                    vec![
                        row.id.clone(),
                        row.user.clone(),
                        row.created.clone(),
                        expires,
                    ]
                })
            }
        }
    }
}

async fn create_token(
    context: &Context,
    out: &mut Out,
    user: String,
    lifetime: Duration,
) -> Outcome {
    let token = Token::generate();
    let token = token
        .ok_or_else(|| Failure::Incomplete("the system gives no random numbers".to_owned()))?;
    let create = v1::CreateToken {
        user: user.clone(),
        id: token.id(),
        hash: Bytes::copy_from_slice(&token.hash()),
        lifetime_ms: u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX),
    };
    let made = context
        .admin()?
        .change_access(Change::CreateToken(create))
        .await?;
    let expires = moment(made.expires_ms);
    match context.global.output {
        Format::Table => {
            out.line(token.reveal())?;
            talk(format!(
                "token {:016x} of user {user}, until {expires}; it can't be shown again",
                token.id()
            ));
            Ok(())
        }
        format => {
            let id = format!("{:016x}", token.id());
            let row = serde_json::json!({ "token": token.reveal(), "id": id, "user": user, "expires": expires });
            out.json(format, &row)
        }
    }
}
