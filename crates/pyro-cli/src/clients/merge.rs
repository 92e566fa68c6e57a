//! Puts a server into the text of a configuration file. Everything else of the text stays as it is, byte for byte:
//! order, comments, white space.

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstObject, CstObjectProp, CstRootNode};
use toml_edit::{DocumentMut, Item, Table, TableLike};

use super::entry::{Entry, REACHING_FIELDS, Value};
use super::{Format, line_ends};

/// With which some editors begin a text. To most parsers it is no part of it.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// A text with the server in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) text: String,
    pub(super) change: Change,
}

/// What became of the server's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Added,
    Replaced,
}

/// Why a text is left alone.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MergeError {
    #[error("it is no valid JSON: {0}")]
    NoJson(String),
    #[error("it is no valid TOML: {0}")]
    NoToml(String),
    #[error("`{0}` in it is something else than expected")]
    OtherShape(String),
}

/// Puts `entry` below `key` as `name`. What an entry of that name has besides stays.
pub(super) fn merge(
    format: Format,
    text: &str,
    key: &str,
    name: &str,
    entry: &Entry,
) -> Result<Merged, MergeError> {
    let (mark, body) = match text.strip_prefix(BYTE_ORDER_MARK) {
        Some(body) => (BYTE_ORDER_MARK, body),
        None => ("", text),
    };
    let written = match format {
        Format::Json => write_json(body, key, name, entry)?,
        Format::Toml => write_toml(body, key, name, entry)?,
    };
    let merged = format!("{mark}{}", line_ends::restore(body, &written.text));
    Ok(Merged { change: change(written.is_new, text, &merged), text: merged })
}

/// A text as a format's library writes it, with what line ends it likes.
struct Written {
    text: String,
    is_new: bool,
}

fn write_json(text: &str, key: &str, name: &str, entry: &Entry) -> Result<Written, MergeError> {
    // What editors write, and no more: a file of another dialect is not ours to judge.
    let options = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let is_empty = text.trim().is_empty();
    let root = CstRootNode::parse(if is_empty { "{}\n" } else { text }, &options)
        .map_err(|error| MergeError::NoJson(error.to_string()))?;
    let other_shape = |place: String| MergeError::OtherShape(place);
    let whole = root.object_value().ok_or_else(|| other_shape("the whole".to_owned()))?;
    let servers = object_in(&whole, key).ok_or_else(|| other_shape(key.to_owned()))?;
    let is_new = !has(&servers, name);
    let place = format!("{key}.{name}");
    let server = object_in(&servers, name).ok_or_else(|| other_shape(place))?;
    if is_new {
        fill_new(&servers, name, entry);
    } else {
        update(&server, entry);
    }
    Ok(Written { text: root.to_string(), is_new })
}

/// Whether there is something. Clients write `null` for what there is not.
fn has(object: &CstObject, name: &str) -> bool {
    let value = object.get(name).and_then(|property| property.value());
    value.is_some_and(|value| value.as_null_keyword().is_none())
}

/// The object in a property, made if there is none; nothing where something else is.
fn object_in(object: &CstObject, name: &str) -> Option<CstObject> {
    match object.get(name) {
        Some(property) if !has(object, name) => Some(property.object_value_or_set()),
        _ => object.object_value_or_create(name),
    }
}

fn fill_new(servers: &CstObject, name: &str, entry: &Entry) {
    let fields = entry.fields.iter().map(|field| (field.name.to_owned(), field.value.to_json()));
    if let Some(property) = servers.get(name) {
        property.set_value(CstInputValue::Object(fields.collect()));
    }
}

fn update(server: &CstObject, entry: &Entry) {
    for stale in REACHING_FIELDS.into_iter().filter(|name| !entry.has(name)) {
        if let Some(property) = server.get(stale) {
            property.remove();
        }
    }
    for field in &entry.fields {
        match server.get(field.name) {
            // Left alone where it says the same, however it is written.
            Some(property) if says(&property, &field.value) => {}
            Some(property) => property.set_value(field.value.to_json()),
            None => {
                server.append(field.name, field.value.to_json());
            }
        }
    }
}

fn says(property: &CstObjectProp, value: &Value) -> bool {
    property.value().and_then(|known| known.to_serde_value()) == Some(value.to_plain())
}

fn write_toml(text: &str, key: &str, name: &str, entry: &Entry) -> Result<Written, MergeError> {
    let mut document: DocumentMut = text
        .parse()
        .map_err(|error: toml_edit::TomlError| MergeError::NoToml(error.to_string()))?;
    let servers = document.entry(key).or_insert_with(|| {
        let mut table = Table::new();
        // No header of its own.
        table.set_implicit(true);
        Item::Table(table)
    });
    let servers =
        servers.as_table_like_mut().ok_or_else(|| MergeError::OtherShape(key.to_owned()))?;
    let is_new = !servers.contains_key(name);
    let server = servers.entry(name).or_insert_with(|| Item::Table(Table::new()));
    let server = server
        .as_table_like_mut()
        .ok_or_else(|| MergeError::OtherShape(format!("{key}.{name}")))?;
    update_toml(server, entry);
    Ok(Written { text: document.to_string(), is_new })
}

