//! What the disk holds: names and files, as they are now and as they would be after a power loss.
//!
//! A folder's names become durable when the folder is synced, and not before. That is what POSIX promises; ext4 gives
//! more (a sync of a new file brings its name along, and so does, in time, any other sync), so a program that survives here
//! survives there. A change of names is one step, a rename too, and what was not synced survives step by step: a step
//! never without those that it builds on.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use fastrand::Rng;
use fuser::Errno;

use crate::{Loss, PowerLoss, content::Content};

pub(crate) const ROOT: u64 = 1;
/// Space that a folder takes, and a file at least.
const INODE_SPACE: u64 = 4096;

/// A file or a folder. Its number is never used again.
pub(crate) struct Inode {
    pub(crate) body: Body,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) modified: SystemTime,
    pub(crate) changed: SystemTime,
    /// Names that it has now.
    pub(crate) links: u32,
    /// Handles that are open.
    opens: u32,
    /// Space that it is counted with.
    space: u64,
}

pub(crate) enum Body {
    File(Content),
    Folder(Folder),
}

#[derive(Default)]
pub(crate) struct Folder {
    pub(crate) names: BTreeMap<OsString, u64>,
    durable: BTreeMap<OsString, u64>,
    pub(crate) parent: u64,
}

/// A name's place: a folder and a name in it.
type Slot = (u64, OsString);

/// A step that is not durable yet: what becomes of which slots, all or nothing.
struct Step {
    slots: Vec<(Slot, Option<u64>)>,
    /// Steps that move folders build on each other, or a folder could end up inside itself.
    moves_folder: bool,
}

/// See the module.
pub(crate) struct Image {
    inodes: HashMap<u64, Inode>,
    next: u64,
    steps: Vec<Step>,
    /// Where the objects of files are made.
    objects: PathBuf,
    used: u64,
    capacity: Option<u64>,
}

/// Who makes something, and how it is to be.
#[derive(Clone, Copy)]
pub(crate) struct Maker {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Image {
    pub(crate) fn new(objects: &Path, owner: Maker) -> Self {
        let mut image = Self {
            inodes: HashMap::new(),
            next: ROOT,
            steps: Vec::new(),
            objects: objects.to_owned(),
            used: 0,
            capacity: None,
        };
        let root = Folder {
            parent: ROOT,
            ..Folder::default()
        };
        image.add(Body::Folder(root), owner);
        image
    }

    pub(crate) fn inode(&self, ino: u64) -> Result<&Inode, Errno> {
        self.inodes.get(&ino).ok_or(Errno::ENOENT)
    }

