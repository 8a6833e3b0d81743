//! One process of the `flotilla` binary.

use std::{
    env,
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::clock;

/// The binary that was built along with this test: cargo puts tests into a folder beside it.
pub fn binary() -> PathBuf {
    let test = env::current_exe().expect("Linux tells");
    let target = test.parent().and_then(Path::parent);
    let binary = target
        .expect("tests lie in target/PROFILE/deps")
        .join("flotilla");
    assert!(
        binary.exists(),
        "{}: not built; run tests by `cargo test -p flotilla`",
        binary.display()
    );
    binary
}

/// The binary, in an environment without settings of its own. It dies with the thread that starts it: a test that is
/// killed leaves nothing behind, not even a process that stands still.
pub(crate) fn command() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(binary());
    let names = env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| name.to_string_lossy().starts_with("FLOTILLA_")) {
        command.env_remove(name);
    }
    command
}

/// Killed when dropped.
pub struct Process(Child);

impl Process {
    /// Starts a program whose log is appended to a file.
    pub fn start(mut command: Command, log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("the folder is writable"))
            // Ctrl-C is for the test, which ends its nodes when it has said what it knows.
            .process_group(0)
            .spawn()
            .expect("setpriv (util-linux) is there");
        Self(child)
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("the process is our child");
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill().expect("the process is our child");
        self.0.wait().expect("the process is our child");
    }

    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub(crate) fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Returns when the process stands still.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
        while self.state() != 'T' {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether it has ended and nobody has asked how.
    pub fn has_ended(&self) -> bool {
        self.state() == 'Z'
    }

    /// The letter that the system gives to what the process does.
    fn state(&self) -> char {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id()));
        let stat = stat.expect("the process is our child");
        // It follows the name, which may hold anything but ends with the last parenthesis.
        let state = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next());
        state.expect("Linux tells the state of a process")
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// How it ended, or none if it runs on for so long.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let begin = Instant::now();
        loop {
            let status = self.0.try_wait().expect("the process is our child");
            if status.is_some() || begin.elapsed() > patience {
                return status;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn peak_memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.id());
        let status = fs::read_to_string(path).expect("the process is our child");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.parse::<u64>().ok())
            .expect("Linux tells the peak of a process's memory")
            * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has seen then.
        let _ = self.0.kill();
        let _ = self.0.wait();
        clock::sweep(self.id());
    }
}
