//! Environments that were damaged after they were published.

use std::path::Path;

use pyro_environments::{Damage, EnvironmentState, Store};

use crate::puller::PullRequest;
use crate::store::{base, copy_of_shared_store, installed};

fn damage_of(store: &Path) -> Damage {
    match Store::at(store).inspect(base()).unwrap() {
        EnvironmentState::Damaged(damage) => damage,
        state => panic!("not damaged: {state:?}"),
    }
}

/// Changes one byte in the middle of the file.
fn flip_a_byte(path: &Path) {
    let mut bytes = fs_err::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs_err::write(path, bytes).unwrap();
}

#[test]
fn every_damage_is_found_and_the_next_pull_heals_it() {
    let (_scratch, store) = copy_of_shared_store();
    let before = installed(&store);

    fs_err::remove_file(&before.kernel.modules[0]).unwrap();
    assert!(matches!(damage_of(&store), Damage::Missing { .. }));
    flip_a_byte(&before.rootfs_image);
    assert!(matches!(damage_of(&store), Damage::Altered { .. }));
    let file = fs_err::File::options().write(true).open(&before.rootfs_image).unwrap();
    file.set_len(4096).unwrap();
    assert!(matches!(damage_of(&store), Damage::Altered { .. }));
    fs_err::remove_file(&before.rootfs_image).unwrap();
    assert!(matches!(damage_of(&store), Damage::Missing { .. }));

    let ended = PullRequest::into(&store).start().end();
    let after = installed(&store);
    assert_eq!(ended.installed(), after.image_digest.to_string());
    assert!(after.kernel.modules[0].exists());
    // The archive may have changed in between; the same packages always give
    // the same image.
    assert_eq!(before.packages == after.packages, before.image_digest == after.image_digest);
}

#[test]
fn a_pull_of_what_is_installed_reads_it_and_builds_nothing() {
    let (_scratch, store) = copy_of_shared_store();
    let ended = PullRequest::into(&store).start().end();
    assert_eq!(ended.lines[0], "Verifying");
    assert_eq!(ended.lines.len(), 2, "{:#?}", ended.lines);
}
