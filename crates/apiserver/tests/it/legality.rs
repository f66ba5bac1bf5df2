//! Which options of lists, watches and gets go together, and what those that do not are answered: upstream's rules
//! (apimachinery/pkg/apis/meta/internalversion/validation, apiserver/pkg/storage/interfaces.go), row by row.

use http::Method;

use crate::world::{User_, World, config_map};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

const UNLESS: &str = "resourceVersionMatch is forbidden unless resourceVersion is provided";
const CONTINUE: &str = "resourceVersionMatch is forbidden when continue is provided";
const ZERO: &str = r#"resourceVersionMatch "exact" is forbidden for resourceVersion "0""#;
const LIST: &str = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list";
const KNOWN: &str = r#"Unsupported value: "Other": supported values: "Exact", "NotOlderThan""#;
const BOTH: &str = "specifying resource version is not allowed when using continue";
const REQUIRES: &str = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
const WATCH: &str = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";

/// Two objects; the revision of the first, one of the future, and a token to go on behind the first.
struct Place {
    world: World,
    old: String,
    token: String,
}

async fn place() -> Place {
    let world = World::new().await;
    for name in ["a", "b"] {
        world.admin.post(MAPS, &config_map(name)).await.is(201);
    }
    let old =
        world.admin.get(&format!("{MAPS}/a")).await.is(200).text("/metadata/resourceVersion").to_owned();
    let token =
        world.admin.get(&format!("{MAPS}?limit=1")).await.is(200).text("/metadata/continue").to_owned();
    Place { world, old, token }
}

impl Place {
    fn query(&self, query: &str) -> String {
        query.replace("OLD", &self.old).replace("TOKEN", &self.token)
    }
}

#[tokio::test]
async fn lists() {
    let place = place().await;
    // Names of what is listed, or code and message.
    let rows: &[(&str, Result<&[&str], (u16, &str)>)] = &[
        ("", Ok(&["a", "b"])),
        ("limit=1", Ok(&["a"])),
        ("resourceVersion=0", Ok(&["a", "b"])),
        // The cache answers "any" in one piece.
        ("resourceVersion=0&limit=1", Ok(&["a", "b"])),
        ("resourceVersion=OLD", Ok(&["a", "b"])),
        // The old way of asking for exactly a revision.
        ("resourceVersion=OLD&limit=5", Ok(&["a"])),
        ("resourceVersion=OLD&resourceVersionMatch=Exact", Ok(&["a"])),
        ("resourceVersion=OLD&resourceVersionMatch=Exact&limit=5", Ok(&["a"])),
        ("resourceVersion=OLD&resourceVersionMatch=NotOlderThan", Ok(&["a", "b"])),
        ("resourceVersion=OLD&resourceVersionMatch=NotOlderThan&limit=1", Ok(&["a"])),
        ("resourceVersion=0&resourceVersionMatch=NotOlderThan", Ok(&["a", "b"])),
        ("continue=TOKEN", Ok(&["b"])),
        ("continue=TOKEN&limit=1", Ok(&["b"])),
        ("continue=TOKEN&resourceVersion=0", Ok(&["b"])),
        ("continue=TOKEN&resourceVersion=OLD", Err((400, BOTH))),
        ("continue=TOKEN&resourceVersion=OLD&limit=1", Err((400, BOTH))),
        ("continue=nonsense", Err((400, "continue key is not valid"))),
        ("resourceVersionMatch=Exact", Err((422, UNLESS))),
        ("resourceVersionMatch=NotOlderThan", Err((422, UNLESS))),
        ("resourceVersionMatch=NotOlderThan&limit=1", Err((422, UNLESS))),
        ("resourceVersionMatch=Exact&continue=TOKEN", Err((422, CONTINUE))),
        ("resourceVersion=0&resourceVersionMatch=NotOlderThan&continue=TOKEN", Err((422, CONTINUE))),
        ("resourceVersion=OLD&resourceVersionMatch=Exact&continue=TOKEN", Err((422, CONTINUE))),
        ("resourceVersion=0&resourceVersionMatch=Exact", Err((422, ZERO))),
        ("resourceVersion=0&resourceVersionMatch=Exact&limit=1", Err((422, ZERO))),
        ("resourceVersion=OLD&resourceVersionMatch=Other", Err((422, KNOWN))),
        ("resourceVersionMatch=Other", Err((422, UNLESS))),
        ("sendInitialEvents=true", Err((422, LIST))),
        ("sendInitialEvents=false", Err((422, LIST))),
        ("resourceVersion=x", Err((400, "Invalid value: \"x\""))),
        ("limit=x", Err((400, "invalid syntax"))),
        ("resourceVersion=99999999", Err((504, "Too large resource version: 99999999, current: "))),
        (
            "resourceVersion=99999999&resourceVersionMatch=NotOlderThan",
            Err((504, "Too large resource version: 99999999, current: ")),
        ),
    ];
    for (query, want) in rows {
        let answer = place.world.admin.get(&format!("{MAPS}?{}", place.query(query))).await;
        match want {
            Ok(names) => assert_eq!(answer.is(200).names(), *names, "{query}"),
            Err((code, message)) => {
                assert_eq!(answer.code, *code, "{query}: {}", answer.message());
                assert!(answer.message().contains(message), "{query}: {}", answer.message());
            }
        }
    }
    // Deleting many takes the same options as listing them.
    for (query, want) in rows {
        if let Err((code @ (400 | 422), message)) = want
            && *query != "continue=nonsense"
        {
            let path = format!("{MAPS}?{}", place.query(query));
            let answer = place.world.admin.delete(&path, None).await;
            assert_eq!(answer.code, *code, "{query}: {}", answer.message());
            assert!(answer.message().contains(message), "{query}: {}", answer.message());
        }
    }
    assert_eq!(place.world.admin.get(MAPS).await.names(), ["a", "b"], "nothing was deleted");
}

