//! What the commands of a VM with a life of its own wrote: on disk, for whoever asks later.
//!
//! ```text
//!   <directory>/runs/<number>/record    the command, and what became of it
//!                             stdout    the first so many bytes that it wrote
//!                             stderr
//! ```
//!
//! The supervisor writes, others read. The directory goes with the VM.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_err::File;
use pyro_protocol::client::RunEnd;
use pyro_protocol::record::{RunFate, RunRecord};
use pyro_protocol::run::{RunId, Stream};
use serde::Serialize;

use crate::conversation::Note;

/// What is kept of one stream of one run, from its beginning.
pub const STREAM_BYTES_MAX: u64 = 64 << 20;

/// What is kept of all runs of a VM. Where it is not enough the oldest that are over make room.
pub const VM_BYTES_MAX: u64 = 256 << 20;

/// Runs that are kept. The oldest that are over make room.
pub const RUNS_MAX: usize = 200;

const RUNS: &str = "runs";
const RECORD: &str = "record";

/// The books of one VM.
#[derive(Debug)]
pub(crate) struct Journal {
    directory: PathBuf,
    running: BTreeMap<RunId, Entry>,
    /// Those that are over, oldest end first, with what is kept of them.
    over: VecDeque<(RunId, u64)>,
    kept_bytes: u64,
}

/// A run that is not over.
#[derive(Debug)]
struct Entry {
    record: RunRecord,
    stdout: Log,
    stderr: Log,
}

/// One stream of a run.
#[derive(Debug)]
struct Log {
    /// Gone once no more is kept.
    file: Option<File>,
    written_bytes: u64,
    kept_bytes: u64,
}

impl Journal {
    /// Opens the books of the VM that lives in `directory`, which is a new one.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let directory = directory.join(RUNS);
        fs_err::create_dir(&directory)?;
        let (running, over) = (BTreeMap::new(), VecDeque::new());
        Ok(Self { directory, running, over, kept_bytes: 0 })
    }

    /// Writes down that a run began, or failed. What cannot be written is missing later, and disturbs
    /// nobody now.
    pub(crate) fn note(&mut self, note: Note) {
        match note {
            Note::Began { run, command } => {
                self.make_room(RUNS_MAX - 1, 0);
                if let Ok(entry) = self.begin(run, command) {
                    self.running.insert(run, entry);
                }
            }
            Note::Failed { run, reason } => self.settle(run, |_| RunFate::Failed { reason }),
        }
    }

    /// Writes down that a run has ended. The same holds for what cannot be written.
    pub(crate) fn note_end(&mut self, end: RunEnd) {
        self.settle(end.number, |entry| RunFate::Ended {
            end,
            stdout_bytes: entry.stdout.written_bytes,
            stderr_bytes: entry.stderr.written_bytes,
        });
    }

    /// Keeps what a run wrote, within the limits.
    ///
    /// The host's page cache takes it; where a disk cannot follow, the command is slowed down, as by any
    /// reader of its output.
    pub(crate) fn append(&mut self, run: RunId, stream: Stream, bytes: &[u8]) {
        let length = bytes.len() as u64;
        if !self.running.contains_key(&run) {
            return;
        }
        self.make_room(RUNS_MAX, length);
        let has_room = self.kept_bytes + length <= VM_BYTES_MAX;
        let Some(entry) = self.running.get_mut(&run) else { return };
        let log = entry.log(stream);
        log.written_bytes += length;
        let fits = has_room && log.kept_bytes + length <= STREAM_BYTES_MAX;
        let kept = fits && log.file.as_mut().is_some_and(|file| file.write_all(bytes).is_ok());
        if kept {
            log.kept_bytes += length;
            self.kept_bytes += length;
        } else {
            // What is kept is a beginning, without gaps.
            log.file = None;
        }
    }

    fn begin(&self, run: RunId, command: String) -> io::Result<Entry> {
        let directory = self.run_directory(run);
        fs_err::create_dir(&directory)?;
        let log = |stream| {
            let file = Some(File::create_new(directory.join(name(stream)))?);
            io::Result::Ok(Log { file, written_bytes: 0, kept_bytes: 0 })
        };
        let (stdout, stderr) = (log(Stream::Stdout)?, log(Stream::Stderr)?);
        let started_at = since_epoch();
        let record = RunRecord { number: run.0, command, started_at, fate: RunFate::Running };
        write_whole(&directory, RECORD, &record)?;
        Ok(Entry { record, stdout, stderr })
    }

    fn settle(&mut self, run: RunId, fate: impl FnOnce(&Entry) -> RunFate) {
        let Some(mut entry) = self.running.remove(&run) else { return };
        entry.record.fate = fate(&entry);
        let kept_bytes = entry.stdout.kept_bytes + entry.stderr.kept_bytes;
        let directory = self.run_directory(run);
        if write_whole(&directory, RECORD, &entry.record).is_ok() {
            self.over.push_back((run, kept_bytes));
        } else {
            // Better unknown than running for ever.
            fs_err::remove_dir_all(directory).ok();
            self.kept_bytes -= kept_bytes;
        }
    }

    /// Deletes the oldest that are over until there are at most `runs_max`, and `bytes` more are within the
    /// limit.
    fn make_room(&mut self, runs_max: usize, bytes: u64) {
        while self.over.len() + self.running.len() > runs_max
            || self.kept_bytes + bytes > VM_BYTES_MAX
        {
            let Some((run, kept_bytes)) = self.over.pop_front() else { return };
            fs_err::remove_dir_all(self.run_directory(run)).ok();
            self.kept_bytes -= kept_bytes;
        }
    }

    fn run_directory(&self, run: RunId) -> PathBuf {
        self.directory.join(run.0.to_string())
    }
}

