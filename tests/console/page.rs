//! The page in a real browser.

use std::{env, fs, path::PathBuf, thread, time::Duration};

use flotilla_harness::{Cluster, Plan, Split};

use super::{
    browser::{self, Browser},
    writers::{LETTERS, Writers},
};

/// A key that would do harm if it became part of the page.
const MARKUP: &str = "<img src=x onerror=alert(1)>";
/// A hot row must differ so much from the ground: the sum over the colours of a row's pixels, per pixel.
const HEAT: &str = r#"(() => {
    const canvas = document.querySelector('.heat canvas');
    const { width, height } = canvas;
    const pixels = canvas.getContext('2d').getImageData(0, 0, width, height).data;
    let best = { sum: -1 };
    for (let y = 1; y < height; y += 2) {
        let sum = 0;
        let last = 0;
        for (let x = 1; x < width; x += 2) {
            const at = (y * width + x) * 4;
            const unlike = [0, 1, 2].reduce((all, channel) => all + Math.abs(pixels[at + channel] - pixels[channel]), 0);
            sum += unlike;
            if (unlike > 200) last = x;
        }
        if (sum > best.sum) best = { sum, x: last, y };
    }
    const area = canvas.getBoundingClientRect();
    return { x: area.left + best.x * area.width / width, y: area.top + best.y * area.height / height, found: best.x > 0 };
})()"#;

/// Pictures for the documentation are taken if asked for.
struct Pictures(Option<PathBuf>);

impl Pictures {
    const BYTES_MAX: usize = 150 << 10;

    fn new() -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/console");
        Self(env::var_os("FLOTILLA_BLESS").map(|_| folder))
    }

    fn take(&self, browser: &mut Browser, name: &str) {
        if let Some(folder) = &self.0 {
            // What was asked for last is drawn by then.
            thread::sleep(Duration::from_secs(2));
            let picture = browser.picture();
            assert!(
                picture.len() <= Self::BYTES_MAX,
                "{name}: {} bytes",
                picture.len()
            );
            fs::create_dir_all(folder).expect("the sources can be written");
            fs::write(folder.join(name).with_extension("png"), picture).expect("written");
        }
    }
}

fn go(browser: &mut Browser, page: &str, title: &str) {
    browser.value(&format!("void (location.hash = '{page}')"));
    browser.until(
        page,
        &format!("document.querySelector('h1')?.textContent === '{title}'"),
    );
}

/// Cells of a table's rows, by a column's title.
fn cells(table: &str, column: &str) -> String {
    format!(
        "(() => {{ const table = document.querySelector('section[aria-label=\"{table}\"] table');
        const at = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === '{column}');
        return [...table.tBodies[0].rows].map((row) => row.cells[at].textContent); }})()"
    )
}

