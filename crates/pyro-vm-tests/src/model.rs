//! A stand-in for a model: speaks the API of Ollama on loopback, and is as strict as that about what it is sent.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// The one model that it has.
pub const MODEL: &str = "stand-in:1b";

/// How a reply is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// As one document.
    Whole,
    /// As events, with each call's arguments in pieces, as most do.
    Pieces,
    /// As events, with each call whole and without an index, as Ollama has done.
    Events,
    /// As a document per line, as Ollama's own API does.
    Lines,
}

/// What it does with a request.
#[derive(Debug, Clone)]
pub enum Turn {
    /// Says something.
    Say(&'static str),
    /// Calls tools, by name and with arguments as they are written.
    Call(Vec<(&'static str, Value)>),
    /// Fails with a status and a message.
    Fail(u16, &'static str),
    /// Sends nothing, and keeps the connection.
    Hang,
}

/// Where it listens, and what it was asked.
#[derive(Debug)]
pub struct Model {
    port: u16,
    requests: Arc<Mutex<Vec<Value>>>,
}

type Script = dyn Fn(usize, &Value) -> Turn + Send + Sync;

impl Model {
    /// One that replies with what `script` makes of the number of the request and its body.
    pub fn new(
        delivery: Delivery,
        script: impl Fn(usize, &Value) -> Turn + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::<Mutex<Vec<Value>>>::default();
        let script: Arc<Script> = Arc::new(script);
        let known = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (script, requests) = (Arc::clone(&script), Arc::clone(&known));
                let stream = stream.unwrap();
                std::thread::spawn(move || serve(&stream, delivery, &*script, &requests));
            }
        });
        Self { port, requests }
    }

    /// One that takes the given turns, one after the other, and repeats the last.
    pub fn of_turns(delivery: Delivery, turns: Vec<Turn>) -> Self {
        Self::new(delivery, move |number, _| turns[number.min(turns.len() - 1)].clone())
    }

    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    /// The bodies of all that it was asked.
    pub fn requests(&self) -> Vec<Value> {
        self.requests.lock().unwrap().clone()
    }

    /// What the model read of its calls so far: the contents of the tools' messages.
    pub fn results(&self) -> Vec<String> {
        let requests = self.requests();
        let messages = requests.last().unwrap()["messages"].as_array().unwrap();
        let results = messages.iter().filter(|message| message["role"] == "tool");
        results.map(|message| message["content"].as_str().unwrap().to_owned()).collect()
    }
}

/// One request. A client that hangs up is no affair of the model.
fn serve(
    stream: &TcpStream,
    delivery: Delivery,
    script: &Script,
    requests: &Mutex<Vec<Value>>,
) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let (mut length, mut host) = (0, String::new());
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "host" => value.clone_into(&mut host),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    // A proxy is told the whole address.
    let path = target.strip_prefix(&format!("http://{host}")).unwrap_or(target);
    let turn = match (method, path) {
        _ if host.is_empty() => Turn::Fail(400, "no Host"),
        ("GET", "/v1/models") => {
            let models = json!({ "object": "list", "data": [{ "id": MODEL, "object": "model" }] });
            return send(stream, 200, "application/json", &models.to_string());
        }
        ("POST", "/v1/chat/completions") => match check(&body) {
            Ok(request) => {
                let number = {
                    let mut requests = requests.lock().unwrap();
                    requests.push(request.clone());
                    requests.len() - 1
                };
                script(number, &request)
            }
            Err(turn) => turn,
        },
        _ => return send(stream, 404, "text/plain", "404 page not found"),
    };
    match turn {
        Turn::Hang => reader.read(&mut [0]).map(drop).ok(),
        Turn::Fail(status, message) => {
            let error = json!({ "error": {
                "message": message, "type": "api_error", "param": null, "code": null,
            }});
            send(stream, status, "application/json", &error.to_string())
        }
        Turn::Say(text) => deliver(stream, delivery, text, &[]),
        Turn::Call(calls) => deliver(stream, delivery, "", &calls),
    }
}