impl Entry {
    fn log(&mut self, stream: Stream) -> &mut Log {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

/// Writes a file of JSON so that whoever reads it finds it whole.
pub(crate) fn write_whole(directory: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_vec_pretty(value)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(&json)?;
    file.persist(directory.join(name))?;
    Ok(())
}

/// A run that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRun {
    pub record: RunRecord,
    pub stdout_kept_bytes: u64,
    pub stderr_kept_bytes: u64,
}

/// The runs that are kept of the VM that lives in `directory`, oldest first.
pub fn runs(directory: &Path) -> io::Result<Vec<KeptRun>> {
    let mut runs = Vec::new();
    for entry in fs_err::read_dir(directory.join(RUNS))? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(number) = number else { continue };
        // One may be beginning, or make room, at this moment.
        match run(directory, number) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            found => runs.push(found?),
        }
    }
    runs.sort_by_key(|run| run.record.number);
    Ok(runs)
}

/// One run that is kept; `NotFound` where it is not.
pub fn run(directory: &Path, number: u32) -> io::Result<KeptRun> {
    let directory = directory.join(RUNS).join(number.to_string());
    let record = serde_json::from_slice(&fs_err::read(directory.join(RECORD))?)?;
    let file = |stream| fs_err::metadata(directory.join(name(stream)));
    Ok(KeptRun {
        record,
        stdout_kept_bytes: file(Stream::Stdout)?.len(),
        stderr_kept_bytes: file(Stream::Stderr)?.len(),
    })
}

/// What is kept of a run's stream, from byte `offset` on, to be read.
pub fn output(
    directory: &Path,
    number: u32,
    stream: Stream,
    offset: u64,
) -> io::Result<impl Read + use<>> {
    let path = directory.join(RUNS).join(number.to_string()).join(name(stream));
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    Ok(file)
}

fn name(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    }
}

