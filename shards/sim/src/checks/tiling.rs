//! Source: design.md 5; scenarios M2, M3. The ranges of the shards tile the keyspace: no gap, no overlap.

use flotilla_shards::descriptor::Descriptor;
use flotilla_shards::range_map::check_tiling;

use super::{Checked, ensure};

pub(super) fn check(shards: &[Descriptor]) -> Checked {
    let mut users: Vec<&Descriptor> = shards
        .iter()
        .filter(|shard| !shard.shard.is_meta())
        .collect();
    users.sort_by(|a, b| a.range.start().cmp(b.range.start()));
    let tiling = check_tiling(users);
    ensure(tiling.is_ok(), "tiling", || format!("{tiling:?}"))
}