#[tokio::test]
async fn gets() {
    let place = place().await;
    for (query, code) in [
        ("", 200),
        ("resourceVersion=0", 200),
        ("resourceVersion=OLD", 200),
        ("resourceVersion=99999999", 504),
        ("resourceVersion=x", 400),
        // Options of lists mean nothing to it.
        ("limit=1&resourceVersionMatch=Exact", 200),
    ] {
        let answer = place.world.admin.get(&format!("{MAPS}/b?{}", place.query(query))).await;
        assert_eq!(answer.code, code, "{query}: {}", answer.message());
    }
}

async fn first_event(admin: &User_, path: &str) -> String {
    let (kind, name) = admin.watch(path).await.event().await;
    format!("{kind} {name}")
}

#[tokio::test]
async fn watches() {
    let place = place().await;
    let admin = &place.world.admin;
    for (query, want) in [
        ("", Ok("ADDED a")),
        ("resourceVersion=0", Ok("ADDED a")),
        ("resourceVersion=OLD", Ok("ADDED b")),
        ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", Ok("ADDED a")),
        (
            "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=OLD&allowWatchBookmarks=true",
            Ok("ADDED a"),
        ),
        ("sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=OLD", Ok("ADDED b")),
        ("sendInitialEvents=true", Err((422, REQUIRES))),
        ("sendInitialEvents=false", Err((422, REQUIRES))),
        (
            "sendInitialEvents=true&resourceVersionMatch=Exact",
            Err((422, "[resourceVersionMatch: Forbidden: ")),
        ),
        (
            "sendInitialEvents=true&resourceVersionMatch=Exact",
            Err((422, r#"Unsupported value: "Exact": supported values: "NotOlderThan""#)),
        ),
        ("resourceVersionMatch=NotOlderThan", Err((422, WATCH))),
        ("resourceVersionMatch=NotOlderThan&resourceVersion=OLD", Err((422, WATCH))),
        ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&continue=TOKEN", Err((422, CONTINUE))),
        ("resourceVersion=x", Err((400, "Invalid value: \"x\""))),
    ] {
        let path = format!("{MAPS}?watch=true&{}", place.query(query));
        match want {
            Ok(event) => assert_eq!(first_event(admin, &path).await, event, "{query}"),
            Err((code, message)) => {
                let answer = admin.ask(Method::GET, &path, &[], "").await;
                assert_eq!(answer.code, code, "{query}: {}", answer.message());
                assert!(answer.message().contains(message), "{query}: {}", answer.message());
            }
        }
    }
}
