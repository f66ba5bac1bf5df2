//! What is said to a conversion webhook, and what may be made of its answer. Pure.
//! Upstream: apiextensions-apiserver `pkg/apiserver/conversion/webhook_converter.go`.

use std::collections::BTreeMap;

use api::field::{ErrorList, Path};
use api::meta_validation::{annotations_errors, labels_errors};
use serde_json::{Map, Value, json};

const GROUP: &str = "apiextensions.k8s.io";
const KIND: &str = "ConversionReview";

/// The review of `objects` that are to be of `version`, in the first of the webhook's `reviews` that is known here.
pub(super) fn request(
    reviews: &[String],
    objects: &[Value],
    version: &str,
    uid: &str,
) -> Result<Value, String> {
    let known = reviews.iter().find(|review| matches!(review.as_str(), "v1" | "v1beta1"));
    let review = known.ok_or("no supported conversion review versions")?;
    Ok(json!({
        "kind": KIND, "apiVersion": format!("{GROUP}/{review}"),
        "request": {"uid": uid, "desiredAPIVersion": version, "objects": objects},
    }))
}

/// The converted objects of an answer to `sent`. Errors are the reason only.
pub(super) fn answer(sent: &Value, body: &[u8]) -> Result<Vec<Value>, String> {
    let mut review: Value = serde_json::from_slice(body)
        .map_err(|error| format!("couldn't get version/kind; json parse error: {error}"))?;
    let response = review.get_mut("response").map(Value::take).unwrap_or_default();
    if sent["apiVersion"] == "apiextensions.k8s.io/v1" {
        if (&review["kind"], &review["apiVersion"]) != (&sent["kind"], &sent["apiVersion"]) {
            return Err(format!("expected webhook response of {}, got {}", kind_of(sent), kind_of(&review)));
        }
        if response.is_null() {
            return Err("no response provided".to_owned());
        }
        let (wanted, given) = (&sent["request"]["uid"], response["uid"].as_str().unwrap_or_default());
        if *wanted != given {
            let wanted = wanted.as_str().unwrap_or_default();
            return Err(format!("expected response.uid={wanted:?}, got {given:?}"));
        }
    }
    if response.is_null() {
        return Err("no response provided".to_owned());
    }
    let status = response["result"]["status"].as_str().unwrap_or_default();
    if status != "Success" {
        return Err(match response["result"]["message"].as_str() {
            Some(message) if !message.is_empty() => message.to_owned(),
            _ => format!("response.result.status was '{status}', not 'Success'"),
        });
    }
    match response {
        Value::Object(mut response) => match response.remove("convertedObjects") {
            Some(Value::Array(objects)) => Ok(objects),
            _ => Ok(Vec::new()),
        },
        _ => Ok(Vec::new()),
    }
}

/// `group/version, Kind=Kind`, as Go prints it.
pub(super) fn kind_of(object: &Value) -> String {
    format!("{}, Kind={}", text(&object["apiVersion"]), text(&object["kind"]))
}

/// What a webhook made of an object, wrong.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// The object itself.
    Object(String),
    /// Its metadata.
    Metadata(String),
}

/// What the webhook made of `original`, which was to be of `version`, with all metadata that is not its to change.
pub(super) fn checked(original: &Value, mut converted: Value, version: &str) -> Result<Value, Wrong> {
    let (given, kinds) =
        (text(&converted["apiVersion"]), (text(&original["kind"]), text(&converted["kind"])));
    if given != version {
        return Err(Wrong::Object(format!("invalid groupVersion (expected {version}, received {given})")));
    }
    if kinds.0 != kinds.1 {
        return Err(Wrong::Object(format!("invalid kind (expected {}, received {})", kinds.0, kinds.1)));
    }
    for (member, name) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (wanted, given) = (text(&original["metadata"][member]), text(&converted["metadata"][member]));
        if wanted != given {
            return Err(Wrong::Object(format!("must have the same {name}: {wanted} != {given}")));
        }
    }
    let metadata = restored(&original["metadata"], converted["metadata"].take()).map_err(Wrong::Metadata)?;
    converted["metadata"] = metadata;
    Ok(converted)
}

/// The original's metadata with the labels and annotations of the converted.
fn restored(original: &Value, converted: Value) -> Result<Value, String> {
    let mut given = match converted {
        Value::Object(given) => given,
        Value::Null => return Err("missing metadata in converted object".to_owned()),
        other => return Err(format!("invalid metadata of type {} in converted object", go_type(&other))),
    };
    let mut metadata = original.as_object().cloned().unwrap_or_default();
    for member in ["labels", "annotations"] {
        let before = metadata.remove(member).unwrap_or_default();
        match given.remove(member).unwrap_or_default() {
            Value::Null => {}
            Value::Object(now) => {
                let unchanged = before.as_object() == Some(&now) || (before.is_null() && now.is_empty());
                let now = if unchanged { now } else { valid(member, now)? };
                metadata.insert(member.to_owned(), now.into());
            }
            other => {
                return Err(format!(
                    "invalid metadata.{member} of type {} in converted object",
                    go_type(&other)
                ));
            }
        }
    }
    Ok(metadata.into())
}

