//! The timeline as a picture: operations per second, and faults as shaded bands with their names.

use std::{fmt::Write as _, time::Duration};

use crate::{
    kind::Target,
    record::{BUCKET, Counts},
    report::{Band, escape},
};

const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
/// Room for the names of faults, which stand upright: of one character, and at least and at most.
const NAME_CHAR: f64 = 5.8;
const NAMES_MIN: f64 = 90.0;
const NAMES_MAX: f64 = 320.0;
/// Between those of two faults at once.
pub(crate) const BETWEEN_NAMES: &str = " + ";
/// Between two of them, at least.
const NAMES_APART: f64 = 12.0;
const OK_HEIGHT: f64 = 180.0;
const GAP: f64 = 34.0;
const BAD_HEIGHT: f64 = 70.0;
const AXIS: f64 = 34.0;
/// Wide enough for names beside each other.
const PIXELS_PER_SECOND_MIN: f64 = 4.5;
const WIDTH_MIN: f64 = 1040.0;

/// What faults are done to, with the words for it.
pub(crate) const TARGETS: [(Target, &str); 5] = [
    (Target::Processes, "processes"),
    (Target::Network, "network"),
    (Target::Disks, "disks"),
    (Target::Clocks, "clocks"),
    (Target::Operation, "rolling restart"),
];

/// The name of its colour in the page's style.
fn class(target: Target) -> &'static str {
    match target {
        Target::Processes => "processes",
        Target::Network => "network",
        Target::Disks => "disks",
        Target::Clocks => "clocks",
        Target::Operation => "operation",
    }
}

/// A square of its colour.
pub(crate) fn swatch(target: Target) -> String {
    format!(
        "<span class=\"swatch\" style=\"background:var(--{})\"></span>",
        class(target)
    )
}

/// The least of 1, 2, 3, 4, 5 and 8 times a power of ten that is not below a number.
fn round_up(number: f64) -> f64 {
    let power = 10_f64.powf(number.max(1.0).log10().floor());
    let steps = [1.0, 2.0, 3.0, 4.0, 5.0, 8.0, 10.0].map(|step| step * power);
    steps
        .into_iter()
        .find(|step| *step >= number)
        .unwrap_or(number)
}

