//! A picture of the state: what is asked, a table, what keys there are. Pure.

use ratatui::{
    buffer::Buffer,
    style::{Color, Modifier, Style},
};

use super::state::State;
use crate::{
    output::{self, Mood},
    stat::{
        By,
        shown::{self, FIGURES},
    },
};

const KEYS: &str = "1-4/tab tables   s sort   / filter   p pause   arrows move   q quit";
/// Of each of the two columns that name a row.
const NARROWEST: usize = 10;
const GAP: usize = 2;

pub fn draw(state: &State, picture: &mut Buffer) {
    let area = *picture.area();
    if area.width < 20 || area.height < 5 {
        line(picture, 0, 0, "too small", Style::new());
        return;
    }
    title(state, picture);
    table(state, picture);
    let bottom = area.height - 1;
    let dim = Style::new().fg(Color::DarkGray);
    let (text, style) = match (&state.trouble, state.typing) {
        (_, true) => (format!("/{}_", state.filter), Style::new().fg(Color::Yellow)),
        (Some(trouble), _) => (output::plain(trouble).replace('\n', " "), Style::new().fg(Color::Red)),
        (None, _) => (KEYS.to_owned(), dim),
    };
    line(picture, 0, bottom, &text, style);
}

/// The tables with the chosen one, and what the rows are of.
fn title(state: &State, picture: &mut Buffer) {
    let mut x = line(picture, 0, 0, "meshctl top", Style::new().add_modifier(Modifier::BOLD)) + 3;
    for (index, by) in By::ALL.into_iter().enumerate() {
        let style = match by == state.by {
            true => Style::new().fg(Color::Black).bg(Color::Cyan),
            false => Style::new().fg(Color::Gray),
        };
        x = line(picture, x, 0, &format!(" {} {} ", index + 1, by.name()), style) + 1;
    }
    let mut facts = vec![format!("last {}s", state.window.as_secs())];
    if !state.namespace.is_empty() {
        facts.push(format!("namespace {}", state.namespace));
    }
    if !state.filter.is_empty() && !state.typing {
        facts.push(format!("/{}", state.filter));
    }
    facts.push(format!("by {}", state.sort.column().unwrap_or("name").to_lowercase()));
    if state.paused {
        facts.push("PAUSED".to_owned());
    }
    line(picture, x + 1, 0, &output::plain(&facts.join("  ")), Style::new().fg(Color::DarkGray));
}

fn table(state: &State, picture: &mut Buffer) {
    let area = *picture.area();
    let (rows, room) = (state.rows(), usize::from(area.height) - 4);
    if rows.is_empty() {
        let why = if state.heard { "nothing in this time" } else { "asking" };
        line(picture, 0, 2, why, Style::new().fg(Color::DarkGray));
        return;
    }
    let first = state.first.min(rows.len().saturating_sub(room));
    let shown: Vec<_> = rows
        .iter()
        .skip(first)
        .take(room)
        .map(|(key, sum)| (shown::names(state.by, key, sum).map(|name| output::plain(&name)), shown::figures(sum)))
        .collect();
    let header = shown::columns(state.by);
    let name_width = |index: usize| {
        let widths = shown.iter().map(|(names, _)| names[index].chars().count());
        widths.chain([header[index].len()]).max().unwrap_or_default()
    };
    let figure_widths: [usize; FIGURES.len()] = std::array::from_fn(|index| {
        let widths = shown.iter().map(|(_, figures)| figures[index].0.chars().count().max(1));
        widths.chain([FIGURES[index].len()]).max().unwrap_or_default()
    });
    // Figures first: a name can be cut. The last figures go where there is no room for them.
    let width = usize::from(area.width);
    let mut figures = FIGURES.len();
    let needed = |figures: usize| figure_widths[..figures].iter().map(|width| width + GAP).sum::<usize>();
    while figures > 1 && needed(figures) + 2 * NARROWEST + GAP > width {
        figures -= 1;
    }
    let names = fitted([name_width(0), name_width(1)], width.saturating_sub(needed(figures) + GAP));
    let mut row = |y: u16, texts: [&str; 2], figure: &dyn Fn(usize) -> (String, Style), style: Style| {
        let mut x = 0;
        for (text, width) in texts.into_iter().zip(names) {
            picture.set_stringn(to_u16(x), y, cut(text, width), width, style);
            x += width + GAP;
        }
        for (index, width) in figure_widths.iter().take(figures).enumerate() {
            let (text, style) = figure(index);
            picture.set_stringn(to_u16(x), y, format!("{text:>width$}"), *width, style);
            x += width + GAP;
        }
    };
    let (bold, chosen) = (Style::new().add_modifier(Modifier::BOLD), Style::new().fg(Color::Yellow));
    let head = |index: usize| {
        let is_chosen = state.sort.column() == Some(FIGURES[index]);
        (FIGURES[index].to_owned(), if is_chosen { chosen.add_modifier(Modifier::BOLD) } else { bold })
    };
    let by_name = if state.sort.column().is_none() { chosen.add_modifier(Modifier::BOLD) } else { bold };
    row(2, header, &head, by_name);
    for (index, (names, figures)) in shown.iter().enumerate() {
        let [first, second] = names;
        let cell = |index: usize| {
            let (text, mood) = &figures[index];
            let style = match mood {
                Mood::Bad => Style::new().fg(Color::Red),
                Mood::Good => Style::new().fg(Color::Green),
                Mood::Dim => Style::new().fg(Color::DarkGray),
                Mood::Plain if text == "0" || text == "0B" => Style::new().fg(Color::DarkGray),
                Mood::Plain => Style::new(),
            };
            (if text.is_empty() { "-".to_owned() } else { text.clone() }, style)
        };
        row(to_u16(index + 3), [first, second], &cell, Style::new().fg(Color::Cyan));
    }
    if rows.len() > shown.len() {
        let of = format!("{}-{} of {}", first + 1, first + shown.len(), rows.len());
        let x = width.saturating_sub(of.len());
        line(picture, to_u16(x), 1, &of, Style::new().fg(Color::DarkGray));
    }
}

/// The widths of two names that share this room.
fn fitted([a, b]: [usize; 2], room: usize) -> [usize; 2] {
    if a + b <= room {
        return [a, b];
    }
    let half = room / 2;
    match (a <= half, b <= half) {
        (true, _) => [a, room - a],
        (_, true) => [room - b, b],
        _ => [half, room - half],
    }
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// Where the text ends.
fn line(picture: &mut Buffer, x: u16, y: u16, text: &str, style: Style) -> u16 {
    let room = picture.area().width.saturating_sub(x);
    if room == 0 {
        return x;
    }
    picture.set_stringn(x, y, text, room.into(), style).0
}

fn to_u16(cells: usize) -> u16 {
    u16::try_from(cells).unwrap_or(u16::MAX)
}
