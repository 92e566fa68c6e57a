//! Which kernel modules a VM needs, and in which order they go in.
//!
//! The package holds no `modules.dep`: `depmod` makes that on installation.
//! It reads the `.modinfo` section of each module, and so does this.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What the guest's agent must have: transports, disks, console, network,
/// entropy, the file systems of its root, and the checksums ext4 asks for.
/// A module that the kernel has built in is fine as well.
pub(crate) const WANTED: [&str; 9] = [
    "virtio_mmio",
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "squashfs",
    "overlay",
    "libcrc32c",
];

/// A module and its place in the package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    pub name: String,
    pub path: PathBuf,
}

/// Modules that cannot be put in order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModuleError {
    #[error("it has no module `{name}`")]
    Missing { name: String },

    #[error("module `{name}` is not an ELF file with a `.modinfo` section")]
    NoModinfo { name: String },

    #[error("module `{name}` depends on itself")]
    Cycle { name: String },
}

/// The name that the kernel knows a module file by: `virtio-rng.ko` is
/// `virtio_rng`.
pub(crate) fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.strip_suffix(".ko")?;
    Some(name.replace('-', "_"))
}

/// The names in `modules.builtin`, which has one path per line.
pub(crate) fn builtin_names(listing: &str) -> BTreeSet<String> {
    listing.lines().filter_map(|line| module_name(Path::new(line))).collect()
}

/// `wanted` and everything it depends on, dependencies first.
pub(crate) fn insertion_order(
    wanted: &[&str],
    available: &BTreeMap<String, PathBuf>,
    builtin: &BTreeSet<String>,
    dependencies_of: &mut dyn FnMut(&Module) -> Result<Vec<String>, ModuleError>,
) -> Result<Vec<Module>, ModuleError> {
    let mut order =
        Order { available, builtin, dependencies_of, entered: Vec::new(), done: Vec::new() };
    for name in wanted {
        order.visit(name)?;
    }
    Ok(order.done)
}

struct Order<'a> {
    available: &'a BTreeMap<String, PathBuf>,
    builtin: &'a BTreeSet<String>,
    dependencies_of: &'a mut dyn FnMut(&Module) -> Result<Vec<String>, ModuleError>,
    /// The chain of modules whose dependencies are being visited.
    entered: Vec<String>,
    done: Vec<Module>,
}

impl Order<'_> {
    /// As deep as the longest chain of distinct modules, which ends at a
    /// cycle: a few thousand frames at worst.
    fn visit(&mut self, name: &str) -> Result<(), ModuleError> {
        if self.builtin.contains(name) || self.done.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let name = name.to_owned();
        if self.entered.contains(&name) {
            return Err(ModuleError::Cycle { name });
        }
        let Some(path) = self.available.get(&name) else {
            return Err(ModuleError::Missing { name });
        };
        let module = Module { name: name.clone(), path: path.clone() };
        self.entered.push(name);
        for dependency in (self.dependencies_of)(&module)? {
            self.visit(&dependency)?;
        }
        self.entered.pop();
        self.done.push(module);
        Ok(())
    }
}

/// The modules that a module file says it needs. Its soft dependencies name
/// algorithms, which the kernel finds or loads by itself.
pub(crate) fn dependencies(elf: &[u8]) -> Option<Vec<String>> {
    let modinfo = section(elf, b".modinfo")?;
    let entries = modinfo.split(|&byte| byte == 0).filter_map(|entry| str::from_utf8(entry).ok());
    let names = entries.filter_map(|entry| entry.strip_prefix("depends="));
    Some(
        names
            .flat_map(|names| names.split(','))
            .filter(|name| !name.is_empty())
            .map(normal)
            .collect(),
    )
}

fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// The content of the section `name` of a 64-bit little-endian ELF file.
fn section<'a>(elf: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = u64_at(elf, 0x28)?;
    let entry_bytes = u16_at(elf, 0x3a)?;
    let count = u16_at(elf, 0x3c)?;
    let names_index = u16_at(elf, 0x3e)?;
    let header = |index: usize| elf.get(table.checked_add(index.checked_mul(entry_bytes)?)?..);
    let content = |header: &[u8]| {
        let start = u64_at(header, 0x18)?;
        elf.get(start..start.checked_add(u64_at(header, 0x20)?)?)
    };
    let names = content(header(names_index)?)?;
    (0..count).filter_map(header).find_map(|header| {
        let own_name = names.get(u32_at(header, 0)?..)?.split(|&byte| byte == 0).next()?;
        (own_name == name).then(|| content(header))?
    })
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<usize> {
    Some(u16::from_le_bytes(*bytes.get(offset..)?.first_chunk()?).into())
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?)).ok()
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An ELF file with a `.modinfo` section and the table of section names.
    fn module(modinfo: &[u8]) -> Vec<u8> {
        const NAMES: &[u8] = b"\0.modinfo\0.shstrtab\0";
        let mut elf = vec![0; 0x40];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let names_start = elf.len();
        elf.extend_from_slice(NAMES);
        let modinfo_start = elf.len();
        elf.extend_from_slice(modinfo);
        let table = elf.len();
        for (name, start, length) in
            [(1u32, modinfo_start, modinfo.len()), (10, names_start, NAMES.len())]
        {
            let mut header = [0; 0x40];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(start as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(length as u64).to_le_bytes());
            elf.extend_from_slice(&header);
        }
        elf[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
        elf[0x3a] = 0x40;
        elf[0x3c] = 2;
        elf[0x3e] = 1;
        elf
    }

    fn order(
        wanted: &[&str],
        edges: &[(&str, &[&str])],
        builtin: &[&str],
    ) -> Result<Vec<String>, ModuleError> {
        let path = |name: &str| PathBuf::from(format!("kernel/{name}.ko"));
        let available = edges.iter().map(|&(name, _)| (name.to_owned(), path(name))).collect();
        let builtin = builtin.iter().map(|&name| name.to_owned()).collect();
        let mut dependencies_of = |module: &Module| {
            let (_, names) = edges.iter().find(|&&(name, _)| name == module.name).unwrap();
            Ok(names.iter().map(|&name| name.to_owned()).collect())
        };
        let modules = insertion_order(wanted, &available, &builtin, &mut dependencies_of)?;
        Ok(modules.into_iter().map(|module| module.name).collect())
    }

    #[test]
    fn dependencies_come_before_what_needs_them_and_only_once() {
        let edges: &[(&str, &[&str])] =
            &[("net", &["ring", "failover"]), ("blk", &["ring"]), ("ring", &[]), ("failover", &[])];
        assert_eq!(order(&["net", "blk"], edges, &[]).unwrap(), ["ring", "failover", "net", "blk"]);
    }

    #[test]
    fn what_is_built_in_is_left_out() {
        assert_eq!(order(&["blk"], &[("blk", &["ring"])], &["ring"]).unwrap(), ["blk"]);
    }

    #[test]
    fn a_missing_module_and_a_cycle_are_errors_by_name() {
        let missing = ModuleError::Missing { name: "ring".to_owned() };
        assert_eq!(order(&["blk"], &[("blk", &["ring"])], &[]), Err(missing));
        let cycle = ModuleError::Cycle { name: "a".to_owned() };
        assert_eq!(order(&["a"], &[("a", &["b"]), ("b", &["a"])], &[]), Err(cycle));
    }

    #[test]
    fn the_dependencies_are_read_from_the_module_itself() {
        let elf = module(b"license=GPL\0depends=virtio,virtio-ring\0softdep=pre: crc32c post: x\0");
        let expected = vec!["virtio".to_owned(), "virtio_ring".to_owned()];
        assert_eq!(dependencies(&elf), Some(expected));
    }

    #[test]
    fn built_in_modules_are_read_from_their_listing() {
        let names = builtin_names("kernel/crypto/crc32c_generic.ko\nkernel/x/virtio-rng.ko\n\n");
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["crc32c_generic", "virtio_rng"]);
    }

    proptest! {
        #[test]
        fn a_damaged_module_never_makes_it_panic(
            position: prop::sample::Index,
            value: u8,
            keep: prop::sample::Index,
        ) {
            let mut elf = module(b"depends=virtio\0");
            let position = position.index(elf.len());
            elf[position] = value;
            elf.truncate(keep.index(elf.len()) + 1);
            dependencies(&elf);
        }
    }
}
