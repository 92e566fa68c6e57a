//! Reading what mmdebstrap, apt and dpkg print while they work: how far they
//! are, which packages they installed, and what they complained about.
//!
//! Pure, and forgiving: a line that is not understood is only remembered.

use std::collections::{BTreeMap, VecDeque};

use crate::pull::progress::{Artefact, PullProgress};
use crate::store::Package;

/// How many of the last lines are kept for an error message.
const RECENT_LINES_MAX: usize = 40;

/// How many complaints are kept; the first ones name the cause.
const COMPLAINTS_MAX: usize = 40;

/// What a build has said so far.
#[derive(Debug)]
pub(crate) struct Transcript {
    artefact: Artefact,
    download: Download,
    packages_total: u32,
    /// Unpacking and setting up are one step each.
    steps_done: u32,
    packages: BTreeMap<String, String>,
    recent: VecDeque<String>,
    complaints: Vec<String>,
}

#[derive(Debug, Default)]
struct Download {
    /// Of the rounds before this one.
    rounds_bytes: u64,
    round_bytes_total: u64,
    /// Of this round: files that are complete, and the one being fetched.
    round_bytes_done: u64,
    current_bytes: u64,
}

impl Download {
    fn begin_round(&mut self, bytes_total: u64) {
        self.rounds_bytes += self.round_bytes_total;
        self.round_bytes_total = bytes_total;
        self.round_bytes_done = 0;
        self.current_bytes = 0;
    }

    fn begin_file(&mut self, bytes: u64) {
        self.round_bytes_done = self.round_bytes_done.saturating_add(self.current_bytes);
        self.current_bytes = bytes;
    }

    fn progress(&self, artefact: Artefact) -> PullProgress {
        // The sizes are rounded for people, so their sum may pass the total.
        let round_done = self.round_bytes_done.min(self.round_bytes_total);
        PullProgress::Downloading {
            artefact,
            bytes_done: self.rounds_bytes.saturating_add(round_done),
            bytes_total: self.rounds_bytes.saturating_add(self.round_bytes_total),
        }
    }
}

impl Transcript {
    pub(crate) fn new(artefact: Artefact) -> Self {
        Self {
            artefact,
            download: Download::default(),
            packages_total: 0,
            steps_done: 0,
            packages: BTreeMap::new(),
            recent: VecDeque::new(),
            complaints: Vec::new(),
        }
    }

    /// Takes note of one line, and says what it means for the progress.
    pub(crate) fn observe(&mut self, line: &str) -> Option<PullProgress> {
        if let Some(percent) = download_percent(line) {
            return self.observe_percent(percent);
        }
        self.remember(line);
        if line == "I: running apt-get update..." {
            return Some(PullProgress::UpdatingPackageLists { artefact: self.artefact });
        }
        if line == "I: extracting archives..." {
            let is_system = self.artefact == Artefact::RootFilesystem;
            return is_system.then_some(PullProgress::Unpacking);
        }
        if let Some(rest) = line.strip_prefix("Need to get ") {
            // `22.3 MB of archives.`, or `3 MB/22.3 MB of …` with a cache.
            self.download.begin_round(human_bytes(rest.split(['/', 'o']).next()?)?);
            return Some(self.download.progress(self.artefact));
        }
        if line.starts_with("Get:") && self.download.round_bytes_total > 0 {
            let size = line.strip_suffix(']')?.rsplit_once('[')?.1;
            self.download.begin_file(human_bytes(size)?);
            return Some(self.download.progress(self.artefact));
        }
        if line.starts_with("Fetched ") && self.download.round_bytes_total > 0 {
            self.download.round_bytes_done = self.download.round_bytes_total;
            return Some(self.download.progress(self.artefact));
        }
        if let Some((_, rest)) = line.split_once(" upgraded, ") {
            let count: u32 = rest.split_once(" newly installed")?.0.parse().ok()?;
            self.packages_total = self.packages_total.saturating_add(count);
            return None;
        }
        if let Some(rest) = line.strip_prefix("Unpacking ") {
            return self.observe_step(package_in(rest)?);
        }
        if let Some(rest) = line.strip_prefix("Setting up ") {
            let package = package_in(rest)?;
            self.packages.insert(package.name.clone(), package.version.clone());
            return self.observe_step(package);
        }
        None
    }

