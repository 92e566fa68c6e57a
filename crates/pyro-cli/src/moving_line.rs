//! The moving line at a terminal: what pyro is doing, and how far it is. It is one line, never wider than the
//! terminal, and can be taken away without a trace.

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{
    ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressState, ProgressStyle, TermLike,
};
use pyro_core::{Measure, Step, terminal_is_dumb};

use crate::terminal;

/// How often it is drawn while nothing happens, so that it is seen to live.
const TICK: Duration = Duration::from_millis(100);

/// How often it is drawn at most.
const DRAWS_PER_SECOND_MAX: u8 = 20;

/// For a terminal that does not say how wide it is.
const COLUMNS_DEFAULT: usize = 80;

/// The spinner, and what keeps it apart from the rest.
const SPINNER_COLUMNS: usize = 2;

/// Of a bar. One that is narrower says nothing, and one that is wider says no more.
const BAR_COLUMNS_MIN: usize = 8;
const BAR_COLUMNS_MAX: usize = 24;

/// Between two figures.
const GAP: &str = "  ";

/// Steps that are shorter need nobody to count their seconds.
const ELAPSED_MIN: Duration = Duration::from_secs(1);

pub(crate) struct MovingLine {
    bar: ProgressBar,
    shown: Arc<Mutex<Shown>>,
}

/// What the line shows.
struct Shown {
    step: Step,
    /// How far the step was when it was shown first: what was done before says nothing about its pace.
    done_before: u64,
}

impl MovingLine {
    /// None where standard error is no terminal, or one that can do no more than print.
    pub(crate) fn at_terminal() -> Option<Self> {
        if !io::stderr().is_terminal() || terminal_is_dumb() {
            return None;
        }
        let step = Step { text: String::new(), measure: Measure::Unknown };
        let shown = Arc::new(Mutex::new(Shown { step, done_before: 0 }));
        let drawn = Arc::clone(&shown);
        let text = move |state: &ProgressState, out: &mut dyn fmt::Write| {
            let shown = drawn.lock().unwrap_or_else(PoisonError::into_inner);
            let room = columns().saturating_sub(SPINNER_COLUMNS);
            // Into memory, which cannot fail.
            out.write_str(&content(room, &shown.step, state.elapsed(), state.per_sec())).ok();
        };
        let style =
            ProgressStyle::with_template("{spinner} {text}").expect("the template is valid");
        let line = Box::new(StandardError::default());
        let target = ProgressDrawTarget::term_like_with_hz(line, DRAWS_PER_SECOND_MAX);
        let bar = ProgressBar::with_draw_target(None, target)
            .with_style(style.with_key("text", text))
            .with_finish(ProgressFinish::AndClear);
        Some(Self { bar, shown })
    }

    /// Shows a step, unless the line was taken away.
    pub(crate) fn show(&self, step: &Step) {
        if self.bar.is_finished() {
            return;
        }
        let done = match step.measure {
            Measure::Bytes { done, .. } => done,
            Measure::Count { .. } | Measure::Growing { .. } | Measure::Unknown => 0,
        };
        let (is_new, done_since) = {
            let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            let is_new = shown.step.text != step.text;
            if is_new {
                shown.done_before = done;
            }
            shown.step = step.clone();
            (is_new, done.saturating_sub(shown.done_before))
        };
        // Not while the lock is held: whatever changes the bar may draw it.
        if is_new {
            self.bar.reset();
            self.bar.enable_steady_tick(TICK);
        }
        self.bar.set_position(done_since);
    }

