//! What the configuration accepts, and what it says about what it refuses.

use std::path::Path;
use std::time::Duration;

use super::*;

fn read(text: &str) -> Result<Config, ConfigError> {
    Config::from_toml(Path::new("flotilla.toml"), text)
}

/// What is said about a file, one line per fault.
fn refusal(text: &str) -> Vec<String> {
    read(text)
        .expect_err("a refused configuration")
        .faults
        .iter()
        .map(Fault::to_string)
        .collect()
}

#[test]
fn the_printed_default_is_the_default_and_holds_every_key() {
    let printed = Config::default().to_commented_toml();
    assert_eq!(read(&printed), Ok(Config::default()), "{printed}");

    let mut layers = Layers::default();
    layers.text(Path::new("printed"), &printed);
    let origins = &layers.config.origins;
    let unset = KEYS.iter().filter(|key| origins.of(key) == Origin::Default);
    assert_eq!(unset.map(Key::path).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn what_is_shown_has_its_sources_and_no_secrets() {
    let config = read("[raft]\nelection_timeout = \"3s\"\n").expect("sound");
    let page = config.to_json();
    assert_eq!(page["raft"]["election_timeout"], "3s");
    let sources = &page["sources"];
    assert_eq!(sources["raft.election_timeout"], "flotilla.toml:2:20");
    assert_eq!(sources["node.data"], "default");

    let key = KEYS.iter().find(|key| key.name == "listen").expect("a key");
    let secret = Key {
        secret: true,
        ..*key
    };
    assert_eq!(config.shown(key), "127.0.0.1:7400");
    assert_eq!(config.shown(&secret), "***");
    for key in KEYS.iter().filter(|key| sounds_secret(key.name)) {
        assert!(key.secret, "{} is a secret", key.path());
    }
}

#[test]
fn every_key_keeps_another_value_through_the_file() {
    for key in KEYS {
        let other = match (key.bounds, key.shape) {
            (Some((min, max)), _) => {
                if key.default == max {
                    min
                } else {
                    max
                }
            }
            (None, Shape::List) => "a:1,b:2",
            (None, Shape::Switch) if key.default == "false" => "true",
            (None, Shape::Switch) => "false",
            (None, _) if key.section == "log" && key.name == "format" => "json",
            (None, _) if key.section == "log" => "warn,flotilla::transport=debug",
            (None, _) if key.name == "data" => "/some/where \"else\"",
            (None, _) => "[::1]:9",
        };
        let mut config = Config::default();
        config
            .set(key, other)
            .unwrap_or_else(|expected| panic!("{} = {other}: {expected}", key.path()));
        assert_ne!(config, Config::default(), "{} is not kept", key.path());
        let mut layers = Layers::default();
        layers.text(Path::new("printed"), &config.to_commented_toml());
        assert_eq!(layers.faults, []);
        assert_eq!(layers.config, config, "{}", key.path());
    }
}

#[test]
fn bounds_of_the_table_can_be_read_and_hold_the_default() {
    for key in KEYS {
        let mut config = Config::default();
        for text in [
            Some(key.default),
            key.bounds.map(|b| b.0),
            key.bounds.map(|b| b.1),
        ]
        .into_iter()
        .flatten()
        {
            assert_eq!(config.set(key, text), Ok(()), "{} = {text}", key.path());
        }
        assert!(!key.help.trim().is_empty());
    }
}

#[test]
fn unknown_names_are_refused_with_place_and_nearest_name() {
    let faults = refusal("[raft]\nelection_timout = \"1s\"\n\n  [storag]\nx = 1\n");
    assert_eq!(
        faults,
        [
            "flotilla.toml:2:1: unknown key raft.election_timout; did you mean raft.election_timeout?",
            "flotilla.toml:4:4: unknown section storag; did you mean storage?",
        ]
    );
    assert_eq!(refusal("[node]\nzzzzzz = 1").len(), 1);
    assert_eq!(refusal("listen = \"a:1\"").len(), 1);
}

#[test]
fn bad_values_are_refused_with_place_and_what_is_expected() {
    assert_eq!(
        refusal("[raft]\nheartbeat_interval = 100\nelection_timeout = \"1 parsec\"\n"),
        [
            "flotilla.toml:2:22: raft.heartbeat_interval = 100: expected a duration such as \"150ms\", \"10s\" or \"5m\"",
            "flotilla.toml:3:20: raft.election_timeout = \"1 parsec\": expected a duration such as \"150ms\", \"10s\" or \"5m\"",
        ]
    );
    assert_eq!(
        refusal("[limits]\nkey_bytes = \"1GiB\""),
        ["flotilla.toml:2:13: limits.key_bytes = \"1GiB\": expected a value from 1B to 4KiB"]
    );
    assert_eq!(
        refusal("[node]\njoin = [1]"),
        [
            "flotilla.toml:2:8: node.join = a list of other things: expected a list of addresses such as \
          [\"10.0.0.1:7400\", \"10.0.0.2:7400\"]"
        ]
    );
    assert_eq!(
        refusal("raft = 5"),
        ["flotilla.toml:1:8: raft = integer: expected a section: [raft]"]
    );
    let syntax = refusal("[raft\n");
    assert!(
        syntax.len() == 1 && syntax[0].starts_with("flotilla.toml:1:"),
        "{syntax:?}"
    );
}

#[test]
fn contradictions_name_both_values_and_where_they_came_from() {
    let mut layers = Layers::default();
    layers.text(
        Path::new("flotilla.toml"),
        "[raft]\nelection_timeout = \"200ms\"",
    );
    layers.variables([("FLOTILLA_RAFT__HEARTBEAT_INTERVAL".into(), "150ms".into())]);
    let error = layers.done().expect_err("contradiction");
    assert_eq!(
        error.to_string(),
        "the configuration is not usable:\n  raft.election_timeout = 200ms (flotilla.toml:2:20) must be more than twice \
         raft.heartbeat_interval = 150ms (FLOTILLA_RAFT__HEARTBEAT_INTERVAL)"
    );
    for (text, both) in [
        (
            "[limits]\nbatch_bytes = \"4MiB\"",
            ["limits.batch_bytes = 4MiB", "limits.value_bytes = 4MiB"],
        ),
        (
            "[limits]\nbatch_get_bytes = \"1MiB\"",
            ["limits.batch_get_bytes = 1MiB", "limits.value_bytes = 4MiB"],
        ),
        (
            "[limits]\nentry_bytes = \"8MiB\"",
            [
                "limits.entry_bytes = 8MiB",
                "limits.batch_bytes = 8MiB (default)",
            ],
        ),
        (
            "[limits]\nin_flight_bytes = \"1MiB\"",
            ["limits.in_flight_bytes = 1MiB", "limits.batch_bytes = 8MiB"],
        ),
        (
            "[limits]\nrequest_timeout = \"2m\"",
            [
                "limits.request_timeout = 2m",
                "limits.request_timeout_max = 1m",
            ],
        ),
        (
            "[raft]\nuncommitted_bytes = \"1MiB\"",
            [
                "raft.uncommitted_bytes = 1MiB",
                "limits.entry_bytes = 16MiB",
            ],
        ),
        (
            "[transport]\nqueue_bytes = \"1MiB\"",
            ["transport.queue_bytes = 1MiB", "limits.entry_bytes = 16MiB"],
        ),
        (
            "[storage]\nreplay_limit = \"2MiB\"",
            [
                "storage.replay_limit = 2MiB",
                "storage.state_memtable = 32MiB",
            ],
        ),
        (
            "[node]\nstatus_listen = \"127.0.0.1:7400\"",
            ["node.status_listen", "node.listen"],
        ),
        (
            "[node]\nlisten = \"0.0.0.0:7400\"",
            ["node.advertise", "node.listen = 0.0.0.0:7400"],
        ),
        (
            "[node]\nlisten = \"0.0.0.0:7400\"\nadvertise = \"a:1\"",
            ["node.listen = 0.0.0.0:7400", "--insecure"],
        ),
        (
            "[node]\npeer_listen = \"0.0.0.0:7400\"",
            ["node.peer_advertise", "node.peer_listen = 0.0.0.0:7400"],
        ),
        (
            "[node]\npeer_listen = \"10.0.0.1:7400\"",
            ["node.peer_listen = 10.0.0.1:7400", "security.key"],
        ),
        (
            "[node]\nstatus_listen = \"127.0.0.1:7401\"",
            [
                "node.status_listen",
                "after that of node.listen = 127.0.0.1:7400",
            ],
        ),
        (
            "[security]\nca = \"a\"\nkey = \"b\"",
            ["security.ca = a", "security.cert = "],
        ),
        (
            "[security]\nca = \"a\"\nkey = \"b\"\ncert = \"c\"\ninsecure = true",
            ["security.insecure = true", "security.cert = c"],
        ),
    ] {
        let faults = refusal(text);
        assert!(
            faults
                .iter()
                .any(|fault| both.iter().all(|part| fault.contains(part))),
            "{text}: {faults:?}"
        );
    }
}

#[test]
fn addresses_between_nodes_follow_those_of_clients() {
    let config =
        |text: &str| Config::from_toml(Path::new("flotilla.toml"), text).expect("configuration");
    let both = |text: &str| {
        let config = config(text);
        let listen = config.peer_listen();
        (
            listen.to_string(),
            config.peer_advertised(listen.port()).to_string(),
        )
    };
    let pair = |listen: &str, advertised: &str| (listen.to_owned(), advertised.to_owned());
    assert_eq!(both(""), pair("127.0.0.1:7401", "127.0.0.1:7401"));
    let insecure = "[security]\ninsecure = true\n[node]\n";
    assert_eq!(
        both(&format!(
            "{insecure}listen = \"0.0.0.0:7400\"\nadvertise = \"a:80\""
        )),
        pair("0.0.0.0:7401", "a:7401")
    );
    assert_eq!(
        both(&format!(
            "{insecure}peer_listen = \"10.0.0.1:9\"\nlisten = \"10.0.0.1:7400\""
        )),
        pair("10.0.0.1:9", "10.0.0.1:9")
    );
    assert_eq!(
        both("[node]\npeer_advertise = \"p:1\""),
        pair("127.0.0.1:7401", "p:1")
    );
    // Any free port, which is known when it is listened at.
    let any = config("[node]\nlisten = \"127.0.0.1:0\"");
    assert_eq!(any.peer_listen().port(), 0);
    assert_eq!(any.peer_advertised(5).to_string(), "127.0.0.1:5");
}

#[test]
fn later_layers_win() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("flotilla.toml");
    std::fs::write(
        &path,
        "[node]\ndata = \"from-file\"\n[raft]\nheartbeat_interval = \"50ms\"\n",
    )
    .expect("write");
    let args = StartArgs {
        config: Some(path),
        data: Some("from-flag".into()),
        join: vec![
            "a:1".parse().expect("address"),
            "b:2".parse().expect("address"),
        ],
        ..StartArgs::default()
    };
    let variables = [
        ("FLOTILLA_NODE__DATA", "from-variable"),
        ("FLOTILLA_LOG__LEVEL", "debug"),
        ("FLOTILLA_ENDPOINTS", "x"),
    ];
    let variables = variables.map(|(name, value)| (name.into(), value.into()));
    let config = Config::load(&args, variables).expect("configuration");
    assert_eq!(config.node.data, Path::new("from-flag"));
    assert_eq!(config.node.join.len(), 2);
    assert_eq!(config.raft.heartbeat_interval, Duration::from_millis(50));
    assert_eq!(config.log.level.as_str(), "debug");
    assert_eq!(config.advertised(), &config.node.listen);

    let wrong = [("FLOTILLA_NODE__DATUM".into(), "x".into())];
    let error = Config::load(&StartArgs::default(), wrong)
        .expect_err("unknown variable")
        .to_string();
    assert!(
        error.contains("unknown variable FLOTILLA_NODE__DATUM; did you mean FLOTILLA_NODE__DATA?"),
        "{error}"
    );
    let missing = StartArgs {
        config: Some("no/such/file".into()),
        ..StartArgs::default()
    };
    let error = Config::load(&missing, [])
        .expect_err("missing file")
        .to_string();
    assert!(
        error.contains("no/such/file: cannot read the configuration file"),
        "{error}"
    );
}

#[test]
fn the_effective_configuration_can_be_logged_and_shown() {
    let config = Config::default();
    assert!(
        config
            .summary()
            .contains("raft.heartbeat_interval=\"100ms\"")
    );
    assert_eq!(config.to_json()["limits"]["key_bytes"], "4KiB");
}

#[test]
fn limits_are_those_of_the_core_and_are_refused_when_the_core_refuses_them() {
    use flotilla_shards::limits::Limits as Core;
    assert_eq!(Core::from(&Config::default().limits), Core::default());
    // The greatest values of the table are the constants of the core: all can be lowered, none raised.
    let mut greatest = Config::default();
    for key in KEYS.iter().filter(|key| key.section == "limits") {
        greatest
            .set(key, key.bounds.expect("limits have bounds").1)
            .expect("a bound");
    }
    assert_eq!(Core::from(&greatest.limits), Core::default());

    let names = [
        "key_bytes",
        "value_bytes",
        "batch_bytes",
        "batch_get_bytes",
        "entry_bytes",
    ];
    for name in names {
        for size in ["1KiB", "4KiB", "3MiB", "4MiB", "8MiB", "12MiB", "16MiB"] {
            if let Ok(config) = read(&format!("[limits]\n{name} = \"{size}\"")) {
                assert_eq!(
                    Core::from(&config.limits).validate(),
                    Ok(()),
                    "{name} = {size}"
                );
            }
        }
    }
}

#[test]
fn times_become_ticks() {
    let ticks = Config::default().raft.ticks();
    assert_eq!(
        (ticks.tick, ticks.heartbeat, ticks.election, ticks.quiesce),
        (Duration::from_millis(50), 2, 20, 4)
    );
    let text = "[raft]\nheartbeat_interval = \"300ms\"\nelection_timeout = \"1s\"";
    let odd = read(text).expect("configuration").raft.ticks();
    assert_eq!((odd.tick, odd.election), (Duration::from_millis(150), 7));
}

/// Found by the fuzz target `config`: the file's name was all that was said.
#[test]
fn bytes_that_are_no_text_are_refused_with_their_place() {
    let mut layers = Layers::default();
    layers.bytes(
        Path::new("flotilla.toml"),
        b"[node]\ndata = \"\xc3\xb6\xff\"\n",
    );
    let faults: Vec<String> = layers.faults.iter().map(Fault::to_string).collect();
    assert_eq!(
        faults,
        ["flotilla.toml:2:10: not UTF-8, the encoding of TOML"]
    );
}

/// As `std::env::vars` panics on any variable that is no text, also on those of others.
#[cfg(unix)]
#[test]
fn variables_that_are_no_text_are_refused_if_they_are_ours() {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = |bytes: &[u8]| std::ffi::OsString::from_vec(bytes.to_vec());
    let mut layers = Layers::default();
    layers.variables([
        (bytes(b"SOMEBODYS"), bytes(b"\xff")),
        (bytes(b"SOMEBODYS\xff"), bytes(b"x")),
        (bytes(b"FLOTILLA_NODE__DATA"), bytes(b"/data/\xff")),
        (bytes(b"FLOTILLA_NODE__DATA\xff"), bytes(b"x")),
    ]);
    let faults: Vec<String> = layers.faults.iter().map(Fault::to_string).collect();
    assert_eq!(
        faults,
        [
            "FLOTILLA_NODE__DATA: node.data = \"/data/\u{fffd}\": expected UTF-8",
            "FLOTILLA_NODE__DATA\u{fffd}: unknown variable FLOTILLA_NODE__DATA\u{fffd}; did you mean FLOTILLA_NODE__DATA?",
        ]
    );
    assert_eq!(layers.config, Config::default());
}

/// Found by the fuzz target `config`: names were printed raw, and values in full.
#[test]
fn what_is_wrong_is_shown_on_one_short_line() {
    assert_eq!(
        refusal("\"zz\\nzz\" = 1"),
        ["flotilla.toml:1:1: unknown key zz\\nzz"]
    );
    let long = "x".repeat(10_000);
    for text in [
        format!("[limits]\nkey_bytes = \"{long}\""),
        format!("[limits]\nkey_bytes = {}", "1".repeat(10_000)),
        format!("[limits]\n{long} = 1"),
        format!("{long} = {{}}"),
        long,
        "[".repeat(10_000),
        format!("\"{}\" = 1", "\\u0001".repeat(99)),
    ] {
        let faults = refusal(&text);
        assert!(faults.iter().all(|fault| fault.len() < 400), "{faults:?}");
    }
}

#[test]
fn a_file_that_is_no_configuration_is_not_read_to_its_end() {
    let args = StartArgs {
        config: Some("/dev/zero".into()),
        ..StartArgs::default()
    };
    let error = Config::load(&args, []).expect_err("endless").to_string();
    assert!(
        error.contains("/dev/zero: has more than 65536 bytes"),
        "{error}"
    );
}
