//! What the environment asks for: `SEED`, `NODES`, `MINUTES` and `FAULTS`.

use std::{ops::RangeInclusive, time::Duration};

use crate::kind::Kind;

const NODES: RangeInclusive<usize> = 3..=5;
const MINUTES: f64 = 5.0;
/// A week: longer than anybody waits.
const MINUTES_MAX: f64 = 7.0 * 24.0 * 60.0;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    seed: Option<u64>,
    pub(crate) nodes: Option<usize>,
    pub(crate) length: Duration,
    pub(crate) kinds: Vec<Kind>,
}

impl Wanted {
    /// Reads variables; an empty one is as good as none.
    ///
    /// # Errors
    /// Which variable holds what, and what it may hold.
    pub(crate) fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let given = |name| get(name).filter(|text| !text.is_empty());
        let seed = given("SEED").map(|text| {
            let seed = text.parse();
            seed.map_err(|_| {
                format!(
                    "SEED={text}: expected a whole number from 0 to {}",
                    u64::MAX
                )
            })
        });
        let nodes = given("NODES").map(|text| {
            let nodes = text.parse().ok().filter(|nodes| NODES.contains(nodes));
            nodes.ok_or_else(|| {
                format!(
                    "NODES={text}: expected {} to {}",
                    NODES.start(),
                    NODES.end()
                )
            })
        });
        let minutes = given("MINUTES").map_or(Ok(MINUTES), |text| {
            let minutes = text.parse().ok();
            let minutes = minutes.filter(|minutes| *minutes > 0.0 && *minutes <= MINUTES_MAX);
            minutes.ok_or_else(|| {
                format!("MINUTES={text}: expected a number above 0, at most {MINUTES_MAX}")
            })
        });
        let faults = given("FAULTS").unwrap_or_default();
        let names: Vec<&str> = faults
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .collect();
        let kind = |name: &&str| {
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == *name);
            let known = Kind::ALL.map(Kind::name).join(", ");
            kind.ok_or_else(|| {
                format!("FAULTS: no fault is called \"{name}\"; expected some of: {known}")
            })
        };
        Ok(Self {
            seed: seed.transpose()?,
            nodes: nodes.transpose()?,
            length: Duration::from_secs_f64(60.0 * minutes?),
            kinds: match &names[..] {
                [] => Kind::ALL.to_vec(),
                names => names.iter().map(kind).collect::<Result<_, _>>()?,
            },
        })
    }

    /// The seed that is wanted, or this one; it is shown.
    pub(crate) fn seed_or(&self, otherwise: u64) -> u64 {
        let seed = self.seed.unwrap_or(otherwise);
        eprintln!("SEED={seed}");
        seed
    }

    /// The number of nodes that is wanted, or one that the seed draws.
    pub(crate) fn nodes_or_drawn(&self, seed: u64) -> usize {
        let drawn = || fastrand::Rng::with_seed(seed).usize(NODES);
        self.nodes.unwrap_or_else(drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Wanted, String> {
        Wanted::read(|name| {
            let mut found = variables.iter().filter(|(known, _)| *known == name);
            found.next().map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn what_is_not_said_is_as_usual() {
        let usual = read(&[]).expect("nothing is wrong");
        assert_eq!(usual.length, Duration::from_secs(300));
        assert_eq!((usual.seed, usual.nodes), (None, None));
        assert_eq!(usual.kinds, Kind::ALL);
        assert_eq!(read(&[("SEED", ""), ("FAULTS", " , ")]), Ok(usual.clone()));
        let drawn: Vec<usize> = (0..50).map(|seed| usual.nodes_or_drawn(seed)).collect();
        assert!(
            NODES.into_iter().all(|nodes| drawn.contains(&nodes)),
            "{drawn:?}"
        );
        assert_eq!((usual.seed_or(7), drawn[7]), (7, usual.nodes_or_drawn(7)));
    }

    #[test]
    fn what_is_said_is_done() {
        let wanted = read(&[
            ("SEED", "42"),
            ("NODES", "5"),
            ("MINUTES", "0.5"),
            ("FAULTS", "pause, kill -9 of all"),
        ]);
        let wanted = wanted.expect("nothing is wrong");
        assert_eq!((wanted.seed_or(1), wanted.nodes_or_drawn(1)), (42, 5));
        assert_eq!(wanted.length, Duration::from_secs(30));
        assert_eq!(wanted.kinds, [Kind::Pause, Kind::KillAll]);
    }

    #[test]
    fn what_makes_no_sense_is_named_with_what_would() {
        for (name, text, expected) in [
            ("SEED", "abc", "SEED=abc: expected a whole number"),
            ("SEED", "-1", "SEED=-1: expected a whole number"),
            ("NODES", "2", "NODES=2: expected 3 to 5"),
            ("NODES", "many", "NODES=many: expected 3 to 5"),
            ("MINUTES", "x", "MINUTES=x: expected a number above 0"),
            ("MINUTES", "0", "MINUTES=0: expected a number above 0"),
            ("MINUTES", "NaN", "MINUTES=NaN: expected a number above 0"),
            (
                "MINUTES",
                "1e300",
                "MINUTES=1e300: expected a number above 0",
            ),
            (
                "FAULTS",
                "pause,unknown",
                "no fault is called \"unknown\"; expected some of: kill -9, ",
            ),
        ] {
            let error = read(&[(name, text)]).expect_err("it makes no sense");
            assert!(error.contains(expected), "{error}");
        }
    }
}
