//! The bodies of the fuzz targets: what must hold of this crate whatever the bytes.
//!
//! `fuzz/` calls them with what a fuzzer makes up; the tests here replay its corpus. A body panics where a claim
//! does not hold.

use std::net::IpAddr;

use pyro_protocol::layout::network::{GATEWAY_MAC, GUEST_MAC, GUEST_V4, GUEST_V6};
use pyro_protocol::network::{AuthoredPolicy, EgressPolicy, EgressRule, PolicyAuthor};

use crate::dns::conversation::Conversation;
use crate::dns::lookups::Lookups;
use crate::dns::message::{BadQuery, Query, ResponseCode};
use crate::driver::Driver;
use crate::gate::Gate;
use crate::line::Input;
use crate::means::Means;
use crate::policy::Policies;
use crate::refusals::RefusalLog;
use crate::tcp::peer::Transfer;

const PIECE_BYTES_MAX: usize = 64;

/// Any frames, each with its length before it: none goes anywhere, because all is denied, but for the gateway,
/// which answers; and whatever is answered is for the guest, and whole.
pub fn guest(data: &[u8]) {
    let deny = ["0.0.0.0/0", "::/0"]
        .map(|network| EgressRule::Network(network.parse().expect("a network")));
    let policy = EgressPolicy { allow: Vec::new(), deny: deny.to_vec() };
    let policies = Policies::new(vec![AuthoredPolicy { author: PolicyAuthor::Caller, policy }]);
    let gate = Gate::new(policies, RefusalLog::default());
    let poll = mio::Poll::new().expect("a descriptor");
    let registry = poll.registry().try_clone().expect("a descriptor");
    let means = Means::new(gate, registry, 1);
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("descriptors");
    let parts = (Lookups::new(Vec::new()), means);
    let (mut driver, _waker) = Driver::new(poll, theirs, Vec::new(), parts).expect("descriptors");

    let mut rest = data;
    while let Some((&[kind, length], behind)) = rest.split_first_chunk() {
        let (body, behind) = behind.split_at(usize::from(length).min(behind.len()));
        rest = behind;
        driver.take_frame(&frame(kind, body));
        driver.give_turns();
    }
    let mut output = Vec::new();
    driver.output().write_to(&mut output).expect("a vector takes all");
    assert_answers(&output);
    drop(ours);
}

/// Mostly packets of the guest's, with headers that are what they should be.
fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let head = |ether_type: u16| [&GATEWAY_MAC[..], &GUEST_MAC, &ether_type.to_be_bytes()].concat();
    let protocol = [1, 6, 17, 58, 0, 132][usize::from(kind / 8) % 6];
    let gateway = kind & 4 != 0;
    let length = u16::try_from(body.len()).expect("at most 255");
    match kind % 4 {
        0 => body.to_vec(),
        1 => [head(0x0806), body.to_vec()].concat(),
        2 => {
            let to = if gateway { [10, 255, 255, 253] } else { [192, 0, 2, 1] };
            let total = (length + 20).to_be_bytes();
            let ip = [0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, protocol, 0, 0];
            [&head(0x0800)[..], &ip, &GUEST_V4.octets(), &to, body].concat()
        }
        _ => {
            let mut to = GUEST_V6.octets();
            (to[0], to[15]) = if gateway { (to[0], 1) } else { (0x20, 9) };
            let length = length.to_be_bytes();
            let ip = [0x60, 0, 0, 0, length[0], length[1], protocol, 255];
            [&head(0x86dd)[..], &ip, &GUEST_V6.octets(), &to, body].concat()
        }
    }
}

fn assert_answers(output: &[u8]) {
    let mut input = Input::default();
    let mut rest = output;
    let mut taken = 0;
    loop {
        while let Some(frame) = input.next_frame().expect("our own lengths") {
            assert_eq!((&frame[..6], &frame[6..12]), (&GUEST_MAC[..], &GATEWAY_MAC[..]));
            assert!(matches!(frame[12..14], [0x08, 0x00 | 0x06] | [0x86, 0xdd]));
            taken += 4 + frame.len();
        }
        if rest.is_empty() {
            break;
        }
        input.read_from(&mut rest).expect("a slice gives all");
    }
    assert_eq!(taken, output.len(), "a frame is cut");
}

