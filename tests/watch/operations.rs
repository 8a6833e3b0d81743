//! docs/operations.md is typed from its first command to its last, each where the page says: on three nodes, on the machine of
//! whoever operates them, and on the one that watches.
//!
//! A machine is a shell with a folder that stands for `/`. What the page takes from the system there is played: copying
//! between machines, root, users and their files, the package manager, and systemd, which starts what the unit says. Everything
//! else is the real thing.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{self, Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use flotilla_harness::{PATIENCE, Process, binary};
use rustix::process::Signal;

use super::{agree::deploy, tools::installed};

/// How long a stopped service may take.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);

/// The page's network.
const NETWORK: &str = "10.0.0.";
/// Folders of a machine that commands and units name.
const FOLDERS: [&str; 5] = [
    "/etc/flotilla",
    "/etc/prometheus",
    "/etc/systemd/system",
    "/usr/local/bin",
    "/var/lib/flotilla",
];
/// What is played; everything else is found where it always is.
const PLAYED: [(&str, &str); 5] = [
    ("sudo", "exec \"$@\""),
    ("useradd", ":"),
    ("chown", ":"),
    ("apt-get", ":"),
    // The binary that is tested is there already.
    ("cargo", ":"),
];

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    fs::read_to_string(path).expect("the page is there")
}

/// One command of the page.
#[derive(Debug, PartialEq)]
struct Step {
    /// In front of the `$`.
    machine: String,
    /// What is typed, in one or more lines.
    typed: String,
}

/// All commands of a page: what follows a machine's name and `$ ` in blocks of the language console, up to the next one.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if inside {
            let prompt = line.split_once("$ ").filter(|(machine, _)| {
                !machine.is_empty() && machine.bytes().all(|byte| byte.is_ascii_lowercase())
            });
            match (prompt, steps.last_mut()) {
                (Some((machine, typed)), _) => steps.push(Step {
                    machine: machine.to_owned(),
                    typed: typed.to_owned(),
                }),
                (None, Some(step)) => {
                    step.typed.push('\n');
                    step.typed.push_str(line);
                }
                (None, None) => panic!("{line}: a block begins with a machine"),
            }
        }
    }
    steps
}

