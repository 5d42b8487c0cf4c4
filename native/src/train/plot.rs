//! The loss by step as an SVG: a line a head, and the points on the validation texts.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
/// Around the axes: left, top, right, bottom.
const MARGIN: [f64; 4] = [64.0, 24.0, 150.0, 52.0];
/// Told apart also where red and green are not.
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#7f7f7f"];
/// More points than this on a line are averaged.
const POINTS: usize = 500;

/// Points of every head: by offset, then step and nats.
type Series = BTreeMap<u64, Vec<(f64, f64)>>;

/// The plot of a log's lines.
pub fn plot(log: &[Value]) -> String {
    let (train, valid) = (series(log, "losses"), series(log, "valid"));
    let all = || train.values().chain(valid.values()).flatten();
    let last = all().map(|point| point.0).fold(1.0, f64::max);
    let highest = all().map(|point| point.1).fold(0.0, f64::max).max(1e-3);
    let [x_step, y_step] = [step(last), step(highest)];
    let top = (highest / y_step).ceil() * y_step;
    let [left, above, right, below] = MARGIN;
    let x = |value: f64| left + value / last * (WIDTH - left - right);
    let y = |value: f64| HEIGHT - below - value / top * (HEIGHT - above - below);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut line = |text: std::fmt::Arguments<'_>| {
        let _ = writeln!(svg, "{text}");
    };
    for n in 0..=(top / y_step).round() as u32 {
        let value = f64::from(n) * y_step;
        let at = y(value);
        line(format_args!("<path d=\"M{left} {at:.1}H{:.1}\" stroke=\"#dddddd\"/>", WIDTH - right));
        line(format_args!(
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 8.0,
            at + 4.0,
            short(value)
        ));
    }
    for n in 0..=(last / x_step).floor() as u32 {
        let value = f64::from(n) * x_step;
        let (at, floor) = (x(value), HEIGHT - below);
        line(format_args!("<path d=\"M{at:.1} {floor}v5\" stroke=\"black\"/>"));
        line(format_args!("<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>", floor + 19.0, short(value)));
    }
    line(format_args!(
        "<path d=\"M{left} {above}V{}H{}\" fill=\"none\" stroke=\"black\"/>",
        HEIGHT - below,
        WIDTH - right
    ));
    let middle = (left + WIDTH - right) / 2.0;
    line(format_args!("<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">step</text>", HEIGHT - 12.0));
    let half = (above + HEIGHT - below) / 2.0;
    line(format_args!(
        "<text transform=\"translate(16 {half}) rotate(-90)\" text-anchor=\"middle\">loss (nats a token)</text>"
    ));
    for (n, (offset, points)) in train.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        let path: Vec<String> =
            thinned(points).iter().map(|&(step, loss)| format!("{:.1},{:.1}", x(step), y(loss))).collect();
        line(format_args!("<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>", path.join(" ")));
        for &(step, loss) in valid.get(offset).into_iter().flatten() {
            line(format_args!("<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{colour}\"/>", x(step), y(loss)));
        }
        let (at, beside) = (above + 16.0 * (n as f64 + 1.0), WIDTH - right + 12.0);
        line(format_args!("<path d=\"M{beside} {:.1}h18\" stroke=\"{colour}\" stroke-width=\"2\"/>", at - 4.0));
        line(format_args!("<text x=\"{}\" y=\"{at:.1}\">token +{offset}</text>", beside + 24.0));
    }
    if !valid.is_empty() {
        let (at, beside) = (above + 16.0 * (train.len() as f64 + 1.0), WIDTH - right + 12.0);
        line(format_args!("<circle cx=\"{}\" cy=\"{:.1}\" r=\"3.5\" fill=\"#555555\"/>", beside + 9.0, at - 4.0));
        line(format_args!("<text x=\"{}\" y=\"{at:.1}\">validation</text>", beside + 24.0));
    }
    svg + "</svg>\n"
}

fn series(log: &[Value], field: &str) -> Series {
    let mut series = Series::new();
    for line in log {
        let Some(step) = line["step"].as_f64() else { continue };
        for (offset, loss) in line[field].as_object().into_iter().flatten() {
            if let (Ok(offset), Some(loss)) = (offset.parse(), loss.as_f64()) {
                series.entry(offset).or_default().push((step, loss));
            }
        }
    }
    series
}

/// At most [`POINTS`] points, each the mean of as many.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mean = |chunk: &[(f64, f64)]| {
        let sum = chunk.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / chunk.len() as f64, sum.1 / chunk.len() as f64)
    };
    points.chunks(points.len().div_ceil(POINTS).max(1)).map(mean).collect()
}

/// 1, 2 or 5 times a power of ten, so that about five of them reach `most`.
fn step(most: f64) -> f64 {
    let rough = most / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|n| n * power).find(|&step| step >= rough * 0.999).unwrap_or(10.0 * power)
}

/// A tick's number without the noise of its binary form.
fn short(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_a_head_with_axes_and_units() {
        let log: Vec<Value> = (1..=1200)
            .map(|step| {
                let mut line = json!({"step": step, "losses": {"1": 3.0, "2": 4.0 - f64::from(step) / 1000.0}});
                if step % 400 == 0 {
                    line["valid"] = json!({"1": 3.1, "2": 4.1});
                }
                line
            })
            .collect();
        let svg = plot(&log);
        let count = |what: &str| svg.matches(what).count();
        assert_eq!(count("<polyline"), 2);
        assert_eq!(count("<circle"), 2 * 3 + 1);
        for part in ["token +1", "token +2", "validation", ">step<", "nats a token", ">1000<", ">4<"] {
            assert!(svg.contains(part), "{part}");
        }
        let longest = svg.lines().map(|line| line.matches(',').count()).max().unwrap();
        assert!((300..=POINTS).contains(&longest), "{longest}");
        assert!(!svg.contains("NaN"), "{svg}");
    }

    #[test]
    fn little_to_show_is_shown() {
        for log in [vec![], vec![json!({"step": 1, "losses": {"2": 0.0}})]] {
            let svg = plot(&log);
            assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn ticks_are_round() {
        for (most, expected) in [(1.0, 0.2), (4.2, 1.0), (1200.0, 500.0), (7.0, 2.0), (1e-3, 2e-4)] {
            assert!((step(most) / expected - 1.0).abs() < 1e-9, "{most}: {}", step(most));
        }
        assert_eq!((short(0.30000000000000004), short(500.0), short(0.0)), ("0.3".into(), "500".into(), "0".into()));
    }
}
