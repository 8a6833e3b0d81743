//! Plots as inline SVG: lines over two axes, each of them linear or logarithmic. Colours and fonts come from the page.

use std::fmt::Write as _;

use super::html::escape;

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 250.0;
/// Room for the numbers beside the axes.
const LEFT: f64 = 58.0;
const RIGHT: f64 = 22.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 42.0;
/// Marks on a linear axis, about.
const TICKS: f64 = 5.0;
/// More points than this get no tooltips.
const DOTS_MAX: usize = 150;

/// One axis.
pub(super) struct Axis<'a> {
    pub(super) label: &'a str,
    pub(super) logarithmic: bool,
    /// Marks with their text; none: chosen by the values.
    pub(super) ticks: Vec<(f64, String)>,
}

/// One line.
pub(super) struct Series<'a> {
    pub(super) name: &'a str,
    pub(super) points: Vec<(f64, f64)>,
}

/// A number as short as it can be read.
pub(super) fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size >= 1e9 => (value / 1e9, "G"),
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match value.abs() {
        size if size >= 100.0 || size.fract() < 1e-9 => 0,
        size if size >= 1.0 => 1,
        size if size >= 0.1 => 2,
        _ => 3,
    };
    let mut text = format!("{value:.digits$}");
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    text + unit
}

/// Positions on one axis.
struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
    from: f64,
    to: f64,
}

impl Scale {
    /// Upright, a linear axis goes on to the next mark.
    fn new(values: impl Iterator<Item = f64>, axis: &Axis<'_>, from: f64, to: f64) -> Self {
        let upright = to < from;
        let (mut low, mut high) = values
            .filter(|value| !axis.logarithmic || *value > 0.0)
            .chain(axis.ticks.iter().map(|(at, _)| *at))
            .fold((f64::INFINITY, 0.0_f64), |(low, high), value| {
                (low.min(value), high.max(value))
            });
        if axis.logarithmic {
            low = if low.is_finite() { low } else { 1.0 };
            if axis.ticks.is_empty() {
                low = 10_f64.powf(low.log10().floor());
                high = 10_f64.powf(high.max(low * 10.0).log10().ceil());
            }
        } else {
            low = 0.0;
            if axis.ticks.is_empty() && upright {
                let step = step(high);
                high = (high / step).ceil() * step;
            }
        }
        if high <= low {
            high = low + 1.0;
        }
        Self {
            low,
            high,
            logarithmic: axis.logarithmic,
            from,
            to,
        }
    }

    fn at(&self, value: f64) -> f64 {
        let place = |value: f64| match self.logarithmic {
            true => value.max(self.low).log10(),
            false => value,
        };
        let (low, high) = (place(self.low), place(self.high));
        self.from + (place(value) - low) / (high - low) * (self.to - self.from)
    }

    fn ticks(&self, axis: &Axis<'_>) -> Vec<(f64, String)> {
        if !axis.ticks.is_empty() {
            return axis.ticks.clone();
        }
        let mut ticks = Vec::new();
        if self.logarithmic {
            let mut at = self.low;
            while at <= self.high * 1.001 {
                ticks.push((at, short(at)));
                at *= 10.0;
            }
        } else {
            let step = step(self.high);
            let mut count = 0.0;
            while count * step <= self.high * 1.001 {
                ticks.push((count * step, short(count * step)));
                count += 1.0;
            }
        }
        ticks
    }
}

/// 1, 2 or 5 times a power of ten.
fn step(high: f64) -> f64 {
    let rough = (high / TICKS).max(1e-9);
    let power = 10_f64.powf(rough.log10().floor());
    let factor = match rough / power {
        part if part <= 1.0 => 1.0,
        part if part <= 2.0 => 2.0,
        part if part <= 5.0 => 5.0,
        _ => 10.0,
    };
    factor * power
}

