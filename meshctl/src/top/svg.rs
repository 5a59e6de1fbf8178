//! A picture as SVG: text in a monospaced font, on the colours of a terminal.

use std::fmt::Write as _;

use ratatui::{
    buffer::{Buffer, Cell},
    style::{Color, Modifier},
};

/// Of a cell and around all, in pixels; the font's advance is stated with each text, so that another font fits too.
const WIDTH: f32 = 8.4;
const HEIGHT: f32 = 18.0;
const MARGIN: f32 = 12.0;
const BACKGROUND: &str = "#1b1f27";
const FOREGROUND: &str = "#d7dae0";

pub fn of(picture: &Buffer) -> String {
    let area = picture.area();
    let (width, height) =
        (f32::from(area.width) * WIDTH + 2.0 * MARGIN, f32::from(area.height) * HEIGHT + 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} \
         {height:.0}\" font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, monospace\" font-size=\"14\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{BACKGROUND}\"/>\n"
    );
    for y in 0..area.height {
        let cells: Vec<&Cell> = (0..area.width).filter_map(|x| picture.cell((x, y))).collect();
        let mut x = 0;
        while x < cells.len() {
            let style = |cell: &Cell| (cell.fg, cell.bg, cell.modifier);
            let run = cells[x..].iter().take_while(|cell| style(cell) == style(cells[x])).count();
            text(&mut svg, (x, y.into()), &cells[x..x + run]);
            x += run;
        }
    }
    svg + "</svg>\n"
}

/// Cells of one style, side by side.
fn text(svg: &mut String, (x, y): (usize, usize), cells: &[&Cell]) {
    let Some(first) = cells.first() else { return };
    let (left, top) = (MARGIN + x as f32 * WIDTH, MARGIN + y as f32 * HEIGHT);
    if let Some(colour) = hex(first.bg) {
        let width = cells.len() as f32 * WIDTH;
        let _ = writeln!(
            svg,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{HEIGHT}\" fill=\"{colour}\"/>"
        );
    }
    let all: String = cells.iter().map(|cell| cell.symbol()).collect();
    let trimmed = all.trim_end();
    if trimmed.is_empty() {
        return;
    }
    let skipped = trimmed.chars().count() - trimmed.trim_start().chars().count();
    let said = trimmed.trim_start();
    let (left, baseline) = (left + skipped as f32 * WIDTH, top + HEIGHT * 0.72);
    let length = said.chars().count() as f32 * WIDTH;
    let colour = hex(first.fg).unwrap_or(FOREGROUND);
    let weight = if first.modifier.contains(Modifier::BOLD) { " font-weight=\"bold\"" } else { "" };
    let _ = writeln!(
        svg,
        "<text x=\"{left:.1}\" y=\"{baseline:.1}\" textLength=\"{length:.1}\" fill=\"{colour}\"{weight} \
         xml:space=\"preserve\">{}</text>",
        escaped(said)
    );
}

/// What the picture is made of; others have the terminal's own.
fn hex(colour: Color) -> Option<&'static str> {
    Some(match colour {
        Color::Black => "#14171d",
        Color::Red => "#f2777a",
        Color::Green => "#99cc99",
        Color::Yellow => "#ffcc66",
        Color::Cyan => "#66c7cc",
        Color::Gray => "#b3b9c5",
        Color::DarkGray => "#747c8c",
        _ => return None,
    })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
