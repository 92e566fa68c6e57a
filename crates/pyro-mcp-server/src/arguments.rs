//! A call's arguments, from JSON to values of the core, which cannot be wrong.
//!
//! Null is as good as nothing: several clients send every argument. Everything else that is not as the schema says is
//! refused with words that a model can act on.

use std::collections::BTreeMap;

use pyro_core::{ErrorKind, PyroError};
use rmcp::model::JsonObject;
use serde_json::Value;

use crate::schema;
use crate::tool::Tool;

/// What is left of the arguments to be read.
#[derive(Debug)]
pub(crate) struct Arguments {
    tool: Tool,
    values: JsonObject,
}

impl Arguments {
    /// Fails with `invalid_input` where there is one that the tool does not know.
    pub(crate) fn new(tool: Tool, values: Option<JsonObject>) -> Result<Self, PyroError> {
        let values = values.unwrap_or_default();
        let names = schema::argument_names(tool);
        let stray = values.keys().find(|name| !names.contains(name));
        if let Some(stray) = stray {
            let takes = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(invalid(format!(
                "unknown argument '{stray}'; {} takes: {takes}",
                tool.name()
            )));
        }
        Ok(Self { tool, values })
    }

    pub(crate) fn required_text(&mut self, name: &str) -> Result<String, PyroError> {
        let tool = self.tool.name();
        self.text(name)?.ok_or_else(|| invalid(format!("{name} is required by {tool}")))
    }

    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, PyroError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(name, "a string", &other)),
        }
    }

    pub(crate) fn flag(&mut self, name: &str) -> Result<bool, PyroError> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(wrong_type(name, "true or false", &other)),
        }
    }

    pub(crate) fn whole_number(&mut self, name: &str) -> Result<Option<i64>, PyroError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let number = value.as_i64().or_else(|| whole(value.as_f64()?));
        number.map(Some).ok_or_else(|| wrong_type(name, "a whole number", &value))
    }

    pub(crate) fn number(&mut self, name: &str) -> Result<Option<f64>, PyroError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        value.as_f64().map(Some).ok_or_else(|| wrong_type(name, "a number", &value))
    }

    pub(crate) fn texts(&mut self, name: &str) -> Result<BTreeMap<String, String>, PyroError> {
        let entries = match self.take(name) {
            None => return Ok(BTreeMap::new()),
            Some(Value::Object(entries)) => entries,
            Some(other) => return Err(wrong_type(name, "an object of strings", &other)),
        };
        entries
            .into_iter()
            .map(|(key, value)| match value {
                Value::String(text) => Ok((key, text)),
                other => Err(wrong_type(&format!("{name}.{key}"), "a string", &other)),
            })
            .collect()
    }

    pub(crate) fn list(&mut self, name: &str) -> Result<Vec<String>, PyroError> {
        let values = match self.take(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(values)) => values,
            Some(other) => return Err(wrong_type(name, "a list of strings", &other)),
        };
        values
            .into_iter()
            .map(|value| match value {
                Value::String(text) => Ok(text),
                other => Err(wrong_type(&format!("an item of {name}"), "a string", &other)),
            })
            .collect()
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.values.remove(name).filter(|value| !value.is_null())
    }
}

/// JSON knows one kind of number: 2.0 is a whole one. So is what no limit allows anyway.
fn whole(number: f64) -> Option<i64> {
    #[allow(clippy::cast_possible_truncation, reason = "it saturates, far beyond every limit")]
    (number.fract() == 0.0).then_some(number as i64)
}

fn wrong_type(name: &str, wanted: &str, value: &Value) -> PyroError {
    /// Enough of a value to recognise it.
    const SHOWN_CHARACTERS_MAX: usize = 60;
    let text = value.to_string();
    let shown: String = text.chars().take(SHOWN_CHARACTERS_MAX).collect();
    let ellipsis = if shown.len() < text.len() { "…" } else { "" };
    invalid(format!("{name} must be {wanted}, not {shown}{ellipsis}"))
}

fn invalid(message: String) -> PyroError {
    PyroError::new(ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn arguments(values: Value) -> Arguments {
        let Value::Object(values) = values else { panic!("no object") };
        Arguments::new(Tool::Run, Some(values)).unwrap()
    }

    #[test]
    fn null_is_as_good_as_nothing() {
        let mut arguments = arguments(json!({ "stdin": null, "network": null, "env": null }));
        assert_eq!(arguments.text("stdin").unwrap(), None);
        assert!(!arguments.flag("network").unwrap());
        assert!(arguments.texts("env").unwrap().is_empty());
    }

    #[test]
    fn a_whole_number_may_be_written_with_a_point() {
        for (value, number) in
            [(json!(2), 2), (json!(2.0), 2), (json!(-7), -7), (json!(1e30), i64::MAX)]
        {
            let mut arguments = arguments(json!({ "mem_mib": value }));
            assert_eq!(arguments.whole_number("mem_mib").unwrap(), Some(number));
        }
        let error = arguments(json!({ "mem_mib": 2.5 })).whole_number("mem_mib").unwrap_err();
        assert_eq!(error.message, "mem_mib must be a whole number, not 2.5");
    }

    #[test]
    fn a_refusal_shows_the_value_but_not_all_of_a_long_one() {
        let error = arguments(json!({ "command": ["ls"] })).required_text("command").unwrap_err();
        assert_eq!(error.message, "command must be a string, not [\"ls\"]");
        let long = vec!["ä"; 1000];
        let error = arguments(json!({ "command": long })).text("command").unwrap_err();
        assert!(error.message.len() < 200 && error.message.ends_with('…'), "{}", error.message);
        let error = arguments(json!({ "env": { "A": 1 } })).texts("env").unwrap_err();
        assert_eq!(error.message, "env.A must be a string, not 1");
    }

    #[test]
    fn an_unknown_argument_is_refused_with_those_there_are() {
        let values = json!({ "id": "0123456789ab" }).as_object().cloned();
        let error = Arguments::new(Tool::Stop, values).unwrap_err();
        assert_eq!(error.message, "unknown argument 'id'; vm_stop takes: vm_id");
        let error = Arguments::new(Tool::Stop, None).unwrap().required_text("vm_id").unwrap_err();
        assert_eq!(error.message, "vm_id is required by vm_stop");
    }
}
