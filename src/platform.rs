//! What depends on the operating system, each with a fallback. Linux is the platform; elsewhere the host runs with
//! coarser clocks and without the page scan.

mod swap;

pub use swap::swap_possible;

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// CPU time that the calling thread has used so far (`CLOCK_THREAD_CPUTIME_ID`, `clock_gettime(2)`). Only differences of
/// two readings on one thread mean anything.
#[cfg(unix)]
pub fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanos)
}

/// Without such a clock, wall time stands in: it bills a guest for time in which its thread did not run.
#[cfg(not(unix))]
pub fn thread_cpu_time() -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}

/// Raises the number of files that may be open to what the system allows (setrlimit(2)): each connection is one. Gives that
/// number; nothing, where there is no bound.
#[cfg(unix)]
pub fn raise_file_limit() -> Option<u64> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
    getrlimit(Resource::Nofile).current
}

/// Nothing is known elsewhere.
#[cfg(not(unix))]
pub fn raise_file_limit() -> Option<u64> {
    None
}

/// Whether the other end of a socket has closed it, or its half of it, though there may be bytes of it that were not read
/// yet (`POLLRDHUP`, poll(2)).
#[cfg(target_os = "linux")]
pub fn peer_closed(socket: impl std::os::fd::AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let mut asked = [PollFd::new(&socket, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let answered = rustix::event::poll(&mut asked, Some(&now));
    let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    answered.is_ok_and(|count| count > 0) && asked.iter().any(|socket| socket.revents().intersects(gone))
}

/// Elsewhere it is seen when the socket is read.
#[cfg(not(target_os = "linux"))]
pub fn peer_closed<S>(_socket: S) -> bool {
    false
}

/// Whether something came on a socket that was not read (`FIONREAD`, tcp(7)).
pub fn has_unread(socket: impl std::os::fd::AsFd) -> bool {
    rustix::io::ioctl_fionread(socket).is_ok_and(|bytes| bytes > 0)
}

/// Has the kernel give up on a connection whose other end takes nothing that was sent for so long (`TCP_USER_TIMEOUT`, tcp(7)), also
/// when it is closed here: otherwise that takes a quarter of an hour, and what was sent is kept until then.
#[cfg(target_os = "linux")]
pub fn bound_unacknowledged(socket: impl std::os::fd::AsFd, time: Duration) {
    let millis = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(socket, millis) {
        tracing::debug!(%error, "no TCP_USER_TIMEOUT");
    }
}

/// Elsewhere the kernel has a time of its own.
#[cfg(not(target_os = "linux"))]
pub fn bound_unacknowledged<S>(_socket: S, _time: Duration) {}

/// Has the kernel take no more than so many bytes that the other end has no room for (`TCP_NOTSENT_LOWAT`, tcp(7)): by itself it
/// takes some megabytes for each connection, of a memory that all connections of the machine share.
#[cfg(target_os = "linux")]
pub fn bound_unsent(socket: impl std::os::fd::AsFd, bytes: u32) {
    if let Err(error) = socket2::SockRef::from(&socket).set_tcp_notsent_lowat(bytes) {
        tracing::debug!(%error, "no TCP_NOTSENT_LOWAT");
    }
}

/// Elsewhere the kernel has a bound of its own.
#[cfg(not(target_os = "linux"))]
pub fn bound_unsent<S>(_socket: S, _bytes: u32) {}

/// What tells whether a file was changed since: all that stat(2) has and a writer cannot help but change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Nanoseconds since the epoch of Unix.
    modified: i128,
    status_changed: i128,
}

impl FileStamp {
    /// That of a file; nothing where the system has no such numbers.
    #[cfg(unix)]
    pub fn of(file: &std::fs::Metadata) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        Some(Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: nanos(file.mtime(), file.mtime_nsec()),
            status_changed: nanos(file.ctime(), file.ctime_nsec()),
        })
    }

    /// Nothing is known elsewhere.
    #[cfg(not(unix))]
    pub fn of(_file: &std::fs::Metadata) -> Option<Self> {
        None
    }

    /// Whether both are of one file, changed or not.
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// How long ago the file last changed in any way; nothing if that lies ahead.
    pub fn age(&self) -> Option<Duration> {
        let now = i128::try_from(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok()?;
        let age = u64::try_from(now - self.modified.max(self.status_changed)).ok()?;
        Some(Duration::from_nanos(age))
    }
}

/// Seconds since the epoch of Unix.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// How many mappings a process may have (`vm.max_map_count`, `proc_sys_vm(5)`); nothing if that is not known.
#[cfg(target_os = "linux")]
pub fn mappings_max() -> Option<usize> {
    std::fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok()
}

/// Nothing is known elsewhere.
#[cfg(not(target_os = "linux"))]
pub fn mappings_max() -> Option<usize> {
    None
}

/// Has the calling thread run when others leave it the time: its nice value becomes the highest (setpriority(2), which is
/// by thread on Linux).
#[cfg(target_os = "linux")]
pub fn yield_to_other_threads() {
    if let Err(error) = rustix::process::setpriority_process(None, 19) {
        tracing::debug!(%error, "the priority of a thread stays as it is");
    }
}

/// Elsewhere that would be the whole process.
#[cfg(not(target_os = "linux"))]
pub fn yield_to_other_threads() {}

/// Makes `folder` and those above it, and closes it to other users (mode 0700).
pub fn create_private_folder(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // A folder that was there before keeps its mode, so it is set all the same.
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
    }
    #[cfg(not(unix))]
    std::fs::create_dir_all(folder)
}

/// 32 bytes that nobody can guess, from the system, as hex digits.
pub fn random_hex() -> io::Result<String> {
    use std::fmt::Write as _;
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// Writes `bytes` to `path` so that a reader, or a crash at any moment, meets the old file or the new one, whole: to
/// a temporary name in the same folder, synced, renamed, and the folder synced (rename(2), fsync(2)).
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with(path, bytes, &mut std::fs::File::options())
}

/// The same, readable by its owner alone (mode 0600).
pub fn write_privately(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = std::fs::File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    write_with(path, bytes, &mut options)
}

fn write_with(path: &Path, bytes: &[u8], options: &mut std::fs::OpenOptions) -> io::Result<()> {
    use std::io::Write as _;
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let temporary = folder.join(format!(".tmp-{:032x}", fastrand::u128(..)));
    let written = (|| {
        let mut file = options.write(true).create_new(true).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        std::fs::File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        // The error that counts is the one above; what could not be written is not worth keeping.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}
