//! Answers the kernel's calls. Decides nothing: each goes past the faults to the image.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;

use crate::{
    Shared,
    content::read_upto,
    faults::{Call, Verdict},
    image::{Body, Image, Inode, Maker},
};

/// How long the kernel may trust names and attributes. Nobody but the kernel changes them.
const TRUST: Duration = Duration::from_secs(3600);
/// The one generation: numbers of inodes are never used again.
const GENERATION: Generation = Generation(0);
const BLOCK: u64 = 4096;
/// What an unlimited disk says to have free.
const PLENTY: u64 = 1 << 40;

/// One mount. Its handles of folders end with it; the image stays.
pub(crate) struct Server {
    shared: Arc<Shared>,
    /// Open folders, as they were when they were opened.
    listings: Mutex<HashMap<u64, Vec<Listed>>>,
    next_listing: AtomicU64,
}

type Listed = (INodeNo, FileType, OsString);

impl Server {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            listings: Mutex::default(),
            next_listing: AtomicU64::new(1),
        }
    }

    /// Does a change, unless the disk does not let it pass.
    fn change<T>(&self, change: impl FnOnce(&mut Image) -> Result<T, Errno>) -> Result<T, Errno> {
        self.shared.faults.pass(Call::Change)?;
        let result = change(&mut self.shared.image.lock());
        if let Err(Errno::ENOSPC) = result {
            self.shared.faults.counts.full_calls.fetch_add(1, Relaxed);
        }
        result
    }

    /// As [`Server::change`], of names.
    fn rename_something<T>(
        &self,
        change: impl FnOnce(&mut Image) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let result = self.change(change);
        if result.is_ok() {
            self.shared.faults.counts.name_changes.fetch_add(1, Relaxed);
        }
        result
    }

    fn attributes(&self, ino: u64) -> Result<FileAttr, Errno> {
        Ok(attributes(ino, self.shared.image.lock().inode(ino)?))
    }

    fn sync_file(&self, ino: u64) -> Result<(), Errno> {
        let path = || -> Option<PathBuf> { self.shared.image.lock().path_of(ino) };
        let verdict = self.shared.faults.judge_sync(path);
        let mut image = self.shared.image.lock();
        let content = image.content(ino)?;
        match verdict {
            Verdict::Sync => {
                content.sync();
                self.shared.faults.counts.file_syncs.fetch_add(1, Relaxed);
                Ok(())
            }
            Verdict::Drop => {
                content.fail_sync();
                Err(Errno::EIO)
            }
            Verdict::Fail => Err(Errno::EIO),
        }
    }

    fn sync_folder(&self, ino: u64) -> Result<(), Errno> {
        self.shared.faults.pass(Call::Sync)?;
        self.shared.image.lock().sync_folder(ino)?;
        self.shared.faults.counts.folder_syncs.fetch_add(1, Relaxed);
        Ok(())
    }

    fn list(&self, ino: u64) -> Result<Vec<Listed>, Errno> {
        let image = self.shared.image.lock();
        let folder = image.folder(ino)?;
        let mut listed = vec![
            (INodeNo(ino), FileType::Directory, ".".into()),
            (INodeNo(folder.parent), FileType::Directory, "..".into()),
        ];
        for (name, ino) in &folder.names {
            listed.push((INodeNo(*ino), kind(image.inode(*ino)?), name.clone()));
        }
        Ok(listed)
    }
}

fn kind(inode: &Inode) -> FileType {
    match inode.body {
        Body::File(_) => FileType::RegularFile,
        Body::Folder(_) => FileType::Directory,
    }
}

fn attributes(ino: u64, inode: &Inode) -> FileAttr {
    let (size, nlink) = match &inode.body {
        Body::File(content) => (content.size(), inode.links),
        Body::Folder(_) => (BLOCK, 2),
    };
    FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: size.div_ceil(512),
        atime: inode.modified,
        mtime: inode.modified,
        ctime: inode.changed,
        crtime: inode.changed,
        kind: kind(inode),
        perm: inode.mode,
        nlink,
        uid: inode.uid,
        gid: inode.gid,
        rdev: 0,
        blksize: BLOCK as u32,
        flags: 0,
    }
}

fn maker(req: &Request, mode: u32, umask: u32) -> Maker {
    Maker {
        mode: mode & !umask,
        uid: req.uid(),
        gid: req.gid(),
    }
}

