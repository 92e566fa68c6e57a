//! Values that cannot be wrong: each is checked once, when it enters.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{ErrorKind, PyroError};

/// Virtual CPUs of a VM: 1 to 8, 1 by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VcpuCount(u8);

/// Memory of a VM in MiB: 256 to 32768, 1024 by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryMib(u32);

/// How long a VM lives at most: 60 to 3600 seconds, 600 by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeToLive(Duration);

/// How long a command runs at most: more than 0 seconds, 30 by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout(Duration);

/// How many VMs with a life of their own a user may have: 1 to 1000, 4 by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveVmsMax(u16);

/// How many spares one process keeps: 1 to 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpareCount(u8);

/// How long spares are kept: 1 minute to 24 hours, 30 minutes by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpareTime(Duration);

/// What a file that is read from a VM may have: 1 byte to 64 MiB, 64 MiB by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileBytesMax(u64);

/// The name of a VM: 12 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VmId(String);

/// What whoever makes a VM wants to find again: at most 64 texts, 16 KiB with their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata(BTreeMap<String, String>);

impl VcpuCount {
    pub const MIN: u8 = 1;
    pub const MAX: u8 = 8;
    pub const DEFAULT: Self = Self(1);

    pub fn new(value: i64) -> Result<Self, PyroError> {
        within("vcpu_count", value, Self::MIN.into(), Self::MAX.into())
            .map(|value| Self(u8::try_from(value).expect("the limits fit")))
    }

    pub fn get(self) -> u8 {
        self.0
    }
}

impl MemoryMib {
    pub const MIN: u32 = 256;
    pub const MAX: u32 = 32768;
    pub const DEFAULT: Self = Self(1024);

    pub fn new(value: i64) -> Result<Self, PyroError> {
        within("mem_mib", value, Self::MIN.into(), Self::MAX.into())
            .map(|value| Self(u32::try_from(value).expect("the limits fit")))
    }

    pub fn get(self) -> u32 {
        self.0
    }
}

impl SpareCount {
    pub const MIN: u8 = 1;
    /// Each takes as much memory as a small VM, and seconds of a CPU to be made.
    pub const MAX: u8 = 16;

    pub fn new(value: i64) -> Result<Self, PyroError> {
        within("the number of spares", value, Self::MIN.into(), Self::MAX.into())
            .map(|value| Self(u8::try_from(value).expect("the limits fit")))
    }

    pub fn get(self) -> u8 {
        self.0
    }
}

impl SpareTime {
    pub const MIN: Duration = Duration::from_mins(1);
    pub const MAX: Duration = Duration::from_hours(24);
    pub const DEFAULT: Self = Self(Duration::from_mins(30));

    pub fn new(time: Duration) -> Result<Self, PyroError> {
        if (Self::MIN..=Self::MAX).contains(&time) {
            return Ok(Self(time));
        }
        let text = format!("the time for spares must be between 1m and 24h, not {time:?}");
        Err(PyroError::new(ErrorKind::InvalidInput, text))
    }

    pub fn get(self) -> Duration {
        self.0
    }
}

impl TimeToLive {
    pub const MIN_SECONDS: u32 = 60;
    pub const MAX_SECONDS: u32 = 3600;
    pub const DEFAULT: Self = Self(Duration::from_mins(10));

    pub fn from_seconds(value: i64) -> Result<Self, PyroError> {
        within("ttl_seconds", value, Self::MIN_SECONDS.into(), Self::MAX_SECONDS.into())
            .map(|seconds| Self(Duration::from_secs(seconds.unsigned_abs())))
    }

    pub fn get(self) -> Duration {
        self.0
    }
}

impl Timeout {
    pub const DEFAULT: Self = Self(Duration::from_secs(30));

    /// Longer than any VM lives; spares every deadline an overflow.
    pub const MAX: Self = Self(Duration::from_hours(365 * 24));

    /// What a smaller number is rounded up to.
    const MIN: Duration = Duration::from_nanos(1);

    pub fn from_seconds(value: f64) -> Result<Self, PyroError> {
        if !(value > 0.0 && value.is_finite()) {
            return Err(invalid(format!("timeout_seconds must be positive, not {value}")));
        }
        // A number too large for a duration is no error: it only means "no limit of its own".
        let timeout = Duration::try_from_secs_f64(value).unwrap_or(Self::MAX.0);
        Ok(Self(timeout.clamp(Self::MIN, Self::MAX.0)))
    }

    pub fn get(self) -> Duration {
        self.0
    }
}

impl ActiveVmsMax {
    pub const MIN: u16 = 1;
    pub const MAX: u16 = 1000;
    pub const DEFAULT: Self = Self(4);

    pub fn new(value: i64) -> Result<Self, PyroError> {
        within("max_active_vms", value, Self::MIN.into(), Self::MAX.into())
            .map(|value| Self(u16::try_from(value).expect("the limits fit")))
    }

