//! The bodies of the fuzz targets: what must hold of this crate whatever a guest, a client or a
//! damaged file brings.
//!
//! `fuzz/` calls them with what a fuzzer makes up; the tests here replay its corpus. A body panics
//! where a claim does not hold.

mod conversation;

mod packed;

mod untrusted;

pub use self::conversation::conversation;
pub use self::packed::packed;
pub use self::untrusted::untrusted;

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
    fn the_corpus_of_conversations_holds() {
        replay("conversation", super::conversation);
    }

    #[test]
    fn the_corpus_of_packed_images_holds() {
        replay("packed", super::packed);
    }

    #[test]
    fn the_corpus_of_untrusted_texts_holds() {
        replay("untrusted", super::untrusted);
    }
}
