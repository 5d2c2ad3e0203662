//! Rows of bars, each row on a scale of its own: how we stand beside a peer at each operation. Whose a bar is says its
//! colour, and the legend below all.

use super::{
    Anchor, Canvas, FAINT_INK, Font, GRID, INK, LABEL, SMALL, SUBTITLE, TITLE, text_width,
};

/// One bar.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// Whose it is.
    pub name: String,
    /// Its length, as a share of the row's longest allowed, 1.
    pub share: f64,
    /// The shortest and longest it was in any round.
    pub spread: (f64, f64),
    /// Written at its end.
    pub figure: String,
    /// Its colour.
    pub colour: &'static str,
}

/// Bars of one operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The operation.
    pub title: String,
    /// Below it.
    pub remark: String,
    /// From above to below.
    pub bars: Vec<Bar>,
}

/// Rows below each other.
#[derive(Clone, Debug, PartialEq)]
pub struct BarChart {
    /// Above all.
    pub title: String,
    /// Below the title.
    pub subtitle: String,
    /// From above to below.
    pub rows: Vec<Row>,
}

const WIDTH: f64 = 860.0;
/// Where bars begin; left of it stand the rows' titles.
const LEFT: f64 = 285.0;
/// Where a bar of share 1 ends; right of it is room for a figure.
const RIGHT: f64 = 770.0;
const TOP: f64 = 78.0;
const BAR: f64 = 17.0;
const BAR_GAP: f64 = 4.0;
const ROW_GAP: f64 = 22.0;
/// A bar is not drawn longer than this share.
const SHARE_MAX: f64 = 1.0;

impl Row {
    fn height(&self) -> f64 {
        self.bars.len().max(2) as f64 * (BAR + BAR_GAP) - BAR_GAP
    }
}

impl BarChart {
    /// The picture.
    pub fn render(&self) -> String {
        let rows: f64 = self.rows.iter().map(|row| row.height() + ROW_GAP).sum();
        let bottom = TOP + rows;
        let mut canvas = Canvas::new(WIDTH, bottom + 34.0);
        canvas.text((24.0, 34.0), Anchor::Start, TITLE, &self.title);
        canvas.text((24.0, 54.0), Anchor::Start, SUBTITLE, &self.subtitle);
        let mut y = TOP;
        for row in &self.rows {
            draw_row(&mut canvas, row, y);
            y += row.height() + ROW_GAP;
        }
        self.draw_legend(&mut canvas, bottom + 12.0);
        canvas.finish()
    }
}

impl BarChart {
    /// Each name once, whichever row has it.
    fn draw_legend(&self, canvas: &mut Canvas, y: f64) {
        const SWATCH: f64 = 13.0;
        let mut drawn: Vec<&str> = Vec::new();
        let mut left = 24.0;
        for bar in self.rows.iter().flat_map(|row| &row.bars) {
            if drawn.contains(&bar.name.as_str()) {
                continue;
            }
            drawn.push(&bar.name);
            canvas.rectangle([left, y - 10.5, SWATCH, SWATCH], 2.5, bar.colour);
            canvas.text((left + 20.0, y), Anchor::Start, SMALL, &bar.name);
            left += 20.0 + text_width(&bar.name) + 24.0;
        }
        canvas.line([left, y - 4.0, left + 22.0, y - 4.0], INK, 1.2);
        canvas.text((left + 29.0, y), Anchor::Start, SMALL, "least to most of the rounds");
    }
}

fn at(share: f64) -> f64 {
    LEFT + (RIGHT - LEFT) * share.clamp(0.0, SHARE_MAX)
}

fn draw_row(canvas: &mut Canvas, row: &Row, top: f64) {
    let middle = top + row.height() / 2.0;
    let title_font = Font { weight: 600, ..LABEL };
    canvas.text((LEFT - 16.0, middle - 2.0), Anchor::End, title_font, &row.title);
    canvas.text((LEFT - 16.0, middle + 14.0), Anchor::End, SMALL, &row.remark);
    canvas.line([LEFT, top - 4.0, LEFT, top + row.height() + 4.0], GRID, 1.0);
    let mut y = top;
    for bar in &row.bars {
        canvas.rectangle([LEFT, y, at(bar.share) - LEFT, BAR], 2.5, bar.colour);
        let centre = y + BAR / 2.0;
        let (least, most) = (at(bar.spread.0), at(bar.spread.1));
        canvas.line([least, centre, most, centre], INK, 1.2);
        canvas.line([least, centre - 3.0, least, centre + 3.0], INK, 1.2);
        canvas.line([most, centre - 3.0, most, centre + 3.0], INK, 1.2);
        let end = at(bar.share).max(most) + 8.0;
        let font = Font { size: 12.0, colour: FAINT_INK, weight: 400 };
        canvas.text((end, centre + 4.2), Anchor::Start, font, &bar.figure);
        y += BAR + BAR_GAP;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(share: f64) -> String {
        let bar = Bar {
            name: "Outlast".to_owned(),
            share,
            spread: (share, share),
            figure: "5 µs".to_owned(),
            colour: super::super::OURS,
        };
        let row = Row { title: "REGISTER".to_owned(), remark: String::new(), bars: vec![bar] };
        BarChart { title: "t".to_owned(), subtitle: "s".to_owned(), rows: vec![row] }.render()
    }

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        assert!(chart(0.5).contains(r#"width="242.5""#), "{}", chart(0.5));
        assert!(chart(1.0).contains(r#"width="485.0""#));
    }

    #[test]
    fn a_bar_that_is_too_long_stays_in_the_picture() {
        assert!(chart(70.0).contains(r#"width="485.0""#), "{}", chart(70.0));
    }
}
