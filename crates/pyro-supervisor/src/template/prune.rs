//! Deleting templates, without disturbing whoever makes one or starts from one.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::key::TemplateKey;
use super::store::{DELETED, LOCKS, PARTIAL, TemplateStore, remove_if_there};

/// All templates together, in bytes on disk: some thirty of the default shape.
const TEMPLATES_BYTES_MAX: u64 = 4 << 30;

/// A template that was not used for this long is deleted.
const UNUSED_MAX: Duration = Duration::from_hours(30 * 24);

/// The templates that were deleted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PrunedTemplates {
    /// Of templates, and of what dead makers left.
    pub deleted_dirs: Vec<PathBuf>,
    pub freed_bytes: u64,
}

/// How many templates there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TemplateCount {
    pub count: usize,
    /// All of them together.
    pub bytes: u64,
    /// Those of which no environment makes use.
    pub unusable: usize,
}

/// The templates could not be pruned.
#[derive(Debug, thiserror::Error)]
#[error("cannot delete from the templates at `{}`", root.display())]
pub struct PruneTemplatesError {
    root: PathBuf,
    source: io::Error,
}

/// Deletes templates of environments whose digest is not wanted, what was not used for 30 days, what
/// was used least recently beyond 4 GiB, and what dead makers left.
///
/// A template in the making stays, and VMs that run keep what they have.
pub fn prune_templates(
    root: &Path,
    is_wanted: &dyn Fn(&str) -> bool,
) -> Result<PrunedTemplates, PruneTemplatesError> {
    TemplateStore::at(root)
        .prune(is_wanted)
        .map_err(|source| PruneTemplatesError { root: root.to_owned(), source })
}

/// Deletes templates of environments whose digest is not wanted, and what dead makers left: what nobody can use. Otherwise
/// as [`prune_templates`].
pub fn remove_unusable_templates(
    root: &Path,
    is_wanted: &dyn Fn(&str) -> bool,
) -> Result<PrunedTemplates, PruneTemplatesError> {
    TemplateStore::at(root)
        .remove_unusable(is_wanted)
        .map_err(|source| PruneTemplatesError { root: root.to_owned(), source })
}

/// Counts templates, those of environments whose digest is not wanted apart.
pub fn count_templates(root: &Path, is_wanted: &dyn Fn(&str) -> bool) -> io::Result<TemplateCount> {
    let mut count = TemplateCount::default();
    for template in TemplateStore::at(root).published()? {
        count.count += 1;
        count.bytes += template.bytes;
        if !template.is_usable(is_wanted) {
            count.unusable += 1;
        }
    }
    Ok(count)
}

/// The directories that were left by processes that were killed while they made or deleted a template.
/// [`prune_templates`] deletes them.
pub fn abandoned_templates(root: &Path) -> io::Result<Vec<PathBuf>> {
    TemplateStore::at(root).abandoned()
}

/// A published template.
struct Published {
    key: TemplateKey,
    used_at: SystemTime,
    bytes: u64,
    /// The digest; none where the template is damaged, or of another format.
    environment: Option<String>,
}

impl Published {
    fn is_usable(&self, is_wanted: &dyn Fn(&str) -> bool) -> bool {
        self.environment.as_deref().is_some_and(is_wanted)
    }
}

impl TemplateStore {
    /// Deletes as [`remove_unusable_templates`] says.
    fn remove_unusable(&self, is_wanted: &dyn Fn(&str) -> bool) -> io::Result<PrunedTemplates> {
        let mut pruned = PrunedTemplates::default();
        self.delete_remains(&mut pruned)?;
        for template in self.published()? {
            if !template.is_usable(is_wanted) {
                self.delete(&template.key, &mut pruned)?;
            }
        }
        self.delete_locks()?;
        Ok(pruned)
    }

    /// Deletes as [`prune_templates`] says.
    pub(crate) fn prune(&self, is_wanted: &dyn Fn(&str) -> bool) -> io::Result<PrunedTemplates> {
        let mut pruned = PrunedTemplates::default();
        self.delete_remains(&mut pruned)?;
        let mut templates = self.published()?;
        templates.sort_by_key(|template| std::cmp::Reverse(template.used_at));
        let mut kept_bytes = 0;
        for template in templates {
            let is_old = template.used_at.elapsed().is_ok_and(|unused| unused > UNUSED_MAX);
            if !is_old && template.is_usable(is_wanted) {
                kept_bytes += template.bytes;
                if kept_bytes <= TEMPLATES_BYTES_MAX {
                    continue;
                }
            }
            self.delete(&template.key, &mut pruned)?;
        }
        self.delete_locks()?;
        Ok(pruned)
    }