fn answer(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn answer_entry(reply: ReplyEntry, result: Result<FileAttr, Errno>) {
    match result {
        Ok(found) => reply.entry(&TRUST, &found, GENERATION),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ino = self.shared.image.lock().lookup(parent.0, name);
        answer_entry(reply, ino.and_then(|ino| self.attributes(ino)));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino.0) {
            Ok(found) => reply.attr(&TRUST, &found),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let result = self.change(|image| {
            if let Some(size) = size {
                image.truncate(ino.0, size)?;
            }
            let inode = image.inode_mut(ino.0)?;
            if let Some(mode) = mode {
                inode.mode = (mode & 0o7777) as u16;
            }
            inode.uid = uid.unwrap_or(inode.uid);
            inode.gid = gid.unwrap_or(inode.gid);
            inode.changed = SystemTime::now();
            match modified {
                Some(TimeOrNow::SpecificTime(time)) => inode.modified = time,
                Some(TimeOrNow::Now) => inode.modified = inode.changed,
                None => {}
            }
            Ok(attributes(ino.0, inode))
        });
        match result {
            Ok(found) => reply.attr(&TRUST, &found),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let maker = maker(req, mode, umask);
        let made = self.rename_something(|image| image.make_folder(parent.0, name, maker));
        answer_entry(reply, made.and_then(|ino| self.attributes(ino)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(
            reply,
            self.rename_something(|image| image.unlink(parent.0, name)),
        );
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(
            reply,
            self.rename_something(|image| image.remove_folder(parent.0, name)),
        );
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let replace = match flags {
            RenameFlags::RENAME_NOREPLACE => false,
            flags if flags.is_empty() => true,
            _ => return reply.error(Errno::EINVAL),
        };
        let (from, to) = ((parent.0, name), (new_parent.0, new_name));
        answer(
            reply,
            self.rename_something(|image| image.rename(from, to, replace)),
        );
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let linked = self.rename_something(|image| image.link(ino.0, parent.0, name));
        answer_entry(reply, linked.and_then(|()| self.attributes(ino.0)));
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let maker = maker(req, mode, umask);
        let made = self.rename_something(|image| {
            let ino = image.create(parent.0, name, maker)?;
            image.opened(ino)?;
            Ok(attributes(ino, image.inode(ino)?))
        });
        match made {
            Ok(found) => reply.created(
                &TRUST,
                &found,
                GENERATION,
                FileHandle(0),
                FopenFlags::empty(),
            ),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.shared.image.lock().opened(ino.0) {
            // All changes pass through the kernel, so what it has in memory is what is here.
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error),
        }
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.shared.image.lock().released(ino.0);
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.shared.faults.counts.reads.fetch_add(1, Relaxed);
        let object = self
            .shared
            .image
            .lock()
            .content(ino.0)
            .map(|content| content.object());
        let read = object.and_then(|object| {
            let mut data = vec![0; size as usize];
            let read = read_upto(&object, &mut data, offset)?;
            data.truncate(read);
            Ok(data)
        });
        match read {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.change(|image| image.write(ino.0, offset, data)) {
            Ok(written) => {
                let counts = &self.shared.faults.counts;
                counts.writes.fetch_add(1, Relaxed);
                counts.written_bytes.fetch_add(written as u64, Relaxed);
                counts
                    .full_calls
                    .fetch_add(u64::from(written < data.len()), Relaxed);
                reply.written(written as u32);
            }
            Err(error) => reply.error(error),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        // FALLOC_FL_KEEP_SIZE; the other modes change content.
        const KEEP_SIZE: i32 = 1;
        if mode & !KEEP_SIZE != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let allocated =
            self.change(|image| image.allocate(ino.0, offset + length, mode & KEEP_SIZE == 0));
        answer(reply, allocated);
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(reply, self.sync_file(ino.0));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(reply, self.sync_folder(ino.0));
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.list(ino.0) {
            Ok(listed) => {
                let handle = self.next_listing.fetch_add(1, Relaxed);
                self.listings.lock().insert(handle, listed);
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut listings = self.listings.lock();
        let Some(listed) = listings.get_mut(&fh.0) else {
            return reply.error(Errno::EBADF);
        };
        if offset == 0 {
            // It may have been rewound.
            match self.list(ino.0) {
                Ok(now) => *listed = now,
                Err(error) => return reply.error(error),
            }
        }
        for (at, (ino, kind, name)) in listed.iter().enumerate().skip(offset as usize) {
            if reply.add(*ino, at as u64 + 1, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.listings.lock().remove(&fh.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let image = self.shared.image.lock();
        let capacity = image.capacity().unwrap_or(image.used() + PLENTY);
        let free = capacity.saturating_sub(image.used()) / BLOCK;
        reply.statfs(
            capacity / BLOCK,
            free,
            free,
            1 << 20,
            1 << 20,
            BLOCK as u32,
            255,
            BLOCK as u32,
        );
    }
}