/// Any query, and any answer to it: whatever is accepted answers this question under this number, teaches names
/// that can be written down, and its own answers are understood by itself.
pub fn names(data: &[u8]) {
    let Some((&length, rest)) = data.split_first() else { return };
    let (query_bytes, answer) = rest.split_at(usize::from(length).min(rest.len()));
    let query = match Query::parse(query_bytes) {
        Ok(query) => query,
        Err(BadQuery::Ignored) => return,
        Err(BadQuery::Answered(message)) => return assert_eq!(message[..2], query_bytes[..2]),
    };
    assert_is_written(&query.name);
    let id = [query_bytes[0], query_bytes[1]];
    let other = [!id[0], id[1]];
    assert_eq!(query.accept(other, &query.answer(ResponseCode::NoError)), None);
    assert_eq!(Query::parse(&query.with_id(other)).map(|other| other.name), Ok(query.name.clone()));

    let addresses = [IpAddr::from([192, 0, 2, 1]), IpAddr::from([1_u16; 8])];
    let (found, _) = query.accept(id, &query.answer_addresses(&addresses)).expect("an answer");
    assert!(found.addresses.iter().all(|(name, _)| *name == query.name));

    // The question is repeated, so that the fuzzer need not guess it.
    let mut message = query.answer(ResponseCode::NoError);
    message[6..8].copy_from_slice(&[0, 255]);
    message.extend_from_slice(answer);
    for message in [&message[..], answer] {
        if let Some((found, passed_on)) = query.accept(id, message) {
            assert_eq!(passed_on, message);
            for (name, _) in found.addresses {
                assert_is_written(&name);
            }
        }
    }
}

/// Lower case, and no byte that means something else in text.
fn assert_is_written(name: &str) {
    assert!(name.len() <= 253);
    assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()));
    assert!(name.is_empty() || name.split('.').all(|label| (1..=63).contains(&label.len())));
}

/// Any bytes of a conversation over TCP, in any pieces: the same questions as in one piece.
pub fn questions(data: &[u8]) {
    let Some((&piece, stream)) = data.split_first() else { return };
    let piece = usize::from(piece) % PIECE_BYTES_MAX + 1;
    assert_eq!(ask(stream, stream.len().max(1)), ask(stream, piece));
}

/// And whether they ended because one was too long.
fn ask(stream: &[u8], piece: usize) -> (Vec<Vec<u8>>, bool) {
    let mut conversation = Conversation::default();
    let mut questions = Vec::new();
    let mut rest = stream;
    let mut room = [0; 8];
    while !rest.is_empty() {
        match conversation.take(&rest[..piece.min(rest.len())]) {
            Transfer::Moved(taken) => rest = &rest[taken..],
            Transfer::Broken => return (questions, true),
            Transfer::Later | Transfer::Ended => panic!("it has no room, but no question either"),
        }
        while let Some(question) = conversation.next_question() {
            questions.push(question);
            conversation.answer(b"an answer");
            let mut given = Transfer::Moved(0);
            while let Transfer::Moved(_) = given {
                given = conversation.give(&mut room);
            }
            if given == Transfer::Broken {
                return (questions, true);
            }
        }
    }
    (questions, false)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Gives every file of a target's corpus to its body.
    fn replay(target: &str, body: impl Fn(&[u8])) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        let mut replayed = 0;
        for entry in fs_err::read_dir(root.join(target)).unwrap() {
            body(&fs_err::read(entry.unwrap().path()).unwrap());
            replayed += 1;
        }
        assert!(replayed > 0, "the corpus of {target} is empty");
    }

    #[test]
    fn the_corpus_of_guest_holds() {
        replay("guest", super::guest);
    }

    #[test]
    fn the_corpus_of_names_holds() {
        replay("names", super::names);
    }

    #[test]
    fn the_corpus_of_questions_holds() {
        replay("questions", super::questions);
    }
}
