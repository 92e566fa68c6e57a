//! How many VMs run at once: more than this, and emulated ones are only slow.

use std::sync::{Condvar, Mutex};

const SLOTS: usize = 2;

static FREE: Mutex<usize> = Mutex::new(SLOTS);
static FREED: Condvar = Condvar::new();

/// The right to run VMs, until it is dropped.
#[derive(Debug)]
pub(crate) struct Slots(usize);

impl Slots {
    /// Waits until `count` VMs may run. A test that needs more than there are slots gets them all.
    pub(crate) fn acquire(count: usize) -> Self {
        let count = count.min(SLOTS);
        let free = FREE.lock().unwrap();
        let mut free = FREED.wait_while(free, |free| *free < count).unwrap();
        *free -= count;
        Self(count)
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        *FREE.lock().unwrap() += self.0;
        FREED.notify_all();
    }
}
