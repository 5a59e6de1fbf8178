//! What a key does.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::state::State;
use crate::stat::By;

/// A filter that is longer matches nothing anyway.
const LONGEST_FILTER: usize = 100;
const PAGE: isize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Nothing,
    /// What is shown is of something else now.
    Ask,
    Quit,
}

pub fn pressed(state: &mut State, key: KeyEvent) -> Action {
    if key.kind == KeyEventKind::Release {
        return Action::Nothing;
    }
    // The terminal is raw: nobody else makes a signal of it.
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return if key.code == KeyCode::Char('c') { Action::Quit } else { Action::Nothing };
    }
    if state.typing {
        typed(state, key.code);
        return Action::Nothing;
    }
    match key.code {
        KeyCode::Char('q') => return Action::Quit,
        KeyCode::Char(digit @ '1'..='4') => return choose(state, By::ALL[(digit as usize) - ('1' as usize)]),
        KeyCode::Tab | KeyCode::Right => return choose(state, beside(state.by, 1)),
        KeyCode::BackTab | KeyCode::Left => return choose(state, beside(state.by, By::ALL.len() - 1)),
        KeyCode::Char('s') => state.sort = state.sort.next(),
        KeyCode::Char('/') => state.typing = true,
        KeyCode::Char('p' | ' ') => {
            state.paused = !state.paused;
            return if state.paused { Action::Nothing } else { Action::Ask };
        }
        KeyCode::Esc => {
            state.filter.clear();
            state.first = 0;
        }
        KeyCode::Up | KeyCode::Char('k') => state.scroll(-1),
        KeyCode::Down | KeyCode::Char('j') => state.scroll(1),
        KeyCode::PageUp => state.scroll(-PAGE),
        KeyCode::PageDown => state.scroll(PAGE),
        KeyCode::Home => state.first = 0,
        KeyCode::End => state.scroll(isize::MAX),
        _ => {}
    }
    Action::Nothing
}

fn choose(state: &mut State, by: By) -> Action {
    state.choose(by);
    // Paused or not: there is nothing to show of it yet.
    state.paused = false;
    Action::Ask
}

fn beside(by: By, steps: usize) -> By {
    let place = By::ALL.iter().position(|other| *other == by).unwrap_or_default();
    By::ALL[(place + steps) % By::ALL.len()]
}

fn typed(state: &mut State, key: KeyCode) {
    match key {
        KeyCode::Enter => state.typing = false,
        KeyCode::Esc => {
            state.typing = false;
            state.filter.clear();
        }
        KeyCode::Backspace => drop(state.filter.pop()),
        KeyCode::Char(c) if !c.is_control() && state.filter.chars().count() < LONGEST_FILTER => state.filter.push(c),
        _ => {}
    }
    state.first = 0;
}
