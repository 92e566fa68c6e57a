//! Messages of the domain name system (RFC 1035), read as far as it decides where they go.
//!
//! By hand, because messages are passed on as they are: a crate that reads them whole refuses an answer for a
//! record that nobody here looks at. Pure; every byte may be hostile.

use std::net::IpAddr;

/// Longer queries have no use.
pub(crate) const QUERY_BYTES_MAX: usize = 4096;

/// Addresses that one answer teaches, and names between the one that was asked for and its addresses.
const ADDRESSES_MAX: usize = 64;
const ALIASES_MAX: usize = 16;

const HEADER_BYTES: usize = 12;
const LABEL_BYTES_MAX: usize = 63;
const NAME_BYTES_MAX: usize = 255;

/// A name that points elsewhere more often than this goes in circles.
const POINTERS_MAX: usize = 32;

/// What begins with such a byte is a pointer: no label is that long, and no text has such bytes.
const POINTER: u8 = 0xc0;

const CLASS_IN: u16 = 1;
pub(crate) const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
pub(crate) const TYPE_AAAA: u16 = 28;

/// How long the guest may keep what is answered here: it changes never, but costs nothing to ask for.
const LOCAL_TTL_SECONDS: u32 = 60;

const IS_ANSWER: u8 = 0x80;
const OPCODE: u8 = 0x78;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;

/// How a lookup went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResponseCode {
    NoError = 0,
    FormatError = 1,
    ServerFailure = 2,
    NoSuchName = 3,
    NotImplemented = 4,
    Refused = 5,
}

/// One question, as the guest asked it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    bytes: Vec<u8>,
    /// Where the question ends in them.
    question_end: usize,
    /// In lower case, without a dot at its end.
    pub(crate) name: String,
    pub(crate) record_type: u16,
}

/// A query that gets no further.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadQuery {
    /// Nobody can expect an answer.
    Ignored,
    Answered(Vec<u8>),
}

/// What a name server found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Names, each with an address; the one that was asked for last.
    pub(crate) addresses: Vec<(String, IpAddr)>,
}