/// Draws it as SVG, in the colours of the page's style.
pub(crate) fn draw(timeline: &[Counts], bands: &[Band]) -> String {
    let per_second = |count: u32| f64::from(count) / BUCKET.as_secs_f64();
    let seconds = timeline.len() as f64 * BUCKET.as_secs_f64();
    let width = (seconds * PIXELS_PER_SECOND_MIN).max(WIDTH_MIN);
    let x = |at: Duration| LEFT + at.as_secs_f64().min(seconds) / seconds.max(1.0) * width;
    let ok_most = round_up(
        timeline
            .iter()
            .map(|c| per_second(c.ok))
            .fold(0.0, f64::max),
    );
    let bad = |counts: &Counts| per_second(counts.failed + counts.unknown);
    let bad_most = round_up(timeline.iter().map(bad).fold(0.0, f64::max));
    let parts = (bands.iter()).flat_map(|band| band.name.split(BETWEEN_NAMES));
    let longest = parts.map(|part| part.chars().count()).max();
    let names = (longest.unwrap_or_default() as f64 * NAME_CHAR + 12.0).clamp(NAMES_MIN, NAMES_MAX);
    let (ok_base, bad_base) = (names + OK_HEIGHT, names + OK_HEIGHT + GAP + BAD_HEIGHT);
    let (full_width, height) = (LEFT + width + RIGHT, bad_base + AXIS);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{full_width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {full_width:.0} {height:.0}\" font-family=\"system-ui, sans-serif\" font-size=\"11\" \
         role=\"img\" aria-label=\"operations per second while faults come and go\">\n"
    );
    let mut put = |text: String| {
        svg.push_str(&text);
        svg.push('\n');
    };
    let mut last_name = 0.0;
    for band in bands {
        let (from, to, served) = (x(band.from), x(band.to), x(band.served));
        // One colour above the other where there are two.
        let high = (bad_base - names) / band.targets.len().max(1) as f64;
        for (at, target) in band.targets.iter().enumerate() {
            let (class, top) = (class(*target), names + high * at as f64);
            for (from, to, opacity) in [(from, to, 0.34), (to, served, 0.13)] {
                put(format!(
                    "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{high:.1}\" \
                     fill-opacity=\"{opacity}\"/>",
                    (to - from).max(1.0)
                ));
            }
        }
        // Beside each other, too.
        for (at, part) in band.name.split(BETWEEN_NAMES).enumerate() {
            let begin = from + 9.0 + NAMES_APART * at as f64;
            let (text_x, text_y) = (begin.max(last_name + NAMES_APART), names - 6.0);
            last_name = text_x;
            put(format!(
                "<text x=\"{text_x:.1}\" y=\"{text_y:.1}\" transform=\"rotate(-90 {text_x:.1} {text_y:.1})\">{}</text>",
                escape(part)
            ));
        }
    }
    // Axes, with lines to read values from.
    for (base, high, most) in [
        (ok_base, OK_HEIGHT, ok_most),
        (bad_base, BAD_HEIGHT, bad_most),
    ] {
        for part in [0.0, 0.5, 1.0] {
            let y = base - high * part;
            put(format!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT + width,
                LEFT - 6.0,
                y + 4.0,
                most * part
            ));
        }
    }
    let step = round_up(seconds / 20.0);
    let mut at = 0.0;
    while at <= seconds {
        let tick = x(Duration::from_secs_f64(at));
        put(format!(
            "<line class=\"tick\" x1=\"{tick:.1}\" x2=\"{tick:.1}\" y1=\"{bad_base:.1}\" y2=\"{:.1}\"/>\n\
             <text x=\"{tick:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{at} s</text>",
            bad_base + 4.0,
            bad_base + 17.0
        ));
        at += step;
    }
    // Steps: what is shown is the count of each bucket.
    let mut line = String::new();
    for (at, counts) in timeline.iter().enumerate() {
        let (from, to) = (x(BUCKET * at as u32), x(BUCKET * (at as u32 + 1)));
        let y = ok_base - per_second(counts.ok) / ok_most * OK_HEIGHT;
        let move_or_line = if at == 0 { 'M' } else { 'L' };
        let _ = write!(line, "{move_or_line}{from:.1} {y:.1}H{to:.1}");
        let mut base = bad_base;
        for (count, class) in [(counts.unknown, "unknown"), (counts.failed, "failed")] {
            if count > 0 {
                let high = per_second(count) / bad_most * BAD_HEIGHT;
                base -= high;
                put(format!(
                    "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{base:.1}\" width=\"{:.1}\" height=\"{high:.1}\"/>",
                    to - from
                ));
            }
        }
    }
    put(format!(
        "<path class=\"ok\" d=\"{line}\"/>\n\
         <text x=\"4\" y=\"{:.1}\">ok/s</text>\n\
         <text x=\"4\" y=\"{:.1}\">failed/s, <tspan class=\"unknown\">unknown/s</tspan></text>\n</svg>",
        names - 6.0,
        bad_base - BAD_HEIGHT - 8.0
    ));
    svg
}

#[test]
fn bounds_of_axes_are_round_and_not_exceeded() {
    let rounded = [0.0, 1.0, 1.5, 2.0, 4.4, 7.0, 10.0, 36.0, 612.0].map(round_up);
    assert_eq!(rounded, [1.0, 1.0, 2.0, 2.0, 5.0, 8.0, 10.0, 40.0, 800.0]);
}

#[test]
fn the_picture_shows_each_band_and_each_failure_and_stays_in_its_frame() {
    let seconds = Duration::from_secs;
    let mut timeline = vec![
        Counts {
            ok: 25,
            ..Counts::default()
        };
        80
    ];
    timeline[40].failed = 3;
    timeline[41].unknown = 2;
    let band = |from, targets: &[Target]| Band {
        name: format!("<{targets:?}>"),
        targets: targets.to_vec(),
        from: seconds(from),
        to: seconds(from + 2),
        served: seconds(from + 100),
    };
    let two = [Target::Network, Target::Disks];
    let svg = draw(&timeline, &[band(2, &[Target::Processes]), band(9, &two)]);
    assert!(
        svg.contains("&lt;[Processes]&gt;") && svg.contains("&lt;[Network, Disks]&gt;"),
        "{svg}"
    );
    // Two for each fault, and two bars.
    assert_eq!(svg.matches("<rect").count(), 3 * 2 + 2);
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
    for part in svg.split(" x=\"").skip(1) {
        let x: f64 = part
            .split('"')
            .next()
            .expect("quoted")
            .parse()
            .expect("a number");
        assert!((0.0..=LEFT + WIDTH_MIN + RIGHT).contains(&x), "{x}");
    }
    assert!(!draw(&[], &[]).contains("NaN"));
}
