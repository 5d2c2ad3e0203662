//! Lines over an axis, in one or more panels beside each other.

use super::{Anchor, Canvas, FAINT_INK, Font, GRID, SMALL, SUBTITLE, TITLE, text_width};

/// How figures become places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From zero, equal steps.
    Linear,
    /// Powers of ten.
    Logarithmic,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// In the legend.
    pub name: String,
    /// Its colour.
    pub colour: &'static str,
    /// `""` for a full line, else as SVG has it: `"5 4"`.
    pub dashes: &'static str,
    /// Its points, x ascending.
    pub points: Vec<(f64, f64)>,
}

/// Lines over one pair of axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// Above it.
    pub title: String,
    /// The lines.
    pub series: Vec<Series>,
}

/// Panels that share their axes.
#[derive(Clone, Debug)]
pub struct LineChart {
    /// Above all.
    pub title: String,
    /// Below the title.
    pub subtitle: String,
    /// What lies to the right.
    pub x_name: String,
    /// Where it has ticks, and what stands at them.
    pub x_ticks: Vec<(f64, String)>,
    /// See [`Scale`].
    pub x_scale: Scale,
    /// See [`Scale`].
    pub y_scale: Scale,
    /// How a figure of the y axis is written.
    pub y_text: fn(f64) -> String,
    /// From left to right.
    pub panels: Vec<Panel>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 400.0;
const TOP: f64 = 108.0;
const BOTTOM: f64 = 320.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 836.0;
const PANEL_GAP: f64 = 34.0;
const LINEAR_TICKS: f64 = 5.0;

/// Maps the figures of one axis onto the picture.
#[derive(Clone, Copy, Debug)]
struct Axis {
    scale: Scale,
    figures: (f64, f64),
    places: (f64, f64),
}

impl Axis {
    fn place(&self, figure: f64) -> f64 {
        let of = |figure: f64| match self.scale {
            Scale::Linear => figure,
            Scale::Logarithmic => figure.max(f64::MIN_POSITIVE).log10(),
        };
        let (from, to) = (of(self.figures.0), of(self.figures.1));
        let share = if to > from { (of(figure) - from) / (to - from) } else { 0.5 };
        self.places.0 + share * (self.places.1 - self.places.0)
    }
}

impl LineChart {
    /// The picture.
    pub fn render(&self) -> String {
        let mut canvas = Canvas::new(WIDTH, HEIGHT);
        canvas.text((24.0, 34.0), Anchor::Start, TITLE, &self.title);
        canvas.text((24.0, 54.0), Anchor::Start, SUBTITLE, &self.subtitle);
        let (figures, ticks) = self.y_figures();
        let y = Axis { scale: self.y_scale, figures, places: (BOTTOM, TOP) };
        let count = self.panels.len().max(1) as f64;
        let width = (RIGHT - LEFT - PANEL_GAP * (count - 1.0)) / count;
        let mut left = LEFT;
        for (number, panel) in self.panels.iter().enumerate() {
            let right = left + width;
            for &tick in &ticks {
                let place = y.place(tick);
                canvas.line([left, place, right, place], GRID, 1.0);
                if number == 0 {
                    let text = (self.y_text)(tick);
                    canvas.text((left - 9.0, place + 4.0), Anchor::End, SMALL, &text);
                }
            }
            self.draw_panel(&mut canvas, panel, y, (left, right));
            left = right + PANEL_GAP;
        }
        canvas.text(((LEFT + RIGHT) / 2.0, BOTTOM + 42.0), Anchor::Middle, SMALL, &self.x_name);
        self.draw_legend(&mut canvas);
        canvas.finish()
    }

    fn draw_panel(&self, canvas: &mut Canvas, panel: &Panel, y: Axis, (left, right): (f64, f64)) {
        const INSET: f64 = 16.0;
        let title = Font { size: 13.0, weight: 600, colour: FAINT_INK };
        canvas.text((left, TOP - 14.0), Anchor::Start, title, &panel.title);
        let ticks = self.x_ticks.iter().map(|(figure, _)| *figure);
        let figures =
            (ticks.clone().fold(f64::INFINITY, f64::min), ticks.fold(f64::NEG_INFINITY, f64::max));
        let x = Axis { scale: self.x_scale, figures, places: (left + INSET, right - INSET) };
        for (figure, text) in &self.x_ticks {
            canvas.text((x.place(*figure), BOTTOM + 20.0), Anchor::Middle, SMALL, text);
        }
        for series in &panel.series {
            let points: Vec<(f64, f64)> =
                series.points.iter().map(|(px, py)| (x.place(*px), y.place(*py))).collect();
            canvas.path(&points, series.colour, series.dashes);
            for point in points {
                canvas.dot(point, series.colour);
            }
        }
    }

