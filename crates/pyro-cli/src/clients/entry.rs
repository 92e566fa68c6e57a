//! A server in a client's configuration, whatever the file's format.

use jsonc_parser::cst::CstInputValue;

/// The fields of a server, in the order in which they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(super) fields: Vec<Field>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Texts(Vec<String>),
    Flag(bool),
    Map(Vec<(String, String)>),
}

/// Everything that says how a server is reached. What of it is not in a new entry must not stay of an old one.
pub(super) const REACHING_FIELDS: [&str; 8] = [
    "type",
    "command",
    "args",
    "url",
    "httpUrl",
    "headers",
    "bearer_token_env_var",
    "http_headers",
];

impl Entry {
    pub(super) fn new(fields: Vec<Field>) -> Self {
        Self { fields }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.name == name)
    }
}

impl Field {
    pub(super) fn new(name: &'static str, value: Value) -> Self {
        Self { name, value }
    }

    pub(super) fn text(name: &'static str, text: &str) -> Self {
        Self::new(name, Value::Text(text.to_owned()))
    }
}

impl Value {
    pub(super) fn to_json(&self) -> CstInputValue {
        match self {
            Self::Text(text) => CstInputValue::String(text.clone()),
            Self::Texts(texts) => {
                CstInputValue::Array(texts.iter().cloned().map(CstInputValue::String).collect())
            }
            Self::Flag(flag) => CstInputValue::Bool(*flag),
            Self::Map(entries) => {
                let value = |(name, text): &(String, String)| {
                    (name.clone(), CstInputValue::String(text.clone()))
                };
                CstInputValue::Object(entries.iter().map(value).collect())
            }
        }
    }

    /// For comparisons, without an order.
    pub(super) fn to_plain(&self) -> serde_json::Value {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Texts(texts) => texts.clone().into(),
            Self::Flag(flag) => (*flag).into(),
            Self::Map(entries) => {
                entries.iter().map(|(name, text)| (name.clone(), text.clone())).collect()
            }
        }
    }

    /// Whether an item has this value already, however it is written.
    pub(super) fn is_said_by(&self, item: &toml_edit::Item) -> bool {
        match self {
            Self::Text(text) => item.as_str() == Some(text),
            Self::Texts(texts) => item.as_array().is_some_and(|known| {
                known
                    .iter()
                    .map(toml_edit::Value::as_str)
                    .eq(texts.iter().map(|text| Some(text.as_str())))
            }),
            Self::Flag(flag) => item.as_bool() == Some(*flag),
            Self::Map(entries) => item.as_table_like().is_some_and(|known| {
                known.len() == entries.len()
                    && entries.iter().all(|(name, text)| {
                        known.get(name).and_then(toml_edit::Item::as_str) == Some(text)
                    })
            }),
        }
    }

    pub(super) fn to_toml(&self) -> toml_edit::Item {
        match self {
            Self::Text(text) => toml_edit::value(text.as_str()),
            Self::Texts(texts) => toml_edit::value(texts.iter().collect::<toml_edit::Array>()),
            Self::Flag(flag) => toml_edit::value(*flag),
            Self::Map(entries) => {
                let table: toml_edit::InlineTable =
                    entries.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
                toml_edit::value(table)
            }
        }
    }
}
