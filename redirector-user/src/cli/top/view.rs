//! What somebody in front of `top` sees of it: which routes, in which order, from where
//! on. No terminal is needed for it.

use std::fmt::Write as _;

use super::{Answer, RouteRow};
use crate::output::{Style, width};

/// What the routes are sorted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sort {
    Rate,
    Name,
    Open,
    Failed,
}

impl Sort {
    const fn next(self) -> Self {
        match self {
            Self::Rate => Self::Name,
            Self::Name => Self::Open,
            Self::Open => Self::Failed,
            Self::Failed => Self::Rate,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Name => "name",
            Self::Open => "open",
            Self::Failed => "failed",
        }
    }

    fn order(self, one: &RouteRow, other: &RouteRow) -> std::cmp::Ordering {
        let by_name = one.route.cmp(&other.route);
        // What there is most of comes first.
        match self {
            Self::Rate => other.rate.total_cmp(&one.rate).then(by_name),
            Self::Name => by_name,
            Self::Open => other.open().cmp(&one.open()).then(by_name),
            Self::Failed => other.failed().cmp(&one.failed()).then(by_name),
        }
    }
}

/// What was pressed, as far as it means anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    /// A character.
    Text(char),
    /// The end of what is typed.
    Enter,
    /// Back.
    Escape,
    /// The character before.
    Backspace,
    /// A line.
    Up,
    /// A line.
    Down,
    /// A screen.
    PageUp,
    /// A screen.
    PageDown,
    /// All the way.
    Home,
    /// All the way.
    End,
}

/// What is seen.
#[derive(Debug)]
pub struct View {
    sort: Sort,
    filter: String,
    /// The filter is being typed.
    typing: bool,
    /// The first line that is seen of the routes.
    first: usize,
    /// How many lines of them the last screen had, and how many there were.
    lines: (usize, usize),
}

impl View {
    /// All of them, the busiest first.
    pub const fn new() -> Self {
        Self { sort: Sort::Rate, filter: String::new(), typing: false, first: 0, lines: (1, 1) }
    }

    /// Does what a key asks for; `false` when that is to end.
    pub fn press(&mut self, key: Key) -> bool {
        if self.typing {
            match key {
                Key::Text(character) => self.filter.push(character),
                Key::Backspace => _ = self.filter.pop(),
                Key::Enter => self.typing = false,
                Key::Escape => {
                    self.filter.clear();
                    self.typing = false;
                }
                _ => {}
            }
            self.first = 0;
            return true;
        }
        let (screen, all) = self.lines;
        self.first = match key {
            Key::Text('q') => return false,
            Key::Text('s') => {
                self.sort = self.sort.next();
                0
            }
            Key::Text('/') => {
                self.typing = true;
                self.first
            }
            Key::Escape => {
                self.filter.clear();
                0
            }
            Key::Up | Key::Text('k') => self.first.saturating_sub(1),
            Key::Down | Key::Text('j') => self.first + 1,
            Key::PageUp => self.first.saturating_sub(screen),
            Key::PageDown | Key::Text(' ') => self.first + screen,
            Key::Home | Key::Text('g') => 0,
            Key::End | Key::Text('G') => all,
            _ => self.first,
        };
        true
    }

    /// The screen: so many rows at most, none wider than the style says.
    pub fn draw(&mut self, answer: &Answer, rows: usize, style: Style) -> String {
        let shown = |route: &&RouteRow| route.has(&self.filter);
        let mut routes: Vec<&RouteRow> = answer.all().filter(shown).collect();
        routes.sort_by(|one, other| self.sort.order(one, other));
        let count = routes.len();
        let (heading, body) = answer.parts(routes, style);
        let heading: Vec<&str> = heading.lines().collect();
        let body: Vec<&str> = body.lines().collect();
        // The last row says what can be done.
        let room = rows.saturating_sub(heading.len() + 1).max(1);
        self.lines = (room, body.len());
        self.first = self.first.min(body.len().saturating_sub(room));
        let seen = body.iter().skip(self.first).take(room);
        let mut screen = String::new();
        for line in heading.iter().chain(seen).take(rows.saturating_sub(1)) {
            let _ = writeln!(screen, "{line}");
        }
        screen + &self.foot(count, answer.all().count(), style)
    }

