//! A file system (FUSE) that serves one file, and does with reads what it is told.
//!
//! It lives in a process of its own, since one that waits for itself could not be ended, and in a name space of its own, so that its
//! mounts end with it, however it ends.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Lines, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, Request,
    Session,
};
use rustix::fs::OFlags;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{getegid, geteuid};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::child::{User, in_child, skip};
use crate::common::{HANG, KIB, Sample};

/// Says to this program, when it is started again, which file it is to serve.
const SERVED: &str = "CKLOAD_SERVED";

/// Says where.
const MOUNT_POINT: &str = "CKLOAD_MOUNT_POINT";

/// What the served file is called.
const NAME: &str = "model.safetensors";

const FILE: INodeNo = INodeNo(2);

/// Handles whose reads end as their answers do: for all others the kernel takes a short answer for the file's end.
const DIRECT: FileHandle = FileHandle(1);
const OTHER: FileHandle = FileHandle(0);

/// How a file system behaves.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Conduct {
    pub(crate) opens: Opens,
    pub(crate) reads: Reads,
    pub(crate) fault: Option<(Fault, When)>,
    /// The kernel asks for the file's attributes each time, instead of once.
    pub(crate) forgets_attributes: bool,
    /// What was read stays in the page cache when the file is opened again.
    pub(crate) keeps_pages: bool,
}

/// What becomes of a wish to read past the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Opens {
    #[default]
    AsAsked,
    /// It is refused.
    NeverDirect,
    /// It is granted to everybody; such a file cannot be mapped.
    AlwaysDirect,
}

/// How reads are answered as long as all is well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reads {
    #[default]
    Whole,
    /// Late and out of turn.
    Late,
    /// As well after interruptions, and with fewer bytes than asked for if the file is opened [always direct](Opens::AlwaysDirect).
    InPieces,
    /// There, with next to nothing.
    InCrumbs,
}

/// How reads are answered once something has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fault {
    /// With this error of the system.
    Error(i32),
    /// With the bytes before it and no more, whatever the file's attributes say.
    End,
    /// Never.
    Silence,
}

/// Which reads are struck.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum When {
    /// Those that want this byte or a later one.
    From(u64),
    /// Those after so many.
    After(usize),
}

/// What the file system's process says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Word {
    Mounted,
    Refused(String),
    Told,
    /// A read is not answered.
    Silent,
}

/// Runs `body`, the whole of the test called `name`, where it can start file systems; says so where this machine does not allow that.
#[track_caller]
pub(crate) fn with_file_systems(name: &'static str, body: impl FnOnce()) {
    if std::env::var_os(SERVED).is_some() {
        serve();
        return;
    }
    in_child(name, User::Mounting, || {
        let sample = Sample::uniform(1, KIB);
        match Served::try_start(name, &sample.path) {
            Err(reason) => skip(&format!("no file system can be mounted: {reason}")),
            Ok(probe) => {
                assert_eq!(
                    std::fs::read(&probe.path).expect("a file system that works"),
                    std::fs::read(&sample.path).expect("it is there")
                );
                drop(probe);
                body();
            }
        }
    });
}

/// A running file system.
pub(crate) struct Served {
    /// The one file.
    pub(crate) path: PathBuf,
    /// Holds the mount point.
    folder: TempDir,
    process: Child,
    orders: ChildStdin,
    words: Lines<BufReader<ChildStdout>>,
}

impl Served {
    /// Serves `source`; `name` is that of the running test.
    pub(crate) fn start(name: &str, source: &Path) -> Self {
        Self::try_start(name, source).expect("it was possible before")
    }

