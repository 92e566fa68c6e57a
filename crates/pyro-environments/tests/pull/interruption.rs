//! Pulls that are killed, given up, or happen twice at once.

use std::path::PathBuf;
use std::sync::Mutex;

use pyro_environments::{ArchiveSettings, PullMode, PullProgress, Store, pull};
use tokio::sync::Notify;

use crate::puller::{PullRequest, TOOL_PATH};
use crate::store::{
    assert_nothing_visible, base, entries, installed, scratch_directory, store_with_kernel,
};
use crate::traces::{assert_no_mount_in, processes_working_in, wait_until_no_process_works_in};

#[test]
fn a_killed_pull_leaves_nothing_visible_and_the_next_one_cleans_up() {
    let scratch = scratch_directory();
    let store = scratch.path().join("store");
    for point in ["Downloading { artefact: Kernel", "Installing", "WritingImage"] {
        let mut puller = PullRequest::into(&store).start();
        puller.wait_for(point);
        puller.kill();
        wait_until_no_process_works_in(&store);
        assert_no_mount_in(&store);
        assert_nothing_visible(&store);
        assert_eq!(entries(&store.join("partial")).len(), 1, "only the last one's, at {point}");
    }

    let ended = PullRequest::into(&store).start().end();
    assert_eq!(ended.installed(), installed(&store).image_digest.to_string());
    assert_eq!(entries(&store.join("partial")), Vec::<PathBuf>::new());
}

#[test]
fn of_two_pulls_at_once_one_builds_and_both_succeed() {
    let (_scratch, store) = store_with_kernel();
    let mut first = PullRequest::into(&store).start();
    first.wait_for("UpdatingPackageLists");
    let mut second = PullRequest::into(&store).start();
    let waiting = second.wait_for("Waiting");
    assert!(waiting.contains(&format!("holder_pid: Some({})", first.id())), "{waiting}");

    let (first, second) = (first.end(), second.end());
    assert_eq!(first.installed(), second.installed());
    assert!(!second.has_line("Installing"), "the second one built as well");
    assert_eq!(entries(&store.join("images")).len(), 1);
}

#[test]
fn a_pull_that_is_given_up_has_ended_when_its_future_is_dropped() {
    let (_scratch, path) = store_with_kernel();
    let store = Store::at(&path);
    let archive = ArchiveSettings::new(Vec::new(), None, TOOL_PATH.into()).unwrap();
    let seen = Mutex::new(Vec::new());
    let is_under_way = Notify::new();
    let report = |event: PullProgress| {
        if let PullProgress::Installing { .. } = event {
            is_under_way.notify_one();
        }
        seen.lock().unwrap().push(event);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        tokio::select! {
            outcome = pull(&store, base(), &archive, PullMode::IfMissing, &report) => {
                panic!("it was not given up: {outcome:?}, {:?}", seen.lock().unwrap());
            }
            () = is_under_way.notified() => {}
        }
    });
    assert_eq!(processes_working_in(&path), []);
    assert_eq!(entries(&path.join("partial")), Vec::<PathBuf>::new());
    assert_nothing_visible(&path);
}
