//! What other processes may do with a file that is being written.

use std::fs::OpenOptions;
use std::path::Path;

/// Whether another process with this id exists. The own id counts as gone: `FileLock` rules out a
/// second writer in this process.
pub(super) fn alive(pid: u32) -> bool {
    pid != std::process::id() && Path::new("/proc").join(pid.to_string()).exists()
}

/// A name that others can guess is opened only where it is a file itself.
pub(super) fn no_link(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    }
    options
}
