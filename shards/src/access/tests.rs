//! The tables hold their rules, a change is all or nothing, and what is decided is what a naive twin decides.

use proptest::prelude::*;

use super::change::{Change, ChangeError, plan};
use super::rights::{Missing, Operation, Part, Ranges, Rights, decide};
use super::tables::{Tables, Unknown};
use super::*;
use flotilla_proto::v1::{
    Condition, DeleteOperation, DeleteRangeOperation, PutOperation, operation, request,
};

const DAY: u64 = 24 * 60 * 60 * 1000;

fn range(start: &str, end: &str) -> KeyRange {
    KeyRange::new(start.to_owned().into(), end.to_owned().into()).unwrap()
}

fn grant(start: &str, end: &str, permissions: &[Permission]) -> Grant {
    Grant {
        range: range(start, end),
        read: permissions.contains(&Permission::Read),
        write: permissions.contains(&Permission::Write),
        admin: permissions.contains(&Permission::Admin),
    }
}

fn token(user: &str, id: u64) -> Change {
    Change::CreateToken {
        user: user.to_owned(),
        id,
        hash: [id as u8; 32],
        lifetime_ms: DAY,
    }
}

/// Tables that live as rows, as the meta shard would hold them: one revision for each batch.
#[derive(Default)]
struct Store {
    rows: std::collections::BTreeMap<Bytes, (Bytes, u64)>,
    revision: u64,
}

impl Store {
    fn tables(&self) -> Tables {
        let rows = self.rows.iter();
        Tables::new(rows.map(|(key, (value, _))| Row::decode(key, value.clone()).unwrap()))
    }

    fn policy_revision(&self) -> u64 {
        self.rows
            .get(&policy_key())
            .map_or(0, |(_, revision)| *revision)
    }

    /// Whether the batch's condition held.
    fn apply(&mut self, batch: &proto::WriteBatch) -> bool {
        for Condition { key, test } in &batch.conditions {
            let found = self.rows.get(key).map_or(0, |(_, revision)| *revision);
            let Some(proto::condition::Test::RevisionEquals(expected)) = test else {
                panic!("an unexpected condition: {test:?}");
            };
            if found != *expected {
                return false;
            }
        }
        self.revision += 1;
        for operation in &batch.operations {
            match operation.kind.clone() {
                Some(operation::Kind::Put(put)) => {
                    self.rows.insert(put.key, (put.value, self.revision));
                }
                Some(operation::Kind::Delete(delete)) => {
                    self.rows.remove(&delete.key);
                }
                other => panic!("an unexpected operation: {other:?}"),
            }
        }
        true
    }

    fn change(&mut self, change: &Change, now_ms: u64) -> Result<(), ChangeError> {
        let plan = plan(&self.tables(), self.policy_revision(), change, now_ms)?;
        assert!(self.apply(&plan.batch));
        assert_eq!(
            self.tables(),
            plan.after,
            "what was planned is what the rows say"
        );
        Ok(())
    }
}

/// A store with an admin whose token is 1.
fn administered() -> Store {
    let mut store = Store::default();
    for change in [
        Change::CreateRole("operator".into()),
        Change::Grant("operator".into(), grant("", "", &Permission::ALL)),
        Change::CreateUser("root".into(), vec!["operator".into()]),
        token("root", 1),
    ] {
        store.change(&change, 0).unwrap();
    }
    store
}

#[test]
fn rows_round_trip_and_broken_ones_are_named() {
    let mut store = administered();
    store.change(&Change::Enforce(true), 5).unwrap();
    let tables = store.tables();
    assert_eq!(tables.changes(), 5);
    assert_eq!(Tables::new(tables.rows()), tables);
    let broken = |key: &str, value: Bytes| {
        let error = Row::decode(key.as_bytes(), value).unwrap_err();
        error.to_string()
    };
    let role = Row::Role(tables.roles().next().unwrap().clone()).value();
    assert!(broken("access/role/other", role.clone()).contains("describes \"operator\""));
    assert!(broken("access/group/x", role).contains("no such row"));
    assert!(broken("access/user/x", Bytes::new()).contains("is no name"));
    let of = |user: proto::AccessUser| user.encode_to_vec().into();
    let user = |roles: &[&str], hash: usize| proto::AccessUser {
        name: "x".into(),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        tokens: vec![proto::AccessToken {
            hash: vec![0; hash].into(),
            ..Default::default()
        }],
    };
    assert!(broken("access/user/x", of(user(&["b", "a"], 32))).contains("roles do not ascend"));
    assert!(broken("access/user/x", of(user(&["a"], 31))).contains("31 bytes, expected 32"));
    let nothing = proto::AccessRole {
        name: "x".into(),
        grants: vec![proto::AccessGrant::default()],
    };
    assert!(broken("access/role/x", nothing.encode_to_vec().into()).contains("no permission"));
}

