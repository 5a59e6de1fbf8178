//! Pictures of states, what keys do to them, and SVG of a picture.

use mesh_common::{
    model::Latency,
    proto::{
        nodemesh::{Direction, Endpoint, Path, Security, Stat},
        seen,
    },
};
use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
};

use super::{keys::pressed, state::Sort, *};
use crate::stat::sum::Summed;

fn stat(destination: &str, requests: u64, failed: u64, ms: u64) -> Stat {
    let end =
        |workload: &str| Some(Endpoint { namespace: "shop".into(), workload: workload.into(), ..Endpoint::default() });
    Stat {
        reporter: Direction::Inbound.into(),
        source: end("cart"),
        destination: end(destination),
        service: format!("shop/{destination}.shop.svc.cluster.local"),
        route: format!("shop/{destination}/0"),
        seconds: 60,
        requests,
        failed_requests: failed,
        latency: seen::latency([(u32::from(Latency::bucket(Duration::from_millis(ms))), requests)]),
        connections: 6,
        open: 2,
        bytes_sent: 60 * 1500,
        security: seen::by_number([(Security::MutualTls, 1)]),
        path: seen::by_number([(Path::Tunnel, 1)]),
        ..Stat::default()
    }
}

fn state(by: By) -> State {
    let mut state = State::new(by, "shop".into(), Duration::from_secs(60));
    let mut summed = Summed::new(by);
    for row in [stat("web", 600, 0, 5), stat("api", 60, 6, 40), stat("db\u{1b}[2J", 0, 0, 0)] {
        summed.add("node-a", &row);
    }
    state.told(by, summed.rows(), None);
    state
}

fn drawn(state: &State, width: u16, height: u16) -> (Vec<String>, Buffer) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw::draw(state, frame.buffer_mut())).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let line = |y| (0..width).map(|x| buffer.cell((x, y)).unwrap().symbol()).collect::<String>();
    ((0..height).map(|y| line(y).trim_end().to_owned()).collect(), buffer)
}

fn press(state: &mut State, keys: &str) -> Action {
    let keys = keys.chars().map(|key| match key {
        '\n' => KeyCode::Enter,
        '\t' => KeyCode::Tab,
        key => KeyCode::Char(key),
    });
    keys.map(|key| pressed(state, KeyEvent::from(key))).last().unwrap_or(Action::Nothing)
}

