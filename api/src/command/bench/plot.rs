//! Drawing what was measured.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use plotters::{
    chart::{ChartBuilder, SeriesLabelPosition},
    coord::{Shift, combinators::IntoLogRange},
    drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea},
    element::{Circle, PathElement},
    prelude::SVGBackend,
    series::LineSeries,
    style::{BLACK, Color, RGBColor, WHITE},
};
use ravel_core::room_version::RoomVersion;
use ravel_proptests::rooms::Shape;

use super::measure::{MeasuredShape, Times};
use crate::command::Failure;

const SIZE: (u32, u32) = (900, 560);

/// For Ravel and ruma-state-res: the first room version, the second.
const COLORS: [[RGBColor; 2]; 2] =
    [[RGBColor(0, 90, 181), RGBColor(103, 169, 227)], [RGBColor(190, 50, 20), RGBColor(235, 150, 110)]];

/// A plot.
struct Plot {
    file: &'static str,
    title: &'static str,
    x: &'static str,
    /// Whether a room is of this plot.
    shows: fn(&Shape) -> bool,
    x_of: fn(&Shape) -> usize,
}

const PLOTS: [Plot; 2] = [
    Plot {
        file: "room-size.svg",
        title: "Resolving two forks with 22 conflicted events: cost against room size",
        x: "members of the room",
        shows: |shape| is_plain(shape) && shape.conflicted_events == 22,
        x_of: |shape| shape.members,
    },
    Plot {
        file: "conflict-size.svg",
        title: "Resolving two forks of a room of 10,000 members: cost against conflict size",
        x: "conflicted events",
        shows: |shape| is_plain(shape) && shape.members == 10_000,
        x_of: |shape| shape.conflicted_events,
    },
];

fn is_plain(shape: &Shape) -> bool {
    shape.forks == 2 && shape.power_users == 10 && shape.chained_power_changes == 1
}

/// A line: room size or conflict size with the times there, ascending.
struct Line {
    label: String,
    color: RGBColor,
    points: Vec<(f64, Times)>,
}

/// Draws cost against room size and against conflict size, of the rows that show it. Returns the files.
///
/// # Errors
///
/// When a file can't be written.
pub(super) fn draw(folder: &Path, rows: &[MeasuredShape]) -> Result<Vec<PathBuf>, Failure> {
    let files =
        PLOTS.iter().map(|plot| write_svg(folder.join(plot.file), |area| draw_lines(plot, &lines(plot, rows), area)));
    files.collect()
}

/// Writes a file of what is drawn, and returns its path.
///
/// # Errors
///
/// When the file can't be written.
pub(super) fn write_svg(
    path: PathBuf,
    draw: impl for<'a> FnOnce(&DrawingArea<SVGBackend<'a>, Shift>) -> Drawn<'a>,
) -> Result<PathBuf, Failure> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    let written = draw(&area).map_err(|error| std::io::Error::other(error.to_string()));
    drop(area);
    match written.and_then(|()| fs::write(&path, svg)) {
        Ok(()) => Ok(path),
        Err(source) => Err(Failure::Unwritable { path, source }),
    }
}

fn lines(plot: &Plot, rows: &[MeasuredShape]) -> Vec<Line> {
    let shown: Vec<&MeasuredShape> = rows.iter().filter(|row| (plot.shows)(&row.shape)).collect();
    let mut versions: Vec<RoomVersion> = shown.iter().map(|row| row.shape.room_version).collect();
    versions.dedup();
    let mut lines = Vec::new();
    for ((name, times_of), colors) in IMPLEMENTATIONS.into_iter().zip(COLORS) {
        for (version, color) in versions.iter().zip(colors.into_iter().cycle()) {
            let of_version = shown.iter().filter(|row| row.shape.room_version == *version);
            let points = of_version.map(|row| ((plot.x_of)(&row.shape) as f64, times_of(row)));
            let mut points: Vec<(f64, Times)> = points.collect();
            points.sort_by(|one, other| one.0.total_cmp(&other.0));
            lines.push(Line { label: format!("{name}, room version {version}"), color, points });
        }
    }
    lines
}

