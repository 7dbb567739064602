//! A disk below a file system that promises what POSIX does, and no more.
//!
//! What was written to a file is on the disk once the file was synced, and what happened to the names in a folder once the folder
//! was. Before that, any of it may be there or not: of data, each sector as it was after any of the writes that touched it; of names,
//! each change as a whole. What a file got longer by may hold zeros, or anything if the file system promises that little.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{
    faults::trace::{Record, Trace},
    seed::Choices,
};

/// The files below a folder, as a program sees them and as the disk may have them.
#[derive(Debug)]
pub struct Disk {
    root: String,
    nodes: Vec<Node>,
    /// Files and folders that are open, by descriptor.
    open: BTreeMap<i32, usize>,
    promises: Promises,
}

/// What the file system makes of syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promises {
    /// What POSIX says, and that no part of a file holds what was never written to it.
    Posix,
    /// What POSIX says.
    PosixAndGarbage,
    /// Any sync writes out all names too, as the journal of ext4 does.
    Journal,
    /// `fdatasync` does nothing: a lie, to see whether the checks notice.
    NoDataSync,
    /// No sync does anything: a lie.
    Nothing,
}

#[derive(Debug)]
enum Node {
    File(FileNode),
    Folder(Folder),
}

#[derive(Debug, Default)]
struct FileNode {
    durable: Vec<u8>,
    current: Vec<u8>,
    /// What happened since the last sync, and what was cut off is written over with zeros first.
    pending: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Resize { len: usize },
}

#[derive(Debug, Default)]
struct Folder {
    durable: Names,
    current: Names,
    pending: Vec<NameChange>,
}

type Names = BTreeMap<String, usize>;

#[derive(Clone, Debug)]
enum NameChange {
    Put { name: String, node: usize },
    Remove { name: String },
    Rename { from: String, to: String, node: usize },
}

/// What a disk holds: files with their content, and folders (`None`), by their paths below the root, folders first.
pub type Image = BTreeMap<PathBuf, Option<Vec<u8>>>;

const O_ACCMODE: u64 = 3;
const O_CREAT: u64 = 0o100;
const O_TRUNC: u64 = 0o1000;
const O_DSYNC: u64 = 0o10000;

impl Disk {
    /// Makes an empty one for the files below `root`.
    pub fn new(root: &Path, promises: Promises) -> Self {
        let root = root.to_str().expect("folders of tests have names in UTF-8").to_owned();
        Self { root, nodes: vec![Node::Folder(Folder::default())], open: BTreeMap::new(), promises }
    }

    /// Does what a record says.
    ///
    /// # Panics
    ///
    /// When the simulation doesn't know the call, so that its answers would be wrong.
    pub fn apply(&mut self, trace: &Trace, record: &Record) {
        match record {
            Record::Open { fd, flags, path } => self.open(*fd, *flags, path),
            Record::Close { fd } => drop(self.open.remove(fd)),
            Record::Duplicate { fd, copy } => {
                if let Some(node) = self.open.get(fd) {
                    self.open.insert(*copy, *node);
                }
            }
            Record::Write { fd, offset, data } => {
                let (offset, data) = (*offset as usize, trace.data(data));
                if let Some(file) = self.open_file(*fd) {
                    file.write(offset, data);
                }
            }
            Record::Truncate { fd, len } => {
                if let Some(file) = self.open_file(*fd) {
                    file.resize(*len as usize);
                }
            }
            Record::Allocate { fd, end } => {
                if let Some(file) = self.open_file(*fd)
                    && file.current.len() < *end as usize
                {
                    file.resize(*end as usize);
                }
            }
            Record::Sync { fd, data_only } => self.sync(*fd, *data_only),
            Record::SyncAll => {
                if self.promises != Promises::Nothing {
                    self.nodes.iter_mut().for_each(Node::sync);
                }
            }
            Record::SyncRange => {}
            Record::Punch { fd, offset, len } => {
                if let Some(file) = self.open_file(*fd) {
                    let len = (*len as usize).min(file.current.len().saturating_sub(*offset as usize));
                    if len > 0 {
                        file.write(*offset as usize, &vec![0; len]);
                    }
                }
            }
            // As on Linux: what could not be written counts as written from then on, and is gone with the memory.
            Record::FailedSync { fd } => {
                if let Some(file) = self.open_file(*fd) {
                    file.pending.clear();
                }
            }
            Record::Rename { from, to } => self.rename(from, to),
            Record::Unlink { path } | Record::RemoveDirectory { path } => self.remove(path),
            Record::MakeDirectory { path } => {
                if let Some((folder, name)) = self.place(path) {
                    let node = self.add(Node::Folder(Folder::default()));
                    self.folder(folder).put(name, node);
                }
            }
            Record::Link { from, to } => {
                if let (Some(node), Some((folder, name))) = (self.find(from), self.place(to)) {
                    self.folder(folder).put(name, node);
                }
            }
            Record::Unknown { what } => panic!("the simulation doesn't know {what}"),
        }
    }

