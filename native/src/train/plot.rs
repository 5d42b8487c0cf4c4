//! The loss by step: a line a head, and one for the validation texts.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::plot::{Labels, Point, Series, lines};

/// More points than this on a line are averaged.
const POINTS: usize = 500;

const LABELS: Labels<'_> = Labels { title: "Loss of each head", x: "step", y: "loss (nats a token)" };

/// The plot of a log's lines.
pub fn plot(log: &[Value]) -> String {
    let mut all = series(log, "losses", "");
    all.extend(series(log, "valid", ", validation"));
    lines(LABELS, &all, false)
}

fn series(log: &[Value], field: &str, what: &str) -> Vec<Series> {
    let mut by_offset = BTreeMap::<u64, Vec<Point>>::new();
    for line in log {
        let Some(step) = line["step"].as_f64() else { continue };
        for (offset, loss) in line[field].as_object().into_iter().flatten() {
            if let (Ok(offset), Some(loss)) = (offset.parse(), loss.as_f64()) {
                by_offset.entry(offset).or_default().push(Point::plain(step, loss));
            }
        }
    }
    let named = |(offset, points): (u64, Vec<Point>)| Series {
        name: format!("token +{offset}{what}"),
        points: thinned(&points),
    };
    by_offset.into_iter().map(named).collect()
}

/// Thins a line to at most [`POINTS`] points, each the mean of as many.
fn thinned(points: &[Point]) -> Vec<Point> {
    let mean = |chunk: &[Point], of: fn(&Point) -> f64| chunk.iter().map(of).sum::<f64>() / chunk.len() as f64;
    let chunks = points.chunks(points.len().div_ceil(POINTS).max(1));
    chunks.map(|chunk| Point::plain(mean(chunk, |point| point.x), mean(chunk, |point| point.y))).collect()
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
        for part in ["token +1<", "token +2<", "token +2, validation<", ">step<", "nats a token", ">1000<"] {
            assert!(svg.contains(part), "{part}");
        }
        assert_eq!(svg.matches("<circle").count(), 2 * 3, "points of the validation texts");
        let longest = svg.lines().map(|line| line.matches('L').count()).max().unwrap();
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
}