impl Query {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BadQuery> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(BadQuery::Ignored);
        };
        if header[2] & IS_ANSWER != 0 {
            return Err(BadQuery::Ignored);
        }
        let bad = |code| BadQuery::Answered(respond(header, &[], code, 0));
        if header[2] & OPCODE != 0 {
            return Err(bad(ResponseCode::NotImplemented));
        }
        if count(header, 4) != 1 || bytes.len() > QUERY_BYTES_MAX {
            return Err(bad(ResponseCode::FormatError));
        }
        let format_error = || bad(ResponseCode::FormatError);
        let mut reader = Reader { bytes, at: HEADER_BYTES };
        let name = reader.name().ok_or_else(format_error)?;
        // A pointer can only lead into the header, whose number is another one when the query is passed on: so
        // another name would be asked for than the rules were asked about.
        if bytes[HEADER_BYTES..reader.at].iter().any(|&byte| byte >= POINTER) {
            return Err(format_error());
        }
        let record_type = reader.number().ok_or_else(format_error)?;
        let class = reader.number().ok_or_else(format_error)?;
        let question_end = reader.at;
        let query = Self { bytes: bytes.to_vec(), question_end, name, record_type };
        if class != CLASS_IN {
            return Err(BadQuery::Answered(query.answer(ResponseCode::Refused)));
        }
        Ok(query)
    }

    /// An answer without records.
    pub(crate) fn answer(&self, code: ResponseCode) -> Vec<u8> {
        respond(self.header(), self.question(), code, 0)
    }

    /// An answer with those of these addresses that were asked for.
    pub(crate) fn answer_addresses(&self, addresses: &[IpAddr]) -> Vec<u8> {
        let mut records = Vec::new();
        let mut answers = 0;
        for address in addresses {
            let (record_type, data) = match address {
                IpAddr::V4(address) => (TYPE_A, address.octets().to_vec()),
                IpAddr::V6(address) => (TYPE_AAAA, address.octets().to_vec()),
            };
            if record_type != self.record_type {
                continue;
            }
            // The owner: the name at the beginning of the question.
            records.extend([0xc0, u8::try_from(HEADER_BYTES).expect("12")]);
            records.extend(record_type.to_be_bytes());
            records.extend(CLASS_IN.to_be_bytes());
            records.extend(LOCAL_TTL_SECONDS.to_be_bytes());
            records.extend(u16::try_from(data.len()).expect("4 or 16").to_be_bytes());
            records.extend(data);
            answers += 1;
        }
        let mut message = respond(self.header(), self.question(), ResponseCode::NoError, answers);
        message.extend(records);
        message
    }

    /// The same query for somebody else, under a number that the guest does not know.
    pub(crate) fn with_id(&self, id: [u8; 2]) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[..2].copy_from_slice(&id);
        bytes
    }

    /// An answer, for the guest again. `None` for what is no answer to this query under this number.
    pub(crate) fn accept(&self, id: [u8; 2], answer: &[u8]) -> Option<(Found, Vec<u8>)> {
        let header = answer.first_chunk::<HEADER_BYTES>()?;
        let is_answer = header[2] & IS_ANSWER != 0 && header[..2] == id && count(header, 4) == 1;
        let question = answer.get(HEADER_BYTES..self.question_end)?;
        if !is_answer || !question.eq_ignore_ascii_case(self.question()) {
            return None;
        }
        let found = self.found(header, answer);
        let mut message = answer.to_vec();
        message[..2].copy_from_slice(&self.bytes[..2]);
        Some((found, message))
    }

    fn header(&self) -> &[u8; HEADER_BYTES] {
        self.bytes.first_chunk().expect("was parsed")
    }

    fn question(&self) -> &[u8] {
        &self.bytes[HEADER_BYTES..self.question_end]
    }

    /// The addresses at the end of the chain of aliases that begins with this name. Of an answer that is broken,
    /// those before it breaks: the guest is passed the same bytes, and opens nothing that is not found here.
    fn found(&self, header: &[u8; HEADER_BYTES], answer: &[u8]) -> Found {
        let mut reader = Reader { bytes: answer, at: self.question_end };
        let mut aliases = Vec::new();
        let mut addresses = Vec::new();
        for _ in 0..count(header, 6) {
            let Some(record) = reader.record() else { break };
            match record.data {
                Data::Alias(target) => aliases.push((record.owner, target)),
                Data::Address(address) if addresses.len() < ADDRESSES_MAX => {
                    addresses.push((record.owner, address));
                }
                Data::Address(_) | Data::Other => {}
            }
        }
        let mut chain = vec![self.name.clone()];
        while chain.len() <= ALIASES_MAX {
            let last = chain.last().expect("begins with one");
            let Some((_, target)) = aliases.iter().find(|(owner, _)| owner == last) else { break };
            if chain.contains(target) {
                break;
            }
            chain.push(target.clone());
        }
        // An address has the names on the way to it as well, so that a rule that denies one of them is obeyed.
        let of_chain = addresses.into_iter().filter(|(owner, _)| chain.contains(owner));
        let addresses = of_chain
            .flat_map(|(_, address)| chain.iter().rev().map(move |name| (name.clone(), address)))
            .collect();
        Found { addresses }
    }
}

/// How a lookup went, as far as it decides whether another server is asked.
pub(crate) fn is_failure(message: &[u8]) -> bool {
    let code = message.get(3).map(|flags| flags & 0x0f);
    code == Some(ResponseCode::ServerFailure as u8) || code == Some(ResponseCode::Refused as u8)
}

fn respond(
    query: &[u8; HEADER_BYTES],
    question: &[u8],
    code: ResponseCode,
    answers: u16,
) -> Vec<u8> {
    let questions = u16::from(!question.is_empty());
    let mut message = query[..2].to_vec();
    message.push(IS_ANSWER | query[2] & (OPCODE | RECURSION_DESIRED));
    message.push(RECURSION_AVAILABLE | code as u8);
    for count in [questions, answers, 0, 0] {
        message.extend(count.to_be_bytes());
    }
    message.extend(question);
    message
}