fn update_toml(server: &mut dyn TableLike, entry: &Entry) {
    for stale in REACHING_FIELDS.into_iter().filter(|name| !entry.has(name)) {
        server.remove(stale);
    }
    for field in &entry.fields {
        match server.get_mut(field.name) {
            Some(known) if field.value.is_said_by(known) => {}
            Some(known) => *known = field.value.to_toml(),
            None => {
                server.insert(field.name, field.value.to_toml());
            }
        }
    }
}

fn change(is_new: bool, before: &str, after: &str) -> Change {
    match (is_new, before == after) {
        (true, _) => Change::Added,
        (false, true) => Change::None,
        (false, false) => Change::Replaced,
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::Field;
    use super::*;

    fn entry() -> Entry {
        Entry::new(vec![
            Field::text("command", "/bin/pyro"),
            Field::new("args", Value::Texts(vec!["mcp".to_owned(), "serve".to_owned()])),
        ])
    }

    fn json(text: &str) -> Result<Merged, MergeError> {
        merge(Format::Json, text, "mcpServers", "pyro", &entry())
    }

    fn toml(text: &str) -> Result<Merged, MergeError> {
        merge(Format::Toml, text, "mcp_servers", "pyro", &entry())
    }

    const COMMENTED: &str = "// mine\n{\n\t\"z\": 1.0,\n\t\"big\": 123456789012345678901234567890,\n\t\"mcpServers\": \
                             {\n\t\t/* b */ \"b\": {\"command\": \"x\"}, // last\n\t},\n\t\"a\":   [1,2]\n}";

    #[test]
    fn nothing_else_of_a_json_file_is_touched() {
        let merged = json(COMMENTED).unwrap();
        assert_eq!(merged.change, Change::Added);
        let mut rest = merged.text.as_str();
        // Every line of it is still there, in order.
        for line in COMMENTED.lines() {
            let position = rest.find(line).unwrap_or_else(|| panic!("{line} in {}", merged.text));
            rest = &rest[position + line.len()..];
        }
        assert!(merged.text.contains("\"command\": \"/bin/pyro\""), "{}", merged.text);
        assert_eq!(json(&merged.text).unwrap(), Merged { change: Change::None, text: merged.text });
    }

    #[test]
    fn an_entry_of_that_name_keeps_what_is_not_ours() {
        let text = "{\"mcpServers\": {\"pyro\": {\"url\": \"http://x\", \"env\": {\"A\": \"b\"}, \"command\": \"old\"}}}";
        let merged = json(text).unwrap();
        assert_eq!(merged.change, Change::Replaced);
        assert!(merged.text.contains("\"env\": {\"A\": \"b\"}"), "{}", merged.text);
        assert!(
            !merged.text.contains("http://x") && !merged.text.contains("old"),
            "{}",
            merged.text
        );
    }

    #[test]
    fn line_ends_and_a_byte_order_mark_stay() {
        let json_text = "\u{feff}{\n  // mine\n  \"a\": 1\n}\n";
        let toml_text = "\u{feff}# mine\na = 1\n\n[mcp_servers.pyro]\nurl = 'x'\n\n[z]\nb = 2\n";
        for (merge, text) in [(json as fn(&str) -> _, json_text), (toml, toml_text)] {
            let unix: Merged = merge(text).unwrap();
            assert!(unix.text.starts_with(BYTE_ORDER_MARK), "{:?}", unix.text);
            let dos = merge(&text.replace('\n', "\r\n")).unwrap();
            assert_eq!(dos, Merged { text: unix.text.replace('\n', "\r\n"), ..unix });
            assert_eq!(merge(&dos.text).unwrap(), Merged { change: Change::None, ..dos });
        }
    }

    #[test]
    fn null_is_nothing() {
        let fresh = json("{\n  \"mcpServers\": {\n  }\n}").unwrap();
        for text in
            ["{\n  \"mcpServers\": null\n}", "{\n  \"mcpServers\": {\n    \"pyro\": null\n  }\n}"]
        {
            assert_eq!(json(text).unwrap(), fresh);
        }
    }

    #[test]
    fn a_file_that_cannot_be_parsed_is_refused() {
        for text in ["{", "{\"a\": }", "{a: 1}", "[1]", "{\"mcpServers\": []}", "{\"a\" 1}", "{} x"]
        {
            assert!(json(text).is_err(), "{text}");
        }
        for text in ["[", "mcp_servers = 1", "a = 1\na = 2"] {
            assert!(toml(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_else_of_a_toml_file_is_touched() {
        let text =
            "# mine\nmodel = 'x'   # odd\n\n[mcp_servers.other]\ncommand = \"y\"\n\n[z]\na=1\n";
        let merged = toml(text).unwrap();
        assert_eq!(merged.change, Change::Added);
        let mut rest = merged.text.as_str();
        for line in text.lines() {
            let position = rest.find(line).unwrap_or_else(|| panic!("{line} in {}", merged.text));
            rest = &rest[position + line.len()..];
        }
        assert!(
            merged.text.contains("[mcp_servers.pyro]\ncommand = \"/bin/pyro\"\n"),
            "{}",
            merged.text
        );
        assert_eq!(toml(&merged.text).unwrap().change, Change::None);
        let old = "[mcp_servers.pyro]\nurl = \"http://x\"\nstartup_timeout_sec = 20\n";
        let merged = toml(old).unwrap();
        assert_eq!(merged.change, Change::Replaced);
        assert!(
            merged.text.contains("startup_timeout_sec = 20") && !merged.text.contains("http://x")
        );
    }
}