    fn abandoned(&self) -> io::Result<Vec<PathBuf>> {
        let mut abandoned = Vec::new();
        for parent in [PARTIAL, DELETED].map(|name| self.root.join(name)) {
            for key in keys(&parent, "")? {
                let directory = parent.join(key.to_string());
                // It may have been published, or deleted, before its lock was looked at.
                if self.is_unlocked(&key)? && directory.exists() {
                    abandoned.push(directory);
                }
            }
        }
        Ok(abandoned)
    }

    /// Deletes what was left by processes that died while they made or deleted a template.
    fn delete_remains(&self, pruned: &mut PrunedTemplates) -> io::Result<()> {
        for parent in [PARTIAL, DELETED].map(|name| self.root.join(name)) {
            for key in keys(&parent, "")? {
                let directory = parent.join(key.to_string());
                if let Some(_lock) = self.try_lock(&key)? {
                    let bytes = bytes_in(&directory);
                    remove_if_there(&directory)?;
                    pruned.add(directory, bytes);
                }
            }
        }
        Ok(())
    }

    fn published(&self) -> io::Result<Vec<Published>> {
        let published = |key: TemplateKey| {
            let directory = self.directory(&key);
            let state = fs_err::metadata(directory.join("state"));
            let used_at = state.and_then(|state| state.modified());
            Published {
                used_at: used_at.unwrap_or(SystemTime::UNIX_EPOCH),
                bytes: bytes_in(&directory),
                environment: fs_err::read_to_string(directory.join("environment")).ok(),
                key,
            }
        };
        Ok(keys(&self.root, "")?.map(published).collect())
    }

    /// Deletes a template, unless someone makes or deletes it at this moment.
    fn delete(&self, key: &TemplateKey, pruned: &mut PrunedTemplates) -> io::Result<()> {
        let directory = self.directory(key);
        if let Some(lock) = self.try_lock(key)?
            && directory.exists()
        {
            let bytes = bytes_in(&directory);
            self.remove(key, &lock)?;
            pruned.add(directory, bytes);
        }
        Ok(())
    }

    /// Deletes the locks of templates that are gone.
    fn delete_locks(&self) -> io::Result<()> {
        for key in keys(&self.root.join(LOCKS), ".lock")? {
            if let Some(lock) = self.try_lock(&key)?
                && !self.directory(&key).exists()
            {
                lock.delete()?;
            }
        }
        Ok(())
    }
}

impl PrunedTemplates {
    fn add(&mut self, directory: PathBuf, bytes: u64) {
        self.deleted_dirs.push(directory);
        self.freed_bytes += bytes;
    }
}

/// The keys that, with `suffix`, are names in `directory`. Whatever else is in there is not ours.
fn keys(directory: &Path, suffix: &str) -> io::Result<impl Iterator<Item = TemplateKey>> {
    let names: Vec<_> = match fs_err::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    Ok(names
        .into_iter()
        .filter_map(move |name| TemplateKey::from_name(name.to_str()?.strip_suffix(suffix)?)))
}