fn valid(member: &str, values: Map<String, Value>) -> Result<Map<String, Value>, String> {
    let mut texts = BTreeMap::new();
    for (key, value) in &values {
        let Some(text) = value.as_str() else {
            let given = go_type(value);
            return Err(format!(
                "metadata.{member}[{key}] must be a string, but is {given} in converted object"
            ));
        };
        texts.insert(key.clone(), text.to_owned());
    }
    let path = Path::new("metadata");
    let errors: ErrorList = match member {
        "labels" => labels_errors(&texts, &path.child("labels")),
        _ => annotations_errors(&texts, &path.child("annotation")),
    };
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    match errors.as_slice() {
        [] => Ok(values),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What Go calls the type of a decoded JSON value.
pub(in crate::registry) fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(version: &str, labels: Value) -> Value {
        json!({"apiVersion": version, "kind": "Thing", "metadata": {
            "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7", "labels": labels,
        }})
    }

    #[test]
    fn only_labels_and_annotations_are_the_webhooks_to_change() {
        let original = object("g/v1", json!({"a": "b"}));
        let mut converted = object("g/v2", json!({"a": "c"}));
        converted["metadata"]["resourceVersion"] = json!("8");
        converted["metadata"]["finalizers"] = json!(["x"]);
        let checked_ = checked(&original, converted, "g/v2").unwrap();
        assert_eq!(checked_, object("g/v2", json!({"a": "c"})));

        let wrong = |change: fn(&mut Value)| {
            let mut converted = object("g/v2", json!({}));
            change(&mut converted);
            match checked(&original, converted, "g/v2").unwrap_err() {
                Wrong::Object(message) | Wrong::Metadata(message) => message,
            }
        };
        let table: [(fn(&mut Value), &str); 7] = [
            (|o| o["apiVersion"] = json!("g/v3"), "invalid groupVersion (expected g/v2, received g/v3)"),
            (|o| o["kind"] = json!("Other"), "invalid kind (expected Thing, received Other)"),
            (|o| o["metadata"]["name"] = json!("b"), "must have the same name: a != b"),
            (|o| o["metadata"]["uid"] = json!("v"), "must have the same UID: u != v"),
            (
                |o| o["metadata"]["labels"] = json!(3),
                "invalid metadata.labels of type int64 in converted object",
            ),
            (
                |o| o["metadata"]["annotations"] = json!({"k": 1.5}),
                "metadata.annotations[k] must be a string, but is float64 in converted object",
            ),
            (|o| o["metadata"]["labels"] = json!({"!": ""}), "metadata.labels: Invalid value: \"!\""),
        ];
        for (change, message) in table {
            assert!(wrong(change).starts_with(message), "{}", wrong(change));
        }
    }

    #[test]
    fn an_answer_is_to_the_question() {
        let sent = request(&["v7".into(), "v1".into()], &[], "g/v2", "id").unwrap();
        assert_eq!(sent["apiVersion"], "apiextensions.k8s.io/v1");
        let said = |mut response: Value, version: &str| {
            if response.is_object() && response.get("uid").is_none() {
                response["uid"] = "id".into();
            }
            let review =
                json!({"kind": KIND, "apiVersion": format!("{GROUP}/{version}"), "response": response});
            answer(&sent, review.to_string().as_bytes())
        };
        for other in ["[]", "\"x\"", "3", "null", "{}"] {
            assert!(answer(&sent, other.as_bytes()).unwrap_err().starts_with("expected webhook response"));
        }
        let good = json!({"result": {"status": "Success"}, "convertedObjects": [{}]});
        assert_eq!(said(good.clone(), "v1"), Ok(vec![json!({})]));
        let table = [
            (
                good,
                "v1beta1",
                "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got",
            ),
            (Value::Null, "v1", "no response provided"),
            (json!({"uid": "x"}), "v1", "expected response.uid=\"id\", got \"x\""),
            (json!({"result": {"status": "Failure", "message": "oh"}}), "v1", "oh"),
            (json!({}), "v1", "response.result.status was '', not 'Success'"),
        ];
        for (response, version, message) in table {
            let error = said(response, version).unwrap_err();
            assert!(error.starts_with(message), "{error}");
        }
        let none = request(&["v7".into()], &[], "g/v2", "id");
        assert_eq!(none.unwrap_err(), "no supported conversion review versions");
        let old = request(&["v1beta1".into()], &[], "g/v2", "id").unwrap();
        let lax = json!({"response": {"result": {"status": "Success"}, "convertedObjects": []}});
        assert_eq!(answer(&old, lax.to_string().as_bytes()), Ok(Vec::new()), "v1beta1 names nothing");
    }
}