    /// Returns what the program sees.
    pub fn current(&self) -> Image {
        let mut image = Image::new();
        self.collect(&mut image, 0, Path::new(""), &mut |folder| folder.current.clone(), &mut |file| {
            file.current.clone()
        });
        image
    }

    /// Returns what is there when power comes back, if nothing survives that was not synced, but all names do.
    pub fn durable(&self) -> Image {
        let mut image = Image::new();
        let names = &mut |folder: &Folder| folder.current.clone();
        self.collect(&mut image, 0, Path::new(""), names, &mut |file| file.durable.clone());
        image
    }

    /// Returns what may be there when power comes back, had it been lost now.
    pub fn after_power_cut(&self, choices: &mut Choices) -> Image {
        let mut image = Image::new();
        let weather = Weather::new(self.promises, choices);
        // Two closures can't both have it.
        let mut name_choices = Choices::new(choices.below(1 << 30) as u64);
        self.collect(
            &mut image,
            0,
            Path::new(""),
            &mut |folder| weather.names(folder, &mut name_choices),
            &mut |file| weather.content(file, choices),
        );
        image
    }

    fn collect(
        &self,
        image: &mut Image,
        node: usize,
        path: &Path,
        names: &mut dyn FnMut(&Folder) -> Names,
        content: &mut dyn FnMut(&FileNode) -> Vec<u8>,
    ) {
        match &self.nodes[node] {
            Node::File(file) => drop(image.insert(path.to_owned(), Some(content(file)))),
            Node::Folder(folder) => {
                image.insert(path.to_owned(), None);
                for (name, node) in names(folder) {
                    self.collect(image, node, &path.join(name), names, content);
                }
            }
        }
    }

    fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn folder(&mut self, node: usize) -> &mut Folder {
        match &mut self.nodes[node] {
            Node::Folder(folder) => folder,
            Node::File(_) => panic!("a file is no folder"),
        }
    }

    fn open_file(&mut self, fd: i32) -> Option<&mut FileNode> {
        match &mut self.nodes[*self.open.get(&fd)?] {
            Node::File(file) => Some(file),
            Node::Folder(_) => None,
        }
    }

    fn find(&self, path: &str) -> Option<usize> {
        let mut node = 0;
        for name in path.strip_prefix(&self.root)?.split('/').filter(|name| !name.is_empty()) {
            let Node::Folder(folder) = &self.nodes[node] else { return None };
            node = *folder.current.get(name)?;
        }
        Some(node)
    }

    /// Returns the folder of a path, and the name in it.
    fn place(&self, path: &str) -> Option<(usize, String)> {
        let (folder, name) = path.trim_end_matches('/').rsplit_once('/')?;
        Some((self.find(folder)?, name.to_owned()))
    }

    fn open(&mut self, fd: i32, flags: u64, path: &str) {
        assert!(flags & O_DSYNC == 0, "the simulation doesn't know O_DSYNC and O_SYNC");
        let node = match self.find(path) {
            Some(node) => node,
            None if flags & O_CREAT != 0 => {
                let node = self.add(Node::File(FileNode::default()));
                let (folder, name) = self.place(path).expect("the folder of a new file is known");
                self.folder(folder).put(name, node);
                node
            }
            // A file that came into being where the recorder didn't see it (see `UNRECORDED`).
            None => return,
        };
        self.open.insert(fd, node);
        if flags & O_TRUNC != 0
            && flags & O_ACCMODE != 0
            && let Some(file) = self.open_file(fd)
        {
            file.resize(0);
        }
    }

