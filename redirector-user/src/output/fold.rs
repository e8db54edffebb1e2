//! Lines that fit a terminal, whatever names stand in them: one way for all
//! texts. What scripts read is JSON, which is never folded.

/// The columns of a terminal that does not say how many it has.
pub const WIDTH: usize = 80;

/// As many columns as a line takes: where no terminal is, a line is a record.
pub const UNLIMITED: usize = usize::MAX;

/// How much further the rest of a folded line stands than its beginning.
const FURTHER: usize = 2;

/// The width of a text on a terminal, which does not show escape sequences.
/// Names in documents are nearly always ASCII, and others are counted by
/// characters.
pub fn width(text: &str) -> usize {
    visible(text).count()
}

/// Whether a text has more than so many columns. It is looked at no further.
fn is_wider(text: &str, columns: usize) -> bool {
    // A character takes a byte at least.
    text.len() > columns && visible(text).nth(columns).is_some()
}

/// The characters that a terminal shows, with where they begin.
fn visible(text: &str) -> impl Iterator<Item = (usize, char)> {
    let mut characters = text.char_indices();
    std::iter::from_fn(move || {
        loop {
            let (at, character) = characters.next()?;
            if character != '\x1b' {
                return Some((at, character));
            }
            // ESC [ parameters, and a letter that ends it.
            characters.next();
            characters.by_ref().find(|(_, c)| ('@'..='~').contains(c));
        }
    })
}

/// The text with every line that has more than so many columns folded.
pub fn folded(text: &str, columns: usize) -> String {
    if text.lines().all(|line| !is_wider(line, columns)) {
        return text.to_owned();
    }
    let mut folded = String::with_capacity(text.len() + text.len() / 8);
    for line in text.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        folded.push_str(&hang(line, columns).join("\n"));
        folded.push_str(end);
    }
    folded
}

/// A line as lines of so many columns at most; the later ones stand a little
/// further to the right than the first.
pub fn hang(line: &str, columns: usize) -> Vec<String> {
    hang_at(line, columns, indentation(line) + FURTHER)
}

/// The same with the later lines this far to the right.
pub fn hang_at(line: &str, columns: usize, indent: usize) -> Vec<String> {
    if !is_wider(line, columns) {
        return vec![line.to_owned()];
    }
    let (lead, text) = line.split_at(indentation(line));
    let indent = indent.min(columns / 2);
    let mut lines = Vec::new();
    let mut now = lead.to_owned();
    let mut begun = false;
    for mut word in text.split(' ') {
        let gap = usize::from(begun);
        let left = columns.saturating_sub(width(&now) + gap);
        if is_wider(word, left) {
            // What has to be broken anyway is, where much of the line is left.
            if begun && (!is_wider(word, columns - indent) || left < columns / 2) {
                lines.push(std::mem::replace(&mut now, " ".repeat(indent)));
            } else if begun {
                now.push(' ');
            }
            loop {
                let left = columns.saturating_sub(width(&now));
                if !is_wider(word, left) {
                    break;
                }
                let (head, tail) = word.split_at(cut(word, left));
                now.push_str(head);
                lines.push(std::mem::replace(&mut now, " ".repeat(indent)));
                word = tail;
            }
        } else if begun {
            now.push(' ');
        }
        now.push_str(word);
        begun = true;
    }
    lines.push(now);
    lines.iter_mut().for_each(|line| line.truncate(line.trim_end().len()));
    lines
}

/// How many spaces a line begins with.
fn indentation(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

/// Where to break a word that has more than so many columns: behind a slash,
/// else behind another mark, else where the room ends. Never at its beginning.
fn cut(word: &str, columns: usize) -> usize {
    let fitting = || visible(word).take(columns.max(1));
    let behind = |marks: &str, least: usize| {
        let found = fitting().enumerate().filter(|(_, (_, c))| marks.contains(*c)).last();
        found.filter(|(column, _)| column + 1 >= least).map(|(_, (at, c))| at + c.len_utf8())
    };
    let end = || fitting().last().map_or(word.len(), |(at, c)| at + c.len_utf8());
    behind("/", columns / 3).or_else(|| behind("-_.,;=@:", columns / 3)).unwrap_or_else(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_folded_at_spaces_and_hangs() {
        let line = format!("  note: {}", "word ".repeat(30).trim_end());
        let lines = hang(&line, 40);
        assert!(lines.len() > 3 && lines.iter().all(|line| width(line) <= 40), "{lines:#?}");
        assert!(lines[0].starts_with("  note: word") && lines[1].starts_with("    word"));
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(&lines.join(" ")), words(&line), "nothing is lost");
    }

    #[test]
    fn a_long_path_is_broken_behind_slashes_and_nothing_of_it_is_lost() {
        let path = format!(
            "/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice\
             /cri-containerd-{}.scope",
            "0123456789_".repeat(3),
            "f".repeat(64)
        );
        let lines = hang(&format!("warning: attached to {path}, too"), WIDTH);
        assert!(lines.iter().all(|line| width(line) <= WIDTH), "{lines:#?}");
        assert!(lines[0].ends_with('/'), "{lines:#?}");
        let whole: String = lines.iter().map(|line| line.trim()).collect();
        assert!(whole.contains(&path), "{whole}");
    }

    #[test]
    fn colours_take_no_room_and_are_not_broken() {
        let red = format!("\x1b[1;31m{}\x1b[0m", "x".repeat(80));
        assert_eq!(width(&red), 80);
        assert_eq!(folded(&red, WIDTH), red);
        let lines = hang(&format!("\x1b[1;31m{}\x1b[0m", "x".repeat(100)), WIDTH);
        assert_eq!(lines.iter().map(|line| width(line)).collect::<Vec<_>>(), [80, 22]);
        assert!(lines[1].ends_with("x\x1b[0m"), "{lines:?}");
    }

    #[test]
    fn a_word_of_megabytes_is_folded_in_time_that_grows_with_its_length() {
        let long = "x".repeat(4_000_000);
        let started = std::time::Instant::now();
        let lines = hang(&long, WIDTH);
        // Minutes, when each line looked at all that is left.
        assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
        assert!(lines.iter().all(|line| width(line) <= WIDTH));
        assert_eq!(lines.iter().map(|line| line.trim().len()).sum::<usize>(), long.len());
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        let text = format!("a\n\n{}\n  b  c\n", "x".repeat(80));
        assert_eq!(folded(&text, WIDTH), text);
        assert_eq!(folded("", WIDTH), "");
        let long = "word ".repeat(1000);
        assert_eq!(folded(&long, UNLIMITED), long, "no terminal is there");
        assert_eq!(hang("ä".repeat(30).as_str(), 10).len(), 4, "characters, not bytes");
    }
}