/// The lines that a shell prints.
fn lines(shell: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let lines = BufReader::new(shell).lines().map_while(Result::ok);
        // Until the shell has ended, or nobody listens any more.
        for line in lines {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// See the module.
struct Machine {
    address: String,
    /// Stands for `/`.
    root: PathBuf,
    shell: Child,
    typing: ChildStdin,
    answers: Receiver<String>,
    services: BTreeMap<String, Process>,
}

impl Machine {
    fn start(folder: &Path, name: &str, address: String) -> Self {
        let root = folder.join(name);
        for path in FOLDERS {
            let path = root.join(&path[1..]);
            fs::create_dir_all(path).expect("the folder is writable");
        }
        let played = root.join("played");
        fs::create_dir(&played).expect("the folder is writable");
        let scp = format!(
            "to=${{@: -1}}; host=${{to#root@}}; host=${{host%%:*}}\n\
             cp \"${{@:1:$#-1}}\" \"$(cat {}/machine-$host)/${{to#*:}}\"",
            folder.display()
        );
        let flotilla = format!("exec {} \"$@\"", binary().display());
        let others = [("scp", &*scp), ("flotilla", &*flotilla)];
        for (name, body) in PLAYED.into_iter().chain(others) {
            let path = played.join(name);
            let text = format!("#!/bin/bash\nset -e\n{body}\n");
            fs::write(&path, text).expect("the folder is writable");
            let executable = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&path, executable).expect("the file is ours");
        }
        let place = folder.join(format!("machine-{address}"));
        fs::write(place, root.display().to_string()).expect("the folder is writable");
        if name == "admin" {
            // The checkout, as far as the page names it.
            let checkout = deploy("..");
            std::os::unix::fs::symlink(checkout.join("deploy"), root.join("deploy"))
                .expect("the folder is writable");
            fs::copy(played.join("flotilla"), root.join("usr/local/bin/flotilla"))
                .expect("the folder is writable");
        }
        let path = env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "bash", "--noprofile", "--norc"])
            .current_dir(&root)
            .env("PATH", format!("{}:{path}", played.display()))
            .env("HOME", &root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("setpriv (util-linux) and bash are there");
        Self {
            address,
            root,
            typing: shell.stdin.take().expect("piped"),
            answers: lines(shell.stdout.take().expect("piped")),
            shell,
            services: BTreeMap::new(),
        }
    }

    /// With this machine's folders.
    fn at_home(&self, text: &str) -> String {
        FOLDERS.iter().fold(text.to_owned(), |text, folder| {
            // Not where it belongs to another machine's.
            text.replace(&format!(":{folder}"), &format!(":\u{0}{}", &folder[1..]))
                .replace(folder, &format!("{}{folder}", self.root.display()))
                .replace('\u{0}', "/")
        })
    }

    /// Types a command and waits until it has ended; gives its exit code and what it printed.
    fn type_in(&mut self, command: &str) -> (i32, String) {
        const END: &str = "--the-command-has-ended--";
        let typed = self.at_home(command);
        // Standard input is where the next commands come from.
        write!(
            self.typing,
            "{{\n{typed}\n}} </dev/null 2>&1\necho \"{END}$?\"\n"
        )
        .expect("it reads");
        self.typing.flush().expect("it reads");
        let mut printed = String::new();
        loop {
            let answer = self.answers.recv_timeout(PATIENCE);
            let line = answer.unwrap_or_else(|_| panic!("{typed}\ndoes not end:\n{printed}"));
            match line.split_once(END) {
                Some((before, code)) => {
                    printed.push_str(before);
                    return (code.parse().expect("a number"), printed);
                }
                None => printed.push_str(&format!("{line}\n")),
            }
        }
    }

    /// What systemd would do.
    fn systemctl(&mut self, arguments: &[&str]) {
        let (verb, service) = match arguments {
            ["enable", "--now", service] => ("start", *service),
            ["kill", "-s", "KILL", service] => ("kill", *service),
            [verb, service] => (*verb, *service),
            _ => panic!("systemctl {arguments:?} is not played"),
        };
        let running = |machine: &Self| {
            assert!(
                machine.services.contains_key(service),
                "{service} does not run"
            );
        };
        match verb {
            "start" => {}
            "restart" => {
                if let Some(mut running) = self.services.remove(service) {
                    running.signal(Signal::TERM);
                    let ended = running.wait(STOPPED_WITHIN);
                    assert!(ended.is_some(), "{service} runs on for {STOPPED_WITHIN:?}");
                }
            }
            "reload" => {
                running(self);
                return self.services[service].signal(Signal::HUP);
            }
            "kill" => {
                running(self);
                self.services.remove(service);
                return;
            }
            _ => panic!("systemctl {verb} is not played"),
        }
        let log = self.root.join(format!("{service}.log"));
        let started = Process::start(self.command(service), &log);
        // Of what it starts by `Type=notify`, systemd says that it has started when it listens.
        let port = if service == "prometheus" { 9090 } else { 7400 };
        while TcpStream::connect((&*self.address, port)).is_err() {
            assert!(
                !started.has_ended(),
                "{service} has ended\n{}",
                self.log(service)
            );
            thread::sleep(Duration::from_millis(50));
        }
        self.services.insert(service.to_owned(), started);
    }

    /// What a service is started by.
    fn command(&self, service: &str) -> Command {
        let (line, settings) = match service {
            "prometheus" => (
                format!(
                    "prometheus --config.file=/etc/prometheus/prometheus.yml --storage.tsdb.path={} --web.listen-address={}:9090",
                    self.root.join("prometheus").display(),
                    self.address
                ),
                Vec::new(),
            ),
            _ => {
                let unit = self
                    .root
                    .join(format!("etc/systemd/system/{service}.service"));
                let unit = fs::read_to_string(unit).expect("the unit was copied");
                let all = |key: &str| {
                    let lines = unit.lines().filter_map(|line| line.strip_prefix(key));
                    lines.map(ToOwned::to_owned).collect::<Vec<_>>()
                };
                let line = all("ExecStart=").pop().expect("a unit starts something");
                (line, all("Environment="))
            }
        };
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        command.args(self.at_home(&line).split(' '));
        for setting in settings {
            let setting = self.at_home(&setting);
            let (key, value) = setting.split_once('=').expect("a variable and its value");
            command.env(key, value);
        }
        command.current_dir(&self.root);
        command
    }

    /// The end of a service's log.
    fn log(&self, service: &str) -> String {
        let log = self.root.join(format!("{service}.log"));
        let log = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

#[test]
fn operations_are_walked_through_as_the_page_says() {
    if !["prometheus", "promtool"]
        .iter()
        .all(|tool| installed(tool, "docs/operations.md"))
    {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Loopback addresses of this process alone, whose ports are all free.
    let [_, _, high, low] = process::id().to_be_bytes();
    let network = format!("127.{}.{low}.", 192 | (high & 63));
    let named = [("a", 1), ("b", 2), ("c", 3), ("watch", 9), ("admin", 10)];
    let mut machines: BTreeMap<&str, Machine> = named
        .into_iter()
        .map(|(name, last)| {
            let machine = Machine::start(folder.path(), name, format!("{network}{last}"));
            (name, machine)
        })
        .collect();
    for step in steps(&page()) {
        let typed = step.typed.replace(NETWORK, &network);
        let names = match &*step.machine {
            "each" => vec!["a", "b", "c"],
            one => vec![one],
        };
        for name in names {
            let machine = machines
                .get_mut(name)
                .unwrap_or_else(|| panic!("{name}$: there is no such machine"));
            if let Some(arguments) = typed.strip_prefix("sudo systemctl ") {
                machine.systemctl(&arguments.split(' ').collect::<Vec<_>>());
                continue;
            }
            let (code, printed) = machine.type_in(&typed);
            println!("{name}$ {typed}\n{printed}");
            if code != 0 {
                let logs = ["a", "b", "c"].map(|name| machines[name].log("flotilla"));
                panic!(
                    "{name}$ {typed}\nended with {code}:\n{printed}\n{}",
                    logs.join("\n---\n")
                );
            }
        }
    }
}

#[test]
fn a_page_is_read_as_it_is_typed() {
    let page = "a$ text\n```console\na$ one $ x\n  two\neach$ three\n```\n```toml\nno\n```\n";
    let step = |machine: &str, typed: &str| Step {
        machine: machine.to_owned(),
        typed: typed.to_owned(),
    };
    assert_eq!(
        steps(page),
        [step("a", "one $ x\n  two"), step("each", "three")]
    );
}
