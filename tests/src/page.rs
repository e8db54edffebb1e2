//! The commands of a page of the documentation, to be run as they are printed.
//!
//! A block of `sh` is one script. In a block of `console`, or one that is indented and
//! begins with `$ `, each command stands behind a `$ `, and what it says below it; a line
//! of `...` stands for any lines.

/// A command and what the page says that it answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Where it stands: the line of the page, from 1.
    pub line: usize,
    /// For a shell.
    pub command: String,
    /// What it prints; nothing where the page shows nothing.
    pub answer: Vec<String>,
}

/// The steps of the part of a page below that heading, `## A quick tour`, up to the next
/// one of its level or above.
///
/// # Panics
///
/// When there is no such heading.
pub fn steps(page: &str, heading: &str) -> Vec<Step> {
    let level = |line: &str| line.chars().take_while(|char| *char == '#').count();
    let mut lines = page.lines().enumerate().skip_while(|(_, line)| *line != heading);
    assert!(lines.next().is_some(), "the page has no heading `{heading}`");
    let mut steps: Vec<Step> = Vec::new();
    let mut block: Option<&str> = None;
    // Whether the script of this block has a line; whether the last one was in a block of
    // the indented kind.
    let (mut begun, mut indented) = (false, false);
    for (index, line) in lines {
        if let Some(kind) = block {
            match line {
                "```" => block = None,
                _ if kind == "sh" => match steps.last_mut() {
                    Some(step) if begun => step.command = format!("{}\n{line}", step.command),
                    _ => {
                        steps.push(Step::new(index, line));
                        begun = true;
                    }
                },
                _ => take(&mut steps, index, line),
            }
            continue;
        }
        if let Some(kind) = line.strip_prefix("```") {
            block = Some(kind);
            (begun, indented) = (false, false);
        } else if (1..=level(heading)).contains(&level(line)) {
            break;
        } else if let Some(text) = line.strip_prefix("    ") {
            if !indented && !text.starts_with("$ ") {
                continue;
            }
            indented = true;
            take(&mut steps, index, text);
        } else if !line.is_empty() {
            indented = false;
        }
    }
    steps
}

/// A line of a block with commands and answers.
fn take(steps: &mut Vec<Step>, index: usize, line: &str) {
    match (line.strip_prefix("$ "), steps.last_mut()) {
        (Some(command), _) => steps.push(Step::new(index, command)),
        // A command that goes on.
        (None, Some(step)) if step.answer.is_empty() && step.command.ends_with('\\') => {
            step.command = format!("{}\n{line}", step.command);
        }
        (None, Some(step)) => step.answer.push(line.to_owned()),
        (None, None) => {}
    }
}

impl Step {
    fn new(index: usize, command: &str) -> Self {
        Self { line: index + 1, command: command.to_owned(), answer: Vec::new() }
    }

    /// What of the printed answer was not given, if anything.
    ///
    /// # Errors
    ///
    /// The first line that is another, or is missing.
    pub fn compare(&self, given: &str) -> Result<(), String> {
        let given: Vec<&str> = given.lines().map(str::trim_end).collect();
        let printed: Vec<&str> = self.answer.iter().map(|line| line.trim_end()).collect();
        let printed = printed.strip_suffix(&[""]).unwrap_or(&printed);
        if printed.is_empty() || matches(printed, &given) {
            return Ok(());
        }
        Err(format!(
            "line {}: `{}` answers\n{}\nand the page says\n{}",
            self.line,
            self.command,
            given.join("\n"),
            printed.join("\n")
        ))
    }
}

fn matches(printed: &[&str], given: &[&str]) -> bool {
    match printed.split_first() {
        None => given.is_empty(),
        Some((&"...", rest)) => (0..=given.len()).any(|skip| matches(rest, &given[skip..])),
        Some((line, rest)) => {
            given.split_first().is_some_and(|(first, more)| first == line && matches(rest, more))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Page\n\n## Before\n\n    $ not this\n\n## Tour\n\nText:\n\n\
        ```sh\nfirst\nsecond\n```\n\n    $ shown --long \\\n        --more\n    a\n    ...\n    z\n\n\
        ### Deeper\n\n    a picture\n\n```console\n$ one\n$ two\nanswer\n```\n\n\
        ## After\n\n```sh\nnot this\n```\n";

    #[test]
    fn scripts_and_commands_with_their_answers_are_found() {
        let found: Vec<_> = steps(PAGE, "## Tour")
            .into_iter()
            .map(|step| (step.line, step.command, step.answer.join("|")))
            .collect();
        let step = |line: usize, command: &str, answer: &str| {
            (line, command.to_owned(), answer.to_owned())
        };
        assert_eq!(
            found,
            [
                step(12, "first\nsecond", ""),
                step(16, "shown --long \\\n    --more", "a|...|z"),
                step(27, "one", ""),
                step(28, "two", "answer"),
            ]
        );
    }

    #[test]
    fn an_answer_is_compared_line_by_line_and_dots_stand_for_any() {
        let step = Step {
            line: 1,
            command: "c".into(),
            answer: ["a", "...", "z"].map(str::to_owned).into(),
        };
        assert!(step.compare("a\nb\nc\nz\n").is_ok());
        assert!(step.compare("a\nz").is_ok());
        assert!(step.compare("a\nb\n").unwrap_err().contains("line 1: `c`"));
        assert!(step.compare("b\nz\n").is_err());
    }
}