    fn observe_percent(&mut self, percent: f64) -> Option<PullProgress> {
        let total = self.download.round_bytes_total;
        if total == 0 {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "the percentage lies between 0 and 100, and it is for display"
        )]
        let bytes_done = (total as f64 * percent / 100.0) as u64;
        self.download.round_bytes_done = bytes_done;
        Some(self.download.progress(self.artefact))
    }

    fn observe_step(&mut self, package: Package) -> Option<PullProgress> {
        self.steps_done = self.steps_done.saturating_add(1);
        (self.packages_total > 0).then(|| PullProgress::Installing {
            packages_done: (self.steps_done / 2).min(self.packages_total),
            packages_total: self.packages_total,
            package: package.name,
        })
    }

    fn remember(&mut self, line: &str) {
        if is_complaint(line) && self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(line.to_owned());
        }
        if self.recent.len() == RECENT_LINES_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(line.to_owned());
    }

    /// The packages that were set up, ordered by name.
    pub(crate) fn packages(&self) -> Vec<Package> {
        let package = |(name, version): (&String, &String)| Package {
            name: name.clone(),
            version: version.clone(),
        };
        self.packages.iter().map(package).collect()
    }

    /// Errors and warnings, in the order in which they came.
    pub(crate) fn complaints(&self) -> &[String] {
        &self.complaints
    }

    pub(crate) fn recent(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.recent.iter().map(String::as_str)
    }
}

fn is_complaint(line: &str) -> bool {
    // mmdebstrap announces a missing /sys in a target that is to hold no
    // system, and that apt cannot drop root inside a namespace.
    let is_expected = line.starts_with("W: skipping mounting of ")
        || line.starts_with("W: Download is performed unsandboxed");
    let is_marked =
        ["E:", "W:", "Err:", "dpkg: error", "tar:"].iter().any(|mark| line.starts_with(mark));
    let says_why = ["No space left on device", "Operation not permitted", "cannot open"]
        .iter()
        .any(|text| line.contains(text));
    (is_marked && !is_expected) || says_why
}

/// `dlstatus:<file>:<percent>:<text>`, as apt's `APT::Status-Fd` writes it.
fn download_percent(line: &str) -> Option<f64> {
    let percent: f64 = line.strip_prefix("dlstatus:")?.split(':').nth(1)?.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent)
}

/// `libc6:amd64 (2.36-9) over (2.36-8) ...` as name and version.
fn package_in(text: &str) -> Option<Package> {
    let (name, rest) = text.split_once(' ')?;
    let version = rest.strip_prefix('(')?.split_once(')')?.0;
    let name = name.split_once(':').map_or(name, |(name, _architecture)| name);
    Some(Package { name: name.to_owned(), version: version.to_owned() })
}

