//! What the server writes to its log.

use serde_json::Value;
use testkit::{Cluster, Options};

use crate::IRONCLAD;

/// Lines that the log's reader (fluent-bit, Loki) takes apart by upstream's keys.
#[test]
fn a_json_log_is_one_object_with_upstreams_keys_per_line() {
    let options = Options::hollow(IRONCLAD, 1).flag("--logging-format=json").flag("-v=4");
    let mut cluster = Cluster::start(options);
    cluster.stop_server();
    let log = cluster.log();
    // What the server says of its progress, on standard output, is in the same file.
    let lines: Vec<&str> = log.lines().filter(|line| line.starts_with('{')).collect();
    assert!(!lines.is_empty(), "{log}");
    for line in lines {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(object["ts"].as_f64().is_some_and(|ts| ts > 1.5e12), "milliseconds since 1970: {line}");
        for key in ["caller", "logger", "msg"] {
            assert!(object[key].is_string(), "{key}: {line}");
        }
        assert!(object["v"].is_u64() || object.get("err").is_some(), "{line}");
    }
    let text =
        log.lines().find(|line| [" INFO ", " DEBUG ", " WARN "].iter().any(|level| line.contains(level)));
    assert_eq!(text, None, "no line is text");
}
