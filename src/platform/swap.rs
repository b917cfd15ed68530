//! Whether pages could be swapped out. **Invariant:** what tells it is held open from the first look on: a host that has no
//! file left to open does not take that for swap that was turned on.

/// Whether a page of this process could be swapped out, as far as can be told now: unknown counts as yes.
///
/// No, if the machine has no swap device (`/proc/swaps`), or if the process's cgroup may not swap
/// (`memory.swap.max` is 0, in its own group or one above it).
#[cfg(target_os = "linux")]
pub fn swap_possible() -> bool {
    use std::sync::{LazyLock, Mutex, PoisonError};
    static SIGNS: LazyLock<Mutex<linux::Signs>> = LazyLock::new(|| Mutex::new(linux::Signs::open()));
    SIGNS.lock().unwrap_or_else(PoisonError::into_inner).swap_possible()
}

/// Nothing is known elsewhere.
#[cfg(not(target_os = "linux"))]
pub fn swap_possible() -> bool {
    true
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::io::{self, Read, Seek};
    use std::path::Path;

    /// What tells of swap. What could not be opened tells nothing.
    pub(super) struct Signs {
        devices: io::Result<File>,
        groups: io::Result<File>,
        limits: Limits,
    }

    impl Signs {
        pub(super) fn open() -> Self {
            let groups = File::open("/proc/self/cgroup");
            let limits = read(&groups).map(Limits::of).unwrap_or_default();
            Self { devices: File::open("/proc/swaps"), groups, limits }
        }

        pub(super) fn swap_possible(&mut self) -> bool {
            if read(&self.devices).is_ok_and(|text| text.lines().skip(1).all(|line| line.trim().is_empty())) {
                return false;
            }
            let Ok(groups) = read(&self.groups) else { return true };
            if groups != self.limits.groups {
                self.limits = Limits::of(groups);
            }
            !self.limits.files.iter().any(|max| read(max).is_ok_and(|max| max.trim() == "0"))
        }
    }

    /// What the group of the process, and those above it, may swap.
    #[derive(Default)]
    struct Limits {
        /// `/proc/self/cgroup`, for a process may be moved.
        groups: String,
        files: Vec<io::Result<File>>,
    }

    impl Limits {
        fn of(groups: String) -> Self {
            let root = Path::new("/sys/fs/cgroup");
            // cgroup v2 has the single line `0::/path`.
            let group = groups.lines().find_map(|line| line.strip_prefix("0::/")).map(|group| root.join(group));
            let within = |folder: &&Path| folder.starts_with(root);
            let above = group.iter().flat_map(|group| group.ancestors().take_while(within));
            let files = above.map(|folder| File::open(folder.join("memory.swap.max"))).collect();
            Self { groups, files }
        }
    }

    /// What a file has to say now.
    fn read(file: &io::Result<File>) -> io::Result<String> {
        let mut file = file.as_ref().map_err(io::Error::kind)?;
        let mut text = String::new();
        file.rewind()?;
        file.read_to_string(&mut text)?;
        Ok(text)
    }
}