    /// Prints something above the line.
    pub(crate) fn above(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    /// Takes the line away, for good.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// One line of standard error, for `indicatif` to draw on.
///
/// The cursor rests at its beginning. A terminal that becomes narrower may break what is on it into several lines, and
/// takes the cursor along to the first of them; so there is always just what lies behind the cursor to be replaced.
#[derive(Debug, Default)]
struct StandardError {
    drawing: Mutex<Drawing>,
}

#[derive(Debug, Default)]
struct Drawing {
    /// What is to be seen next.
    text: String,
    /// Whether anything is to be seen now.
    is_visible: bool,
}

impl StandardError {
    fn drawing(&self) -> MutexGuard<'_, Drawing> {
        self.drawing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TermLike for StandardError {
    fn width(&self) -> u16 {
        u16::try_from(columns()).unwrap_or(u16::MAX)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.drawing().text.clear();
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.drawing().text.push_str(text);
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(text)
    }

    fn flush(&self) -> io::Result<()> {
        let drawn = self.drawing().next();
        terminal::draw(&drawn)
    }

    // There is but one line.

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
}

impl Drawing {
    /// What shows the text, and erases whatever else is there: a `^C` that the terminal has echoed as well. Where there is
    /// nothing to be seen, before and after, what others have written is left alone.
    fn next(&mut self) -> String {
        let text = std::mem::take(&mut self.text);
        // Padded to the terminal's edge.
        let text = text.trim_end();
        let was_visible = std::mem::replace(&mut self.is_visible, !text.is_empty());
        match (text, was_visible) {
            ("", false) => String::new(),
            ("", true) => "\r\x1b[J".to_owned(),
            (text, _) => format!("\r{text}\x1b[J\r"),
        }
    }
}

/// How wide the terminal is at this moment.
fn columns() -> usize {
    terminal::columns(io::stderr()).unwrap_or(COLUMNS_DEFAULT)
}

/// A figure beside a step's words, and how much room it has, so that what follows does not jump.
struct Figure {
    text: String,
    columns: usize,
}

impl Figure {
    fn new(text: String) -> Self {
        Self { columns: width(&text), text }
    }

    fn with_room(text: String, columns: usize) -> Self {
        Self { text, columns }
    }
}

/// The line without its spinner, in less than `columns`: some terminals go on to the next line when one is full.
fn content(columns: usize, step: &Step, elapsed: Duration, bytes_per_second: f64) -> String {
    let (fraction, figures) = figures(&step.measure, elapsed, bytes_per_second);
    fitted(columns.saturating_sub(1), &step.text, fraction, &figures)
}

/// How much of a step is done, if that is known, and its figures. What matters least comes last.
fn figures(
    measure: &Measure,
    elapsed: Duration,
    bytes_per_second: f64,
) -> (Option<(u64, u64)>, Vec<Figure>) {
    let since = (elapsed >= ELAPSED_MIN).then(|| Figure::new(time(elapsed)));
    match measure {
        Measure::Unknown => (None, since.into_iter().collect()),
        Measure::Growing { bytes } => {
            let size = Figure::new(format!("{} MB", megabytes(*bytes)));
            (None, std::iter::once(size).chain(since).collect())
        }
        Measure::Count { done, total, detail } => {
            let count = format!("{done}/{total}");
            let room = width(&format!("{total}/{total}"));
            (
                Some((*done, *total)),
                vec![Figure::with_room(count, room), Figure::with_room(detail.clone(), 20)],
            )
        }
        Measure::Bytes { done, total } => {
            let size = format!("{}/{} MB", megabytes(*done), megabytes(*total));
            let room = width(&format!("{0}/{0} MB", megabytes(*total)));
            let left = total.saturating_sub(*done);
            // Without any of it known, or to be expected, their room stays.
            let (mut pace, mut rest) = (String::new(), String::new());
            if left > 0 && bytes_per_second >= 1.0 {
                pace = rate(bytes_per_second);
                let seconds = u64_of(u64_to_f64(left) / bytes_per_second);
                rest = format!("{} left", time(Duration::from_secs(seconds.max(1))));
            }
            let figures = [(size, room), (pace, 9), (rest, 11)];
            let figures = figures.map(|(text, room)| Figure::with_room(text, room));
            (Some((*done, *total)), figures.into())
        }
    }
}

/// As much as has room in `columns`: the words, a bar if `fraction` tells how long it is, and the first of `figures`.
fn fitted(columns: usize, words: &str, fraction: Option<(u64, u64)>, figures: &[Figure]) -> String {
    let needed = |count: usize| {
        let rooms = figures[..count].iter().map(|figure| GAP.len() + figure.columns);
        width(words) + rooms.sum::<usize>()
    };
    let shown = |count: usize, bar: &str| {
        let mut line = format!("{words}{bar}");
        for Figure { text, columns } in &figures[..count] {
            line += &format!("{GAP}{:<columns$}", cut(text, *columns));
        }
        line.trim_end().to_owned()
    };
    let counts = || (0..=figures.len()).rev();
    if let Some(fraction) = fraction {
        // One figure says more than a bar.
        let with_bar = |count: &usize| needed(*count) + 1 + BAR_COLUMNS_MIN <= columns;
        if let Some(count) = counts().filter(|count| *count > 0).find(with_bar) {
            let room = (columns - needed(count) - 1).min(BAR_COLUMNS_MAX);
            return shown(count, &format!(" {}", bar(room, fraction)));
        }
    }
    let most = if fraction.is_some() { figures.len().min(1) } else { figures.len() };
    let count = counts().filter(|count| *count <= most).find(|count| needed(*count) <= columns);
    match count {
        Some(count) => shown(count, ""),
        None => cut(words, columns),
    }
}

fn bar(columns: usize, (done, total): (u64, u64)) -> String {
    let full = u128::from(done.min(total)) * columns as u128 / u128::from(total.max(1));
    let full = usize::try_from(full).unwrap_or(columns).min(columns);
    "█".repeat(full) + &"░".repeat(columns - full)
}

/// The beginning of a text that is too long, and a sign that it was longer.
fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(columns.saturating_sub(1)).collect();
    if columns > 0 {
        short.push('…');
    }
    short
}

/// The words of steps and the names of packages have no characters that take two columns, or none.
fn width(text: &str) -> usize {
    text.chars().count()
}

/// Seconds, and whatever larger units it takes.
fn time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// With one digit behind the point, in the units in which apt counts and `pyro env list` shows sizes.
fn megabytes(bytes: u64) -> String {
    let tenths = bytes.saturating_add(50_000) / 100_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn rate(bytes_per_second: f64) -> String {
    match u64_of(bytes_per_second) {
        bytes @ 0..1_000_000 => format!("{} kB/s", bytes / 1000),
        bytes @ 100_000_000.. => format!("{} MB/s", bytes / 1_000_000),
        bytes => format!("{} MB/s", megabytes(bytes)),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it saturates, and is for display"
)]
fn u64_of(number: f64) -> u64 {
    number as u64
}

#[expect(clippy::cast_precision_loss, reason = "it is for display")]
fn u64_to_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECONDS: Duration = Duration::from_secs(84);

    fn step(text: &str, measure: Measure) -> Step {
        Step { text: text.to_owned(), measure }
    }

    fn downloading(done: u64) -> Step {
        step("root filesystem: downloading", Measure::Bytes { done, total: 31_280_000 })
    }

    fn installing() -> Step {
        let detail = "linux-image-6.1.0-30-cloud-amd64".to_owned();
        let measure = Measure::Count { done: 45, total: 120, detail };
        step("root filesystem: installing packages", measure)
    }

    #[test]
    fn a_download_shows_how_much_how_fast_and_how_long() {
        let line = |columns, done| content(columns, &downloading(done), SECONDS, 2_460_000.0);
        assert_eq!(
            line(78, 22_070_000),
            "root filesystem: downloading ███████░░░  22.1/31.3 MB  2.5 MB/s   3s left"
        );
        assert_eq!(
            line(118, 22_070_000),
            "root filesystem: downloading ████████████████░░░░░░░░  22.1/31.3 MB  2.5 MB/s   3s left"
        );
        assert_eq!(
            line(70, 22_070_000),
            "root filesystem: downloading ██████████░░░░░  22.1/31.3 MB  2.5 MB/s"
        );
        assert_eq!(line(45, 22_070_000), "root filesystem: downloading  22.1/31.3 MB");
        assert_eq!(line(30, 22_070_000), "root filesystem: downloading");
        // What is complete has no pace.
        assert_eq!(line(78, 31_280_000), "root filesystem: downloading ██████████  31.3/31.3 MB");
    }

    #[test]
    fn packages_are_counted_and_long_names_cut() {
        assert_eq!(
            content(78, &installing(), SECONDS, 0.0),
            "root filesystem: installing packages ███░░░░░░  45/120   linux-image-6.1.0-3…"
        );
    }

    #[test]
    fn a_step_of_unknown_length_shows_its_time() {
        let text = "first use on this host: booting a template";
        let line = |elapsed| content(78, &step(text, Measure::Unknown), elapsed, 0.0);
        assert_eq!(line(Duration::from_millis(900)), text);
        assert_eq!(line(SECONDS), format!("{text}  1m24s"));
        let writing = step("writing the image", Measure::Growing { bytes: 56_030_000 });
        assert_eq!(content(78, &writing, SECONDS, 0.0), "writing the image  56.0 MB  1m24s");
    }

    #[test]
    fn no_terminal_is_too_narrow_for_it() {
        let steps = [downloading(0), downloading(31_280_000), installing()];
        for columns in 0..150 {
            for step in &steps {
                let line = content(columns, step, Duration::MAX, 1e18);
                assert!(width(&line) <= columns.saturating_sub(1), "{columns}: {line}");
            }
        }
    }

    #[test]
    fn times_have_the_units_they_take() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m00s"), (3599, "59m59s"), (3660, "1h01m")]
        {
            assert_eq!(time(Duration::from_secs(seconds)), text);
        }
        assert_eq!(rate(56_000.0), "56 kB/s");
        assert_eq!(rate(211_700_000.0), "211 MB/s");
    }

    #[test]
    fn the_cursor_rests_at_the_beginning_and_nothing_is_left_behind_it() {
        let mut drawing = Drawing::default();
        drawing.text.push_str("⠋ restoring a VM     ");
        assert_eq!(drawing.next(), "\r⠋ restoring a VM\x1b[J\r");
        assert_eq!(drawing.next(), "\r\x1b[J");
        // What is there by now is the command's.
        assert_eq!(drawing.next(), "");
    }
}