/// What the files of a template take; what cannot be looked at counts as nothing.
fn bytes_in(directory: &Path) -> u64 {
    let Ok(entries) = fs_err::read_dir(directory) else { return 0 };
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::super::store::tests::{ENVIRONMENT, lock, make, store};
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs_err::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_store_that_does_not_exist_holds_nothing_to_prune() {
        let (_directory, store) = store();
        assert_eq!(store.abandoned().unwrap(), Vec::<PathBuf>::new());
        assert_eq!(store.prune(&|_| false).unwrap(), PrunedTemplates::default());
        assert!(!store.root.exists());
    }

    #[test]
    fn pruning_deletes_what_a_dead_maker_left_and_leaves_a_live_one_alone() {
        let (_directory, store) = store();
        let [live, dead] = ['a', 'b'].map(TemplateKey::for_test);
        let live_lock = lock(&store, &live);
        let live_partial = store.begin(&live, ENVIRONMENT, &live_lock).unwrap();
        let dead_lock = lock(&store, &dead);
        let dead_partial = store.begin(&dead, ENVIRONMENT, &dead_lock).unwrap();
        let dead_directory = dead_partial.files.directory.clone();
        // As a killed process would: the directory stays, the lock goes.
        std::mem::forget(dead_partial);
        drop(dead_lock);

        assert_eq!(store.abandoned().unwrap(), [dead_directory.as_path()]);
        assert!(dead_directory.exists(), "looking deletes nothing");
        let pruned = store.prune(&|_| false).unwrap();

        assert_eq!(pruned.deleted_dirs, [dead_directory]);
        assert_eq!(store.abandoned().unwrap(), Vec::<PathBuf>::new());
        assert!(live_partial.files.directory.exists());
        assert!(store.try_lock(&live).unwrap().is_none());
        assert_eq!(names(&store.root.join(LOCKS)), [format!("{live}.lock")]);
    }

    #[test]
    fn pruning_deletes_what_was_not_used_for_long() {
        let (_directory, store) = store();
        let [old, new] = ['a', 'b'].map(TemplateKey::for_test);
        make(&store, &old);
        make(&store, &new);
        let state = fs_err::File::open(store.directory(&old).join("state")).unwrap();
        state.file().set_modified(SystemTime::now() - 2 * UNUSED_MAX).unwrap();

        store.prune(&|_| true).unwrap();

        assert!(store.open(&old).unwrap().is_none());
        assert!(store.open(&new).unwrap().is_some());
    }

    #[test]
    fn pruning_keeps_the_most_recently_used_within_the_space_for_templates() {
        let (_directory, store) = store();
        let now = SystemTime::now();
        let mut keys = ['a', 'b', 'c'].map(TemplateKey::for_test);
        for (age_hours, key) in (1..).zip(&keys) {
            make(&store, key);
            let memory = store.directory(key).join("memory");
            let memory = fs_err::OpenOptions::new().write(true).open(memory).unwrap();
            memory.set_len(TEMPLATES_BYTES_MAX / 5 * 2).unwrap();
            let state = fs_err::File::open(store.directory(key).join("state")).unwrap();
            state.file().set_modified(now - Duration::from_hours(age_hours)).unwrap();
        }

        let pruned = store.prune(&|_| true).unwrap();

        keys.reverse();
        assert_eq!(pruned.deleted_dirs, [store.directory(&keys[0])]);
    }

    #[test]
    fn pruning_deletes_the_templates_of_environments_that_are_gone() {
        let (_directory, store) = store();
        let key = TemplateKey::for_test('a');
        make(&store, &key);
        assert_eq!(
            store.prune(&|digest| digest == ENVIRONMENT).unwrap(),
            PrunedTemplates::default()
        );

        let pruned = store.prune(&|digest| digest != ENVIRONMENT).unwrap();

        assert_eq!(pruned.deleted_dirs, [store.directory(&key)]);
        assert_eq!(pruned.freed_bytes, ("memory".len() + ENVIRONMENT.len()) as u64);
        assert!(store.open(&key).unwrap().is_none());
        for name in [PARTIAL, DELETED, LOCKS] {
            assert_eq!(names(&store.root.join(name)), Vec::<String>::new(), "{name}");
        }
    }

    #[test]
    fn only_what_nobody_can_use_is_unusable() {
        let (_directory, store) = store();
        let [usable, damaged] = ['a', 'b'].map(TemplateKey::for_test);
        make(&store, &usable);
        make(&store, &damaged);
        fs_err::remove_file(store.directory(&damaged).join("environment")).unwrap();
        let state = fs_err::File::open(store.directory(&usable).join("state")).unwrap();
        state.file().set_modified(SystemTime::now() - 2 * UNUSED_MAX).unwrap();
        let is_wanted = |digest: &str| digest == ENVIRONMENT;
        let count = count_templates(&store.root, &is_wanted).unwrap();
        assert_eq!((count.count, count.unusable), (2, 1));

        let removed = remove_unusable_templates(&store.root, &is_wanted).unwrap();

        assert_eq!(removed.deleted_dirs, [store.directory(&damaged)]);
        assert!(store.open(&usable).unwrap().is_some(), "it is only old");
        assert_eq!(count_templates(&store.root, &|_| false).unwrap().unusable, 1);
    }

    #[test]
    fn pruning_leaves_a_template_alone_that_someone_has_locked() {
        let (_directory, store) = store();
        let key = TemplateKey::for_test('a');
        make(&store, &key);
        let _lock = lock(&store, &key);
        store.prune(&|_| false).unwrap();
        assert!(store.open(&key).unwrap().is_some());
    }

    #[test]
    fn pruning_leaves_alone_what_is_no_template() {
        let (_directory, store) = store();
        let stranger = store.root.join("stranger");
        fs_err::create_dir_all(&stranger).unwrap();
        store.prune(&|_| false).unwrap();
        assert!(stranger.exists());
    }
}
