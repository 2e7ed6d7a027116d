//! A text laid out as lines, each with what it is.

use std::collections::HashMap;

use super::lines::lines;
use super::passages::Strike;
use super::regions::{Kind, Regions};
use super::work::reads;

/// A line of a [`Page`].
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) text: &'a str,
    pub(super) end: &'a str,
    /// The byte it begins at.
    pub(super) start: usize,
    pub(super) kind: Kind,
    /// Whether it belongs to a [`Block`].
    pub(super) tagged: bool,
}

/// What stands between a line that begins with an opening tag and the line that ends with its closing tag, both with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    /// The first line.
    pub(super) open: usize,
    /// The last line.
    pub(super) close: usize,
    /// The first line of the innermost element around it.
    pub(super) parent: Option<usize>,
    /// How many elements stand around it.
    pub(super) depth: usize,
}

#[derive(Debug)]
pub(super) struct Page<'a> {
    pub(super) text: &'a str,
    pub(super) lines: Vec<Line<'a>>,
    /// In the order they begin.
    pub(super) blocks: Vec<Block>,
}

impl<'a> Page<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let mut regions = Regions::default();
        let mut start = 0;
        let laid = lines(text).map(|(text, end)| {
            let line = Line { text, end, start, kind: regions.kind(text), tagged: false };
            start += text.len() + end.len();
            line
        });
        let mut lines: Vec<_> = laid.collect();
        join_code(&mut lines);
        let blocks = if text.contains("</") { blocks(&lines) } else { Vec::new() };
        let mut tagged_to = None;
        let mut next = blocks.iter().peekable();
        for (at, line) in lines.iter_mut().enumerate() {
            if let Some(block) = next.next_if(|block| block.open == at) {
                tagged_to = tagged_to.max(Some(block.close));
            }
            line.tagged = Some(at) <= tagged_to;
        }
        Self { text, lines, blocks }
    }

    /// The text of these lines, without the end of the last one.
    pub(super) fn slice(&self, from: usize, to: usize) -> &'a str {
        let start = self.lines.get(from).map_or(0, |line| line.start);
        let end = self.lines.get(to).map_or(start, |line| line.start + line.text.len());
        let slice = self.text.get(start..end).unwrap_or_default();
        reads(slice.len());
        slice
    }

    /// The text of the lines that this keeps.
    pub(super) fn retain(&self, mut keep: impl FnMut(usize) -> bool) -> String {
        let mut out = String::with_capacity(self.text.len());
        for (_, line) in self.lines.iter().enumerate().filter(|(at, _)| keep(*at)) {
            out.push_str(line.text);
            out.push_str(line.end);
        }
        out
    }

    /// The text without these lines, which are given in order.
    pub(super) fn without(&self, strikes: &[Strike]) -> String {
        let mut rest = strikes.iter().peekable();
        self.retain(|at| {
            while rest.next_if(|strike| strike.to < at).is_some() {}
            rest.peek().is_none_or(|strike| at < strike.from)
        })
    }
}

/// Blank lines between two lines of indented code are code.
fn join_code(lines: &mut [Line<'_>]) {
    let mut code = None;
    for at in 0..lines.len() {
        match lines[at].kind {
            Kind::Blank => {}
            Kind::Code => {
                let from = code.replace(at).map_or(at, |before| before + 1);
                lines[from..at].iter_mut().for_each(|line| line.kind = Kind::Code);
            }
            _ => code = None,
        }
    }
}

fn blocks(lines: &[Line<'_>]) -> Vec<Block> {
    let mut found = Vec::new();
    let mut stack: Vec<(&str, usize)> = Vec::new();
    let mut open_by_name: HashMap<&str, usize> = HashMap::new();
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.kind == Kind::Prose) {
        let (opened, closed) = (opening(line.text), closing(line.text));
        if let Some(name) = opened {
            stack.push((name, at));
            *open_by_name.entry(name).or_default() += 1;
        }
        let Some(name) = closed.filter(|name| open_by_name.get(name).is_some_and(|open| *open > 0)) else { continue };
        // What was opened in between and not closed is no element.
        while let Some((inner, open)) = stack.pop() {
            if let Some(count) = open_by_name.get_mut(inner) {
                *count -= 1;
            }
            if inner == name {
                let parent = stack.last().map(|(_, line)| *line);
                found.push(Block { open, close: at, parent, depth: stack.len() });
                break;
            }
        }
    }
    found.sort_unstable_by_key(|block| block.open);
    found
}

/// The name of the element whose tag opens at the start of a line.
pub(super) fn opening(line: &str) -> Option<&str> {
    let tag = line.trim_start_matches([' ', '\t']).strip_prefix('<')?;
    let (name, rest) = tag.split_at(tag.find(|c: char| !is_name(c)).unwrap_or(tag.len()));
    let (attributes, _) = rest.split_once('>')?;
    let named = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
    let whole = attributes.is_empty() || attributes.starts_with([' ', '\t']);
    (named && whole && !attributes.ends_with('/')).then_some(name)
}

/// The name of the element whose tag closes at the end of a line.
pub(super) fn closing(line: &str) -> Option<&str> {
    let tag = line.trim_end_matches([' ', '\t']).strip_suffix('>')?;
    let (_, name) = tag.rsplit_once("</")?;
    (!name.is_empty() && name.chars().all(is_name)).then_some(name)
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':')
}
