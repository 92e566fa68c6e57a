//! Mirrors and proxies: asked as configured, and named when they fail.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::puller::{Ended, PullRequest};
use crate::store::{assert_nothing_visible, scratch_directory};

/// An HTTP server that gives the same answer to everyone, and tells what it
/// was asked for. Its thread ends with the test's process.
fn serve(status: &'static str, body: &'static str) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(&stream);
            let mut request = String::new();
            reader.read_line(&mut request).unwrap_or_default();
            let mut header = String::new();
            while reader.read_line(&mut header).is_ok_and(|count| count > 2) {
                header.clear();
            }
            let length = body.len();
            write!(
                &stream,
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            )
            .unwrap_or_default();
            sender.send(request).unwrap_or_default();
        }
    });
    (address, requests)
}

fn pull_from(mirror: &str, proxy: &str) -> Ended {
    let scratch = scratch_directory();
    let store = scratch.path().join("store");
    let request = PullRequest { mirrors: &[mirror], proxy, ..PullRequest::into(&store) };
    let ended = request.start().end();
    assert_nothing_visible(&store);
    ended
}

#[test]
fn an_unreachable_mirror_is_named_at_once() {
    let start = Instant::now();
    let ended = pull_from("http://user:secret@127.0.0.1:1/debian", "-");
    assert!(ended.error().starts_with("MirrorUnreachable"), "{:#?}", ended.lines);
    assert!(ended.error().contains("[\"http://127.0.0.1:1/debian\"]"), "{:#?}", ended.lines);
    assert!(ended.error().contains("onnect"), "apt's own words: {:#?}", ended.lines);
    assert!(!ended.lines.concat().contains("secret"), "{:#?}", ended.lines);
    assert!(start.elapsed() < Duration::from_mins(1));
}

#[test]
fn the_mirror_that_is_set_is_the_one_that_is_asked() {
    let (address, requests) = serve("404 Not Found", "");
    let ended = pull_from(&format!("http://{address}/mirror"), "-");
    assert!(ended.error().starts_with("MirrorUnreachable"), "{:#?}", ended.lines);
    assert!(requests.recv().unwrap().starts_with("GET /mirror/dists/bookworm/InRelease "));
}

#[test]
fn the_proxy_that_is_set_is_the_one_that_is_asked() {
    let (address, requests) = serve("404 Not Found", "");
    // `.invalid` never resolves: only the proxy can be asked for it.
    pull_from("http://mirror.invalid/debian", &format!("http://{address}"));
    let request = requests.recv().unwrap();
    assert!(request.starts_with("GET http://mirror.invalid/debian/dists/bookworm/"), "{request}");
}

#[test]
fn a_mirror_without_a_valid_signature_is_not_trusted() {
    let (address, _requests) =
        serve("200 OK", "Origin: Debian\nSuite: stable\nCodename: bookworm\n");
    let ended = pull_from(&format!("http://{address}/debian"), "-");
    assert!(ended.error().starts_with("BadSignature"), "{:#?}", ended.lines);
}
