//! Keys that must be judged together, and what each operation does to them: all that linearizability is decided on.

use crate::operation::OpId;
use smallvec::SmallVec;

/// What a key may be, as a number within its [`Component`]. The first versions are "absent", one for each key.
pub(super) type Version = u32;

/// A key, as a number within its [`Component`].
pub(super) type KeyAt = u32;

/// What is known of a version.
#[derive(Clone, Copy, Debug)]
pub(super) struct VersionInfo {
    /// Whose version it is.
    pub key: KeyAt,
    /// The value, as a number; nothing for "absent".
    pub value: Option<u32>,
    /// The revision of its write; 0 if it is not known.
    pub revision: u64,
}

/// What an operation saw of a key, or asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Whether it exists.
    Exists(bool),
    /// It has this value, and this revision unless that is 0.
    Value(u32, u64),
    /// It has this revision; 0 is that of an absent key.
    Revision(u64),
}

impl Seen {
    /// Whether this is true of a version; nothing if the history does not say.
    pub(super) fn holds(self, of: &VersionInfo) -> Option<bool> {
        match (self, of.value) {
            (Self::Exists(exists), value) => Some(value.is_some() == exists),
            (Self::Value(..), None) => Some(false),
            (Self::Value(value, revision), Some(of_value)) => Some(
                value == of_value && (revision == 0 || of.revision == 0 || revision == of.revision),
            ),
            (Self::Revision(revision), None) => Some(revision == 0),
            (Self::Revision(0), Some(_)) => Some(false),
            (Self::Revision(_), Some(_)) if of.revision == 0 => None,
            (Self::Revision(revision), Some(_)) => Some(revision == of.revision),
        }
    }
}

/// Which of an operation's tests held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// All of them.
    All,
    /// This was the first that did not.
    FirstFails(usize),
    /// Some did not.
    SomeFails,
}

/// An operation on the keys of one component.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// Whose part it is.
    pub op: OpId,
    /// Place of its invocation among the events.
    pub invoked: u64,
    /// Place of its return; [`u64::MAX`] if it may never have taken effect.
    pub returned: u64,
    /// What it saw, before it changed anything.
    pub tests: SmallVec<[(KeyAt, Seen); 2]>,
    /// Which of that was true.
    pub expect: Expect,
    /// What it did, in order.
    pub changes: SmallVec<[(KeyAt, Version); 2]>,
    /// How many keys its deletes found.
    pub deleted: Option<u64>,
    /// The revision that its changes got; 0 if it is not known, or nothing changed.
    pub revision: u64,
}

impl Step {
    /// Whether it must have taken effect.
    pub(super) fn required(&self) -> bool {
        self.returned != u64::MAX
    }
}

/// Keys that are connected by operations that touch several of them at once, and all steps on them, by invocation.
#[derive(Clone, Debug, Default)]
pub(super) struct Component {
    /// How many keys; they are numbered from 0.
    pub keys: u32,
    /// What the keys may be: "absent" for each key, then what is written.
    pub versions: Vec<VersionInfo>,
    /// What was done.
    pub steps: Vec<Step>,
}

impl Component {
    /// What is known of a version.
    pub(super) fn info(&self, version: Version) -> &VersionInfo {
        &self.versions[version as usize]
    }

    /// The revision of a step's changes; 0 if it is not known.
    pub(super) fn revision(&self, step: &Step) -> u64 {
        let versions = step
            .changes
            .iter()
            .map(|(_, version)| self.info(*version).revision);
        versions.fold(step.revision, u64::max)
    }

    /// The versions that a test can be true of.
    pub(super) fn candidates(
        &self,
        by_value: &ByValue,
        key: KeyAt,
        seen: Seen,
    ) -> SmallVec<[Version; 2]> {
        let all = by_value.of_key(key);
        match seen {
            Seen::Exists(false) | Seen::Revision(0) => SmallVec::from_slice(&[key]),
            Seen::Value(value, _) => by_value
                .of_value(key, value)
                .iter()
                .map(|(_, _, version)| *version)
                .filter(|version| seen.holds(self.info(*version)) == Some(true))
                .collect(),
            Seen::Exists(true) | Seen::Revision(_) => all
                .iter()
                .map(|(_, _, version)| *version)
                .filter(|version| seen.holds(self.info(*version)) != Some(false))
                .collect(),
        }
    }
}

/// Versions that are not "absent", by key and value.
#[derive(Debug, Default)]
pub(super) struct ByValue(Vec<(KeyAt, u32, Version)>);

impl ByValue {
    pub(super) fn new(component: &Component) -> Self {
        let versions = component.versions.iter().enumerate();
        let mut sorted: Vec<_> = versions
            .filter_map(|(at, info)| {
                let version = Version::try_from(at).expect("versions are counted in 32 bits");
                info.value.map(|value| (info.key, value, version))
            })
            .collect();
        sorted.sort_unstable();
        Self(sorted)
    }

    fn of_key(&self, key: KeyAt) -> &[(KeyAt, u32, Version)] {
        let start = self.0.partition_point(|(k, _, _)| *k < key);
        let end = self.0.partition_point(|(k, _, _)| *k <= key);
        &self.0[start..end]
    }

    fn of_value(&self, key: KeyAt, value: u32) -> &[(KeyAt, u32, Version)] {
        let start = self.0.partition_point(|(k, v, _)| (*k, *v) < (key, value));
        let end = self.0.partition_point(|(k, v, _)| (*k, *v) <= (key, value));
        &self.0[start..end]
    }
}
