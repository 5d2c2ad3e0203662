//! Plots as SVG: figures in, a picture's text out.
//!
//! Plain shapes and text on a light ground of their own, so that a page in dark colours shows them as well; fonts are
//! whatever the reader's system has. Deliberately absent: anything that moves, and every chart that the report
//! does not need.

mod bars;
mod lines;

pub use bars::{Bar, BarChart, Row};
pub use lines::{LineChart, Panel, Scale, Series};

use std::fmt::Write as _;

/// Ink for text.
const INK: &str = "#1f2933";
/// Ink for what explains.
const FAINT_INK: &str = "#52606d";
/// Grid lines.
const GRID: &str = "#e4e7eb";
/// The ground.
const GROUND: &str = "#ffffff";
/// Outlast's colour; the others' follow.
pub const OURS: &str = "#0b6e99";
/// A peer's.
pub const THEIRS: &str = "#c7ccd1";
/// Another of a peer's, and its lines', which need more contrast than areas.
pub const THEIRS_DARK: &str = "#8a949e";

/// Where a text is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    fn name(self) -> &'static str {
        match self {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        }
    }
}

/// How a text looks.
#[derive(Clone, Copy, Debug)]
struct Font {
    size: f64,
    colour: &'static str,
    weight: u16,
}

const TITLE: Font = Font { size: 17.0, colour: INK, weight: 600 };
const SUBTITLE: Font = Font { size: 12.5, colour: FAINT_INK, weight: 400 };
const LABEL: Font = Font { size: 13.0, colour: INK, weight: 400 };
const SMALL: Font = Font { size: 11.5, colour: FAINT_INK, weight: 400 };

/// A picture in the making.
#[derive(Debug)]
struct Canvas {
    width: f64,
    height: f64,
    body: String,
}

impl Canvas {
    fn new(width: f64, height: f64) -> Canvas {
        Canvas { width, height, body: String::new() }
    }

    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        self.body.write_fmt(element).expect("a text takes all");
        self.body.push('\n');
    }

    fn rectangle(&mut self, [x, y, width, height]: [f64; 4], radius: f64, fill: &str) {
        self.push(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="{radius}" fill="{fill}"/>"#
        ));
    }

    fn line(&mut self, [x1, y1, x2, y2]: [f64; 4], stroke: &str, width: f64) {
        self.push(format_args!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{stroke}" stroke-width="{width}"/>"#
        ));
    }

    fn path(&mut self, points: &[(f64, f64)], stroke: &str, dashes: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.push(format_args!(
            r#"<polyline points="{}" fill="none" stroke="{stroke}" stroke-width="2.2" stroke-linejoin="round" stroke-dasharray="{dashes}"/>"#,
            points.join(" ")
        ));
    }

    fn dot(&mut self, (x, y): (f64, f64), fill: &str) {
        self.push(format_args!(
            r#"<circle cx="{x:.1}" cy="{y:.1}" r="3.6" fill="{fill}" stroke="{GROUND}" stroke-width="1.2"/>"#
        ));
    }

    fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, font: Font, text: &str) {
        let Font { size, colour, weight } = font;
        self.push(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{}" font-size="{size}" font-weight="{weight}" fill="{colour}">{}</text>"#,
            anchor.name(),
            escaped(text)
        ));
    }

    fn finish(self) -> String {
        let Canvas { width, height, body } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" font-family=\"system-ui, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif\">\n\
             <rect width=\"{width}\" height=\"{height}\" rx=\"10\" fill=\"{GROUND}\"/>\n{body}</svg>\n"
        )
    }
}

/// About how wide a text in [`SMALL`] is; fonts differ.
fn text_width(text: &str) -> f64 {
    6.6 * text.chars().count() as f64
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_break_the_picture() {
        let mut canvas = Canvas::new(10.0, 10.0);
        canvas.text((1.0, 2.0), Anchor::Middle, LABEL, "a < b & c");
        let picture = canvas.finish();
        assert!(picture.contains(">a &lt; b &amp; c</text>"), "{picture}");
        assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
    }
}
