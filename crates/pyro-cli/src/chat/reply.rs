//! What a model replies, as a document or as a stream of pieces, whichever an endpoint sends.
//!
//! Endpoints differ. Of streams there are events with `data:`, and Ollama's own, a document in each line.
//! Calls come in pieces that belong together by `index` or by `id`, of which either may be missing or the same for all;
//! their arguments are a text, or an object.

use serde_json::Value;

/// What a model replies.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Reply {
    pub(super) text: String,
    pub(super) calls: Vec<WantedCall>,
}

/// A call as the model wants it, unchecked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct WantedCall {
    pub(super) id: Option<String>,
    pub(super) name: String,
    pub(super) arguments: Value,
    index: Option<u64>,
}

/// Why a body is no reply.
#[derive(Debug, thiserror::Error, PartialEq)]
pub(super) enum ReplyError {
    /// In the midst of a stream, or with a status that says otherwise.
    #[error("the endpoint reports: {message}")]
    Reported { message: String },
    #[error("the endpoint answers with something that is no chat completion: {shown}")]
    Unknown { shown: String },
    #[error("the answer is empty")]
    Empty,
}

/// Enough of a body to recognise it.
const SHOWN_CHARACTERS_MAX: usize = 200;

/// Calls in one reply; a model that wants more has lost its way.
const CALLS_MAX: usize = 64;

impl WantedCall {
    pub(super) fn new(name: &str, arguments: Value) -> Self {
        Self { id: None, name: name.to_owned(), arguments, index: None }
    }
}

impl Reply {
    pub(super) fn parse(body: &[u8]) -> Result<Self, ReplyError> {
        let text = String::from_utf8_lossy(body);
        let text = text.trim();
        if text.is_empty() {
            return Err(ReplyError::Empty);
        }
        let mut reply = Self::default();
        let mut is_reply = false;
        for document in documents(text) {
            if let Some(message) = reported(&document) {
                return Err(ReplyError::Reported { message });
            }
            // A last piece with nothing but numbers in it has an empty list of choices.
            is_reply |= document["choices"].is_array() || document["message"].is_object();
            if let Some(piece) = piece(&document) {
                reply.add(piece);
            }
        }
        if is_reply { Ok(reply) } else { Err(ReplyError::Unknown { shown: shown(text) }) }
    }

    fn add(&mut self, piece: &Value) {
        match &piece["content"] {
            Value::String(text) => self.text += text,
            Value::Array(parts) => {
                self.text.extend(parts.iter().filter_map(|part| part["text"].as_str()));
            }
            _ => {}
        }
        for call in piece["tool_calls"].as_array().into_iter().flatten() {
            self.add_call(call);
        }
    }

    fn add_call(&mut self, piece: &Value) {
        let id = piece["id"].as_str().filter(|id| !id.is_empty());
        let name = piece["function"]["name"].as_str().filter(|name| !name.is_empty());
        let index = piece["index"].as_u64();
        let arguments = &piece["function"]["arguments"];
        let has_room = self.calls.len() < CALLS_MAX;
        let known = self.calls.iter_mut().rev().find(|call| match (id, index) {
            // The id says more: some endpoints give all calls the same index.
            (Some(id), _) if call.id.is_some() => call.id.as_deref() == Some(id),
            (_, Some(index)) => call.index == Some(index),
            (_, None) => true,
        });
        match known {
            // A name without an id begins another call.
            Some(call) if id.is_some() && call.id.as_deref() == id || name.is_none() => {
                call.append(arguments);
            }
            Some(_) | None if has_room => {
                let mut call = WantedCall::new(name.unwrap_or_default(), Value::Null);
                call.id = id.map(str::to_owned);
                call.index = index;
                call.append(arguments);
                self.calls.push(call);
            }
            Some(_) | None => {}
        }
    }
}

impl WantedCall {
    fn append(&mut self, piece: &Value) {
        match (&mut self.arguments, piece) {
            (_, Value::Null) => {}
            (Value::String(text), Value::String(more)) => *text += more,
            (arguments, piece) => *arguments = piece.clone(),
        }
    }
}