/// Names an implementation, and takes its times.
type Implementation = (&'static str, fn(&MeasuredShape) -> Times);

const IMPLEMENTATIONS: [Implementation; 2] = [("Ravel", |row| row.ravel), ("ruma-state-res", |row| row.ruma)];

pub(super) type Drawn<'a> =
    Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as plotters::backend::DrawingBackend>::ErrorType>>;

fn draw_lines<'a>(plot: &Plot, lines: &[Line], area: &DrawingArea<SVGBackend<'a>, Shift>) -> Drawn<'a> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let xs = powers_of_ten(points().map(|(x, _)| *x));
    let ys = powers_of_ten(points().flat_map(|(_, times)| [times.q1, times.q3]));
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(plot.title, ("sans-serif", 20))
        .margin(16)
        .margin_right(40)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(xs.log_scale(), ys.log_scale())?;
    chart
        .configure_mesh()
        .x_desc(plot.x)
        .y_desc("CPU time of one resolution: median and quartiles")
        .x_label_formatter(&|x| thousands(*x))
        .y_label_formatter(&|y| time(*y))
        .bold_line_style(BLACK.mix(0.2))
        .light_line_style(BLACK.mix(0.05))
        .label_style(("sans-serif", 14))
        .draw()?;
    for line in lines {
        let style = line.color.stroke_width(2);
        let medians = line.points.iter().map(|(x, times)| (*x, times.median));
        chart
            .draw_series(LineSeries::new(medians.clone(), style))?
            .label(&line.label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
        chart.draw_series(medians.map(|point| Circle::new(point, 4, line.color.filled())))?;
        let spread = |(x, times): &(f64, Times)| PathElement::new([(*x, times.q1), (*x, times.q3)], line.color);
        chart.draw_series(line.points.iter().map(spread))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font(("sans-serif", 14))
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()
}

/// Returns the smallest range between different powers of ten that holds all values, which are positive.
pub(super) fn powers_of_ten(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (mut min, mut max) = (f64::MAX, f64::MIN_POSITIVE);
    for value in values {
        (min, max) = (min.min(value), max.max(value));
    }
    let (low, high) = (min.min(max).log10().floor(), max.log10().ceil());
    10_f64.powf(low)..10_f64.powf(high.max(low + 1.0))
}

pub(super) fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn time(us: f64) -> String {
    match us {
        1e6.. => format!("{} s", thousands(us / 1e6)),
        1e3.. => format!("{:.0} ms", us / 1e3),
        1.0.. => format!("{us:.0} us"),
        _ => format!("{us} us"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_labelled_for_people() {
        assert_eq!([1.0, 100.0, 1e3, 1e5, 1e6].map(thousands), ["1", "100", "1,000", "100,000", "1,000,000"]);
        assert_eq!([0.1, 1.0, 1e2, 1e3, 1e5, 1e6].map(time), ["0.1 us", "1 us", "100 us", "1 ms", "100 ms", "1 s"]);
    }

    #[test]
    fn every_row_of_a_plot_is_a_point_of_it() {
        let shape = Shape { members: 100, ..Shape::default() };
        let other = Shape { members: 200, room_version: RoomVersion::V12, ..Shape::default() };
        let elsewhere = Shape { members: 150, power_users: 20, ..Shape::default() };
        let rows = [shape, other, elsewhere].map(|shape| MeasuredShape::of(&shape).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let files = draw(folder.path(), &rows).unwrap();
        let svg = fs::read_to_string(&files[0]).unwrap();
        assert_eq!(svg.matches("<circle").count(), 2 * 2, "{svg}");
        for label in ["Ravel, room version 11", "ruma-state-res, room version 12", PLOTS[0].title, PLOTS[0].x] {
            assert!(svg.contains(label), "{label:?} is not in {svg}");
        }
        assert!(files[1].ends_with("conflict-size.svg") && files[1].exists());
    }

    #[test]
    fn axes_begin_and_end_at_powers_of_ten() {
        let check = |values: &[f64], expected| assert_eq!(powers_of_ten(values.iter().copied()), expected);
        check(&[22.0, 10_002.0], 10.0..100_000.0);
        check(&[100.0, 10_000.0], 100.0..10_000.0);
        check(&[100.0], 100.0..1_000.0);
    }
}