/// What Ollama refuses, as far as it concerns us.
fn check(body: &[u8]) -> Result<Value, Turn> {
    let request: Value = serde_json::from_slice(body).map_err(|_| Turn::Fail(400, "no JSON"))?;
    if request["model"] != MODEL {
        return Err(Turn::Fail(404, "model not found, try pulling it first"));
    }
    let tools = request["tools"].as_array().filter(|tools| !tools.is_empty());
    let is_tool = |tool: &Value| {
        tool["type"] == "function"
            && tool["function"]["name"].is_string()
            && tool["function"]["parameters"]["type"] == "object"
    };
    if !tools.is_some_and(|tools| tools.iter().all(is_tool)) {
        return Err(Turn::Fail(400, "invalid tools"));
    }
    let mut open: Vec<&Value> = Vec::new();
    for message in request["messages"].as_array().ok_or(Turn::Fail(400, "[] is too short"))? {
        if message["role"] == "tool" {
            let answered = open.iter().position(|id| **id == message["tool_call_id"]);
            open.remove(answered.ok_or(Turn::Fail(400, "a result without a call"))?);
            continue;
        }
        if !open.is_empty() {
            return Err(Turn::Fail(400, "a call without a result"));
        }
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let arguments = call["function"]["arguments"].as_str().unwrap_or_default();
            let arguments = serde_json::from_str::<Value>(arguments);
            if !arguments.is_ok_and(|arguments| arguments.is_object()) {
                return Err(Turn::Fail(400, "invalid tool call arguments"));
            }
            open.push(&call["id"]);
        }
    }
    Ok(request)
}

fn deliver(
    stream: &TcpStream,
    delivery: Delivery,
    text: &str,
    calls: &[(&str, Value)],
) -> Option<()> {
    let call = |index: usize, arguments: &Value| {
        let function = json!({ "name": calls[index].0, "arguments": arguments });
        json!({ "id": format!("call_{index}"), "type": "function", "function": function })
    };
    let whole = || -> Vec<_> {
        calls.iter().enumerate().map(|(index, (_, arguments))| call(index, arguments)).collect()
    };
    let chunk = |delta: Value| json!({ "object": "chat.completion.chunk", "choices": [{ "index": 0, "delta": delta }] });
    let events = |chunks: Vec<Value>| {
        let events: Vec<_> = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
        events.concat() + "data: [DONE]\n\n"
    };
    match delivery {
        Delivery::Whole => {
            let reason = if calls.is_empty() { "stop" } else { "tool_calls" };
            let mut message = json!({ "role": "assistant", "content": text });
            if !calls.is_empty() {
                message["tool_calls"] = json!(whole());
            }
            let choice = json!({ "index": 0, "message": message, "finish_reason": reason });
            let body = json!({ "object": "chat.completion", "choices": [choice] });
            send(stream, 200, "application/json", &body.to_string())
        }
        Delivery::Pieces => {
            let mut chunks = vec![chunk(json!({ "role": "assistant", "content": "" }))];
            let letters = text.chars().map(|letter| chunk(json!({ "content": letter })));
            chunks.extend(letters);
            for (index, (_, arguments)) in calls.iter().enumerate() {
                let mut first = call(index, &json!(""));
                first["index"] = json!(index);
                chunks.push(chunk(json!({ "tool_calls": [first] })));
                let written = arguments.as_str().map_or(arguments.to_string(), str::to_owned);
                for letter in written.chars() {
                    let function = json!({ "arguments": letter });
                    let piece = json!({ "index": index, "function": function });
                    chunks.push(chunk(json!({ "tool_calls": [piece] })));
                }
            }
            chunks.push(json!({ "choices": [], "usage": { "total_tokens": 1 } }));
            send(stream, 200, "text/event-stream", &events(chunks))
        }
        Delivery::Events => {
            let delta = json!({ "role": "assistant", "content": text, "tool_calls": whole() });
            send(stream, 200, "text/event-stream", &events(vec![chunk(delta)]))
        }
        Delivery::Lines => {
            let calls: Vec<_> =
                whole().into_iter().map(|call| json!({ "function": call["function"] })).collect();
            let message = json!({ "role": "assistant", "content": text, "tool_calls": calls });
            let last = json!({ "role": "assistant", "content": "" });
            let lines = format!(
                "{}\n{}\n",
                json!({ "message": message, "done": false }),
                json!({ "message": last, "done": true })
            );
            send(stream, 200, "application/x-ndjson", &lines)
        }
    }
}

/// In chunks, in whose middle lines end, and with the connection open afterwards.
fn send(mut stream: &TcpStream, status: u16, kind: &str, body: &str) -> Option<()> {
    let head = format!(
        "HTTP/1.1 {status} Reason\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).ok()?;
    for piece in body.as_bytes().chunks(37) {
        stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).ok()?;
        stream.write_all(piece).ok()?;
        stream.write_all(b"\r\n").ok()?;
    }
    // The end of events is told in their own words, and not by everybody in those of HTTP.
    if kind != "text/event-stream" {
        stream.write_all(b"0\r\n\r\n").ok()?;
    }
    stream.read(&mut [0]).map(drop).ok()
}
