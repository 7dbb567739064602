//! Drawing the rates of all engines beside each other.

use std::path::{Path, PathBuf};

use plotters::{
    chart::{ChartBuilder, SeriesLabelPosition},
    coord::{Shift, combinators::IntoLogRange},
    drawing::DrawingArea,
    element::{PathElement, Rectangle, Text},
    prelude::SVGBackend,
    style::{BLACK, Color, RGBColor, WHITE},
};

use super::report::{Measured, Quantity, Report, Samples};
use crate::command::{
    Failure,
    bench::plot::{Drawn, powers_of_ten, thousands, write_svg},
};

const COLORS: [(&str, RGBColor); 2] = [("Ravel", RGBColor(0, 90, 181)), ("the bare engine", RGBColor(235, 150, 110))];

/// The groups of bars.
const QUANTITIES: [(Quantity, &str); 5] = [
    (Quantity::Batches, "events/s, batches of 50"),
    (Quantity::Singles, "events/s, single"),
    (Quantity::LookUps, "look-ups/s"),
    (Quantity::Pages, "pages/s"),
    (Quantity::Rebuild, "entries/s, rebuild"),
];

/// Draws `storage.svg`: a bar for each rate with the spread of its runs, on a logarithmic axis.
pub(super) fn draw(folder: &Path, report: &Report) -> Result<PathBuf, Failure> {
    let path = folder.join("storage.svg");
    write_svg(path, |area| draw_bars(report, area))
}

fn draw_bars<'a>(report: &Report, area: &DrawingArea<SVGBackend<'a>, Shift>) -> Drawn<'a> {
    let mut engines: Vec<&str> = report.measured.iter().map(Measured::engine).collect();
    engines.dedup();
    let find = |engine: &str, quantity| {
        report.measured.iter().find(|measured| measured.engine() == engine && measured.quantity == quantity)
    };
    let rates =
        report.measured.iter().filter(|measured| QUANTITIES.iter().any(|(wanted, _)| *wanted == measured.quantity));
    let values = rates.flat_map(|measured| [measured.ravel.median(), measured.raw.median()]).flatten();
    let ys = powers_of_ten(values);
    let floor = ys.start;
    // A group of bars for each quantity: two for each engine, and a gap.
    let group = engines.len() as f64 * 2.5 + 1.0;
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption("What the engines do with the same events: higher is better", ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(84)
        .build_cartesian_2d(0.0..group * QUANTITIES.len() as f64, ys.log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_desc("for each second: median, fastest and slowest run")
        .y_label_formatter(&|y| thousands(*y))
        .bold_line_style(BLACK.mix(0.2))
        .light_line_style(BLACK.mix(0.05))
        .label_style(("sans-serif", 14))
        .draw()?;
    let mut bars: [Vec<(f64, &Samples)>; 2] = Default::default();
    for (number, (quantity, title)) in QUANTITIES.into_iter().enumerate() {
        let start = number as f64 * group + 0.5;
        chart.draw_series([Text::new(title, (start, floor * 0.72), ("sans-serif", 14))])?;
        for (engine_number, engine) in engines.iter().enumerate() {
            let x = start + engine_number as f64 * 2.5;
            let Some(measured) = find(engine, quantity) else { continue };
            for ((bars, samples), x) in bars.iter_mut().zip([&measured.ravel, &measured.raw]).zip([x, x + 1.0]) {
                bars.push((x, samples));
            }
            let tops = [&measured.ravel, &measured.raw].into_iter().filter_map(Samples::max);
            if let Some(top) = tops.reduce(f64::max) {
                chart.draw_series([Text::new((*engine).to_owned(), (x, top * 1.25), ("sans-serif", 12))])?;
            }
        }
    }
    for (bars, (label, color)) in bars.iter().zip(COLORS) {
        let rectangles = bars.iter().filter_map(|(x, samples)| {
            Some(Rectangle::new([(*x, floor), (x + 0.95, samples.median()?)], color.filled()))
        });
        chart
            .draw_series(rectangles)?
            .label(label)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 20, y + 5)], color.filled()));
        let spreads = bars.iter().filter_map(|(x, samples)| {
            Some(PathElement::new([(x + 0.475, samples.min()?), (x + 0.475, samples.max()?)], BLACK))
        });
        chart.draw_series(spreads)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font(("sans-serif", 14))
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()
}
