//! The results as SVG pictures.

mod axis;

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::{
    BLACK, ChartBuilder, Circle, Color as _, IntoDrawingArea as _, IntoSegmentedCoord as _,
    LineSeries, PathElement, RGBColor, SVGBackend, SegmentValue, SeriesLabelPosition, WHITE,
};

use self::axis::Axis;
use crate::{
    measure::{Better, Metric, RATE, SERVER_CPU},
    report::{Report, metrics_of},
    run::LineResult,
    stats::{Ratio, Summary, format_number},
};

const WIDTH: u32 = 900;
const FONT: (&str, u32) = ("sans-serif", 14);

/// Colours that are told apart by people who see few colours; ours first.
const COLORS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// Writes all pictures of `report` into `dir`, and returns their file names.
///
/// # Errors
/// When a file cannot be written.
pub fn write(report: &Report, dir: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    let advantages = advantages(report);
    if !advantages.is_empty() {
        draw_advantages(&advantages, report, &dir.join("ratios.svg"))?;
        files.push("ratios.svg".to_owned());
    }
    let mut points = report.results.iter().filter_map(|result| result.line.point);
    let mut pictures: Vec<(&str, &str, Metric)> = Vec::new();
    for point in &mut points {
        for metric in point.metrics {
            let picture = (point.picture, point.axis, *metric);
            if !pictures.contains(&picture) {
                pictures.push(picture);
            }
        }
    }
    for (name, axis, metric) in pictures {
        let results: Vec<_> = report
            .results
            .iter()
            .filter(|result| result.line.point.is_some_and(|point| point.picture == name))
            .collect();
        let subject: String = metric.name.chars().take_while(char::is_ascii_alphanumeric).collect();
        let file = format!("growth-{name}-{}.svg", subject.to_lowercase());
        if draw_growth(report, &results, axis, metric, &dir.join(&file))? {
            files.push(file);
        }
    }
    Ok(files)
}

/// By how much ours is better than one peer on one line; above 1 it is.
struct Advantage {
    label: String,
    peer: usize,
    ratio: f64,
    range: (f64, f64),
}

/// The first metric of each line, and the server's CPU.
fn advantages(report: &Report) -> Vec<Advantage> {
    let mut advantages = Vec::new();
    for LineResult { line, cells } in report.results.iter().filter(|one| one.line.point.is_none()) {
        for (at, metric) in metrics_of(cells).into_iter().enumerate() {
            if at > 0 && metric != SERVER_CPU {
                continue;
            }
            // Without its unit; that of a rate is in the name of its line.
            let subject = metric.name.split(',').next().unwrap_or_default();
            let subject = if metric == RATE { String::new() } else { format!(": {subject}") };
            for (peer, cell) in cells.iter().enumerate().skip(1) {
                let (ours, peers) = (cells[0].values_of(metric), cell.values_of(metric));
                let ratio = match metric.better {
                    Better::Higher => Ratio::new(ours, peers),
                    Better::Lower => Ratio::new(peers, ours),
                    Better::Neither => None,
                };
                let Some(Ratio { of_medians, range }) = ratio else { continue };
                let label = format!("{}{subject}, {}", line.name, report.peers[peer].0.name);
                advantages.push(Advantage { label, peer, ratio: of_medians, range });
            }
        }
    }
    advantages
}

