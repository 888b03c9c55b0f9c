//! How many threads read at once, and how much each asks for.

use std::fs::File;

use rustix::fs::fstatfs;

/// The largest read of a local file, in bytes. Larger ones are no faster, smaller ones cost more system calls than they balance.
const LOCAL_READ_BYTES: u64 = 4 << 20;

/// The largest read over a network, in bytes: each waits for a server, and file systems split it into requests of their own.
const REMOTE_READ_BYTES: u64 = 8 << 20;

/// The smallest piece, in bytes, that a tensor is split into for the sake of sharing it between threads.
const LEAST_READ_BYTES: u64 = 256 << 10;

/// Threads that keep a local disk busy: while one copies, others have requests of their own with the disk.
const DISK_THREADS: usize = 8;

/// Threads that keep a network busy: what counts there is how many requests are under way.
const REMOTE_THREADS: usize = 32;

/// Reads of one load that each thread gets at least, so that none waits long for the last one.
const READS_PER_THREAD: u64 = 4;

/// How a load reads: by how many threads, in pieces of what size; see [`Loader::policy`](crate::Loader::policy).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadPolicy {
    /// Threads that read what the page cache has. Copying keeps a core busy, so there are as many as cores.
    pub threads: usize,
    /// Threads that read once bytes are asked of the disk or the server: these wait most of the time.
    pub waiting_threads: usize,
    /// The largest single read, in bytes.
    pub read_bytes: u64,
    /// Whether a file lies on a network file system, or on one that may be (FUSE).
    pub is_remote: bool,
}

impl ReadPolicy {
    /// The policy for a load of `bytes`; the caller's own choice of threads and of the size of a read stands.
    pub(crate) fn new(
        bytes: u64,
        is_remote: bool,
        threads: Option<usize>,
        read_bytes: Option<u64>,
    ) -> Self {
        let cores = num_cpus::get();
        let (enough, most_bytes) = if is_remote {
            (REMOTE_THREADS, REMOTE_READ_BYTES)
        } else {
            (DISK_THREADS, LOCAL_READ_BYTES)
        };
        let waiting_threads = threads.unwrap_or(cores.max(enough));
        let share = bytes / (waiting_threads as u64 * READS_PER_THREAD);
        Self {
            threads: threads.unwrap_or(cores),
            waiting_threads,
            read_bytes: read_bytes.unwrap_or(
                share
                    .next_multiple_of(4096)
                    .clamp(LEAST_READ_BYTES, most_bytes),
            ),
            is_remote,
        }
    }
}

/// Whether `file` is on a network file system, or on one that may be. Where the system does not say, it is taken for local.
pub(crate) fn is_remote(file: &File) -> bool {
    fstatfs(file).is_ok_and(|stat| is_remote_kind(stat.f_type as u32))
}

/// The numbers that file systems bear in `statfs(2)`, of those that read from other machines.
fn is_remote_kind(magic: u32) -> bool {
    const NFS: u32 = 0x6969;
    const SMB: u32 = 0x517b;
    const SMB2: u32 = 0xfe53_4d42;
    const CIFS: u32 = 0xff53_4d42;
    const NINE_P: u32 = 0x0102_1997;
    const FUSE: u32 = 0x6573_5546;
    const CEPH: u32 = 0x00c3_6400;
    const LUSTRE: u32 = 0x0bd0_0bd0;
    const GPFS: u32 = 0x4750_4653;
    const BEEGFS: u32 = 0x1983_0326;
    const AFS: u32 = 0x5346_414f;
    const KERNEL_AFS: u32 = 0x6b41_4653;
    const CODA: u32 = 0x7375_7245;
    const PANFS: u32 = 0xaad7_aaea;
    matches!(
        magic,
        NFS | SMB
            | SMB2
            | CIFS
            | NINE_P
            | FUSE
            | CEPH
            | LUSTRE
            | GPFS
            | BEEGFS
            | AFS
            | KERNEL_AFS
            | CODA
            | PANFS
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_told_from_local_ones() {
        // As `linux/magic.h` has them: nfs, fuse; ext4, xfs, btrfs, tmpfs, overlay.
        assert!([0x6969, 0x6573_5546].into_iter().all(is_remote_kind));
        for local in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630] {
            assert!(!is_remote_kind(local), "{local:#x}");
        }
    }

    #[test]
    fn who_waits_for_another_machine_asks_for_more_at_a_time() {
        let local = ReadPolicy::new(10 << 30, false, None, None);
        let remote = ReadPolicy::new(10 << 30, true, None, None);
        assert_eq!(local.threads, num_cpus::get());
        assert!(local.waiting_threads >= 8 && remote.waiting_threads >= 32);
        assert!(local.read_bytes < remote.read_bytes);
    }

    #[test]
    fn small_loads_are_shared_between_all_threads() {
        let policy = ReadPolicy::new(64 << 20, false, Some(16), None);
        assert_eq!((policy.threads, policy.waiting_threads), (16, 16));
        assert_eq!(policy.read_bytes, 1 << 20);
        assert_eq!(ReadPolicy::new(0, false, None, None).read_bytes, 256 << 10);
        assert_eq!(
            ReadPolicy::new(0, false, None, Some(12_345)).read_bytes,
            12_345
        );
    }
}