    fn try_start(name: &str, source: &Path) -> Result<Self, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mount_point = folder.path().join("mounted");
        std::fs::create_dir(&mount_point).expect("a folder");
        let mut process = Command::new(std::env::current_exe().expect("tests are run from a file"))
            .args([name, "--exact", "--nocapture", "--test-threads=1"])
            .env(SERVED, source)
            .env(MOUNT_POINT, &mount_point)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program runs");
        let orders = process.stdin.take().expect("it is piped");
        let words = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let mut served = Self {
            path: mount_point.join(NAME),
            folder,
            process,
            orders,
            words,
        };
        match served.word() {
            Word::Mounted => Ok(served),
            Word::Refused(reason) => Err(reason),
            word => panic!("{word:?}"),
        }
    }

    /// Has it behave so from now on; reads count from here.
    pub(crate) fn tell(&mut self, conduct: Conduct) {
        let order = serde_json::to_string(&conduct).expect("plain data");
        writeln!(self.orders, "{order}").expect("it listens");
        assert_eq!(self.word(), Word::Told);
    }

    /// Waits until it leaves a read without an answer.
    pub(crate) fn await_silence(&mut self) {
        assert_eq!(self.word(), Word::Silent);
    }

    /// The file system's process ends, and so does every read under way.
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("our own child");
        self.process.wait().expect("our own child");
    }

    /// `umount -f`: every read under way ends; what has files open stays mounted, and dead.
    pub(crate) fn unmount_by_force(&self) {
        let _ = unmount(self.mount_point(), UnmountFlags::FORCE);
    }

    fn mount_point(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// The next thing that it says; what the test harness prints is none.
    fn word(&mut self) -> Word {
        self.words
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| serde_json::from_str(&line).ok())
            .expect("it says something before it ends")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = unmount(self.mount_point(), UnmountFlags::DETACH);
    }
}

/// The whole of a file system's process: it ends with the one that started it, or when that hangs.
fn serve() {
    thread::spawn(|| {
        thread::sleep(2 * HANG);
        std::process::exit(1);
    });
    let source = std::env::var_os(SERVED).expect("it is set");
    let mount_point = std::env::var_os(MOUNT_POINT).expect("it is set");
    let conduct = Arc::new(Mutex::new(State::default()));
    let file = ServedFile::open(Path::new(&source), Arc::clone(&conduct));
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("ckload-test".to_owned()),
        MountOption::RO, // else each read makes the kernel forget the attributes
    ];
    let session = Session::new(file, Path::new(&mount_point), &config).and_then(Session::spawn);
    let session = match session {
        Ok(session) => session,
        Err(error) => return say(&Word::Refused(error.to_string())),
    };
    say(&Word::Mounted);
    for order in io::stdin().lines().map_while(Result::ok) {
        let told = serde_json::from_str(&order).expect("a conduct");
        *conduct.lock().expect("no panic") = State {
            conduct: told,
            reads: 0,
        };
        say(&Word::Told);
    }
    drop(session);
}

#[allow(clippy::print_stdout)]
fn say(word: &Word) {
    // On a line of its own: the harness has begun one.
    println!("\n{}", serde_json::to_string(word).expect("plain data"));
}

#[derive(Default)]
struct State {
    conduct: Conduct,
    /// Since it was told.
    reads: usize,
}

/// The file as the kernel sees it.
struct ServedFile {
    source: Arc<File>,
    attributes: FileAttr,
    state: Arc<Mutex<State>>,
    /// Answers that are given late and out of turn.
    late: Sender<Answer>,
    /// Reads that are never answered: to drop one is to answer it.
    unanswered: Mutex<Vec<ReplyData>>,
}

impl ServedFile {
    fn open(source: &Path, state: Arc<Mutex<State>>) -> Self {
        let source = File::open(source).expect("it is there");
        let metadata = source.metadata().expect("it is there");
        let (late, answers) = mpsc::channel();
        thread::spawn(move || answer_late(&answers));
        Self {
            source: Arc::new(source),
            attributes: attributes(FILE, FileType::RegularFile, 0o644, metadata.size()),
            state,
            late,
            unanswered: Mutex::default(),
        }
    }

    fn conduct(&self) -> Conduct {
        self.state.lock().expect("no panic").conduct
    }

