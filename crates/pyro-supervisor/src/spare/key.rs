//! What a spare depends on, as one name: whatever is settled before somebody claims it.

use pyro_protocol::client::{LaunchSpec, StartPolicy};
use sha2::{Digest, Sha256};

use crate::template::key::{KeyError, TemplateKey, hex};

/// The name that all spares have in common that can stand in for each other: 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SpareKey(String);

impl SpareKey {
    /// Changes with what is said to a spare.
    const FORMAT: u32 = 2;

    /// `None` for a VM that is to be booted.
    pub(crate) fn of(spec: &LaunchSpec) -> Result<Option<Self>, KeyError> {
        let StartPolicy::Restore { warm_up, .. } = &spec.start else { return Ok(None) };
        let template = TemplateKey::of(spec, warm_up)?;
        let mut hasher = Sha256::new();
        // The supervisor of a spare comes from the executable of its owner, which may be another one.
        hasher.update(format!("{} {}\n", Self::FORMAT, env!("CARGO_PKG_VERSION")));
        hasher.update(format!("{template}\n"));
        let confinement = spec.confinement;
        hasher.update(format!("{:?} {:?}\n", confinement.identity, confinement.namespaces));
        Ok(Some(Self(hex(&hasher.finalize()))))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use pyro_protocol::client::{
        Accelerator, Confinement, Lifetime, Namespaces, QemuIdentity, StartPolicy,
    };
    use pyro_protocol::network::NetworkSpec;

    use super::*;

    fn spec() -> LaunchSpec {
        LaunchSpec {
            vm_id: "0123456789ab".to_owned(),
            vcpu_count: 1,
            memory_mib: 1024,
            time_to_live: Duration::from_mins(1),
            lifetime: Lifetime::Client,
            accelerator: Accelerator::Tcg,
            confinement: Confinement {
                identity: QemuIdentity::Nobody,
                namespaces: Namespaces::All,
            },
            // Any file that is there.
            qemu: "/proc/self/exe".into(),
            mke2fs: PathBuf::new(),
            start: StartPolicy::Restore { templates: PathBuf::new(), warm_up: Vec::new() },
            kernel_image: PathBuf::new(),
            kernel_modules: Vec::new(),
            rootfs_image: PathBuf::new(),
            environment_digest: "digest".to_owned(),
            network: None,
            guest_files: Vec::new(),
            scratch_directory: PathBuf::new(),
        }
    }

    fn network(port: u16) -> NetworkSpec {
        let resolvers = vec![([127, 0, 0, 1], port).into()];
        NetworkSpec { policies: Vec::new(), published: Vec::new(), resolvers }
    }

    #[test]
    fn what_is_settled_by_the_claim_is_no_part_of_the_key() {
        let key = |spec: &LaunchSpec| SpareKey::of(spec).unwrap().unwrap();
        let of_one = key(&LaunchSpec { network: Some(network(1)), ..spec() });
        let other = LaunchSpec {
            vm_id: "ba9876543210".to_owned(),
            time_to_live: Duration::from_hours(1),
            network: Some(network(2)),
            ..spec()
        };
        assert_eq!(of_one, key(&other));
    }

    #[test]
    fn whatever_a_machine_has_from_its_start_makes_another_key() {
        let key = |spec: &LaunchSpec| SpareKey::of(spec).unwrap();
        let plain = key(&spec());
        let weaker = Confinement { identity: QemuIdentity::Caller, namespaces: Namespaces::All };
        for other in [
            LaunchSpec { network: Some(network(1)), ..spec() },
            LaunchSpec { confinement: weaker, ..spec() },
            LaunchSpec { memory_mib: 2048, ..spec() },
            LaunchSpec { environment_digest: "other".to_owned(), ..spec() },
        ] {
            assert_ne!(key(&other), plain, "{other:?}");
        }
        assert_eq!(key(&LaunchSpec { start: StartPolicy::ColdBoot, ..spec() }), None);
    }
}