    fn foot(&self, shown: usize, all: usize, style: Style) -> String {
        let filter = match (self.typing, self.filter.as_str()) {
            (true, filter) => format!("filter: {filter}_ (enter, esc)"),
            (false, "") => "/ filter".to_owned(),
            (false, filter) => format!("filter: {filter} (esc)"),
        };
        let sort = self.sort.name();
        let foot = format!("q quit  s sort: {sort}  {filter}  up/down  {shown} of {all} routes");
        let mut cut = foot;
        while width(&cut) > style.columns() {
            cut.pop();
        }
        style.strong(cut)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answer, route};
    use super::*;

    fn names(screen: &str) -> Vec<String> {
        let names = screen.lines().filter(|line| line.starts_with("ns/"));
        names.map(|line| line.trim_end_matches(" tcp[0]").to_owned()).collect()
    }

    fn view() -> (View, Answer) {
        let rows = [("a", 1.0, 9, 0), ("b", 3.0, 5, 2), ("c", 2.0, 7, 1)];
        let routes = rows.map(|(name, rate, open, failed)| route(name, rate, open, failed));
        (View::new(), answer(routes.into()))
    }

    const STYLE: Style = Style::new(false, 80);

    #[test]
    fn routes_are_sorted_by_what_was_pressed() {
        let (mut view, answer) = view();
        let orders = ["ns/b ns/c ns/a", "ns/a ns/b ns/c", "ns/a ns/c ns/b", "ns/b ns/c ns/a"];
        for order in orders {
            let screen = view.draw(&answer, 24, STYLE);
            assert_eq!(names(&screen).join(" "), order, "{screen}");
            assert!(view.press(Key::Text('s')));
        }
        assert!(!view.press(Key::Text('q')));
    }

    #[test]
    fn a_filter_is_typed_shown_and_taken_back() {
        let (mut view, answer) = view();
        for key in ['/', 'n', 's', '/', 'q'].map(Key::Text) {
            assert!(view.press(key), "a q is a letter of it");
        }
        view.press(Key::Backspace);
        view.press(Key::Text('b'));
        let screen = view.draw(&answer, 24, STYLE);
        assert_eq!(names(&screen), ["ns/b"], "{screen}");
        assert!(screen.contains("filter: ns/b_") && screen.contains("1 of 3 routes"), "{screen}");
        view.press(Key::Enter);
        view.press(Key::Escape);
        assert_eq!(names(&view.draw(&answer, 24, STYLE)).len(), 3);
    }

    #[test]
    fn a_small_screen_is_scrolled_to_its_end_and_no_further() {
        let (mut view, answer) = view();
        let whole = view.draw(&answer, 100, STYLE);
        let height = whole.lines().count();
        for rows in [6, 8, height - 1] {
            view.press(Key::Home);
            let screen = view.draw(&answer, rows, STYLE);
            assert_eq!(screen.lines().count(), rows, "{screen}");
            assert!(screen.contains("ns/b"), "{screen}");
            view.press(Key::End);
            let end = view.draw(&answer, rows, STYLE);
            let last = whole.lines().nth(height - 2);
            assert_eq!(end.lines().nth(rows - 2), last, "{end}");
            view.press(Key::Down);
            assert_eq!(view.draw(&answer, rows, STYLE), end);
            view.press(Key::Up);
            assert_ne!(view.draw(&answer, rows, STYLE), end);
        }
        // One that has become larger shows all again.
        assert_eq!(view.draw(&answer, 100, STYLE), whole);
    }
}