    /// Parses the value of what is called `name`.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, PyroError> {
        let number = text.trim().parse().ok();
        let number = number.filter(|number| (Self::MIN..=Self::MAX).contains(number));
        number.map(Self).ok_or_else(|| {
            let (min, max) = (Self::MIN, Self::MAX);
            invalid(format!("{name} must be between {min} and {max}, not {text}"))
        })
    }

    pub fn get(self) -> u16 {
        self.0
    }
}

impl FileBytesMax {
    /// It is held in memory, and kept among what commands wrote.
    pub const MAX: u64 = 64 << 20;
    pub const DEFAULT: Self = Self(Self::MAX);

    pub fn new(value: i64) -> Result<Self, PyroError> {
        within("bytes_max", value, 1, Self::MAX.cast_signed())
            .map(|value| Self(value.unsigned_abs()))
    }

    pub fn get(self) -> u64 {
        self.0
    }
}

impl VmId {
    const DIGITS: usize = 12;

    /// Fails with `unknown_vm` for what can be no VM's name.
    pub fn new(text: &str) -> Result<Self, PyroError> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == Self::DIGITS && text.bytes().all(is_digit) {
            return Ok(Self(text.to_owned()));
        }
        Err(Self::unknown(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn does_not_exist(&self) -> PyroError {
        Self::unknown(&self.0)
    }

    fn unknown(text: &str) -> PyroError {
        PyroError::new(ErrorKind::UnknownVm, format!("vm '{text}' does not exist"))
            .hint("`pyro vm list` or the tool `vm_list` shows those there are")
    }
}

impl Metadata {
    pub const ENTRIES_MAX: usize = 64;
    pub const BYTES_MAX: usize = 16 << 10;

    pub fn new(entries: BTreeMap<String, String>) -> Result<Self, PyroError> {
        let bytes: usize = entries.iter().map(|(name, value)| name.len() + value.len()).sum();
        if entries.len() > Self::ENTRIES_MAX || bytes > Self::BYTES_MAX {
            return Err(invalid(format!(
                "metadata must be at most {} entries and {} bytes, not {} and {bytes}",
                Self::ENTRIES_MAX,
                Self::BYTES_MAX,
                entries.len()
            )));
        }
        if entries.keys().any(String::is_empty) {
            return Err(invalid("metadata must have names that are not empty"));
        }
        Ok(Self(entries))
    }

    pub(crate) fn into_entries(self) -> BTreeMap<String, String> {
        self.0
    }
}

fn within(name: &str, value: i64, min: i64, max: i64) -> Result<i64, PyroError> {
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(invalid(format!("{name} must be between {min} and {max}, not {value}")))
    }
}

pub(crate) fn invalid(message: impl Into<String>) -> PyroError {
    PyroError::new(ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_inclusive_and_named_with_the_value() {
        assert_eq!(VcpuCount::new(8).unwrap().get(), 8);
        assert_eq!(
            VcpuCount::new(9).unwrap_err().message,
            "vcpu_count must be between 1 and 8, not 9"
        );
        assert_eq!(
            MemoryMib::new(255).unwrap_err().message,
            "mem_mib must be between 256 and 32768, not 255"
        );
        assert_eq!(
            TimeToLive::from_seconds(-1).unwrap_err().message,
            "ttl_seconds must be between 60 and 3600, not -1"
        );
    }

    #[test]
    fn a_timeout_is_positive() {
        for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error = Timeout::from_seconds(wrong).unwrap_err();
            assert!(error.message.starts_with("timeout_seconds must be positive"), "{error}");
        }
        assert_eq!(Timeout::from_seconds(0.25).unwrap().get(), Duration::from_millis(250));
        assert_eq!(Timeout::from_seconds(1e-10).unwrap().get(), Timeout::MIN);
        assert_eq!(Timeout::from_seconds(1e300).unwrap(), Timeout::MAX);
    }

    #[test]
    fn what_can_be_no_name_of_a_vm_does_not_exist() {
        assert_eq!(VmId::new("0123456789ab").unwrap().as_str(), "0123456789ab");
        for wrong in ["", "0123456789a", "0123456789abc", "0123456789AB", "../../../etc"] {
            let error = VmId::new(wrong).unwrap_err();
            assert_eq!(error.kind, ErrorKind::UnknownVm);
            assert_eq!(error.message, format!("vm '{wrong}' does not exist"));
        }
    }

    #[test]
    fn metadata_is_limited() {
        let entries = |count: usize, value: &str| {
            (0..count).map(|number| (number.to_string(), value.to_owned())).collect()
        };
        assert!(Metadata::new(entries(64, "x")).is_ok());
        assert!(Metadata::new(entries(65, "x")).is_err());
        assert!(Metadata::new(entries(2, &"x".repeat(Metadata::BYTES_MAX / 2))).is_err());
        assert!(Metadata::new([(String::new(), "x".to_owned())].into()).is_err());
    }
}
