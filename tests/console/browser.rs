//! A headless Chromium, driven over its DevTools protocol.
//!
//! The protocol goes through two pipes instead of a WebSocket: messages of JSON that end with a zero byte. So a driver needs
//! no port, no library and no second program, and the browser ends with the test.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use base64::Engine as _;
use serde_json::{Value, json};

/// How long the browser may take for one thing: far above what it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// As Debian and others call it.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// Gives the browser its pipes, as file descriptors 3 and 4.
const PIPES: &str = r#"exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>&2"#;

/// See the module.
pub(crate) struct Browser {
    process: Child,
    sink: ChildStdin,
    messages: Receiver<Value>,
    calls: u64,
    session: Option<String>,
    /// Hosts that were asked for something.
    pub(crate) hosts: BTreeSet<String>,
    /// What the page has complained about: errors, exceptions, violated policies, failed requests.
    pub(crate) complaints: Vec<String>,
    _profile: tempfile::TempDir,
}

/// The browser of this machine. Where there is none, whoever reads the test's output is told; on CI it must be there.
pub(crate) fn installed(what: &str) -> Option<&'static str> {
    let runs = |name: &&&str| {
        let mut command = Command::new(name);
        command
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let found = NAMES.iter().find(runs).copied();
    if found.is_none() {
        let message =
            format!("NOT TESTED: {what}: chromium is not installed (apt-get install chromium)\n");
        assert!(
            env::var_os("CI").is_none(),
            "{message}scripts/setup should have installed it"
        );
        // Past the capture of test output: a test that says nothing would look like one that has passed.
        let _ = fs::write("/dev/stderr", message);
    }
    found
}

impl Browser {
    /// Starts the browser with one empty page of this size.
    pub(crate) fn start(program: &str, width: u32, height: u32) -> Self {
        let profile = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new("sh");
        command.args([
            "-c",
            PIPES,
            program,
            "--headless",
            "--remote-debugging-pipe",
        ]);
        command.args([
            // Pages of a test's own nodes need no protection from each other, and root has no sandbox.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--disable-extensions",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--hide-scrollbars",
            "--force-color-profile=srgb",
            "--lang=en",
        ]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut process = command.spawn().expect("there is a shell");
        let sink = process.stdin.take().expect("piped");
        let source = process.stdout.take().expect("piped");
        let (sender, messages) = channel();
        thread::spawn(move || {
            let parts = BufReader::new(source).split(0);
            let messages = parts
                .map_while(Result::ok)
                .filter_map(|part| serde_json::from_slice(&part).ok());
            // An error means that the test is over.
            for message in messages {
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self {
            process,
            sink,
            messages,
            calls: 0,
            session: None,
            hosts: BTreeSet::new(),
            complaints: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let target = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", target);
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.resize(width, height, false);
        browser
    }

    /// Calls a method of the protocol, and waits for what it returns.
    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.calls += 1;
        let mut message = json!({ "id": self.calls, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let sent = self.sink.write_all(format!("{message}\0").as_bytes());
        sent.expect("the browser runs");
        loop {
            let message = self.messages.recv_timeout(PATIENCE);
            let message =
                message.unwrap_or_else(|_| panic!("the browser does not answer to {method}"));
            if message["id"] == self.calls {
                assert_eq!(message["error"], Value::Null, "{method}");
                return message["result"].clone();
            }
            self.notice(&message);
        }
    }

    /// Keeps what the page must not do.
    fn notice(&mut self, message: &Value) {
        let said = &message["params"];
        let complaint = match message["method"].as_str().unwrap_or_default() {
            "Network.requestWillBeSent" => {
                let url = said["request"]["url"].as_str().unwrap_or_default();
                let host = url.split('/').nth(2).unwrap_or(url);
                self.hosts.insert(host.to_owned());
                return;
            }
            // Questions of a page that is left are taken back.
            "Network.loadingFailed" if said["canceled"] == true => return,
            "Network.loadingFailed" => &said["errorText"],
            "Network.responseReceived" if said["response"]["status"].as_u64() >= Some(500) => {
                &said["response"]["url"]
            }
            "Runtime.exceptionThrown" => &said["exceptionDetails"],
            "Runtime.consoleAPICalled" if said["type"] == "error" || said["type"] == "assert" => {
                &said["args"]
            }
            "Log.entryAdded" if said["entry"]["level"] == "error" => &said["entry"],
            _ => return,
        };
        self.complaints.push(complaint.to_string());
    }

    pub(crate) fn resize(&mut self, width: u32, height: u32, phone: bool) {
        let scale = if phone { 2 } else { 1 };
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone });
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    /// Has the page believe that the person likes it `light` or `dark`.
    pub(crate) fn prefer(&mut self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.call(
            "Emulation.setEmulatedMedia",
            json!({ "features": [feature] }),
        );
    }

    pub(crate) fn open(&mut self, address: &str) {
        self.call("Page.navigate", json!({ "url": address }));
        self.until("the page is there", "document.readyState === 'complete'");
    }

    /// What an expression of the page gives.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let ask = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.call("Runtime.evaluate", ask);
        assert_eq!(answer["exceptionDetails"], Value::Null, "{expression}");
        answer["result"]["value"].take()
    }

    pub(crate) fn text(&mut self, expression: &str) -> String {
        let value = self.value(expression);
        value
            .as_str()
            .unwrap_or_else(|| panic!("{expression} is no text: {value}"))
            .to_owned()
    }

    /// Waits until an expression of the page is true.
    pub(crate) fn until(&mut self, what: &str, expression: &str) {
        let begin = Instant::now();
        while self.value(&format!("Boolean({expression})")) != true {
            if begin.elapsed() > PATIENCE {
                let page = self.text("document.body.innerText");
                panic!(
                    "not in {PATIENCE:?}: {what} ({expression})\n{:?}\n{page}",
                    self.complaints
                );
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    pub(crate) fn point_at(&mut self, x: f64, y: f64) {
        self.call(
            "Input.dispatchMouseEvent",
            json!({ "type": "mouseMoved", "x": x, "y": y }),
        );
    }

    pub(crate) fn press(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({ "type": kind, "key": key, "code": key });
            if key == "Enter" {
                (event["text"], event["windowsVirtualKeyCode"]) = ("\r".into(), 13.into());
            } else if key == "Tab" {
                event["windowsVirtualKeyCode"] = 9.into();
            }
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    pub(crate) fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// The page as a picture, PNG.
    pub(crate) fn picture(&mut self) -> Vec<u8> {
        let picture = self.call(
            "Page.captureScreenshot",
            json!({ "format": "png", "optimizeForSpeed": false }),
        );
        let data = picture["data"].as_str().expect("a picture");
        base64::engine::general_purpose::STANDARD
            .decode(data)
            .expect("base64")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends with its pipes as well; but the profile's folder goes now.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
