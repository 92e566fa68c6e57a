//! Which names the guest has looked up, and which addresses they have: how a rule for a name reaches packets.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// Addresses whose names are known; the oldest are forgotten first.
const ADDRESSES_MAX: usize = 4096;

/// Names of one address; one that is shared by more keeps the latest.
const NAMES_MAX: usize = 16;

/// Names by address. What was once found stays: programs keep addresses for longer than name servers
/// allow, and a VM's life is short.
#[derive(Debug, Default)]
pub(crate) struct Names {
    by_address: HashMap<IpAddr, Vec<String>>,
    /// In the order in which they were first found.
    addresses: VecDeque<IpAddr>,
}

impl Names {
    /// Notes that `name`, in lower case and without a dot at its end, was looked up and has this address.
    pub(crate) fn learn(&mut self, name: &str, address: IpAddr) {
        let names = self.by_address.entry(address).or_insert_with(|| {
            self.addresses.push_back(address);
            Vec::new()
        });
        names.retain(|known| known != name);
        if names.len() == NAMES_MAX {
            names.remove(0);
        }
        names.push(name.to_owned());
        if self.addresses.len() > ADDRESSES_MAX
            && let Some(oldest) = self.addresses.pop_front()
        {
            self.by_address.remove(&oldest);
        }
    }

    /// The names of an address, the latest last.
    pub(crate) fn of(&self, address: IpAddr) -> &[String] {
        self.by_address.get(&address).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn an_address_has_the_names_that_were_looked_up() {
        let mut names = Names::default();
        let address = IpAddr::from([192, 0, 2, 1]);
        names.learn("a.test", address);
        names.learn("b.test", address);
        names.learn("a.test", address);
        assert_eq!(names.of(address), ["b.test", "a.test"]);
        assert!(names.of(IpAddr::from([192, 0, 2, 2])).is_empty());
    }

    #[test]
    fn a_guest_that_looks_up_without_end_fills_no_memory() {
        let mut names = Names::default();
        let address = |index| IpAddr::from(Ipv4Addr::from_bits(index));
        for index in 0..10_000 {
            names.learn("many.test", address(index));
            names.learn(&format!("{index}.test"), address(1 << 31));
        }
        assert_eq!(names.by_address.len(), names.addresses.len());
        assert!(names.by_address.len() <= ADDRESSES_MAX);
        assert_eq!(names.of(address(9_999)), ["many.test"]);
    }
}
