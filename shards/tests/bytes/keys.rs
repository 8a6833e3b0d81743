//! Row keys: every one reads as what it was made of, and rows lie in the order of their keys.

use crate::shard::{piece, pieces};
use bytes::Bytes;
use flotilla_shards::descriptor::KeyRange;
use flotilla_shards::ids::ShardId;
use flotilla_shards::keys::{self, RowKey, SessionId};

pub(crate) fn run(mut data: &[u8]) {
    if let Ok(key) = keys::decode(Bytes::copy_from_slice(data)) {
        let again = match &key {
            RowKey::Identity => Bytes::from_static(keys::IDENTITY),
            RowKey::User(user) => keys::data(ShardId::FIRST_USER, user),
            RowKey::Meta(user) => keys::data(ShardId::META, user),
            RowKey::Session { shard, session } => keys::session(*shard, *session),
            RowKey::State(shard) => keys::state(*shard),
            RowKey::Positions(number) => keys::positions(*number),
        };
        assert_eq!(keys::decode(again.clone()), Ok(key));
        assert!(again == data || data[0] == 0, "two spellings: {data:?}");
    }
    let (Some(one), Some(other)) = (piece(&mut data), piece(&mut data)) else {
        return;
    };
    for shard in [ShardId::META, ShardId::FIRST_USER, ShardId(u64::MAX)] {
        let (a, b) = (keys::data(shard, one), keys::data(shard, other));
        assert_eq!(one.cmp(other), a.cmp(&b));
        assert_eq!(keys::user_part(&a), one);
        let bound = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        if let Ok(range) = KeyRange::new(bound(one), bound(other)) {
            let rows = keys::data_rows(shard, &range);
            assert!(rows.contains(&a), "a range holds its start");
            assert_eq!(rows.contains(&b), range.contains(other));
            assert!(!rows.contains(&keys::state(shard)));
        }
    }
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0_u64, |n, byte| n << 8 | u64::from(*byte))
    };
    let session = SessionId {
        opened_in: ShardId(number(one)),
        number: number(other),
    };
    let row = keys::session(ShardId(number(other)), session);
    assert!(keys::session_rows(ShardId(number(other))).contains(&row));
    assert!(!keys::all_state_rows().contains(&row));
    assert!(!keys::positions_rows().contains(&row));
    assert!(keys::positions_rows().contains(&keys::positions(number(one))));
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let session = SessionId {
        opened_in: ShardId(3),
        number: 4,
    };
    vec![
        keys::data(ShardId::FIRST_USER, b"key").to_vec(),
        keys::data(ShardId::META, b"key").to_vec(),
        keys::session(ShardId(2), session).to_vec(),
        keys::state(ShardId(2)).to_vec(),
        keys::positions(2).to_vec(),
        keys::IDENTITY.to_vec(),
        pieces(&[b"a", b"b"]),
        pieces(&[b"a", b""]),
        pieces(&[b"\xff\xff\xff\xff\xff\xff\xff\xff", b"\xff\xff"]),
    ]
}