#[test]
fn a_browser_shows_the_cluster() {
    let Some(program) = browser::installed("the console in a browser") else {
        return;
    };
    let pictures = Pictures::new();
    let cuts = std::iter::once(MARKUP).chain(LETTERS).map(str::to_owned);
    let mut cluster = Cluster::start(Plan {
        split: Split::At(cuts.collect()),
        ..Plan::default()
    });
    let writers = Writers::start(&cluster, "m");
    if pictures.0.is_some() {
        // So that there is something to see.
        thread::sleep(Duration::from_secs(150));
    }
    let mut browser = Browser::start(program, 1280, 860);
    let browser = &mut browser;
    browser.prefer("light");
    browser.open(&format!("http://{}/console/", cluster.status_address(0)));

    browser.until(
        "all nodes are ready",
        "document.querySelectorAll('tr[data-state=ready]').length === 3",
    );
    browser.until(
        "requests are counted",
        &format!(
            "Number.parseFloat({}[0]) > 1",
            cells("Hot shards", "Writes/s")
        ),
    );
    browser.until(
        "the hot shard is named",
        &format!("{}[0] === 'm … n'", cells("Hot shards", "Keys")),
    );
    browser.until(
        "time is drawn",
        "document.querySelectorAll('.chart path[d*=L]').length === 4",
    );
    pictures.take(browser, "overview-light");

    activity(browser, &cluster);
    heat_map(browser, &pictures);
    search(browser, &pictures);
    keyboard(browser);
    phone(browser, &pictures);

    browser.prefer("dark");
    browser.resize(1280, 860, false);
    cluster.kill(1);
    go(browser, "#/", "Overview");
    let row = format!("tr[data-node='{}'][data-state=down]", cluster.id(1));
    browser.until(
        "the killed node is down",
        &format!("document.querySelector(\"{row}\")"),
    );
    let colour = browser.value(&format!(
        "getComputedStyle(document.querySelector(\"{row} .state\")).color.match(/\\d+/g).map(Number)"
    ));
    let channel = |at: usize| colour[at].as_u64().expect("a colour");
    assert!(
        channel(0) > 200 && channel(1) < 150 && channel(2) < 150,
        "it is red: {colour}"
    );
    browser.until(
        "its shards are led again",
        "document.querySelector('.tiles').innerText.includes('all have a leader')",
    );
    let ground = browser.text("getComputedStyle(document.documentElement).backgroundColor");
    assert_eq!(ground, "rgb(13, 17, 23)", "it is dark");
    pictures.take(browser, "overview-dark");
    go(browser, "#/heat", "Heat map");
    choose(browser, "5 min");
    pictures.take(browser, "heat-dark");

    assert_eq!(browser.complaints, [] as [String; 0]);
    let hosts: Vec<&String> = browser.hosts.iter().collect();
    assert_eq!(
        hosts,
        [&cluster.status_address(0).to_string()],
        "nobody else was asked"
    );

    drop(writers);
    cluster.kill(0);
    browser.until(
        "a page without its node says so",
        "document.querySelector('[role=alert]').innerText.includes('does not answer')",
    );
}

/// Presses a button of the heat map, and waits for what it asks for.
fn choose(browser: &mut Browser, name: &str) {
    let button = format!(
        "[...document.querySelectorAll('.choice button')].find((button) => button.textContent === '{name}')"
    );
    browser.value(&format!("void {button}.click()"));
    browser.until(
        name,
        &format!("{button}.getAttribute('aria-pressed') === 'true'"),
    );
    browser.until("the map is hot", &format!("{HEAT}.found"));
}

/// The hot band is found by its pixels; the pointer is told which shard it is, and a click opens that.
fn heat_map(browser: &mut Browser, pictures: &Pictures) {
    browser.value("void [...document.querySelectorAll('nav a')].find((link) => link.textContent === 'Heat map').click()");
    browser.until("the map is hot", &format!("{HEAT}.found"));
    let hot = browser.value(HEAT);
    let place = |name: &str| hot[name].as_f64().expect("a place");
    browser.point_at(place("x"), place("y"));
    browser.until("the tip is there", "!document.querySelector('.tip').hidden");
    let tip = browser.text("document.querySelector('.tip').innerText");
    let lines: Vec<&str> = tip.lines().collect();
    assert!(
        lines[0].ends_with("/s") && lines[1] == "m … n" && lines[2].starts_with("shard "),
        "{tip}"
    );
    choose(browser, "5 min");
    pictures.take(browser, "heat-light");
    choose(browser, "Writes");
    // The same by the keyboard, from the newest column downwards; the pointer is elsewhere.
    browser.point_at(4.0, 4.0);
    browser.until("the tip is gone", "document.querySelector('.tip').hidden");
    browser.value("void document.querySelector('.heat canvas').focus()");
    browser.press("ArrowLeft");
    browser.press("ArrowDown");
    browser.until(
        "the cursor is in the second row",
        "document.querySelector('.tip .key').textContent === '<img src=x onerror=alert(1)> … b'",
    );
    for _ in 0..12 {
        browser.press("ArrowDown");
    }
    browser.until(
        "it is spoken",
        "document.querySelector('.hush[role=status]').textContent.includes('keys m … n')",
    );
    browser.press("Enter");
    browser.until("the shard is open", "/^#.shards.\\d+$/.test(location.hash) && document.querySelectorAll('main tbody tr').length === 3");
    let facts = browser.text("document.querySelector('.facts').innerText");
    assert!(facts.contains("First key\nm\n"), "{facts}");
    pictures.take(browser, "shard-light");
}