#[test]
fn a_picture_has_a_table_of_sums() {
    let (lines, _) = drawn(&state(By::Workloads), 130, 8);
    let expected = [
        "meshctl top    1 workloads   2 services   3 routes   4 edges   last 60s  namespace shop  by req/s",
        "",
        "WORKLOAD          NODES  REQ/S  SUCCESS    P50    P95    P99  CONN/S  OPEN  REFUSED  FAILED  BYTES/S  RTT   TLS  ATTESTED  UDP/S",
        "shop/web          1       10.0     100%  4.9ms  4.9ms  4.9ms    0.10     2        0       0    1.5kB    -  100%        0%      -",
        "shop/api          1        1.0    90.0%   38ms   38ms   38ms    0.10     2        0       6    1.5kB    -  100%        0%      -",
        "shop/db\\u{1b}[2J  1          0     100%      -      -      -    0.10     2        0       0    1.5kB    -  100%        0%      -",
        "",
        "1-4/tab tables   s sort   / filter   p pause   arrows move   q quit",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn little_room_cuts_names_and_leaves_figures_out() {
    let (lines, _) = drawn(&state(By::Edges), 60, 8);
    assert!(
        lines[2].starts_with("SOURCE") && lines[2].contains("REQ/S") && !lines[2].contains("ATTESTED"),
        "{lines:?}"
    );
    assert!(lines.iter().all(|line| line.chars().count() <= 60));
    let (lines, _) = drawn(&state(By::Workloads), 60, 6);
    assert!(lines[1].ends_with("1-2 of 3"), "{lines:?}");
    for (width, height) in [(1, 1), (20, 5), (19, 5), (20, 4), (400, 200)] {
        drawn(&state(By::Routes), width, height);
    }
}

#[test]
fn what_is_bad_is_red_and_the_sorted_column_stands_out() {
    let (lines, picture) = drawn(&state(By::Workloads), 130, 8);
    let colour = |y: u16, text: &str| picture.cell((lines[y as usize].find(text).unwrap() as u16, y)).unwrap().fg;
    use ratatui::style::Color;
    assert_eq!(colour(4, "90.0%"), Color::Red);
    assert_eq!(colour(3, "100%"), Color::Reset);
    assert_eq!((colour(2, "REQ/S"), colour(2, "P99")), (Color::Yellow, Color::Reset));
}

#[test]
fn keys_change_the_table_the_order_and_what_is_left() {
    let first = |state: &State| state.rows().first().map(|(key, _)| key.destination.clone()).unwrap_or_default();
    let mut state = state(By::Workloads);
    assert_eq!(first(&state), "shop/web");
    assert_eq!(press(&mut state, "s"), Action::Nothing);
    assert_eq!((state.sort, first(&state)), (Sort::Success, "shop/api".into()));
    press(&mut state, "/API");
    assert_eq!((state.typing, state.rows().len()), (true, 1));
    assert_eq!(press(&mut state, "q"), Action::Nothing, "it is typed");
    assert!(state.rows().is_empty());
    pressed(&mut state, KeyEvent::from(KeyCode::Backspace));
    press(&mut state, "\n");
    assert_eq!((state.typing, state.filter.as_str()), (false, "API"));
    pressed(&mut state, KeyEvent::from(KeyCode::Esc));
    assert_eq!(state.rows().len(), 3);
    assert_eq!((press(&mut state, "p"), state.paused), (Action::Nothing, true));
    assert_eq!((press(&mut state, "p"), state.paused), (Action::Ask, false));
    assert_eq!((press(&mut state, "\t"), state.by), (Action::Ask, By::Services));
    assert_eq!((press(&mut state, "4"), state.by), (Action::Ask, By::Edges));
    assert_eq!((press(&mut state, "\t"), state.by), (Action::Ask, By::Workloads));
    assert!(state.rows().is_empty(), "those of another table are not shown as of this one");
    assert_eq!(press(&mut state, "q"), Action::Quit);
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    state.typing = true;
    assert_eq!(pressed(&mut state, interrupt), Action::Quit);
}

#[test]
fn moving_ends_at_the_ends() {
    let mut state = state(By::Workloads);
    press(&mut state, "k");
    assert_eq!(state.first, 0);
    press(&mut state, "jjjjjjj");
    assert_eq!(state.first, 2);
    let (lines, _) = drawn(&state, 130, 6);
    assert!(lines[1].ends_with("2-3 of 3"), "{lines:?}");
    pressed(&mut state, KeyEvent::from(KeyCode::Home));
    assert_eq!(state.first, 0);
    pressed(&mut state, KeyEvent::from(KeyCode::End));
    assert_eq!(state.first, 2);
}

#[test]
fn what_nobody_answered_leaves_what_was_known_and_says_so() {
    let mut state = state(By::Workloads);
    state.told(By::Workloads, Vec::new(), Some("node-a: gone\nnode-b: gone".into()));
    let (lines, _) = drawn(&state, 130, 8);
    assert!(lines[3].starts_with("shop/web"), "{lines:?}");
    assert_eq!(lines[7], "node-a: gone node-b: gone");
    state.told(By::Edges, Vec::new(), None);
    assert!(state.trouble.is_some(), "an answer to another question is none");
    state.told(By::Workloads, Vec::new(), None);
    assert_eq!(drawn(&state, 130, 8).0[2], "nothing in this time");
}

#[test]
fn a_picture_as_svg_has_all_of_its_text() {
    let mut state = state(By::Workloads);
    state.filter = "<a&b>".into();
    let (_, picture) = drawn(&state, 130, 8);
    let svg = svg::of(&picture);
    assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"), "{svg}");
    assert!(svg.contains("/&lt;a&amp;b&gt;") && !svg.contains("<a&b>"), "{svg}");
    state.filter.clear();
    let svg = svg::of(&drawn(&state, 130, 8).1);
    for text in ["shop/web", "REQ/S", "4.9ms"] {
        assert!(svg.contains(text), "{text}: {svg}");
    }
    assert!(svg.contains("fill=\"#f2777a\" xml:space=\"preserve\">90.0%</text>"), "{svg}");
    assert_eq!(svg.matches("<text ").count(), svg.matches("</text>").count());
}