    fn sync(&mut self, fd: i32, data_only: bool) {
        match self.promises {
            Promises::Nothing => return,
            Promises::NoDataSync if data_only => return,
            Promises::Journal => {
                for node in &mut self.nodes {
                    if let Node::Folder(folder) = node {
                        folder.sync();
                    }
                }
            }
            _ => {}
        }
        if let Some(node) = self.open.get(&fd) {
            self.nodes[*node].sync();
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        let (Some(node), Some((old_folder, old)), Some((folder, name))) =
            (self.find(from), self.place(from), self.place(to))
        else {
            return;
        };
        assert_eq!(folder, old_folder, "the simulation knows renames within a folder only");
        let folder = self.folder(folder);
        folder.change(NameChange::Rename { from: old, to: name, node });
    }

    fn remove(&mut self, path: &str) {
        if let (Some(_), Some((folder, name))) = (self.find(path), self.place(path)) {
            self.folder(folder).change(NameChange::Remove { name });
        }
    }
}

impl Node {
    fn sync(&mut self) {
        match self {
            Self::File(file) => file.sync(),
            Self::Folder(folder) => folder.sync(),
        }
    }
}

impl FileNode {
    fn write(&mut self, offset: usize, data: &[u8]) {
        let change = Change::Write { offset, data: data.to_vec() };
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    fn resize(&mut self, len: usize) {
        if len < self.current.len() {
            let zeros = vec![0; self.current.len() - len];
            self.pending.push(Change::Write { offset: len, data: zeros });
        }
        self.current.resize(len, 0);
        self.pending.push(Change::Resize { len });
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => {
                if content.len() < offset + data.len() {
                    content.resize(offset + data.len(), 0);
                }
                content[*offset..offset + data.len()].copy_from_slice(data);
            }
            Self::Resize { len } => content.resize(*len, 0),
        }
    }

    /// Returns how long the file is after it.
    fn len_after(&self, len: usize) -> usize {
        match self {
            Self::Write { offset, data } => len.max(offset + data.len()),
            Self::Resize { len } => *len,
        }
    }
}

impl Folder {
    fn put(&mut self, name: String, node: usize) {
        self.change(NameChange::Put { name, node });
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Put { name, node } => drop(names.insert(name.clone(), *node)),
            Self::Remove { name } => drop(names.remove(name)),
            Self::Rename { from, to, node } => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

/// How bad a power cut is: drawn once for each, so that there are mild ones and wild ones.
#[derive(Debug)]
struct Weather {
    sector: usize,
    garbage: bool,
    /// The same for all files and folders, or drawn for each.
    fate: Option<Fate>,
}

/// What survives of what wasn't synced.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Nothing,
    Everything,
    /// The oldest part of it.
    Prefix,
    /// Any part of it, so many of eight.
    Any(usize),
}

impl Weather {
    fn new(promises: Promises, choices: &mut Choices) -> Self {
        let sector = [512, 4096][choices.below(2)];
        let garbage = choices.below(4) == 0 && promises == Promises::PosixAndGarbage;
        let fate = if choices.below(2) == 0 { Some(Fate::draw(choices)) } else { None };
        Self { sector, garbage, fate }
    }

    fn fate(&self, choices: &mut Choices) -> Fate {
        self.fate.unwrap_or_else(|| Fate::draw(choices))
    }

    fn names(&self, folder: &Folder, choices: &mut Choices) -> Names {
        let mut names = folder.durable.clone();
        if folder.pending.is_empty() {
            return names;
        }
        let fate = self.fate(choices);
        let prefix = choices.below(folder.pending.len() + 1);
        for (place, change) in folder.pending.iter().enumerate() {
            let survives = match fate {
                Fate::Nothing => false,
                Fate::Everything => true,
                Fate::Prefix => place < prefix,
                Fate::Any(eighths) => choices.below(8) < eighths,
            };
            if survives {
                change.apply(&mut names);
            }
        }
        names
    }

