//! Plots as SVG text: lines, bars and heat-maps with axes, units, intervals and a legend. Readable in a browser as it is.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 72.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 58.0;
/// Room for the legend.
const RIGHT: f64 = 210.0;

/// Told apart also by those who see few colours (Okabe and Ito), and dark enough on white.
const COLOURS: [&str; 9] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#333333", "#8c564b", "#7fbf3f"];

/// A value with its interval; without one, both ends are the value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    pub low: f64,
    pub high: f64,
}

impl Point {
    /// Without an interval.
    pub fn plain(x: f64, y: f64) -> Self {
        Self { x, y, low: y, high: y }
    }
}

/// Points of one name.
pub struct Series {
    pub name: String,
    pub points: Vec<Point>,
}

/// The labels around a plot. They say the unit.
#[derive(Clone, Copy)]
pub struct Labels<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub y: &'a str,
}

/// Lines with error bars. `diagonal` adds y = x. What is not finite is left out.
pub fn lines(labels: Labels<'_>, series: &[Series], diagonal: bool) -> String {
    let finite = |point: &&Point| point.x.is_finite() && point.y.is_finite();
    let points = || series.iter().flat_map(|series| &series.points).filter(finite);
    let x = Scale::of(points().map(|point| point.x), LEFT, WIDTH - RIGHT);
    let y = Scale::of(points().flat_map(|point| [point.y, point.low, point.high]), HEIGHT - BOTTOM, TOP);
    let mut svg = Svg::new(labels, HEIGHT);
    svg.y_axis(&y);
    for (tick, text) in x.ticks() {
        let at = x.at(tick);
        let base = HEIGHT - BOTTOM;
        svg.line((at, base), (at, base + 5.0), "#333", 1.0);
        svg.text((at, base + 19.0), "middle", 12, &text);
    }
    if diagonal {
        let (from, to) = (x.from.max(y.from), x.to.min(y.to));
        svg.raw(&format!(
            r##"<path d="M{:.1} {:.1}L{:.1} {:.1}" stroke="#999" stroke-dasharray="5 4" fill="none"/>"##,
            x.at(from),
            y.at(from),
            x.at(to),
            y.at(to)
        ));
    }
    for (index, series) in series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let points: Vec<&Point> = series.points.iter().filter(finite).collect();
        let path: Vec<String> =
            points.iter().map(|point| format!("{:.1} {:.1}", x.at(point.x), y.at(point.y))).collect();
        if !path.is_empty() {
            svg.raw(&format!(r#"<path d="M{}" stroke="{colour}" stroke-width="1.8" fill="none"/>"#, path.join("L")));
        }
        // A dot and a bar for each of thousands of points would be a smear.
        for point in points.iter().filter(|_| points.len() <= 60) {
            svg.error_bar(x.at(point.x), (y.at(point.low), y.at(point.high)), colour);
            svg.raw(&format!(r#"<circle cx="{:.1}" cy="{:.1}" r="3" fill="{colour}"/>"#, x.at(point.x), y.at(point.y)));
        }
    }
    svg.legend(series.iter().map(|series| series.name.as_str()));
    svg.end()
}

/// Bars in groups, with error bars. Point `i` of a series stands over group `i`; its `x` is not used.
pub fn bars(labels: Labels<'_>, groups: &[String], series: &[Series]) -> String {
    let values = series.iter().flat_map(|series| &series.points).flat_map(|point| [point.y, point.low, point.high]);
    let y = Scale::of(values.filter(|y| y.is_finite()).chain([0.0]), HEIGHT - BOTTOM, TOP);
    let mut svg = Svg::new(labels, HEIGHT);
    svg.y_axis(&y);
    let group_width = (WIDTH - RIGHT - LEFT) / groups.len().max(1) as f64;
    let bar_width = (group_width * 0.8 / series.len().max(1) as f64).min(60.0);
    for (group, name) in groups.iter().enumerate() {
        let middle = LEFT + (group as f64 + 0.5) * group_width;
        svg.text((middle, HEIGHT - BOTTOM + 19.0), "middle", 12, name);
        for (index, one) in series.iter().enumerate() {
            let Some(point) = one.points.get(group).filter(|point| point.y.is_finite()) else { continue };
            let left = middle + (index as f64 - series.len() as f64 / 2.0) * bar_width;
            let (top, base) = (y.at(point.y.max(0.0)), y.at(point.y.min(0.0)));
            let (wide, high, colour) = (bar_width * 0.9, (base - top).max(0.5), COLOURS[index % COLOURS.len()]);
            svg.raw(&format!(
                r#"<rect x="{left:.1}" y="{top:.1}" width="{wide:.1}" height="{high:.1}" fill="{colour}" fill-opacity="0.75"/>"#
            ));
            svg.error_bar(left + wide / 2.0, (y.at(point.low), y.at(point.high)), "#222");
        }
    }
    svg.legend(series.iter().map(|series| series.name.as_str()));
    svg.end()
}

/// A table of numbers as colours, with the numbers in it. `values` are rows, from the top.
pub fn heat_map(labels: Labels<'_>, rows: &[String], columns: &[String], values: &[Vec<f64>]) -> String {
    let cell = ((WIDTH - RIGHT) / columns.len().max(1) as f64).clamp(24.0, 64.0);
    let (left, top) = (RIGHT, TOP + 8.0);
    let finite = || values.iter().flatten().copied().filter(|value| value.is_finite());
    let (least, most) = (finite().fold(0.0, f64::min), finite().fold(f64::MIN, f64::max).max(1e-12));
    let height = top + 28.0 * rows.len() as f64 + BOTTOM;
    let mut svg = Svg { text: String::new() };
    svg.begin(labels, height, (left + cell * columns.len() as f64).max(WIDTH));
    for (row, (name, values)) in rows.iter().zip(values).enumerate() {
        let y = top + 28.0 * row as f64;
        svg.text((left - 8.0, y + 18.0), "end", 12, name);
        for (column, value) in values.iter().enumerate().filter(|(_, value)| value.is_finite()) {
            let share = (value - least) / (most - least);
            // From white to a dark blue.
            let mix = |dark: f64| (255.0 + (dark - 255.0) * share) as u8;
            let (x, ink) = (left + cell * column as f64, if share > 0.55 { "#fff" } else { "#222" });
            svg.raw(&format!(
                r##"<rect x="{x:.1}" y="{y:.1}" width="{cell:.1}" height="28" fill="#{:02x}{:02x}{:02x}" stroke="#ddd"/>"##,
                mix(8.0),
                mix(64.0),
                mix(129.0)
            ));
            svg.raw(&format!(
                r#"<text x="{:.1}" y="{:.1}" text-anchor="middle" font-size="11" fill="{ink}">{value:.2}</text>"#,
                x + cell / 2.0,
                y + 18.0
            ));
        }
    }
    let base = top + 28.0 * rows.len() as f64;
    for (column, name) in columns.iter().enumerate() {
        svg.text((left + cell * (column as f64 + 0.5), base + 18.0), "middle", 12, name);
    }
    svg.text((left + cell * columns.len() as f64 / 2.0, base + 40.0), "middle", 13, labels.x);
    svg.text((12.0, top - 8.0), "start", 13, labels.y);
    svg.end()
}

/// Maps numbers to places in the picture.
struct Scale {
    from: f64,
    to: f64,
    step: f64,
    start: f64,
    end: f64,
}

impl Scale {
    /// Round ends around all values.
    fn of(values: impl Iterator<Item = f64>, start: f64, end: f64) -> Self {
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()) {
            (least, most) = (least.min(value), most.max(value));
        }
        if least > most {
            (least, most) = (0.0, 1.0);
        }
        // What begins near 0 begins there.
        if least > 0.0 && least < 0.4 * most {
            least = 0.0;
        }
        if most - least < 1e-12 * most.abs().max(1e-3) {
            (least, most) = (least - 0.5, most + 0.5);
        }
        let rough = (most - least) / 6.0;
        let power = 10f64.powf(rough.log10().floor());
        let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough * 0.999).unwrap_or(10.0);
        let step = factor * power;
        Self { from: (least / step).floor() * step, to: (most / step).ceil() * step, step, start, end }
    }

    fn at(&self, value: f64) -> f64 {
        self.start + (value - self.from) / (self.to - self.from) * (self.end - self.start)
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        let digits = (-self.step.log10().floor()).clamp(0.0, 9.0) as usize;
        let count = ((self.to - self.from) / self.step).round() as usize;
        let tick = |i: usize| self.from + i as f64 * self.step;
        // No "-0".
        (0..=count).map(|i| (tick(i), format!("{:.digits$}", tick(i) + 0.0))).collect()
    }
}

struct Svg {
    text: String,
}

impl Svg {
    fn new(labels: Labels<'_>, height: f64) -> Self {
        let mut svg = Self { text: String::new() };
        svg.begin(labels, height, WIDTH);
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        svg.text((middle, height - 14.0), "middle", 13, labels.x);
        let y = (TOP + height - BOTTOM) / 2.0;
        svg.raw(&format!(
            r#"<text transform="translate(18 {y:.1}) rotate(-90)" text-anchor="middle" font-size="13">{}</text>"#,
            escape(labels.y)
        ));
        svg
    }

    fn begin(&mut self, labels: Labels<'_>, height: f64, width: f64) {
        self.raw(&format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" height="{height:.0}" font-family="sans-serif" fill="#222">"##
        ));
        self.raw(r##"<rect width="100%" height="100%" fill="#fff"/>"##);
        self.text((12.0, 22.0), "start", 15, labels.title);
    }

    fn raw(&mut self, element: &str) {
        self.text.push_str(element);
        self.text.push('\n');
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.text,
            r#"<path d="M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}" stroke="{colour}" stroke-width="{width}"/>"#
        );
    }

    fn text(&mut self, (x, y): (f64, f64), anchor: &str, size: u32, text: &str) {
        let text = escape(text);
        self.raw(&format!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}">{text}</text>"#));
    }

    fn y_axis(&mut self, y: &Scale) {
        for (tick, text) in y.ticks() {
            let at = y.at(tick);
            self.line((LEFT, at), (WIDTH - RIGHT, at), "#e4e4e4", 1.0);
            self.text((LEFT - 8.0, at + 4.0), "end", 12, &text);
        }
        self.line((LEFT, TOP), (LEFT, HEIGHT - BOTTOM), "#333", 1.0);
        self.line((LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM), "#333", 1.0);
    }

    fn error_bar(&mut self, x: f64, (low, high): (f64, f64), colour: &str) {
        if !(low.is_finite() && high.is_finite()) || (low - high).abs() < 0.05 {
            return;
        }
        self.line((x, low), (x, high), colour, 1.2);
        self.line((x - 4.0, low), (x + 4.0, low), colour, 1.2);
        self.line((x - 4.0, high), (x + 4.0, high), colour, 1.2);
    }

    fn legend<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        for (index, name) in names.enumerate() {
            let (x, y) = (WIDTH - RIGHT + 16.0, TOP + 8.0 + 20.0 * index as f64);
            let colour = COLOURS[index % COLOURS.len()];
            self.raw(&format!(r#"<rect x="{x:.1}" y="{:.1}" width="12" height="12" fill="{colour}"/>"#, y - 10.0));
            self.text((x + 18.0, y), "start", 12, name);
        }
    }

    fn end(mut self) -> String {
        self.raw("</svg>");
        self.text
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: Labels<'_> = Labels { title: "A <title> & more", x: "depth (blocks)", y: "KL (nats)" };

    #[test]
    fn ticks_are_round() {
        let texts = |values: &[f64]| {
            let scale = Scale::of(values.iter().copied(), 0.0, 1.0);
            scale.ticks().into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(texts(&[0.02, 0.93]), "0.0 0.2 0.4 0.6 0.8 1.0");
        assert_eq!(texts(&[3.0, 3.0]), "2.4 2.6 2.8 3.0 3.2 3.4 3.6");
        assert_eq!(texts(&[-1.0, 5.0]), "-1 0 1 2 3 4 5");
        assert_eq!(texts(&[]), "0.0 0.2 0.4 0.6 0.8 1.0");
    }

    #[test]
    fn everything_is_in_the_picture() {
        let points =
            vec![Point { x: 1.0, y: 0.5, low: 0.4, high: 0.6 }, Point::plain(2.0, 0.7), Point::plain(3.0, f64::NAN)];
        let series = [Series { name: "next".to_owned(), points }];
        let svg = lines(LABELS, &series, true);
        for part in ["A &lt;title&gt; &amp; more", "depth (blocks)", "KL (nats)", ">next<", "stroke-dasharray"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(!svg.contains("NaN") && svg.ends_with("</svg>\n"));
        let svg = bars(LABELS, &["offset 1".to_owned()], &series);
        assert!(svg.contains("offset 1") && svg.contains("fill-opacity") && !svg.contains("NaN"));
        let svg = heat_map(LABELS, &["head".to_owned()], &["1".to_owned(), "2".to_owned()], &[vec![0.25, f64::NAN]]);
        assert!(svg.contains("0.25") && !svg.contains("NaN"));
    }
}
