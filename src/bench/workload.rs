//! What a load consists of: kinds of operations and their shares. Which keys they touch is decided in [`super::choose`].

use std::{fmt, str::FromStr};

use clap::ValueEnum;

use super::choose::Distribution;

/// A kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Reads a value.
    Get,
    /// Writes a value of a key that is there.
    Put,
    /// Writes a key that was not there.
    Insert,
    /// Reads rows in order.
    Scan,
    /// Writes several keys of one shard if the first of them exists.
    Batch,
    /// Writes a value in a session.
    Session,
    /// Reads a value, then writes it.
    Modify,
}

impl Kind {
    /// All kinds.
    pub(crate) const ALL: [Self; 7] = [
        Self::Get,
        Self::Put,
        Self::Insert,
        Self::Scan,
        Self::Batch,
        Self::Session,
        Self::Modify,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Insert => "insert",
            Self::Scan => "scan",
            Self::Batch => "batch",
            Self::Session => "session",
            Self::Modify => "modify",
        }
    }

    /// Whether it makes sense only if the keys were written before.
    fn wants_keys(self) -> bool {
        matches!(self, Self::Get | Self::Scan | Self::Batch | Self::Modify)
    }
}

/// Kinds of operations and how often each is drawn. *Invariant:* not empty, each kind once, shares above 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mix {
    shares: Vec<(Kind, u32)>,
    total: u32,
}

/// The greatest share of one kind: sums of all kinds fit their type.
const SHARE_MAX: u32 = 1_000_000;

impl Mix {
    pub(crate) fn only(kind: Kind) -> Self {
        Self {
            shares: vec![(kind, 1)],
            total: 1,
        }
    }

    fn of(shares: &[(Kind, u32)]) -> Self {
        Self {
            shares: shares.to_vec(),
            total: shares.iter().map(|(_, share)| share).sum(),
        }
    }

    /// The sum of all shares.
    pub(crate) fn total(&self) -> u32 {
        self.total
    }

    /// The kind at a draw below [`Mix::total`].
    pub(crate) fn kind(&self, draw: u32) -> Kind {
        let mut passed = 0;
        for (kind, share) in &self.shares {
            passed += share;
            if draw < passed {
                return *kind;
            }
        }
        self.shares.last().expect("a mix is not empty").0
    }

    pub(crate) fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.shares.iter().map(|(kind, _)| *kind)
    }

    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.kinds().any(|known| known == kind)
    }

    /// Whether the keys have to be written before.
    pub(crate) fn wants_keys(&self) -> bool {
        self.kinds().any(Kind::wants_keys)
    }
}

impl FromStr for Mix {
    type Err = String;

    /// As in `get=95,put=5`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut shares: Vec<(Kind, u32)> = Vec::new();
        for part in text.split(',') {
            let (name, share) = part.split_once('=').ok_or_else(|| {
                format!("{part:?} is no share: expected KIND=SHARE,… as in get=95,put=5")
            })?;
            let name = name.trim();
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
            let kind = kind.ok_or_else(|| {
                let known = Kind::ALL.map(Kind::name).join(", ");
                format!("there is no operation {name:?}; there are: {known}")
            })?;
            let share = share
                .trim()
                .parse()
                .ok()
                .filter(|share| (1..=SHARE_MAX).contains(share));
            let share =
                share.ok_or_else(|| format!("the share of {name} must be 1 to {SHARE_MAX}"))?;
            if shares.iter().any(|(known, _)| *known == kind) {
                return Err(format!("{name} has two shares"));
            }
            shares.push((kind, share));
        }
        Ok(Self::of(&shares))
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [(kind, _)] = self.shares[..] {
            return f.write_str(kind.name());
        }
        for (position, (kind, share)) in self.shares.iter().enumerate() {
            let comma = if position > 0 { "," } else { "" };
            write!(f, "{comma}{}={share}", kind.name())?;
        }
        Ok(())
    }
}

/// The core workloads of YCSB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Ycsb {
    /// Half reads, half updates
    #[value(alias = "A")]
    A,
    /// 95 % reads, 5 % updates
    #[value(alias = "B")]
    B,
    /// Reads only
    #[value(alias = "C")]
    C,
    /// 95 % reads of the newest keys, 5 % inserts
    #[value(alias = "D")]
    D,
    /// 95 % scans of 1 to 100 rows, 5 % inserts
    #[value(alias = "E")]
    E,
    /// Half reads, half read-modify-writes
    #[value(alias = "F")]
    F,
}

impl Ycsb {
    /// Bytes of a record: ten fields of 100.
    pub(crate) const VALUE_BYTES: u32 = 1000;

    pub(crate) fn mix(self) -> Mix {
        match self {
            Self::A => Mix::of(&[(Kind::Get, 50), (Kind::Put, 50)]),
            Self::B => Mix::of(&[(Kind::Get, 95), (Kind::Put, 5)]),
            Self::C => Mix::only(Kind::Get),
            Self::D => Mix::of(&[(Kind::Get, 95), (Kind::Insert, 5)]),
            Self::E => Mix::of(&[(Kind::Scan, 95), (Kind::Insert, 5)]),
            Self::F => Mix::of(&[(Kind::Get, 50), (Kind::Modify, 50)]),
        }
    }

    pub(crate) fn distribution(self) -> Distribution {
        match self {
            Self::D => Distribution::Latest,
            _ => Distribution::Zipf,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_draws_by_its_shares() {
        let mix: Mix = "get=95, put=4,scan=1".parse().expect("valid");
        assert_eq!(mix.total(), 100);
        let drawn = |kind| {
            (0..mix.total())
                .filter(|draw| mix.kind(*draw) == kind)
                .count()
        };
        assert_eq!(Kind::ALL.map(drawn), [95, 4, 0, 1, 0, 0, 0]);
        assert_eq!(mix.to_string(), "get=95,put=4,scan=1");
        assert!(mix.wants_keys());
        assert!(!Mix::only(Kind::Put).wants_keys());
    }

    #[test]
    fn nonsense_is_refused_with_what_is_wrong() {
        for (text, word) in [
            ("", "KIND=SHARE"),
            ("get", "KIND=SHARE"),
            ("get=95;put=5", "share of get"),
            ("get=0", "1 to 1000000"),
            ("get=-1", "1 to 1000000"),
            ("get=1,get=2", "two shares"),
            ("read=1", "get, put, insert"),
        ] {
            let error = text.parse::<Mix>().expect_err(text);
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