    pub(crate) fn inode_mut(&mut self, ino: u64) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&ino).ok_or(Errno::ENOENT)
    }

    pub(crate) fn folder(&self, ino: u64) -> Result<&Folder, Errno> {
        match &self.inode(ino)?.body {
            Body::Folder(folder) => Ok(folder),
            Body::File(_) => Err(Errno::ENOTDIR),
        }
    }

    pub(crate) fn content(&mut self, ino: u64) -> Result<&mut Content, Errno> {
        match &mut self.inode_mut(ino)?.body {
            Body::File(content) => Ok(content),
            Body::Folder(_) => Err(Errno::EISDIR),
        }
    }

    pub(crate) fn lookup(&self, parent: u64, name: &OsStr) -> Result<u64, Errno> {
        let found = self.folder(parent)?.names.get(name);
        found.copied().ok_or(Errno::ENOENT)
    }

    /// The inode at a path below the root.
    pub(crate) fn find(&self, path: &Path) -> Result<u64, Errno> {
        path.iter().try_fold(ROOT, |at, name| self.lookup(at, name))
    }

    /// A path that leads to an inode, if one does.
    pub(crate) fn path_of(&self, wanted: u64) -> Option<PathBuf> {
        let mut open = vec![(ROOT, PathBuf::new())];
        while let Some((at, path)) = open.pop() {
            if at == wanted {
                return Some(path);
            }
            if let Ok(folder) = self.folder(at) {
                open.extend(
                    folder
                        .names
                        .iter()
                        .map(|(name, ino)| (*ino, path.join(name))),
                );
            }
        }
        None
    }

    /// Paths and sizes of all files, in order.
    pub(crate) fn files(&self) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        let mut open = vec![(ROOT, PathBuf::new())];
        while let Some((at, path)) = open.pop() {
            match self.inodes.get(&at).map(|inode| &inode.body) {
                Some(Body::File(content)) => found.push((path, content.size())),
                Some(Body::Folder(folder)) => {
                    open.extend(
                        folder
                            .names
                            .iter()
                            .map(|(name, ino)| (*ino, path.join(name))),
                    );
                }
                None => {}
            }
        }
        found.sort();
        found
    }

    // Space

    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    pub(crate) fn capacity(&self) -> Option<u64> {
        self.capacity
    }

    pub(crate) fn set_capacity(&mut self, bytes: Option<u64>) {
        self.capacity = bytes;
    }

    fn free(&self) -> u64 {
        self.capacity
            .map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used))
    }

    /// Counts an inode's space anew.
    fn recount(&mut self, ino: u64) {
        let Some(inode) = self.inodes.get_mut(&ino) else {
            return;
        };
        let space = match &inode.body {
            _ if inode.links == 0 && inode.opens == 0 => 0,
            Body::File(content) => content.space().max(INODE_SPACE),
            Body::Folder(_) => INODE_SPACE,
        };
        self.used = self.used - inode.space + space;
        inode.space = space;
    }

    // Content

    /// Returns how much was written: less than all if space has run out.
    pub(crate) fn write(&mut self, ino: u64, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let free = self.free();
        let content = self.content(ino)?;
        let room = content.space().saturating_add(free);
        let end = (offset + data.len() as u64).min(room);
        if end <= offset {
            return if data.is_empty() {
                Ok(0)
            } else {
                Err(Errno::ENOSPC)
            };
        }
        let data = &data[..(end - offset) as usize];
        content.write(offset, data)?;
        self.touched(ino);
        Ok(data.len())
    }

    pub(crate) fn truncate(&mut self, ino: u64, size: u64) -> Result<(), Errno> {
        let free = self.free();
        let content = self.content(ino)?;
        if content.space_upto(size) - content.space() > free {
            return Err(Errno::ENOSPC);
        }
        content.truncate(size)?;
        self.touched(ino);
        Ok(())
    }

    /// Takes space up to `end`; extends the file if `extend` says so.
    pub(crate) fn allocate(&mut self, ino: u64, end: u64, extend: bool) -> Result<(), Errno> {
        let free = self.free();
        let content = self.content(ino)?;
        if content.space_upto(end) - content.space() > free {
            return Err(Errno::ENOSPC);
        }
        if extend && end > content.size() {
            content.truncate(end)?;
        }
        content.reserve(end);
        self.touched(ino);
        Ok(())
    }

    fn touched(&mut self, ino: u64) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.modified = SystemTime::now();
            inode.changed = inode.modified;
        }
        self.recount(ino);
    }

    // Names

    pub(crate) fn create(&mut self, parent: u64, name: &OsStr, maker: Maker) -> Result<u64, Errno> {
        let body = Body::File(Content::new(&self.objects)?);
        self.make(parent, name, body, maker)
    }

    pub(crate) fn make_folder(
        &mut self,
        parent: u64,
        name: &OsStr,
        maker: Maker,
    ) -> Result<u64, Errno> {
        let folder = Folder {
            parent,
            ..Folder::default()
        };
        self.make(parent, name, Body::Folder(folder), maker)
    }

    fn make(&mut self, parent: u64, name: &OsStr, body: Body, maker: Maker) -> Result<u64, Errno> {
        if self.folder(parent)?.names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        if self.inode(parent)?.links == 0 {
            return Err(Errno::ENOENT);
        }
        if self.free() < INODE_SPACE {
            return Err(Errno::ENOSPC);
        }
        let ino = self.add(body, maker);
        self.step(vec![((parent, name.to_owned()), Some(ino))], false);
        Ok(ino)
    }

    fn add(&mut self, body: Body, maker: Maker) -> u64 {
        let ino = self.next;
        self.next += 1;
        let now = SystemTime::now();
        let inode = Inode {
            body,
            mode: (maker.mode & 0o7777) as u16,
            uid: maker.uid,
            gid: maker.gid,
            modified: now,
            changed: now,
            links: u32::from(ino == ROOT),
            opens: 0,
            space: 0,
        };
        self.inodes.insert(ino, inode);
        self.recount(ino);
        ino
    }

    pub(crate) fn link(&mut self, ino: u64, parent: u64, name: &OsStr) -> Result<(), Errno> {
        self.content(ino).map_err(|_| Errno::EPERM)?;
        if self.folder(parent)?.names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        self.step(vec![((parent, name.to_owned()), Some(ino))], false);
        Ok(())
    }

    pub(crate) fn unlink(&mut self, parent: u64, name: &OsStr) -> Result<(), Errno> {
        let ino = self.lookup(parent, name)?;
        self.content(ino)?;
        self.step(vec![((parent, name.to_owned()), None)], false);
        Ok(())
    }

    pub(crate) fn remove_folder(&mut self, parent: u64, name: &OsStr) -> Result<(), Errno> {
        let ino = self.lookup(parent, name)?;
        if !self.folder(ino)?.names.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.step(vec![((parent, name.to_owned()), None)], false);
        Ok(())
    }

    pub(crate) fn rename(
        &mut self,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        replace: bool,
    ) -> Result<(), Errno> {
        let ino = self.lookup(from.0, from.1)?;
        let is_folder = self.folder(ino).is_ok();
        match self.lookup(to.0, to.1) {
            Ok(_) if !replace => return Err(Errno::EEXIST),
            Ok(same) if same == ino => return Ok(()),
            Ok(replaced) => match (is_folder, self.folder(replaced)) {
                (true, Ok(folder)) if !folder.names.is_empty() => return Err(Errno::ENOTEMPTY),
                (true, Err(_)) => return Err(Errno::ENOTDIR),
                (false, Ok(_)) => return Err(Errno::EISDIR),
                (true, Ok(_)) | (false, Err(_)) => {}
            },
            Err(_) => {}
        }
        let slot = |(parent, name): (u64, &OsStr)| (parent, name.to_owned());
        self.step(vec![(slot(from), None), (slot(to), Some(ino))], is_folder);
        if is_folder && let Body::Folder(folder) = &mut self.inode_mut(ino)?.body {
            folder.parent = to.0;
        }
        Ok(())
    }

    /// Takes a step now; it is durable later.
    fn step(&mut self, slots: Vec<(Slot, Option<u64>)>, moves_folder: bool) {
        let now = SystemTime::now();
        // Counted up first, so that what is renamed is never without a name.
        for (_, ino) in &slots {
            self.count_link(*ino, 1);
        }
        for ((parent, name), ino) in &slots {
            let Some(inode) = self.inodes.get_mut(parent) else {
                continue;
            };
            inode.modified = now;
            inode.changed = now;
            if let Body::Folder(folder) = &mut inode.body {
                let before = match ino {
                    Some(ino) => folder.names.insert(name.clone(), *ino),
                    None => folder.names.remove(name),
                };
                self.count_link(before, -1);
            }
        }
        self.steps.push(Step {
            slots,
            moves_folder,
        });
    }

    fn count_link(&mut self, ino: Option<u64>, by: i32) {
        if let Some(ino) = ino
            && let Some(inode) = self.inodes.get_mut(&ino)
        {
            inode.links = inode.links.saturating_add_signed(by);
            inode.changed = SystemTime::now();
            self.recount(ino);
        }
    }

    // Handles

    pub(crate) fn opened(&mut self, ino: u64) -> Result<(), Errno> {
        self.inode_mut(ino)?.opens += 1;
        Ok(())
    }

    pub(crate) fn released(&mut self, ino: u64) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.opens = inode.opens.saturating_sub(1);
            if inode.opens == 0 && inode.links == 0 {
                self.recount(ino);
                self.forget_dead();
            }
        }
    }

    // Durability

    /// Makes the names in a folder durable, with the steps that they build on.
    pub(crate) fn sync_folder(&mut self, ino: u64) -> Result<(), Errno> {
        self.folder(ino)?;
        let mut wanted = vec![false; self.steps.len()];
        let mut slots: BTreeSet<&Slot> = BTreeSet::new();
        let mut folders_move = false;
        for (at, step) in self.steps.iter().enumerate().rev() {
            let touches = |(slot, _): &(Slot, Option<u64>)| slot.0 == ino || slots.contains(slot);
            if step.slots.iter().any(touches) || (step.moves_folder && folders_move) {
                wanted[at] = true;
                slots.extend(step.slots.iter().map(|(slot, _)| slot));
                folders_move |= step.moves_folder;
            }
        }
        let steps = std::mem::take(&mut self.steps);
        for (step, wanted) in steps.into_iter().zip(wanted) {
            if wanted {
                self.make_durable(step);
            } else {
                self.steps.push(step);
            }
        }
        self.forget_dead();
        Ok(())
    }

    fn make_durable(&mut self, step: Step) {
        for ((parent, name), ino) in step.slots {
            if let Some(Inode {
                body: Body::Folder(folder),
                ..
            }) = self.inodes.get_mut(&parent)
            {
                match ino {
                    Some(ino) => folder.durable.insert(name, ino),
                    None => folder.durable.remove(&name),
                };
            }
        }
    }

    /// Lets go of what no name, handle or power loss can lead to.
    fn forget_dead(&mut self) {
        if self
            .inodes
            .values()
            .all(|inode| inode.links > 0 || inode.opens > 0)
        {
            return;
        }
        let mut wanted: HashSet<u64> = HashSet::new();
        for step in &self.steps {
            wanted.extend(step.slots.iter().filter_map(|(_, ino)| *ino));
            wanted.extend(step.slots.iter().map(|((parent, _), _)| *parent));
        }
        for inode in self.inodes.values() {
            if let Body::Folder(folder) = &inode.body {
                wanted.extend(folder.durable.values());
            }
        }
        self.inodes
            .retain(|ino, inode| inode.links > 0 || inode.opens > 0 || wanted.contains(ino));
    }

    /// The power fails and returns: what survives is all there is, and durable.
    pub(crate) fn lose_power(&mut self, how: PowerLoss, rng: &mut Rng) -> io::Result<Loss> {
        let mut loss = Loss::default();
        let steps = std::mem::take(&mut self.steps);
        let prefix = rng.usize(..=steps.len());
        let mut missing: BTreeSet<Slot> = BTreeSet::new();
        let mut folder_missing = false;
        for (at, step) in steps.into_iter().enumerate() {
            let survives = match how {
                PowerLoss::DropAll => false,
                PowerLoss::KeepAll => true,
                PowerLoss::TornTail => at < prefix,
                PowerLoss::RandomSubset => {
                    rng.bool()
                        && !step.slots.iter().any(|(slot, _)| missing.contains(slot))
                        && !(step.moves_folder && folder_missing)
                }
            };
            if survives {
                loss.steps_kept += 1;
                self.make_durable(step);
            } else {
                loss.steps_lost += 1;
                folder_missing |= step.moves_folder;
                missing.extend(step.slots.into_iter().map(|(slot, _)| slot));
            }
        }
        // What can be reached from the root is what there is.
        let mut links: BTreeMap<u64, u32> = BTreeMap::from([(ROOT, 1)]);
        let mut open = vec![ROOT];
        while let Some(at) = open.pop() {
            let Some(Inode {
                body: Body::Folder(folder),
                ..
            }) = self.inodes.get_mut(&at)
            else {
                continue;
            };
            folder.names.clone_from(&folder.durable);
            for ino in folder.durable.values() {
                let count = links.entry(*ino).or_default();
                *count += 1;
                if *count == 1 {
                    open.push(*ino);
                }
            }
            let children: Vec<u64> = folder.durable.values().copied().collect();
            for ino in children {
                if let Some(Inode {
                    body: Body::Folder(folder),
                    ..
                }) = self.inodes.get_mut(&ino)
                {
                    folder.parent = at;
                }
            }
        }
        self.inodes.retain(|ino, _| links.contains_key(ino));
        // In the order of the numbers: the draws must not depend on the order of a hash map.
        for (ino, links) in links {
            let Some(inode) = self.inodes.get_mut(&ino) else {
                continue;
            };
            inode.links = links;
            inode.opens = 0;
            if let Body::File(content) = &mut inode.body {
                content.lose_power(how, rng, &mut loss)?;
            }
        }
        self.used = 0;
        for inode in self.inodes.values_mut() {
            inode.space = 0;
        }
        for ino in self.inodes.keys().copied().collect::<Vec<_>>() {
            self.recount(ino);
        }
        Ok(loss)
    }
}
