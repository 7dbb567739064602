//! Power cuts with a real file system: ext4 on a loop device, of which a copy is made at any moment, as the device was then.
//!
//! What the kernel has not written to the device is not in the copy. The process is stopped meanwhile, and a copy counts only if nothing
//! was written to the device while it was made.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use ravel_backends::Engine;

use crate::{
    faults::{
        campaign::Speaker,
        check::{Depth, check},
        run::{DISK, MARKS, NAME, Progress, RUN_ARGUMENT},
        script::{Script, Size},
    },
    seed::Choices,
};

/// The cuts of one script.
#[derive(Clone, Debug)]
pub struct RealDisk {
    /// The engine.
    pub engine: Engine,
    /// The script's seed.
    pub seed: u64,
    /// How long the script is.
    pub size: Size,
    /// How many cuts at most; a script ends some time.
    pub cuts: u64,
    /// A folder to work in, in memory if possible.
    pub work: PathBuf,
    /// The program that runs scripts.
    pub program: PathBuf,
}

impl RealDisk {
    /// Tells why this machine can't do it, if it can't.
    ///
    /// # Errors
    ///
    /// The words of the command that failed.
    pub fn try_out(work: &Path) -> Result<(), String> {
        let folder = work.join(format!("ravel-faults-try-{}", std::process::id()));
        let tried = (|| {
            fs::create_dir_all(&folder)?;
            let image = folder.join("image");
            make_file_system(&image, 8)?;
            Mounted::new(&image, &folder.join("mounted")).map(drop)
        })();
        let _ = fs::remove_dir_all(&folder);
        tried.map_err(|error: io::Error| error.to_string())
    }

    /// Runs the script and copies the device now and then; checks all copies.
    ///
    /// # Errors
    ///
    /// When the machinery fails.
    pub fn run(&self, speaker: &mut Speaker<impl io::Write>) -> io::Result<()> {
        let mut choices = Choices::new(self.seed ^ 0xd15c);
        let image = self.work.join("image");
        make_file_system(&image, IMAGE_MB)?;
        let mounted = Mounted::new(&image, &self.work.join(DISK))?;
        let mut command = Command::new(&self.program);
        command.arg(RUN_ARGUMENT).args(["--engine", self.engine.name(), "--seed", &self.seed.to_string()]);
        command.arg("--work").arg(&self.work).args((self.size == Size::Small).then_some("--small"));
        let mut child = command.stderr(Stdio::inherit()).spawn()?;
        let copied = self.copies(&mut child, &mounted, &image, &mut choices);
        let _ = child.kill();
        child.wait()?;
        drop(mounted);
        let expected = Script::new(self.seed, self.size).expected();
        for (cut, (copy, progress)) in copied?.into_iter().enumerate() {
            speaker.fault(cut as u64);
            let mounted = Mounted::new(&copy, &self.work.join("cut"))?;
            let depth = Depth { rooms: self.seed.is_multiple_of(2), verify: choices.below(2) == 0, goes_on: true };
            match check(self.engine, &mounted.path.join(NAME), &expected, &progress, depth) {
                Ok(number) if number < progress.issued => speaker.noticed(),
                Ok(_) => {}
                Err(problem) => speaker.failed(cut as u64, &problem),
            }
            drop(mounted);
            fs::remove_file(copy)?;
        }
        speaker.done();
        Ok(())
    }

    fn copies(
        &self,
        child: &mut Child,
        mounted: &Mounted,
        image: &Path,
        choices: &mut Choices,
    ) -> io::Result<Vec<(PathBuf, Progress)>> {
        let mut copies = Vec::new();
        while (copies.len() as u64) < self.cuts {
            thread::sleep(Duration::from_micros(choices.below(40_000) as u64));
            if child.try_wait()?.is_some() {
                break;
            }
            signal(child, "-STOP")?;
            let mut progress = Progress::default();
            progress.read(&fs::read(self.work.join(MARKS)).unwrap_or_default());
            let copy = self.work.join(format!("copy-{}", copies.len()));
            for _ in 0..TRIES {
                let before = mounted.writes()?;
                thread::sleep(Duration::from_millis(1));
                done(Command::new("cp").arg("--sparse=always").arg(image).arg(&copy))?;
                if before.ends_with(" 0") && before == mounted.writes()? {
                    copies.push((copy, progress));
                    break;
                }
            }
            signal(child, "-CONT")?;
        }
        Ok(copies)
    }
}

fn signal(child: &Child, signal: &str) -> io::Result<()> {
    done(Command::new("kill").args([signal, &child.id().to_string()]))
}

const IMAGE_MB: u64 = 64;
const TRIES: usize = 20;

fn make_file_system(image: &Path, megabytes: u64) -> io::Result<()> {
    fs::File::create(image)?.set_len(megabytes << 20)?;
    done(Command::new("mkfs.ext4").arg("-q").arg(image))
}

/// A mounted image, until it is dropped.
struct Mounted {
    path: PathBuf,
    /// What the kernel counts of the device.
    counters: PathBuf,
}

impl Mounted {
    fn new(image: &Path, path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        done(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(image).arg(path))?;
        let mut mounted = Self { path: path.to_owned(), counters: PathBuf::new() };
        let found = Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(path).output()?;
        let device = String::from_utf8_lossy(&found.stdout).trim().trim_start_matches("/dev/").to_owned();
        mounted.counters = Path::new("/sys/block").join(device).join("stat");
        Ok(mounted)
    }

    /// Returns how much was written to the device, and how many requests are under way.
    fn writes(&self) -> io::Result<String> {
        let counters = fs::read_to_string(&self.counters)?;
        let fields: Vec<&str> = counters.split_whitespace().collect();
        Ok(format!("{} {} {}", fields[4], fields[6], fields[8]))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mut tries = 0;
        while done(Command::new("umount").arg(&self.path)).is_err() && tries < TRIES {
            // A thread of an engine that was just closed may have a file open.
            thread::sleep(Duration::from_millis(50));
            tries += 1;
        }
    }
}

fn done(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let program = command.get_program().to_string_lossy().into_owned();
    Err(io::Error::other(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}