/// The time, as records have it. A clock before 1970 is as good as none.
pub(crate) fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use pyro_protocol::client::{EndReason, RunEnd};
    use pyro_protocol::network::Refusals;
    use pyro_protocol::run::ExitStatus;

    use super::*;

    const PIECE: usize = 1 << 20;

    fn journal() -> (tempfile::TempDir, Journal) {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(directory.path()).unwrap();
        (directory, journal)
    }

    fn began(run: u32) -> Note {
        Note::Began { run: RunId(run), command: format!("command {run}") }
    }

    fn ended(run: u32) -> RunEnd {
        RunEnd {
            number: RunId(run),
            status: ExitStatus::Exited { code: 3 },
            duration: Duration::from_millis(5),
            reason: EndReason::Finished,
            out_of_memory: false,
            refusals: Refusals::default(),
        }
    }

    fn read(directory: &Path, run: u32, stream: Stream, offset: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        output(directory, run, stream, offset).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn numbers(directory: &Path) -> Vec<u32> {
        runs(directory).unwrap().iter().map(|run| run.record.number).collect()
    }

    #[test]
    fn what_a_run_wrote_is_found_while_it_runs_and_afterwards() {
        let (directory, mut journal) = journal();
        journal.note(began(1));
        journal.append(RunId(1), Stream::Stdout, b"to out");
        journal.append(RunId(1), Stream::Stderr, b"to err");
        let kept = run(directory.path(), 1).unwrap();
        assert_eq!((kept.record.fate, kept.stdout_kept_bytes), (RunFate::Running, 6));
        journal.append(RunId(1), Stream::Stdout, b", more");
        journal.note_end(ended(1));
        assert_eq!(read(directory.path(), 1, Stream::Stdout, 3), b"out, more");
        assert_eq!(read(directory.path(), 1, Stream::Stderr, 0), b"to err");
        let kept = run(directory.path(), 1).unwrap();
        let RunFate::Ended { end, stdout_bytes, .. } = kept.record.fate else { panic!("no end") };
        assert_eq!((end.status.exit_code(), stdout_bytes), (3, 12));
        assert_eq!(run(directory.path(), 2).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_run_that_failed_says_why() {
        let (directory, mut journal) = journal();
        journal.note(began(1));
        journal.note(Note::Failed { run: RunId(1), reason: "lost".to_owned() });
        let fate = run(directory.path(), 1).unwrap().record.fate;
        assert_eq!(fate, RunFate::Failed { reason: "lost".to_owned() });
    }

    #[test]
    fn a_run_whose_end_cannot_be_written_is_not_kept() {
        let (directory, mut journal) = journal();
        journal.note(began(1));
        journal.append(RunId(1), Stream::Stdout, b"text");
        // A directory in its place cannot be replaced by a file, not even by root.
        let record = directory.path().join("runs/1/record");
        fs_err::remove_file(&record).unwrap();
        fs_err::create_dir_all(record.join("full")).unwrap();
        journal.note_end(ended(1));
        assert_eq!(numbers(directory.path()), [0_u32; 0]);
        assert_eq!(journal.kept_bytes, 0);
    }

    #[test]
    fn of_a_long_stream_the_beginning_is_kept() {
        let (directory, mut journal) = journal();
        journal.note(began(1));
        let piece = vec![b'x'; PIECE];
        for _ in 0..=STREAM_BYTES_MAX / PIECE as u64 {
            journal.append(RunId(1), Stream::Stdout, &piece);
        }
        // Nothing is kept behind a gap.
        journal.append(RunId(1), Stream::Stdout, b"y");
        journal.note_end(ended(1));
        let kept = run(directory.path(), 1).unwrap();
        assert_eq!(kept.stdout_kept_bytes, STREAM_BYTES_MAX);
        let RunFate::Ended { stdout_bytes, .. } = kept.record.fate else { panic!("no end") };
        assert_eq!(stdout_bytes, STREAM_BYTES_MAX + PIECE as u64 + 1);
    }

    #[test]
    fn the_oldest_that_are_over_make_room() {
        let (directory, mut journal) = journal();
        let piece = vec![b'x'; PIECE];
        let runs_max = u32::try_from(VM_BYTES_MAX / STREAM_BYTES_MAX).unwrap();
        for run in 1..=runs_max + 1 {
            journal.note(began(run));
            for _ in 0..STREAM_BYTES_MAX / PIECE as u64 {
                journal.append(RunId(run), Stream::Stdout, &piece);
            }
            if run != 2 {
                journal.note_end(ended(run));
            }
        }
        // The second is not over, and so only the first can go.
        assert_eq!(numbers(directory.path()), (2..=runs_max + 1).collect::<Vec<_>>());
        assert!(journal.kept_bytes <= VM_BYTES_MAX);
    }

    #[test]
    fn no_more_runs_are_kept_than_there_may_be() {
        let (directory, mut journal) = journal();
        let runs_max = u32::try_from(RUNS_MAX).unwrap();
        for run in 1..=runs_max + 5 {
            journal.note(began(run));
            journal.note_end(ended(run));
        }
        assert_eq!(numbers(directory.path()), (6..=runs_max + 5).collect::<Vec<_>>());
    }
}
