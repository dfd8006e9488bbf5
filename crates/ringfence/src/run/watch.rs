//! Whether certificate files have changed.
//!
//! ACME clients rename files into place (lego, acme.sh) or re-link them (certbot), some write them one after the other. So the
//! files are looked at by their paths, and read when they have stayed the same for one look.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::config::Config;

/// How often the files are looked at. A look is two system calls a certificate.
pub(super) const LOOK: Duration = Duration::from_secs(2);

/// The files of all certificates, as they are now: to be asked for before they are read, so that no change is missed.
pub(super) fn watch(config: &Config) -> Vec<Watched> {
    config.certificates.iter().map(|files| Watched::new(&files.chain, &files.key)).collect()
}

/// The two files of a certificate.
pub(super) struct Watched {
    chain: PathBuf,
    key: PathBuf,
    /// As they were when they were last read.
    read: State,
    /// As they were at the last look.
    seen: State,
}

/// What tells one content of a file from another: device, inode, size, and when it was last changed, to the nanosecond.
///
/// The change may also be one of owner or mode (`st_ctime`): a hook often lets us read a new file after it is in its place.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileState(Option<(u64, u64, u64, i64, i64)>);

type State = [FileState; 2];

impl Watched {
    /// Begins with the files as they are.
    pub(super) fn new(chain: &Path, key: &Path) -> Self {
        let state = [state(chain), state(key)];
        Self { chain: chain.to_owned(), key: key.to_owned(), read: state, seen: state }
    }

    /// Whether they have changed since they were read, and stayed as they are since the last look. Says so once.
    pub(super) fn has_changed(&mut self) -> bool {
        let before = std::mem::replace(&mut self.seen, [state(&self.chain), state(&self.key)]);
        let is_due = self.seen != self.read && self.seen == before;
        if is_due {
            self.read = self.seen;
        }
        is_due
    }
}

fn state(path: &Path) -> FileState {
    FileState(
        fs::metadata(path)
            .ok()
            .map(|file| (file.dev(), file.ino(), file.size(), file.ctime(), file.ctime_nsec())),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn looks(watched: &mut Watched, count: usize) -> Vec<bool> {
        (0..count).map(|_| watched.has_changed()).collect()
    }

    #[test]
    fn a_change_is_told_once_and_when_it_has_settled() {
        let folder = tempfile::tempdir().unwrap();
        let (chain, key) = (folder.path().join("chain"), folder.path().join("key"));
        fs::write(&chain, "one").unwrap();
        fs::write(&key, "one").unwrap();
        let mut watched = Watched::new(&chain, &key);
        assert_eq!(looks(&mut watched, 2), [false, false]);
        fs::write(&chain, "second").unwrap();
        assert!(!watched.has_changed());
        fs::write(&key, "second").unwrap();
        assert_eq!(looks(&mut watched, 3), [false, true, false]);
    }

    #[test]
    fn a_link_that_leads_elsewhere_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        for name in ["chain1", "chain2", "key"] {
            fs::write(file(name), "same").unwrap();
        }
        symlink(file("chain1"), file("live")).unwrap();
        let mut watched = Watched::new(&file("live"), &file("key"));
        symlink(file("chain2"), file("next")).unwrap();
        fs::rename(file("next"), file("live")).unwrap();
        assert_eq!(looks(&mut watched, 3), [false, true, false]);
    }

    #[test]
    fn a_file_that_is_away_for_a_moment_is_read_when_it_is_back() {
        let folder = tempfile::tempdir().unwrap();
        let (chain, key) = (folder.path().join("chain"), folder.path().join("key"));
        fs::write(&chain, "one").unwrap();
        fs::write(&key, "one").unwrap();
        let mut watched = Watched::new(&chain, &key);
        fs::remove_file(&chain).unwrap();
        assert!(!watched.has_changed());
        fs::write(&chain, "second").unwrap();
        assert_eq!(looks(&mut watched, 3), [false, true, false]);
    }
}