/// The elections of the beginning are there, with the node that won each.
fn activity(browser: &mut Browser, cluster: &Cluster) {
    go(browser, "#/activity", "Activity");
    let node = cluster.id(0);
    let won = format!(
        "[...document.querySelectorAll('section[aria-label=\"Recent events\"] tbody tr')].some((row) =>
            row.cells[1].textContent === '{node}' && /^leads shard \\d+ in term \\d+$/.test(row.cells[2].textContent))"
    );
    browser.until("elections are told", &won);
    browser.value("void document.querySelector('input[type=checkbox]').click()");
    browser.until("elections are left out", &format!("!{won}"));
}

fn search(browser: &mut Browser, pictures: &Pictures) {
    go(browser, "#/shards", "Shards");
    let keys = cells("Shards", "Keys");
    browser.until("all are listed", &format!("{keys}.length === 28"));
    pictures.take(browser, "shards-light");
    browser.value("void document.querySelector('input[type=search]').focus()");
    browser.write("hello");
    browser.until(
        "the shard of the key is found",
        &format!("{keys}.join() === 'h … i'"),
    );
    browser.value("void document.querySelector('input[type=search]').select()");
    browser.write(MARKUP);
    browser.until(
        "keys are text",
        &format!("{keys}.join() === '{MARKUP} … b'"),
    );
    assert_eq!(
        browser.value("document.images.length"),
        1,
        "the sign of the page is the only picture"
    );
    browser.value("void document.querySelector('input[type=search]').select()");
    browser.write(r"\q");
    browser.until(
        "a wrong key is explained",
        "document.querySelector('main .bad').textContent.includes('unknown escape')",
    );
    let sorted = "document.querySelector('th[aria-sort]')?.textContent";
    browser.value("void (document.querySelector('input[type=search]').value = '')");
    browser.value(
        "void document.querySelector('input[type=search]').dispatchEvent(new Event('input'))",
    );
    browser.value("void [...document.querySelectorAll('th button')].find((button) => button.textContent === 'Writes/s').click()");
    browser.until(
        "the hottest is first",
        &format!("{sorted} === 'Writes/s' && {keys}[0] === 'm … n'"),
    );
    // A browser complains by itself of answers that refuse something.
    let told = std::mem::take(&mut browser.complaints);
    let expected = |told: &String| told.contains("400 (Bad Request)") && told.contains("q=%5Cq");
    assert!(told.iter().all(expected), "{told:?}");
}

/// All that can be clicked can be reached by the Tab key, and shows that it is.
fn keyboard(browser: &mut Browser) {
    go(browser, "#/", "Overview");
    browser.value("void document.querySelector('.skip').focus()");
    let mut reached = Vec::new();
    for _ in 0..10 {
        browser.press("Tab");
        reached.push(browser.text("document.activeElement.textContent.trim()"));
        let outline = browser.text("getComputedStyle(document.activeElement).outlineStyle");
        assert_eq!(outline, "solid", "{reached:?}");
    }
    for name in ["Heat map", "Shards", "Activity", "theme: auto", "1"] {
        assert!(
            reached.iter().any(|text| text == name),
            "{name}: {reached:?}"
        );
    }
}

fn phone(browser: &mut Browser, pictures: &Pictures) {
    browser.resize(390, 844, true);
    for (page, title, name) in [
        ("#/", "Overview", "overview-phone"),
        ("#/heat", "Heat map", "heat-phone"),
        ("#/shards", "Shards", "shards-phone"),
        ("#/nodes/1", "Node 1", "node-phone"),
    ] {
        go(browser, page, title);
        browser.until(
            "it is filled",
            "document.querySelector('td, dd, .keys span')",
        );
        let wide = browser
            .value("document.documentElement.scrollWidth")
            .as_u64();
        assert!(wide <= Some(390), "{page} is {wide:?} pixels wide");
        if name.starts_with("heat") {
            choose(browser, "5 min");
        }
        pictures.take(browser, name);
    }
}