    /// How long the kernel may remember attributes.
    fn memory(&self) -> Duration {
        if self.conduct().forgets_attributes {
            Duration::ZERO
        } else {
            Duration::from_secs(3600)
        }
    }

    /// Counts a read of `range`; says how reads are answered, which this is, the fault that strikes it, and how many bytes come before that.
    fn count(&self, range: &Range<u64>) -> (Reads, usize, Option<(Fault, usize)>) {
        let mut state = self.state.lock().expect("no panic");
        state.reads += 1;
        let fault = state.conduct.fault.and_then(|(fault, when)| match when {
            When::From(byte) if range.end > byte => {
                Some((fault, byte.saturating_sub(range.start) as usize))
            }
            When::After(reads) if state.reads > reads => Some((fault, 0)),
            _ => None,
        });
        (state.conduct.reads, state.reads, fault)
    }
}

impl Filesystem for ServedFile {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == NAME {
            reply.entry(&self.memory(), &self.attributes, Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        if inode == FILE {
            reply.attr(&self.memory(), &self.attributes);
        } else {
            let folder = attributes(INodeNo::ROOT, FileType::Directory, 0o755, 0);
            reply.attr(&self.memory(), &folder);
        }
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let conduct = self.conduct();
        let is_direct = OFlags::from_bits_retain(flags.0 as u32).contains(OFlags::DIRECT);
        let kept = if conduct.keeps_pages {
            FopenFlags::FOPEN_KEEP_CACHE
        } else {
            FopenFlags::empty()
        };
        match conduct.opens {
            Opens::NeverDirect if is_direct => reply.error(Errno::EINVAL),
            Opens::AlwaysDirect => reply.opened(DIRECT, FopenFlags::FOPEN_DIRECT_IO),
            _ => reply.opened(OTHER, kept),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut wanted = u64::from(size).min(self.attributes.size.saturating_sub(offset)) as usize;
        let (reads, number, fault) = self.count(&(offset..offset + wanted as u64));
        match fault {
            Some((Fault::Error(errno), _)) => return reply.error(Errno::from_i32(errno)),
            Some((Fault::Silence, _)) => {
                let mut unanswered = self.unanswered.lock().expect("no panic");
                unanswered.push(reply);
                if unanswered.len() == 1 {
                    say(&Word::Silent);
                }
                return;
            }
            Some((Fault::End, good)) => wanted = good,
            None => {}
        }
        let len = match reads {
            Reads::InPieces if handle == DIRECT => wanted.div_ceil(1 + number % 3),
            Reads::InCrumbs if handle == DIRECT => wanted.min(1 + number % 700),
            _ => wanted,
        };
        let answer = Answer {
            source: Arc::clone(&self.source),
            offset,
            len,
            reply,
        };
        match reads {
            Reads::InPieces if number.is_multiple_of(5) => answer.reply.error(Errno::EINTR),
            Reads::Late | Reads::InPieces => self.late.send(answer).expect("it listens"),
            Reads::Whole | Reads::InCrumbs => answer.give(),
        }
    }
}

fn attributes(ino: INodeNo, kind: FileType, perm: u16, size: u64) -> FileAttr {
    FileAttr {
        ino,
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// Bytes for a read.
struct Answer {
    source: Arc<File>,
    offset: u64,
    len: usize,
    reply: ReplyData,
}

impl Answer {
    fn give(self) {
        let mut bytes = vec![0; self.len];
        match self.source.read_exact_at(&mut bytes, self.offset) {
            Ok(()) => self.reply.data(&bytes),
            Err(error) => self.reply.error(error.into()),
        }
    }
}

/// Gives answers two by two, the second one first, if there is a second one.
fn answer_late(answers: &Receiver<Answer>) {
    while let Ok(first) = answers.recv() {
        if let Ok(second) = answers.recv_timeout(Duration::from_millis(1)) {
            second.give();
        }
        first.give();
    }
}