fn count(header: &[u8; HEADER_BYTES], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

struct Record {
    owner: String,
    data: Data,
}

enum Data {
    Address(IpAddr),
    Alias(String),
    Other,
}

/// Reads forward; `None` where the bytes end or make no sense.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let taken = *self.bytes.get(self.at..)?.first_chunk()?;
        self.at += N;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn record(&mut self) -> Option<Record> {
        let owner = self.name()?;
        let record_type = self.number()?;
        let class = self.number()?;
        let _ttl = self.take::<4>()?;
        let length = usize::from(self.number()?);
        let start = self.at;
        self.at = start + length;
        let data = self.bytes.get(start..self.at)?;
        let data = match (class, record_type) {
            (CLASS_IN, TYPE_A) => Data::Address(<[u8; 4]>::try_from(data).ok()?.into()),
            (CLASS_IN, TYPE_AAAA) => Data::Address(<[u8; 16]>::try_from(data).ok()?.into()),
            (CLASS_IN, TYPE_CNAME) => {
                // It may point to what is before it.
                Data::Alias(Reader { bytes: self.bytes, at: start }.name()?)
            }
            _ => Data::Other,
        };
        Some(Record { owner, data })
    }

    /// A name in lower case. One with bytes that text cannot hold without meaning another name, is none.
    fn name(&mut self) -> Option<String> {
        let mut name = String::new();
        let mut at = self.at;
        let mut end = None;
        let mut pointers = 0;
        loop {
            let length = *self.bytes.get(at)?;
            match length {
                0 => break,
                POINTER.. => {
                    let low = *self.bytes.get(at + 1)?;
                    end.get_or_insert(at + 2);
                    at = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                    pointers += 1;
                    if pointers > POINTERS_MAX {
                        return None;
                    }
                    continue;
                }
                _ => {}
            }
            let length = usize::from(length);
            if length > LABEL_BYTES_MAX {
                return None;
            }
            let label = self.bytes.get(at + 1..at + 1 + length)?;
            if !label.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.') {
                return None;
            }
            if !name.is_empty() {
                name.push('.');
            }
            name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
            if name.len() + 2 > NAME_BYTES_MAX {
                return None;
            }
            at += 1 + length;
        }
        self.at = end.unwrap_or(at + 1);
        Some(name)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn wire_name(name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for label in name.split('.').filter(|label| !label.is_empty()) {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label.bytes());
        }
        bytes.push(0);
        bytes
    }

    pub(crate) fn query(name: &str, record_type: u16) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, RECURSION_DESIRED, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend(wire_name(name));
        bytes.extend(record_type.to_be_bytes());
        bytes.extend(CLASS_IN.to_be_bytes());
        bytes
    }

    fn record(owner: &[u8], record_type: u16, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(data.len()).unwrap().to_be_bytes();
        let head = [record_type.to_be_bytes(), CLASS_IN.to_be_bytes(), [0, 0], [0, 9], length];
        [owner, &head.concat(), data].concat()
    }

    fn answer(query: &[u8], records: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = query.to_vec();
        bytes[2] |= IS_ANSWER;
        bytes[7] = u8::try_from(records.len()).unwrap();
        [bytes, records.concat()].concat()
    }

    const OWNER: [u8; 2] = [0xc0, 12];

    fn found(query: &[u8], records: &[Vec<u8>]) -> Vec<(String, IpAddr)> {
        let parsed = Query::parse(query).unwrap();
        parsed.accept([0x12, 0x34], &answer(query, records)).unwrap().0.addresses
    }

    #[test]
    fn a_name_is_the_same_in_any_case() {
        let query = Query::parse(&query("WWW.Example.COM", TYPE_A)).unwrap();
        assert_eq!((query.name.as_str(), query.record_type), ("www.example.com", TYPE_A));
    }

    #[test]
    fn bad_queries_are_answered_with_what_is_wrong() {
        let good = query("a.test", TYPE_A);
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        let last = good.len() - 1;
        let dotted = [&good[..12], &[6], b"a.test", &[0, 0, 1, 0, 1]].concat();
        for (bytes, code) in [
            (changed(2, 0x28), ResponseCode::NotImplemented),
            (changed(5, 2), ResponseCode::FormatError),
            (changed(5, 0), ResponseCode::FormatError),
            (changed(last, 3), ResponseCode::Refused),
            (good[..last].to_vec(), ResponseCode::FormatError),
            (dotted, ResponseCode::FormatError),
            // A name that points to itself.
            ([&good[..12], &[0xc0, 12, 0, 1, 0, 1]].concat(), ResponseCode::FormatError),
        ] {
            let Err(BadQuery::Answered(answer)) = Query::parse(&bytes) else {
                panic!("{bytes:x?} is accepted")
            };
            assert_eq!(answer[3] & 0x0f, code as u8);
            assert_eq!(answer[..2], [0x12, 0x34]);
        }
        assert_eq!(Query::parse(&good[..11]), Err(BadQuery::Ignored));
        assert_eq!(Query::parse(&changed(2, IS_ANSWER)), Err(BadQuery::Ignored));
    }

    #[test]
    fn the_name_of_a_question_does_not_depend_on_the_number_of_the_query() {
        let mut bytes = query("", TYPE_A);
        bytes.truncate(HEADER_BYTES);
        bytes[0] = 0;
        // To the number.
        bytes.extend([4, b't', b'e', b's', b't', 0xc0, 0, 0, 1, 0, 1]);
        let refused = Query::parse(&bytes).unwrap_err();
        assert!(matches!(refused, BadQuery::Answered(answer) if answer[3] & 0x0f == 1));
    }

    #[test]
    fn addresses_are_those_of_the_name_and_of_its_aliases() {
        let query = query("a.test", TYPE_A);
        let (first, second) = (IpAddr::from([8, 8, 8, 8]), IpAddr::from([9, 9, 9, 9]));
        let records = [
            record(&wire_name("other.test"), TYPE_A, &[1, 1, 1, 1]),
            record(&OWNER, TYPE_CNAME, &wire_name("b.test")),
            record(&wire_name("b.test"), TYPE_CNAME, &[1, b'c', 0xc0, 14]),
            record(&wire_name("c.test"), TYPE_A, &[8, 8, 8, 8]),
            record(&wire_name("c.test"), 99, b"whatever"),
            record(&wire_name("C.test"), TYPE_A, &[9, 9, 9, 9]),
        ];
        let names = ["c.test", "b.test", "a.test"];
        let expected: Vec<_> = [first, second]
            .iter()
            .flat_map(|address| names.map(|name| (name.to_owned(), *address)))
            .collect();
        assert_eq!(found(&query, &records), expected);
    }

    #[test]
    fn an_alias_that_leads_back_ends() {
        let query = query("a.test", TYPE_A);
        let records = [
            record(&OWNER, TYPE_CNAME, &wire_name("b.test")),
            record(&wire_name("b.test"), TYPE_CNAME, &OWNER),
            record(&OWNER, TYPE_A, &[8, 8, 8, 8]),
        ];
        assert_eq!(found(&query, &records).len(), 2);
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        let asked = query("a.test", TYPE_A);
        let parsed = Query::parse(&asked).unwrap();
        let good = answer(&asked, &[]);
        assert_eq!(parsed.accept([0x12, 0x35], &good), None);
        assert_eq!(parsed.accept([0x12, 0x34], &asked), None);
        assert_eq!(parsed.accept([0x12, 0x34], &answer(&query("b.test", TYPE_A), &[])), None);
        assert_eq!(parsed.accept([0x12, 0x34], &answer(&query("a.test", TYPE_AAAA), &[])), None);
        assert_eq!(parsed.accept([0x12, 0x34], &good), Some((Found::default(), good.clone())));
    }

    #[test]
    fn what_is_answered_here_is_understood() {
        let asked = Query::parse(&query("a.test", TYPE_A)).unwrap();
        let addresses = [IpAddr::from([10, 0, 0, 1]), "fd00::1".parse().unwrap()];
        let answer = asked.answer_addresses(&addresses);
        let (found, _) = asked.accept([0x12, 0x34], &answer).unwrap();
        assert_eq!(found.addresses, [("a.test".to_owned(), addresses[0])]);
    }
}
