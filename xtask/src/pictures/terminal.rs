//! What a terminal shows while the first rule of docs/install.md is tried: the commands
//! that the tests have typed, and what was answered.

use std::fmt::Write as _;

use super::escaped;

/// Characters and lines that the screen has.
const SCREEN: [usize; 2] = [92, 26];
/// What a line and a character take, in pixels.
const LINE: f64 = 18.0;
const CHARACTER: f64 = 7.83;
const MARGIN: f64 = 14.0;
/// Lines of an answer that are shown; what follows is left out.
const ANSWER: usize = 13;
/// Seconds that a command is there before its answer, and an answer before what follows.
const PAUSES: [f64; 2] = [0.7, 1.9];

/// A line, whether it is typed, and when it is there.
struct Line {
    text: String,
    typed: bool,
    at: f64,
}

/// The picture.
pub fn draw(steps: &[(String, String)]) -> String {
    let lines = lines(steps);
    let end = lines.last().map_or(0.0, |line| line.at) + PAUSES[1];
    let [width, height] =
        [SCREEN[0] as f64 * CHARACTER + 2.0 * MARGIN, SCREEN[1] as f64 * LINE + 2.0 * MARGIN];
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"ui-monospace, 'DejaVu Sans Mono', monospace\" font-size=\"13\">\n\
         <style>\n\
         text {{ fill: #c9d1d9; white-space: pre; animation: shown 0.01s backwards; }}\n\
         .typed {{ fill: #7ee787; }}\n\
         #all {{ animation: scrolled {end:.1}s step-end forwards; }}\n\
         @keyframes shown {{ from {{ opacity: 0; }} }}\n\
         @keyframes scrolled {{\n"
    );
    for (index, line) in lines.iter().enumerate() {
        // Many lines are there at once: the last of them says how far it scrolls.
        let is_last = lines.get(index + 1).is_none_or(|next| next.at > line.at);
        let over = (index + 1).saturating_sub(SCREEN[1]);
        if is_last && over > 0 {
            let _ = writeln!(
                svg,
                "{:.2}% {{ transform: translateY(-{:.0}px); }}",
                100.0 * line.at / end,
                over as f64 * LINE
            );
        }
    }
    let over = lines.len().saturating_sub(SCREEN[1]) as f64 * LINE;
    let _ = writeln!(
        svg,
        "100% {{ transform: translateY(-{over:.0}px); }}\n}}\n</style>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#0d1117\"/>\n\
         <svg y=\"{MARGIN}\" width=\"{width:.0}\" height=\"{}\"><g id=\"all\" \
         xml:space=\"preserve\">",
        SCREEN[1] as f64 * LINE
    );
    for (index, line) in lines.iter().enumerate() {
        let _ = writeln!(
            svg,
            "<text x=\"{MARGIN}\" y=\"{:.0}\"{} style=\"animation-delay: {:.1}s\">{}</text>",
            (index + 1) as f64 * LINE - 5.0,
            if line.typed { " class=\"typed\"" } else { "" },
            line.at,
            escaped(&line.text)
        );
    }
    svg += "</g></svg>\n</svg>\n";
    svg
}

/// All lines of the commands that are worth seeing.
fn lines(steps: &[(String, String)]) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut at = 0.5;
    let steps = steps.iter().filter(|(command, answer)| is_shown(command, answer));
    for (command, answer) in steps {
        let mut put = |text: &str, typed: bool, at: f64| {
            let text = text.chars().take(SCREEN[0]).collect();
            lines.push(Line { text, typed, at });
        };
        let mut prompt = "# ";
        for line in shortened(command.lines().collect(), 2) {
            put(&format!("{prompt}{line}"), true, at);
            prompt = "> ";
        }
        at += PAUSES[0];
        for line in shortened(answer.lines().collect(), ANSWER) {
            put(line, false, at);
        }
        put("", false, at);
        at += PAUSES[1];
    }
    lines
}

/// The rule, the question, the start, and what is seen then.
fn is_shown(command: &str, answer: &str) -> bool {
    let seen = ["cat >", "systemctl enable", "redirector "];
    seen.iter().any(|begins| command.starts_with(begins))
        && !command.contains("--from-namespace")
        && !answer.starts_with("error: ")
}

/// The first of them, and a sign where there are more.
fn shortened(mut lines: Vec<&str>, most: usize) -> Vec<&str> {
    if lines.len() > most {
        lines.truncate(most);
        lines.push("...");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_stands_before_its_answer_and_markup_in_it_is_text() {
        let steps = [("redirector status".to_owned(), "a < b\n".repeat(20))];
        let lines = lines(&steps);
        assert_eq!((lines[0].text.as_str(), lines[0].typed), ("# redirector status", true));
        assert!(lines[0].at < lines[1].at && lines[1].at == lines[2].at);
        assert_eq!(lines.len(), 1 + ANSWER + 1 + 1, "the rest is left out");
        let svg = draw(&steps);
        assert!(svg.contains("a &lt; b") && !svg.contains("a < b"));
    }
}