    fn content(&self, file: &FileNode, choices: &mut Choices) -> Vec<u8> {
        if file.pending.is_empty() {
            return file.durable.clone();
        }
        match self.fate(choices) {
            Fate::Nothing => file.durable.clone(),
            Fate::Everything => file.current.clone(),
            Fate::Prefix => {
                let mut content = file.durable.clone();
                let whole = choices.below(file.pending.len());
                file.pending[..whole].iter().for_each(|change| change.apply(&mut content));
                // Of the next one its beginning, up to the border of a sector.
                if let Change::Write { offset, data } = &file.pending[whole] {
                    let sectors = (offset % self.sector + data.len()).div_ceil(self.sector);
                    let end = (choices.below(sectors + 1) * self.sector).saturating_sub(offset % self.sector);
                    let data = data[..end.min(data.len())].to_vec();
                    if !data.is_empty() {
                        Change::Write { offset: *offset, data }.apply(&mut content);
                    }
                }
                content
            }
            Fate::Any(eighths) => self.shuffled(file, eighths, choices),
        }
    }

    /// Each sector as it was after any of the writes, and the length likewise.
    fn shuffled(&self, file: &FileNode, eighths: usize, choices: &mut Choices) -> Vec<u8> {
        let mut len = file.durable.len();
        let mut longest = len;
        let mut lengths = vec![len];
        // For each sector that was touched, the places of the changes that touched it.
        let mut touched: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (place, change) in file.pending.iter().enumerate() {
            len = change.len_after(len);
            longest = longest.max(len);
            lengths.push(len);
            if let Change::Write { offset, data } = change
                && !data.is_empty()
            {
                for sector in offset / self.sector..=(offset + data.len() - 1) / self.sector {
                    touched.entry(sector).or_default().push(place);
                }
            }
        }
        // The changes of a sector before this place survive.
        let mut survive = |places: &[usize]| {
            if choices.below(8) >= eighths {
                0
            } else if choices.below(2) == 0 {
                usize::MAX
            } else {
                places[choices.below(places.len())] + 1
            }
        };
        let survivors: BTreeMap<usize, usize> =
            touched.iter().map(|(sector, places)| (*sector, survive(places))).collect();
        let mut content = file.durable.clone();
        content.resize(longest, 0);
        if self.garbage {
            let mut noise = Choices::new(choices.below(1 << 30) as u64);
            for byte in &mut content[file.durable.len()..] {
                *byte = noise.below(256) as u8;
            }
        }
        for (place, change) in file.pending.iter().enumerate() {
            let Change::Write { offset, data } = change else { continue };
            let mut at = *offset;
            while at < offset + data.len() {
                let sector = at / self.sector;
                let end = ((sector + 1) * self.sector).min(offset + data.len());
                if place < survivors[&sector] {
                    content[at..end].copy_from_slice(&data[at - offset..end - offset]);
                }
                at = end;
            }
        }
        content.truncate(lengths[choices.below(lengths.len())]);
        content
    }
}

impl Fate {
    fn draw(choices: &mut Choices) -> Self {
        match choices.below(8) {
            0 | 1 => Self::Nothing,
            2 => Self::Everything,
            3 | 4 => Self::Prefix,
            5 => Self::Any(1),
            6 => Self::Any(4),
            _ => Self::Any(7),
        }
    }
}

/// Writes an image into a folder that is not there yet. What is all zeros is left out, as files may have holes.
///
/// # Errors
///
/// Those of the operating system.
pub fn write_image(image: &Image, folder: &Path) -> io::Result<()> {
    for (path, content) in image {
        let path = folder.join(path);
        match content {
            None => fs::create_dir(&path)?,
            Some(content) => {
                let file = File::create(path)?;
                file.set_len(content.len() as u64)?;
                const PIECE: usize = 64 * 1024;
                for (place, piece) in content.chunks(PIECE).enumerate() {
                    if piece.iter().any(|byte| *byte != 0) {
                        file.write_all_at(piece, (place * PIECE) as u64)?;
                    }
                }
            }
        }
    }
    Ok(())
}
