//! From what a model wrote as a tool's arguments to an object, without guessing at what it meant.
//!
//! Small models write numbers as texts, objects as texts, and an empty text for what they leave out. The tool's schema
//! says what was wanted. Whatever remains wrong the tool refuses itself, in words that the model reads.

use serde_json::{Map, Value};

use super::reply::{WantedCall, shown};

/// How often a text may hold a text that holds the object.
const NESTING_MAX: usize = 3;

/// The arguments as an object. Fails with words for the model.
pub(super) fn arguments(raw: &Value, schema: &Value) -> Result<Map<String, Value>, String> {
    let mut value = raw.clone();
    for _ in 0..NESTING_MAX {
        let Value::String(text) = &value else { break };
        if text.trim().is_empty() {
            value = Value::Null;
            break;
        }
        value = serde_json::from_str(text).map_err(|error| {
            format!(
                "error: the arguments are no JSON ({error}): {}; {}",
                shown(text),
                expected(schema)
            )
        })?;
    }
    match value {
        Value::Null => Ok(Map::new()),
        Value::Object(arguments) => Ok(as_wanted(arguments, schema)),
        other => {
            let other = shown(&other.to_string());
            Err(format!("error: the arguments are no object: {other}; {}", expected(schema)))
        }
    }
}

/// A call that a model wrote into its text, as those do that know of no other way: one object with the name of a tool,
/// and its arguments.
pub(super) fn written_as_text(text: &str, is_tool: impl Fn(&str) -> bool) -> Option<WantedCall> {
    let text = text.trim();
    let fenced = text.strip_prefix("```json").or_else(|| text.strip_prefix("```"));
    let text = fenced.and_then(|text| text.trim_end().strip_suffix("```")).unwrap_or(text);
    let call: Map<String, Value> = serde_json::from_str(text).ok()?;
    let name = call.get("name")?.as_str().filter(|name| is_tool(name))?;
    let arguments = call.get("arguments").or_else(|| call.get("parameters"))?;
    Some(WantedCall::new(name, arguments.clone()))
}

fn expected(schema: &Value) -> String {
    let names = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let names: Vec<_> = names.collect();
    match names.as_slice() {
        [] => "an object like {} is expected".to_owned(),
        names => format!("an object with {} is expected", names.join(" and ")),
    }
}

fn as_wanted(arguments: Map<String, Value>, schema: &Value) -> Map<String, Value> {
    let required = schema["required"].as_array();
    let is_required = |name: &str| required.is_some_and(|names| names.iter().any(|it| it == name));
    let wanted = arguments.into_iter().filter_map(|(name, value)| {
        let Value::String(text) = &value else { return Some((name, value)) };
        if text.is_empty() && !is_required(&name) {
            return None;
        }
        let converted = match schema["properties"][&name]["type"].as_str() {
            Some("integer" | "number") => parsed(text).filter(Value::is_number),
            Some("boolean") => parsed(&text.to_ascii_lowercase()).filter(Value::is_boolean),
            Some("array") => parsed(text).filter(Value::is_array),
            Some("object") => parsed(text).filter(Value::is_object),
            Some(_) | None => None,
        };
        Some((name, converted.unwrap_or(value)))
    });
    wanted.collect()
}

fn parsed(text: &str) -> Option<Value> {
    serde_json::from_str(text.trim()).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({
            "required": ["command"],
            "properties": {
                "command": { "type": "string" },
                "cwd": { "type": "string" },
                "mem_mib": { "type": "integer" },
                "timeout_seconds": { "type": "number" },
                "network": { "type": "boolean" },
                "env": { "type": "object" },
                "allow_hosts": { "type": "array" },
            },
        })
    }

    #[test]
    fn an_object_may_be_written_as_a_text_or_a_text_in_a_text() {
        let object = json!({ "command": "true" });
        let once = Value::String(object.to_string());
        let twice = Value::String(once.to_string());
        for raw in [&object, &once, &twice] {
            assert_eq!(&Value::Object(arguments(raw, &schema()).unwrap()), &object, "{raw}");
        }
        for raw in [json!(null), json!(""), json!(" "), json!("{}"), json!("null")] {
            assert!(arguments(&raw, &schema()).unwrap().is_empty(), "{raw}");
        }
    }

    #[test]
    fn values_written_as_texts_become_what_the_schema_wants() {
        let raw = json!({
            "command": "42", "mem_mib": "512", "timeout_seconds": " 1.5 ", "network": "True",
            "env": "{\"A\":\"b\"}", "allow_hosts": "[\"a.example\"]", "cwd": "", "unknown": "1",
        });
        let expected = json!({
            "command": "42", "mem_mib": 512, "timeout_seconds": 1.5, "network": true,
            "env": { "A": "b" }, "allow_hosts": ["a.example"], "unknown": "1",
        });
        assert_eq!(Value::Object(arguments(&raw, &schema()).unwrap()), expected);
        // What is none stays, for the tool to refuse.
        let wrong = json!({ "command": "", "mem_mib": "much", "network": "1", "env": "[]" });
        assert_eq!(Value::Object(arguments(&wrong, &schema()).unwrap()), wrong);
    }

    #[test]
    fn what_is_no_object_is_told_to_the_model() {
        let error = arguments(&json!("{\"command\": "), &schema()).unwrap_err();
        assert!(error.starts_with("error: the arguments are no JSON (EOF"), "{error}");
        assert!(error.ends_with("an object with command is expected"), "{error}");
        let error = arguments(&json!([1]), &schema()).unwrap_err();
        assert!(error.contains("no object: [1]"), "{error}");
        let error = arguments(&json!("\"\\\"\\\\\\\"x\\\\\\\"\\\"\""), &schema()).unwrap_err();
        assert!(error.contains("no object"), "{error}");
    }

    #[test]
    fn a_call_written_as_text_is_one_only_if_there_is_such_a_tool() {
        let call = r#"{"name": "vm_run", "parameters": {"command": "true"}}"#;
        let expected = WantedCall::new("vm_run", json!({ "command": "true" }));
        for text in [call.to_owned(), format!("```json\n{call}\n```\n")] {
            assert_eq!(written_as_text(&text, |name| name == "vm_run"), Some(expected.clone()));
            assert_eq!(written_as_text(&text, |_| false), None);
        }
        assert_eq!(written_as_text("git version 2", |_| true), None);
    }
}
