//! What a pull is doing, in terms a person can follow.

/// What is being built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Artefact {
    Kernel,
    RootFilesystem,
}

/// A step of a pull. Steps come in this order, for the kernel and then for
/// the root filesystem; downloading and installing may alternate, and their
/// numbers only grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullProgress {
    /// Another process is pulling the same thing.
    Waiting {
        artefact: Artefact,
        holder_pid: Option<u32>,
    },
    /// What is installed already is being read in full.
    Verifying,
    /// apt is fetching the package lists and checking their signatures.
    UpdatingPackageLists {
        artefact: Artefact,
    },
    /// The total grows when the packages of a further step are known.
    Downloading {
        artefact: Artefact,
        bytes_done: u64,
        bytes_total: u64,
    },
    /// The packages that are needed to install any are being unpacked.
    Unpacking,
    Installing {
        packages_done: u32,
        packages_total: u32,
        package: String,
    },
    /// The kernel image and its modules are being unpacked.
    UnpackingKernel,
    /// `bytes` of the file tree have been compressed into the image so far.
    WritingImage {
        bytes: u64,
    },
    /// Digests are computed, files flushed and renamed into place.
    Publishing {
        artefact: Artefact,
    },
}