/// The message of an error that a document reports, in any of the usual forms.
pub(super) fn reported(document: &Value) -> Option<String> {
    let error = &document["error"];
    let message = error.as_str().or_else(|| error["message"].as_str());
    message.map(shown).or_else(|| error.is_object().then(|| shown(&error.to_string())))
}

/// One line of a text that somebody else chose, not all of a long one.
pub(super) fn shown(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// A document as a whole, or those of a stream; what is none is passed over.
fn documents(text: &str) -> Vec<Value> {
    if let Ok(whole) = serde_json::from_str(text) {
        return vec![whole];
    }
    let mut documents = Vec::new();
    // What an event has in several lines is read once, at the empty line that ends it: to try after each line would
    // read the first of many as often as there are others.
    let mut event = String::new();
    for line in text.lines().chain([""]) {
        if let Some(data) = line.strip_prefix("data:") {
            let data = data.strip_prefix(' ').unwrap_or(data);
            // Most send one line in each, and not all an empty one after it.
            match serde_json::from_str(data) {
                Ok(document) if event.is_empty() => documents.push(document),
                Ok(_) | Err(_) => {
                    event += data;
                    event.push('\n');
                }
            }
        } else if line.is_empty() {
            documents.extend(serde_json::from_str::<Value>(&event));
            event.clear();
        } else if let Ok(document) = serde_json::from_str(line) {
            documents.push(document);
        }
    }
    documents
}

/// The part of a document that holds text or calls.
fn piece(document: &Value) -> Option<&Value> {
    let choice = &document["choices"][0];
    [&choice["message"], &choice["delta"], &document["message"]]
        .into_iter()
        .find(|piece| piece.is_object())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stream(pieces: &[Value]) -> Reply {
        let event = |piece| format!("data: {}\n\n", json!({ "choices": [{ "delta": piece }] }));
        let events = pieces.iter().map(event).collect::<Vec<_>>().concat();
        let reply = Reply::parse(format!("{events}data: [DONE]\n\n").as_bytes()).unwrap();
        // Line ends of either kind, and events without a blank in front, mean the same.
        let other = events.replace('\n', "\r\n").replace("data: ", "data:");
        assert_eq!(Reply::parse(other.as_bytes()).unwrap(), reply);
        reply
    }

    fn calls(reply: &Reply) -> Vec<(Option<&str>, &str, String)> {
        let calls = reply.calls.iter().map(|call| {
            let arguments =
                call.arguments.as_str().map_or(call.arguments.to_string(), str::to_owned);
            (call.id.as_deref(), call.name.as_str(), arguments)
        });
        calls.collect()
    }

    #[test]
    fn a_document_is_a_reply() {
        let call = json!({ "id": "c1", "type": "function", "function": { "name": "f", "arguments": "{\"a\":1}" } });
        let message = json!({ "role": "assistant", "content": null, "tool_calls": [call] });
        let body = json!({ "choices": [{ "index": 0, "message": message }] }).to_string();
        let reply = Reply::parse(body.as_bytes()).unwrap();
        assert_eq!(calls(&reply), [(Some("c1"), "f", "{\"a\":1}".to_owned())]);
        let parts = json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }]);
        let body = json!({ "choices": [{ "message": { "content": parts } }] }).to_string();
        assert_eq!(Reply::parse(body.as_bytes()).unwrap().text, "ab");
    }

    #[test]
    fn pieces_of_calls_that_belong_together_are_joined() {
        let piece = |index: u64, id: Option<&str>, name: Option<&str>, arguments: &str| json!({ "tool_calls": [{ "index": index, "id": id, "function": { "name": name, "arguments": arguments } }] });
        let reply = stream(&[
            json!({ "role": "assistant", "content": "I " }),
            json!({ "content": "look" }),
            piece(0, Some("c1"), Some("f"), ""),
            piece(0, None, None, "{\"a\""),
            piece(1, Some("c2"), Some("g"), "{"),
            piece(0, None, None, ":1}"),
            piece(1, None, None, "}"),
        ]);
        assert_eq!(reply.text, "I look");
        let expected =
            [(Some("c1"), "f", "{\"a\":1}".to_owned()), (Some("c2"), "g", "{}".to_owned())];
        assert_eq!(calls(&reply), expected);
    }

    #[test]
    fn calls_without_an_index_or_with_the_same_one_stay_apart() {
        let whole = |index: Option<u64>, id: Option<&str>, name: &str| {
            let function = json!({ "name": name, "arguments": { "n": name } });
            json!({ "tool_calls": [{ "index": index, "id": id, "function": function }] })
        };
        let of = |id, name: &str| (id, name.to_owned(), format!("{{\"n\":\"{name}\"}}"));
        for (index, ids) in [
            (None, [None, None]),
            (Some(0), [None, None]),
            (Some(0), [Some("c1"), Some("c2")]),
            (None, [Some("c1"), Some("c2")]),
        ] {
            let reply = stream(&[whole(index, ids[0], "f"), whole(index, ids[1], "g")]);
            let found: Vec<_> = calls(&reply)
                .into_iter()
                .map(|(id, name, rest)| (id, name.to_owned(), rest))
                .collect();
            assert_eq!(found, [of(ids[0], "f"), of(ids[1], "g")], "{index:?} {ids:?}");
        }
    }

    #[test]
    fn a_name_that_is_repeated_with_its_id_begins_no_other_call() {
        let piece = |arguments: &str| json!({ "tool_calls": [{ "id": "c1", "index": 0, "function": { "name": "f", "arguments": arguments } }] });
        let reply = stream(&[piece("{"), piece("}")]);
        assert_eq!(calls(&reply), [(Some("c1"), "f", "{}".to_owned())]);
    }

    #[test]
    fn ollamas_own_stream_is_understood() {
        let function = json!({ "name": "f", "arguments": { "a": 1 } });
        let lines = [
            json!({ "message": { "role": "assistant", "content": "", "tool_calls": [{ "function": function }] } }),
            json!({ "message": { "role": "assistant", "content": "" }, "done": true }),
        ];
        let body = format!("{}\n{}\n", lines[0], lines[1]);
        let reply = Reply::parse(body.as_bytes()).unwrap();
        assert_eq!(calls(&reply), [(None, "f", "{\"a\":1}".to_owned())]);
    }

    #[test]
    fn an_event_may_have_its_data_in_several_lines() {
        let event = "data: {\"choices\":\ndata: [{\"delta\": {\"content\":\ndata: \"a\"}}]}\n\n";
        assert_eq!(Reply::parse(event.repeat(2).as_bytes()).unwrap().text, "aa");
        // Without an empty line at the end of all.
        assert_eq!(Reply::parse(event.trim_end().as_bytes()).unwrap().text, "a");
    }

    #[test]
    fn an_event_without_end_is_read_once() {
        let begin = std::time::Instant::now();
        let body = format!("data: [\n{}", "data: 1,\n".repeat(100_000));
        assert!(matches!(Reply::parse(body.as_bytes()), Err(ReplyError::Unknown { .. })));
        // Once for each line it would be some minutes.
        assert!(begin.elapsed() < std::time::Duration::from_secs(20), "{:?}", begin.elapsed());
    }

    #[test]
    fn what_is_no_reply_is_shown_in_part() {
        assert_eq!(Reply::parse(b" \n"), Err(ReplyError::Empty));
        let error = Reply::parse(format!("<html>\n{}", "x".repeat(1000)).as_bytes()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("<html> xxx") && text.ends_with('…') && text.len() < 300, "{text}");
        for error in [
            json!({ "error": "out of memory" }),
            json!({ "error": { "message": "out of memory" } }),
        ] {
            let message = "out of memory".to_owned();
            let expected = Err(ReplyError::Reported { message });
            assert_eq!(Reply::parse(error.to_string().as_bytes()), expected);
            assert_eq!(Reply::parse(format!("data: {error}\n\n").as_bytes()), expected);
        }
        assert!(matches!(Reply::parse(b"{}"), Err(ReplyError::Unknown { .. })));
        assert!(matches!(Reply::parse(b"\xff\xfe[1]"), Err(ReplyError::Unknown { .. })));
    }
}
