//! Telling why a build failed. The tools have one exit status for everything,
//! so their text decides; it is fixed by running them in the `C` locale.

use super::transcript::Transcript;

/// How many lines of a tool's output an error message shows.
const DETAIL_LINES_MAX: usize = 8;

/// Why a build failed, as far as its output tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    NoSpace,
    BadSignature,
    MirrorUnreachable,
    Other,
}

/// What each cause looks like, the most telling first: a full disk makes
/// downloads fail as well, and a mirror that answers nonsense is reachable.
const SIGNS: [(Cause, &[&str]); 3] = [
    (
        Cause::NoSpace,
        &["No space left on device", "don't have enough free space", "Disk quota exceeded"],
    ),
    (
        Cause::BadSignature,
        &[
            "NO_PUBKEY",
            "BADSIG",
            "EXPKEYSIG",
            "REVKEYSIG",
            "is not signed",
            "invalid signature",
            "signatures were invalid",
            "couldn't be verified",
            "Clearsigned file isn't valid",
            "Hash Sum mismatch",
            "unexpected size",
            "is not valid yet",
            "is expired",
        ],
    ),
    (
        Cause::MirrorUnreachable,
        &[
            "Could not connect",
            "Could not resolve",
            "Temporary failure resolving",
            "Unable to connect",
            "Connection timed out",
            "Connection failed",
            "Connection refused",
            "Failed to fetch",
            "does not have a Release file",
            "Certificate verification failed",
            "Undetermined Error",
        ],
    ),
];

pub(crate) fn cause_of(transcript: &Transcript) -> Cause {
    let complaints = transcript.complaints();
    SIGNS
        .iter()
        .find(|(_, signs)| {
            complaints.iter().any(|line| signs.iter().any(|sign| line.contains(sign)))
        })
        .map_or(Cause::Other, |&(cause, _)| cause)
}

/// The lines to show: the complaints, or the last lines where there are none.
pub(crate) fn details_of(transcript: &Transcript) -> Vec<String> {
    let complaints = transcript.complaints();
    if !complaints.is_empty() {
        let mut details: Vec<String> = Vec::new();
        for line in complaints.iter().filter(|line| !is_about_the_tools(line)) {
            if details.len() < DETAIL_LINES_MAX && !details.contains(line) {
                details.push(line.clone());
            }
        }
        return details;
    }
    let last: Vec<_> = transcript.recent().rev().take(DETAIL_LINES_MAX).collect();
    last.into_iter().rev().map(str::to_owned).collect()
}

/// What mmdebstrap says of its own insides when apt has said what is wrong.
fn is_about_the_tools(line: &str) -> bool {
    line.contains("APT::Status-Fd") || line.contains("mmdebstrap failed to run")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::progress::Artefact;

    fn transcript(lines: &str) -> Transcript {
        let mut transcript = Transcript::new(Artefact::RootFilesystem);
        for line in lines.lines() {
            transcript.observe(line);
        }
        transcript
    }

    #[test]
    fn a_refused_connection_is_an_unreachable_mirror() {
        let transcript = transcript(
            "Err:1 http://127.0.0.1:1 bookworm InRelease\n\
             E: Failed to fetch http://127.0.0.1:1/dists/bookworm/InRelease  Could not connect to \
             127.0.0.1:1 (127.0.0.1). - connect (111: Connection refused)",
        );
        assert_eq!(cause_of(&transcript), Cause::MirrorUnreachable);
    }

    #[test]
    fn a_wrong_key_is_a_bad_signature_although_the_fetch_failed() {
        let transcript = transcript(
            "W: GPG error: http://m.example bookworm InRelease: The following signatures couldn't \
             be verified because the public key is not available: NO_PUBKEY 0E98404D386FA1D9\n\
             E: Failed to fetch http://m.example/dists/bookworm/InRelease",
        );
        assert_eq!(cause_of(&transcript), Cause::BadSignature);
    }

    #[test]
    fn a_full_disk_is_no_space_whatever_else_failed() {
        let transcript = transcript(
            "E: Failed to fetch http://m.example/x.deb  Error writing to file - write (28: No \
             space left on device)",
        );
        assert_eq!(cause_of(&transcript), Cause::NoSpace);
    }

    #[test]
    fn what_cannot_be_told_shows_the_last_lines() {
        let transcript = transcript("one\ntwo\nthree");
        assert_eq!(cause_of(&transcript), Cause::Other);
        assert_eq!(details_of(&transcript), ["one", "two", "three"]);
    }
}