    /// Each name once, whichever panel has it.
    fn draw_legend(&self, canvas: &mut Canvas) {
        let mut drawn: Vec<&str> = Vec::new();
        let mut left = LEFT;
        let y = HEIGHT - 14.0;
        for series in self.panels.iter().flat_map(|panel| &panel.series) {
            if drawn.contains(&series.name.as_str()) {
                continue;
            }
            drawn.push(&series.name);
            canvas.path(&[(left, y - 4.0), (left + 24.0, y - 4.0)], series.colour, series.dashes);
            canvas.dot((left + 12.0, y - 4.0), series.colour);
            canvas.text((left + 31.0, y), Anchor::Start, SMALL, &series.name);
            left += 31.0 + text_width(&series.name) + 26.0;
        }
    }

    /// The range of the y axis and its ticks.
    fn y_figures(&self) -> ((f64, f64), Vec<f64>) {
        let figures = || {
            let series = self.panels.iter().flat_map(|panel| &panel.series);
            series.flat_map(|series| &series.points).map(|(_, y)| *y).filter(|y| *y > 0.0)
        };
        let least = figures().fold(f64::INFINITY, f64::min);
        let most = figures().fold(0.0, f64::max);
        if most <= 0.0 {
            return ((0.0, 1.0), vec![0.0, 1.0]);
        }
        match self.y_scale {
            Scale::Linear => {
                let step = round_step(most / LINEAR_TICKS);
                let top = (most / step).ceil() * step;
                let count = (top / step).round() as usize;
                ((0.0, top), (0..=count).map(|number| number as f64 * step).collect())
            }
            Scale::Logarithmic => {
                let (from, to) = (least.log10().floor() as i32, most.log10().ceil() as i32);
                let to = to.max(from + 1);
                let ticks = (from..=to).map(|power| 10f64.powi(power)).collect();
                ((10f64.powi(from), 10f64.powi(to)), ticks)
            }
        }
    }
}

/// The least of 1, 2, 2.5, 5 × 10ⁿ that is not below `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let rounded =
        [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|factor| factor * power >= step * 0.999);
    rounded.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_figures() {
        assert_eq!([0.7, 1.0, 1.3, 24.0, 26.0].map(round_step), [1.0, 1.0, 2.0, 25.0, 50.0]);
        let chart = |y_scale| LineChart {
            title: String::new(),
            subtitle: String::new(),
            x_name: String::new(),
            x_ticks: vec![(1.0, "1".to_owned()), (10.0, "10".to_owned())],
            x_scale: Scale::Logarithmic,
            y_scale,
            y_text: |figure| figure.to_string(),
            panels: vec![Panel {
                title: String::new(),
                series: vec![Series {
                    name: "a".to_owned(),
                    colour: super::super::OURS,
                    dashes: "",
                    points: vec![(1.0, 30.0), (10.0, 470.0)],
                }],
            }],
        };
        assert_eq!(chart(Scale::Linear).y_figures().0, (0.0, 500.0));
        assert_eq!(chart(Scale::Logarithmic).y_figures().0, (10.0, 1000.0));
        assert_eq!(chart(Scale::Logarithmic).y_figures().1, [10.0, 100.0, 1000.0]);
    }

    #[test]
    fn an_axis_maps_its_ends_onto_its_ends() {
        let axis = Axis { scale: Scale::Logarithmic, figures: (1.0, 100.0), places: (0.0, 10.0) };
        assert_eq!([1.0, 10.0, 100.0].map(|figure| axis.place(figure)), [0.0, 5.0, 10.0]);
        let axis = Axis { scale: Scale::Linear, figures: (0.0, 4.0), places: (10.0, 0.0) };
        assert_eq!([0.0, 1.0, 4.0].map(|figure| axis.place(figure)), [10.0, 7.5, 0.0]);
    }
}