/// `22.3 MB`, as apt writes sizes: decimal units, rounded to three digits.
fn human_bytes(text: &str) -> Option<u64> {
    let (number, unit) = text.trim().split_once(' ')?;
    let number: f64 = number.parse().ok()?;
    let scale = match unit.trim() {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    let bytes = number * scale;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to lie well inside the range of u64"
    )]
    (0.0..1e15).contains(&bytes).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn observe_all(lines: &str) -> (Transcript, Vec<PullProgress>) {
        let mut transcript = Transcript::new(Artefact::RootFilesystem);
        let progress = lines.lines().filter_map(|line| transcript.observe(line)).collect();
        (transcript, progress)
    }

    fn downloading(bytes_done: u64, bytes_total: u64) -> PullProgress {
        PullProgress::Downloading { artefact: Artefact::RootFilesystem, bytes_done, bytes_total }
    }

    fn installing(packages_done: u32, packages_total: u32, package: &str) -> PullProgress {
        PullProgress::Installing { packages_done, packages_total, package: package.to_owned() }
    }

    #[test]
    fn a_build_is_followed_through_its_rounds() {
        let (transcript, progress) = observe_all(
            "\
I: running apt-get update...
Get:1 http://m.example/debian bookworm InRelease [151 kB]
Fetched 9417 kB in 2s (5345 kB/s)
0 upgraded, 1 newly installed, 0 to remove and 0 not upgraded.
Need to get 2.8 MB of archives.
Get:1 http://m.example/debian bookworm/main amd64 libc6 amd64 2.36-9 [2700 kB]
Get:2 http://m.example/debian bookworm/main amd64 gcc-12-base amd64 12.2.0-14 [100 kB]
Fetched 2.8 MB in 3s (6834 kB/s)
I: extracting archives...
Unpacking libc6:amd64 (2.36-9) ...
Setting up libc6:amd64 (2.36-9) ...
0 upgraded, 1 newly installed, 0 to remove and 0 not upgraded.
Need to get 1 MB/4 MB of archives.
Get:1 http://m.example/debian bookworm/main amd64 apt amd64 2.6.1 [1000 kB]
Fetched 1 MB in 1s (1 MB/s)
Unpacking apt (2.6.1) ...
Setting up apt (2.6.1) ...
",
        );
        assert_eq!(
            progress,
            [
                PullProgress::UpdatingPackageLists { artefact: Artefact::RootFilesystem },
                downloading(0, 2_800_000),
                downloading(0, 2_800_000),
                downloading(2_700_000, 2_800_000),
                downloading(2_800_000, 2_800_000),
                PullProgress::Unpacking,
                installing(0, 1, "libc6"),
                installing(1, 1, "libc6"),
                downloading(2_800_000, 3_800_000),
                downloading(2_800_000, 3_800_000),
                downloading(3_800_000, 3_800_000),
                installing(1, 2, "apt"),
                installing(2, 2, "apt"),
            ]
        );
        let package = |name: &str, version: &str| Package {
            name: name.to_owned(),
            version: version.to_owned(),
        };
        assert_eq!(transcript.packages(), [package("apt", "2.6.1"), package("libc6", "2.36-9")]);
    }

    #[test]
    fn the_percentage_of_a_single_file_moves_the_bar() {
        let (_, progress) =
            observe_all("Need to get 20 MB of archives.\ndlstatus:1:50.5:Retrieving file 1 of 1");
        assert_eq!(progress[1], downloading(10_100_000, 20_000_000));
    }

    #[test]
    fn complaints_are_kept_and_what_is_expected_is_not() {
        let (transcript, _) = observe_all(
            "\
W: skipping mounting of sysfs because the /sys directory is missing in the target
Err:1 http://127.0.0.1:1 bookworm InRelease
dpkg: error processing archive x.deb (--install):
Setting up libc6:amd64 (2.36-9) ...
 cannot copy extracted data: failed to write (No space left on device)
",
        );
        let first_words: Vec<_> =
            transcript.complaints().iter().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(first_words, ["Err:1", "dpkg:", ""]);
    }

    proptest! {
        #[test]
        fn no_output_makes_it_panic_or_grow_without_end(
            lines in proptest::collection::vec(
                "(Get:1 |Need to get |dlstatus:1:|Setting up |0 upgraded, |E: |Fetched )?[ -~]{0,40}",
                0..200,
            ),
        ) {
            let mut transcript = Transcript::new(Artefact::Kernel);
            for line in &lines {
                transcript.observe(line);
            }
            prop_assert!(transcript.recent.len() <= RECENT_LINES_MAX);
            prop_assert!(transcript.complaints.len() <= COMPLAINTS_MAX);
        }

        #[test]
        fn progress_never_passes_its_total(sizes in proptest::collection::vec(0u32..3000, 1..20)) {
            let mut transcript = Transcript::new(Artefact::Kernel);
            transcript.observe("Need to get 10.0 MB of archives.");
            for size in sizes {
                let progress = transcript.observe(&format!("Get:1 http://m.example x [{size} kB]"));
                if let Some(PullProgress::Downloading { bytes_done, bytes_total, .. }) = progress {
                    prop_assert!(bytes_done <= bytes_total);
                }
            }
        }
    }
}