fn draw_advantages(advantages: &[Advantage], report: &Report, file: &Path) -> Result<()> {
    let rows = i32::try_from(advantages.len())?;
    let height = 110 + 24 * u32::try_from(advantages.len())?;
    let area = SVGBackend::new(file, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE).map_err(draw_error)?;
    let bounds = advantages.iter().flat_map(|one| [one.ratio, one.range.0, one.range.1]);
    let (low, high) = bounds.fold((0.5_f64, 2.0_f64), |(low, high), bound| {
        (low.min(bound * 0.9), high.max(bound * 1.1))
    });
    let mut chart = ChartBuilder::on(&area)
        .caption("ping-pong against its peers: right of 1 is better", FONT)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(270)
        // By powers of two, at more of which there are labels than plotters' own logarithmic axis has.
        .build_cartesian_2d(low.log2()..high.log2(), (0..rows).into_segmented())
        .map_err(draw_error)?;
    let label = |row: &SegmentValue<i32>| match row {
        SegmentValue::CenterOf(row) => {
            let at = usize::try_from(rows - 1 - row).unwrap_or(usize::MAX);
            advantages.get(at).map_or_else(String::new, |one| one.label.clone())
        }
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_desc("ratio of medians, and the range of the rounds")
        .x_label_formatter(&|power| format_number(power.exp2()))
        .x_labels(12)
        .max_light_lines(1)
        .y_labels(advantages.len() + 1)
        .y_label_formatter(&label)
        .label_style(FONT)
        .draw()
        .map_err(draw_error)?;
    let whole = [(0.0, SegmentValue::Exact(0)), (0.0, SegmentValue::Exact(rows))];
    chart.draw_series([PathElement::new(whole, BLACK)]).map_err(draw_error)?;
    for (peer, _) in report.peers.iter().enumerate().skip(1) {
        let color = COLORS[peer % COLORS.len()];
        let own = advantages.iter().enumerate().filter(|(_, one)| one.peer == peer);
        for (at, one) in own {
            let at = rows - 1 - i32::try_from(at)?;
            let row = || SegmentValue::CenterOf(at);
            let range = [(one.range.0.log2(), row()), (one.range.1.log2(), row())];
            chart
                .draw_series([PathElement::new(range, color.stroke_width(3))])
                .map_err(draw_error)?;
            chart
                .draw_series([Circle::new((one.ratio.log2(), row()), 5, color.filled())])
                .map_err(draw_error)?;
        }
    }
    area.present().map_err(draw_error)
}

/// Draws one line for each peer. Returns false where values of fewer than two lines are known.
fn draw_growth(
    report: &Report,
    results: &[&LineResult],
    axis: &str,
    metric: Metric,
    file: &Path,
) -> Result<bool> {
    let series = |peer: usize| -> Vec<(f64, f64)> {
        let point = |result: &&LineResult| {
            let median = Summary::new(result.cells[peer].values_of(metric))?.median;
            Some((result.line.point?.at as f64, median))
        };
        results.iter().filter_map(point).collect()
    };
    let series: Vec<_> = (0..report.peers.len()).map(series).collect();
    let (steps, values): (Vec<_>, Vec<_>) = series.iter().flatten().copied().unzip();
    let (Some(x), Some(y)) = (Axis::of_steps(steps), Axis::of_values(&values, report.peers.len()))
    else {
        return Ok(false);
    };
    // The legend is above the lines, or left of what grows a lot.
    let legend =
        if y.is_log { SeriesLabelPosition::UpperLeft } else { SeriesLabelPosition::UpperRight };
    let area = SVGBackend::new(file, (WIDTH, 480)).into_drawing_area();
    area.fill(&WHITE).map_err(draw_error)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(format!("{} by {axis}", metric.name), FONT)
        .margin(10)
        // The last label is centred on the end of the axis.
        .margin_right(30)
        .x_label_area_size(45)
        .y_label_area_size(80)
        .build_cartesian_2d(x, y)
        .map_err(draw_error)?;
    chart
        .configure_mesh()
        .x_desc(axis)
        .x_label_formatter(&|step| format!("{step:.0}"))
        .label_style(FONT)
        .draw()
        .map_err(draw_error)?;
    let measured =
        series.iter().zip(&report.peers).enumerate().filter(|(_, (points, _))| !points.is_empty());
    for (at, (points, (peer, _))) in measured {
        let color = COLORS[at % COLORS.len()];
        let circles = points.iter().map(|point| Circle::new(*point, 4, color.filled()));
        chart
            .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))
            .map_err(draw_error)?
            .label(peer.name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2)));
        chart.draw_series(circles).map_err(draw_error)?;
    }
    chart
        .configure_series_labels()
        .position(legend)
        .label_font(FONT)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()
        .map_err(draw_error)?;
    area.present().map_err(draw_error)?;
    Ok(true)
}

/// plotters' errors borrow the picture.
fn draw_error(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("picture: {error}")
}