/// A figure with its title, legend and drawing.
pub(super) fn draw(title: &str, x: &Axis<'_>, y: &Axis<'_>, series: &[Series<'_>]) -> String {
    let xs = series
        .iter()
        .flat_map(|one| one.points.iter().map(|point| point.0));
    let ys = series
        .iter()
        .flat_map(|one| one.points.iter().map(|point| point.1));
    let across = Scale::new(xs, x, LEFT, WIDTH - RIGHT);
    let up = Scale::new(ys, y, HEIGHT - BOTTOM, TOP);
    let mut svg = String::new();
    // Writing to a string cannot fail.
    for (at, text) in up.ticks(y) {
        let place = up.at(at);
        let _ = write!(
            svg,
            "<path class=\"grid\" d=\"M{LEFT} {place:.1}H{}\"/><text x=\"{}\" y=\"{:.1}\" class=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            place + 4.0,
            escape(&text)
        );
    }
    for (at, text) in across.ticks(x) {
        let place = across.at(at);
        let _ = write!(
            svg,
            "<path class=\"grid\" d=\"M{place:.1} {TOP}V{}\"/><text x=\"{place:.1}\" y=\"{}\" class=\"mid\">{}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 17.0,
            escape(&text)
        );
    }
    let _ = write!(
        svg,
        "<text x=\"{}\" y=\"{}\" class=\"mid dim\">{}</text>",
        f64::midpoint(LEFT, WIDTH - RIGHT),
        HEIGHT - 6.0,
        escape(x.label)
    );
    for (number, one) in series.iter().enumerate() {
        let mut path = String::new();
        for (place, (at, value)) in one.points.iter().enumerate() {
            let letter = if place == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{letter}{:.1} {:.1}", across.at(*at), up.at(*value));
        }
        let _ = write!(svg, "<path class=\"line s{number}\" d=\"{path}\"/>");
        if one.points.len() <= DOTS_MAX {
            for (at, value) in &one.points {
                let _ = write!(
                    svg,
                    "<circle class=\"dot s{number}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{}\"><title>{}: {} at {}</title></circle>",
                    across.at(*at),
                    up.at(*value),
                    if one.points.len() == 1 { 4.0 } else { 2.2 },
                    escape(one.name),
                    short(*value),
                    short(*at),
                );
            }
        }
    }
    let legend: String = series
        .iter()
        .enumerate()
        .map(|(number, one)| {
            format!(
                "<span class=\"key\"><i class=\"s{number}\"></i>{}</span>",
                escape(one.name)
            )
        })
        .collect();
    let unit = escape(y.label);
    let title = escape(title);
    format!(
        "<figure><figcaption><b>{title}</b> <span class=\"dim\">{unit}</span> {legend}</figcaption>\
         <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">{svg}</svg></figure>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(logarithmic: bool) -> Axis<'static> {
        Axis {
            label: "x",
            logarithmic,
            ticks: Vec::new(),
        }
    }

    #[test]
    fn axes_end_at_round_numbers() {
        let linear = Scale::new([3.0, 47.0].into_iter(), &axis(false), 100.0, 0.0);
        let ticks: Vec<f64> = linear
            .ticks(&axis(false))
            .iter()
            .map(|(at, _)| *at)
            .collect();
        assert_eq!(ticks, [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]);
        assert_eq!(linear.at(25.0), 50.0);
        let along = Scale::new([3.0, 47.0].into_iter(), &axis(false), 0.0, 94.0);
        assert_eq!((along.at(47.0), along.ticks(&axis(false)).len()), (94.0, 5));
        let decades = Scale::new([3.0, 470.0].into_iter(), &axis(true), 0.0, 300.0);
        assert_eq!(decades.ticks(&axis(true)).len(), 4);
        assert!((decades.at(100.0) - 200.0).abs() < 1e-9);
    }

    #[test]
    fn a_plot_of_nothing_or_of_one_value_is_drawn() {
        for points in [vec![], vec![(0.0, 0.0)], vec![(5.0, 7.0)]] {
            for logarithmic in [false, true] {
                let series = [Series {
                    name: "a < b",
                    points: points.clone(),
                }];
                let svg = draw("t", &axis(logarithmic), &axis(logarithmic), &series);
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
                assert!(svg.contains("a &lt; b"));
            }
        }
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.05, "0.05"),
            (31.04, "31"),
            (1.5, "1.5"),
            (20.0, "20"),
            (1500.0, "1500"),
            (15_300.0, "15.3k"),
            (2e6, "2M"),
        ] {
            assert_eq!(short(value), text);
        }
    }
}