#[test]
fn names_are_short_and_plain() {
    for name in ["a", "A.b_c-9@host", &"x".repeat(64)] {
        assert_eq!(check_name(name), Ok(()));
    }
    for name in ["", "a b", "a/b", "\u{e4}", "a\n", &"x".repeat(65)] {
        assert!(check_name(name).is_err(), "{name:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_a_remedy_and_changes_nothing() {
    let mut store = administered();
    let before = store.rows.clone();
    let name = |name: &str| name.to_owned();
    for (change, part) in [
        (
            Change::CreateRole(name("operator")),
            "role operator exists already",
        ),
        (
            Change::CreateUser(name("root"), vec![]),
            "user root exists already",
        ),
        (
            Change::CreateUser(name("bob"), vec![name("none")]),
            "role none does not exist: `flotilla role list`",
        ),
        (
            Change::AssignRole(name("root"), name("none")),
            "role none does not exist",
        ),
        (
            Change::AssignRole(name("bob"), name("operator")),
            "user bob does not exist: `flotilla user list`",
        ),
        (
            Change::AssignRole(name("root"), name("operator")),
            "has role operator already",
        ),
        (
            Change::UnassignRole(name("root"), name("other")),
            "does not have role other",
        ),
        (
            Change::DeleteRole(name("operator")),
            "`flotilla user revoke root operator` first",
        ),
        (
            Change::Revoke(name("operator"), range("a", "b")),
            "no grant on exactly this range",
        ),
        (Change::DeleteUser(name("bob")), "user bob does not exist"),
        (
            Change::DeleteToken(9),
            "token 0000000000000009 does not exist",
        ),
        (token("root", 1), "token 0000000000000001 exists already"),
        (token("bob", 2), "user bob does not exist"),
    ] {
        let error = store.change(&change, 0).unwrap_err().to_string();
        assert!(error.contains(part), "{change:?}: {error}");
        assert_eq!(store.rows, before, "{change:?}");
    }
}

#[test]
fn nobody_locks_everybody_out() {
    let name = |name: &str| name.to_owned();
    let mut store = Store::default();
    let lockout = Err(ChangeError::NoAdmin);
    assert_eq!(store.change(&Change::Enforce(true), 0), lockout);
    let mut store = administered();
    // The admin's token is over by then.
    assert_eq!(store.change(&Change::Enforce(true), DAY), lockout);
    store.change(&Change::Enforce(true), DAY - 1).unwrap();
    for change in [
        Change::DeleteToken(1),
        Change::DeleteUser(name("root")),
        Change::UnassignRole(name("root"), name("operator")),
        Change::Revoke(name("operator"), KeyRange::all()),
        Change::Grant(name("operator"), grant("", "", &[Permission::Read])),
    ] {
        assert_eq!(store.change(&change, 1), lockout, "{change:?}");
    }
    // With a second one in hand the first may go.
    store.change(&token("root", 2), 1).unwrap();
    store.change(&Change::DeleteToken(1), 1).unwrap();
    store.change(&Change::Enforce(false), 1).unwrap();
    store.change(&Change::DeleteToken(2), 1).unwrap();
}

#[test]
fn of_two_changes_at_once_the_second_is_planned_anew() {
    let mut store = administered();
    let (tables, revision) = (store.tables(), store.policy_revision());
    let first = plan(&tables, revision, &Change::CreateRole("a".into()), 0).unwrap();
    let second = plan(&tables, revision, &Change::DeleteUser("root".into()), 0).unwrap();
    assert!(store.apply(&first.batch));
    assert!(!store.apply(&second.batch));
    store.change(&Change::DeleteUser("root".into()), 0).unwrap();
    assert!(store.tables().user("root").is_none() && store.tables().roles.contains_key("a"));
}

#[test]
fn tokens_are_known_by_their_secret_until_they_expire() {
    let mut store = administered();
    store
        .change(&Change::CreateUser("bob".into(), vec![]), 0)
        .unwrap();
    store.change(&token("bob", 7), 10).unwrap();
    let tables = store.tables();
    let bob = tables.by_token(7, &[7; 32], 10 + DAY - 1).unwrap();
    assert_eq!(bob.name, "bob");
    let mut other = [7; 32];
    other[31] = 8;
    assert_eq!(tables.by_token(7, &other, 10), Err(Unknown::Token));
    assert_eq!(tables.by_token(8, &[7; 32], 10), Err(Unknown::Token));
    let expired = tables
        .by_token(7, &[7; 32], 10 + DAY)
        .unwrap_err()
        .to_string();
    assert!(
        expired.contains("token 0000000000000007 of user bob has expired")
            && expired.contains("flotilla token create bob"),
        "{expired}"
    );
    assert_eq!(tables.by_name("bob").unwrap().name, "bob");
    assert!(tables.by_name("eve").is_err());
    // Not even in what is printed for debugging is there a hash.
    assert!(!format!("{tables:?}").contains("7, 7, 7"));
}

#[test]
fn tokens_are_rotated_with_an_overlap_and_their_number_is_bounded() {
    let mut store = administered();
    for id in 2..=USER_TOKENS_MAX as u64 {
        store.change(&token("root", id), id).unwrap();
    }
    let tables = store.tables();
    assert!((1..=16).all(|id| tables.by_token(id, &[id as u8; 32], 20).is_ok()));
    let full = store
        .change(&token("root", 99), 20)
        .unwrap_err()
        .to_string();
    assert!(full.contains("16 tokens, the most"), "{full}");
    // Those that have expired make room.
    store.change(&token("root", 99), DAY).unwrap();
    assert!(store.tables().owner(1).is_none());
}

fn batch(conditions: &[&str], operations: Vec<operation::Kind>) -> request::Kind {
    let condition = |key: &&str| Condition {
        key: (*key).to_owned().into(),
        test: None,
    };
    let operation = |kind| proto::Operation { kind: Some(kind) };
    request::Kind::Batch(proto::BatchRequest {
        conditions: conditions.iter().map(condition).collect(),
        operations: operations.into_iter().map(operation).collect(),
        session: None,
    })
}

#[test]
fn every_member_of_a_batch_is_asked_for() {
    let rights = Rights::new(&[
        grant("a", "c", &[Permission::Read]),
        grant("b", "d", &[Permission::Write]),
    ]);
    let put = |key: &str| {
        operation::Kind::Put(PutOperation {
            key: key.to_owned().into(),
            value: Bytes::new(),
        })
    };
    let delete = |key: &str| {
        operation::Kind::Delete(DeleteOperation {
            key: key.to_owned().into(),
        })
    };
    let delete_range = |start: &str, end: &str| {
        operation::Kind::DeleteRange(DeleteRangeOperation {
            start: start.to_owned().into(),
            end: end.to_owned().into(),
        })
    };
    let lacks = |permission, part| Err(Missing { permission, part });
    let (read, write) = (Permission::Read, Permission::Write);
    for (request, expected) in [
        (batch(&["a"], vec![put("b"), delete("c")]), Ok(())),
        (
            batch(&["c"], vec![put("b")]),
            lacks(read, Part::ConditionAt(0)),
        ),
        (
            batch(&["b", "d"], vec![]),
            lacks(read, Part::ConditionAt(1)),
        ),
        (
            batch(&[], vec![put("b"), put("a")]),
            lacks(write, Part::OperationAt(1)),
        ),
        (
            batch(&[], vec![delete("d")]),
            lacks(write, Part::OperationAt(0)),
        ),
        (batch(&[], vec![delete_range("b", "d")]), Ok(())),
        (
            batch(&[], vec![delete_range("b", "d\0")]),
            lacks(write, Part::OperationAt(0)),
        ),
        // To the end of the shard, wherever that is.
        (
            batch(&[], vec![delete_range("b", "")]),
            lacks(write, Part::OperationAt(0)),
        ),
    ] {
        assert_eq!(
            decide(&rights, Operation::Request(&request)),
            expected,
            "{request:?}"
        );
    }
}

#[test]
fn operators_of_a_part_have_that_part_only() {
    let part = Rights::new(&[grant("b", "d", &[Permission::Admin])]);
    assert_eq!(decide(&part, Operation::Greet), Ok(()));
    assert_eq!(decide(&part, Operation::Shard(&range("b", "c"))), Ok(()));
    for wider in [
        range("a", "c"),
        range("c", "e"),
        range("c", ""),
        KeyRange::all(),
    ] {
        assert!(decide(&part, Operation::Shard(&wider)).is_err(), "{wider}");
    }
    assert!(decide(&part, Operation::Cluster).is_err());
    // Two halves are a whole.
    let halves = [
        grant("", "m", &[Permission::Admin]),
        grant("m", "", &[Permission::Admin]),
    ];
    assert_eq!(decide(&Rights::new(&halves), Operation::Cluster), Ok(()));
    // Admin is not for data.
    let get = request::Kind::Get(proto::GetRequest::default());
    assert!(decide(&Rights::new(&halves), Operation::Request(&get)).is_err());
}

/// Keys of up to two bytes out of three, and what lies between them.
fn short_key() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(0u8..3, 0..3).prop_map(Bytes::from)
}

fn some_range() -> impl Strategy<Value = KeyRange> {
    (short_key(), short_key())
        .prop_filter_map("empty", |(start, end)| KeyRange::new(start, end).ok())
}

/// Every key of up to three bytes: all that bounds of up to two bytes can tell apart.
fn domain() -> Vec<Bytes> {
    let mut all = vec![Bytes::new()];
    for length in 1..=3u32 {
        let of_length = (0..3u32.pow(length)).map(|number| {
            let digits = (0..length).map(|at| (number / 3u32.pow(at) % 3) as u8);
            digits.collect::<Vec<u8>>().into()
        });
        all.extend(of_length);
    }
    all
}

fn some_change() -> impl Strategy<Value = Change> {
    let name = || {
        prop_oneof![
            Just("a".to_owned()),
            Just("b".to_owned()),
            Just("c".to_owned())
        ]
    };
    let grant = (some_range(), any::<[bool; 2]>(), any::<bool>()).prop_map(
        |(range, [read, write], admin)| Grant {
            range: if admin { KeyRange::all() } else { range },
            read: read || !(write || admin),
            write,
            admin,
        },
    );
    prop_oneof![
        name().prop_map(Change::CreateRole),
        name().prop_map(Change::DeleteRole),
        (name(), grant).prop_map(|(role, grant)| Change::Grant(role, grant)),
        (name(), some_range()).prop_map(|(role, range)| Change::Revoke(role, range)),
        (name(), proptest::collection::btree_set(name(), 0..3))
            .prop_map(|(user, roles)| Change::CreateUser(user, roles.into_iter().collect())),
        name().prop_map(Change::DeleteUser),
        (name(), name()).prop_map(|(user, role)| Change::AssignRole(user, role)),
        (name(), name()).prop_map(|(user, role)| Change::UnassignRole(user, role)),
        (name(), 0..4u64).prop_map(|(user, id)| token(&user, id)),
        (0..4u64).prop_map(Change::DeleteToken),
        any::<bool>().prop_map(Change::Enforce),
    ]
}

proptest! {
    #[test]
    fn ranges_hold_what_any_of_them_holds(
        parts in proptest::collection::vec(some_range(), 0..6),
        asked in some_range(),
    ) {
        let ranges = Ranges::new(&parts);
        let holds = |key: &Bytes| parts.iter().any(|part| part.contains(key));
        for key in domain() {
            prop_assert_eq!(ranges.contain(&key), holds(&key), "{:?}", key);
        }
        let all = domain().iter().filter(|key| asked.contains(key)).all(holds);
        prop_assert_eq!(ranges.cover(asked.start(), asked.end()), all);
        for pair in ranges.as_slice().windows(2) {
            prop_assert!(!pair[0].is_open() && pair[0].end() < pair[1].start());
        }
    }

    #[test]
    fn any_changes_keep_the_rules(
        changes in proptest::collection::vec((some_change(), 0..2 * DAY), 0..60),
    ) {
        let mut store = Store::default();
        for (change, now_ms) in changes {
            let before = store.rows.clone();
            // Checks that rows and plan agree.
            if store.change(&change, now_ms).is_err() {
                prop_assert_eq!(&store.rows, &before);
                continue;
            }
            let tables = store.tables();
            prop_assert!(!tables.is_enforced() || tables.has_admin(now_ms));
            for user in tables.users() {
                prop_assert!(user.roles.iter().all(|role| tables.roles.contains_key(role)));
                // What a user may do is what its roles grant one by one.
                let grants = || user.roles.iter().flat_map(|role| &tables.roles[role].grants);
                let rights = &tables.by_name(&user.name).unwrap().rights;
                for (key, permission) in domain().iter().zip(Permission::ALL.iter().cycle()) {
                    let naive = grants().any(|grant| grant.permits(*permission) && grant.range.contains(key));
                    prop_assert_eq!(rights.on(*permission).contain(key), naive);
                }
                for token in &user.tokens {
                    prop_assert_eq!(tables.owner(token.id), Some(&*user.name));
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_a_row_or_an_error(
        key in "access/(policy|(role|user)/[a-c]?)|.{0,12}",
        value in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        if let Ok(row) = Row::decode(key.as_bytes(), value.into()) {
            prop_assert_eq!(Row::decode(&row.key(), row.value()), Ok(row));
        }
    }
}
