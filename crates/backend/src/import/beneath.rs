//! Files of a directory that is somebody else's: what is opened is beneath it, whatever links say.
//!
//! Who may write to an old registry's storage must not read, through the new one, what only the importing user can. A link
//! within the directory is followed; one that leads out of it is refused, also if it is put there meanwhile: the kernel
//! judges as it walks (`openat2`, Linux 5.6). Where that can't be asked for, no link is followed at all.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path};
use std::sync::Arc;

use rustix::fs::{CWD, Dir, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

/// How often a path is opened again while directories are moved below it.
const ATTEMPTS_MAX: usize = 16;

/// A directory, and what is beneath it.
#[derive(Clone)]
pub(super) struct Beneath {
    root: Arc<OwnedFd>,
    can_resolve: bool,
}

impl Beneath {
    /// The operator names the directory: links on the way to it are followed.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let root = Arc::new(openat(CWD, directory, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?);
        let asked = openat2(&root, c".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::BENEATH);
        // Old kernels don't know it, and some sandboxes don't allow it.
        let can_resolve = !matches!(asked, Err(Errno::NOSYS | Errno::PERM | Errno::OPNOTSUPP));
        Ok(Self { root, can_resolve })
    }

    /// Opens a file to be read. What is none, a pipe for example, is refused and not waited for.
    pub(super) fn file(&self, path: &Path) -> io::Result<File> {
        let file = File::from(self.resolve(path, OFlags::NONBLOCK | OFlags::NOCTTY)?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no file")) }
    }

    /// What is known of a file or directory without opening it.
    pub(super) fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        File::from(self.resolve(path, OFlags::PATH)?).metadata()
    }

    /// The names in a directory, in order.
    pub(super) fn names(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let directory = self.resolve(path, OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory)? {
            let name = entry?.file_name().to_owned();
            if ![c".", c".."].contains(&name.as_c_str()) {
                names.push(OsString::from_vec(name.into_bytes()));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let opened = if self.can_resolve { self.ask_kernel(path, flags) } else { self.walk(path, flags) };
        opened.map_err(|errno| match errno {
            Errno::XDEV => io::Error::other("it is behind a link that leads out of the directory"),
            Errno::LOOP => io::Error::other("it is behind a link"),
            errno => errno.into(),
        })
    }

    fn ask_kernel(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut attempts = 0;
        loop {
            match openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                // Something was moved while the kernel looked.
                Err(Errno::AGAIN) if attempts < ATTEMPTS_MAX => attempts += 1,
                opened => return opened,
            }
        }
    }

    /// Segment by segment, each from the directory that the one before is. No link is followed.
    fn walk(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let mut at = openat(&self.root, c".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let mut segments = path.components().peekable();
        while let Some(segment) = segments.next() {
            let Component::Normal(name) = segment else { return Err(Errno::XDEV) };
            let is_last = segments.peek().is_none();
            let wanted = if is_last { flags } else { OFlags::PATH | OFlags::DIRECTORY };
            at = open_plain(&at, name, wanted)?;
        }
        Ok(at)
    }
}

/// Opens what is called so in a directory, unless it is a link. As a path alone a link would be opened itself, and as a
/// directory it would be none: both are told from a link here.
fn open_plain(directory: &OwnedFd, name: &OsStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let is_link = |opened: &OwnedFd| {
        let status = rustix::fs::fstat(opened)?;
        Ok::<_, Errno>(rustix::fs::FileType::from_raw_mode(status.st_mode) == rustix::fs::FileType::Symlink)
    };
    let looked_at = openat(directory.as_fd(), name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if is_link(&looked_at)? {
        return Err(Errno::LOOP);
    }
    openat(directory.as_fd(), name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    /// A directory `in` beside a secret, and the two ways of looking into it.
    fn place() -> (tempfile::TempDir, PathBuf, [Beneath; 2]) {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("in");
        std::fs::create_dir_all(inside.join("images/a")).unwrap();
        std::fs::write(directory.path().join("secret"), "root:$6$").unwrap();
        std::fs::write(inside.join("images/a/layer"), "layer").unwrap();
        let by_kernel = Beneath::open(&inside).unwrap();
        let by_hand = Beneath { can_resolve: false, ..by_kernel.clone() };
        (directory, inside, [by_kernel, by_hand])
    }

    fn read(beneath: &Beneath, path: &str) -> io::Result<String> {
        io::read_to_string(beneath.file(Path::new(path))?)
    }

    #[test]
    fn what_is_beneath_is_read_and_listed() {
        let (_directory, inside, both) = place();
        std::fs::write(inside.join("images/b"), "").unwrap();
        for beneath in both {
            assert_eq!(read(&beneath, "images/a/layer").unwrap(), "layer");
            assert_eq!(beneath.names(Path::new("images")).unwrap(), ["a", "b"]);
            assert!(beneath.metadata(Path::new("images/a")).unwrap().is_dir());
            assert_eq!(beneath.metadata(Path::new("images/a/layer")).unwrap().len(), 5);
            for missing in ["images/c", "images/c/layer"] {
                assert_eq!(read(&beneath, missing).unwrap_err().kind(), io::ErrorKind::NotFound, "{missing}");
            }
            assert!(read(&beneath, "images/a").unwrap_err().to_string().contains("no file"));
        }
    }

    #[test]
    fn no_link_leads_out() {
        let (directory, inside, both) = place();
        symlink(directory.path().join("secret"), inside.join("absolute")).unwrap();
        symlink("../secret", inside.join("relative")).unwrap();
        symlink("..", inside.join("parent")).unwrap();
        symlink("/proc/self/root/etc/passwd", inside.join("magic")).unwrap();
        symlink("/", inside.join("images/root")).unwrap();
        symlink("images/nowhere", inside.join("dangling")).unwrap();
        for beneath in both {
            for path in ["absolute", "relative", "parent/secret", "magic", "images/root/etc/passwd", "../secret", "images/../../secret"] {
                let refused = read(&beneath, path).unwrap_err();
                assert!(refused.to_string().contains("behind a link"), "{path}: {refused}");
                let refused = beneath.metadata(Path::new(path)).unwrap_err();
                assert!(refused.to_string().contains("behind a link"), "{path}: {refused}");
            }
            assert!(beneath.names(Path::new("parent")).is_err() && beneath.names(Path::new("images/root")).is_err());
            assert!(read(&beneath, &directory.path().join("secret").display().to_string()).is_err());
            assert!(read(&beneath, "dangling").is_err());
        }
    }

    #[test]
    fn a_link_within_is_followed_where_the_kernel_can_tell() {
        let (_directory, inside, [by_kernel, by_hand]) = place();
        symlink("a", inside.join("images/b")).unwrap();
        if by_kernel.can_resolve {
            assert_eq!(read(&by_kernel, "images/b/layer").unwrap(), "layer");
        }
        assert!(read(&by_hand, "images/b/layer").unwrap_err().to_string().contains("behind a link"));
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let (_directory, inside, both) = place();
        rustix::fs::mkfifoat(CWD, inside.join("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
        for beneath in both {
            assert!(read(&beneath, "pipe").unwrap_err().to_string().contains("no file"));
        }
    }
}
