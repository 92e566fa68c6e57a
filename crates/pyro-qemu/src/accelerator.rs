//! Which accelerator this host really has.
//!
//! A `/dev/kvm` that exists and opens proves nothing: on a host whose own KVM is emulated, every
//! call succeeds and the guest crawls. So the probe runs a counted loop on a virtual CPU and
//! compares its speed with what hardware gives.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Instant;

use kvm_ioctls::{Kvm, VcpuExit};
use rustix::fs::Access;
use serde::{Deserialize, Serialize};

use crate::sys::{GuestPage, PAGE_BYTES};

const KVM_DEVICE: &str = "/dev/kvm";

/// Turns of the counted loop; two instructions each.
const LOOP_TURNS: u32 = 20_000;
const LOOP_INSTRUCTIONS: u32 = 2 * LOOP_TURNS;

/// Emulating KVMs were seen at 1.2 to 1.7 million instructions per second, hardware is above a
/// thousand million. In between lies a wide margin for a busy host.
const USABLE_INSTRUCTIONS_PER_SECOND: u64 = 50_000_000;

/// The best of this many loops counts, because one of them may be torn by a preemption, and the
/// first one pays for the page tables.
const LOOPS: usize = 3;

/// What the probe found. Kept by callers, since it only changes with the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmProbe {
    pub exists: bool,
    pub readable: bool,
    pub writable: bool,
    pub usable: bool,
    /// Why it is usable or not, for people.
    pub reason: String,
    /// The measured speed of a virtual CPU in ring 0, where one ran.
    pub instructions_per_second: Option<u64>,
}

/// Why a virtual CPU could not be timed.
#[derive(Debug, thiserror::Error)]
enum MeasureError {
    #[error("cannot {operation}: {source}")]
    Refused { operation: &'static str, source: kvm_ioctls::Error },
    #[error("cannot map memory for the guest: {source}")]
    NoMemory { source: io::Error },
    #[error("the virtual CPU stopped unexpectedly ({exit})")]
    UnexpectedExit { exit: String },
}

/// Probes `/dev/kvm`. Takes milliseconds on hardware, up to 150 where KVM is emulated.
///
/// A broken KVM can hold the calling thread for ever, so run this in a process that can be killed.
pub fn probe_kvm() -> KvmProbe {
    let device = Path::new(KVM_DEVICE);
    let mut probe = KvmProbe {
        exists: rustix::fs::access(device, Access::EXISTS).is_ok(),
        readable: rustix::fs::access(device, Access::READ_OK).is_ok(),
        writable: rustix::fs::access(device, Access::WRITE_OK).is_ok(),
        usable: false,
        reason: String::new(),
        instructions_per_second: None,
    };
    probe.reason = if !probe.exists {
        format!("{KVM_DEVICE} does not exist: no hardware virtualisation, or no kvm module")
    } else if !(probe.readable && probe.writable) {
        format!("{KVM_DEVICE} exists, but this user may not read and write it")
    } else {
        match measure_instructions_per_second() {
            Ok(speed) => {
                probe.instructions_per_second = Some(speed);
                probe.usable = speed >= USABLE_INSTRUCTIONS_PER_SECOND;
                describe(Speed(speed), probe.usable)
            }
            Err(error) => format!("{KVM_DEVICE} opens, but {error}"),
        }
    };
    probe
}

fn describe(speed: Speed, usable: bool) -> String {
    if usable {
        return format!("a virtual CPU runs {speed}: hardware virtualisation");
    }
    format!(
        "a virtual CPU runs {speed}, far below hardware: this host emulates KVM itself{}",
        if Path::new("/sys/module/kvm_pvm").exists() { " (module kvm_pvm)" } else { "" }
    )
}

/// Instructions per second, as people say it.
#[derive(Clone, Copy)]
struct Speed(u64);

impl fmt::Display for Speed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}.{} million instructions per second",
            self.0 / 1_000_000,
            self.0 / 100_000 % 10
        )
    }
}

/// Runs the counted loop on a virtual CPU in 16-bit real mode, that is in ring 0: emulating KVMs
/// are native in ring 3 and slow exactly there, where a kernel lives.
fn measure_instructions_per_second() -> Result<u64, MeasureError> {
    let kvm = Kvm::new().map_err(refused("open it"))?;
    let vm = kvm.create_vm().map_err(refused("create a virtual machine"))?;
    let page = GuestPage::with_code(&loop_code(LOOP_TURNS))
        .map_err(|source| MeasureError::NoMemory { source })?;
    page.map_into(&vm, CODE_ADDRESS).map_err(refused("give memory to the guest"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(refused("create a virtual CPU"))?;

    let mut segments = vcpu.get_sregs().map_err(refused("read its segments"))?;
    segments.cs.base = 0;
    segments.cs.selector = 0;
    vcpu.set_sregs(&segments).map_err(refused("set its segments"))?;

    let mut best = 0;
    for _ in 0..LOOPS {
        let mut registers = vcpu.get_regs().map_err(refused("read its registers"))?;
        registers.rip = CODE_ADDRESS;
        registers.rflags = RFLAGS_RESERVED_BIT;
        vcpu.set_regs(&registers).map_err(refused("set its registers"))?;
        let start = Instant::now();
        match vcpu.run().map_err(refused("run a virtual CPU"))? {
            VcpuExit::Hlt => {}
            exit => {
                return Err(MeasureError::UnexpectedExit { exit: format!("{exit:?}") });
            }
        }
        let nanoseconds = start.elapsed().as_nanos().max(1);
        let speed = u128::from(LOOP_INSTRUCTIONS) * 1_000_000_000 / nanoseconds;
        best = best.max(u64::try_from(speed).unwrap_or(u64::MAX));
    }
    Ok(best)
}

fn refused(operation: &'static str) -> impl Fn(kvm_ioctls::Error) -> MeasureError {
    move |source| MeasureError::Refused { operation, source }
}

/// Where the loop lies in the guest's memory; any page but the first.
const CODE_ADDRESS: u64 = PAGE_BYTES as u64;

/// Bit 1 of RFLAGS is always set (Intel SDM, volume 1, 3.4.3).
const RFLAGS_RESERVED_BIT: u64 = 2;

/// `mov ecx, turns; again: dec ecx; jnz again; hlt` for 16-bit real mode.
fn loop_code(turns: u32) -> Vec<u8> {
    let mut code = vec![0x66, 0xb9];
    code.extend_from_slice(&turns.to_le_bytes());
    code.extend_from_slice(&[0x66, 0x49, 0x75, 0xfc, 0xf4]);
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_follows_from_the_measured_speed() {
        let probe = probe_kvm();
        match probe.instructions_per_second {
            Some(speed) => {
                assert_eq!(probe.usable, speed >= USABLE_INSTRUCTIONS_PER_SECOND);
                assert!(probe.exists && probe.readable && probe.writable);
            }
            None => assert!(!probe.usable),
        }
        assert!(!probe.reason.is_empty());
    }

    #[test]
    fn a_slow_cpu_is_called_emulated() {
        let reason = describe(Speed(1_234_567), false);
        assert!(reason.contains("1.2 million"), "{reason}");
        assert!(reason.contains("emulates"), "{reason}");
    }
}
